//! How much goes out over the VPN and to other portspaces of the host, and what goes first: an HTB
//! scheduler (tc-htb(8)) on each of the hub's interfaces.
//!
//! Each portspace has a class there, and below it one for what has priority and one for the rest: each
//! of the two has half of the portspace's rate for itself and may take all, so that what has priority
//! does not wait for more than the packet that is being sent. The rules say which packet is in which
//! class; nothing inside a portspace has a say in it.

use std::net::Ipv4Addr;

use hyperspector_spec::plan::Policy;
use hyperspector_sys::netlink::{Class, Connection, Error};

use super::plan::{VPN, port_name};

/// A portspace, by name and address.
type Port<'a> = (&'a str, Ipv4Addr);

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

/// The classes that `policy` means on the way to `to`, for those of the portspaces that send there;
/// none where there is nothing to limit.
fn wanted(policy: &Policy, ports: &[Port<'_>], to: Option<Port<'_>>) -> Vec<Class> {
    let ports = || ports.iter().enumerate().filter(|(_, from)| sends(policy, **from, to));
    if !ports().any(|(_, (name, _))| policy.rates.contains_key(*name)) {
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
    for (number, (port, _)) in ports() {
        let rate = policy.rates.get(*port).map(|bits| u32::try_from(bits / 8).unwrap_or(ENDLESS));
        let rate = rate.unwrap_or(ENDLESS);
        let whole = bulk_class(number) - 1;
        classes.push(Class { queue: None, ..class(whole, SCHEDULER, rate, rate, 0) });
        classes.push(class(bulk_class(number), whole, rate / 2, rate, 1));
        classes.push(class(urgent_class(number), whole, rate / 2, rate, 0));
    }
    classes
}

/// Whether a portspace has something to say to another one here, which may be an answer.
fn sends(policy: &Policy, from: Port<'_>, to: Option<Port<'_>>) -> bool {
    let Some(to) = to else { return true };
    let ends = [(from.1, to.1), (to.1, from.1)];
    from != to
        && (policy.everything
            || policy.flows.iter().any(|flow| ends.contains(&(flow.from, flow.to))))
}

/// Makes the schedulers of the hub's interfaces what `policy` means, as far as those are there, or that
/// of the interface to `only` one portspace. What waits goes on waiting where its class stays.
pub(super) fn apply(
    netlink: &mut Connection,
    policy: &Policy,
    ports: &[Port<'_>],
    only: Option<&str>,
) -> Result<(), Error> {
    let is_meant = |to: Option<Port<'_>>| only.is_none_or(|only| to.is_some_and(|to| to.0 == only));
    for (link, to) in links(ports).into_iter().filter(|(_, to)| is_meant(*to)) {
        match netlink.link(&*link) {
            Err(error) if error.is_not_found() => {}
            other => {
                let index = other?.index;
                apply_to(netlink, index, &wanted(policy, ports, to))?;
            }
        }
    }
    Ok(())
}

/// The hub's interfaces, and to whom they lead: the VPN to nobody here.
fn links<'a>(ports: &[Port<'a>]) -> Vec<(String, Option<Port<'a>>)> {
    let to_ports = ports.iter().map(|port| (port_name(port.0), Some(*port)));
    std::iter::once((VPN.to_owned(), None)).chain(to_ports).collect()
}

fn apply_to(netlink: &mut Connection, link: u32, wanted: &[Class]) -> Result<(), Error> {
    if wanted.is_empty() {
        return netlink.delete_scheduler(link);
    }
    netlink.add_scheduler(link, SCHEDULER, REST)?;
    for class in wanted {
        netlink.set_class(link, class)?;
    }
    let mut surplus: Vec<_> =
        netlink.classes(link)?.into_iter().map(|(number, _)| number).collect();
    surplus.retain(|number| !wanted.iter().any(|class| class.number == *number));
    // A class goes after those below it, whose numbers are higher.
    surplus.sort_unstable_by(|a, b| b.cmp(a));
    surplus.into_iter().try_for_each(|number| netlink.delete_class(link, number))
}

/// How many packets of each portspace were dropped since its rate was used up, wherever they were
/// to go.
pub(super) fn dropped(netlink: &mut Connection, ports: &[Port<'_>]) -> Vec<u64> {
    // Without a scheduler, or without the interface, nothing is limited.
    let classes =
        links(ports).into_iter().flat_map(|(link, _)| netlink.classes(&*link).unwrap_or_default());
    let classes: Vec<_> = classes.collect();
    let of = |number: u32| {
        classes.iter().filter(|class| class.0 == number).map(|class| class.1).sum::<u64>()
    };
    (0..ports.len()).map(|number| of(bulk_class(number)) + of(urgent_class(number))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: [Port<'static>; 2] =
        [("a", Ipv4Addr::new(10, 66, 0, 2)), ("b", Ipv4Addr::new(10, 66, 0, 3))];

    #[test]
    fn half_of_a_rate_is_kept_for_what_goes_first() {
        let policy = Policy { rates: [("a".into(), 8_000_000)].into(), ..Policy::default() };
        let classes = wanted(&policy, &PORTS, None);
        assert_eq!(classes.len(), 7);
        let shown: Vec<_> =
            classes[1..4].iter().map(|c| (c.number & 0xffff, c.rate, c.ceiling, c.order)).collect();
        let expected =
            [(5, 1_000_000, 1_000_000, 0), (6, 500_000, 1_000_000, 1), (7, 500_000, 1_000_000, 0)];
        assert_eq!(shown, expected);
        assert!(classes[4..].iter().all(|class| class.ceiling == ENDLESS));
        assert!(wanted(&policy, &PORTS[1..], None).is_empty());
    }

    #[test]
    fn to_a_neighbour_those_are_limited_who_talk_with_it() {
        use hyperspector_spec::plan::{Flow, Open};
        let mut policy = Policy { rates: [("a".into(), 8_000_000)].into(), ..Policy::default() };
        let [a, b] = PORTS;
        assert!(wanted(&policy, &PORTS, Some(b)).is_empty());
        for (from, to) in [(a.1, b.1), (b.1, a.1)] {
            policy.flows = vec![Flow { from, to, open: Open::Everything, priority: false }];
            assert_eq!(wanted(&policy, &PORTS, Some(b)).len(), 4);
            // b has no rate, and a does not talk with itself.
            assert!(wanted(&policy, &PORTS, Some(a)).is_empty());
        }
        let policy = Policy { everything: true, flows: Vec::new(), ..policy };
        assert_eq!(wanted(&policy, &PORTS, Some(b)), wanted(&policy, &PORTS[..1], None));
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
