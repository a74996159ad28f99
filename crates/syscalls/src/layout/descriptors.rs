//! What polls and waits take, and plain numbers.

use super::Cell::{Address, Flags, Hex, Signed, Struct, Unsigned};
use super::{IS_X86, Layout, f};
use crate::names::descriptors as n;
use crate::names::system;

/// An int.
pub const INT: Layout = Layout { size: 4, fields: &[f("", 0, Signed(4))] };
/// An unsigned int.
pub const UINT: Layout = Layout { size: 4, fields: &[f("", 0, Unsigned(4))] };
/// A long.
pub const LONG: Layout = Layout { size: 8, fields: &[f("", 0, Signed(8))] };
/// A signal.
pub const SIGNAL: Layout = Layout { size: 4, fields: &[f("", 0, super::Cell::Signal)] };
/// A size.
pub const SIZE: Layout = Layout { size: 8, fields: &[f("", 0, Unsigned(8))] };
/// A place in a file.
pub const OFFSET: Layout = Layout { size: 8, fields: &[f("", 0, Signed(8))] };
/// An address.
pub const ADDRESS: Layout = Layout { size: 8, fields: &[f("", 0, Address)] };

/// The sixth argument of pselect6(2).
pub const SELECT_MASK: Layout =
    Layout { size: 16, fields: &[f("sigmask", 0, Address), f("sigsetsize", 8, Unsigned(8))] };

const EPOLL_DATA: u16 = if IS_X86 { 4 } else { 8 };

const DATA: Layout =
    Layout { size: 8, fields: &[f("u32", 0, Unsigned(4)), f("u64", 0, Unsigned(8))] };

/// struct epoll_event
pub const EPOLL_EVENT: Layout = Layout {
    size: EPOLL_DATA + 8,
    fields: &[f("events", 0, Flags(4, &n::EPOLL)), f("data", EPOLL_DATA, Struct(&DATA))],
};

/// struct io_event
pub const IO_EVENT: Layout = Layout {
    size: 32,
    fields: &[
        f("data", 0, Hex(8)),
        f("obj", 8, Address),
        f("res", 16, Signed(8)),
        f("res2", 24, Signed(8)),
    ],
};

/// struct io_uring_params
pub const URING_PARAMS: Layout = Layout {
    size: 120,
    fields: &[
        f("flags", 8, Flags(4, &system::URING_SETUP)),
        f("sq_thread_cpu", 12, Unsigned(4)),
        f("sq_thread_idle", 16, Unsigned(4)),
        f("features", 20, Flags(4, &system::URING_FEATURES)),
    ],
};

/// struct flock
pub const FLOCK: Layout = Layout {
    size: 32,
    fields: &[
        f("l_type", 0, super::Cell::OneOf(2, &n::LOCK_KIND)),
        f("l_whence", 2, super::Cell::OneOf(2, &n::SEEK)),
        f("l_start", 8, Signed(8)),
        f("l_len", 16, Signed(8)),
    ],
};

/// The same as an answer, which says who holds the lock.
pub const FLOCK_PID: Layout = Layout {
    size: 32,
    fields: &[
        f("l_type", 0, super::Cell::OneOf(2, &n::LOCK_KIND)),
        f("l_whence", 2, super::Cell::OneOf(2, &n::SEEK)),
        f("l_start", 8, Signed(8)),
        f("l_len", 16, Signed(8)),
        f("l_pid", 24, Signed(4)),
    ],
};

/// struct f_owner_ex
pub const OWNER: Layout = Layout {
    size: 8,
    fields: &[f("type", 0, super::Cell::OneOf(4, &n::OWNER_KIND)), f("pid", 4, Signed(4))],
};
