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
//! Each portspace has its share of [`READERS`] connections and of [`QUEUES`] bytes that wait for them, and
//! at most [`MOST_READERS`] and [`MOST_QUEUES`]; what has no room is missed by that reader, and told in its
//! stream. What records tell of files and threads is remembered in bounded memory. As a backstop it limits
//! its memory to [`MEMORY`], as the agent does by a cgroup where the host has such.

mod confine;
mod message;
mod reader;
mod serve;
mod socket;

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use hyperspector_sys::worker;

pub use message::{Config, ReaderStatus, Reply, Request, Spare, Started, Status, ask};

use super::load::{Loaded, Reader as Ring, Tracer};
use serve::Hub;

/// What the worker is called.
pub const KIND: &str = "tracer";

/// How many connections there are, with those that have not said yet what they want.
pub const READERS: usize = 64;
/// How many of them a portspace has at most.
pub const MOST_READERS: usize = 8;

/// How many bytes wait for all readers together.
pub const QUEUES: usize = 64 << 20;
/// How many of them for those of a portspace at most.
pub const MOST_QUEUES: usize = 32 << 20;

/// How many portspaces can watch one server.
pub const PLACES: usize = 32;

/// How much memory a tracer can have, in bytes: of its own, and with what it has in the kernel.
pub const MEMORY: u64 = 768 << 20;

/// How many bytes of records wait in the kernel at most.
const RING: u32 = 32 << 20;

/// The worker. It loads the programs, says so, and waits for its server: the kernel takes seconds to check
/// them, so one is kept ready. Never returns while all is well.
pub fn worker_main() -> ExitCode {
    let channel = match worker::receive::<Spare>() {
        Ok((_, _, channel)) => channel,
        Err(error) => {
            eprintln!("tracer: {error}");
            return ExitCode::FAILURE;
        }
    };
    let loaded = Loaded::new(RING).map_err(|error| error.to_string());
    let word = loaded.as_ref().map_or_else(|why| Started::Failed(why.clone()), |_| Started::Ready);
    let (Ok(()), Ok(loaded)) = (channel.send(&word, &[]), loaded) else { return ExitCode::FAILURE };
    // Whoever started it may have ended meanwhile.
    let Ok(Some((config, fds))) = channel.receive::<Config>() else { return ExitCode::SUCCESS };
    let hub = RefCell::new(Hub::new(&config));
    let (tracer, ring, control) = match begin(&config, loaded, fds, &hub) {
        Ok(begun) => begun,
        Err(error) => {
            let _ = channel.send(&Started::Failed(error.to_string()), &[]);
            return ExitCode::FAILURE;
        }
    };
    let said = channel.send(&Started::Ready, &[]);
    drop(channel);
    match said.and_then(|()| serve::serve(&hub, &ring, tracer, &control)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tracer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Has the programs run, and gives up everything else. `fds` are the control socket and an empty directory.
fn begin<'a>(
    config: &Config,
    loaded: Loaded,
    fds: Vec<OwnedFd>,
    hub: &'a RefCell<Hub>,
) -> io::Result<(Tracer, Ring<'a>, UnixListener)> {
    let mut fds = fds.into_iter();
    let (Some(control), Some(root)) = (fds.next(), fds.next()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "descriptors are missing"));
    };
    let mut tracer = loaded.attach().map_err(io::Error::other)?;
    // Before the processes are added: what they start from then on is traced, too.
    tracer.set_scope(&config.scope);
    for pid in &config.processes {
        tracer.add_process(*pid).map_err(io::Error::other)?;
    }
    let ring = tracer.reader(|record| hub.borrow_mut().take(record)).map_err(io::Error::other)?;
    confine::give_up(config.uid, config.gid, root)?;
    let control = UnixListener::from(control);
    control.set_nonblocking(true)?;
    Ok((tracer, ring, control))
}

/// Whether this kernel takes the programs.
///
/// # Errors
/// What is missing.
pub fn probe() -> Result<(), super::Error> {
    Loaded::new(4096)?.attach().map(drop)
}
