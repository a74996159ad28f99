//! The read-only ways in which a portspace sees servers.

pub mod packets;
pub mod processes;
pub mod shadow;
