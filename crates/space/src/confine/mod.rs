//! What keeps a space shut: capabilities, Landlock, seccomp, and the proof that what was given up
//! does not come back.

pub mod capabilities;
pub(crate) mod ids;
pub mod landlock;
mod listing;
pub mod policy;
pub mod seccomp;
