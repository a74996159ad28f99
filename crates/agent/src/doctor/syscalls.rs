//! The programs that record system calls.

use hyperspector_window::syscalls::tracer;

use super::{Part, Row, Want};

pub(super) fn rows() -> Vec<Row> {
    let want = Want::missing(
        "watch.syscalls does not work",
        "Linux 6.1 or later with CONFIG_DEBUG_INFO_BTF=y, CONFIG_BPF_EVENTS=y and \
         CONFIG_FTRACE_SYSCALLS=y, and a cgroup v2 hierarchy",
    );
    let tried = tracer::probe().map(|()| "loaded, and attached to the kernel's tracepoints");
    let tried = tried.map_err(|error| error.to_string());
    vec![Row::tried(Part::Syscalls, "system call programs", tried, want)]
}
