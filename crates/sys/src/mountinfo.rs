//! The mount table of a process (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// File systems that hold no files of a server but the kernel's own data, or another machine's
/// state (filesystems(5)).
const PSEUDO: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "resctrl",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
];

/// File systems that a user serves by a process of his own: they may answer anything, or not at all.
const SERVED_BY_USERS: &str = "fuse";

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Its number (STATX_MNT_ID).
    pub id: u64,
    /// The number of the mount that it is mounted on.
    pub parent: u64,
    /// The file system's device number, `MAJOR:MINOR`.
    pub device: String,
    /// Which directory or file of the file system is at its root.
    pub root: PathBuf,
    /// Where it is mounted, as the process sees it.
    pub place: PathBuf,
    /// The kind of file system.
    pub kind: String,
    /// The options of the file system.
    pub options: String,
}

/// The mounts of a table, in its order: one that covers another comes after it. Lines that are not
/// to be understood are left out.
pub fn mounts(table: &[u8]) -> impl Iterator<Item = Mounted> {
    table.split(|&byte| byte == b'\n').filter_map(mounted)
}

fn mounted(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mut text = |skipped| Some(String::from_utf8_lossy(fields.nth(skipped)?).into_owned());
    let id = text(0)?.parse().ok()?;
    let parent = text(0)?.parse().ok()?;
    let device = text(0)?;
    let (root, place) = (path(fields.next()?), path(fields.next()?));
    // Optional fields end with a lone hyphen.
    fields.find(|field| *field == b"-")?;
    let mut text = |skipped| Some(String::from_utf8_lossy(fields.nth(skipped)?).into_owned());
    Some(Mounted { id, parent, device, root, place, kind: text(0)?, options: text(1)? })
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescaped(field)).into()
}

/// Undoes the table's escapes: `\040` is a space.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        text.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &rest[4..] } else { after };
    }
    text
}

/// Whether file systems of this kind hold no files but the kernel's own data.
pub fn is_pseudo(kind: &str) -> bool {
    PSEUDO.contains(&kind)
}

/// Why what is on a file system of this kind is not to be shown as files; `None` where it is.
pub fn refused(kind: &str) -> Option<&'static str> {
    if is_pseudo(kind) {
        Some("it holds the kernel's data, not files")
    } else if kind.starts_with(SERVED_BY_USERS) {
        Some("a process of a user serves it")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whole_and_what_is_none_is_left_out() {
        let table = b"29 27 254:1 /a\\040b /srv/my\\012data\\134 rw shared:1 master:2 - xfs /dev/vdb rw,x\n\
                      not a line\n\
                      30 27 0:7 / /run rw - tmpfs - - rw\n";
        let found: Vec<_> = mounts(table).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].id, found[0].parent), (29, 27));
        assert_eq!(found[0].device, "254:1");
        assert_eq!(found[0].root, PathBuf::from("/a b"));
        assert_eq!(found[0].place, PathBuf::from("/srv/my\ndata\\"));
        assert_eq!((found[0].kind.as_str(), found[0].options.as_str()), ("xfs", "rw,x"));
        assert_eq!(found[1].kind, "tmpfs");
    }

    #[test]
    fn what_holds_no_files_or_is_served_by_users_is_refused() {
        assert!(refused("proc").is_some() && refused("fuse.sshfs").is_some());
        assert!(refused("ext4").is_none() && refused("overlay").is_none());
    }
}
