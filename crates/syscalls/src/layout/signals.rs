//! Signals.

use super::Cell::{Address, Flags, Signals, Unsigned};
use super::{Layout, f};
use crate::names::signals as n;

/// A set of signals, of eight bytes.
pub const SET: Layout = Layout { size: 8, fields: &[f("", 0, Signals)] };

/// stack_t
pub const STACK: Layout = Layout {
    size: 24,
    fields: &[
        f("ss_sp", 0, Address),
        f("ss_flags", 8, Flags(4, &n::STACK)),
        f("ss_size", 16, Unsigned(8)),
    ],
};
