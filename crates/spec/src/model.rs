//! What a spec says, section by section, each value with its place in the file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use crate::errors::Span;
use crate::plan::{
    Adoption, Ids, Limits, Mount, Open, Ports, Protection, Root, Run, SocketKind, SyscallText,
    VpnBackend,
};
use crate::reader::At;

/// The whole file; all lists are in its order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) hosts: Vec<Host>,
    pub(crate) servers: Vec<Server>,
    pub(crate) hyperspectors: Vec<Hyperspector>,
}

/// `[host.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Host {
    pub(crate) name: At<String>,
    pub(crate) header: Span,
    pub(crate) endpoint: Endpoints,
    /// Public keys by HyperSpector: the one in use, and while it is changed the next.
    pub(crate) keys: Vec<(At<String>, Vec<At<String>>)>,
}

/// Where a host can be reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Endpoints {
    /// Nowhere: it only calls.
    #[default]
    None,
    /// The file says it wrongly.
    Unreadable,
    /// The same for every HyperSpector.
    All(Vec<At<Endpoint>>),
    /// By HyperSpector.
    Each(Vec<(At<String>, Vec<At<Endpoint>>)>),
}

/// A name or an address, and the port where it is not the HyperSpector's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: String,
    pub(crate) port: Option<u16>,
}

/// `[server.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Server {
    pub(crate) name: At<String>,
    pub(crate) on: Vec<At<String>>,
    pub(crate) kind: Kind,
    /// What every window on it hides.
    pub(crate) mask: Vec<PathBuf>,
}

/// How a server comes to run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// The file does not say it rightly.
    Unreadable,
    Space(Box<ServerSpace>),
    Adopted(At<Adoption>),
}

/// What a server space has beside what every space has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServerSpace {
    pub(crate) space: Space,
    pub(crate) ports: Vec<At<Ports>>,
    pub(crate) deny: Vec<At<Ports>>,
}

/// What portspaces and server spaces have in common.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Space {
    pub(crate) root: At<Root>,
    pub(crate) command: Vec<At<String>>,
    pub(crate) ids: At<Ids>,
    pub(crate) user: String,
    pub(crate) directory: At<PathBuf>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) mounts: Vec<At<Mount>>,
    pub(crate) run: Run,
    pub(crate) keep: Vec<PathBuf>,
    /// Hidden from itself, on top of the default ones.
    pub(crate) hide: Vec<At<PathBuf>>,
    pub(crate) limits: Limits,
    pub(crate) stop_grace: u32,
    pub(crate) allow_missing: Vec<At<Protection>>,
}

/// `[hyperspector.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hyperspector {
    pub(crate) name: At<String>,
    pub(crate) header: Span,
    pub(crate) networks: Vec<At<Ipv4Net>>,
    /// The UDP port; its place is the header where it is the default.
    pub(crate) port: At<u16>,
    pub(crate) vpn: VpnBackend,
    pub(crate) mtu: u32,
    pub(crate) keepalive: Option<u16>,
    pub(crate) allow: Allow,
    /// Portspaces that all others may reach.
    pub(crate) collectors: Vec<At<String>>,
    pub(crate) topology: At<Topology>,
    pub(crate) portspaces: Vec<Portspace>,
}

/// Who may talk to whom, beside everybody to the collectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Allow {
    /// Everybody to everybody.
    All(Span),
    Rules(Vec<AllowRule>),
}

impl Default for Allow {
    fn default() -> Self {
        Self::Rules(Vec::new())
    }
}

/// One value of `allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AllowRule {
    /// Portspaces, or `PORTSPACE.HOST`; `None` is everybody.
    pub(crate) from: Option<Vec<At<String>>>,
    pub(crate) to: Vec<At<String>>,
    pub(crate) open: Vec<Open>,
    pub(crate) priority: bool,
}

/// Which hosts of a HyperSpector know each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Topology {
    /// All.
    #[default]
    Mesh,
    /// Those with a collector know all, the others know those.
    Collectors,
}

/// `[hyperspector.NAME.portspace.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Portspace {
    pub(crate) name: At<String>,
    pub(crate) on: Vec<At<String>>,
    pub(crate) space: Space,
    pub(crate) address: Addresses,
    /// What it may send over the VPN, in bits per second; `None` is without a limit.
    pub(crate) rate: Option<u64>,
    pub(crate) watch: Watch,
}

