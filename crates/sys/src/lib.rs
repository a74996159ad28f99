//! The floor that every other crate stands on: one-call wrappers of system calls that rustix lacks,
//! routing netlink, network namespaces, and the channels between HyperSpector's own processes.
//!
//! Nothing here knows what a portspace is.

pub mod capabilities;
pub mod channel;
pub mod errno;
pub mod mount;
pub mod mountinfo;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod path;
pub mod pidfd;
pub mod seccomp_notify;
pub mod userns;
pub mod worker;
