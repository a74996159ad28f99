//! Turning the policy into seccomp filters and installing them (seccomp(2)).
//!
//! One filter answers all but the calls that are brokered. It is put together of one program for each
//! errno that arguments are refused with, and of the lists of calls that are allowed and refused
//! whatever they say: the kernel goes through each filter for calls whose arguments are judged, and
//! each costs. Brokered calls have a filter of their own; the kernel takes the strictest answer.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::listing;
use super::policy::{ALLOWED, Group, REFUSED};
use crate::config::{Compare, Condition, Rule, RuleAction};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The namespaces that clone(2) could make.
const NAMESPACE_FLAGS: [i32; 8] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWTIME,
];

/// Address families that a portspace may have sockets of; packet sockets are the window's affair.
const FAMILIES: [i32; 5] =
    [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET];

/// Netlink protocols that a portspace may speak: routing, to list its own interfaces and addresses,
/// and socket diagnosis, to list its own sockets. Others tell about the whole machine (uevents are
/// broadcast into every network namespace that the initial user namespace owns), or are large.
const NETLINK_PROTOCOLS: [i32; 2] = [libc::NETLINK_ROUTE, libc::NETLINK_SOCK_DIAG];

/// Internet protocols that a portspace may speak; others are kernel modules loaded on demand.
const INTERNET_PROTOCOLS: [i32; 5] =
    [0, libc::IPPROTO_ICMP, libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_ICMPV6];

/// Arguments that are refused with `EPERM`, beside the calls that are refused whatever they say.
fn refused_arguments() -> Vec<Rule> {
    let refuse =
        |syscall, conditions| Rule { syscall, conditions, action: RuleAction::Errno(EPERM) };
    let equal = |argument, value: i64| Condition {
        argument,
        compare: Compare::Equal,
        value: value.cast_unsigned(),
    };
    let mut rules: Vec<Rule> = NAMESPACE_FLAGS
        .iter()
        .map(|flag| {
            let flag = u64::from(flag.cast_unsigned());
            let set = Condition { argument: 0, compare: Compare::Masked(flag), value: flag };
            refuse(libc::SYS_clone, vec![set])
        })
        .collect();
    // A character typed into somebody's terminal is a command run as them (tty_ioctl(4)).
    // A line discipline is kernel code that is loaded on demand.
    for request in [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCCONS, libc::TIOCSETD] {
        rules.push(refuse(libc::SYS_ioctl, vec![equal(1, request.cast_signed())]));
    }
    // A lease or delegation on a server's file makes the server wait when it opens or renames it; a
    // write hint is kept in the inode, whatever the mount says (fcntl(2)).
    for command in [libc::F_SETLEASE, F_SETDELEG, F_SET_RW_HINT, F_SET_FILE_RW_HINT] {
        rules.push(refuse(libc::SYS_fcntl, vec![equal(1, i64::from(command))]));
    }
    // Huge pages are set aside for the whole machine, and no limit on memory counts them.
    for (call, argument, flag) in [
        (libc::SYS_mmap, 3, libc::MAP_HUGETLB.cast_unsigned()),
        (libc::SYS_memfd_create, 1, libc::MFD_HUGETLB),
    ] {
        let flag = u64::from(flag);
        rules.push(refuse(
            call,
            vec![Condition { argument, compare: Compare::Masked(flag), value: flag }],
        ));
    }
    // Limits of its own alone: those of init would end it.
    let other = Condition { argument: 0, compare: Compare::NotEqual, value: 0 };
    rules.push(refuse(libc::SYS_prlimit64, vec![other]));
    // Core dumps stay off: any limit but 1 would let the host's handler, which is root, read this
    // process's memory (core(5)).
    let core = |argument| equal(argument, i64::from(libc::RLIMIT_CORE));
    let new_limit = Condition { argument: 2, compare: Compare::NotNull, value: 0 };
    rules.push(refuse(libc::SYS_setrlimit, vec![core(0)]));
    rules.push(refuse(libc::SYS_prlimit64, vec![core(1), new_limit]));
    // SOCK_PACKET under AF_INET is a packet socket of 1996 (packet(7)).
    let sock_packet = Condition { argument: 1, compare: Compare::Masked(0xf), value: SOCK_PACKET };
    rules.push(refuse(libc::SYS_socket, vec![sock_packet]));
    // Any personality but the plain ones (personality(2)) changes how addresses are laid out or
    // how calls are read.
    let not = |value: u64| Condition { argument: 0, compare: Compare::NotEqual, value };
    rules.push(refuse(
        libc::SYS_personality,
        vec![not(0), not(0xffff_ffff), not(libc::ADDR_NO_RANDOMIZE as u64)],
    ));
    rules
}

