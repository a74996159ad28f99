//! The tracer of one server: loads the programs, gives up everything, and gives their records to readers
//! in portspaces.
//!
//! ```text
//!  programs in the kernel ──► ring ──► tracer ──► queue ──► a reader's connection to /.servertrace/NAME
//!                                             └─► queue ──► another reader
//! ```
//!
//! There is one for each server, so that neither its calls nor its readers take anything from another's.
//! Where its readers connect are sockets of the agent's, one for each portspace, which it is given: what
//! it knows of a reader is which portspace that is in.
//!
//! # Who can make it use what
//! A portspace has at most [`READERS`] connections here, whose queues together hold at most [`QUEUES`]
//! bytes; what has no room is missed by that reader, and told in its stream. What records tell of files and
//! threads is remembered in bounded memory. As a backstop the agent limits its memory to [`memory`].

mod confine;
mod message;
mod reader;
mod serve;
mod socket;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use hyperspector_sys::worker;

pub use message::{Config, ReaderStatus, Reply, Request, Started, Status, ask};

use super::load::Tracer;

/// What the worker is called.
pub const KIND: &str = "tracer";

/// How many connections a portspace has at most, with those that have not said yet what they want.
pub const READERS: usize = 8;

/// How many bytes wait for all readers of a portspace at most.
pub const QUEUES: usize = 16 << 20;

/// How many portspaces can watch one server.
pub const PLACES: usize = 64;

/// How many bytes of records wait in the kernel at most.
const RING: u32 = 32 << 20;

/// How much memory of its own a tracer for so many portspaces can have, in bytes.
pub fn memory(places: usize) -> u64 {
    let (own, each) = (256_u64 << 20, 64_u64 << 20);
    own + each * places as u64
}

/// The worker. Never returns while all is well.
pub fn worker_main() -> ExitCode {
    let (config, fds, channel) = match worker::receive::<Config>() {
        Ok(received) => received,
        Err(error) => {
            eprintln!("tracer: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (tracer, control) = match begin(&config, fds) {
        Ok(begun) => begun,
        Err(error) => {
            let _ = channel.send(&Started::Failed(error.to_string()), &[]);
            return ExitCode::FAILURE;
        }
    };
    let said = channel.send(&Started::Ready, &[]);
    drop(channel);
    match said.and_then(|()| serve::serve(config, tracer, &control)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tracer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Loads the programs, and gives up everything else. `fds` are the control socket and an empty directory.
fn begin(config: &Config, fds: Vec<OwnedFd>) -> io::Result<(Tracer, UnixListener)> {
    let mut fds = fds.into_iter();
    let (Some(control), Some(root)) = (fds.next(), fds.next()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "descriptors are missing"));
    };
    let mut tracer = Tracer::start(RING).map_err(io::Error::other)?;
    for pid in &config.processes {
        tracer.add_process(*pid).map_err(io::Error::other)?;
    }
    tracer.set_scope(&config.scope);
    confine::give_up(config.uid, config.gid, root)?;
    let control = UnixListener::from(control);
    control.set_nonblocking(true)?;
    Ok((tracer, control))
}

/// Whether this kernel takes the programs.
///
/// # Errors
/// What is missing.
pub fn probe() -> Result<(), super::Error> {
    Tracer::start(4096).map(drop)
}
