//! What a hub and its portspaces' ends look like: names, addresses, settings. No I/O.

use std::net::Ipv4Addr;

use hyperspector_sys::netlink::{Mac, Route};
use ipnet::{IpNet, Ipv4Net};

/// The VPN's interface in the hub.
pub const VPN: &str = "vpn0";

/// A portspace's interface into the hub.
pub const PORT: &str = "hs0";

/// The index of [`PORT`]: far from those of a host's interfaces, whose shadows carry the same
/// indexes into the portspace.
pub const PORT_INDEX: u32 = 1_000_000;

/// The hub's address on every portspace's link; link-local, so that it is never a portspace's.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);

/// The hub's Ethernet address on every portspace's link.
pub const GATEWAY_MAC: Mac = Mac([0x02, 0x48, 0, 0, 0, 1]);

/// The hub's settings. Forwarding comes first: changing it resets others.
///
/// The source check is strict: a packet is taken only from the link by which its sender would be
/// reached, so that a portspace can send from its own address alone, and a VPN peer from no address
/// that lives on this host.
pub const HUB_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    // The hub itself answers to nothing.
    ("net/ipv4/icmp_echo_ignore_all", "1"),
    // Errors about a packet (too large, unreachable) come from the address the sender knows.
    ("net/ipv4/icmp_errors_use_inbound_ifaddr", "1"),
];

/// A portspace's settings.
pub const PORTSPACE_SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "0"),
    // Nobody in there has a capability over the namespace, and its ports are nobody else's.
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 4294967294"),
    // What systemd sets for a host: a syslogd in there takes many messages at once.
    ("net/unix/max_dgram_qlen", "512"),
];

/// Settings of every interface in a hub or a portspace.
const INTERFACE_SYSCTLS: &[(&str, &str)] = &[
    ("rp_filter", "1"),
    ("accept_redirects", "0"),
    ("secure_redirects", "0"),
    ("send_redirects", "0"),
    ("accept_source_route", "0"),
    ("route_localnet", "0"),
    ("proxy_arp", "0"),
    ("log_martians", "0"),
    // Neighbours are written down on both sides: ask for none, answer and learn nothing.
    ("arp_ignore", "8"),
    ("arp_announce", "2"),
    ("arp_accept", "0"),
];

/// The settings of one interface, or of `all` and `default`.
pub fn interface_sysctls(interface: &str) -> Vec<(String, String)> {
    INTERFACE_SYSCTLS
        .iter()
        .map(|(name, value)| (format!("net/ipv4/conf/{interface}/{name}"), (*value).to_owned()))
        .collect()
}

/// The hub's interface to a portspace: `p-NAME`, or `p_` with the name's beginning and its hash
/// where it is too long. An interface name has at most 15 bytes.
pub fn port_name(portspace: &str) -> String {
    if portspace.len() <= 13 {
        return format!("p-{portspace}");
    }
    let beginning: String = portspace.chars().filter(char::is_ascii).take(5).collect();
    format!("p_{beginning}{:08x}", hash(portspace))
}

/// Whether an interface of the hub leads to a portspace.
pub fn is_port(interface: &str) -> bool {
    interface.starts_with("p-") || interface.starts_with("p_")
}

/// The Ethernet address of a portspace's end, from its IP address.
pub fn port_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    Mac([0x02, 0x53, a, b, c, d])
}

/// One address alone.
pub fn host(address: Ipv4Addr) -> IpNet {
    IpNet::V4(Ipv4Net::from(address))
}

/// A portspace's routes: to the hub, and by it to the HyperSpector's networks.
pub fn portspace_routes(address: Ipv4Addr, networks: &[Ipv4Net]) -> Vec<Route> {
    let source = Some(address.into());
    // Without a route to the hub itself, its ICMP errors would fail the source check.
    let hub = Route { source, ..Route::direct(host(GATEWAY), PORT_INDEX) };
    let through = networks.iter().map(|network| {
        let network = IpNet::V4(network.trunc());
        Route { source, ..Route::via(network, GATEWAY.into(), PORT_INDEX) }
    });
    std::iter::once(hub).chain(through).collect()
}

/// The routes that a hub's VPN interface should have.
pub fn vpn_routes(device: u32, networks: &[Ipv4Net]) -> Vec<Route> {
    networks.iter().map(|network| Route::direct(IpNet::V4(network.trunc()), device)).collect()
}

/// The hub's route for whatever is not the HyperSpector's: none.
pub fn nowhere() -> Route {
    Route::unreachable(IpNet::V4(Ipv4Net::default()))
}

/// FNV-1a, 32 bits: the names must not change with the standard library's hash.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_readable_and_long_ones_stay_apart() {
        assert_eq!(port_name("nids"), "p-nids");
        assert_eq!(port_name("thirteen-byte"), "p-thirteen-byte");
        let (a, b) = (port_name("file-integrity-a"), port_name("file-integrity-b"));
        assert_ne!(a, b);
        for name in [&a, &b] {
            assert!(name.len() == 15 && name.starts_with("p_file-"), "{name}");
            assert!(is_port(name));
        }
        assert!(!is_port(VPN) && !is_port("lo"));
    }

    #[test]
    fn names_do_not_change_between_versions() {
        assert_eq!(hash(""), 0x811c_9dc5);
        assert_eq!(hash("foobar"), 0xbf9c_f968);
    }

    #[test]
    fn a_portspace_knows_the_hub_and_its_hyperspectors_networks() {
        let networks = ["10.66.0.0/24".parse().unwrap(), "10.77.1.9/16".parse().unwrap()];
        let routes = portspace_routes(Ipv4Addr::new(10, 66, 0, 3), &networks);
        let told: Vec<String> = routes.iter().map(|r| r.destination.to_string()).collect();
        assert_eq!(told, ["169.254.0.1/32", "10.66.0.0/24", "10.77.0.0/16"]);
        assert!(routes.iter().all(|r| r.device == Some(PORT_INDEX) && r.source.is_some()));
    }

    #[test]
    fn ends_have_addresses_of_their_own() {
        let mac = port_mac(Ipv4Addr::new(10, 66, 0, 3));
        assert_eq!(mac.to_string(), "02:53:0a:42:00:03");
        // Locally administered, and for one station.
        assert!([mac, GATEWAY_MAC].iter().all(|mac| mac.0[0] & 3 == 2));
    }
}
