//! One process, read from its directory in a procfs of the host.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxFlags, openat, readlinkat, statx};

use super::hash::Hashes;
use super::program::{DELETED, device, executable, named};
use super::schema::{DeletedFile, Pid, Process};
use super::sockets::Sockets;
use super::status::{Stat, Status, TICKS};
use super::text::text;
use super::users::Names;

/// The most of a command line that is read, in bytes.
const LONGEST_COMMAND: usize = 8 << 10;
/// The most of any other file of a process that is read, in bytes.
const LONGEST_FILE: usize = 64 << 10;
/// The most descriptors that are looked at.
const MOST_DESCRIPTORS: usize = 64 << 10;
/// The most sockets, and deleted files, that are listed.
const MOST_LISTED: usize = 512;
/// The most groups that are listed.
const MOST_GROUPS: usize = 64;
const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

/// What is the same for all processes of a server.
pub(super) struct Server<'a> {
    /// Which of a process's numbers is the one in the server's PID namespace.
    pub(super) level: usize,
    pub(super) users: &'a Names,
    pub(super) groups: &'a Names,
    pub(super) sockets: &'a Sockets,
    /// The server's network namespace.
    pub(super) network: Option<u64>,
    /// When the machine was started, in milliseconds since 1970.
    pub(super) boot_ms: u64,
}

/// The directory of a process, which never becomes another's.
pub(super) struct Directory {
    pub(super) fd: OwnedFd,
    pub(super) pid: u32,
}

impl Directory {
    /// The one of the process `pid`, where the procfs is the root directory.
    pub(super) fn open(pid: u32) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, format!("/{pid}"), flags, Mode::empty()).ok()?;
        Some(Self { fd, pid })
    }

    /// The first `most` bytes of a file.
    fn bytes(&self, name: &str, most: usize) -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = File::from(openat(&self.fd, name, flags, Mode::empty()).ok()?);
        let mut bytes = Vec::new();
        file.take(most as u64).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// A text of the kernel's.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let bytes = self.bytes(name, LONGEST_FILE)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn link(&self, name: &str) -> Option<Vec<u8>> {
        readlinkat(&self.fd, name, Vec::new()).ok().map(|link| link.into_bytes())
    }

    /// Opens the directory that a link leads to, to look up names in.
    pub(super) fn place(&self, name: &str) -> Option<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.fd, name, flags, Mode::empty()).ok()
    }

    /// The number of one of its namespaces.
    pub(super) fn namespace(&self, kind: &str) -> Option<u64> {
        let link = self.link(&format!("ns/{kind}"))?;
        let text = std::str::from_utf8(&link).ok()?;
        text.split_once(":[")?.1.strip_suffix(']')?.parse().ok()
    }

    /// What a link leads to, as far as is known without asking another machine or process.
    pub(super) fn look(&self, name: &str) -> Option<Statx> {
        let flags = AtFlags::STATX_DONT_SYNC;
        statx(&self.fd, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID).ok()
    }
}

/// Reads a process; `None` where it has ended. `alive` is called before whatever may take long.
pub(super) fn read(
    directory: &Directory,
    server: &Server<'_>,
    hashes: &mut Hashes,
    mut alive: impl FnMut(),
) -> Option<Process> {
    let mut process = without_memory(directory, server)?;
    if process.kernel || process.state == "zombie" {
        return Some(process);
    }
    alive();
    command_line(directory, &mut process);
    process.executable = executable(directory, hashes, &mut alive);
    alive();
    descriptors(directory, server, &mut process);
    Some(process)
}

/// Reads what never takes long, since the process has no part in it.
pub(super) fn without_memory(directory: &Directory, server: &Server<'_>) -> Option<Process> {
    let stat = Stat::parse(&directory.text("stat")?)?;
    let status = Status::of(directory)?;
    let mut process = Process {
        pid: Pid { host: directory.pid, server: status.pids().get(server.level).copied() },
        parent: Pid { host: status.parent(), server: None },
        state: stat.state,
        kernel: stat.is_kernel(),
        started_ticks: stat.start,
        started_ms: server.boot_ms.saturating_add(stat.start.saturating_mul(1000) / TICKS),
        user: status.ids("Uid", server.users),
        group: status.ids("Gid", server.groups),
        groups: status.numbers("Groups").into_iter().take(MOST_GROUPS).collect(),
        capabilities: status.capabilities(),
        no_new_privileges: status.field("NoNewPrivs") == Some("1"),
        seccomp: match status.field("Seccomp") {
            Some("2") => "filter",
            Some("1") => "strict",
            _ => "none",
        },
        tracer: status.numbers("TracerPid").first().copied().filter(|pid| *pid != 0),
        namespaces: namespaces(directory),
        ..Process::default()
    };
    let name = directory.bytes("comm", LONGEST_FILE)?;
    (process.name, process.name_hex) = text(name.strip_suffix(b"\n").unwrap_or(&name));
    let path = |name| directory.link(name).map(|link| text(&link));
    (process.directory, process.directory_hex) =
        path("cwd").map_or((None, None), |(t, h)| (Some(t), h));
    (process.root, process.root_hex) = path("root").map_or((None, None), |(t, h)| (Some(t), h));
    Some(process)
}

