//! Control groups: what a space may use, and the handle by which all of it is found and ended
//! (cgroups(7)).
//!
//! Two layouts are known: v2 alone, and hybrid, where the controllers are in v1 hierarchies of their
//! own beside a v2 hierarchy that may have none. A [`Cgroup`] is one path in all of them. Its inner
//! nodes hold no processes, as v2 demands; each enables its controllers for the next, which also
//! keeps a service manager that owns the root from turning them off there.

mod detect;
mod group;
mod limits;

#[cfg(test)]
mod tests;

pub use detect::Cgroups;
pub use group::{Cgroup, Usage};
pub use limits::{Enforcement, Limit};

use std::io;
use std::path::Path;

use hyperspector_sys::errno::text;

/// Why a cgroup could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {object}: {}", text(cause))]
pub struct Error {
    operation: &'static str,
    object: String,
    cause: io::Error,
}

impl Error {
    fn new(operation: &'static str, object: impl AsRef<Path>, cause: io::Error) -> Self {
        Self { operation, object: object.as_ref().display().to_string(), cause }
    }

    /// What the kernel said.
    pub fn kind(&self) -> io::ErrorKind {
        self.cause.kind()
    }
}
