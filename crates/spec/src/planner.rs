//! From a checked model to the plan of one host.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::addresses::Assigned;
use crate::masks::default_mask;
use crate::model::{FileWatch, Host, Hyperspector, Model, Packets, Portspace};
use crate::plan::{
    Adoption, FileWindow, HostPlan, HyperspectorPlan, PacketWindow, PeerPlan, PortspaceName,
    PortspacePlan, ServerKind, ServerPlan, SpacePlan, VpnPlan, Windows,
};

/// Seconds between the keepalives of a host that only calls, so that the way back through its NAT
/// stays open: less than the 30 s after which many forget a UDP flow (RFC 4787, section 4.3).
const DEFAULT_KEEPALIVE: u16 = 25;

/// The plan of `host`; `addresses` are those of each HyperSpector, in the model's order.
pub(crate) fn plan(model: &Model, addresses: &[Assigned], host: &Host) -> HostPlan {
    let name = host.name.value.as_str();
    let mut hyperspectors: Vec<_> = model
        .hyperspectors
        .iter()
        .zip(addresses)
        .filter(|(hyperspector, _)| hyperspector.portspaces.iter().any(|p| p.is_on(name)))
        .map(|(hyperspector, assigned)| Part { model, hyperspector, assigned, host }.plan())
        .collect();
    hyperspectors.sort_by(|a, b| a.name.cmp(&b.name));
    let servers = servers(model, &hyperspectors);
    HostPlan { host: name.to_owned(), servers, hyperspectors }
}

/// The servers that portspaces of these HyperSpectors watch, by name.
fn servers(model: &Model, hyperspectors: &[HyperspectorPlan]) -> Vec<ServerPlan> {
    let portspaces = hyperspectors.iter().flat_map(|hyperspector| &hyperspector.portspaces);
    let watched: BTreeSet<&str> =
        portspaces.flat_map(|portspace| portspace.windows.servers()).collect();
    watched.into_iter().filter_map(|name| server(model, name)).collect()
}

fn server(model: &Model, name: &str) -> Option<ServerPlan> {
    let (adoption, mask) = match model.server(name) {
        Some(declared) => (declared.source.as_ref()?.value.clone(), declared.mask.clone()),
        None => (Adoption::Base, Vec::new()),
    };
    Some(ServerPlan { name: name.to_owned(), mask, kind: ServerKind::Adopted(adoption) })
}

/// One host's part of one HyperSpector.
struct Part<'a> {
    model: &'a Model,
    hyperspector: &'a Hyperspector,
    assigned: &'a Assigned,
    host: &'a Host,
}

