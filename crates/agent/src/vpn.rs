//! A HyperSpector's VPN on this host: started where there are other hosts, changed by difference,
//! started again when it dies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_spec::plan::{HyperspectorPlan, PeerPlan, VpnPlan};
use hyperspector_sys::netlink::LinkRef;
use hyperspector_vpn::backend::{self, Handle, Start, UAPI};
use hyperspector_vpn::hub::{self, Hub};
use hyperspector_vpn::keys::SecretKey;
use hyperspector_vpn::peer::Peer;
use hyperspector_vpn::preshared::PresharedKey;
use hyperspector_vpn::status::{Backend, Reason};

use crate::apply::Tell;
use crate::error::{Doing, Error, on};
use crate::ids::Register;
use crate::layout::{Layout, private_dir};
use crate::peers::{Peers, told};
use crate::record::VpnRecord;
use crate::status::{PeerStatus, VpnStatus};
use crate::{files, workers};

/// How long, at least, between two attempts to start a VPN that does not start.
const PAUSE: Duration = Duration::from_secs(1);
/// How long at most, and between two attempts to resolve a name.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The run directory of the machine's own agent; others are of tests.
const OWN_RUN: &str = "/run/hyperspector";

/// The VPN of one HyperSpector.
#[derive(Debug, Default)]
pub(crate) struct Vpn {
    record: Option<VpnRecord>,
    failure: Option<String>,
    /// When an attempt to mend it is due.
    due: Option<Instant>,
    /// When it was started last.
    started: Option<Instant>,
    /// The pause after the last attempt, where that failed.
    pause: Duration,
    restarts: u64,
    /// The other hosts, as they were heard last.
    peers: Peers,
}

impl Vpn {
    /// Finds the VPN that an earlier agent has started.
    pub(crate) fn adopt(layout: &Layout, name: &str) -> Self {
        Self { record: files::load(&layout.hyperspector(name).record()), ..Self::default() }
    }

    /// The process id of the embedded one.
    pub(crate) fn pid(&self) -> Option<i32> {
        match self.record.as_ref()?.handle {
            Handle::Embedded { pid, .. } => i32::try_from(pid).ok(),
            Handle::Kernel { .. } => None,
        }
    }

    /// Makes it equal to the plan.
    pub(crate) fn ensure(
        &mut self,
        layout: &Layout,
        hub: &Hub,
        plan: &HyperspectorPlan,
        tell: Tell<'_>,
    ) -> Result<(), Error> {
        self.try_ensure(layout, hub, plan, tell).inspect_err(|error| self.failed(error))
    }

    /// Notes a failure and when to try again.
    fn failed(&mut self, error: &Error) {
        self.failure = Some(error.to_string());
        self.pause = (self.pause * 2).clamp(PAUSE, LONGEST_PAUSE);
        self.due = Some(Instant::now() + self.pause);
    }

