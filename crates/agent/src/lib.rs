//! Wanted against actual: the agent reads a plan, compares it with what is there, and builds,
//! supervises and tears down.
//!
//! The agent is root and reads nothing that an attacker writes: no packet, no log line, no trace.
//! Everything that must outlive it lives in other processes, in files written by temp and rename,
//! and in namespaces kept at paths; the next agent adopts all of it ([`record`]).

pub mod client;
pub mod doctor;
pub mod ids;
pub mod keys;
pub mod layout;
pub mod lock;
pub mod logs;
pub mod machine;
pub mod process;
mod processes;
pub mod protocol;
pub mod record;
pub mod server;
pub mod status;
pub mod teardown;

mod adopt;
mod apply;
mod build;
mod collect;
mod complaint;
mod error;
mod files;
mod guard;
mod helper;
mod journals;
mod making;
mod names;
mod peers;
mod programs;
mod renew;
mod secrets;
mod servers;
mod sockets;
mod space;
mod supervise;
mod syscalls;
mod trash;
mod views;
mod vpn;
mod waiting;
mod watch;
mod windows;
mod workers;

pub use error::Error;
