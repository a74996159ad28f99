//! The packet window's part of a portspace's seccomp policy, as data: which calls the broker is
//! asked about, which are refused, and why.
//!
//! A refusal beats a question (the kernel takes the strictest of all filters' answers), and
//! whatever is in no rule is left to the portspace's own allow-list.

use std::collections::BTreeMap;

use libc as l;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// What happens to some calls, and why.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The system call's number on this architecture.
    pub call: i64,
    /// All of these must hold; none means always.
    pub when: &'static [Cond],
    /// What happens.
    pub action: Action,
    /// Why.
    pub reason: &'static str,
}

/// A condition on one argument. Only the low 32 bits are looked at, as by the kernel: all the
/// arguments named here are ints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cond {
    /// Which argument, from 0.
    pub arg: u8,
    /// What it must be.
    pub test: Test,
}

/// What an argument must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// This.
    Is(u32),
    /// Anything but this.
    IsNot(u32),
    /// This or more, unsigned.
    AtLeast(u32),
    /// `value` under `mask`.
    Masked {
        /// The bits that count.
        mask: u32,
        /// What they must be.
        value: u32,
    },
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The broker is asked.
    Ask,
    /// It fails with this errno.
    Errno(i32),
}

/// The bits of a socket's type that are not flags (`SOCK_TYPE_MASK`, include/linux/net.h).
const TYPE_MASK: u32 = 0xf;
/// The old way to a packet socket, which exists in every address family (packet(7)).
const SOCK_PACKET: u32 = 10;
/// The shortest address that a packet socket takes: `sizeof(struct sockaddr_ll)`.
const SOCKADDR_LL: u32 = 20;

const fn is(arg: u8, value: i32) -> Cond {
    Cond { arg, test: Test::Is(value.cast_unsigned()) }
}

const fn option(option: i32) -> Cond {
    Cond { arg: 2, test: Test::IsNot(option.cast_unsigned()) }
}

const SOL_PACKET: Cond = is(1, l::SOL_PACKET);

const PACKET_RULES: &[Rule] = &[
    Rule {
        call: l::SYS_socket,
        when: &[Cond { arg: 1, test: Test::Masked { mask: TYPE_MASK, value: SOCK_PACKET } }],
        action: Action::Errno(l::EPERM),
        reason: "SOCK_PACKET makes a packet socket of another shape, in any family",
    },
    Rule {
        call: l::SYS_socket,
        when: &[is(0, l::AF_PACKET)],
        action: Action::Ask,
        reason: "packet sockets are made in the host's network, marked, and handed over",
    },
    Rule {
        call: l::SYS_bind,
        when: &[Cond { arg: 2, test: Test::AtLeast(SOCKADDR_LL) }],
        action: Action::Ask,
        reason: "only the watched interfaces; no packet socket takes a shorter address",
    },
    Rule {
        call: l::SYS_setsockopt,
        when: &[SOL_PACKET, is(2, l::PACKET_FANOUT)],
        action: Action::Ask,
        reason: "group ids belong to the whole network namespace: they are translated",
    },
    Rule {
        call: l::SYS_setsockopt,
        when: &[SOL_PACKET, is(2, l::PACKET_RX_RING)],
        action: Action::Ask,
        reason: "ring memory is charged to nobody: it is limited here",
    },
    Rule {
        call: l::SYS_setsockopt,
        when: &[SOL_PACKET, is(2, l::PACKET_ADD_MEMBERSHIP)],
        action: Action::Ask,
        reason: "names an interface by index, and each distinct address takes kernel memory",
    },
    Rule {
        call: l::SYS_setsockopt,
        when: &[SOL_PACKET, is(2, l::PACKET_DROP_MEMBERSHIP)],
        action: Action::Ask,
        reason: "the counterpart of PACKET_ADD_MEMBERSHIP",
    },
    Rule {
        call: l::SYS_setsockopt,
        when: &[
            SOL_PACKET,
            // Asked about above.
            option(l::PACKET_FANOUT),
            option(l::PACKET_RX_RING),
            option(l::PACKET_ADD_MEMBERSHIP),
            option(l::PACKET_DROP_MEMBERSHIP),
            // Of the socket's own receiving side alone.
            option(l::PACKET_RECV_OUTPUT),
            option(l::PACKET_STATISTICS),
            option(l::PACKET_COPY_THRESH),
            option(l::PACKET_AUXDATA),
            option(l::PACKET_ORIGDEV),
            option(l::PACKET_VERSION),
            option(l::PACKET_HDRLEN),
            option(l::PACKET_RESERVE),
            option(l::PACKET_LOSS),
            option(l::PACKET_TIMESTAMP),
            option(l::PACKET_ROLLOVER_STATS),
            option(l::PACKET_FANOUT_DATA),
            option(l::PACKET_IGNORE_OUTGOING),
        ],
        action: Action::Errno(l::EPERM),
        reason: "PACKET_QDISC_BYPASS goes round the transmit guard; PACKET_TX_RING, TX_TIMESTAMP, \
                 TX_HAS_OFF and VNET_HDR serve sending; the rest is not known",
    },
];

