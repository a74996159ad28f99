//! Users of a server: its user namespace's map, and the names that it has for them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, openat};

use super::schema::Id;

/// The most that is read of a file with names, in bytes.
const LARGEST: u64 = 1 << 20;
/// The most names that are kept.
const MOST: usize = 16 << 10;
/// The longest name that is kept, in bytes.
const LONGEST: usize = 64;

/// Which ids of the host are which in a user namespace (user_namespaces(7)).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Map(Vec<[u32; 3]>);

impl Map {
    /// Reads a `uid_map` or `gid_map`, as read from the initial user namespace.
    pub(super) fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut words = line.split_ascii_whitespace().map(|word| word.parse().ok());
            Some([words.next()??, words.next()??, words.next()??])
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// What the host's `id` is inside.
    fn inside(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|[inside, outside, count]| {
            let offset = id.checked_sub(*outside).filter(|offset| offset < count)?;
            inside.checked_add(offset)
        })
    }
}

/// The users, or the groups, of a server.
#[derive(Debug, Default)]
pub(super) struct Names {
    map: Map,
    names: HashMap<u32, String>,
    /// Of which file: device, inode, time of change.
    file: Option<(u64, u64, i64, u64)>,
}

impl Names {
    /// The id that the host calls `host`.
    pub(super) fn id(&self, host: u32) -> Id {
        let server = self.map.inside(host);
        Id { host, server, name: server.and_then(|id| self.names.get(&id).cloned()) }
    }

    /// Takes a map, and the names in `etc/FILE` below the server's root.
    pub(super) fn refresh(&mut self, map: Map, root: Option<&OwnedFd>, file: &str) {
        self.map = map;
        let opened = root.and_then(|root| plain_file(root, file).ok());
        let found = opened.as_ref().and_then(|file| rustix::fs::fstat(file).ok());
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
        let file = found.map(|f| (f.st_dev, f.st_ino, f.st_ctime as i64, f.st_ctime_nsec as u64));
        if file == self.file {
            return;
        }
        self.file = file;
        let text = opened.map(read).unwrap_or_default();
        self.names = parse(&text);
    }
}

/// Opens `etc/NAME` below `root` where no link is on the way and it is a plain file: opening others
/// can do anything.
fn plain_file(root: &OwnedFd, name: &str) -> io::Result<File> {
    let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let etc = openat(root, "etc", look | OFlags::DIRECTORY, Mode::empty())?;
    let found = openat(&etc, name, look, Mode::empty())?;
    if !FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // This very file, whatever has the name by now.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let through = format!("/self/fd/{}", found.as_fd().as_raw_fd());
    Ok(openat(rustix::fs::CWD, through, flags, Mode::empty())?.into())
}

fn read(file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = file.take(LARGEST).read_to_end(&mut bytes);
    bytes
}

/// The first name of each id in a file like passwd(5) or group(5).
fn parse(text: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.split(|byte| *byte == b'\n').take(MOST) {
        let mut fields = line.split(|byte| *byte == b':');
        let (Some(name), Some(id)) = (fields.next(), fields.nth(1)) else { continue };
        let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
        let is_plain =
            !name.is_empty() && name.len() <= LONGEST && name.iter().all(u8::is_ascii_graphic);
        if let Some(id) = id.filter(|_| is_plain) {
            names.entry(id).or_insert_with(|| String::from_utf8_lossy(name).into_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_the_host_are_found_inside() {
        let map = Map::parse("         0     100000      65536\n    70000   70000  1\n");
        assert_eq!(map.inside(100_033), Some(33));
        assert_eq!(map.inside(70_000), Some(70_000));
        assert_eq!((map.inside(0), map.inside(165_536), map.inside(99_999)), (None, None, None));
        assert_eq!(Map::parse("0 0 4294967295\n").inside(33), Some(33));
        assert_eq!(Map::parse("nonsense\n1 2\n").inside(0), None);
    }

    #[test]
    fn a_file_of_names_may_hold_anything() {
        let text =
            b"root:x:0:0::/:\nevil\x1b:x:1:\n:x:2:\nwww-data:x:33:33\nagain:x:33:\nx:y:-1\n\xff";
        let names = parse(text);
        assert_eq!(names.len(), 2);
        assert_eq!((names[&0].as_str(), names[&33].as_str()), ("root", "www-data"));
        let long = format!("{}:x:5:\n", "a".repeat(65));
        assert!(parse(long.as_bytes()).is_empty());
    }
}
