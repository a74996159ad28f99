//! The stream of a server's records, through restarts of its tracer.

use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_syscalls::filter::Request;
use hyperspector_syscalls::stream::{self, Reader};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long the tracer may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How often it is tried to reach a tracer that has gone.
const RETRY: Duration = Duration::from_millis(50);

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("look for servers in {0}: {1}; a portspace has it where its spec says watch.syscalls")]
    Servers(PathBuf, #[source] io::Error),
    #[error("{0} servers are watched: say which with --server: {names}", names = .1.join(", "))]
    Which(usize, Vec<String>),
    #[error("{0:?} is no server's name")]
    Name(String),
    #[error("no server's system calls are watched here")]
    None,
    #[error("connect to {path}: {error}{hint}")]
    Connect { path: PathBuf, error: io::Error, hint: String },
    #[error("ask the tracer: {0}")]
    Ask(#[source] io::Error),
    #[error(transparent)]
    Stream(#[from] stream::Error),
}

impl Failure {
    /// Whether trying again is of no use.
    fn is_final(&self) -> bool {
        use stream::Error::{Refused, Version};
        matches!(self, Self::Stream(Refused(_) | Version(..)))
    }
}

/// A server's records.
pub struct Source {
    path: PathBuf,
    request: Request,
    reader: Option<Reader<UnixStream>>,
    tried: Instant,
    /// When the last record was, in nanoseconds of CLOCK_MONOTONIC.
    seen: u64,
}

/// What has come.
pub enum News {
    /// The tracer is back, and has nothing of the time since then.
    Back { since: u64 },
    /// Perhaps records: take them with [`Source::record`].
    Others,
}

impl Source {
    /// Connects for the first time; later, where the server need not be there yet.
    pub fn new(
        sockets: &Path,
        server: Option<&str>,
        request: Request,
        is_patient: bool,
    ) -> Result<Self, Failure> {
        let path = find(sockets, server)?;
        let mut source = Self { path, request, reader: None, tried: Instant::now(), seen: 0 };
        match source.connect() {
            Ok(reader) => source.reader = Some(reader),
            Err(error) if !is_patient || error.is_final() => return Err(error),
            Err(_) => {}
        }
        Ok(source)
    }

    /// Waits for records, for so long at most. A signal ends the wait.
    pub fn wait(&mut self, patience: Duration) -> Result<News, Failure> {
        let Some(reader) = &mut self.reader else { return self.reconnect(patience) };
        if !is_ready(reader.source(), patience) {
            return Ok(News::Others);
        }
        let is_over = match reader.fill() {
            Ok(count) => count == 0,
            Err(stream::Error::Read(error)) => {
                !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
            }
            Err(error) => return Err(error.into()),
        };
        if is_over {
            self.reader = None;
        }
        Ok(News::Others)
    }

    /// The next record that has come, as bytes.
    pub fn record(&mut self) -> Result<Option<&[u8]>, Failure> {
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let bytes = reader.buffered()?;
        let time = bytes.and_then(|bytes| bytes.get(8..16)?.try_into().ok());
        self.seen = self.seen.max(time.map(u64::from_ne_bytes).unwrap_or_default());
        Ok(bytes)
    }

    fn connect(&self) -> Result<Reader<UnixStream>, Failure> {
        let mut socket = UnixStream::connect(&self.path).map_err(|error| Failure::Connect {
            path: self.path.clone(),
            error,
            hint: hint(&self.path),
        })?;
        socket.set_read_timeout(Some(ANSWER)).map_err(Failure::Ask)?;
        socket.set_write_timeout(Some(ANSWER)).map_err(Failure::Ask)?;
        socket.write_all(self.request.line().as_bytes()).map_err(Failure::Ask)?;
        Ok(Reader::new(socket)?)
    }

    fn reconnect(&mut self, patience: Duration) -> Result<News, Failure> {
        let wait = RETRY.saturating_sub(self.tried.elapsed());
        std::thread::sleep(wait.min(patience));
        if wait > patience {
            return Ok(News::Others);
        }
        self.tried = Instant::now();
        match self.connect() {
            Ok(reader) => {
                self.reader = Some(reader);
                // Before the first record there is nothing to miss.
                Ok(if self.seen == 0 { News::Others } else { News::Back { since: self.seen } })
            }
            Err(error) if error.is_final() => Err(error),
            Err(_) => Ok(News::Others),
        }
    }
}

fn is_ready(socket: &UnixStream, patience: Duration) -> bool {
    let patience = Timespec::try_from(patience).ok();
    let mut sockets = [PollFd::new(socket, PollFlags::IN)];
    matches!(poll(&mut sockets, patience.as_ref()), Ok(1..))
}

fn find(sockets: &Path, server: Option<&str>) -> Result<PathBuf, Failure> {
    if let Some(name) = server {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(Failure::Name(name.to_owned()));
        }
        return Ok(sockets.join(name));
    }
    let mut names = names(sockets).map_err(|e| Failure::Servers(sockets.to_owned(), e))?;
    match names.len() {
        0 => Err(Failure::None),
        1 => Ok(sockets.join(names.remove(0))),
        count => Err(Failure::Which(count, names)),
    }
}

fn names(sockets: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(sockets)? {
        names.push(entry?.file_name().to_string_lossy().escape_default().to_string());
    }
    names.sort();
    Ok(names)
}

fn hint(path: &Path) -> String {
    if path.exists() {
        return "; is the agent running?".to_owned();
    }
    match path.parent().map(names) {
        Some(Ok(names)) if !names.is_empty() => format!("; watched are: {}", names.join(", ")),
        _ => String::new(),
    }
}