impl Part<'_> {
    fn plan(&self) -> HyperspectorPlan {
        let here = |portspace: &&Portspace| portspace.is_on(&self.host.name.value);
        let here = self.hyperspector.portspaces.iter().filter(here);
        let mut portspaces: Vec<_> = here.filter_map(|p| self.portspace(p)).collect();
        portspaces.sort_by(|a, b| a.name.cmp(&b.name));
        HyperspectorPlan {
            name: self.hyperspector.name.value.clone(),
            vpn: self.vpn(),
            names: self.names(),
            portspaces,
        }
    }

    fn vpn(&self) -> VpnPlan {
        let hyperspector = self.hyperspector;
        let others = hyperspector.hosts().into_iter().filter(|h| *h != self.host.name.value);
        VpnPlan {
            networks: hyperspector.networks.iter().map(|network| network.value).collect(),
            listen_port: hyperspector.port.value,
            backend: hyperspector.vpn,
            mtu: hyperspector.mtu,
            public_key: self.host.key(&hyperspector.name.value).map(str::to_owned),
            peers: others.filter_map(|host| self.peer(host)).collect(),
        }
    }

    fn peer(&self, host: &str) -> Option<PeerPlan> {
        let hyperspector = self.hyperspector.name.value.as_str();
        let peer = self.model.host(host)?;
        let endpoint = peer.endpoint(hyperspector).map(|endpoint| &endpoint.value);
        let only_calls = self.host.endpoint(hyperspector).is_none();
        let default = (only_calls && endpoint.is_some()).then_some(DEFAULT_KEEPALIVE);
        Some(PeerPlan {
            host: host.to_owned(),
            public_key: peer.key(hyperspector)?.to_owned(),
            endpoint: endpoint
                .map(|e| (e.address.clone(), e.port.unwrap_or(self.hyperspector.port.value))),
            allowed: self.addresses_on(host),
            keepalive: self.hyperspector.keepalive.or(default),
        })
    }

    /// One network of one address for each portspace on `host`.
    fn addresses_on(&self, host: &str) -> Vec<Ipv4Net> {
        let on_host = self.assigned.iter().filter(|((_, on), _)| on == host);
        let mut addresses: Vec<_> = on_host.map(|(_, address)| Ipv4Net::from(*address)).collect();
        addresses.sort_unstable();
        addresses
    }

    /// What every address is called.
    fn names(&self) -> Vec<(Ipv4Addr, Vec<String>)> {
        let mut names: Vec<_> = self
            .assigned
            .iter()
            .map(|((portspace, host), address)| {
                let mut names = vec![format!("{portspace}.{host}")];
                if self.assigned.keys().filter(|(other, _)| other == portspace).count() == 1 {
                    names.push(portspace.clone());
                }
                (*address, names)
            })
            .collect();
        names.sort_unstable();
        names
    }

    fn portspace(&self, portspace: &Portspace) -> Option<PortspacePlan> {
        let (name, host) = (&portspace.name.value, &self.host.name.value);
        let address = *self.assigned.get(&(name.clone(), host.clone()))?;
        let hyperspector = self.hyperspector.name.value.clone();
        Some(PortspacePlan {
            name: PortspaceName { hyperspector, portspace: name.clone() },
            address,
            space: space(portspace, format!("{name}.{host}")),
            windows: Windows {
                packets: portspace.packets.as_ref().map(packet_window),
                files: portspace.files.iter().map(|watch| self.file_window(watch)).collect(),
                ..Windows::default()
            },
        })
    }

    fn file_window(&self, watch: &FileWatch) -> FileWindow {
        let server = watch.server.value.clone();
        let mask = self.model.server(&server).map(|declared| declared.mask.clone());
        FileWindow { server, mask: joined(mask.unwrap_or_default(), &watch.mask) }
    }
}

fn space(portspace: &Portspace, hostname: String) -> SpacePlan {
    SpacePlan {
        hostname,
        root: portspace.root.value.clone(),
        ids: portspace.ids.value,
        command: portspace.command.iter().map(|word| word.value.clone()).collect(),
        environment: portspace.environment.clone(),
        user: portspace.user.clone(),
        directory: portspace.directory.value.clone(),
        run: portspace.run,
        keep: without_doubles(portspace.keep.clone()),
        mask: joined(default_mask(&portspace.root.value), &portspace.mask),
        mounts: portspace.mounts.iter().map(|mount| mount.value.clone()).collect(),
        limits: portspace.limits,
        stop_grace: portspace.stop_grace,
        allow_missing: portspace.allow_missing.iter().map(|missing| missing.value).collect(),
    }
}

fn packet_window(packets: &Packets) -> PacketWindow {
    PacketWindow {
        interfaces: packets.interfaces.iter().map(|interface| interface.value.clone()).collect(),
        ring_limit: packets.ring_limit,
    }
}

fn joined(mut first: Vec<PathBuf>, second: &[PathBuf]) -> Vec<PathBuf> {
    first.extend_from_slice(second);
    without_doubles(first)
}

fn without_doubles(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut kept: Vec<PathBuf> = Vec::with_capacity(paths.len());
    for path in paths {
        if !kept.contains(&path) {
            kept.push(path);
        }
    }
    kept
}
