//! Routing netlink, one request at a time (rtnetlink(7)): links, addresses, routes, neighbours.
//!
//! A [`Connection`] belongs to the network namespace in which it was opened, whatever its user does
//! later. Requests wait for the kernel's answer and check it: sender, sequence number, length,
//! acknowledgement. Answers are read leniently where they can be: of each object only the attributes
//! that are wanted are looked at, so that an interface of a kind unknown here does no harm.

mod link;
mod model;
mod route;
mod socket;
mod traffic;

pub use model::{End, Kind, Link, LinkRef, Mac};
pub use route::{Route, RouteKind};
pub use socket::Connection;
pub use traffic::Class;

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::errno::{lower, text};

/// Why a request failed: `create link veth0: file exists`.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {object}: {cause}")]
pub struct Error {
    operation: &'static str,
    object: String,
    cause: Cause,
}

impl Error {
    fn new(operation: &'static str, object: impl fmt::Display, cause: Cause) -> Self {
        Self { operation, object: object.to_string(), cause }
    }

    /// What the kernel said, where it was the kernel.
    pub fn errno(&self) -> Option<Errno> {
        match &self.cause {
            Cause::Kernel { errno, .. } => Some(*errno),
            Cause::Socket(error) => Errno::from_io_error(error),
            Cause::Answer(_) | Cause::Request(_) => None,
        }
    }

    /// Whether the object was there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EXIST)
    }

    /// Whether a name or an index is taken by something else.
    pub fn is_busy(&self) -> bool {
        self.errno() == Some(Errno::BUSY)
    }

    /// Whether the link, address or route is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::NODEV | Errno::NXIO | Errno::SRCH | Errno::ADDRNOTAVAIL | Errno::NOENT)
        )
    }

    /// Whether the kernel has no such kind of link (any module for it was looked for and not found).
    pub fn is_unsupported(&self) -> bool {
        self.errno() == Some(Errno::OPNOTSUPP)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = error.errno().map_or(io::ErrorKind::Other, |errno| errno.kind());
        Self::new(kind, error)
    }
}

/// The last part of an [`Error`].
#[derive(Debug)]
enum Cause {
    /// The kernel refused.
    Kernel { errno: Errno, words: Option<String> },
    /// The socket failed.
    Socket(io::Error),
    /// The answer was not as it should be.
    Answer(&'static str),
    /// The request could not be made.
    Request(&'static str),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel { errno, words: None } => f.write_str(&text(&(*errno).into())),
            Self::Kernel { errno, words: Some(words) } => {
                let words = words.trim_end_matches('.');
                write!(f, "{} ({})", text(&(*errno).into()), lower(words))
            }
            Self::Socket(error) => write!(f, "netlink socket: {}", text(error)),
            Self::Answer(what) => write!(f, "bad answer from the kernel: {what}"),
            Self::Request(what) => f.write_str(what),
        }
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

impl From<Errno> for Cause {
    fn from(error: Errno) -> Self {
        Self::Socket(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_one_line() {
        let cause = Cause::Kernel { errno: Errno::EXIST, words: None };
        let error = Error::new("create link", "veth0", cause);
        assert_eq!(error.to_string(), "create link veth0: file exists");
        assert!(error.is_exists() && !error.is_not_found());
    }

    #[test]
    fn the_kernels_own_words_come_too() {
        let words = Some("Unknown device type.".to_owned());
        let cause = Cause::Kernel { errno: Errno::OPNOTSUPP, words };
        let error = Error::new("create link", "d0", cause);
        let text = "create link d0: operation not supported (unknown device type)";
        assert_eq!(error.to_string(), text);
        assert!(error.is_unsupported());
    }
}
