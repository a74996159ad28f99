//! The windows of a portspace: its broker, and what keeps it shut beside that.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyperspector_space::cgroup::Cgroup;
use hyperspector_space::config::{Compare, Condition, Rule, RuleAction};
use hyperspector_space::launch::Launched;
use hyperspector_spec::plan::{PortspaceName, PortspacePlan, Protection};
use hyperspector_sys::channel::{self};
use hyperspector_sys::netlink::{Connection, Link};
use hyperspector_window::packets::rules::{Action, Rule as WindowRule, Test};
use hyperspector_window::packets::{self, broker, unix_guard};
use hyperspector_window::shadow;

use crate::error::{Doing, Error, on};
use crate::guard::{Guard, guarded};
use crate::layout::{Layout, SpaceDir};
use crate::process::{Process, ProcessId};
use crate::record::PortspaceRecord;
use crate::{files, space, syscalls, workers};

/// How long a worker that runs may take for a whole answer. Whoever reads what attackers send may be
/// taken, and must not hold up the agent.
const ANSWER: Duration = Duration::from_secs(1);
/// How many answers in a row a broker may owe before it is replaced.
const MOST_UNANSWERED: u32 = 3;
/// How often a broker is asked for what its successor would need.
const NOTE_PERIOD: Duration = Duration::from_secs(2);
/// How many packet sockets a portspace may have at once.
const SOCKET_LIMIT: usize = 1024;
/// The broker's user inside a portspace's user namespace; nothing in there has any business with it.
const BROKER_USER: u32 = 65533;

/// The broker of a portspace, and what it takes to start it again.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    broker: Option<Broker>,
    /// Why there is no Unix guard, where the spec lets it be missing.
    missing: Option<String>,
}

#[derive(Debug)]
struct Broker {
    process: Process,
    policy: broker::Policy,
    /// Handed to its successor; `None` when another agent started it, and holds them.
    held: Option<Held>,
    known: broker::Known,
    noted: Instant,
    unanswered: u32,
    generation: u64,
}

#[derive(Debug)]
struct Held {
    listener: OwnedFd,
    users: OwnedFd,
}

impl Windows {
    /// Finds the broker that an earlier agent has started.
    pub(crate) fn adopt(record: &PortspaceRecord) -> Self {
        let process = record.broker.and_then(ProcessId::open);
        let broker = process.map(|process| Broker {
            process,
            policy: broker::Policy::default(),
            held: None,
            known: broker::Known::default(),
            noted: Instant::now(),
            unanswered: 0,
            generation: u64::MAX,
        });
        Self { broker, missing: record.space.missing.first().cloned() }
    }

    /// Which protection it does not have, and why.
    pub(crate) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// Which process the broker is.
    pub(crate) fn broker_id(&self) -> Option<ProcessId> {
        self.broker.as_ref().map(|broker| broker.process.id)
    }

    /// Starts the broker again when it has died, and tells it of a new guard.
    ///
    /// # Errors
    /// Where the broker is gone and cannot be replaced: the portspace's init is killed then, so that
    /// the portspace is made again.
    pub(crate) fn revive(
        &mut self,
        layout: &Layout,
        record: &mut PortspaceRecord,
        init: &Process,
        guard: Option<&Guard>,
    ) -> Result<(), Error> {
        let Some(broker) = &mut self.broker else { return Ok(()) };
        let dir = layout.portspace(&record.plan.name);
        if broker.process.is_alive() {
            broker.follow(&dir, guard);
            return Ok(());
        }
        if !init.is_alive() {
            return Ok(());
        }
        let Some(held) = broker.held.take() else {
            init.kill();
            return Err(Error::new("replace it", "an earlier agent held its listener"));
        };
        eprintln!("the broker of {} is gone; starting it again", record.plan.name);
        let known = std::mem::take(&mut broker.known);
        let policy = broker.policy.clone();
        let started = start_broker(layout, &dir, policy, known, held, guard)?;
        let pins = pins(layout, &record.plan.name);
        if has_unix_guard(&record.plan) && pins.exists() {
            let pid = started.process.id.pid.cast_unsigned();
            unix_guard::set_broker(&pins, pid).doing(|| "name it to the unix guard".into())?;
        }
        record.broker = Some(started.process.id);
        *broker = started;
        files::save(&dir.record(), record).doing(on("write", &dir.record()))
    }

