//! Which peer an address belongs to: the longest prefix that holds it.
//!
//! A binary trie with skipped levels, one for each address family. There is no removal: a change of
//! peers builds a new one.

use std::net::IpAddr;

use ipnet::IpNet;

/// A map from networks to values.
#[derive(Debug)]
pub struct Trie<T> {
    v4: Slot<T>,
    v6: Slot<T>,
}

type Slot<T> = Option<Box<Node<T>>>;

#[derive(Debug)]
struct Node<T> {
    /// The prefix, in the highest bits; the others are 0.
    key: u128,
    /// How many bits of `key` count.
    length: u8,
    value: Option<T>,
    children: [Slot<T>; 2],
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { v4: None, v6: None }
    }
}

impl<T> Trie<T> {
    /// Sets the value of a network; returns the one it had.
    pub fn insert(&mut self, network: IpNet, value: T) -> Option<T> {
        let (root, length) = match network {
            IpNet::V4(_) => (&mut self.v4, network.prefix_len()),
            IpNet::V6(_) => (&mut self.v6, network.prefix_len()),
        };
        insert(root, bits(network.network()), length, value)
    }

    /// The value of the smallest network that holds the address.
    pub fn get(&self, address: IpAddr) -> Option<&T> {
        let mut slot = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let key = bits(address);
        let mut found = None;
        while let Some(node) = slot {
            if common(node.key, key) < node.length {
                break;
            }
            found = node.value.as_ref().or(found);
            if node.length == 128 {
                break;
            }
            slot = &node.children[bit(key, node.length)];
        }
        found
    }
}

fn insert<T>(mut slot: &mut Slot<T>, key: u128, length: u8, value: T) -> Option<T> {
    loop {
        let Some(node) = slot else {
            *slot = Some(leaf(key, length, Some(value)));
            return None;
        };
        let shared = common(node.key, key).min(node.length).min(length);
        if shared < node.length {
            split(slot, shared);
        }
        // The slot holds a node of exactly `shared` bits now.
        let node = slot.as_mut()?;
        if shared == length {
            return node.value.replace(value);
        }
        slot = &mut node.children[bit(key, shared)];
    }
}

/// Puts a node of the first `length` bits above the one in `slot`.
fn split<T>(slot: &mut Slot<T>, length: u8) {
    if let Some(below) = slot.take() {
        let mut above = leaf(below.key & mask(length), length, None);
        let side = bit(below.key, length);
        above.children[side] = Some(below);
        *slot = Some(above);
    }
}

fn leaf<T>(key: u128, length: u8, value: Option<T>) -> Box<Node<T>> {
    Box::new(Node { key, length, value, children: [None, None] })
}

/// An address in the highest bits.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// How many leading bits two keys share.
fn common(a: u128, b: u128) -> u8 {
    // At most 128.
    (a ^ b).leading_zeros() as u8
}

/// The bit after the first `length`, which are fewer than 128.
fn bit(key: u128, length: u8) -> usize {
    usize::from((key << length) >> 127 == 1)
}

fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn the_longest_prefix_wins() {
        let mut trie = Trie::default();
        for (network, value) in [("10.0.0.0/8", 8), ("10.66.0.0/24", 24), ("10.66.0.7/32", 32)] {
            assert_eq!(trie.insert(network.parse().unwrap(), value), None);
        }
        let get = |a: &str| trie.get(a.parse().unwrap()).copied();
        assert_eq!(get("10.66.0.7"), Some(32));
        assert_eq!(get("10.66.0.8"), Some(24));
        assert_eq!(get("10.1.0.8"), Some(8));
        assert_eq!(get("11.0.0.1"), None);
        assert_eq!(get("::"), None);
    }

    #[test]
    fn the_whole_internet_is_a_network_too() {
        let mut trie = Trie::default();
        trie.insert("0.0.0.0/0".parse().unwrap(), 'a');
        trie.insert("::/0".parse().unwrap(), 'b');
        trie.insert("::1/128".parse().unwrap(), 'c');
        assert_eq!(trie.get(IpAddr::V4(Ipv4Addr::BROADCAST)), Some(&'a'));
        assert_eq!(trie.get(IpAddr::V6(Ipv6Addr::LOCALHOST)), Some(&'c'));
        assert_eq!(trie.get(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), Some(&'b'));
    }

    /// Few distinct bits, so that prefixes overlap often.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0..4_u32, 0..4_u32).prop_map(|(a, b)| IpAddr::V4(Ipv4Addr::from_bits(a << 30 | b))),
            any::<u32>().prop_map(|a| IpAddr::V4(Ipv4Addr::from_bits(a))),
            (0..4_u128, 0..4_u128).prop_map(|(a, b)| IpAddr::V6(Ipv6Addr::from_bits(a << 126 | b))),
        ]
    }

    fn network() -> impl Strategy<Value = IpNet> {
        (address(), 0..=128_u8).prop_map(|(address, length)| match address {
            IpAddr::V4(a) => Ipv4Net::new(a, length % 33).unwrap().trunc().into(),
            IpAddr::V6(a) => Ipv6Net::new(a, length).unwrap().trunc().into(),
        })
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_list(
            networks in prop::collection::vec(network(), 0..40),
            addresses in prop::collection::vec(address(), 1..40),
        ) {
            let mut trie = Trie::default();
            let mut list: Vec<(IpNet, usize)> = Vec::new();
            for (value, network) in networks.into_iter().enumerate() {
                let before = list.iter().position(|(n, _)| *n == network);
                let before = before.map(|i| list.swap_remove(i).1);
                prop_assert_eq!(trie.insert(network, value), before);
                list.push((network, value));
            }
            for address in addresses {
                let best = list.iter().filter(|(n, _)| n.contains(&address));
                let best = best.max_by_key(|(n, _)| n.prefix_len()).map(|(_, v)| v);
                prop_assert_eq!(trie.get(address), best);
            }
        }
    }
}
