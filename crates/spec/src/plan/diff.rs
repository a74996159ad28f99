//! What has to change to get from one plan to another.

use std::collections::BTreeSet;

use super::{
    HostPlan, HyperspectorPlan, PeerPlan, Policy, PortspaceName, PortspacePlan, Run, ServerKind,
    ServerPlan, ServerSpacePlan, SpacePlan, VpnPlan,
};

/// What becomes of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It goes.
    Removed,
    /// It is there and has to be different.
    Changed,
    /// It is as it should be.
    Unchanged,
}

/// Everything that is in either of two plans, and what becomes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The servers, by name.
    pub servers: Vec<ServerChange>,
    /// The HyperSpectors, by name.
    pub hyperspectors: Vec<HyperspectorChange>,
}

/// What becomes of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerChange {
    /// Its name.
    pub name: String,
    /// What becomes of it.
    pub change: Change,
    /// Whether a changed server space has to be stopped and started again; never so for an adopted
    /// server, which is left as it is.
    pub restart: bool,
    /// The fields that differ, as the spec calls them.
    pub fields: Vec<&'static str>,
}

/// What becomes of one HyperSpector's part on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HyperspectorChange {
    /// Its name.
    pub name: String,
    /// `Changed` when anything in it is.
    pub change: Change,
    /// Its VPN.
    pub vpn: VpnChange,
    /// Whether any address is called differently.
    pub names: bool,
    /// What its hub lets through otherwise, as the spec calls it.
    pub policy: Vec<&'static str>,
    /// Its portspaces, by name.
    pub portspaces: Vec<PortspaceChange>,
}

/// What becomes of a VPN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VpnChange {
    /// `Changed` when a field or a peer is.
    pub change: Change,
    /// The fields that differ, as the spec calls them; peers apart.
    pub fields: Vec<&'static str>,
    /// Its peers, by host.
    pub peers: Vec<PeerChange>,
}

/// What becomes of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerChange {
    /// The other host.
    pub host: String,
    /// What becomes of it.
    pub change: Change,
    /// The fields that differ, as the spec calls them.
    pub fields: Vec<&'static str>,
}

/// What becomes of a portspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortspaceChange {
    /// Its name.
    pub name: PortspaceName,
    /// What becomes of it.
    pub change: Change,
    /// Whether a changed portspace has to be stopped and started again.
    pub restart: bool,
    /// The fields that differ, as the spec calls them.
    pub fields: Vec<&'static str>,
}

impl Changes {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.servers.iter().all(|server| server.change == Change::Unchanged)
            && self.hyperspectors.iter().all(|one| one.change == Change::Unchanged)
    }
}

/// Compares what a host has (`None`: nothing) with what it should have.
pub fn diff(old: Option<&HostPlan>, new: &HostPlan) -> Changes {
    let old_servers = old.map_or(&[][..], |plan| &plan.servers);
    let servers = paired(old_servers, &new.servers, |server| server.name.as_str());
    let old = old.map_or(&[][..], |plan| &plan.hyperspectors);
    let pairs = paired(old, &new.hyperspectors, |hyperspector| hyperspector.name.as_str());
    Changes {
        servers: servers.into_iter().map(|(old, new)| server(old, new)).collect(),
        hyperspectors: pairs.into_iter().map(|(old, new)| hyperspector(old, new)).collect(),
    }
}

/// Everything in either list, by key, with its counterpart; one of the two is always there.
fn paired<'a, T, K: Ord + ?Sized>(
    old: &'a [T],
    new: &'a [T],
    key: impl Fn(&T) -> &K,
) -> Vec<(Option<&'a T>, Option<&'a T>)> {
    let keys: BTreeSet<&K> = old.iter().chain(new).map(&key).collect();
    let find = |list: &'a [T], wanted: &K| list.iter().find(|item| key(item) == wanted);
    keys.into_iter().map(|wanted| (find(old, wanted), find(new, wanted))).collect()
}

/// What becomes of something of which `differs` says whether both versions differ.
fn change<T>(old: Option<&T>, new: Option<&T>, differs: bool) -> Change {
    match (old, new) {
        (None, _) => Change::Added,
        (_, None) => Change::Removed,
        _ if differs => Change::Changed,
        _ => Change::Unchanged,
    }
}

