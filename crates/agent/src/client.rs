//! Talking to the agent.

use std::io;
use std::os::unix::net::UnixStream;

use hyperspector_sys::channel::Channel;

use crate::error::Error;
use crate::layout::Layout;
use crate::protocol::{Answer, Request};

/// Asks the agent of `layout`; progress goes to `tell`. `None` when no agent runs.
///
/// # Errors
/// What the agent says went wrong, or that it went away while it was asked.
pub fn ask(
    layout: &Layout,
    request: &Request,
    mut tell: impl FnMut(&str),
) -> Result<Option<Answer>, Error> {
    let stream = match UnixStream::connect(layout.socket()) {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(error) => return Err(Error::new("reach the agent", error)),
    };
    let agent = Channel::new(stream);
    let failed = |error: io::Error| Error::new("talk to the agent", error);
    // An agent that dies before it has said a word is none.
    let mut has_spoken = false;
    match agent.send(request, &[]) {
        Err(error) if is_gone(&error) => return Ok(None),
        other => other.map_err(failed)?,
    }
    loop {
        let answer = match agent.receive() {
            Err(error) if is_gone(&error) && !has_spoken => return Ok(None),
            Ok(None) if !has_spoken => return Ok(None),
            other => other.map_err(failed)?,
        };
        has_spoken = true;
        match answer {
            Some((Answer::Progress(text), _)) => tell(&text),
            Some((Answer::Failed(text), _)) => return Err(Error::new("the agent", text)),
            Some((answer, _)) => return Ok(Some(answer)),
            None => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// The other side has gone.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// No socket, or one that nobody listens at.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
