//! Why the agent could not do something.

use std::io;
use std::path::Path;

/// An operation that failed: what was tried, on what, and why.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {cause}")]
pub struct Error {
    operation: String,
    cause: String,
}

impl Error {
    /// An error from its two parts.
    pub fn new(operation: impl Into<String>, cause: impl ToString) -> Self {
        Self { operation: operation.into(), cause: cause.to_string() }
    }

    /// Why it failed, without what was being done.
    pub(crate) fn cause(&self) -> &str {
        &self.cause
    }
}

/// Names an operation in its error.
pub(crate) trait Doing<T> {
    /// Says what was being done.
    fn doing(self, operation: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: std::error::Error> Doing<T> for Result<T, E> {
    fn doing(self, operation: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| Error { operation: operation(), cause: chain(&error) })
    }
}

/// An error with its sources, outermost first.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        // Some errors name their source in their own text.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = source.source();
    }
    text
}

/// "verb PATH", for [`Doing::doing`].
pub(crate) fn on(verb: &'static str, path: &Path) -> impl FnOnce() -> String + use<> {
    let path = path.display().to_string();
    move || format!("{verb} {path}")
}

/// Errors of a clean-up that went on to its end.
pub(crate) fn all_or_first(errors: Vec<Error>) -> Result<(), Error> {
    let mut errors = errors.into_iter();
    let Some(first) = errors.next() else { return Ok(()) };
    let rest: Vec<String> = errors.map(|error| error.to_string()).collect();
    if rest.is_empty() {
        return Err(first);
    }
    Err(Error::new(first.operation, format!("{}; {}", first.cause, rest.join("; "))))
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}