fn hyperspector(
    old: Option<&HyperspectorPlan>,
    new: Option<&HyperspectorPlan>,
) -> HyperspectorChange {
    let name = old.or(new).map(|hyperspector| hyperspector.name.clone()).unwrap_or_default();
    let vpn = vpn(old.map(|h| &h.vpn), new.map(|h| &h.vpn));
    let names = old.zip(new).is_some_and(|(old, new)| old.names != new.names);
    let old_list = old.map_or(&[][..], |h| &h.portspaces);
    let new_list = new.map_or(&[][..], |h| &h.portspaces);
    let portspaces: Vec<_> = paired(old_list, new_list, |portspace| &portspace.name)
        .into_iter()
        .map(|(old, new)| portspace(old, new, &vpn))
        .collect();
    let policy = old.zip(new).map(|(old, new)| policy_fields(&old.policy, &new.policy));
    let policy = policy.unwrap_or_default();
    let differs = names
        || !policy.is_empty()
        || vpn.change != Change::Unchanged
        || portspaces.iter().any(|portspace| portspace.change != Change::Unchanged);
    HyperspectorChange { change: change(old, new, differs), name, vpn, names, policy, portspaces }
}

fn policy_fields(old: &Policy, new: &Policy) -> Vec<&'static str> {
    let Policy { everything, flows, rates } = new;
    let flows_differ = old.everything != *everything || old.flows != *flows;
    differing(&[("allow", flows_differ), ("rate", old.rates != *rates)])
}

fn vpn(old: Option<&VpnPlan>, new: Option<&VpnPlan>) -> VpnChange {
    let fields = old.zip(new).map(|(old, new)| vpn_fields(old, new)).unwrap_or_default();
    let old_peers = old.map_or(&[][..], |vpn| &vpn.peers);
    let new_peers = new.map_or(&[][..], |vpn| &vpn.peers);
    let pairs = paired(old_peers, new_peers, |peer| peer.host.as_str());
    let peers: Vec<_> = pairs.into_iter().map(|(old, new)| peer(old, new)).collect();
    let differs = !fields.is_empty() || peers.iter().any(|p| p.change != Change::Unchanged);
    VpnChange { change: change(old, new, differs), fields, peers }
}

/// The names of those pairs whose second value says that they differ.
fn differing(fields: &[(&'static str, bool)]) -> Vec<&'static str> {
    fields.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect()
}

fn vpn_fields(old: &VpnPlan, new: &VpnPlan) -> Vec<&'static str> {
    let VpnPlan { networks, listen_port, backend, mtu, public_key, next_key, peers: _ } = new;
    differing(&[
        ("network", old.networks != *networks),
        ("port", old.listen_port != *listen_port),
        ("vpn", old.backend != *backend),
        ("mtu", old.mtu != *mtu),
        ("key", old.public_key != *public_key || old.next_key != *next_key),
    ])
}

fn peer(old: Option<&PeerPlan>, new: Option<&PeerPlan>) -> PeerChange {
    let host = old.or(new).map(|peer| peer.host.clone()).unwrap_or_default();
    let fields = old.zip(new).map(|(old, new)| peer_fields(old, new)).unwrap_or_default();
    PeerChange { host, change: change(old, new, !fields.is_empty()), fields }
}

fn peer_fields(old: &PeerPlan, new: &PeerPlan) -> Vec<&'static str> {
    let PeerPlan { host: _, public_key, next_key, endpoints, allowed, keepalive } = new;
    differing(&[
        ("key", old.public_key != *public_key || old.next_key != *next_key),
        ("endpoint", old.endpoints != *endpoints),
        ("addresses", old.allowed != *allowed),
        ("keepalive", old.keepalive != *keepalive),
    ])
}

/// Fields that the agent applies without touching what runs; `mask` of a server space is another
/// than that of a portspace, and hides from those who watch it.
const WITHOUT_RESTART: [&str; 1] = ["limits"];
const SERVER_WITHOUT_RESTART: [&str; 5] = ["limits", "ports", "deny", "mask", "adopt"];

fn server(old: Option<&ServerPlan>, new: Option<&ServerPlan>) -> ServerChange {
    let name = old.or(new).map(|server| server.name.clone()).unwrap_or_default();
    let fields = old.zip(new).map(|(old, new)| server_fields(old, new)).unwrap_or_default();
    let restart = fields.iter().any(|field| !SERVER_WITHOUT_RESTART.contains(field));
    ServerChange { name, change: change(old, new, !fields.is_empty()), restart, fields }
}

fn server_fields(old: &ServerPlan, new: &ServerPlan) -> Vec<&'static str> {
    let ServerPlan { name: _, mask, kind } = new;
    let mut fields = match (&old.kind, kind) {
        (ServerKind::Space(old), ServerKind::Space(new)) => server_space_fields(old, new),
        (ServerKind::Adopted(old), ServerKind::Adopted(new)) => differing(&[("adopt", old != new)]),
        // One of the two has to be started or stopped.
        _ => vec!["command", "adopt"],
    };
    fields.extend(differing(&[("mask", old.mask != *mask)]));
    fields
}