    /// What the broker says of itself, but for what its successor alone needs.
    pub(crate) fn describe(&self, dir: &SpaceDir) -> Option<serde_json::Value> {
        self.broker.as_ref()?;
        let status = ask_broker(dir, broker::Request::Status, &[])?;
        let broker::Reply::Status(status) = status else { return None };
        let mut value = serde_json::to_value(status).ok()?;
        value.as_object_mut()?.remove("known");
        Some(value)
    }
}

impl Broker {
    /// Notes what its successor would need, and hands it the connection to a new guard.
    fn follow(&mut self, dir: &SpaceDir, guard: Option<&Guard>) {
        if let Some(guard) = guard.filter(|guard| guard.generation != self.generation)
            && let Ok(stream) = guard.connect()
        {
            let told = ask_broker(dir, broker::Request::Guard, &[stream.as_fd()]);
            if matches!(told, Some(broker::Reply::Done)) {
                self.generation = guard.generation;
            }
        }
        if self.noted.elapsed() > NOTE_PERIOD {
            match ask_broker(dir, broker::Request::Status, &[]) {
                Some(broker::Reply::Status(status)) => {
                    self.known = status.known;
                    self.unanswered = 0;
                }
                _ => self.unanswered += 1,
            }
            self.noted = Instant::now();
            if self.unanswered >= MOST_UNANSWERED {
                eprintln!("a broker does not answer; ending it");
                self.process.kill();
            }
        }
    }
}

