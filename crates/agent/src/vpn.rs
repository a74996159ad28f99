//! A HyperSpector's VPN on this host: started where there are other hosts, changed by difference,
//! started again when it dies.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use hyperspector_spec::plan::{HyperspectorPlan, PeerPlan, VpnPlan};
use hyperspector_sys::netlink::LinkRef;
use hyperspector_sys::pidfd::has_ended_within;
use hyperspector_vpn::backend::{self, Handle, Start, UAPI};
use hyperspector_vpn::hub::{self, Hub};
use hyperspector_vpn::keys::SecretKey;
use hyperspector_vpn::peer::Peer;

use crate::apply::Tell;
use crate::error::{Doing, Error, on};
use crate::keys;
use crate::layout::Layout;
use crate::peers::{Peers, told};
use crate::record::VpnRecord;
use crate::secrets::Secrets;
use crate::{files, ids, workers};

mod show;

use show::comings;

/// How long, at least, between two attempts to start a VPN that does not start.
const PAUSE: Duration = Duration::from_secs(1);
/// How long at most.
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
    /// What is shared with them, as it is used.
    secrets: Secrets,
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
        self.try_ensure(layout, hub, plan, tell).inspect_err(|error| self.failed(error))?;
        // Told by `up` too, each time.
        match self.secrets.trouble().filter(|_| self.record.is_some()) {
            Some(trouble) => Err(Error::new(format!("connect {}", plan.name), trouble)),
            None => Ok(()),
        }
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
        self.tell_whom_a_key_cuts_off(plan, tell);
        if running == Some(wanted) && self.lives() {
            // A secret shared with a peer may have come, changed or gone, which no plan tells.
            if Secrets::read(layout, &plan.name, &wanted.peers) != self.secrets {
                return self.change_peers(layout, &plan.name, wanted);
            }
            let Some(record) = &self.record else { return Ok(()) };
            return set_keys(layout, &record.handle, &plan.name, wanted);
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

    /// Tells which peers do not know the key that the spec has alone now.
    fn tell_whom_a_key_cuts_off(&self, plan: &HyperspectorPlan, tell: Tell<'_>) {
        let Some(record) = self.record.as_ref().filter(|_| plan.vpn.next_key.is_none()) else {
            return;
        };
        let Ok(status) = backend::status(&record.handle) else { return };
        let wanted = plan.vpn.public_key.as_deref();
        let Some(next) = status.next_key.filter(|next| wanted == Some(&*next.to_string())) else {
            return;
        };
        for host in keys::lacking(&plan.vpn, &status, next) {
            tell(format!(
                "{}: {host} has not taken the next key yet: cut off until it has",
                plan.name
            ));
        }
    }

    fn lives(&self) -> bool {
        match self.record.as_ref().map(|record| &record.handle) {
            Some(handle @ Handle::Embedded { .. }) => {
                let process = handle.process().ok().flatten();
                let ended = process.map(|fd| has_ended_within(fd.as_fd(), Duration::ZERO));
                !matches!(ended, None | Some(Ok(true)))
            }
            Some(Handle::Kernel { .. }) => true,
            None => false,
        }
    }

    fn start(&mut self, layout: &Layout, hub: &Hub, plan: &HyperspectorPlan) -> Result<(), Error> {
        let doing = || format!("start the vpn of {}", plan.name);
        let dir = layout.hyperspector(&plan.name);
        let keys = keys::wanted(layout, &plan.name, &plan.vpn, None)?;
        let (peers, secrets, trouble) = self.resolve(layout, &plan.name, &plan.vpn.peers)?;
        let user = user(layout, &plan.name, ".vpn")?;
        self.started = Some(Instant::now());
        // `wg` has one folder for all: it is the machine's own agent's.
        let is_own = layout.run == Path::new(OWN_RUN);
        let operators = is_own.then(|| Path::new(UAPI).join(format!("{}.sock", plan.name)));
        let wanted = Start {
            name: &plan.name,
            backend: plan.vpn.backend,
            key: &keys[0],
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
        if let Err(error) = set_keys(layout, &handle, &plan.name, &plan.vpn) {
            let _ = backend::stop(&handle);
            return Err(error);
        }
        let record = VpnRecord { plan: plan.vpn.clone(), handle };
        files::save(&dir.record(), &record).doing(on("write", &dir.record()))?;
        self.record = Some(record);
        self.connected(secrets, trouble);
        Ok(())
    }

    /// Notes that it runs, and what is wrong with some of its peers.
    fn connected(&mut self, secrets: Secrets, trouble: Option<String>) {
        self.secrets = secrets;
        self.pause = Duration::ZERO;
        self.due = None;
        self.failure = trouble;
    }

    /// Peers as the data path wants them, with the secrets that are shared with them, but for those
    /// that lack theirs; and what is wrong with some.
    fn resolve(
        &mut self,
        layout: &Layout,
        name: &str,
        plans: &[PeerPlan],
    ) -> Result<(Vec<Peer>, Secrets, Option<String>), Error> {
        let is_name = |(host, _): &(String, u16)| host.parse::<std::net::IpAddr>().is_err();
        if plans.iter().flat_map(|plan| &plan.endpoints).any(is_name) {
            self.peers.set_names_user(user(layout, name, ".names")?);
        }
        let (peers, unresolved) = self.peers.resolve(plans)?;
        let secrets = Secrets::read(layout, name, plans);
        secrets.keep(layout, name)?;
        let peers = peers.into_iter().zip(plans).filter(|(_, plan)| !secrets.cuts_off(&plan.host));
        let peers = peers.map(|(peer, plan)| Peer { preshared: secrets.with(&plan.host), ..peer });
        let (peers, trouble) = (peers.collect(), secrets.trouble().or(unresolved));
        Ok((peers, secrets, trouble))
    }

    fn change_peers(&mut self, layout: &Layout, name: &str, wanted: &VpnPlan) -> Result<(), Error> {
        let (peers, secrets, trouble) = self.resolve(layout, name, &wanted.peers)?;
        let Some(record) = &mut self.record else { return Ok(()) };
        let dir = layout.hyperspector(name);
        set_keys(layout, &record.handle, name, wanted)?;
        backend::set_peers(&record.handle, peers).doing(|| "change the peers".into())?;
        record.plan = wanted.clone();
        files::save(&dir.record(), record).doing(on("write", &dir.record()))?;
        self.connected(secrets, trouble);
        Ok(())
    }

    /// Starts it again when it has died, and follows what becomes known of its peers.
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
        self.follow_keys(layout, plan)?;
        if self.peers.step_names(layout) && self.lives() {
            self.change_peers(layout, &plan.name, &plan.vpn)?;
        }
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
        if keys::is_known_to_all(&plan.vpn, &status) {
            keys::finish(layout, &plan.name)?;
            set_keys(layout, &record.handle, &plan.name, &plan.vpn)?;
            eprintln!(
                "the vpn of {}: every host has the next key; the old one is wiped",
                plan.name
            );
        }
        let secrets = Secrets::read(layout, &plan.name, &plan.vpn.peers);
        if let Some(trouble) = secrets.trouble().filter(|_| secrets != self.secrets) {
            eprintln!("the vpn of {}: {trouble}", plan.name);
        }
        if is_to_move || secrets != self.secrets {
            self.change_peers(layout, &plan.name, &plan.vpn)?;
        }
        Ok(())
    }

    /// The kernel's has an address of a peer at one of its keys alone: at the one that it uses.
    fn follow_keys(&mut self, layout: &Layout, plan: &HyperspectorPlan) -> Result<(), Error> {
        let handle = self.record.as_ref().map(|record| &record.handle);
        let is_kernel = matches!(handle, Some(Handle::Kernel { .. }));
        if !is_kernel || plan.vpn.peers.iter().all(|peer| peer.next_key.is_none()) {
            return Ok(());
        }
        self.change_peers(layout, &plan.name, &plan.vpn)
    }

    /// Ends it, with what an agent has noted of it.
    pub(crate) fn remove(layout: &Layout, name: &str) -> Result<(), Error> {
        let path = layout.hyperspector(name).record();
        if let Some(record) = files::load::<VpnRecord>(&path) {
            backend::stop(&record.handle).doing(|| format!("stop the vpn of {name}"))?;
        }
        files::remove(&path).doing(on("remove", &path))
    }
}

fn without_peers(plan: &VpnPlan) -> VpnPlan {
    VpnPlan { peers: Vec::new(), public_key: None, next_key: None, ..plan.clone() }
}

/// The user that a process of the VPN's becomes: one of its own, from a range of its own.
fn user(layout: &Layout, name: &str, which: &str) -> Result<u32, Error> {
    ids::held_by(&layout.state.join("portspaces").join(name).join(which))
}

/// Gives a VPN this host's keys, where it has others.
fn set_keys(layout: &Layout, handle: &Handle, name: &str, plan: &VpnPlan) -> Result<(), Error> {
    let doing = || format!("change the keys of {name}");
    let status = backend::status(handle).doing(doing)?;
    let wanted = keys::wanted(layout, name, plan, Some(status.backend))?;
    let has = std::iter::once(status.public_key).chain(status.next_key);
    if has.eq(wanted.iter().map(SecretKey::public)) {
        return Ok(());
    }
    backend::set_keys(handle, wanted).doing(doing)
}
