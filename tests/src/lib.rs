//! HyperSpector's integration tests: test hosts made of network namespaces, and the program that
//! attacks a portspace or a server space from inside.
//!
//! A test host is a network namespace with state and run directories of its own:
//!
//! ```text
//!   hs-t….web1              hs-t….switch             hs-t….web2
//!   eth0 192.0.2.11 ------- web1 [br0] web2 -------- eth0 192.0.2.12
//! ```
//!
//! Everything that a test makes belongs to a [`Fleet`], which removes it when it is dropped, also
//! after a panic. Checks ask the system (`ip`, `/proc`, sockets of their own) and not HyperSpector's
//! own books, except where its output is what is tested.

mod adopted;
pub mod attacker;
mod fleet;
mod frames;
mod hung;
pub mod leftovers;
mod listeners;
mod machine;
mod namespace;
mod process;
mod recipe;
mod root;
mod rootless;
mod server;
mod shop;
mod status;
mod trace;
mod wait;
pub mod watched;

pub use adopted::{Container, ControlGroup, Runtime, Service};
pub use fleet::{Fleet, TestHost, expect_refused, goes_without, lines};
pub use frames::Frames;
pub use hung::{Hung, Moody};
pub use listeners::{Listeners, Witness};
pub use machine::Machine;
pub use namespace::Namespace;
pub use process::{Output, Running, has_ended, kill, namespace_of, program, run, status_field};
pub use recipe::{Recipe, debian_root, repository};
pub use root::Root;
pub use rootless::Rootless;
pub use server::ServerFiles;
pub use shop::Shop;
pub use status::{Hyperspector, Peer, Portspace, Server, ServerSpace, Status, Vpn};
pub use trace::{Seen, Trace, connect};
pub use wait::{LIMIT, patience, wait_for, wait_until, wait_within};
