//! `[hyperspector.NAME]`: a set of portspaces and the VPN that joins them.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::errors::SpecError;
use crate::model::{Hyperspector, Topology};
use crate::plan::VpnBackend;
use crate::reader::{At, Problems, Table, Value};

use super::{PORTSPACE, allow, portspace};

/// The UDP port of a HyperSpector that names none.
pub(crate) const DEFAULT_PORT: u16 = 51820;

/// What fits into an Ethernet frame of 1500 bytes around IPv6, UDP and the VPN's own header.
const DEFAULT_MTU: u32 = 1420;

const NETWORK: &str = "network = \"10.66.0.0/16\"";
const PORT: &str = "port = 51820";
const VPN: &str = "vpn = \"auto\"";
const MTU: &str = "mtu = 1420";
const KEEPALIVE: &str = "keepalive = \"25s\"";
const COLLECTORS: &str = "collectors = [\"collector\"]";
const TOPOLOGY: &str = "topology = \"collectors\"";

pub(super) fn read(name: At<String>, mut table: Table<'_>) -> Hyperspector {
    table.require("network", NETWORK);
    let networks = table.value("network", NETWORK);
    let networks = networks.map(|value| networks_of(&value, table.problems()));
    let port = table.get("port", PORT, |value| {
        value.integer(1..=65535).map(|port| At::new(port as u16, value.span.clone()))
    });
    let vpn = table.get("vpn", VPN, |value| value.one_of(&BACKENDS));
    let mtu = table.get("mtu", MTU, |value| value.integer(576..=9000));
    let keepalive = table.get("keepalive", KEEPALIVE, |value| value.seconds(1..=65535));
    let allow = allow::read(&mut table);
    let collectors = table.names("collectors", COLLECTORS);
    let topology = table.get("topology", TOPOLOGY, |value| {
        Ok(At::new(value.one_of(&TOPOLOGIES)?, value.span.clone()))
    });
    let portspaces = table.sections("portspace", "portspace", PORTSPACE);
    let header = table.span.clone();
    table.finish();
    Hyperspector {
        networks: networks.unwrap_or_default(),
        port: port.unwrap_or(At::new(DEFAULT_PORT, name.span.clone())),
        vpn: vpn.unwrap_or_default(),
        mtu: mtu.map_or(DEFAULT_MTU, |mtu| mtu as u32),
        keepalive: keepalive.map(|seconds| seconds as u16),
        allow,
        collectors,
        topology: topology.unwrap_or(At::new(Topology::default(), name.span.clone())),
        portspaces: portspaces.into_iter().map(|(name, t)| portspace::read(name, t)).collect(),
        name,
        header,
    }
}

const BACKENDS: [(&str, VpnBackend); 3] = [
    ("auto", VpnBackend::Auto),
    ("kernel", VpnBackend::Kernel),
    ("embedded", VpnBackend::Embedded),
];

const TOPOLOGIES: [(&str, Topology); 2] =
    [("mesh", Topology::Mesh), ("collectors", Topology::Collectors)];

/// One network or a list of them; none where one of them is wrong, so that nothing is concluded
/// from the others alone.
fn networks_of(value: &Value<'_>, problems: &Problems) -> Vec<At<Ipv4Net>> {
    if !value.is_list() {
        return problems.keep(network(value)).into_iter().collect();
    }
    let elements = problems.keep(value.elements()).unwrap_or_default();
    if elements.is_empty() {
        problems.add(value.error("`network` is empty"));
    }
    let networks: Vec<_> = elements.iter().map(|e| problems.keep(network(e))).collect();
    networks.into_iter().collect::<Option<_>>().unwrap_or_default()
}

fn network(value: &Value<'_>) -> Result<At<Ipv4Net>, SpecError> {
    let text = value.string()?;
    let wrong = |problem: String| value.error(format!("\"{}\" {problem}", text.value));
    let network = match text.value.parse::<IpNet>() {
        Ok(IpNet::V4(network)) => network,
        Ok(IpNet::V6(_)) => {
            return Err(wrong("is IPv6; inside a HyperSpector this version has IPv4".into()));
        }
        Err(_) if text.value.parse::<IpAddr>().is_ok() => {
            let help = format!("write \"{}/24\", for example", text.value);
            return Err(wrong("has no length".into()).help(help));
        }
        Err(_) => return Err(wrong("is not a network".into())),
    };
    if network.trunc() != network {
        let help = format!("write \"{}\"", network.trunc());
        return Err(wrong("is an address in a network, not a network".into()).help(help));
    }
    if !(8..=29).contains(&network.prefix_len()) {
        return Err(wrong("must be between /8 and /29".into()));
    }
    if let Some(reserved) = RESERVED.iter().find(|(net, _)| overlap(&network, net)) {
        return Err(wrong(format!("has addresses of {} ({})", reserved.0, reserved.1)));
    }
    Ok(At::new(network, text.span))
}

/// Networks whose addresses no interface may have, each with what it is for (RFC 6890, RFC 5771).
const RESERVED: [(Ipv4Net, &str); 5] = [
    (net(0, 0, 8), "this network"),
    (net(127, 0, 8), "loopback"),
    (net(169, 254, 16), "link-local"),
    (net(224, 0, 4), "multicast"),
    (net(240, 0, 4), "reserved"),
];

const fn net(first: u8, second: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(first, second, 0, 0), length)
}

/// Whether two networks share an address.
pub(crate) fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}
