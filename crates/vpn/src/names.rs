//! The worker that looks up one name of an endpoint. The answer comes from the network, and the C
//! library parses it: this process has nothing and may do nothing, and whoever started it kills it
//! when it takes too long.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::device::confine;

/// The worker's kind on the command line.
pub const KIND: &str = "name";

/// Addresses of one name at most.
pub const MOST: usize = 64;

/// What a worker is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Question {
    /// The name.
    pub name: String,
    /// The user to become; no other process should have it.
    pub uid: u32,
}

/// What it answers: addresses, at most [`MOST`], or why there are none.
pub type Answer = Result<Vec<IpAddr>, String>;

/// The whole life of the worker process; what `__worker name` calls.
pub fn worker_main() -> ExitCode {
    let Ok((question, _, agent)) = hyperspector_sys::worker::receive::<Question>() else {
        return ExitCode::FAILURE;
    };
    let answer = shut_in(question.uid).and_then(|()| look_up(&question.name));
    match agent.send(&answer.map_err(|error| error.to_string()), &[]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Leaves root and all groups, writes no file, starts nothing.
fn shut_in(uid: u32) -> io::Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none)?;
    setrlimit(Resource::Fsize, none)?;
    confine::leave_root(uid, uid).map_err(io::Error::other)?;
    setrlimit(Resource::Nproc, none)?;
    Ok(())
}

fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    let mut addresses: Vec<_> = (name, 0).to_socket_addrs()?.map(|found| found.ip()).collect();
    addresses.dedup();
    addresses.truncate(MOST);
    if addresses.is_empty() { Err(io::Error::other("it has no address")) } else { Ok(addresses) }
}