    fn try_ensure(
        &mut self,
        layout: &Layout,
        hub: &Hub,
        plan: &HyperspectorPlan,
        tell: Tell<'_>,
    ) -> Result<(), Error> {
        let wanted = &plan.vpn;
        let running = self.record.as_ref().map(|record| &record.plan);
        for line in running.map(|running| comings(running, wanted)).unwrap_or_default() {
            tell(format!("{}: {line}", plan.name));
        }
        if running == Some(wanted) && self.lives() {
            // A secret shared with a peer may have come or changed, which no plan tells.
            let is_shared = |peer: &PeerPlan| layout.preshared(&plan.name, &peer.host).exists();
            let any = wanted.peers.iter().any(is_shared);
            return if any { self.change_peers(layout, &plan.name, wanted) } else { Ok(()) };
        }
        if wanted.peers.is_empty() {
            self.record = None;
            return Self::remove(layout, &plan.name);
        }
        let only_peers =
            running.is_some_and(|running| without_peers(running) == without_peers(wanted));
        if only_peers && self.lives() {
            tell(format!("changing the peers of {}", plan.name));
            return self.change_peers(layout, &plan.name, wanted);
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
        let (peers, unresolved) = resolve(&self.peers, layout, &plan.name, &plan.vpn.peers)?;
        let user = user(layout, &plan.name)?;
        self.started = Some(Instant::now());
        // `wg` has one folder for all: it is the machine's own agent's.
        let is_own = layout.run == Path::new(OWN_RUN);
        let operators = is_own.then(|| Path::new(UAPI).join(format!("{}.sock", plan.name)));
        let wanted = Start {
            name: &plan.name,
            backend: plan.vpn.backend,
            key: &key,
            listen_port: plan.vpn.listen_port,
            mtu: plan.vpn.mtu,
            peers: &peers,
            control: &dir.vpn_socket(),
            operators: operators.as_deref(),
            uid: user,
            gid: user,
            offload: true,
            queues: backend::queues(),
        };
        let running = backend::start_placed(&wanted, workers::place(layout)).doing(doing)?;
        let mut handle = running.handle;
        let taken = hub
            .take_vpn(LinkRef::Index(running.index), plan.vpn.mtu, &plan.vpn.networks)
            .and_then(|()| hub.shape(&plan.policy, &plan.ports()));
        if let Err(error) = taken {
            let _ = backend::stop(&handle);
            return Err(error).doing(doing);
        }
        handle.moved(&dir.hub(), hub::VPN);
        let record = VpnRecord { plan: plan.vpn.clone(), handle };
        files::save(&dir.record(), &record).doing(on("write", &dir.record()))?;
        self.record = Some(record);
        self.connected(unresolved);
        Ok(())
    }

    /// Notes that it runs, and which name did not resolve.
    fn connected(&mut self, unresolved: Option<String>) {
        self.pause = Duration::ZERO;
        self.due = unresolved.is_some().then(|| Instant::now() + LONGEST_PAUSE);
        self.failure = unresolved;
    }

    fn change_peers(&mut self, layout: &Layout, name: &str, wanted: &VpnPlan) -> Result<(), Error> {
        let Some(record) = &mut self.record else { return Ok(()) };
        let dir = layout.hyperspector(name);
        let (peers, unresolved) = resolve(&self.peers, layout, name, &wanted.peers)?;
        backend::set_peers(&record.handle, peers).doing(|| "change the peers".into())?;
        record.plan = wanted.clone();
        files::save(&dir.record(), record).doing(on("write", &dir.record()))?;
        self.connected(unresolved);
        Ok(())
    }

    /// Starts it again when it has died, and tries names again that did not resolve.
    ///
    /// # Errors
    /// Where that fails, for another reason than the last time.
    pub(crate) fn revive(
        &mut self,
        layout: &Layout,
        hub: &Hub,
        plan: &HyperspectorPlan,
    ) -> Result<(), Error> {
        self.look_at_peers(layout, plan)?;
        if plan.vpn.peers.is_empty() || self.due.is_some_and(|due| due > Instant::now()) {
            return Ok(());
        }
        let lives = self.lives();
        let is_recent = self.started.is_some_and(|started| started.elapsed() < PAUSE);
        if (lives && self.due.is_none()) || (!lives && is_recent) {
            return Ok(());
        }
        let result = if lives {
            self.change_peers(layout, &plan.name, &plan.vpn)
        } else {
            if self.failure.is_none() {
                eprintln!("the vpn of {} is gone; starting it again", plan.name);
            }
            self.restarts += u64::from(self.record.is_some());
            Self::remove(layout, &plan.name).and_then(|()| self.start(layout, hub, plan))
        };
        let Err(error) = result else { return Ok(()) };
        let is_known = self.failure.as_deref() == Some(error.to_string().as_str());
        self.failed(&error);
        if is_known { Ok(()) } else { Err(error) }
    }

    /// Tells of peers that do not answer or do so again, and tries other endpoints of those.
    fn look_at_peers(&mut self, layout: &Layout, plan: &HyperspectorPlan) -> Result<(), Error> {
        let Some(record) = self.record.as_ref().filter(|_| self.peers.is_due()) else {
            return Ok(());
        };
        // One that cannot be asked is revived, and then asked again.
        let Ok(status) = backend::status(&record.handle) else { return Ok(()) };
        let (events, is_to_move) = self.peers.look(&plan.vpn.peers, &status);
        for event in events {
            eprintln!("{}", told(&event, plan));
        }
        if is_to_move {
            self.change_peers(layout, &plan.name, &plan.vpn)?;
        }
        Ok(())
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
        let all = status.drops.iter().chain(status.peers.iter().flat_map(|peer| &peer.drops));
        let dropped = named(all);
        let peers = record.plan.peers.iter().map(|plan| self.peer(plan, status)).collect();
        VpnStatus {
            backend: match status.backend {
                Backend::Kernel => "kernel".to_owned(),
                Backend::Embedded => "embedded".to_owned(),
            },
            failure: self.failure.clone(),
            pid: self.pid(),
            public_key: Some(status.public_key.to_string()),
            listen_port: Some(record.plan.listen_port),
            peers,
            dropped,
            restarts: self.restarts,
        }
    }

    fn peer(&self, plan: &PeerPlan, status: &hyperspector_vpn::status::Status) -> PeerStatus {
        let live = status.peers.iter().find(|peer| peer.public_key.to_string() == plan.public_key);
        let planned = plan.endpoints.first().map(|(host, port)| format!("{host}:{port}"));
        PeerStatus {
            host: plan.host.clone(),
            endpoint: live.and_then(|peer| peer.endpoint).map(|at| at.to_string()).or(planned),
            last_handshake_seconds: live.and_then(|peer| peer.last_handshake),
            handshakes: self.peers.handshakes(&plan.host),
            silent_seconds: self.peers.silent(&plan.host).map(|time| time.as_secs()),
            round_trip_ms: live.and_then(|peer| peer.round_trip_ms),
            mtu: live.and_then(|peer| peer.mtu),
            received_bytes: live.map_or(0, |peer| peer.rx_bytes),
            sent_bytes: live.map_or(0, |peer| peer.tx_bytes),
            dropped: live.map(|peer| named(peer.drops.iter())).unwrap_or_default(),
            allowed: plan.allowed.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Counts by the names of their reasons.
fn named<'a>(drops: impl Iterator<Item = (&'a Reason, &'a u64)>) -> BTreeMap<String, u64> {
    let mut dropped = BTreeMap::new();
    for (reason, count) in drops {
        // Reasons are unit variants: their JSON is their name.
        let name = serde_json::to_value(reason).unwrap_or_default();
        *dropped.entry(name.as_str().unwrap_or("unknown").to_owned()).or_default() += count;
    }
    dropped
}

/// Who joins, and who is cut off, in words.
fn comings(before: &VpnPlan, after: &VpnPlan) -> Vec<String> {
    let lacks = |list: &VpnPlan, peer: &PeerPlan| {
        list.peers.iter().all(|other| other.public_key != peer.public_key)
    };
    let gone = before.peers.iter().filter(|peer| lacks(after, peer)).map(|peer| {
        match after.peers.iter().any(|other| other.host == peer.host) {
            true => format!("the old key of {} is not taken any more", peer.host),
            false => format!("{} is cut off", peer.host),
        }
    });
    let new = after.peers.iter().filter(|peer| lacks(before, peer)).map(|peer| {
        match before.peers.iter().any(|other| other.host == peer.host) {
            true => format!("{} has another key", peer.host),
            false => format!("{} joins", peer.host),
        }
    });
    gone.chain(new).collect()
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

/// Peers as the data path wants them, with the secrets that are shared with them; and which name did
/// not resolve.
fn resolve(
    known: &Peers,
    layout: &Layout,
    name: &str,
    plans: &[PeerPlan],
) -> Result<(Vec<Peer>, Option<String>), Error> {
    let (mut peers, unresolved) = known.resolve(plans)?;
    for (peer, plan) in peers.iter_mut().zip(plans) {
        let path = layout.preshared(name, &plan.host);
        peer.preshared = PresharedKey::load(&path).doing(on("load", &path))?;
    }
    Ok((peers, unresolved))
}
