//! The system call window: what a server's tasks ask of the kernel, without stopping them.

mod load;
mod settings;
pub mod tracer;
pub mod view;

pub use load::{Error, Loaded, Reader, Tracer};
pub use settings::{Calls, Only, Scope, Settings};
