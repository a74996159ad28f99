//! The program that a process executes.

use std::fs::File;

use rustix::fs::{Mode, OFlags, Statx, StatxTimestamp, openat};

use super::hash::{Content, Hashes};
use super::process::Directory;
use super::schema::Executable;
use super::text::text;

/// What the kernel puts after the path of a file without a name.
pub(super) const DELETED: &[u8] = b" (deleted)";

/// The program of a process, with its hash. `alive` is called now and then.
pub(super) fn executable(
    directory: &Directory,
    hashes: &mut Hashes,
    alive: &mut impl FnMut(),
) -> Option<Executable> {
    let (link, found) = (directory.link("exe")?, directory.look("exe")?);
    let deleted = found.stx_nlink == 0;
    let (path, path_hex) = text(if deleted { named(&link) } else { &link });
    let device = device(&found);
    let time = |time: StatxTimestamp| (time.tv_sec, time.tv_nsec);
    let content = Content {
        device: (found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        size: found.stx_size,
        modified: time(found.stx_mtime),
        changed: time(found.stx_ctime),
    };
    let hash = hashes.of(content, || open(directory, found.stx_mnt_id), alive);
    Some(Executable {
        path,
        path_hex,
        deleted,
        inode: found.stx_ino,
        size: found.stx_size,
        mode: format!("{:o}", found.stx_mode & 0o7777),
        sha256_missing: hash.as_ref().err().cloned(),
        sha256: hash.ok(),
        device,
    })
}

/// Opens a process's program, unless another process or machine would have to answer for it, which
/// may take for ever.
fn open(directory: &Directory, mount: u64) -> Result<File, String> {
    let table = directory.text("mountinfo").unwrap_or_default();
    let kind = kind_of(&table, mount).map(str::to_owned).or_else(|| kind_by_number(directory));
    if let Some(kind) = kind.filter(|kind| SERVED.iter().any(|served| kind.starts_with(served))) {
        return Err(format!("its file system is {kind}"));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(&directory.fd, "exe", flags, Mode::empty())
        .map(File::from)
        .map_err(|error| hyperspector_sys::errno::text(&error.into()))
}

/// Kinds of file systems that a process, or another machine, serves.
const SERVED: [&str; 7] = ["fuse", "nfs", "cifs", "smb", "9p", "ceph", "afs"];

/// The kind of the file system of a mount that the process sees (proc_pid_mountinfo(5)).
fn kind_of(table: &str, mount: u64) -> Option<&str> {
    let is_it = |line: &&str| line.split(' ').next().and_then(|id| id.parse().ok()) == Some(mount);
    table.lines().find(is_it)?.split_once(" - ")?.1.split(' ').next()
}

/// The same for a program that the process has from elsewhere, by the number that statfs(2) gives.
fn kind_by_number(directory: &Directory) -> Option<String> {
    const NUMBERS: [(u32, &str); 6] = [
        (0x6573_5546, "fuse"),
        (0x6969, "nfs"),
        (0xff53_4d42, "cifs"),
        (0xfe53_4d42, "smb"),
        (0x0102_1997, "9p"),
        (0x00c3_6400, "ceph"),
    ];
    let exe = openat(&directory.fd, "exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let number = u32::try_from(rustix::fs::fstatfs(&exe).ok()?.f_type & 0xffff_ffff).ok()?;
    NUMBERS.iter().find(|(known, _)| *known == number).map(|(_, kind)| (*kind).to_owned())
}

/// The file system of a file: `MAJOR:MINOR`.
pub(super) fn device(found: &Statx) -> String {
    format!("{}:{}", found.stx_dev_major, found.stx_dev_minor)
}

/// The path of a file without a name, as it was.
pub(super) fn named(link: &[u8]) -> &[u8] {
    link.strip_suffix(DELETED).unwrap_or(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_mount_is_found() {
        let table = "22 27 0:21 / /proc rw - proc proc rw\n30 27 0:4 / /a rw - fuse.sshfs x rw\n";
        assert_eq!(kind_of(table, 30), Some("fuse.sshfs"));
        assert_eq!(kind_of(table, 22), Some("proc"));
        assert_eq!(kind_of(table, 2), None);
    }

    #[test]
    fn only_the_last_ending_is_the_kernel_s() {
        assert_eq!(named(b"/tmp/x (deleted) (deleted)"), b"/tmp/x (deleted)");
    }
}
