//! Processes and the system.

use super::Cell::{Array, Flags, Limit, OneOf, Signed, Struct, Text, Unsigned};
use super::time::TIMEVAL;
use super::{Layout, f, v};
use crate::names::processes as n;

/// struct rlimit64
pub const RLIMIT: Layout =
    Layout { size: 16, fields: &[f("rlim_cur", 0, Limit), f("rlim_max", 8, Limit)] };

/// struct rusage
pub const RUSAGE: Layout = Layout {
    size: 144,
    fields: &[
        f("ru_utime", 0, Struct(&TIMEVAL)),
        f("ru_stime", 16, Struct(&TIMEVAL)),
        v("ru_maxrss", 32, Unsigned(8)),
        v("ru_ixrss", 40, Unsigned(8)),
        v("ru_idrss", 48, Unsigned(8)),
        v("ru_isrss", 56, Unsigned(8)),
        v("ru_minflt", 64, Unsigned(8)),
        v("ru_majflt", 72, Unsigned(8)),
        v("ru_nswap", 80, Unsigned(8)),
        v("ru_inblock", 88, Unsigned(8)),
        v("ru_oublock", 96, Unsigned(8)),
        v("ru_msgsnd", 104, Unsigned(8)),
        v("ru_msgrcv", 112, Unsigned(8)),
        v("ru_nsignals", 120, Unsigned(8)),
        v("ru_nvcsw", 128, Unsigned(8)),
        v("ru_nivcsw", 136, Unsigned(8)),
    ],
};

/// struct utsname
pub const UTSNAME: Layout = Layout {
    size: 390,
    fields: &[
        f("sysname", 0, Text(65)),
        f("nodename", 65, Text(65)),
        v("release", 130, Text(65)),
        v("version", 195, Text(65)),
        v("machine", 260, Text(65)),
        v("domainname", 325, Text(65)),
    ],
};

/// struct sysinfo
pub const SYSINFO: Layout = Layout {
    size: 112,
    fields: &[
        f("uptime", 0, Unsigned(8)),
        f("loads", 8, Array(&Unsigned(8), 3)),
        f("totalram", 32, Unsigned(8)),
        f("freeram", 40, Unsigned(8)),
        f("sharedram", 48, Unsigned(8)),
        f("bufferram", 56, Unsigned(8)),
        f("totalswap", 64, Unsigned(8)),
        f("freeswap", 72, Unsigned(8)),
        f("procs", 80, Unsigned(2)),
        f("totalhigh", 88, Unsigned(8)),
        f("freehigh", 96, Unsigned(8)),
        f("mem_unit", 104, Unsigned(4)),
    ],
};

/// struct sched_param
pub const SCHEDULER_PARAM: Layout = Layout { size: 4, fields: &[f("", 0, Signed(4))] };

/// struct sched_attr
pub const SCHEDULER_ATTR: Layout = Layout {
    size: 48,
    fields: &[
        f("size", 0, Unsigned(4)),
        f("sched_policy", 4, OneOf(4, &n::SCHEDULER)),
        f("sched_flags", 8, Flags(8, &n::SCHEDULER_FLAGS)),
        f("sched_nice", 16, Signed(4)),
        f("sched_priority", 20, Unsigned(4)),
        f("sched_runtime", 24, Unsigned(8)),
        f("sched_deadline", 32, Unsigned(8)),
        f("sched_period", 40, Unsigned(8)),
    ],
};

/// struct __user_cap_header_struct
pub const CAPABILITY_HEADER: Layout = Layout {
    size: 8,
    fields: &[f("version", 0, OneOf(4, &n::CAPABILITY_VERSION)), f("pid", 4, Signed(4))],
};

/// A thread's name, of 16 bytes.
pub const COMM: Layout = Layout { size: 16, fields: &[f("", 0, Text(16))] };
