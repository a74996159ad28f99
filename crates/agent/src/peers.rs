//! The other hosts of a HyperSpector, as this one hears them: which do not answer, how often they
//! agreed on a session, and which of their endpoints is in use.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hyperspector_spec::plan::{HyperspectorPlan, PeerPlan};
use hyperspector_vpn::peer::Peer;
use hyperspector_vpn::status::Status;

use crate::error::{Doing, Error};
use crate::keys::public_keys;
use crate::layout::Layout;
use crate::names::Names;

/// How often they are looked at, with few of them.
const PERIOD: Duration = Duration::from_secs(3);

/// How many of them may be looked at in a second: thousands must not keep the agent busy.
const PEERS_PER_SECOND: u64 = 500;

/// How long a peer may owe an answer. WireGuard answers data within 10 s, with an empty packet where
/// there is nothing to say, and tries another handshake after 15 s.
const PATIENCE: Duration = Duration::from_secs(18);

/// How long one endpoint is tried before the next is, and a name is resolved again.
const TRIAL: Duration = Duration::from_secs(10);

/// What is known of one peer.
#[derive(Debug)]
struct Seen {
    received: u64,
    sent: u64,
    /// Seconds since the last handshake, and when that was asked.
    handshake: Option<(u64, Instant)>,
    handshakes: u64,
    /// Since when it owes an answer.
    silent: Option<Instant>,
    /// Whether that was told.
    lost: bool,
    /// Which of its endpoints is in use, and since when.
    choice: usize,
    chosen: Instant,
}

/// What became of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It does not answer.
    Lost(String),
    /// It answers again, after so long.
    Back(String, Duration),
}

/// All peers of one VPN, by host.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    seen: BTreeMap<String, Seen>,
    looked: Option<Instant>,
    names: Names,
}

impl Peers {
    /// Whether it is time to look at them.
    pub(crate) fn is_due(&self) -> bool {
        let more = Duration::from_secs(self.seen.len() as u64 / PEERS_PER_SECOND);
        self.looked.is_none_or(|looked| looked.elapsed() >= PERIOD + more)
    }

    /// Takes in how they are; says what happened, and whether endpoints should be tried anew.
    pub(crate) fn look(&mut self, plans: &[PeerPlan], status: &Status) -> (Vec<Event>, bool) {
        let now = Instant::now();
        self.looked = Some(now);
        self.seen.retain(|host, _| plans.iter().any(|plan| plan.host == *host));
        let (mut events, mut is_to_move) = (Vec::new(), false);
        for plan in plans {
            let Some(live) = status.peer(&public_keys(plan.keys())) else { continue };
            let seen = self.seen.entry(plan.host.clone()).or_insert_with(|| Seen::new(now));
            seen.count_handshake(live.last_handshake, now);
            let event = seen.note_traffic(live.rx_bytes, live.tx_bytes, now);
            events.extend(event.map(|lost| match lost {
                None => Event::Lost(plan.host.clone()),
                Some(after) => Event::Back(plan.host.clone(), after),
            }));
            let unheard = seen.lost || live.last_handshake.is_none();
            let names = plan.endpoints.iter().map(|(name, _)| name);
            let is_name = |name: &&String| name.parse::<IpAddr>().is_err();
            let has_other = plan.endpoints.len() > 1
                || plan.next_key.is_some()
                || names.clone().any(|name| is_name(&name));
            if unheard && has_other && now.duration_since(seen.chosen) >= TRIAL {
                seen.choice += 1;
                seen.chosen = now;
                is_to_move = true;
                names.filter(is_name).for_each(|name| self.names.doubt(name));
            }
        }
        (events, is_to_move)
    }

    /// Looks up names, as `user`; returns whether more is known than before.
    pub(crate) fn step_names(&mut self, layout: &Layout) -> bool {
        self.names.step(layout)
    }

    /// Who looks up names.
    pub(crate) fn set_names_user(&mut self, user: u32) {
        self.names.user = Some(user);
    }

    /// Peers with the endpoints in use, as far as their names are known; where a name does not
    /// resolve, that is told, and its peer waits to be called.
    pub(crate) fn resolve(
        &mut self,
        plans: &[PeerPlan],
    ) -> Result<(Vec<Peer>, Option<String>), Error> {
        let all = plans.iter().flat_map(|plan| &plan.endpoints);
        self.names.keep(&all.map(|(name, _)| name.as_str()).collect::<Vec<_>>());
        let mut unresolved = None;
        let mut resolved = Vec::new();
        for plan in plans {
            let addresses = addresses(&plan.endpoints, &mut self.names).unwrap_or_else(|reason| {
                unresolved = Some(format!("the endpoint of {}: {reason}", plan.host));
                Vec::new()
            });
            let choice = self.seen.get(&plan.host).map_or(0, |seen| seen.choice);
            let endpoint = addresses.get(choice % addresses.len().max(1)).copied();
            let peer = Peer::from_plan(plan, endpoint);
            let mut peer = peer.doing(|| format!("read the key of {}", plan.host))?;
            // The kernel's has an address of one key alone at first: it may be the wrong one.
            if let Some(next) = peer.next_key
                && (choice / addresses.len().max(1)) % 2 == 1
            {
                peer.next_key = Some(std::mem::replace(&mut peer.public_key, next));
            }
            resolved.push(peer);
        }
        Ok((resolved, unresolved))
    }

    /// For how long a peer has not answered, where it does not.
    pub(crate) fn silent(&self, host: &str) -> Option<Duration> {
        let seen = self.seen.get(host).filter(|seen| seen.lost)?;
        seen.silent.map(|since| since.elapsed())
    }

