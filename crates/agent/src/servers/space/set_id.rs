//! Keeping a server space from leaving set-user-id files in directories of the host.
//!
//! What root inside writes to a writable mount belongs to root of the host. A file of root's that is
//! set-user-id would make anybody on the host root who runs it, and the mount's own `nosuid` counts
//! inside alone. So spaces that have such a mount cannot give files these bits.

use hyperspector_space::config::{Compare, Condition, Rule, RuleAction};

/// Set-user-id and set-group-id. The latter is also how directories pass on their group, but the
/// kernel tells nobody beforehand which of the two it would be.
const BITS: [u32; 2] = [libc::S_ISUID, libc::S_ISGID];

/// Calls that take a mode, and which argument that is.
const CALLS: [(i64, u8); 7] = [
    (libc::SYS_chmod, 1),
    (libc::SYS_fchmod, 1),
    (libc::SYS_fchmodat, 2),
    (libc::SYS_fchmodat2, 2),
    (libc::SYS_creat, 1),
    (libc::SYS_mknod, 1),
    (libc::SYS_mknodat, 2),
];

/// Calls that take a mode where their flags say that a file is made: flags, then mode.
const OPENS: [(i64, u8, u8); 2] = [(libc::SYS_open, 1, 2), (libc::SYS_openat, 2, 3)];

/// The flags that make a file (open(2)): `O_TMPFILE` without the directory flag in it.
const MAKES: [i32; 2] = [libc::O_CREAT, libc::O_TMPFILE & !libc::O_DIRECTORY];

/// The rules, for the spaces that have a writable mount.
pub(crate) fn rules() -> Vec<Rule> {
    let refuse = |syscall, conditions| Rule { syscall, conditions, action: errno(libc::EPERM) };
    let mut rules = Vec::new();
    for bit in BITS {
        rules.extend(CALLS.map(|(call, mode)| refuse(call, vec![has(mode, bit)])));
        for (call, flags, mode) in OPENS {
            let makes = |flag: i32| vec![has(flags, flag.cast_unsigned()), has(mode, bit)];
            rules.extend(MAKES.map(|flag| refuse(call, makes(flag))));
        }
    }
    // Its mode is in memory. Programs fall back to openat(2), as on a kernel before 5.6.
    rules.push(Rule {
        syscall: libc::SYS_openat2,
        conditions: Vec::new(),
        action: errno(libc::ENOSYS),
    });
    rules
}

fn errno(number: i32) -> RuleAction {
    RuleAction::Errno(u16::try_from(number).unwrap_or(libc::EPERM as u16))
}

fn has(argument: u8, bits: u32) -> Condition {
    let bits = u64::from(bits);
    Condition { argument, compare: Compare::Masked(bits), value: bits }
}
