//! Reading TOML by hand: every value keeps its place, every mistake is collected, and the keys that
//! a section asked for are the keys that it knows.

mod table;
mod value;

use std::cell::RefCell;

use crate::errors::{Errors, Span, SpecError};

pub(crate) use table::Table;
pub(crate) use value::Value;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

impl<T> At<T> {
    pub(crate) fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(crate) struct Problems(RefCell<Vec<SpecError>>);

impl Problems {
    pub(crate) fn add(&self, error: SpecError) {
        self.0.borrow_mut().push(error);
    }

    /// The value, or `None` with its error noted.
    pub(crate) fn keep<T>(&self, result: Result<T, SpecError>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }

    pub(crate) fn into_result(self) -> Result<(), Errors> {
        Errors::from_list(self.0.into_inner()).map_or(Ok(()), Err)
    }
}
