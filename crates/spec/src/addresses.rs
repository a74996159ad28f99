//! Addresses of portspaces: worked out from names alone, so that nothing that is added to the file
//! moves what is there already.
//!
//! The address of a portspace on a host is SHA-256 of the three names, taken into the first
//! network. Two that fall together are an error, never a silent move of one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use sha2::{Digest, Sha256};

use crate::errors::{Span, SpecError};
use crate::model::{Addresses, Hyperspector, Portspace};
use crate::reader::{At, Problems};

/// Addresses by portspace and host.
pub(crate) type Assigned = BTreeMap<(String, String), Ipv4Addr>;

/// The addresses that are no portspace's: the network's own, the hub's (the first), and the last.
const TAKEN_BEFORE: u32 = 2;
const TAKEN: u32 = TAKEN_BEFORE + 1;

/// One portspace on one host.
struct Place<'a> {
    portspace: &'a str,
    host: &'a str,
    address: Ipv4Addr,
    /// The address in the file, or the portspace's name there.
    span: Span,
    explicit: bool,
}

/// Gives every portspace on every host its address and notes those that fall together.
pub(crate) fn assign(hyperspector: &Hyperspector, problems: &Problems) -> Assigned {
    let networks: Vec<_> = hyperspector.networks.iter().map(|network| network.value).collect();
    let (Some(first), Some(place)) = (networks.first(), hyperspector.networks.first()) else {
        return Assigned::new();
    };
    let places: Vec<_> = hyperspector
        .portspaces
        .iter()
        .flat_map(|portspace| places(hyperspector, portspace, *first, &networks, problems))
        .collect();
    let room: u64 = networks.iter().map(|network| u64::from(capacity(*network))).sum();
    if places.len() as u64 > room {
        let message = format!("there are {room} addresses for {} portspaces", places.len());
        let error = SpecError::new(place.span.clone(), message);
        problems.add(error.help("count each portspace once for each of its hosts; add a network"));
        return Assigned::new();
    }
    note_collisions(&places, &networks, problems);
    places.iter().map(|p| ((p.portspace.to_owned(), p.host.to_owned()), p.address)).collect()
}

/// The places of one portspace.
fn places<'a>(
    hyperspector: &Hyperspector,
    portspace: &'a Portspace,
    first: Ipv4Net,
    networks: &[Ipv4Net],
    problems: &Problems,
) -> Vec<Place<'a>> {
    let explicit = explicit(portspace, problems);
    let place = |host: &'a str| {
        let name = portspace.name.value.as_str();
        match explicit.get(host) {
            Some(given) => {
                problems.keep(check_explicit(given, networks));
                let (address, span) = (given.value, given.span.clone());
                Place { portspace: name, host, address, span, explicit: true }
            }
            None => {
                let address = derive(first, &hyperspector.name.value, name, host);
                let span = portspace.name.span.clone();
                Place { portspace: name, host, address, span, explicit: false }
            }
        }
    };
    portspace.on.iter().map(|on| place(&on.value)).collect()
}

/// The addresses that the file gives, by host.
fn explicit<'a>(
    portspace: &'a Portspace,
    problems: &Problems,
) -> BTreeMap<&'a str, &'a At<Ipv4Addr>> {
    let name = &portspace.name.value;
    match &portspace.address {
        Addresses::None => BTreeMap::new(),
        Addresses::One(address) => {
            if let [first, _, ..] = portspace.on.as_slice() {
                let count = portspace.on.len();
                let message = format!("one address for portspace `{name}` on {count} hosts");
                let help = format!("write address.{} = \"{}\"", first.value, address.value);
                problems.add(SpecError::new(address.span.clone(), message).help(help));
            }
            portspace.on.first().map(|on| (on.value.as_str(), address)).into_iter().collect()
        }
        Addresses::Each(each) => {
            for (host, _) in each.iter().filter(|(host, _)| !portspace.is_on(&host.value)) {
                let message = format!("portspace `{name}` is not on host `{}`", host.value);
                let hosts: Vec<_> = portspace.on.iter().map(|on| on.value.as_str()).collect();
                let help = crate::words::suggest(&host.value, "its hosts", &hosts);
                problems.add(SpecError::new(host.span.clone(), message).help(help));
            }
            each.iter().map(|(host, address)| (host.value.as_str(), address)).collect()
        }
    }
}

/// An address of the file must be one that a portspace may have.
fn check_explicit(given: &At<Ipv4Addr>, networks: &[Ipv4Net]) -> Result<(), SpecError> {
    let list: Vec<_> = networks.iter().map(ToString::to_string).collect();
    let Some(network) = networks.iter().find(|network| network.contains(&given.value)) else {
        let message = format!("{} is not in the HyperSpector's network", given.value);
        let help = format!("addresses are taken from {}", list.join(", "));
        return Err(SpecError::new(given.span.clone(), message).help(help));
    };
    let position = u32::from(given.value) - u32::from(network.network());
    if position < TAKEN_BEFORE || given.value == network.broadcast() {
        let message = format!("{} cannot be a portspace's address", given.value);
        let (low, high) = (nth(*network, 0), nth(*network, capacity(*network) - 1));
        let help = format!("the first two of a network and its last are taken: {low} to {high}");
        return Err(SpecError::new(given.span.clone(), message).help(help));
    }
    Ok(())
}

