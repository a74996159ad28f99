//! A reader of a server's system calls, as any program in a portspace can be one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use hyperspector_syscalls::decode::{Decoder, Event};
use hyperspector_syscalls::filter::{Filter, Request};
use hyperspector_syscalls::record::{Part, Record, read};
use hyperspector_syscalls::stream::{Error, Reader};

use crate::fleet::TestHost;
use crate::wait::patience;

/// Connects to the socket of `server` that the portspace `alpha/PORTSPACE` has.
pub fn connect(host: &TestHost, portspace: &str, server: &str) -> std::io::Result<UnixStream> {
    let path = host.run_dir().join("trace").join(format!("alpha.{portspace}")).join(server);
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(patience(Duration::from_secs(5))))?;
    Ok(stream)
}

/// A reader in a portspace, as far as the tracer can tell.
pub struct Trace {
    reader: Reader<UnixStream>,
    decoder: Decoder,
}

/// What a reader has read.
#[derive(Default)]
pub struct Seen {
    /// How often each path was opened.
    pub opened: BTreeMap<String, u64>,
    /// By which processes.
    pub pids: BTreeSet<u32>,
    /// By which users.
    pub uids: BTreeSet<u32>,
    /// How many calls.
    pub calls: u64,
    /// How many records it was too slow for.
    pub missed: u64,
    /// From when to when nothing was recorded.
    pub gaps: Vec<(u64, u64)>,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let paths: Vec<&String> = self.opened.keys().rev().take(20).collect();
        let Self { calls, missed, gaps, .. } = self;
        write!(f, "{calls} calls of {} processes, {missed} missed, ", self.pids.len())?;
        write!(f, "gaps {gaps:?}, {} paths, such as {paths:?}", self.opened.len())
    }
}

impl Seen {
    /// Whether a path was opened so often.
    pub fn has(&self, path: &str, times: u64) -> bool {
        self.opened.get(path).is_some_and(|count| *count >= times)
    }
}

impl Trace {
    /// Asks for calls.
    ///
    /// # Errors
    /// Where there is no tracer, or it refuses.
    pub fn ask(
        host: &TestHost,
        portspace: &str,
        server: &str,
        calls: &[&str],
        queue: Option<u32>,
    ) -> Result<Self, Error> {
        let calls = calls.iter().map(|word| (*word).to_owned()).collect();
        let filter = Filter { calls, ..Filter::default() };
        Self::of(host, portspace, server, &Request { filter, queue, ..Request::default() })
    }

    /// Asks for this.
    ///
    /// # Errors
    /// As [`Trace::ask`].
    pub fn of(
        host: &TestHost,
        portspace: &str,
        server: &str,
        request: &Request,
    ) -> Result<Self, Error> {
        let mut stream = connect(host, portspace, server).map_err(Error::Read)?;
        stream.write_all(request.line().as_bytes()).map_err(Error::Read)?;
        Ok(Self { reader: Reader::new(stream)?, decoder: Decoder::new() })
    }

    /// Asks for what concerns files.
    #[track_caller]
    pub fn new(host: &TestHost, portspace: &str, server: &str) -> Self {
        Self::ask(host, portspace, server, &["%file", "exit_group"], None).unwrap()
    }

    /// Reads on until `is_enough`.
    #[track_caller]
    pub fn read_until(&mut self, what: &str, seen: &mut Seen, is_enough: impl Fn(&Seen) -> bool) {
        let end = Instant::now() + patience(Duration::from_secs(20));
        while !is_enough(seen) {
            assert!(Instant::now() < end, "{what} does not come: {seen:?}");
            let bytes = self.reader.take().unwrap().expect("the stream ended").to_vec();
            self.note(&bytes, seen);
        }
    }

    fn note(&mut self, bytes: &[u8], seen: &mut Seen) {
        match read(bytes).unwrap().0 {
            Record::Missed(_, count) => seen.missed += count,
            Record::Gap(head, since) => seen.gaps.push((since, head.time)),
            _ => {}
        }
        let Some(Event::Call(call)) = self.decoder.feed(bytes).unwrap() else { return };
        seen.calls += 1;
        seen.pids.insert(call.pid);
        seen.uids.extend(call.who.uid.first());
        let argument = match &*call.name() {
            "openat" => 1,
            "open" => 0,
            _ => return,
        };
        if let Some((path, _)) = call.data(argument, Part::Bytes, false) {
            let path = String::from_utf8_lossy(path).into_owned();
            *seen.opened.entry(path).or_default() += 1;
        }
    }
}
