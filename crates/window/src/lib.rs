//! The read-only ways in which a portspace sees servers, and what keeps both in their places on the
//! network.

pub mod changes;
pub mod files;
pub mod jobs;
pub mod packets;
pub mod ports;
pub mod processes;
pub mod shadow;
pub mod sockets;
mod swap;
pub mod syscalls;
pub mod tree;
