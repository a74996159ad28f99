//! The process that starts the reader, takes what it says as bytes, and writes the file.
//!
//! Reading of a process may take for ever: its memory can be kept locked by what it does itself, and
//! a file can be one that nobody serves. So the reader says what it is at; where that takes too long
//! it is killed, and its successor leaves that process's memory alone. A reader that cannot even be
//! killed is left behind; there are only so many of those, and then one more that asks nobody but the
//! kernel, until some of them are gone.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::confine;
use super::reader::{Reader, Slow};
use super::sockets::Diag;
use super::{Config, FILE};

/// How long the reader may take for one process, or one piece of a file.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it may be silent between two rounds: a round is a twentieth of the time.
const REST: Duration = Duration::from_secs(120);
/// The pause before a reader that ended is started again.
const PAUSE: Duration = Duration::from_secs(1);
/// How many readers that cannot be killed there may be.
const MOST_STUCK: usize = 4;
/// How many processes are left alone; the oldest is tried again.
const MOST_SLOW: usize = 64;
/// The largest frame that is read, in bytes.
const LARGEST: usize = 17 << 20;

/// What the reader says.
pub(super) enum Frame {
    /// It is at this process, or at the server as a whole (0).
    Busy(u32),
    /// It rests.
    Idle,
    /// This is to be in the file.
    Document(Vec<u8>),
}

impl Frame {
    /// Sends it: a letter, a length or number, and the bytes.
    pub(super) fn send(&self, to: &mut UnixStream) -> io::Result<()> {
        let (letter, number, bytes): (u8, u32, &[u8]) = match self {
            Self::Busy(pid) => (b'b', *pid, &[]),
            Self::Idle => (b'i', 0, &[]),
            Self::Document(bytes) => (b'd', u32::try_from(bytes.len()).unwrap_or(u32::MAX), bytes),
        };
        let mut head = [letter, 0, 0, 0, 0];
        head[1..].copy_from_slice(&number.to_ne_bytes());
        to.write_all(&head)?;
        to.write_all(bytes)
    }

