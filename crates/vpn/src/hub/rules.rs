//! What a hub lets through: nf_tables rules (nft(8)) in its network namespace.
//!
//! Connections are tracked, but no packet passes because its connection once did: each is looked up
//! by who began the connection, so that what is not allowed any more is cut off with the next
//! packet, and no end can begin what only the other may. Fragments are put together before.
//!
//! The rules are exchanged whole, in one step; counters stay. `nft list ruleset` shows them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use hyperspector_spec::plan::{Flow, Open, Policy, Ports, Protocol};
use hyperspector_sys::nft::expression::{
    Base, Ct, Meta, accept, bits, count, ct, drop, is, is_not, load, lookup, meta,
    more_connections_than, payload, reject, set_priority, state,
};
use hyperspector_sys::nft::{At, Batch, Expression, Field, Hook, SetKind};

use super::plan::port_name;
use super::shape;

/// The table's name.
pub(super) const TABLE: &str = "hyperspector";

/// How many connections one address may have at a time: a portspace that is taken must not fill the
/// table that all others need.
const MOST_CONNECTIONS: u32 = 4096;

/// How many addresses are kept count of.
const MOST_ADDRESSES: u32 = 65536;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;
const REDIRECT: u8 = 5;

/// What is refused of a portspace's packets, or to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// From it, to what it may not reach.
    From,
    /// To it, by who may not reach it.
    To,
    /// From an address that is not its own, or with IP options.
    Forged,
}

impl Refusal {
    pub(super) const ALL: [Self; 3] = [Self::From, Self::To, Self::Forged];

    /// The name of its counter for a portspace.
    pub(super) fn counter(self, portspace: &str) -> String {
        let prefix = match self {
            Self::From => "from",
            Self::To => "to",
            Self::Forged => "forged",
        };
        format!("{prefix}-{portspace}")
    }
}

/// Everything that `policy` means for a hub with these portspaces; counters of others, that are
/// among `counters`, go.
pub(super) fn batch(
    policy: &Policy,
    ports: &[(&str, Ipv4Addr)],
    counters: &[(String, u64)],
) -> Batch {
    let mut batch = Batch::new(TABLE);
    let wanted: Vec<_> = ports
        .iter()
        .flat_map(|(name, _)| Refusal::ALL.map(|refusal| refusal.counter(name)))
        .collect();
    wanted.iter().for_each(|name| {
        batch.counter(name);
    });
    prerouting(&mut batch, ports);
    local(&mut batch);
    sets(&mut batch, policy);
    forward(&mut batch, policy, ports);
    for (name, _) in counters.iter().filter(|(name, _)| !wanted.contains(name)) {
        batch.delete_counter(name);
    }
    batch
}

/// Who sends from an address that is not its own, or says by which way a packet is to go.
fn prerouting(batch: &mut Batch, ports: &[(&str, Ipv4Addr)]) {
    // Before connections are tracked: what is forged leaves no trace.
    batch.chain("prerouting", Hook { at: At::Prerouting, priority: -300, accept: true });
    // Version 4, and a header of five words: without options.
    let options = [payload(Base::Network, 0, 1, 0), is_not(0, &[0x45])];
    for (name, address) in ports {
        let counter = count(&Refusal::Forged.counter(name));
        let from = interface(Meta::InputName, &port_name(name));
        let other = [payload(Base::Network, 12, 4, 0), is_not(0, &address.octets())];
        for forged in [&other, &options] {
            batch.rule("prerouting", &[&from, &forged[..], &[counter.clone(), drop()]].concat());
        }
    }
    batch.rule("prerouting", &[&options[..], &[drop()]].concat());
}

/// The hub itself: nobody reaches it, and it says nothing but errors about packets.
fn local(batch: &mut Batch) {
    batch.chain("input", Hook { at: At::Input, priority: 0, accept: false });
    batch.chain("output", Hook { at: At::Output, priority: 0, accept: false });
    for kind in [3, 11, 12] {
        let error = [protocol(ICMP), icmp(kind), vec![accept()]].concat();
        batch.rule("output", &error);
    }
}

