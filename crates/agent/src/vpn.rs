//! A HyperSpector's VPN on this host: started where there are other hosts, changed by difference,
//! started again when it dies.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyperspector_spec::plan::{HyperspectorPlan, PeerPlan, VpnPlan};
use hyperspector_sys::netlink::LinkRef;
use hyperspector_vpn::backend::{self, Handle, Start};
use hyperspector_vpn::hub::{self, Hub};
use hyperspector_vpn::keys::SecretKey;
use hyperspector_vpn::peer::Peer;
use hyperspector_vpn::status::Backend;

use crate::apply::Tell;
use crate::error::{Doing, Error, on};
use crate::files;
use crate::ids::Register;
use crate::layout::{HyperspectorDir, Layout, private_dir};
use crate::record::VpnRecord;
use crate::status::{PeerStatus, VpnStatus};

/// How long between two attempts to start a VPN that does not start, or to resolve a name.
const PAUSE: Duration = Duration::from_secs(1);

/// The VPN of one HyperSpector.
#[derive(Debug, Default)]
pub(crate) struct Vpn {
    record: Option<VpnRecord>,
    failure: Option<String>,
    /// When an attempt to mend it is due.
    due: Option<Instant>,
    restarts: u64,
}

impl Vpn {
    /// Finds the VPN that an earlier agent has started.
    pub(crate) fn adopt(layout: &Layout, name: &str) -> Self {
        Self { record: files::load(&layout.hyperspector(name).record()), ..Self::default() }
    }

    /// Makes it equal to the plan.
    pub(crate) fn ensure(
        &mut self,
        layout: &Layout,
        hub: &Hub,
        plan: &HyperspectorPlan,
        tell: Tell<'_>,
    ) -> Result<(), Error> {
        let wanted = &plan.vpn;
        let running = self.record.as_ref().map(|record| &record.plan);
        if running == Some(wanted) && self.lives() {
            return Ok(());
        }
        if wanted.peers.is_empty() {
            self.record = None;
            return Self::remove(layout, &plan.name);
        }
        let only_peers =
            running.is_some_and(|running| without_peers(running) == without_peers(wanted));
        if only_peers && self.lives() {
            tell(format!("changing the peers of {}", plan.name));
            return self.change_peers(&layout.hyperspector(&plan.name), wanted);
        }
        tell(format!("starting the vpn of {}", plan.name));
        Self::remove(layout, &plan.name)?;
        self.record = None;
        self.start(layout, hub, plan)
    }

    fn lives(&self) -> bool {
        match self.record.as_ref().map(|record| &record.handle) {
            Some(handle @ Handle::Embedded { .. }) => {
                handle.process().is_ok_and(|process| process.is_some_and(|fd| !has_ended(&fd)))
            }
            Some(Handle::Kernel { .. }) => true,
            None => false,
        }
    }

    fn start(&mut self, layout: &Layout, hub: &Hub, plan: &HyperspectorPlan) -> Result<(), Error> {
        let doing = || format!("start the vpn of {}", plan.name);
        let dir = layout.hyperspector(&plan.name);
        let key = own_key(layout, plan)?;
        let (peers, unresolved) = resolve(&plan.vpn.peers)?;
        let user = user(layout, &plan.name)?;
        let running = backend::start(&Start {
            name: &plan.name,
            backend: plan.vpn.backend,
            key: &key,
            listen_port: plan.vpn.listen_port,
            mtu: plan.vpn.mtu,
            peers: &peers,
            control: &dir.vpn_socket(),
            uid: user,
            gid: user,
            offload: true,
        })
        .doing(doing)?;
        let mut handle = running.handle;
        let taken = hub.take_vpn(LinkRef::Index(running.index), plan.vpn.mtu, &plan.vpn.networks);
        if let Err(error) = taken {
            let _ = backend::stop(&handle);
            return Err(error).doing(doing);
        }
        handle.moved(&dir.hub(), hub::VPN);
        let record = VpnRecord { plan: plan.vpn.clone(), handle };
        files::save(&dir.record(), &record).doing(on("write", &dir.record()))?;
        self.record = Some(record);
        self.failure = unresolved;
        self.due = self.failure.is_some().then(|| Instant::now() + PAUSE * 30);
        Ok(())
    }

    fn change_peers(&mut self, dir: &HyperspectorDir, wanted: &VpnPlan) -> Result<(), Error> {
        let Some(record) = &mut self.record else { return Ok(()) };
        let (peers, unresolved) = resolve(&wanted.peers)?;
        backend::set_peers(&record.handle, peers).doing(|| "change the peers".into())?;
        record.plan = wanted.clone();
        self.failure = unresolved;
        self.due = self.failure.is_some().then(|| Instant::now() + PAUSE * 30);
        files::save(&dir.record(), record).doing(on("write", &dir.record()))
    }

    /// Starts it again when it has died, and tries names again that did not resolve.
    pub(crate) fn revive(
        &mut self,
        layout: &Layout,
        hub: &Hub,
        plan: &HyperspectorPlan,
    ) -> Result<(), Error> {
        if plan.vpn.peers.is_empty() || self.due.is_some_and(|due| due > Instant::now()) {
            return Ok(());
        }
        let lives = self.lives();
        if lives && self.due.is_none() {
            return Ok(());
        }
        self.due = Some(Instant::now() + PAUSE);
        let result = if lives {
            self.change_peers(&layout.hyperspector(&plan.name), &plan.vpn)
        } else {
            eprintln!("the vpn of {} is gone; starting it again", plan.name);
            self.restarts += 1;
            Self::remove(layout, &plan.name).and_then(|()| self.start(layout, hub, plan))
        };
        if let Err(error) = &result {
            self.failure = Some(error.to_string());
        }
        result
    }