/// Notes, for each address that is there twice, an error at the one further down in the file.
fn note_collisions(places: &[Place<'_>], networks: &[Ipv4Net], problems: &Problems) {
    let mut used: BTreeSet<_> = places.iter().map(|place| place.address).collect();
    let mut owners: BTreeMap<Ipv4Addr, &Place<'_>> = BTreeMap::new();
    for place in in_file_order(places) {
        let Some(owner) = owners.get(&place.address) else {
            owners.insert(place.address, place);
            continue;
        };
        let free = free_after(place.address, networks, &used);
        used.extend(free);
        problems.add(collision(place, owner, free));
    }
}

fn in_file_order<'a, 'b>(places: &'b [Place<'a>]) -> Vec<&'b Place<'a>> {
    let mut sorted: Vec<_> = places.iter().collect();
    // Stable: places with the same span are in the order of `on`.
    sorted.sort_by_key(|place| place.span.start);
    sorted
}

fn collision(place: &Place<'_>, owner: &Place<'_>, free: Option<Ipv4Addr>) -> SpecError {
    let Place { portspace, host, address, .. } = place;
    let has_it = format!("portspace `{}` on {} has it", owner.portspace, owner.host);
    let message = if place.explicit && owner.explicit {
        format!("duplicate address {address}: {has_it}")
    } else if place.explicit {
        format!("address {address} is taken: {has_it}")
    } else {
        format!("portspace `{portspace}` on {host} falls on address {address}: {has_it}")
    };
    let help = match (free, place.explicit) {
        (None, _) => "no address is free; add a network".to_owned(),
        (Some(free), true) => format!("write \"{free}\", which is free"),
        (Some(free), false) => format!("add this line: address.{host} = \"{free}\""),
    };
    SpecError::new(place.span.clone(), message).help(help)
}

/// The next address after `address` that is not in `used`, going round through the networks.
fn free_after(
    address: Ipv4Addr,
    networks: &[Ipv4Net],
    used: &BTreeSet<Ipv4Addr>,
) -> Option<Ipv4Addr> {
    let start = networks.iter().position(|network| network.contains(&address)).unwrap_or(0);
    let after = |network: Ipv4Net| {
        let base = u32::from(nth(network, 0));
        let from = u32::from(address).saturating_sub(base) % capacity(network);
        (1..=capacity(network)).map(move |step| {
            let position = (u64::from(from) + u64::from(step)) % u64::from(capacity(network));
            nth(network, position as u32)
        })
    };
    let (before, rest) = networks.split_at(start);
    rest.iter().chain(before).flat_map(|n| after(*n)).find(|address| !used.contains(address))
}

/// How many portspaces a network has addresses for.
fn capacity(network: Ipv4Net) -> u32 {
    // Networks are /8 to /29 (see `read::hyperspector`), so this neither overflows nor is zero.
    (1_u32 << (32 - network.prefix_len())) - TAKEN
}

/// The address at `position` of those that portspaces can have.
fn nth(network: Ipv4Net, position: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network.network()) + TAKEN_BEFORE + position)
}

/// The address that the names give.
pub(crate) fn derive(
    network: Ipv4Net,
    hyperspector: &str,
    portspace: &str,
    host: &str,
) -> Ipv4Addr {
    let mut hash = Sha256::new();
    // Names hold no NUL, so different names never give the same bytes.
    for part in ["hyperspector address", hyperspector, portspace, host] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize();
    let number = digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    nth(network, (number % u64::from(capacity(network))) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_address_of_a_place_never_changes() {
        // Fleets depend on these: a change here moves every portspace of every user.
        let network = "10.66.0.0/24".parse().unwrap();
        assert_eq!(derive(network, "alpha", "nids", "web1").to_string(), "10.66.0.79");
        let network = "10.66.0.0/16".parse().unwrap();
        assert_eq!(derive(network, "alpha", "nids", "web1").to_string(), "10.66.179.43");
    }

    #[test]
    fn the_next_free_address_is_found_in_any_network() {
        let networks = ["10.0.0.0/29".parse().unwrap(), "10.1.0.0/29".parse().unwrap()];
        let mut used = BTreeSet::new();
        let mut address = "10.0.0.4".parse().unwrap();
        let mut order = Vec::new();
        used.insert(address);
        while let Some(free) = free_after(address, &networks, &used) {
            used.insert(free);
            order.push(free.to_string());
            address = free;
        }
        let expected = ["10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3", "10.1.0.3"];
        assert_eq!(order[..5], expected);
        assert_eq!(order.len(), 9);
    }

    proptest! {
        #[test]
        fn a_derived_address_can_be_a_portspaces(
            length in 8_u8..=29, bits: u32, names in proptest::array::uniform3("[a-z]{1,8}")
        ) {
            let network = Ipv4Net::new(bits.into(), length).unwrap().trunc();
            let [hyperspector, portspace, host] = names;
            let address = derive(network, &hyperspector, &portspace, &host);
            let given = At::new(address, 0..1);
            prop_assert_eq!(check_explicit(&given, &[network]), Ok(()));
        }
    }
}