fn forward(batch: &mut Batch, policy: &Policy, ports: &[(&str, Ipv4Addr)]) {
    batch.chain("forward", Hook { at: At::Forward, priority: 0, accept: false });
    let mut rule = |parts: &[&[Expression]]| {
        batch.rule("forward", &parts.concat());
    };
    for (number, (name, _)) in ports.iter().enumerate() {
        let class = load(&shape::bulk_class(number).to_ne_bytes(), 0);
        let from = interface(Meta::InputName, &port_name(name));
        rule(&[&from, &[class, set_priority(0)]]);
    }
    let source = payload(Base::Network, 12, 4, 0);
    let too_many = more_connections_than(MOST_CONNECTIONS, "connections", 0);
    rule(&[&tracked(state::NEW), &[source, too_many, drop()]]);
    let not_a_redirect = [payload(Base::Transport, 0, 1, 0), is_not(0, &[REDIRECT]), accept()];
    rule(&[&tracked(state::RELATED), &protocol(ICMP), &not_a_redirect]);
    for direction in [Direction::Original, Direction::Reply] {
        accepted(direction, policy.everything, &mut rule);
    }
    for (name, _) in ports {
        let from = interface(Meta::InputName, &port_name(name));
        // Its sender is on this host, and gets to know it at once.
        rule(&[&from, &[count(&Refusal::From.counter(name)), reject()]]);
    }
    for (name, _) in ports {
        let to = interface(Meta::OutputName, &port_name(name));
        rule(&[&to, &[count(&Refusal::To.counter(name)), drop()]]);
    }
}

/// Which end of a connection a packet comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Original,
    Reply,
}

/// Rules for what is let through in one direction.
fn accepted(direction: Direction, everything: bool, rule: &mut impl FnMut(&[&[Expression]])) {
    let original = direction == Direction::Original;
    let states = if original { state::NEW | state::ESTABLISHED } else { state::ESTABLISHED };
    let begun =
        [vec![ct(Ct::Direction, 0), is(0, &[u8::from(!original)])], tracked(states)].concat();
    let echo = [protocol(ICMP), icmp(if original { ECHO } else { ECHO_REPLY })].concat();
    let pass: &[Expression] = &[accept()];
    if everything {
        for number in [TCP, UDP] {
            rule(&[&begun, &protocol(number), pass]);
        }
        return rule(&[&begun, &echo, pass]);
    }
    let hurry = [meta(Meta::Priority, 0), bits(0, !1, 1), set_priority(0), accept()];
    let ends = ends(direction);
    for (all, some, then) in [("urgent", "urgent-ports", &hurry[..]), ("open", "ports", pass)] {
        rule(&[&begun, &ends, &port(direction), &[lookup(some, 0)], then]);
        for number in [TCP, UDP] {
            // Protocols are looked at last: that takes register 0.
            rule(&[&begun, &ends, &[lookup(all, 0)], &protocol(number), then]);
        }
    }
    rule(&[&begun, &echo, &ends, &[lookup("pings", 0)], pass]);
}

/// The addresses of who began and of who answers, in registers 0 and 1.
fn ends(direction: Direction) -> Vec<Expression> {
    let (began, answers) = if direction == Direction::Original { (12, 16) } else { (16, 12) };
    vec![payload(Base::Network, began, 4, 0), payload(Base::Network, answers, 4, 1)]
}

/// The protocol, and the port of who answers, in registers 2 and 3.
fn port(direction: Direction) -> Vec<Expression> {
    let offset = if direction == Direction::Original { 2 } else { 0 };
    vec![meta(Meta::Protocol, 2), payload(Base::Transport, offset, 2, 3)]
}

fn interface(which: Meta, name: &str) -> Vec<Expression> {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(name.as_bytes()).for_each(|(to, from)| *to = *from);
    vec![meta(which, 0), is(0, &bytes)]
}

