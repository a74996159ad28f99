//! Server spaces: what keeps them to their ports.

use hyperspector_window::ports;

use super::{Part, Row, Want};

pub(super) fn rows() -> Vec<Row> {
    let loaded = ports::probe().map(|()| "loads").map_err(|error| error.to_string());
    let want = Want::missing(
        "no server space can be made",
        "Linux 6.1 or later, CONFIG_CGROUP_BPF=y, CONFIG_BPF_SYSCALL=y, CAP_BPF and CAP_NET_ADMIN",
    );
    vec![Row::tried(Part::Servers, "port guard", loaded, want)]
}
