//! The system call window: what a server's tasks ask of the kernel, without stopping them.

mod load;
mod settings;

pub use load::{Error, Tracer};
pub use settings::{Calls, Scope, Settings};
