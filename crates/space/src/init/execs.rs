//! Commands that the operator runs inside: `hyperspector exec`.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hyperspector_sys::channel::Channel;

use super::child::{Start, Streams, start, terminal};
use super::signals;
use crate::config::SpaceConfig;
use crate::control::{Answer, End, Exec, Request};

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(2);

/// The commands that run, each with the client that waits for its end.
#[derive(Default)]
pub(crate) struct Execs(HashMap<i32, Channel>);

impl Execs {
    /// Whether `pid` is one of them.
    pub(crate) fn contains(&self, pid: i32) -> bool {
        self.0.contains_key(&pid)
    }

    /// Tells the client of `pid`, where there is one, how it ended.
    pub(crate) fn ended(&mut self, pid: i32, end: End) {
        if let Some(client) = self.0.remove(&pid) {
            let _ = client.send(&Answer::Ended(end), &[]);
        }
    }

    /// Takes one request and answers it. `main` is the space's command, while it runs.
    pub(crate) fn serve(&mut self, stream: UnixStream, config: &SpaceConfig, main: Option<i32>) {
        let patience =
            stream.set_read_timeout(Some(PATIENCE)).and(stream.set_write_timeout(Some(PATIENCE)));
        let client = Channel::new(stream);
        let request = patience.and_then(|()| client.receive::<Request>());
        let answer = match request {
            Ok(Some((Request::Exec(exec), fds))) => match run(&exec, fds, config) {
                Ok((pid, terminal)) => {
                    let passed: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
                    if client.send(&Answer::Started, &passed).is_ok() {
                        self.0.insert(pid, client);
                    }
                    return;
                }
                Err(reason) => Answer::Refused(reason),
            },
            Ok(Some((Request::Signal { number }, _))) => match main {
                Some(pid) => {
                    signals::send(pid, number);
                    Answer::Done
                }
                None => Answer::Refused("the command is not running".into()),
            },
            Ok(None) | Err(_) => return,
        };
        let _ = client.send(&answer, &[]);
    }
}

/// Starts the command of an exec; returns its process id and the master of its terminal.
fn run(
    exec: &Exec,
    fds: Vec<OwnedFd>,
    config: &SpaceConfig,
) -> Result<(i32, Option<OwnedFd>), String> {
    let (streams, master) = streams(exec.terminal, fds).map_err(|error| error.to_string())?;
    let child = start(Start {
        command: &exec.command,
        environment: vec![&config.environment, &exec.environment],
        user: &exec.user,
        directory: &exec.directory,
        streams,
    })?;
    Ok((child.id().cast_signed(), master))
}

fn streams(wants_terminal: bool, fds: Vec<OwnedFd>) -> io::Result<(Streams, Option<OwnedFd>)> {
    if wants_terminal {
        let (master, slave) = terminal()?;
        return Ok((Streams::Terminal(slave), Some(master)));
    }
    let given: [OwnedFd; 3] = fds
        .try_into()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "expected three descriptors"))?;
    Ok((Streams::Given(given), None))
}
