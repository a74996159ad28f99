//! Terminals, and what else ioctl(2) passes.

use super::Cell::{Signed, Text, Unsigned};
use super::{Layout, f};

/// struct winsize
pub const WINDOW: Layout = Layout {
    size: 8,
    fields: &[
        f("ws_row", 0, Unsigned(2)),
        f("ws_col", 2, Unsigned(2)),
        f("ws_xpixel", 4, Unsigned(2)),
        f("ws_ypixel", 6, Unsigned(2)),
    ],
};

/// struct ifreq, of which only the name is told.
pub const INTERFACE: Layout = Layout { size: 40, fields: &[f("ifr_name", 0, Text(16))] };

/// struct linger
pub const LINGER: Layout =
    Layout { size: 8, fields: &[f("l_onoff", 0, Signed(4)), f("l_linger", 4, Signed(4))] };

/// struct ucred
pub const CREDENTIALS: Layout = Layout {
    size: 12,
    fields: &[f("pid", 0, Signed(4)), f("uid", 4, Unsigned(4)), f("gid", 8, Unsigned(4))],
};
