//! What one attempt came to.

use std::io;

use serde::{Deserialize, Serialize};

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The system refused it.
    Refused,
    /// It can be done.
    Possible,
    /// It could not be tried, or the answer says neither.
    Error,
}

/// What one attempt came to, and why we think so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// How it ended.
    pub outcome: Outcome,
    /// The error that the decisive system call gave, by name.
    pub errno: Option<String>,
    /// What happened, for people.
    pub detail: String,
}

/// What a kernel answers when it refuses.
const REFUSALS: &[i32] = &[libc::EPERM, libc::EACCES, libc::ENOSYS, libc::EROFS];

impl Verdict {
    /// It can be done.
    pub(super) fn possible(detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::Possible, errno: None, detail: detail.into() }
    }

    /// It was refused otherwise than by an error.
    pub(super) fn refused(detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::Refused, errno: None, detail: detail.into() }
    }

    /// It could not be tried.
    pub(super) fn error(detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::Error, errno: None, detail: detail.into() }
    }

    /// Possible where the call succeeded, refused where it was refused, else an error.
    pub(super) fn of<T>(result: io::Result<T>) -> Self {
        Self::of_or(result, &[])
    }

    /// As [`Self::of`], with more errors that are refusals here.
    pub(super) fn of_or<T>(result: io::Result<T>, also: &[i32]) -> Self {
        match result {
            Ok(_) => Self::possible("succeeded"),
            Err(error) => {
                let number = error.raw_os_error().unwrap_or(0);
                let refused = REFUSALS.contains(&number) || also.contains(&number);
                let outcome = if refused { Outcome::Refused } else { Outcome::Error };
                Self { outcome, errno: name(number), detail: error.to_string() }
            }
        }
    }

    /// For calls that are made so that they cannot work: any error but a refusal shows that the
    /// check was passed.
    pub(super) fn reached<T>(result: io::Result<T>) -> Self {
        let verdict = Self::of(result);
        if verdict.outcome == Outcome::Refused {
            return verdict;
        }
        let detail = format!("got past the permission check: {}", verdict.detail);
        Self { outcome: Outcome::Possible, detail, ..verdict }
    }

    /// The first that was possible, else the first.
    pub(super) fn worst(verdicts: impl IntoIterator<Item = Self>) -> Self {
        let mut worst: Option<Self> = None;
        for verdict in verdicts {
            let rank = |v: &Self| match v.outcome {
                Outcome::Possible => 2,
                Outcome::Error => 1,
                Outcome::Refused => 0,
            };
            if worst.as_ref().is_none_or(|known| rank(known) < rank(&verdict)) {
                worst = Some(verdict);
            }
        }
        worst.unwrap_or_else(|| Self::error("nothing to try it on"))
    }

    /// Says on what it was tried.
    pub(super) fn on(mut self, object: impl std::fmt::Display) -> Self {
        self.detail = format!("{object}: {}", self.detail);
        self
    }
}

/// The symbolic name of an error number; its value where it is not one that attempts meet.
fn name(number: i32) -> Option<String> {
    const NAMES: &[(i32, &str)] = &[
        (libc::EPERM, "EPERM"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EIO, "EIO"),
        (libc::ENXIO, "ENXIO"),
        (libc::EBADF, "EBADF"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EACCES, "EACCES"),
        (libc::EFAULT, "EFAULT"),
        (libc::EBUSY, "EBUSY"),
        (libc::EEXIST, "EEXIST"),
        (libc::EXDEV, "EXDEV"),
        (libc::ENODEV, "ENODEV"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::EINVAL, "EINVAL"),
        (libc::ENFILE, "ENFILE"),
        (libc::EMFILE, "EMFILE"),
        (libc::ENOTTY, "ENOTTY"),
        (libc::ETXTBSY, "ETXTBSY"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EROFS, "EROFS"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::EOVERFLOW, "EOVERFLOW"),
        (libc::ENOTSOCK, "ENOTSOCK"),
        (libc::ENOPROTOOPT, "ENOPROTOOPT"),
        (libc::EPROTONOSUPPORT, "EPROTONOSUPPORT"),
        (libc::ESOCKTNOSUPPORT, "ESOCKTNOSUPPORT"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
        (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
        (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
        (libc::ENETDOWN, "ENETDOWN"),
        (libc::ENETUNREACH, "ENETUNREACH"),
        (libc::ENOBUFS, "ENOBUFS"),
        (libc::ETIMEDOUT, "ETIMEDOUT"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::EHOSTUNREACH, "EHOSTUNREACH"),
        (libc::ESTALE, "ESTALE"),
    ];
    let known = NAMES.iter().find(|(value, _)| *value == number).map(|(_, name)| (*name).into());
    known.or_else(|| (number != 0).then(|| number.to_string()))
}
