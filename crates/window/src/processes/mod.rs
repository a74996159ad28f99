//! The processes window: what runs on a server, read-only.
//!
//! [`procfs`] makes a procfs of the server's PID namespace, [`view`] shows it in a portspace at
//! `/.serverproc/NAME`, and [`members`] does so for a server that has no PID namespace of its own.
//! What the kernel refuses to show across user namespaces for good reasons, since it would lead to
//! the server's files, comes as data from [`facts`], at `/.serverproc/NAME.json`.

pub mod facts;
pub mod members;
pub mod procfs;
pub mod view;
