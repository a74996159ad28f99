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
    agent.send(request, &[]).map_err(failed)?;
    loop {
        match agent.receive().map_err(failed)? {
            Some((Answer::Progress(text), _)) => tell(&text),
            Some((Answer::Failed(text), _)) => return Err(Error::new("the agent", text)),
            Some((answer, _)) => return Ok(Some(answer)),
            None => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// No socket, or one that nobody listens at.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
