//! How much goes out over the VPN, and what goes first: an HTB scheduler (tc-htb(8)) on its
//! interface in the hub.
//!
//! Each portspace has a class, and below it one for what has priority and one for the rest: each of
//! the two has half of the portspace's rate for itself and may take all, so that what has priority
//! does not wait for more than the packet that is being sent. The rules say which packet is in which
//! class; nothing inside a portspace has a say in it.

use hyperspector_spec::plan::Policy;
use hyperspector_sys::netlink::{Class, Connection, Error};

use super::plan::VPN;

/// The number of the scheduler, in the upper half of each class's.
const SCHEDULER: u32 = 1 << 16;

/// What is in no portspace's class: the hub's own messages about packets. Its queue must not have the
/// scheduler's number.
const REST: u32 = 2;

/// What a class without a limit gets, in bytes per second: as much as can be said.
const ENDLESS: u32 = u32::MAX;

/// The least that may wait in a class, in bytes: two packets of the largest kind.
const LEAST_QUEUE: u32 = 128 << 10;

/// The most, where there is no limit.
const GREATEST_QUEUE: u32 = 4 << 20;

/// The class of what a portspace sends, by its place in the hub's list. The class before it is the
/// portspace's whole, the one after it is for what goes first.
pub(super) fn bulk_class(number: usize) -> u32 {
    // More portspaces than classes would share the last.
    let number = u32::try_from(number).unwrap_or(u32::MAX).min(16_000);
    SCHEDULER | (4 * number + 6)
}

/// The class of what goes first.
pub(super) fn urgent_class(number: usize) -> u32 {
    bulk_class(number) + 1
}

/// The classes that `policy` means for these portspaces; none where there is nothing to limit.
fn wanted(policy: &Policy, ports: &[&str]) -> Vec<Class> {
    let is_limited = ports.iter().any(|port| policy.rates.contains_key(*port));
    if !is_limited {
        return Vec::new();
    }
    let class = |number, parent, rate, ceiling, order| Class {
        number,
        parent,
        rate,
        ceiling,
        order,
        queue: Some((ceiling / 10).clamp(LEAST_QUEUE, GREATEST_QUEUE)),
    };
    let mut classes = vec![class(SCHEDULER | REST, SCHEDULER, ENDLESS, ENDLESS, 0)];
    for (number, port) in ports.iter().enumerate() {
        let rate = policy.rates.get(*port).map(|bits| u32::try_from(bits / 8).unwrap_or(ENDLESS));
        let rate = rate.unwrap_or(ENDLESS);
        let whole = bulk_class(number) - 1;
        classes.push(Class { queue: None, ..class(whole, SCHEDULER, rate, rate, 0) });
        classes.push(class(bulk_class(number), whole, rate / 2, rate, 1));
        classes.push(class(urgent_class(number), whole, rate / 2, rate, 0));
    }
    classes
}

/// Makes the scheduler of the VPN's interface what `policy` means. What waits goes on waiting where
/// its class stays.
pub(super) fn apply(
    netlink: &mut Connection,
    policy: &Policy,
    ports: &[&str],
) -> Result<(), Error> {
    let wanted = wanted(policy, ports);
    if wanted.is_empty() {
        return netlink.delete_scheduler(VPN);
    }
    netlink.add_scheduler(VPN, SCHEDULER, REST)?;
    for class in &wanted {
        netlink.set_class(VPN, class)?;
    }
    let mut surplus: Vec<_> = netlink.classes(VPN)?.into_iter().map(|(number, _)| number).collect();
    surplus.retain(|number| !wanted.iter().any(|class| class.number == *number));
    // A class goes after those below it, whose numbers are higher.
    surplus.sort_unstable_by(|a, b| b.cmp(a));
    surplus.into_iter().try_for_each(|number| netlink.delete_class(VPN, number))
}

/// How many packets of each portspace were dropped since its rate was used up.
pub(super) fn dropped(classes: &[(u32, u64)], ports: &[&str]) -> Vec<u64> {
    let of = |number: u32| {
        classes.iter().filter(|class| class.0 == number).map(|class| class.1).sum::<u64>()
    };
    (0..ports.len()).map(|number| of(bulk_class(number)) + of(urgent_class(number))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_rate_is_kept_for_what_goes_first() {
        let policy = Policy { rates: [("a".into(), 8_000_000)].into(), ..Policy::default() };
        let classes = wanted(&policy, &["a", "b"]);
        assert_eq!(classes.len(), 7);
        let shown: Vec<_> =
            classes[1..4].iter().map(|c| (c.number & 0xffff, c.rate, c.ceiling, c.order)).collect();
        let expected =
            [(5, 1_000_000, 1_000_000, 0), (6, 500_000, 1_000_000, 1), (7, 500_000, 1_000_000, 0)];
        assert_eq!(shown, expected);
        assert!(classes[4..].iter().all(|class| class.ceiling == ENDLESS));
        assert!(wanted(&policy, &["b"]).is_empty());
    }

    #[test]
    fn classes_have_numbers_of_their_own() {
        let all: std::collections::BTreeSet<_> =
            (0..100).flat_map(|n| [bulk_class(n) - 1, bulk_class(n), urgent_class(n)]).collect();
        assert_eq!(all.len(), 300);
        assert!(!all.contains(&(SCHEDULER | REST)) && all.iter().all(|n| n >> 16 == 1));
        // The rules turn one into the other by its lowest bit.
        assert_eq!(bulk_class(3) ^ 1, urgent_class(3));
    }
}
