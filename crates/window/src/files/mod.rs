//! The file windows: the whole tree that a server sees, read-only, at `/.serverfs/NAME` in a
//! portspace that runs.
//!
//! A view is made of clones of the server's own mounts. A short-lived process of the worker
//! ([`worker`]) goes through these steps for each change ([`sync`]), and ends:
//!
//! 1. it enters the server's mount namespace and root, copies the namespace for itself, so that
//!    nothing changes under its hands, and clones the mounts that hold real files ([`source`],
//!    [`choice`]);
//! 2. in a mount namespace of its own, it puts the view together as it should be, hidden paths
//!    covered ([`stage`]);
//! 3. where that is not what the portspace has, mount by mount, it exchanges the view
//!    ([`crate::swap`]).
//!
//! So what is shown is always worked out from how things are, not from what was done before. A view is
//! exchanged as a whole: whoever is in it stays in the old one, with all that is hidden in it.
//!
//! Everything that a server can make long, slow or strange is met here: the number of mounts is
//! bounded, paths are opened component by component without following links, and the process that
//! does it is ended when it takes too long.

pub(crate) mod choice;
mod mask;
mod source;
mod stage;
pub mod sync;
pub mod worker;

pub use choice::Located;
pub use sync::{Glance, Job, Told};

pub use crate::tree::{Source, Trust};
