//! The packet window: a portspace's programs open packet sockets as on the host itself, see the
//! packets of the watched interfaces on the host's own rings, and can send nothing.
//!
//! Two workers make it. The [`guard`] (one on a host) keeps the transmit guard, a BPF program on
//! the egress of every interface that drops what carries [`MARK`], and makes packet sockets with
//! that mark. The [`broker`] (one for each portspace) answers the portspace's `socket`, `bind` and
//! `setsockopt` calls, by seccomp user notification, with sockets from the guard. [`rules`] says
//! which calls are asked about and which are refused.
//!
//! What a portspace learns through such a socket, besides packets: the interface ioctls
//! (`SIOCGIFCONF` and its like, netdevice(7)) read the host's interfaces and addresses. None of
//! them changes anything without a capability in the host's user namespace.

pub mod broker;
pub(crate) mod confine;
pub mod diag;
pub mod guard;
pub(crate) mod netlink;
mod option;
mod probe;
pub mod rules;
pub mod unix_guard;

include!("mark.rs");

pub use probe::{Facts, probe};
pub use rules::{Action, CompileError, Cond, Rule, Test, compile, rules};

/// A compiled BPF program, aligned as the loader wants it.
#[repr(align(8))]
pub(crate) struct Embedded<const N: usize>(pub(crate) [u8; N]);