    /// How many sessions were agreed with it while this agent looked.
    pub(crate) fn handshakes(&self, host: &str) -> u64 {
        self.seen.get(host).map_or(0, |seen| seen.handshakes)
    }
}

impl Seen {
    fn new(now: Instant) -> Self {
        Self {
            received: 0,
            sent: 0,
            handshake: None,
            handshakes: 0,
            silent: None,
            lost: false,
            choice: 0,
            chosen: now,
        }
    }

    /// A handshake is a new one where it is younger than the last would be.
    fn count_handshake(&mut self, age: Option<u64>, now: Instant) {
        if let Some(age) = age {
            let is_new = self.handshake.is_none_or(|(before, asked)| {
                // Whole seconds on both sides.
                age + 2 < before + now.duration_since(asked).as_secs()
            });
            self.handshakes += u64::from(is_new);
        }
        self.handshake = age.map(|age| (age, now)).or(self.handshake);
    }

    /// `Some(None)` where it is lost now, `Some(Some(time))` where it is back after that.
    fn note_traffic(&mut self, received: u64, sent: u64, now: Instant) -> Option<Option<Duration>> {
        let (heard, spoke) = (received != self.received, sent != self.sent);
        (self.received, self.sent) = (received, sent);
        if heard {
            let since = self.silent.take();
            let was_lost = std::mem::take(&mut self.lost);
            return was_lost.then(|| since.map(|since| now.duration_since(since)));
        }
        if spoke && self.silent.is_none() {
            self.silent = Some(now);
        }
        let is_over = self.silent.is_some_and(|since| now.duration_since(since) >= PATIENCE);
        let is_new = is_over && !self.lost;
        self.lost |= is_over;
        is_new.then_some(None)
    }
}

/// An event as a line of the agent's log; hosts with somebody that this host's portspaces may reach
/// are named with them.
pub(crate) fn told(event: &Event, plan: &HyperspectorPlan) -> String {
    let name = &plan.name;
    match event {
        Event::Lost(host) => {
            let reached = reached_on(plan, host);
            format!("the vpn of {name}: {host}{reached} does not answer")
        }
        Event::Back(host, after) => {
            format!("the vpn of {name}: {host} answers again after {} s", after.as_secs())
        }
    }
}

/// ` (collect.mon1)`: those on a host that somebody here may reach.
fn reached_on(plan: &HyperspectorPlan, host: &str) -> String {
    let peer = plan.vpn.peers.iter().find(|peer| peer.host == host);
    let is_there = |address: &std::net::Ipv4Addr| {
        peer.is_some_and(|peer| peer.allowed.iter().any(|network| network.contains(address)))
    };
    let is_reached = |address: &std::net::Ipv4Addr| {
        plan.policy.everything || plan.policy.flows.iter().any(|flow| flow.to == *address)
    };
    let names = plan.names.iter().filter(|(address, _)| is_there(address) && is_reached(address));
    let names: Vec<_> = names.filter_map(|(_, names)| names.first().map(String::as_str)).collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

/// The addresses of all endpoints, in their order, as far as they are known; an error where there is
/// none of any.
fn addresses(endpoints: &[(String, u16)], names: &mut Names) -> Result<Vec<SocketAddr>, String> {
    let (mut found, mut reason) = (Vec::new(), None);
    for (host, port) in endpoints {
        if let Ok(address) = host.parse::<IpAddr>() {
            found.push(SocketAddr::new(address, *port));
            continue;
        }
        let (addresses, trouble) = names.addresses(host);
        found.extend(addresses.iter().map(|address| SocketAddr::new(*address, *port)));
        if let Some(trouble) = trouble {
            reason = Some(format!("look up {host}: {trouble}"));
        }
    }
    match reason {
        Some(reason) if found.is_empty() => Err(reason),
        _ => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_owes_an_answer_for_too_long_is_lost_and_told_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut seen = Seen::new(start);
        assert_eq!(seen.note_traffic(10, 10, at(0)), None);
        // Silence where nothing is asked means nothing.
        assert_eq!(seen.note_traffic(10, 10, at(100)), None);
        assert_eq!(seen.note_traffic(10, 20, at(103)), None);
        assert_eq!(seen.note_traffic(10, 20, at(120)), None);
        assert_eq!(seen.note_traffic(10, 30, at(121)), Some(None));
        assert_eq!(seen.note_traffic(10, 40, at(130)), None);
        let back = Some(Some(Duration::from_secs(97)));
        assert_eq!(seen.note_traffic(11, 40, at(200)), back);
        assert_eq!(seen.note_traffic(11, 40, at(203)), None);
    }

    #[test]
    fn handshakes_are_counted_by_their_age() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut seen = Seen::new(start);
        for (age, when, count) in
            [(None, 0, 0), (Some(1), 3, 1), (Some(4), 6, 1), (Some(118), 120, 1), (Some(1), 123, 2)]
        {
            seen.count_handshake(age, at(when));
            assert_eq!(seen.handshakes, count, "{when}");
        }
        seen.count_handshake(None, at(400));
        seen.count_handshake(Some(0), at(403));
        assert_eq!(seen.handshakes, 3);
    }

    #[test]
    fn several_endpoints_are_several_addresses() {
        let of = |list: &[(&str, u16)]| {
            let list: Vec<_> =
                list.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect();
            addresses(&list, &mut Names::default())
        };
        assert_eq!(of(&[("192.0.2.1", 1), ("2001:db8::1", 2)]).unwrap().len(), 2);
        assert_eq!(of(&[]), Ok(Vec::new()));
        // Nothing is known of a name yet, and nothing was in vain yet.
        assert_eq!(of(&[("192.0.2.1", 1), ("no-name", 2)]).unwrap().len(), 1);
        assert_eq!(of(&[("no-name", 2)]), Ok(Vec::new()));
    }
}
