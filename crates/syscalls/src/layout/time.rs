//! Times.

use super::Cell::{Flags, Nanoseconds, Signed, Struct};
use super::{Layout, f};
use crate::names::time as n;

/// struct timespec
pub const TIMESPEC: Layout =
    Layout { size: 16, fields: &[f("tv_sec", 0, Signed(8)), f("tv_nsec", 8, Signed(8))] };

/// struct timeval
pub const TIMEVAL: Layout =
    Layout { size: 16, fields: &[f("tv_sec", 0, Signed(8)), f("tv_usec", 8, Signed(8))] };

/// struct timezone
pub const TIMEZONE: Layout =
    Layout { size: 8, fields: &[f("tz_minuteswest", 0, Signed(4)), f("tz_dsttime", 4, Signed(4))] };

/// struct utimbuf
pub const UTIMBUF: Layout =
    Layout { size: 16, fields: &[f("actime", 0, Signed(8)), f("modtime", 8, Signed(8))] };

/// A struct timespec of utimensat(2).
const FILE_TIME: Layout =
    Layout { size: 16, fields: &[f("tv_sec", 0, Signed(8)), f("tv_nsec", 8, Nanoseconds)] };

/// Times of access and change.
pub const TWO_TIMES: Layout =
    Layout { size: 32, fields: &[f("", 0, Struct(&FILE_TIME)), f("", 16, Struct(&FILE_TIME))] };

/// The same in microseconds.
pub const TWO_TIMEVALS: Layout =
    Layout { size: 32, fields: &[f("", 0, Struct(&TIMEVAL)), f("", 16, Struct(&TIMEVAL))] };

/// struct itimerspec
pub const ITIMERSPEC: Layout = Layout {
    size: 32,
    fields: &[f("it_interval", 0, Struct(&TIMESPEC)), f("it_value", 16, Struct(&TIMESPEC))],
};

/// struct itimerval
pub const ITIMERVAL: Layout = Layout {
    size: 32,
    fields: &[f("it_interval", 0, Struct(&TIMEVAL)), f("it_value", 16, Struct(&TIMEVAL))],
};

/// struct tms
pub const TMS: Layout = Layout {
    size: 32,
    fields: &[
        f("tms_utime", 0, super::Cell::Ticks),
        f("tms_stime", 8, super::Cell::Ticks),
        f("tms_cutime", 16, super::Cell::Ticks),
        f("tms_cstime", 24, super::Cell::Ticks),
    ],
};

/// struct timex
pub const TIMEX: Layout = Layout {
    size: 208,
    fields: &[
        f("modes", 0, Flags(4, &n::ADJUST)),
        f("offset", 8, Signed(8)),
        f("freq", 16, Signed(8)),
        f("maxerror", 24, Signed(8)),
        f("esterror", 32, Signed(8)),
        f("status", 40, Flags(4, &n::ADJUST_STATUS)),
        f("constant", 48, Signed(8)),
        f("precision", 56, Signed(8)),
        f("tolerance", 64, Signed(8)),
        f("time", 72, Struct(&TIMEVAL)),
        f("tick", 88, Signed(8)),
        f("ppsfreq", 96, Signed(8)),
        f("jitter", 104, Signed(8)),
        f("shift", 112, Signed(4)),
        f("stabil", 120, Signed(8)),
        f("jitcnt", 128, Signed(8)),
        f("calcnt", 136, Signed(8)),
        f("errcnt", 144, Signed(8)),
        f("stbcnt", 152, Signed(8)),
        f("tai", 160, Signed(4)),
    ],
};