    fn receive(from: &mut UnixStream) -> io::Result<Self> {
        let mut head = [0; 5];
        from.read_exact(&mut head)?;
        let number = u32::from_ne_bytes([head[1], head[2], head[3], head[4]]);
        match head[0] {
            b'b' => Ok(Self::Busy(number)),
            b'i' => Ok(Self::Idle),
            b'd' if number as usize <= LARGEST => {
                let mut bytes = vec![0; number as usize];
                from.read_exact(&mut bytes)?;
                Ok(Self::Document(bytes))
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// A reader that runs.
struct Child {
    pid: Pid,
    stream: UnixStream,
}

/// Keeps a reader running, for ever.
pub(super) struct Driver {
    pub(super) config: Config,
    pub(super) diag: Option<Diag>,
    /// The directory that the file is in.
    pub(super) out: OwnedFd,
    /// Killed, and not gone yet.
    pub(super) stuck: Vec<Pid>,
    pub(super) slow: Vec<(u32, u64)>,
    /// Whether the server's names of users are left alone.
    pub(super) is_nameless: bool,
}

impl Driver {
    /// Never returns but with an error that nothing can be done about.
    pub(super) fn run(mut self) -> io::Error {
        loop {
            self.reap();
            let is_careful = self.stuck.len() == MOST_STUCK;
            if self.stuck.len() <= MOST_STUCK {
                let mut child = match self.start(is_careful) {
                    Ok(child) => child,
                    Err(error) => return error,
                };
                let at = self.listen(&mut child, is_careful);
                self.end(child, at);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Takes what the reader says until it is silent for too long, or ends, or is careful without need.
    /// Returns the process that it was at.
    fn listen(&mut self, child: &mut Child, is_careful: bool) -> Option<u32> {
        let (mut at, mut patience) = (None, PATIENCE);
        loop {
            let limited = child.stream.set_read_timeout(Some(patience));
            match limited.and_then(|()| Frame::receive(&mut child.stream)) {
                Ok(Frame::Busy(pid)) => (at, patience) = (Some(pid), PATIENCE),
                Ok(Frame::Idle) => {
                    (at, patience) = (None, REST);
                    if is_careful {
                        self.stuck.retain(|pid| !is_gone(*pid));
                        if self.stuck.len() < MOST_STUCK {
                            return None;
                        }
                    }
                }
                Ok(Frame::Document(bytes)) => {
                    (at, patience) = (None, PATIENCE);
                    if let Err(error) = write(&self.out, &bytes) {
                        eprintln!("facts of {}: write them: {error}", self.config.server);
                    }
                }
                Err(_) => return at,
            }
        }
    }

    /// Kills the reader, and remembers the process that it was at.
    fn end(&mut self, child: Child, at: Option<u32>) {
        let _ = kill_process(child.pid, Signal::KILL);
        self.stuck.push(child.pid);
        let Some(pid) = at else { return };
        if pid == 0 {
            eprintln!("facts of {}: its names of users could not be read", self.config.server);
            self.is_nameless = true;
            return;
        }
        // The procfs is the root directory.
        let stat = std::fs::read(format!("/{pid}/stat")).unwrap_or_default();
        let start = hyperspector_sys::pidfd::start_time_in(&String::from_utf8_lossy(&stat));
        if let Some(start) = start {
            eprintln!("facts of {}: process {pid} could not be read", self.config.server);
            self.slow.retain(|known| *known != (pid, start));
            self.slow.push((pid, start));
            let excess = self.slow.len().saturating_sub(MOST_SLOW);
            self.slow.drain(..excess);
        }
    }

    fn reap(&mut self) {
        let deadline = Instant::now() + Duration::from_millis(200);
        while !self.stuck.is_empty() {
            self.stuck.retain(|pid| !is_gone(*pid));
            if Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts a reader, which never returns from here.
    fn start(&mut self, is_careful: bool) -> io::Result<Child> {
        let (ours, theirs) = UnixStream::pair()?;
        let own = rustix::process::getpid();
        // SAFETY: this process has one thread, so the child is a whole copy.
        match unsafe { libc::fork() } {
            0 => {
                drop(ours);
                self.read(own, theirs, is_careful)
            }
            pid => match Pid::from_raw(pid).filter(|_| pid > 0) {
                Some(pid) => Ok(Child { pid, stream: ours }),
                None => Err(io::Error::last_os_error()),
            },
        }
    }

    /// In the child: becomes the reader.
    fn read(&mut self, parent: Pid, mut out: UnixStream, is_careful: bool) -> ! {
        let slow = Slow {
            processes: self.slow.iter().copied().collect(),
            all: is_careful,
            names: is_careful || self.is_nameless,
        };
        let confined = confine::reader(parent, &mut self.out);
        let mut reader = Reader::new(self.config.clone(), self.diag.take(), slow);
        let result = confined.and_then(|()| reader.run(&mut out));
        let is_over = result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        if let Err(error) = result.as_ref().map_err(|error| error.to_string())
            && !is_over
        {
            eprintln!("facts of {}: {error}", self.config.server);
        }
        // SAFETY: ends this process at once, without running anything of the parent's.
        unsafe { libc::_exit(1) }
    }
}

/// Whether a child has ended; it is forgotten then.
fn is_gone(pid: Pid) -> bool {
    !matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(None))
}

/// Puts `bytes` in the place of the file, at once.
pub(super) fn write(out: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    const NEW: &str = ".new";
    match unlinkat(out, NEW, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(openat(out, NEW, flags, Mode::from_raw_mode(0o444))?);
    file.write_all(bytes)?;
    Ok(renameat(out, NEW, out, FILE)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_and_nonsense_is_an_error() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        Frame::Busy(7).send(&mut a).unwrap();
        Frame::Document(b"{}".to_vec()).send(&mut a).unwrap();
        Frame::Idle.send(&mut a).unwrap();
        assert!(matches!(Frame::receive(&mut b), Ok(Frame::Busy(7))));
        assert!(matches!(Frame::receive(&mut b), Ok(Frame::Document(bytes)) if bytes == b"{}"));
        assert!(matches!(Frame::receive(&mut b), Ok(Frame::Idle)));
        a.write_all(b"d\xff\xff\xff\xff").unwrap();
        assert!(Frame::receive(&mut b).is_err());
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let home = tempfile::tempdir().unwrap();
        let out: OwnedFd = File::open(home.path()).unwrap().into();
        for text in ["one", "two"] {
            write(&out, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(home.path().join(FILE)).unwrap(), text);
        }
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