fn namespaces(directory: &Directory) -> BTreeMap<&'static str, u64> {
    let number = |kind: &'static str| Some((kind, directory.namespace(kind)?));
    NAMESPACES.into_iter().filter_map(number).collect()
}

fn command_line(directory: &Directory, process: &mut Process) {
    let Some(mut bytes) = directory.bytes("cmdline", LONGEST_COMMAND + 1) else { return };
    process.command_line_cut = bytes.len() > LONGEST_COMMAND;
    bytes.truncate(LONGEST_COMMAND);
    if bytes.is_empty() {
        return;
    }
    let arguments = bytes.strip_suffix(&[0]).unwrap_or(&bytes).split(|byte| *byte == 0);
    process.command_line = arguments.map(|argument| text(argument).0).collect();
    process.command_line_hex = text(&bytes).1;
}

/// Looks at all that the process has open, for sockets and deleted files.
fn descriptors(directory: &Directory, server: &Server<'_>, process: &mut Process) {
    let Some(listed) = list(directory) else {
        process.incomplete = Some("its descriptors cannot be listed");
        return;
    };
    let is_at_home = process.namespaces.get("net").copied() == server.network;
    let mut sockets: Vec<u64> = Vec::new();
    for (count, descriptor) in listed.enumerate() {
        if count >= MOST_DESCRIPTORS {
            process.incomplete = Some("it has too many descriptors");
            break;
        }
        let name = format!("fd/{descriptor}");
        let Some(link) = directory.link(&name) else { continue };
        if let Some(inode) = socket(&link) {
            sockets.push(inode);
        } else if link.ends_with(DELETED) {
            deleted(directory, descriptor, &name, &link, process);
        }
    }
    sockets.sort_unstable();
    sockets.dedup();
    for inode in sockets {
        match server.sockets.get(&inode).filter(|_| is_at_home) {
            None => process.sockets_other += 1,
            Some(_) if process.sockets.len() >= MOST_LISTED => process.sockets_left_out += 1,
            Some(socket) => process.sockets.push(socket.clone()),
        }
    }
    process.sockets.sort();
}

fn list(directory: &Directory) -> Option<impl Iterator<Item = u32> + use<>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(&directory.fd, "fd", flags, Mode::empty()).ok()?;
    let entries = rustix::fs::Dir::new(fd).ok()?;
    Some(entries.filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok()))
}

/// The inode in `socket:[INODE]`.
fn socket(link: &[u8]) -> Option<u64> {
    let inode = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(inode).ok()?.parse().ok()
}

fn deleted(directory: &Directory, descriptor: u32, name: &str, link: &[u8], process: &mut Process) {
    // A file may be called that.
    let Some(found) = directory.look(name).filter(|found| found.stx_nlink == 0) else { return };
    if process.deleted_files.len() >= MOST_LISTED {
        process.deleted_files_left_out += 1;
        return;
    }
    let (path, path_hex) = text(named(link));
    let (inode, size) = (found.stx_ino, found.stx_size);
    let file = DeletedFile { descriptor, path, path_hex, device: device(&found), inode, size };
    process.deleted_files.push(file);
}

/// The parent of a PID namespace (ioctl_ns(2)).
pub(super) fn parent_namespace(namespace: BorrowedFd<'_>) -> Option<OwnedFd> {
    use std::os::fd::{AsRawFd, FromRawFd};
    // SAFETY: NS_GET_PARENT takes no argument; on anything but a namespace it fails.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), libc::NS_GET_PARENT) };
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The PID namespace of a process, and those above it, by number.
pub(super) fn pid_namespaces(directory: &Directory) -> Vec<u64> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut next = openat(&directory.fd, "ns/pid", flags, Mode::empty()).ok();
    let mut all = Vec::new();
    while let Some(namespace) = next {
        all.extend(rustix::fs::fstat(&namespace).map(|found| found.st_ino));
        next = parent_namespace(namespace.as_fd());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_told_apart() {
        assert_eq!(socket(b"socket:[123]"), Some(123));
        assert_eq!(socket(b"/tmp/socket:[123]"), None);
    }
}