/// Write hints (include/uapi/linux/fcntl.h), which libc lacks.
const F_SET_RW_HINT: i32 = 1024 + 12;
const F_SET_FILE_RW_HINT: i32 = 1024 + 14;
/// Delegations, from Linux 6.19 on (F_SETDELEG(2const)).
const F_SETDELEG: i32 = 1024 + 16;

/// libc marks its own constant as deprecated, which is why it is refused.
const SOCK_PACKET: u64 = 10;

/// Refuses the sockets of a family that speak another protocol than these.
fn only_protocols(family: i32, protocols: &[i32]) -> Rule {
    let others = protocols.iter().map(|protocol| (2, Compare::NotEqual, *protocol));
    Rule {
        syscall: libc::SYS_socket,
        conditions: std::iter::once((0, Compare::Equal, family))
            .chain(others)
            .map(|(argument, compare, value)| Condition {
                argument,
                compare,
                value: u64::from(value.cast_unsigned()),
            })
            .collect(),
        action: RuleAction::Errno(libc::EPROTONOSUPPORT as u16),
    }
}

const EPERM: u16 = libc::EPERM as u16;

/// The filters of a space.
struct Programs {
    answering: BpfProgram,
    /// Notifies where `rules` do.
    notifying: Option<BpfProgram>,
}

/// Compiles the policy and the windows' `rules`.
fn compile(rules: &[Rule]) -> io::Result<Programs> {
    let mut by_errno: BTreeMap<u16, Rules> = BTreeMap::new();
    let families: Vec<Condition> = FAMILIES
        .iter()
        .map(|family| Condition {
            argument: 0,
            compare: Compare::NotEqual,
            value: u64::from(family.cast_unsigned()),
        })
        .collect();
    let other_protocols = [
        only_protocols(libc::AF_NETLINK, &NETLINK_PROTOCOLS),
        only_protocols(libc::AF_INET, &INTERNET_PROTOCOLS),
        only_protocols(libc::AF_INET6, &INTERNET_PROTOCOLS),
    ];
    let other_families = Rule {
        syscall: libc::SYS_socket,
        conditions: families,
        action: RuleAction::Errno(libc::EAFNOSUPPORT as u16),
    };
    let mut notified = Rules::new();
    for rule in
        refused_arguments().iter().chain([&other_families]).chain(&other_protocols).chain(rules)
    {
        let list = match rule.action {
            RuleAction::Errno(errno) => by_errno.entry(errno).or_default(),
            RuleAction::Notify => &mut notified,
        };
        add(list, rule)?;
    }
    // Where two errnos hold, the first is answered: `EPERM` where it is one.
    let mut answering = BpfProgram::new();
    for (number, rules) in by_errno {
        let refusing = program(rules, SeccompAction::Allow, errno(number))?;
        answering.extend(falling_through(refusing));
    }
    answering.extend(by_number());
    let notifying = if notified.is_empty() { None } else { Some(notifying(notified)?) };
    Ok(Programs { answering, notifying })
}

fn errno(number: u16) -> SeccompAction {
    SeccompAction::Errno(u32::from(number))
}

/// What is answered whatever the arguments are: calls that are on no list do not exist.
fn by_number() -> BpfProgram {
    let answered = |groups: &'static [Group], answer| {
        groups.iter().flat_map(|group| group.calls).map(move |(number, _)| (*number, answer))
    };
    let refused = libc::SECCOMP_RET_ERRNO | u32::from(EPERM);
    let calls = answered(ALLOWED, libc::SECCOMP_RET_ALLOW).chain(answered(REFUSED, refused));
    listing::program(calls, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32)
}

/// The program, going on with what comes after it where it would allow.
fn falling_through(mut program: BpfProgram) -> BpfProgram {
    let length = program.len();
    for (index, one) in program.iter_mut().enumerate() {
        if u32::from(one.code) == libc::BPF_RET | libc::BPF_K && one.k == libc::SECCOMP_RET_ALLOW {
            one.code = (libc::BPF_JMP | libc::BPF_JA) as u16;
            one.k = (length - index - 1) as u32;
        }
    }
    program
}

fn add(list: &mut Rules, rule: &Rule) -> io::Result<()> {
    let entry = list.get_mut(&rule.syscall);
    if rule.conditions.is_empty() {
        list.insert(rule.syscall, Vec::new());
        return Ok(());
    }
    let compiled = compiled(&rule.conditions)?;
    match entry {
        // The call is answered whatever its arguments are.
        Some(rules) if rules.is_empty() => {}
        Some(rules) => rules.push(compiled),
        None => {
            list.insert(rule.syscall, vec![compiled]);
        }
    }
    Ok(())
}