/// Addresses that the file gives to a portspace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Addresses {
    /// None: they are worked out.
    #[default]
    None,
    /// One, for a portspace on one host.
    One(At<std::net::Ipv4Addr>),
    /// By host.
    Each(Vec<(At<String>, At<std::net::Ipv4Addr>)>),
}

/// `watch.…`
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Watch {
    pub(crate) packets: Option<Packets>,
    pub(crate) files: Vec<FileWatch>,
    pub(crate) changes: Vec<At<String>>,
    pub(crate) sockets: Vec<SocketWatch>,
    pub(crate) processes: Vec<At<String>>,
    pub(crate) syscalls: Vec<SyscallWatch>,
}

/// `watch.packets`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packets {
    pub(crate) interfaces: Vec<At<String>>,
    pub(crate) ring_limit: u64,
}

/// One value of `watch.files`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FileWatch {
    pub(crate) server: At<String>,
    pub(crate) mask: Vec<PathBuf>,
}

/// One value of `watch.sockets`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SocketWatch {
    pub(crate) server: At<String>,
    pub(crate) path: At<PathBuf>,
    pub(crate) kind: At<SocketKind>,
    pub(crate) to: At<PathBuf>,
    pub(crate) queue: u64,
    pub(crate) senders: bool,
}

/// One value of `watch.syscalls`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SyscallWatch {
    pub(crate) server: At<String>,
    pub(crate) text: Option<SyscallText>,
}

impl Model {
    pub(crate) fn portspaces(&self) -> impl Iterator<Item = &Portspace> {
        self.hyperspectors.iter().flat_map(|hyperspector| &hyperspector.portspaces)
    }

    /// The server spaces, each with the server that it is.
    pub(crate) fn server_spaces(&self) -> impl Iterator<Item = (&Server, &ServerSpace)> {
        self.servers.iter().filter_map(|server| Some((server, server.space()?)))
    }
    pub(crate) fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name.value == name)
    }

    pub(crate) fn server(&self, name: &str) -> Option<&Server> {
        self.servers.iter().find(|server| server.name.value == name)
    }
}

impl Watch {
    /// Every mention of a server.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &At<String>> {
        let files = self.files.iter().map(|watch| &watch.server);
        let sockets = self.sockets.iter().map(|watch| &watch.server);
        let syscalls = self.syscalls.iter().map(|watch| &watch.server);
        files.chain(&self.changes).chain(sockets).chain(&self.processes).chain(syscalls)
    }
}

impl Server {
    pub(crate) fn is_on(&self, host: &str) -> bool {
        self.on.iter().any(|on| on.value == host)
    }

    /// What it is where it is a server space.
    pub(crate) fn space(&self) -> Option<&ServerSpace> {
        if let Kind::Space(space) = &self.kind { Some(space) } else { None }
    }
}

impl Host {
    /// Its public keys in a HyperSpector: one, or two while it changes them; none where none is given.
    pub(crate) fn keys(&self, hyperspector: &str) -> impl Iterator<Item = &str> {
        let found = self.keys.iter().find(|(name, _)| name.value == hyperspector);
        found.into_iter().flat_map(|(_, keys)| keys).map(|key| key.value.as_str())
    }

    /// Where it can be reached in a HyperSpector, in the order of preference.
    pub(crate) fn endpoints(&self, hyperspector: &str) -> &[At<Endpoint>] {
        match &self.endpoint {
            Endpoints::None | Endpoints::Unreadable => &[],
            Endpoints::All(endpoints) => endpoints,
            Endpoints::Each(each) => {
                let found = each.iter().find(|(name, _)| name.value == hyperspector);
                found.map_or(&[], |(_, endpoints)| endpoints)
            }
        }
    }
}

impl Hyperspector {
    /// The hosts that have a portspace of it, by name, each once.
    pub(crate) fn hosts(&self) -> Vec<&str> {
        let mut hosts: Vec<_> =
            self.portspaces.iter().flat_map(|p| &p.on).map(|on| on.value.as_str()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }

    /// Whether two of its hosts are peers of each other.
    pub(crate) fn are_peers(&self, one: &str, other: &str) -> bool {
        one != other
            && (self.topology.value == Topology::Mesh
                || self.has_collector(one)
                || self.has_collector(other))
    }

    fn has_collector(&self, host: &str) -> bool {
        let is_one = |name: &str| self.collectors.iter().any(|collector| collector.value == name);
        self.portspaces.iter().any(|p| is_one(&p.name.value) && p.is_on(host))
    }
}

impl Portspace {
    pub(crate) fn is_on(&self, host: &str) -> bool {
        self.on.iter().any(|on| on.value == host)
    }
}
