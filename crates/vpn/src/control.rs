//! What the agent asks of a running embedded VPN: typed frames over a Unix socket that only root
//! can reach. One request, one answer; agents come and go.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use hyperspector_sys::channel::Channel;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::keys::SecretKey;
use crate::peer::Peer;
use crate::status::Status;

/// How long either side waits for the other; an agent that hangs shall not keep out the next.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an agent waits for a whole answer.
const ANSWER: Duration = Duration::from_secs(2);

/// How much longer for each peer: a new one takes some multiplications on the curve.
const ANSWER_FOR_EACH: Duration = Duration::from_millis(1);

/// What can be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// How are you?
    Status,
    /// These are the peers from now on.
    SetPeers(Vec<Peer>),
    /// These are this host's keys from now on: the one in use, and the next where there is one.
    SetKeys(Vec<SecretKey>),
    /// End.
    Stop,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// It is done.
    Done,
    /// It was not done, for this reason.
    Refused(String),
}

/// Asks the VPN whose control socket is at `path`; gives up on one that does not answer in time.
pub fn ask(path: &Path, request: &Request) -> io::Result<Reply> {
    let peers = match request {
        Request::SetPeers(peers) => u32::try_from(peers.len()).unwrap_or(u32::MAX),
        _ => 0,
    };
    let limit = ANSWER + ANSWER_FOR_EACH.saturating_mul(peers);
    hyperspector_sys::channel::ask(path, request, &[], limit).map(|(reply, _)| reply)
}

/// Answers agents, one after the other, until one says [`Request::Stop`] or `end` can be read.
pub fn serve(
    listener: &UnixListener,
    end: impl AsFd,
    mut answer: impl FnMut(Request) -> Reply,
) -> io::Result<()> {
    loop {
        let mut waiting = [PollFd::new(listener, PollFlags::IN), PollFd::new(&end, PollFlags::IN)];
        match poll(&mut waiting, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        if !waiting[1].revents().is_empty() {
            return Ok(());
        }
        match listener.accept() {
            Ok((stream, _)) => {
                if let Ok(true) = converse(&Channel::new(stream), &mut answer) {
                    return Ok(());
                }
            }
            Err(e) if is_passing(&e) => {}
            Err(e) => return Err(e),
        }
    }
}

/// One agent's requests; true when it said stop. A broken frame ends the conversation.
fn converse(channel: &Channel, answer: &mut impl FnMut(Request) -> Reply) -> io::Result<bool> {
    be_patient(channel)?;
    while let Some((request, _)) = channel.receive()? {
        if matches!(request, Request::Stop) {
            channel.send(&Reply::Done, &[])?;
            return Ok(true);
        }
        channel.send(&answer(request), &[])?;
    }
    Ok(false)
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
    matches!(error.kind(), Interrupted | ConnectionAborted | WouldBlock)
}

fn be_patient(channel: &Channel) -> io::Result<()> {
    channel.stream().set_read_timeout(Some(PATIENCE))?;
    channel.stream().set_write_timeout(Some(PATIENCE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn agents_come_and_go_until_one_says_stop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let mut asked = 0;
            let (end, _open) = std::io::pipe().unwrap();
            serve(&listener, &end, |request| {
                asked += 1;
                match request {
                    Request::SetPeers(_) => Reply::Refused("no".into()),
                    _ => Reply::Done,
                }
            })
            .unwrap();
            asked
        });
        assert!(matches!(ask(&path, &Request::Status).unwrap(), Reply::Done));
        UnixStream::connect(&path).unwrap().write_all(&[0, 0, 0, 2, b'{', b'x']).unwrap();
        drop(UnixStream::connect(&path).unwrap());
        let refused = ask(&path, &Request::SetPeers(Vec::new())).unwrap();
        assert!(matches!(refused, Reply::Refused(why) if why == "no"));
        assert!(matches!(ask(&path, &Request::Stop).unwrap(), Reply::Done));
        assert_eq!(server.join().unwrap(), 2);
    }
}
