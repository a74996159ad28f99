//! Arguments whose meaning depends on a command that is another argument.

use super::argument::{self, arg, arg32};
use super::cell;
use super::{Detail, Value, option};
use crate::decode::Call;
use crate::layout::Shape::{Fields, Terminal};
use crate::layout::{descriptors as d, terminal, time};
use crate::names::network as n;
use crate::table::{Kind, Way};

/// What an argument is for some commands of a call.
pub(crate) struct Meaning {
    /// The call.
    pub(crate) call: &'static str,
    /// The commands.
    pub(crate) commands: &'static [u32],
    /// What the argument is.
    pub(crate) kind: Kind,
}

const fn m(call: &'static str, commands: &'static [u32], kind: Kind) -> Meaning {
    Meaning { call, commands, kind }
}

const INT_OUT: Kind = Kind::To(Fields(&d::INT), Way::Out);
const INT_IN: Kind = Kind::To(Fields(&d::INT), Way::In);

/// All such arguments.
pub(crate) const MEANINGS: &[Meaning] = &[
    m("fcntl", &[5, 36], Kind::To(Fields(&d::FLOCK_PID), Way::Out)),
    m("fcntl", &[6, 7, 37, 38], Kind::To(Fields(&d::FLOCK), Way::In)),
    m("fcntl", &[15], Kind::To(Fields(&d::OWNER), Way::In)),
    m("fcntl", &[16], Kind::To(Fields(&d::OWNER), Way::Out)),
    // TCGETS; TCSETS, TCSETSW, TCSETSF
    m("ioctl", &[0x5401], Kind::To(Terminal, Way::Out)),
    m("ioctl", &[0x5402, 0x5403, 0x5404], Kind::To(Terminal, Way::In)),
    // TIOCGWINSZ, TIOCSWINSZ
    m("ioctl", &[0x5413], Kind::To(Fields(&terminal::WINDOW), Way::Out)),
    m("ioctl", &[0x5414], Kind::To(Fields(&terminal::WINDOW), Way::In)),
    // TIOCGPGRP, TIOCOUTQ, FIONREAD, TIOCGETD, TIOCGSID, TIOCGPTN
    m("ioctl", &[0x540f, 0x5411, 0x541b, 0x5424, 0x5429, 0x8004_5430], INT_OUT),
    // TIOCSPGRP, FIONBIO, FIOASYNC, TIOCSPTLCK, TIOCPKT, TIOCSETD
    m("ioctl", &[0x5410, 0x5421, 0x5452, 0x4004_5431, 0x5420, 0x5423], INT_IN),
    // PR_SET_NAME, PR_GET_NAME, PR_GET_PDEATHSIG, PR_GET_CHILD_SUBREAPER
    m("prctl", &[15], Kind::Text),
    m("prctl", &[16], Kind::To(Fields(&crate::layout::processes::COMM), Way::Out)),
    m("prctl", &[2], Kind::To(Fields(&d::SIGNAL), Way::Out)),
    m("prctl", &[37], INT_OUT),
    // ARCH_GET_FS, ARCH_GET_GS
    m("arch_prctl", &[0x1003, 0x1004], Kind::To(Fields(&d::ADDRESS), Way::Out)),
    // FUTEX_WAIT, FUTEX_LOCK_PI, FUTEX_WAIT_BITSET, FUTEX_WAIT_REQUEUE_PI, FUTEX_LOCK_PI2, each
    // private or not, and by either clock.
    m(
        "futex",
        &[
            0, 6, 9, 11, 13, 128, 134, 137, 139, 141, 256, 262, 265, 267, 269, 384, 390, 393, 395,
            397,
        ],
        Kind::To(Fields(&time::TIMESPEC), Way::In),
    ),
    // FSCONFIG_SET_STRING, FSCONFIG_SET_PATH
    m("fsconfig", &[1, 3, 4], Kind::Text),
];

/// What the argument of a call is for a command, where that is known.
pub(crate) fn meaning(call: &str, command: u32) -> Option<Kind> {
    let is_it = |meaning: &&Meaning| meaning.call == call && meaning.commands.contains(&command);
    MEANINGS.iter().find(is_it).map(|meaning| meaning.kind)
}

/// The value of an argument that depends on argument `by`.
pub(super) fn value<'a>(call: &'a Call, index: u8, by: u8, detail: Detail) -> Option<Value<'a>> {
    let command = arg32(call, by);
    let name = call.syscall?.name;
    match name {
        "socket" | "socketpair" => return Some(protocol(command, arg32(call, index))),
        "setsockopt" | "getsockopt" => return Some(option::name(command, arg32(call, index))),
        _ => {}
    }
    match meaning(name, command) {
        Some(kind) => Some(argument::value(call, index, kind, detail)),
        None if name == "ioctl" || name == "fcntl" || name == "prctl" => {
            Some(Value::Hex(arg(call, index)))
        }
        None => None,
    }
}

fn protocol(family: u32, protocol: u32) -> Value<'static> {
    let number = u64::from(protocol);
    match family {
        2 | 10 => cell::one(&n::IP_PROTOCOL, number),
        16 => cell::one(&n::NETLINK_PROTOCOL, number),
        17 => {
            let swapped = u64::from(((number & 0xffff) as u16).swap_bytes());
            Value::Made("htons", vec![cell::one(&n::ETHERNET_PROTOCOL, swapped)])
        }
        _ => Value::Unsigned(number),
    }
}