/// The rules of a portspace that watches packets.
pub fn rules() -> &'static [Rule] {
    PACKET_RULES
}

/// A rule set could not be compiled.
#[derive(Debug, thiserror::Error)]
#[error("compile the packet window's seccomp rules: {0}")]
pub struct CompileError(#[from] seccompiler::BackendError);

/// Compiles rules to filters, one for each action, to be installed beside the portspace's own:
/// whatever no rule names is let through by them. The filter that asks, if there is one, is the
/// second of the pair, and needs a listener.
///
/// # Errors
/// If a rule cannot be expressed: a fault in the data.
pub fn compile(rules: &[Rule]) -> Result<(Vec<BpfProgram>, Option<BpfProgram>), CompileError> {
    let mut actions: BTreeMap<Action, Vec<&Rule>> = BTreeMap::new();
    for rule in rules {
        actions.entry(rule.action).or_default().push(rule);
    }
    let (mut refusing, mut asking) = (Vec::new(), None);
    for (action, rules) in actions {
        match action {
            Action::Ask => asking = Some(compile_asking(&rules)?),
            Action::Errno(errno) => {
                let action = SeccompAction::Errno(errno.cast_unsigned());
                refusing.push(filter(&rules, SeccompAction::Allow, action)?);
            }
        }
    }
    Ok((refusing, asking))
}

fn compile_asking(rules: &[&Rule]) -> Result<BpfProgram, CompileError> {
    let placeholder = SeccompAction::Trace(0);
    let mut program = filter(rules, SeccompAction::Allow, placeholder)?;
    hyperspector_sys::seccomp_notify::ask_instead_of(l::SECCOMP_RET_TRACE, &mut program);
    Ok(program)
}

/// One filter: `matched` for the calls that a rule names, else `otherwise`. Calls of another
/// architecture kill the process.
pub(crate) fn filter(
    rules: &[&Rule],
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, CompileError> {
    let mut calls: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for rule in rules {
        let chain = calls.entry(rule.call).or_default();
        if !rule.when.is_empty() {
            let when = rule.when.iter().map(condition).collect::<Result<_, _>>()?;
            chain.push(SeccompRule::new(when)?);
        }
    }
    // For the compiler an empty list means "always", so one rule without conditions wins.
    for rule in rules.iter().filter(|rule| rule.when.is_empty()) {
        calls.insert(rule.call, Vec::new());
    }
    let architecture = std::env::consts::ARCH.try_into()?;
    Ok(SeccompFilter::new(calls, otherwise, matched, architecture)?.try_into()?)
}

fn condition(cond: &Cond) -> Result<SeccompCondition, seccompiler::BackendError> {
    let (operator, value) = match cond.test {
        Test::Is(value) => (SeccompCmpOp::Eq, value),
        Test::IsNot(value) => (SeccompCmpOp::Ne, value),
        Test::AtLeast(value) => (SeccompCmpOp::Ge, value),
        Test::Masked { mask, value } => (SeccompCmpOp::MaskedEq(mask.into()), value),
    };
    SeccompCondition::new(cond.arg, SeccompCmpArgLen::Dword, operator, value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the rules say to a call, the strictest answer first.
    fn judge(call: i64, args: [u64; 6]) -> Option<Action> {
        let holds = |cond: &Cond| {
            let arg = u32::try_from(args[usize::from(cond.arg)] & 0xffff_ffff).unwrap();
            match cond.test {
                Test::Is(value) => arg == value,
                Test::IsNot(value) => arg != value,
                Test::AtLeast(value) => arg >= value,
                Test::Masked { mask, value } => arg & mask == value,
            }
        };
        rules()
            .iter()
            .filter(|rule| rule.call == call && rule.when.iter().all(holds))
            .map(|rule| rule.action)
            .max()
    }

    fn option(name: i32) -> Option<Action> {
        judge(l::SYS_setsockopt, [3, 263, u64::from(name.cast_unsigned()), 0, 4, 0])
    }

    #[test]
    fn every_rule_has_a_reason_and_compiles() {
        assert!(rules().iter().all(|rule| rule.reason.len() > 10));
        let (refusing, asking) = compile(rules()).unwrap();
        assert_eq!(refusing.len(), 1);
        assert!(asking.unwrap().iter().any(|i| i.k == l::SECCOMP_RET_USER_NOTIF));
    }

    #[test]
    fn options_that_send_are_refused_and_those_that_reach_out_are_asked_about() {
        let refused = Some(Action::Errno(l::EPERM));
        for name in [l::PACKET_TX_RING, l::PACKET_QDISC_BYPASS, l::PACKET_VNET_HDR, 99, -1] {
            assert_eq!(option(name), refused, "option {name}");
        }
        for name in [l::PACKET_FANOUT, l::PACKET_RX_RING, l::PACKET_ADD_MEMBERSHIP] {
            assert_eq!(option(name), Some(Action::Ask), "option {name}");
        }
        for name in [l::PACKET_VERSION, l::PACKET_AUXDATA, l::PACKET_FANOUT_DATA] {
            assert_eq!(option(name), None, "option {name}");
        }
    }

    #[test]
    fn the_high_half_of_an_argument_hides_nothing() {
        let level = (7 << 32) | 263;
        let bypass = u64::from(l::PACKET_QDISC_BYPASS.cast_unsigned()) | (1 << 40);
        let action = judge(l::SYS_setsockopt, [3, level, bypass, 0, 4, 0]);
        assert_eq!(action, Some(Action::Errno(l::EPERM)));
    }

    #[test]
    fn sock_packet_is_refused_whatever_the_family_and_flags() {
        let kind = 10 | 0o2_000_000;
        assert_eq!(judge(l::SYS_socket, [2, kind, 0, 0, 0, 0]), Some(Action::Errno(l::EPERM)));
        assert_eq!(judge(l::SYS_socket, [17, kind, 0, 0, 0, 0]), Some(Action::Errno(l::EPERM)));
        assert_eq!(judge(l::SYS_socket, [17, 3, 0, 0, 0, 0]), Some(Action::Ask));
        assert_eq!(judge(l::SYS_socket, [2, 1, 0, 0, 0, 0]), None);
    }

    #[test]
    fn short_addresses_are_bound_by_the_kernel_itself() {
        assert_eq!(judge(l::SYS_bind, [3, 0, 16, 0, 0, 0]), None);
        assert_eq!(judge(l::SYS_bind, [3, 0, 20, 0, 0, 0]), Some(Action::Ask));
        assert_eq!(judge(l::SYS_bind, [3, 0, u64::MAX, 0, 0, 0]), Some(Action::Ask));
    }
}
