//! From a checked model to the plan of one host.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::addresses::Assigned;
use crate::masks::default_mask;
use crate::model::{
    FileWatch, Host, Hyperspector, Kind, Model, Packets, Portspace, ServerSpace, SocketWatch,
    Space, SyscallWatch, Watch,
};
use crate::plan::{
    Adoption, FileWindow, HostPlan, HyperspectorPlan, Mount, PacketWindow, PeerPlan, Ports,
    PortspaceName, PortspacePlan, ServerKind, ServerPlan, ServerSpacePlan, SocketWindow, SpacePlan,
    SyscallWindow, VpnPlan, Windows,
};
use crate::reader::At;

mod policy;

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
    let servers = servers(model, name, &hyperspectors);
    HostPlan { host: name.to_owned(), servers, hyperspectors }
}

/// The servers of `host`, by name: its server spaces, and what these HyperSpectors watch.
fn servers(model: &Model, host: &str, hyperspectors: &[HyperspectorPlan]) -> Vec<ServerPlan> {
    let portspaces = hyperspectors.iter().flat_map(|hyperspector| &hyperspector.portspaces);
    let watched = portspaces.flat_map(|portspace| portspace.windows.servers());
    let spaces = model.server_spaces().filter(|(server, _)| server.is_on(host));
    let names: BTreeSet<&str> =
        watched.chain(spaces.map(|(server, _)| server.name.value.as_str())).collect();
    names.into_iter().filter_map(|name| server(model, name, host)).collect()
}

fn server(model: &Model, name: &str, host: &str) -> Option<ServerPlan> {
    let declared = model.server(name);
    let kind = match declared.map(|server| &server.kind) {
        None => ServerKind::Adopted(Adoption::Base),
        Some(Kind::Adopted(adoption)) => ServerKind::Adopted(adoption.value.clone()),
        Some(Kind::Space(space)) => {
            ServerKind::Space(Box::new(server_space(space, format!("{name}.{host}"))))
        }
        Some(Kind::Unreadable) => return None,
    };
    let mask = declared.map(|server| without_doubles(server.mask.clone())).unwrap_or_default();
    Some(ServerPlan { name: name.to_owned(), mask, kind })
}

fn server_space(server: &ServerSpace, hostname: String) -> ServerSpacePlan {
    ServerSpacePlan {
        space: space(&server.space, hostname),
        ports: sorted(&server.ports),
        deny: sorted(&server.deny),
    }
}

/// Ports by number, so that the order of the file means nothing.
fn sorted(ports: &[At<Ports>]) -> Vec<Ports> {
    let mut ports: Vec<_> = ports.iter().map(|ports| ports.value).collect();
    ports.sort_by_key(|ports| (ports.protocol, ports.first));
    ports
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
        let hyperspector = self.hyperspector;
        HyperspectorPlan {
            name: hyperspector.name.value.clone(),
            vpn: self.vpn(),
            names: self.names(),
            policy: policy::policy(hyperspector, self.assigned, &self.host.name.value),
            portspaces,
        }
    }

    fn vpn(&self) -> VpnPlan {
        let hyperspector = self.hyperspector;
        let own = self.host.name.value.as_str();
        let mut keys = self.host.keys(&hyperspector.name.value).map(str::to_owned);
        let others = hyperspector.hosts().into_iter().filter(|h| hyperspector.are_peers(own, h));
        VpnPlan {
            networks: hyperspector.networks.iter().map(|network| network.value).collect(),
            listen_port: hyperspector.port.value,
            backend: hyperspector.vpn,
            mtu: hyperspector.mtu,
            public_key: keys.next(),
            next_key: keys.next(),
            peers: others.filter_map(|host| self.peer(host)).collect(),
        }
    }

    fn peer(&self, host: &str) -> Option<PeerPlan> {
        let hyperspector = self.hyperspector.name.value.as_str();
        let peer = self.model.host(host)?;
        let port = |port: Option<u16>| port.unwrap_or(self.hyperspector.port.value);
        let endpoints = peer.endpoints(hyperspector).iter().map(|endpoint| &endpoint.value);
        let endpoints: Vec<_> = endpoints.map(|e| (e.address.clone(), port(e.port))).collect();
        let only_calls = self.host.endpoints(hyperspector).is_empty();
        let mut keys = peer.keys(hyperspector).map(str::to_owned);
        let default = (only_calls && !endpoints.is_empty()).then_some(DEFAULT_KEEPALIVE);
        Some(PeerPlan {
            host: host.to_owned(),
            public_key: keys.next()?,
            next_key: keys.next(),
            endpoints,
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
            space: space(&portspace.space, format!("{name}.{host}")),
            windows: self.windows(&portspace.watch),
        })
    }

    fn windows(&self, watch: &Watch) -> Windows {
        Windows {
            packets: watch.packets.as_ref().map(packet_window),
            files: watch.files.iter().map(|watch| self.file_window(watch)).collect(),
            changes: names(&watch.changes),
            sockets: watch.sockets.iter().map(socket_window).collect(),
            processes: names(&watch.processes),
            syscalls: watch.syscalls.iter().map(syscall_window).collect(),
        }
    }

    fn file_window(&self, watch: &FileWatch) -> FileWindow {
        let server = watch.server.value.clone();
        let mask = self.model.server(&server).map(|declared| declared.mask.clone());
        FileWindow { server, mask: joined(mask.unwrap_or_default(), &watch.mask) }
    }
}

fn space(space: &Space, hostname: String) -> SpacePlan {
    SpacePlan {
        hostname,
        root: space.root.value.clone(),
        ids: space.ids.value,
        command: space.command.iter().map(|word| word.value.clone()).collect(),
        environment: space.environment.clone(),
        user: space.user.clone(),
        directory: space.directory.value.clone(),
        run: space.run,
        keep: without_doubles(space.keep.clone()),
        mask: mask(space),
        mounts: mounts(space),
        limits: space.limits,
        stop_grace: space.stop_grace,
        allow_missing: space.allow_missing.iter().map(|missing| missing.value).collect(),
    }
}

/// What is hidden by default and by the file, but for what is hidden by default where the file
/// mounts something: that covers it, and was asked for.
fn mask(space: &Space) -> Vec<PathBuf> {
    let mut mask = default_mask(&space.root.value);
    mask.retain(|path| !space.mounts.iter().any(|mount| mount.value.to == *path));
    let own: Vec<_> = space.hide.iter().map(|path| path.value.clone()).collect();
    joined(mask, &own)
}

/// The mounts, each after those that it lies in, whatever the order of the file.
fn mounts(space: &Space) -> Vec<Mount> {
    let mut mounts: Vec<_> = space.mounts.iter().map(|mount| mount.value.clone()).collect();
    mounts.sort_by(|a, b| a.to.cmp(&b.to));
    mounts
}

fn names(names: &[At<String>]) -> Vec<String> {
    names.iter().map(|name| name.value.clone()).collect()
}

fn socket_window(watch: &SocketWatch) -> SocketWindow {
    SocketWindow {
        server: watch.server.value.clone(),
        path: watch.path.value.clone(),
        kind: watch.kind.value,
        to: watch.to.value.clone(),
        queue: watch.queue,
        senders: watch.senders,
    }
}

fn syscall_window(watch: &SyscallWatch) -> SyscallWindow {
    SyscallWindow { server: watch.server.value.clone(), text: watch.text.clone() }
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
