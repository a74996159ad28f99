//! Keeping a portspace from becoming a user of a server space that it watches.
//!
//! The ids of such a server are mapped into the portspace, so that its root can read the server's
//! files. Whoever *had* one of them could signal nobody, in another PID namespace; but the kernel
//! counts some things for each user of the host (pipe pages, epoll watches, descriptors in flight), and
//! the server's share could be used up.

use crate::config::{Compare, Condition, IdRange, Rule, RuleAction};

/// The calls that take user ids, and how many.
const CALLS: [(i64, u8); 4] = [
    (libc::SYS_setuid, 1),
    (libc::SYS_setreuid, 2),
    (libc::SYS_setresuid, 3),
    (libc::SYS_setfsuid, 1),
];

/// What leaves an id as it is.
const SAME: u64 = 0xffff_ffff;

/// Refuses ids outside of a space's own range, as if they were not mapped.
pub(crate) fn rules() -> Vec<Rule> {
    let rule = |syscall, argument| {
        let when = |compare, value| Condition { argument, compare, value };
        let own = u64::from(IdRange::SIZE);
        Rule {
            syscall,
            conditions: vec![when(Compare::AtLeast, own), when(Compare::NotEqual, SAME)],
            action: RuleAction::Errno(libc::EINVAL as u16),
        }
    };
    let all = CALLS.iter().flat_map(|(call, count)| (0..*count).map(move |at| (*call, at)));
    all.map(|(call, at)| rule(call, at)).collect()
}
