//! The facts worker: what is to be known of a server's processes and cannot be left to a procfs in a
//! portspace, since it leads to the server's files. Written as JSON (see [`schema`]) to a directory
//! that portspaces see read-only.
//!
//! It is two processes of a user of their own, whose root directory is a procfs. Both hold
//! CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH and nothing else. The *reader* looks at processes and
//! programs; it parses what servers choose to show, can open nothing for writing, and can start and
//! signal nobody. The *driver* starts readers, ends those that take too long, and puts what they
//! say into the file without looking at it.

mod confine;
mod driver;
mod hash;
mod known;
mod process;
mod program;
mod reader;
pub mod schema;
mod sockets;
mod status;
mod text;
mod users;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

pub use hyperspector_sys::worker::Started;
use hyperspector_sys::{netns, worker};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};
use serde::{Deserialize, Serialize};

use super::procfs::LOCKED;
use driver::Driver;
use sockets::Diag;

/// The worker's name for [`worker::spawn`].
pub const KIND: &str = "facts";

/// The name of the file.
pub const FILE: &str = "processes.json";

/// What the worker is told. The directory for the file and the server's network namespace come as
/// descriptors, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The server's name.
    pub server: String,
    /// Its first process, on the host.
    pub leader: u32,
    /// Which processes belong to it.
    pub members: Members,
    /// The worker's user, which the directory belongs to.
    pub uid: u32,
    /// The worker's group.
    pub gid: u32,
}

/// Which processes belong to a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Members {
    /// All of the host's, but for portspaces'.
    All,
    /// Those in a PID namespace, or in one below it, and those in a cgroup or below it.
    Of {
        /// The number of the PID namespace.
        pid_namespace: Option<u64>,
        /// The cgroup's path, as `/proc/PID/cgroup` names it.
        cgroup: Option<String>,
    },
    /// The first process and what came from it.
    Descendants,
}

/// The worker (`hyperspector __worker facts`).
pub fn worker_main() -> ExitCode {
    let Ok((config, fds, channel)) = worker::receive::<Config>() else {
        return ExitCode::FAILURE;
    };
    let server = config.server.clone();
    match start(config, fds) {
        Ok(driver) => {
            let _ = channel.send(&Started::Ready, &[]);
            drop(channel);
            eprintln!("facts of {server}: {}", driver.run());
        }
        Err(error) => {
            let _ = channel.send(&Started::Failed(error.to_string()), &[]);
        }
    }
    ExitCode::FAILURE
}

/// Opens what is needed, and confines the process.
fn start(config: Config, fds: Vec<OwnedFd>) -> io::Result<Driver> {
    let [out, network]: [OwnedFd; 2] =
        fds.try_into().map_err(|_| io::Error::other("descriptors are missing"))?;
    let diag = netns::within(network.as_fd(), Diag::open)?.ok();
    drop(network);
    enter(procfs()?)?;
    confine::driver(config.uid, config.gid)?;
    Ok(Driver { config, diag, out, stuck: Vec::new(), slow: Vec::new(), is_nameless: false })
}

/// How much of the processor's time this process has had.
fn cpu_time() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// A procfs of the host's processes alone (`subset=pid`), mounted nowhere.
fn procfs() -> io::Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "subset", "pid")?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, LOCKED)?)
}

/// Makes the procfs the root directory.
fn enter(procfs: OwnedFd) -> io::Result<()> {
    rustix::process::fchdir(&procfs)?;
    Ok(rustix::process::chroot(".")?)
}

/// Writes what the file of a server that does not run says, into `directory`.
///
/// # Errors
/// Where it cannot be written.
pub fn write_absent(directory: &std::path::Path, server: &str) -> io::Result<()> {
    let bytes = reader::document(server, &reader::absent())?;
    driver::write(&File::open(directory)?.into(), &bytes)
}
