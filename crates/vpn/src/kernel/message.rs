//! What is said to the kernel, and what it says; pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute,
    WireguardCmd, WireguardDeviceFlags, WireguardMessage, WireguardPeer, WireguardPeerAttribute,
    WireguardPeerFlags,
};

use crate::keys::{PublicKey, SecretKey};
use crate::peer::Peer;
use crate::preshared::PresharedKey;
use crate::status::{Backend, Offload, PeerStatus, SessionKeys, Status};

/// The networks in one message at most: a message's attributes have 16-bit lengths, and one network
/// takes up to 44 bytes.
const NETWORKS_PER_MESSAGE: usize = 500;

/// A device as the kernel tells it.
#[derive(Debug, Default)]
pub struct Device {
    public_key: Option<PublicKey>,
    peers: BTreeMap<PublicKey, KernelPeer>,
}

/// A peer as the kernel tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct KernelPeer {
    endpoint: Option<SocketAddr>,
    allowed: BTreeSet<IpNet>,
    keepalive: u16,
    preshared: Option<PresharedKey>,
    /// Since the epoch; zero for never.
    last_handshake: Duration,
    rx_bytes: u64,
    tx_bytes: u64,
}

impl Device {
    /// Takes one part of the kernel's answer; a peer with many networks comes in several.
    pub fn add(&mut self, part: WireguardMessage) {
        for attribute in part.attributes {
            match attribute {
                WireguardAttribute::PublicKey(key) => {
                    self.public_key = Some(PublicKey::from_bytes(key));
                }
                WireguardAttribute::Peers(peers) => {
                    peers.into_iter().for_each(|peer| self.add_peer(peer));
                }
                _ => {}
            }
        }
    }

    fn add_peer(&mut self, peer: WireguardPeer) {
        let key = peer.0.iter().find_map(|attribute| match attribute {
            WireguardPeerAttribute::PublicKey(key) => Some(PublicKey::from_bytes(*key)),
            _ => None,
        });
        let Some(key) = key else { return };
        let known = self.peers.entry(key).or_default();
        peer.0.into_iter().for_each(|attribute| known.add(attribute));
    }

    /// As a status; `now` is the time since the epoch.
    pub fn status(&self, now: Duration, session: Duration) -> Status {
        let ours = self.public_key.unwrap_or(PublicKey::from_bytes([0; 32]));
        let peers = self.peers.iter().map(|(key, peer)| PeerStatus {
            public_key: *key,
            endpoint: peer.endpoint,
            last_handshake: peer.age(now).filter(|age| *age < session).map(|age| age.as_secs()),
            round_trip_ms: None,
            mtu: None,
            keys: peer.age(now).map(|_| SessionKeys { ours, theirs: *key }),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            drops: BTreeMap::new(),
        });
        Status {
            backend: Backend::Kernel,
            public_key: ours,
            next_key: None,
            // The kernel's device does all of it.
            offload: Offload { tcp: true, udp: true, send: true, receive: true },
            enforced: None,
            drops: BTreeMap::new(),
            peers: peers.collect(),
        }
    }
}

impl KernelPeer {
    fn add(&mut self, attribute: WireguardPeerAttribute) {
        match attribute {
            WireguardPeerAttribute::Endpoint(endpoint) => self.endpoint = Some(endpoint),
            WireguardPeerAttribute::PersistentKeepalive(seconds) => self.keepalive = seconds,
            WireguardPeerAttribute::PresharedKey(key) => {
                self.preshared = (key != [0; 32]).then(|| PresharedKey::from_bytes(key));
            }
            WireguardPeerAttribute::RxBytes(bytes) => self.rx_bytes = bytes,
            WireguardPeerAttribute::TxBytes(bytes) => self.tx_bytes = bytes,
            WireguardPeerAttribute::LastHandshake(time) => {
                self.last_handshake = Duration::from_secs(u64::try_from(time.seconds).unwrap_or(0));
            }
            WireguardPeerAttribute::AllowedIps(networks) => {
                self.allowed.extend(networks.iter().filter_map(network));
            }
            _ => {}
        }
    }

    fn age(&self, now: Duration) -> Option<Duration> {
        let happened = !self.last_handshake.is_zero();
        happened.then(|| now.saturating_sub(self.last_handshake))
    }
}

fn network(attributes: &WireguardAllowedIp) -> Option<IpNet> {
    let (mut address, mut length) = (None, None);
    for attribute in &attributes.0 {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(a) => address = Some(*a),
            WireguardAllowedIpAttr::Cidr(l) => length = Some(*l),
            _ => {}
        }
    }
    IpNet::new(address?, length?).ok()
}

/// A step from the kernel's list of peers to the wanted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Make or change this peer; its endpoint only where one is given.
    Set(&'a Peer, Option<SocketAddr>),
    /// Remove the peer with this key.
    Remove(PublicKey),
}

