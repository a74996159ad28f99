//! Who may talk to whom, from names to addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::addresses::Assigned;
use crate::model::{Allow, AllowRule, Hyperspector};
use crate::plan::{Flow, Open, Policy};
use crate::reader::At;

/// What the hub of `hyperspector` on `host` lets through.
pub(super) fn policy(hyperspector: &Hyperspector, assigned: &Assigned, host: &str) -> Policy {
    let everything = matches!(hyperspector.allow, Allow::All(_));
    let flows = if everything { Vec::new() } else { flows(hyperspector, assigned, host) };
    Policy { everything, flows, rates: rates(hyperspector, host) }
}

fn rates(hyperspector: &Hyperspector, host: &str) -> BTreeMap<String, u64> {
    let here = hyperspector.portspaces.iter().filter(|portspace| portspace.is_on(host));
    here.filter_map(|p| Some((p.name.value.clone(), p.rate?))).collect()
}

/// The flows with an end on `host`, each once; where two say the same and one has priority, that one.
fn flows(hyperspector: &Hyperspector, assigned: &Assigned, host: &str) -> Vec<Flow> {
    let mut flows = BTreeMap::new();
    let mut add = |from: &[&End<'_>], to: &[&End<'_>], open: &[Open], priority: bool| {
        for (from, to) in
            pairs(from, to, hyperspector).filter(|(a, b)| [a.host, b.host].contains(&host))
        {
            for open in open {
                *flows.entry((from.address, to.address, *open)).or_default() |= priority;
            }
        }
    };
    let ends: Vec<_> = assigned.iter().map(End::new).collect();
    let everybody: Vec<_> = ends.iter().collect();
    add(&everybody, &named(&ends, &hyperspector.collectors), &[Open::Everything], false);
    if let Allow::Rules(rules) = &hyperspector.allow {
        for AllowRule { from, to, open, priority } in rules {
            let from = from.as_ref().map(|names| named(&ends, names));
            add(from.as_deref().unwrap_or(&everybody), &named(&ends, to), open, *priority);
        }
    }
    let flow = |((from, to, open), priority)| Flow { from, to, open, priority };
    flows.into_iter().map(flow).collect()
}

/// A portspace on a host.
struct End<'a> {
    portspace: &'a str,
    host: &'a str,
    address: Ipv4Addr,
}

impl<'a> End<'a> {
    fn new(((portspace, host), address): (&'a (String, String), &Ipv4Addr)) -> Self {
        Self { portspace, host, address: *address }
    }
}

/// Those that `names` mean: `nids`, wherever it is, or `nids.web1`.
fn named<'a>(ends: &'a [End<'a>], names: &[At<String>]) -> Vec<&'a End<'a>> {
    let names: BTreeSet<&str> = names.iter().map(|name| name.value.as_str()).collect();
    let is_meant = |end: &&End<'_>| {
        names.contains(end.portspace)
            || names.iter().any(|name| name.split_once('.') == Some((end.portspace, end.host)))
    };
    ends.iter().filter(is_meant).collect()
}

/// Everybody with everybody else that it has a way to.
fn pairs<'a>(
    from: &'a [&'a End<'a>],
    to: &'a [&'a End<'a>],
    hyperspector: &'a Hyperspector,
) -> impl Iterator<Item = (&'a End<'a>, &'a End<'a>)> {
    let all = from.iter().flat_map(move |from| to.iter().map(move |to| (*from, *to)));
    all.filter(|(from, to)| from.address != to.address).filter(move |(from, to)| {
        from.host == to.host || hyperspector.are_peers(from.host, to.host)
    })
}