fn compiled(conditions: &[Condition]) -> io::Result<SeccompRule> {
    let conditions = conditions
        .iter()
        .map(|condition| {
            let (length, operator) = match condition.compare {
                Compare::Equal => (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq),
                Compare::NotEqual => (SeccompCmpArgLen::Dword, SeccompCmpOp::Ne),
                Compare::AtLeast => (SeccompCmpArgLen::Dword, SeccompCmpOp::Ge),
                Compare::Masked(mask) => (SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask)),
                Compare::NotNull => (SeccompCmpArgLen::Qword, SeccompCmpOp::Ne),
            };
            let value =
                if matches!(condition.compare, Compare::NotNull) { 0 } else { condition.value };
            SeccompCondition::new(condition.argument, length, operator, value)
        })
        .collect::<Result<_, _>>()
        .map_err(io::Error::other)?;
    SeccompRule::new(conditions).map_err(io::Error::other)
}

fn program(
    rules: Rules,
    mismatch: SeccompAction,
    matched: SeccompAction,
) -> io::Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, mismatch, matched, arch).map_err(io::Error::other)?;
    BpfProgram::try_from(filter).map_err(io::Error::other)
}

/// The return value that stands for `Trace` with this payload, and that becomes a notification.
const PLACEHOLDER: u32 = 0x4853;

/// seccompiler has no notifying action: a program that answers with a trace of a known payload is
/// compiled and its answer replaced.
fn notifying(rules: Rules) -> io::Result<BpfProgram> {
    let mut program = program(rules, SeccompAction::Allow, SeccompAction::Trace(PLACEHOLDER))?;
    let answer = libc::SECCOMP_RET_TRACE | PLACEHOLDER;
    let is_return = |instruction: &sock_filter| {
        u32::from(instruction.code) == libc::BPF_RET | libc::BPF_K && instruction.k == answer
    };
    let mut replaced = 0;
    for instruction in program.iter_mut().filter(|instruction| is_return(instruction)) {
        instruction.k = libc::SECCOMP_RET_USER_NOTIF;
        replaced += 1;
    }
    if replaced == 0 {
        return Err(io::Error::other("the notifying filter has no notifying answer"));
    }
    Ok(program)
}

/// Installs the policy and `rules` on this thread and all that come from it. Returns the listener
/// where `rules` notify.
///
/// no_new_privs must be set. The process must have one thread.
pub fn install(rules: &[Rule]) -> io::Result<Option<OwnedFd>> {
    let programs = compile(rules)?;
    // The listener first: the calls that install the rest must not be refused by what is there.
    let listener = programs.notifying.as_ref().map(listen).transpose()?;
    seccompiler::apply_filter(&programs.answering).map_err(io::Error::other)?;
    Ok(listener)
}

/// How many calls the allow-list lets through.
pub fn allowed_count() -> usize {
    ALLOWED.iter().map(|group| group.calls.len()).sum()
}

/// Installs a filter that notifies, and returns its listener. A call that waits for its answer can
/// only be interrupted by a fatal signal, where the kernel knows how (Linux 5.19), so that a
/// program's own signals cannot make the broker do things twice.
fn listen(program: &BpfProgram) -> io::Result<OwnedFd> {
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    install_filter(program, listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
        .or_else(|_| install_filter(program, listener))
}

fn install_filter(program: &BpfProgram, flags: libc::c_ulong) -> io::Result<OwnedFd> {
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let prog = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `prog` points to `program`, which lives across the call and holds `len` instructions
    // of the kernel's layout (seccompiler's sock_filter is repr(C) like it); the kernel only reads.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const prog)
    };
    let fd = RawFd::try_from(result).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: with NEW_LISTENER the call returned a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_compiles_and_fits_the_kernel() {
        let notify = Rule {
            syscall: libc::SYS_socket,
            conditions: vec![Condition {
                argument: 0,
                compare: Compare::Equal,
                value: libc::AF_PACKET as u64,
            }],
            action: RuleAction::Notify,
        };
        let programs = compile(&[notify]).unwrap();
        assert!(programs.notifying.is_some());
        let length = programs.answering.len();
        assert!(length < 4096, "{length} instructions");
    }

    #[test]
    fn without_rules_nothing_is_brokered() {
        assert!(compile(&[]).unwrap().notifying.is_none());
    }
}
