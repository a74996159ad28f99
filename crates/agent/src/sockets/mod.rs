//! The sockets windows: one tee for each server that a portspace reads sockets of, kept as servers
//! and portspaces come and go.

mod places;
mod tee;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hyperspector_spec::plan::{HostPlan, PortspacePlan, SocketKind as Kind, SocketWindow};
use hyperspector_window::sockets::{self, SocketKind};

use crate::apply::Agent;
use crate::layout::Layout;
use crate::process::ProcessId;
use crate::servers::space::first_id;
use crate::status::{SocketStatus, TeeStatus};
pub(crate) use tee::{Tee, remove};

/// The tees of this host, by server.
pub(crate) type Tees = BTreeMap<String, Tee>;

/// What a tee is wanted for.
pub(crate) struct Wanted {
    /// The sockets, with the kind that is made where there is none.
    pub(crate) paths: BTreeMap<PathBuf, SocketKind>,
    /// The readers: their names, what they are, and in whose root they listen, while they live.
    pub(crate) readers: BTreeMap<String, (sockets::Reader, Option<ProcessId>)>,
    /// What the server's ids are more than it sees itself.
    pub(crate) shift: u32,
}

/// In a space, `/dev/log` leads here: nothing can be made in its `/dev`.
const DEV_LOG: (&str, &str) = ("/dev/log", "/run/log.socket");

/// What a tee knows a reader by.
fn reader_name(plan: &PortspacePlan, window: &SocketWindow) -> String {
    format!("{} {} {}", plan.name, window.path.display(), window.to.display())
}

/// What a tee knows a source by.
fn source_name(path: &Path) -> String {
    path.display().to_string()
}

/// Where a reader listens that says so.
fn place_of(to: &Path) -> PathBuf {
    if to == Path::new(DEV_LOG.0) { DEV_LOG.1.into() } else { to.to_owned() }
}

fn kind(kind: Kind) -> SocketKind {
    match kind {
        Kind::Dgram => SocketKind::Dgram,
        Kind::Stream => SocketKind::Stream,
        Kind::Seqpacket => SocketKind::Seqpacket,
    }
}

/// The windows of a plan on the sockets of a server.
fn windows<'a>(
    plan: &'a HostPlan,
    server: &'a str,
) -> impl Iterator<Item = (&'a PortspacePlan, &'a SocketWindow)> {
    let portspaces = plan.hyperspectors.iter().flat_map(|one| &one.portspaces);
    portspaces
        .flat_map(|plan| plan.windows.sockets.iter().map(move |window| (plan, window)))
        .filter(move |(_, window)| window.server == server)
}

impl Agent {
    /// Has every server's tee be as it is wanted now.
    pub(crate) fn follow_sockets(&mut self) {
        let all = self.plan.hyperspectors.iter().flat_map(|one| &one.portspaces);
        let all = all.flat_map(|plan| &plan.windows.sockets);
        let servers: BTreeSet<String> = all.map(|window| window.server.clone()).collect();
        let gone: Vec<String> =
            self.tees.keys().filter(|name| !servers.contains(*name)).cloned().collect();
        for name in gone {
            self.tees.remove(&name);
            if let Err(error) = remove(&self.layout, &name) {
                eprintln!("{error}");
            }
        }
        for name in servers {
            let wanted = self.wanted_of_tee(&name);
            let tee = self.tees.entry(name.clone()).or_default();
            let present = self.servers.present(&name);
            tee.follow(&self.layout, &name, &wanted, present, &mut self.errands);
        }
    }

    /// Puts the sockets in their places before a server space's command runs, whose init is `init`: begins
    /// to where `is_first`, and goes on else. Returns whether nothing is left to be waited for.
    pub(crate) fn place_sockets(&mut self, name: &str, init: i32, is_first: bool) -> bool {
        let wanted = self.wanted_of_tee(name);
        if wanted.paths.is_empty() {
            return true;
        }
        let tee = self.tees.entry(name.to_owned()).or_default();
        tee.place_first(&self.layout, name, &wanted, (init, is_first), &mut self.errands)
    }

    fn wanted_of_tee(&self, server: &str) -> Wanted {
        let mut wanted = Wanted {
            paths: BTreeMap::new(),
            readers: BTreeMap::new(),
            shift: shift(&self.layout, &self.plan, server),
        };
        for (plan, window) in windows(&self.plan, server) {
            wanted.paths.insert(window.path.clone(), kind(window.kind));
            let name = reader_name(plan, window);
            let living = self.living(&plan.name).filter(|living| living.init.is_alive());
            let reader = sockets::Reader {
                name: name.clone(),
                source: source_name(&window.path),
                to: place_of(&window.to),
                queue: window.queue,
                senders: window.senders,
            };
            wanted.readers.insert(name, (reader, living.map(|living| living.init.id)));
        }
        wanted
    }

    /// How a portspace's windows on sockets are.
    pub(crate) fn socket_windows(&self, plan: &PortspacePlan) -> Vec<SocketStatus> {
        let status = |window: &SocketWindow| {
            let tee = self.tees.get(&window.server);
            let reader = tee.and_then(|tee| tee.reader(&reader_name(plan, window)));
            let problem = tee.and_then(|tee| tee.problem(&window.path)).map(str::to_owned);
            let reader = reader.unwrap_or_default();
            SocketStatus {
                server: window.server.clone(),
                path: window.path.clone(),
                to: window.to.clone(),
                accepted: reader.accepted,
                delivered: reader.delivered,
                lost: reader.lost,
                waiting_bytes: reader.waiting,
                problem: problem.or(reader.problem),
            }
        };
        plan.windows.sockets.iter().map(status).collect()
    }

    /// How a server's tee is.
    pub(crate) fn tee_status(&self, server: &str) -> Option<TeeStatus> {
        self.tees.get(server).map(Tee::status)
    }

    /// Asks every tee how it is, for what comes next.
    pub(crate) fn look_at_tees(&self) {
        self.tees.iter().for_each(|(name, tee)| tee.ask(&self.layout, name));
    }
}

/// What a server's ids are more than it sees itself.
fn shift(layout: &Layout, plan: &HostPlan, server: &str) -> u32 {
    use hyperspector_spec::plan::ServerKind;
    let found = plan.servers.iter().find(|one| one.name == server).map(|one| &one.kind);
    match found {
        Some(ServerKind::Space(space)) => first_id(&layout.server(server), space).unwrap_or(0),
        _ => 0,
    }
}