/// The wanted peers as the kernel can have them: one for each key. An address belongs to one peer
/// alone there, so of two keys of a host the one has it with which a session was agreed last.
pub fn each_key(device: &Device, peers: &[Peer]) -> Vec<Peer> {
    let agreed =
        |key: &PublicKey| device.peers.get(key).map_or(Duration::ZERO, |peer| peer.last_handshake);
    let mut all = Vec::with_capacity(peers.len());
    for peer in peers {
        let holder = match peer.next_key {
            Some(next) if agreed(&next) > agreed(&peer.public_key) => next,
            _ => peer.public_key,
        };
        all.extend(peer.keys().map(|public_key| {
            let allowed = if public_key == holder { peer.allowed.clone() } else { Vec::new() };
            Peer { public_key, next_key: None, allowed, ..peer.clone() }
        }));
    }
    // Giving it to one takes it from the other, at once.
    all.sort_by_key(|peer| peer.allowed.is_empty());
    all
}

/// Whether the device has this key.
pub fn has_key(device: &Device, key: &SecretKey) -> bool {
    device.public_key == Some(key.public())
}

/// The steps from `device` to `peers`. Removals come first, so that a network can go to another peer.
pub fn difference<'a>(
    device: &Device,
    peers: &'a [Peer],
    now: Duration,
    session: Duration,
) -> Vec<Change<'a>> {
    let wanted: BTreeSet<_> = peers.iter().map(|p| p.public_key).collect();
    let gone = device.peers.keys().filter(|key| !wanted.contains(key));
    let set = peers.iter().filter_map(|peer| match device.peers.get(&peer.public_key) {
        None => Some(Change::Set(peer, peer.endpoint)),
        Some(known) => {
            let alive = known.age(now).is_some_and(|age| age < session);
            let moved = peer.endpoint.filter(|_| !alive && peer.endpoint != known.endpoint);
            let allowed: BTreeSet<_> = peer.allowed.iter().map(IpNet::trunc).collect();
            let same = known.allowed == allowed
                && known.keepalive == peer.keepalive.unwrap_or(0)
                && known.preshared == peer.preshared;
            (!same || moved.is_some()).then_some(Change::Set(peer, moved))
        }
    });
    gone.map(|key| Change::Remove(*key)).chain(set).collect()
}

/// The request that gives a device its key and port, and takes away all peers.
pub fn device(name: &str, key: &SecretKey, port: u16) -> WireguardMessage {
    set(
        name,
        vec![
            WireguardAttribute::PrivateKey(*key.secret().as_bytes()),
            WireguardAttribute::ListenPort(port),
            WireguardAttribute::Flags(WireguardDeviceFlags::ReplacePeers),
        ],
    )
}

/// The request that gives a device another key. Its peers stay, and agree on new sessions.
pub fn key(name: &str, key: &SecretKey) -> WireguardMessage {
    set(name, vec![WireguardAttribute::PrivateKey(*key.secret().as_bytes())])
}