fn protocol(number: u8) -> Vec<Expression> {
    vec![meta(Meta::Protocol, 0), is(0, &[number])]
}

fn icmp(kind: u8) -> Vec<Expression> {
    vec![payload(Base::Transport, 0, 1, 0), is(0, &[kind])]
}

/// Goes on where the connection is in one of these states.
fn tracked(states: u32) -> Vec<Expression> {
    vec![ct(Ct::State, 0), bits(0, states, 0), is_not(0, &[0; 4])]
}

fn sets(batch: &mut Batch, policy: &Policy) {
    let ends = [Field::Address, Field::Address];
    let ports = [Field::Address, Field::Address, Field::Protocol, Field::Port];
    batch.set("connections", &[Field::Address], SetKind::Dynamic(MOST_ADDRESSES));
    for (name, priority) in [("urgent", true), ("open", false)] {
        let open = policy.flows.iter().filter(|flow| flow.open == Open::Everything);
        let keys: Vec<_> = open.filter(|flow| flow.priority == priority).map(pair).collect();
        batch.set(name, &ends, SetKind::Keys).elements(name, &keys);
    }
    for (name, priority) in [("urgent-ports", true), ("ports", false)] {
        let keys = ranges(policy.flows.iter().filter(|flow| flow.priority == priority));
        batch.set(name, &ports, SetKind::Ranges).elements(name, &keys);
    }
    let pings = policy.flows.iter().filter(|flow| !matches!(flow.open, Open::Ports(_)));
    let mut pings: Vec<_> = pings.map(pair).collect();
    pings.dedup();
    batch.set("pings", &ends, SetKind::Keys).elements("pings", &pings);
}

type Key = (Vec<u8>, Option<Vec<u8>>);

fn pair(flow: &Flow) -> Key {
    ([flow.from.octets(), flow.to.octets()].concat(), None)
}

/// The ports between each two ends, as ranges that do not meet.
fn ranges<'a>(flows: impl Iterator<Item = &'a Flow>) -> Vec<Key> {
    let mut by_ends: BTreeMap<_, Vec<Ports>> = BTreeMap::new();
    for flow in flows {
        if let Open::Ports(ports) = flow.open {
            by_ends.entry((flow.from, flow.to, ports.protocol)).or_default().push(ports);
        }
    }
    let mut keys = Vec::new();
    for ((from, to, protocol), ports) in by_ends {
        let protocol = if protocol == Protocol::Tcp { TCP } else { UDP };
        // Each part takes a whole register.
        let key = |port: u16| {
            let [high, low] = port.to_be_bytes();
            let rest = [[protocol, 0, 0, 0], [high, low, 0, 0]];
            [[from.octets(), to.octets()], rest].concat().concat()
        };
        keys.extend(joined(ports).into_iter().map(|(a, b)| (key(a), Some(key(b)))));
    }
    keys
}

/// Ranges that meet or touch, as one.
fn joined(mut ports: Vec<Ports>) -> Vec<(u16, u16)> {
    ports.sort_by_key(|ports| ports.first);
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for Ports { first, last, .. } in ports {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(first: u16, last: u16) -> Ports {
        Ports { protocol: Protocol::Tcp, first, last }
    }

    #[test]
    fn ranges_that_meet_are_one() {
        let ports = vec![tcp(90, 100), tcp(10, 20), tcp(15, 30), tcp(31, 31), tcp(65535, 65535)];
        assert_eq!(joined(ports), [(10, 31), (90, 100), (65535, 65535)]);
    }

    #[test]
    fn a_range_of_ports_is_two_keys_of_four_registers() {
        let (from, to) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let flow = Flow { from, to, open: Open::Ports(tcp(514, 515)), priority: false };
        let [(key, end)] = ranges([flow].iter()).try_into().unwrap();
        assert_eq!(key, [10, 0, 0, 1, 10, 0, 0, 2, 6, 0, 0, 0, 2, 2, 0, 0]);
        assert_eq!(end.unwrap()[12..], [2, 3, 0, 0]);
    }
}