    /// Ends it, with what an agent has noted of it.
    pub(crate) fn remove(layout: &Layout, name: &str) -> Result<(), Error> {
        let path = layout.hyperspector(name).record();
        if let Some(record) = files::load::<VpnRecord>(&path) {
            backend::stop(&record.handle).doing(|| format!("stop the vpn of {name}"))?;
        }
        files::remove(&path).doing(on("remove", &path))
    }

    /// How it is.
    pub(crate) fn status(&self, plan: Option<&HyperspectorPlan>) -> VpnStatus {
        let Some(record) = &self.record else {
            let has_peers = plan.is_some_and(|plan| !plan.vpn.peers.is_empty());
            let backend = if has_peers { "down" } else { "none" };
            return VpnStatus {
                backend: backend.to_owned(),
                failure: self.failure.clone(),
                public_key: plan.and_then(|plan| plan.vpn.public_key.clone()),
                ..VpnStatus::default()
            };
        };
        match backend::status(&record.handle) {
            Ok(status) => self.described(record, &status),
            Err(error) => VpnStatus {
                backend: "down".to_owned(),
                failure: Some(error.to_string()),
                ..VpnStatus::default()
            },
        }
    }

    fn described(
        &self,
        record: &VpnRecord,
        status: &hyperspector_vpn::status::Status,
    ) -> VpnStatus {
        let mut dropped = BTreeMap::new();
        let all = status.drops.iter().chain(status.peers.iter().flat_map(|peer| &peer.drops));
        for (reason, count) in all {
            // Reasons are unit variants: their JSON is their name.
            let name = serde_json::to_value(reason).unwrap_or_default();
            *dropped.entry(name.as_str().unwrap_or("unknown").to_owned()).or_default() += count;
        }
        let peers = record.plan.peers.iter().map(|plan| peer(plan, status)).collect();
        VpnStatus {
            backend: match status.backend {
                Backend::Kernel => "kernel".to_owned(),
                Backend::Embedded => "embedded".to_owned(),
            },
            failure: self.failure.clone(),
            pid: match &record.handle {
                Handle::Embedded { pid, .. } => i32::try_from(*pid).ok(),
                Handle::Kernel { .. } => None,
            },
            public_key: Some(status.public_key.to_string()),
            listen_port: Some(record.plan.listen_port),
            peers,
            dropped,
            restarts: self.restarts,
        }
    }
}

fn peer(plan: &PeerPlan, status: &hyperspector_vpn::status::Status) -> PeerStatus {
    let live = status.peers.iter().find(|peer| peer.public_key.to_string() == plan.public_key);
    let planned = plan.endpoint.as_ref().map(|(host, port)| format!("{host}:{port}"));
    PeerStatus {
        host: plan.host.clone(),
        endpoint: live.and_then(|peer| peer.endpoint).map(|at| at.to_string()).or(planned),
        last_handshake_seconds: live.and_then(|peer| peer.last_handshake),
        received_bytes: live.map_or(0, |peer| peer.rx_bytes),
        sent_bytes: live.map_or(0, |peer| peer.tx_bytes),
        allowed: plan.allowed.iter().map(ToString::to_string).collect(),
    }
}

fn has_ended(process: &std::os::fd::OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec::default();
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

fn without_peers(plan: &VpnPlan) -> VpnPlan {
    VpnPlan { peers: Vec::new(), public_key: None, ..plan.clone() }
}

/// This host's key, which must be the one that the others know.
fn own_key(layout: &Layout, plan: &HyperspectorPlan) -> Result<SecretKey, Error> {
    let path = layout.key(&plan.name);
    if let Some(directory) = path.parent() {
        private_dir(directory).doing(on("make", directory))?;
    }
    let key = SecretKey::load_or_create(&path).doing(on("load", &path))?;
    let own = key.public().to_string();
    match &plan.vpn.public_key {
        Some(known) if *known != own => Err(Error::new(
            format!("start the vpn of {}", plan.name),
            format!(
                "the spec has another key for this host; its own is key.{} = \"{own}\"",
                plan.name
            ),
        )),
        _ => Ok(key),
    }
}

/// The user that the VPN's process becomes: one of its own, from a range of its own.
fn user(layout: &Layout, name: &str) -> Result<u32, Error> {
    let holder: PathBuf = layout.state.join("portspaces").join(name).join(".vpn");
    private_dir(&holder).doing(on("make", &holder))?;
    Register::default().range(&holder)
}

/// Peers with their endpoints' names resolved; a name that does not resolve is told, and its peer
/// waits to be called.
fn resolve(peers: &[PeerPlan]) -> Result<(Vec<Peer>, Option<String>), Error> {
    let mut unresolved = None;
    let mut resolved = Vec::new();
    for plan in peers {
        let endpoint = match plan.endpoint.as_ref().map(address).transpose() {
            Ok(endpoint) => endpoint,
            Err(reason) => {
                unresolved = Some(format!("the endpoint of {}: {reason}", plan.host));
                None
            }
        };
        let peer = Peer::from_plan(plan, endpoint);
        resolved.push(peer.doing(|| format!("read the key of {}", plan.host))?);
    }
    Ok((resolved, unresolved))
}

fn address((host, port): &(String, u16)) -> Result<SocketAddr, String> {
    let mut found = (host.as_str(), *port).to_socket_addrs().map_err(|e| e.to_string())?;
    found.next().ok_or_else(|| "it has no address".to_owned())
}
