//! Telling whether mounts have changed, by what the kernel says of them; none of the paths is looked
//! at.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyperspector_space::root::VIEWS;

use crate::process::ProcessId;
use crate::servers::{Present, Servers};

/// The longest mount table that is looked at, in bytes; what comes after may change unseen.
const LONGEST_TABLE: u64 = 4 << 20;
/// For each millisecond that reading a mount table took, how many pass before it is read again.
const READING_SHARE: u32 = 20;

/// What of a server its view depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Print {
    /// Which start of the server it is; `None` while it is down.
    generation: Option<u64>,
    /// Through which process it is seen.
    by: Option<ProcessId>,
    mounts: Option<PathBuf>,
    root: Option<PathBuf>,
    table: u64,
}

/// What servers were like when they were looked at last.
#[derive(Debug, Default)]
pub(crate) struct Prints(HashMap<String, (Print, Instant)>);

impl Prints {
    /// What the server `name` is like now, or was shortly ago where it is costly to know.
    pub(super) fn of(&mut self, name: &str, servers: &Servers) -> Print {
        let Some(present) = servers.present(name) else { return Print::default() };
        let start = Instant::now();
        if let Some((print, until)) = self.0.get(name)
            && print.generation == Some(present.generation)
            && print.by == present.seer()
            && *until > start
        {
            return print.clone();
        }
        let print = take(present);
        // All views of a server go by one look within a step.
        let rest = (start.elapsed() * READING_SHARE).max(Duration::from_millis(100));
        self.0.insert(name.to_owned(), (print.clone(), Instant::now() + rest));
        print
    }
}

impl Print {
    /// Whether it is the same start of the server, seen in the same way.
    pub(super) fn is_of_same(&self, other: &Self) -> bool {
        (self.generation, self.by) == (other.generation, other.by)
    }
}

fn take(present: &Present) -> Print {
    let generation = Some(present.generation);
    let Some(by) = present.seer() else { return Print { generation, ..Print::default() } };
    let pid = by.pid;
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}")).ok();
    let mut hasher = DefaultHasher::new();
    table(pid).hash(&mut hasher);
    Print {
        generation,
        by: Some(by),
        mounts: link("ns/mnt"),
        root: link("root"),
        table: hasher.finish(),
    }
}

fn table(pid: i32) -> Vec<u8> {
    let mut table = Vec::new();
    if let Ok(file) = File::open(format!("/proc/{pid}/mountinfo")) {
        let _ = file.take(LONGEST_TABLE).read_to_end(&mut table);
    }
    table
}

/// The mounts of a portspace.
pub(super) struct Tables(Vec<u8>);

/// Reads the mounts of the portspace whose init is `init`.
pub(super) fn of_views(init: i32) -> Tables {
    Tables(table(init))
}

impl Tables {
    /// A number for the mounts of the view of `server`.
    pub(super) fn of(&self, server: &str) -> u64 {
        let (at, below) = (format!(" /{VIEWS}/{server} "), format!(" /{VIEWS}/{server}/"));
        let mut hasher = DefaultHasher::new();
        let lines = self.0.split(|&byte| byte == b'\n');
        lines.filter(|line| holds(line, &at) || holds(line, &below)).for_each(|line| {
            line.hash(&mut hasher);
        });
        hasher.finish()
    }
}

fn holds(line: &[u8], text: &str) -> bool {
    line.windows(text.len()).any(|window| window == text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_s_mounts_are_its_own() {
        let one = "60 59 8:1 / /.serverfs/site ro - ext4 /dev/a rw\n";
        let inner = "61 60 8:2 / /.serverfs/site/srv ro - ext4 /dev/b rw\n";
        let other = "62 59 8:3 / /.serverfs/site2 ro - ext4 /dev/c rw\n";
        let of = |text: String| Tables(text.into_bytes()).of("site");
        assert_eq!(of(format!("{one}{inner}{other}")), of(format!("{one}{inner}")));
        assert_ne!(of(format!("{one}{inner}")), of(one.to_owned()));
    }
}
