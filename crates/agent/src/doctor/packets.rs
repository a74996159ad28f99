//! Packet windows: what the crate of the windows found, and shadows.

use std::os::fd::AsFd;

use hyperspector_sys::netlink::{Connection, End, Kind};
use hyperspector_sys::netns;
use hyperspector_window::packets;
use hyperspector_window::packets::guard::How;
use hyperspector_window::shadow::{self, Shape};

use super::{Part, Row, Want, text};

const NO_WINDOW: &str = "no portspace can see packets";

pub(super) fn rows() -> Vec<Row> {
    let facts = packets::probe();
    let part = Part::Packets;
    let missing = |mend| Want::missing(NO_WINDOW, mend);
    vec![
        Row::tried(
            part,
            "packet sockets",
            found(&facts.packet_sockets, "opened"),
            missing("CONFIG_PACKET=y or =m, CAP_NET_RAW"),
        ),
        Row::tried(
            part,
            "packet_diag",
            found(&facts.packet_diag, "there"),
            missing("CONFIG_PACKET_DIAG=y or =m"),
        ),
        guard(&facts.transmit_guard),
        Row::tried(
            part,
            "seccomp notification",
            found(&facts.notification, "there"),
            missing("CONFIG_SECCOMP_FILTER=y, Linux 5.0 or later"),
        ),
        Row::tried(
            part,
            "seccomp ADDFD",
            found(&facts.add_fd, "there"),
            missing("Linux 5.14 or later (SECCOMP_ADDFD_FLAG_SEND)"),
        ),
        Row::tried(
            part,
            "tracing",
            found(&facts.tracing, "there"),
            missing("sysctl kernel.yama.ptrace_scope of 2 or less"),
        ),
        Row::tried(
            part,
            "shadow interfaces",
            shadows(),
            missing("CONFIG_DUMMY=m; CONFIG_IFB, CONFIG_BRIDGE or CONFIG_VETH do too"),
        ),
        unix_guard(&facts.unix_guard),
    ]
}

/// What was seen, or the reason in the words of ours.
fn found(fact: &Result<(), String>, seen: &'static str) -> Result<&'static str, String> {
    fact.clone().map(|()| seen).map_err(|why| plain(&why))
}

/// A system error's text without its number.
fn plain(why: &str) -> String {
    why.split(" (os error").next().unwrap_or(why).to_owned()
}

fn guard(fact: &Result<How, String>) -> Row {
    let (part, what) = (Part::Packets, "transmit guard");
    match fact {
        Ok(How::Tcx) => Row::good(part, what, "attached by tcx"),
        Ok(How::Clsact) => Row::wanting(
            part,
            what,
            "attached by clsact",
            Want::degraded(
                "who deletes an interface's clsact qdisc takes the guard with it, until it is seen",
                "Linux 6.6 or later (tcx)",
            ),
        ),
        Err(why) => Row::wanting(
            part,
            what,
            plain(why),
            Want::missing(
                NO_WINDOW,
                "CONFIG_BPF_SYSCALL=y, CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS, CAP_BPF",
            ),
        ),
    }
}

fn unix_guard(fact: &Result<(), String>) -> Row {
    let result = found(fact, "cgroup/connect_unix and sendmsg_unix load");
    Row::tried(
        Part::Files,
        "Unix guard",
        result,
        Want::missing(
            "a datagram could be sent to a Unix socket in a file window; a portspace with one needs \
         allow-missing = [\"unix-guard\"]",
            "Linux 6.7 or later, CONFIG_CGROUP_BPF=y, CONFIG_DEBUG_INFO_BTF=y, cgroup v2 mounted",
        ),
    )
}

/// Which kinds of link can be shadows.
fn shadows() -> Result<String, String> {
    let namespace = netns::new().map_err(text)?;
    let mut links = Connection::open_in(namespace.as_fd()).map_err(|e| e.to_string())?;
    let kinds = [
        (Shape::Dummy, "dummy", Kind::Dummy),
        (Shape::Ifb, "ifb", Kind::Ifb),
        (Shape::Bridge, "bridge", Kind::Bridge),
        (Shape::Veth, "veth", Kind::Veth(End::named("hs-peer"))),
    ];
    let mut made = Vec::new();
    let mut why = String::new();
    for (shape, name, kind) in kinds {
        shadow::load_module(shape);
        match links.create(kind, &End::named("hs-try")) {
            Ok(()) => {
                made.push(name);
                links.delete("hs-try").map_err(|e| e.to_string())?;
            }
            Err(error) => why = error.to_string(),
        }
    }
    if made.is_empty() { Err(why) } else { Ok(made.join(", ")) }
}