fn ask_broker(
    dir: &SpaceDir,
    request: broker::Request,
    fds: &[BorrowedFd<'_>],
) -> Option<broker::Reply> {
    channel::ask(&dir.broker_socket(), &request, fds, ANSWER).ok().map(|(reply, _)| reply)
}

/// Opens the windows of a space that is built and does not run yet.
pub(crate) fn open(
    layout: &Layout,
    plan: &PortspacePlan,
    links: &[Link],
    launched: &mut Launched,
    (cgroup, guard): (&Cgroup, Option<&Guard>),
) -> Result<Windows, Error> {
    let Some(listener) = launched.listener.take() else { return Ok(Windows::default()) };
    let doing = || format!("start the broker of {}", plan.name);
    let held = Held { listener, users: launched.users.try_clone().doing(doing)? };
    let offered = syscalls::offered(layout, plan)?;
    let policy = broker::Policy { offered, ..policy(plan, links) };
    let known = broker::Known::default();
    let dir = layout.portspace(&plan.name);
    let broker = start_broker(layout, &dir, policy, known, held, guard)?;
    let mut missing = None;
    if has_unix_guard(plan) {
        let pid = broker.process.id.pid.cast_unsigned();
        match guard_unix(layout, plan, cgroup, pid) {
            Ok(()) => {}
            Err(error) if plan.space.allow_missing.contains(&Protection::UnixGuard) => {
                missing = Some(format!("unix-guard: {}", error.cause()));
            }
            Err(error) => {
                broker.process.kill();
                return Err(error);
            }
        }
    }
    Ok(Windows { broker: Some(broker), missing })
}

fn start_broker(
    layout: &Layout,
    dir: &SpaceDir,
    policy: broker::Policy,
    known: broker::Known,
    held: Held,
    guard: Option<&Guard>,
) -> Result<Broker, Error> {
    let guard = guard.filter(|_| !policy.interfaces.is_empty());
    let connection = guard.map(Guard::connect).transpose()?;
    let config = broker::Config {
        policy: policy.clone(),
        guard: connection.is_some(),
        uid: BROKER_USER,
        gid: BROKER_USER,
        known: known.clone(),
    };
    let control = space::listen(&dir.broker_socket())?;
    let mut fds = vec![control.as_fd(), held.users.as_fd()];
    fds.extend(connection.as_ref().map(AsFd::as_fd));
    fds.push(held.listener.as_fd());
    let process = workers::start(layout, "broker", &config, &fds)
        .map_err(|why| Error::new("start the broker", why))?;
    let generation = guard.map_or(u64::MAX, |guard| guard.generation);
    Ok(Broker {
        process,
        policy,
        held: Some(held),
        known,
        noted: Instant::now(),
        unanswered: 0,
        generation,
    })
}

/// What the portspace may do with packet sockets.
fn policy(plan: &PortspacePlan, links: &[Link]) -> broker::Policy {
    let Some(window) = &plan.windows.packets else { return broker::Policy::default() };
    let interfaces = links.iter().map(|link| (link.name.clone(), link.index)).collect();
    broker::Policy {
        interfaces,
        any: false,
        ring_limit: window.ring_limit,
        socket_limit: SOCKET_LIMIT,
        offered: None,
    }
}

/// The interfaces that a portspace watches, as they are now.
pub(crate) fn host_links(plan: &PortspacePlan) -> Result<Vec<Link>, Error> {
    let Some(window) = &plan.windows.packets else { return Ok(Vec::new()) };
    let doing = || format!("find the interfaces that {} watches", plan.name);
    let mut netlink = Connection::open().doing(doing)?;
    window.interfaces.iter().map(|name| netlink.link(name.as_str()).doing(doing)).collect()
}

/// Whether sockets that the portspace sees have to be kept from it: it sees files of the host.
fn has_unix_guard(plan: &PortspacePlan) -> bool {
    let windows = &plan.windows;
    !(windows.files.is_empty() && windows.changes.is_empty() && plan.space.mounts.is_empty())
}

fn guard_unix(
    layout: &Layout,
    plan: &PortspacePlan,
    cgroup: &Cgroup,
    broker: u32,
) -> Result<(), Error> {
    let doing = || {
        let name = &plan.name;
        format!("keep {name} from sockets in its views (allow-missing = [\"unix-guard\"])")
    };
    let directory = guarded(layout, cgroup, doing)?;
    unix_guard::attach(directory.as_fd(), broker, &pins(layout, &plan.name)).doing(doing)
}

/// Where a portspace's BPF links are pinned. No name holds a dot.
fn pins(layout: &Layout, name: &PortspaceName) -> PathBuf {
    layout.bpf().join(format!("{}-{}", name.hyperspector, name.portspace))
}

/// Takes away what lasts longer than the processes of a portspace's windows.
pub(crate) fn close(layout: &Layout, name: &PortspaceName) -> Result<(), Error> {
    let pins = pins(layout, name);
    unix_guard::remove(&pins).doing(on("remove", &pins))
}

/// Makes the shadows of the interfaces that a portspace watches.
pub(crate) fn shadows(links: &[Link], namespace: BorrowedFd<'_>) -> Result<(), Error> {
    for link in links {
        shadow::make(namespace, link).doing(|| format!("make a shadow of {}", link.name))?;
    }
    Ok(())
}

/// The seccomp rules of a portspace's windows.
pub(crate) fn rules(plan: &PortspacePlan) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    if plan.windows.packets.is_some() {
        rules.extend(packets::rules().iter().map(rule));
    } else {
        rules.push(no_packet_sockets());
    }
    if has_unix_guard(plan) {
        rules.extend(unix_guard::rules().iter().map(rule));
    }
    rules
}

/// Without a packet window, packet sockets are refused before anybody looks at capabilities.
fn no_packet_sockets() -> Rule {
    let family = Condition {
        argument: 0,
        compare: Compare::Equal,
        value: u64::from(libc::AF_PACKET.cast_unsigned()),
    };
    Rule {
        syscall: libc::SYS_socket,
        conditions: vec![family],
        action: RuleAction::Errno(libc::EPERM as u16),
    }
}

/// A window's rule as the space takes it.
pub(crate) fn rule(rule: &WindowRule) -> Rule {
    let conditions = rule.when.iter().map(|condition| {
        let (compare, value) = match condition.test {
            Test::Is(value) => (Compare::Equal, value),
            Test::IsNot(value) => (Compare::NotEqual, value),
            Test::AtLeast(value) => (Compare::AtLeast, value),
            Test::Masked { mask, value } => (Compare::Masked(u64::from(mask)), value),
        };
        Condition { argument: condition.arg, compare, value: u64::from(value) }
    });
    let action = match rule.action {
        Action::Ask => RuleAction::Notify,
        Action::Errno(errno) => {
            RuleAction::Errno(u16::try_from(errno).unwrap_or(libc::EPERM as u16))
        }
    };
    Rule { syscall: rule.call, conditions: conditions.collect(), action }
}
