//! Portspaces: namespaces, root, ids, cgroup, seccomp, init.
//!
//! A space is made by a *builder* process ([`builder`]), which is also its init: it enters the
//! namespaces, builds the root, gives up everything it was, and then runs the command. What keeps a
//! space shut is in [`confine`]; what it sees is in [`root`].
//!
//! The user namespace of a space owns no other namespace: mount, network, PID, IPC, UTS and cgroup
//! namespaces all belong to the initial one. Root inside has therefore no power over any of them,
//! before seccomp has said a word.

pub mod builder;
pub mod cgroup;
pub mod config;
pub mod confine;
pub mod control;
pub mod init;
pub mod launch;
pub mod root;
pub mod userns;