/// The requests that do `changes`, one for each peer, or more where it has many networks.
pub fn peers(name: &str, changes: &[Change<'_>]) -> Vec<WireguardMessage> {
    let parts = changes.iter().flat_map(|change| match change {
        Change::Remove(key) => vec![removal(*key)],
        Change::Set(peer, endpoint) => setting(peer, *endpoint),
    });
    parts.map(|part| set(name, vec![WireguardAttribute::Peers(vec![part])])).collect()
}

fn set(name: &str, more: Vec<WireguardAttribute>) -> WireguardMessage {
    let mut attributes = vec![WireguardAttribute::IfName(name.to_owned())];
    attributes.extend(more);
    WireguardMessage { cmd: WireguardCmd::SetDevice, attributes }
}

fn removal(key: PublicKey) -> WireguardPeer {
    WireguardPeer(vec![
        WireguardPeerAttribute::PublicKey(*key.as_bytes()),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
    ])
}

fn setting(peer: &Peer, endpoint: Option<SocketAddr>) -> Vec<WireguardPeer> {
    let networks: Vec<_> = peer.allowed.iter().map(allowed).collect();
    let key = WireguardPeerAttribute::PublicKey(*peer.public_key.as_bytes());
    let mut first = vec![
        key.clone(),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
        WireguardPeerAttribute::PersistentKeepalive(peer.keepalive.unwrap_or(0)),
        // All zeroes take it away.
        WireguardPeerAttribute::PresharedKey(
            peer.preshared.as_ref().map_or([0; 32], |key| *key.as_bytes()),
        ),
    ];
    first.extend(endpoint.map(WireguardPeerAttribute::Endpoint));
    let mut chunks = networks.chunks(NETWORKS_PER_MESSAGE).map(<[_]>::to_vec);
    first.extend(chunks.next().map(WireguardPeerAttribute::AllowedIps));
    let rest = chunks.map(|chunk| {
        let update = WireguardPeerAttribute::Flags(WireguardPeerFlags::UpdateOnly);
        WireguardPeer(vec![key.clone(), update, WireguardPeerAttribute::AllowedIps(chunk)])
    });
    std::iter::once(WireguardPeer(first)).chain(rest).collect()
}

fn allowed(network: &IpNet) -> WireguardAllowedIp {
    let family = match network.network() {
        IpAddr::V4(_) => WireguardAddressFamily::Ipv4,
        IpAddr::V6(_) => WireguardAddressFamily::Ipv6,
    };
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(network.network()),
        WireguardAllowedIpAttr::Cidr(network.prefix_len()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);
    const SESSION: Duration = Duration::from_secs(180);

    fn peer(number: u8) -> Peer {
        Peer {
            public_key: PublicKey::from_bytes([number; 32]),
            endpoint: Some(SocketAddr::from(([192, 0, 2, number], 51820))),
            allowed: vec![IpNet::from(IpAddr::from([10, 66, 0, number]))],
            keepalive: None,
            preshared: None,
            next_key: None,
        }
    }

    /// The kernel after it was told about `peers`.
    fn told(peers: &[Peer]) -> Device {
        let mut device = Device::default();
        let changes: Vec<_> = peers.iter().map(|p| Change::Set(p, p.endpoint)).collect();
        super::peers("wg0", &changes).into_iter().for_each(|part| device.add(part));
        device
    }

    fn steps<'a>(device: &Device, peers: &'a [Peer]) -> Vec<Change<'a>> {
        difference(device, peers, NOW, SESSION)
    }

    #[test]
    fn an_unchanged_list_changes_nothing() {
        let list = [peer(1), peer(2)];
        assert!(steps(&told(&list), &list).is_empty());
    }

    #[test]
    fn removals_come_first() {
        let after = [peer(2), peer(3)];
        let wanted =
            [Change::Remove(peer(1).public_key), Change::Set(&after[1], after[1].endpoint)];
        assert_eq!(steps(&told(&[peer(1), peer(2)]), &after), wanted);
    }

    #[test]
    fn a_move_is_undone_only_where_the_session_is_over() {
        let list = [peer(1)];
        let mut device = told(&list);
        for (age, moved) in [(10, false), (200, true)] {
            let known = device.peers.get_mut(&list[0].public_key).unwrap();
            known.endpoint = Some(SocketAddr::from(([198, 51, 100, 1], 1)));
            known.last_handshake = NOW - Duration::from_secs(age);
            assert_eq!(steps(&device, &list).len(), usize::from(moved), "{age}");
        }
    }

    #[test]
    fn changed_networks_leave_the_endpoint_alone() {
        let mut list = [peer(1)];
        let device = told(&list);
        list[0].allowed.push("10.66.1.0/24".parse().unwrap());
        assert_eq!(steps(&device, &list), [Change::Set(&list[0], None)]);
    }

    #[test]
    fn an_address_follows_the_key_that_is_used() {
        let (old, next) = (PublicKey::from_bytes([1; 32]), PublicKey::from_bytes([9; 32]));
        let both = [Peer { next_key: Some(next), ..peer(1) }];
        let holders = |device: &Device| {
            let all = each_key(device, &both);
            assert_eq!(all.len(), 2);
            assert!(all[1].allowed.is_empty() && all.iter().all(|one| one.next_key.is_none()));
            all[0].public_key
        };
        let mut device = told(&each_key(&Device::default(), &both));
        assert_eq!(holders(&device), old);
        device.peers.get_mut(&old).unwrap().last_handshake = NOW;
        assert_eq!(holders(&device), old);
        device.peers.get_mut(&next).unwrap().last_handshake = NOW + Duration::from_secs(1);
        assert_eq!(holders(&device), next);
        let wanted = each_key(&device, &both);
        let steps = difference(&device, &wanted, NOW, SESSION);
        assert_eq!(steps, [Change::Set(&wanted[0], None), Change::Set(&wanted[1], None)]);
    }

    #[test]
    fn many_networks_come_in_several_messages() {
        let mut many = peer(1);
        many.allowed = (0..1200_u32)
            .map(|i| IpNet::from(IpAddr::from((0x0a00_0000 + i).to_be_bytes())))
            .collect();
        assert_eq!(super::peers("wg0", &[Change::Set(&many, None)]).len(), 3);
        let device = told(std::slice::from_ref(&many));
        assert_eq!(device.peers[&many.public_key].allowed.len(), 1200);
    }

    #[test]
    fn the_status_forgets_sessions_that_are_over() {
        let mut device = told(&[peer(1)]);
        let ages = [(5, Some(5)), (181, None)];
        for (age, wanted) in ages {
            let known = device.peers.get_mut(&peer(1).public_key).unwrap();
            known.last_handshake = NOW - Duration::from_secs(age);
            assert_eq!(device.status(NOW, SESSION).peers[0].last_handshake, wanted);
        }
    }
}
