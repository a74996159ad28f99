//! The programs that are measured, or that measure from inside: this one again.

use std::fs;
use std::io;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::server::network;
use crate::{capture, generate, syscalls, tee, vpn};

/// Prints the time at its very start.
pub const STAMP: &str = "__stamp";
/// Runs a command and prints what it took, as [`Took`].
pub const TIME: &str = "__time";
/// Captures packets.
pub const CAPTURE: &str = "__capture";
/// Sends packets.
pub const GENERATE: &str = "__generate";

/// Sends back what comes.
pub const ECHO: &str = "__echo";
/// Measures round trips.
pub const PING: &str = "__ping";

/// Makes system calls.
pub const CALLS: &str = "__calls";
/// Reads records of system calls.
pub const DRAIN: &str = "__drain";

/// Takes messages.
pub const TAKE: &str = "__take";

/// Measures the median of round trips.
pub const TRIPS: &str = "__trips";
/// Sends handshake initiations.
pub const FLOOD: &str = "__flood";

/// What a command took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Took {
    /// From its start to its end, in seconds.
    pub wall: f64,
    /// Processor time, in seconds.
    pub cpu: f64,
    /// Whether it ran under a system call filter.
    pub filtered: bool,
}

/// Runs the program that is asked for; `None` when none is.
pub fn run_if_asked(arguments: &[String]) -> Option<Result<()>> {
    let (first, rest) = arguments.split_first()?;
    match first.as_str() {
        STAMP => {
            println!("{}", now());
            Some(Ok(()))
        }
        TIME => Some(time(rest)),
        CAPTURE => Some(capture::main(rest)),
        GENERATE => Some(generate::main(rest)),
        ECHO => Some(network::echo(rest)),
        PING => Some(network::ping(rest)),
        TAKE => Some(tee::take(rest)),
        CALLS => Some(syscalls::calls(rest)),
        DRAIN => Some(syscalls::drain(rest)),
        TRIPS => Some(vpn::measure::trips(rest)),
        FLOOD => Some(vpn::flood::main(rest)),
        _ => None,
    }
}

/// Nanoseconds since 1970.
pub fn now() -> u128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_nanos()
}

fn time(command: &[String]) -> Result<()> {
    let (program, arguments) = command.split_first().context("no command")?;
    let start = Instant::now();
    let output = Command::new(program).args(arguments).output().context("run the command")?;
    let wall = start.elapsed().as_secs_f64();
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let filtered = status.lines().any(|line| line == "Seccomp:\t2");
    println!("{}", serde_json::to_string(&Took { wall, cpu: children()?, filtered })?);
    Ok(())
}

/// Processor time of the children that have ended, in seconds (getrusage(2)).
fn children() -> io::Result<f64> {
    // SAFETY: rusage is a plain C structure, for which all zeroes is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the call fills `usage`, which lives across it.
    if unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}
