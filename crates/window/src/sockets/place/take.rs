//! Taking a descriptor of a socket that somebody else has open.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_sys::pidfd;
use rustix::fs::fstat;

use super::diag;

/// How long a socket is looked for among the descriptors of a server.
const PATIENCE: Duration = Duration::from_millis(200);

/// A process that may have the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// It is not of the user who has made the socket.
    is_other: bool,
    /// How many descriptors it has, about.
    descriptors: u64,
    pid: u32,
}

/// A descriptor of ours for the socket `number`, which one of `processes` has open. No call says which
/// one that is, and anybody may have as many descriptors open as he likes, so that looking is
/// bounded by [`PATIENCE`]: first among the processes of the user who has made the socket, and of those
/// first where there is least to look at.
///
/// # Errors
/// `NotFound` where none of them has, `TimedOut` where they have too many.
pub fn take(processes: impl IntoIterator<Item = u32>, number: u32) -> io::Result<OwnedFd> {
    let end = Instant::now() + PATIENCE;
    // Asked in our network; of what is in another, nobody tells the user.
    let user = diag::of(number).ok().and_then(|told| told.user);
    let mut all: Vec<Candidate> =
        processes.into_iter().filter_map(|pid| candidate(pid, user)).collect();
    all.sort_unstable();
    let wanted = PathBuf::from(format!("socket:[{number}]"));
    for Candidate { pid, .. } in all {
        let found = find(pid, &wanted, end);
        if Instant::now() >= end {
            let text = "the server has so many descriptors open that it was not found in time";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        let Some(fd) = found else { continue };
        let process = pidfd::open_process(pid)?;
        let socket = pidfd::duplicate(process.as_fd(), fd)?;
        // Asked of what was taken: the number may have come to mean another.
        if fstat(&socket)?.st_ino == u64::from(number) {
            return Ok(socket);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "no process of the server has its socket open"))
}

/// What is known of a process, unless it has ended.
fn candidate(pid: u32, user: Option<u32>) -> Option<Candidate> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let mut users = line("Uid:")?.split_whitespace();
    let is_other = user.is_some_and(|user| !users.any(|own| own.parse() == Ok(user)));
    // The directory's size is their number since Linux 6.2, and 0 before.
    let counted = fs::metadata(format!("/proc/{pid}/fd")).ok()?.len();
    let room = || line("FDSize:")?.trim().parse().ok();
    let descriptors = if counted > 0 { counted } else { room().unwrap_or(u64::MAX) };
    Some(Candidate { is_other, descriptors, pid })
}

/// The descriptor of a process that leads to `wanted`.
fn find(pid: u32, wanted: &Path, end: Instant) -> Option<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let is_it = |entry: &fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|to| to == wanted);
    let mut due = entries.flatten().take_while(|_| Instant::now() < end);
    due.find(is_it)?.file_name().to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixDatagram;
    use std::process::{Child, Command, Stdio};

    /// A process with as many descriptors as it may have, and told to go on so.
    fn crowd() -> Child {
        let python = "import os, resource, sys\n\
                      most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n\
                      resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))\n\
                      try:\n    while True: os.dup(0)\n\
                      except OSError: print('full', flush=True)\n\
                      sys.stdin.read()";
        let mut command = Command::new("python3");
        let mut child = command
            .args(["-c", python])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "full\n");
        child
    }

    #[test]
    fn a_crowd_of_descriptors_hides_nothing() {
        let home = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(home.path().join("log")).unwrap();
        let number = u32::try_from(fstat(&socket).unwrap().st_ino).unwrap();
        let mut crowd: Vec<Child> = (0..8).map(|_| crowd()).collect();
        let all = crowd.iter().map(Child::id).chain([std::process::id()]);
        let taken = take(all, number).map(|taken| fstat(&taken).unwrap().st_ino);
        for child in &mut crowd {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(taken.unwrap(), u64::from(number));
    }

    #[test]
    fn the_user_who_has_made_it_comes_first() {
        let one = |is_other, descriptors, pid| Candidate { is_other, descriptors, pid };
        let mut all = [one(true, 3, 1), one(false, 90, 2), one(false, 4, 3)];
        all.sort_unstable();
        assert_eq!(all.map(|one| one.pid), [3, 2, 1]);
        let own = candidate(std::process::id(), None).unwrap();
        assert!(!own.is_other && own.descriptors >= 3);
        assert!(candidate(std::process::id(), Some(4_000_000_000)).unwrap().is_other);
    }
}
