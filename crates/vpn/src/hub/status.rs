//! What a hub holds, read from the kernel and not from our own books.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use hyperspector_sys::netlink::{Connection, Error, Link, Route};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::plan::{VPN, is_port};

/// A hub's links.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The VPN, where the hub has it.
    pub vpn: Option<VpnStatus>,
    /// The portspaces, by name.
    pub portspaces: Vec<PortStatus>,
    /// Interfaces that should not be there.
    pub strangers: Vec<String>,
}

/// The VPN's interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpnStatus {
    /// Whether it is up.
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The networks that are reached over it.
    pub networks: Vec<Ipv4Net>,
}

/// The link to one portspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// The portspace's name.
    pub name: String,
    /// The hub's interface to it.
    pub interface: String,
    /// Whether it is up at both ends.
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The address that is reached over it.
    pub address: Option<Ipv4Addr>,
}

/// Packets that a hub refused, of one portspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// From it, to what it may not reach.
    pub from: u64,
    /// To it, from whoever may not reach it.
    pub to: u64,
    /// From it, with an address that is not its own, or with IP options.
    pub forged: u64,
    /// From it, over the VPN or to others on its host, faster than its rate.
    pub over_rate: u64,
}

/// What was refused, by portspace.
pub(super) fn refused(counters: &[(String, u64)]) -> BTreeMap<String, Refused> {
    let mut all: BTreeMap<String, Refused> = BTreeMap::new();
    for (counter, packets) in counters {
        let Some((refusal, name)) = counter.split_once('-') else { continue };
        let refused = all.entry(name.to_owned()).or_default();
        match refusal {
            "from" => refused.from = *packets,
            "to" => refused.to = *packets,
            _ => refused.forged = *packets,
        }
    }
    all
}

pub(super) fn read(netlink: &mut Connection) -> Result<Status, Error> {
    let mut links = netlink.links()?;
    links.retain(|link| !link.is_loopback());
    Ok(sort(&links, &netlink.routes(None)?))
}

/// Says what is what among a hub's links.
fn sort(links: &[Link], routes: &[Route]) -> Status {
    let mut status = Status { vpn: None, portspaces: Vec::new(), strangers: Vec::new() };
    for link in links {
        let networks = networks(routes, link.index);
        if link.name == VPN {
            status.vpn = Some(VpnStatus { up: link.is_up(), mtu: link.mtu, networks });
        } else if is_port(&link.name) {
            status.portspaces.push(port(link, &networks));
        } else {
            status.strangers.push(link.name.clone());
        }
    }
    status.portspaces.sort_by(|a, b| a.name.cmp(&b.name));
    status
}

fn port(link: &Link, networks: &[Ipv4Net]) -> PortStatus {
    PortStatus {
        name: link.alias.clone().unwrap_or_else(|| link.name[2..].to_owned()),
        interface: link.name.clone(),
        up: link.is_up() && link.has_carrier(),
        mtu: link.mtu,
        address: networks.first().map(Ipv4Net::addr),
    }
}

/// The IPv4 networks that are reached over a device.
fn networks(routes: &[Route], device: u32) -> Vec<Ipv4Net> {
    let over = routes.iter().filter(|route| route.device == Some(device));
    over.filter_map(|route| match route.destination {
        IpNet::V4(network) if !is_link_local(network.addr().into()) => Some(network),
        _ => None,
    })
    .collect()
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.is_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, alias: Option<&str>) -> Link {
        Link {
            index,
            name: name.into(),
            mac: None,
            mtu: 1420,
            flags: 1 | 1 << 16,
            layer: 1,
            kind: None,
            alias: alias.map(str::to_owned),
        }
    }

    #[test]
    fn links_are_told_apart() {
        let links = [
            link(2, "vpn0", None),
            link(3, "p-nids", None),
            link(4, "p_a-lonabcdef01", Some("a-longer-name")),
            link(5, "eth9", None),
        ];
        let routes = [
            Route::direct("10.66.0.0/24".parse().unwrap(), 2),
            Route::direct("10.66.0.3/32".parse().unwrap(), 3),
            Route::unreachable("0.0.0.0/0".parse().unwrap()),
        ];
        let status = sort(&links, &routes);
        assert_eq!(status.vpn.unwrap().networks, ["10.66.0.0/24".parse().unwrap()]);
        let names: Vec<_> = status.portspaces.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["a-longer-name", "nids"]);
        assert_eq!(status.portspaces[1].address, Some(Ipv4Addr::new(10, 66, 0, 3)));
        assert_eq!(status.portspaces[0].address, None);
        assert!(status.portspaces[1].up);
        assert_eq!(status.strangers, ["eth9"]);
    }
}