fn server_space_fields(old: &ServerSpacePlan, new: &ServerSpacePlan) -> Vec<&'static str> {
    let ServerSpacePlan { space, ports, deny } = new;
    let own = |field| if field == "mask" { "hide" } else { field };
    let mut fields: Vec<_> = space_fields(&old.space, space).into_iter().map(own).collect();
    fields.extend(differing(&[("ports", old.ports != *ports), ("deny", old.deny != *deny)]));
    fields
}

fn portspace(
    old: Option<&PortspacePlan>,
    new: Option<&PortspacePlan>,
    vpn: &VpnChange,
) -> PortspaceChange {
    let mut fields = Vec::new();
    if let Some((old, new)) = old.zip(new) {
        fields = portspace_fields(old, new);
        // A portspace's interface and routes are made with these when it starts.
        fields.extend(vpn.fields.iter().filter(|field| matches!(**field, "network" | "mtu")));
    }
    let name = old.or(new).map_or_else(
        || PortspaceName { hyperspector: String::new(), portspace: String::new() },
        |portspace| portspace.name.clone(),
    );
    let restart = fields.iter().any(|field| !WITHOUT_RESTART.contains(field));
    PortspaceChange { name, change: change(old, new, !fields.is_empty()), restart, fields }
}

fn portspace_fields(old: &PortspacePlan, new: &PortspacePlan) -> Vec<&'static str> {
    // Taken apart by name, so that a field that is added to the plan cannot be forgotten here.
    let PortspacePlan { name: _, address, space, windows } = new;
    let mut fields = differing(&[("address", old.address != *address)]);
    fields.extend(space_fields(&old.space, space));
    fields.extend(differing(&[
        ("watch.packets", old.windows.packets != windows.packets),
        ("watch.files", old.windows.files != windows.files),
        ("watch.changes", old.windows.changes != windows.changes),
        ("watch.sockets", old.windows.sockets != windows.sockets),
        ("watch.processes", old.windows.processes != windows.processes),
        ("watch.syscalls", old.windows.syscalls != windows.syscalls),
    ]));
    fields
}

fn space_fields(old: &SpacePlan, new: &SpacePlan) -> Vec<&'static str> {
    let SpacePlan {
        hostname,
        root,
        ids,
        command,
        environment,
        user,
        directory,
        run,
        keep,
        mask,
        mounts,
        limits,
        stop_grace,
        allow_missing,
    } = new;
    let is_service = |run: &Run| matches!(run, Run::Service { .. });
    let (was_service, is_service) = (is_service(&old.run), is_service(run));
    let run_differs = old.run != *run;
    differing(&[
        ("hostname", old.hostname != *hostname),
        ("root", old.root != *root),
        ("ids", old.ids != *ids),
        ("command", old.command != *command),
        ("environment", old.environment != *environment),
        ("user", old.user != *user),
        ("directory", old.directory != *directory),
        ("restart", run_differs && was_service && is_service),
        ("every", run_differs && !(was_service && is_service)),
        ("keep", old.keep != *keep),
        ("mask", old.mask != *mask),
        ("mount", old.mounts != *mounts),
        ("limits", old.limits != *limits),
        ("stop-grace", old.stop_grace != *stop_grace),
        ("allow-missing", old.allow_missing != *allow_missing),
    ])
}
