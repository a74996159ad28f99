//! `hyperspector status`: how things are, at a glance.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use hyperspector_agent::client;
use hyperspector_agent::layout::Layout;
use hyperspector_agent::protocol::{Answer, Request};
use hyperspector_agent::status::{
    ChangesStatus, HostStatus, HyperspectorStatus, PortspaceStatus, ServerSpaceStatus,
    ServerStatus, SocketStatus, SpaceStatus, SyscallStatus, TracerStatus, WindowsStatus,
};
use hyperspector_space::control::State;
use hyperspector_spec::plan::Ids;
use hyperspector_window::ports::{Counts, Protocol, Refused, What};

use crate::cli::{Exit, Global};
use crate::terminal::{BAD, BUSY, FAINT, GOOD, STRONG, bytes, duration, escape, styled};

mod vpn;

use vpn::{kept_in, peer_line, vpn_line};

/// How many refused ports are named.
const NAMED_PORTS: usize = 8;

pub fn run(global: &Global, json: bool) -> Result<ExitCode> {
    let layout = global.existing()?;
    let Some(status) = ask(&layout)? else {
        if layout.hyperspectors().exists() || layout.servers().exists() {
            bail!(
                "no agent runs, but something of one is there; `up` adopts it, `down` removes it"
            );
        }
        bail!("nothing runs here");
    };
    if json {
        println!("{}", crate::terminal::json(&status)?);
    } else {
        show(&status);
    }
    let portspaces = status.hyperspectors.iter().flat_map(|one| &one.portspaces);
    let servers = status.servers.iter().filter_map(|one| Some(&one.space.as_ref()?.space));
    let spaces = portspaces.map(|one| &one.space).chain(servers);
    let is_bad = spaces.into_iter().any(|space| space.state == State::Failed);
    Ok(if is_bad { Exit::Partly } else { Exit::Fine }.into())
}

fn ask(layout: &Layout) -> Result<Option<HostStatus>> {
    match client::ask(layout, &Request::Status, |_| {})? {
        Some(Answer::Status(status)) => Ok(Some(*status)),
        Some(_) => bail!("the agent answers something else"),
        None => Ok(None),
    }
}

fn show(status: &HostStatus) {
    anstream::println!("{}", styled(STRONG, format!("host {}", escape(&status.host))));
    if let Some(agent) = &status.agent {
        let memory = agent.memory_bytes.map_or(String::new(), |m| format!(", {}", bytes(m)));
        let text = format!("agent {} (pid {}{memory})", agent.version, agent.pid);
        anstream::println!("  {}", styled(FAINT, text));
    }
    if let Some(guard) = &status.guard {
        let text = format!(
            "guard (pid {}): nothing leaves by {}; {} packets stopped",
            guard.pid,
            guard.interfaces.join(", "),
            guard.dropped
        );
        anstream::println!("  {}", styled(FAINT, text));
    }
    show_servers(&status.servers);
    for one in &status.hyperspectors {
        show_hyperspector(one);
    }
}

fn show_servers(servers: &[ServerStatus]) {
    if servers.is_empty() {
        return;
    }
    println!();
    anstream::println!("{}", styled(STRONG, "servers"));
    let width = servers.iter().map(|server| server.name.len()).max().unwrap_or(0);
    for server in servers {
        let name = format!("{:width$}", escape(&server.name));
        match &server.space {
            Some(space) => show_server_space(&name, space),
            None => anstream::println!("  {}", server_line(&name, server)),
        }
        if let Some(why) = &server.distrust {
            anstream::println!(
                "      {}",
                styled(BAD, format!("not to be trusted: {}", escape(why)))
            );
        }
        if let Some(changes) = &server.changes {
            show_changes(changes);
        }
        if let Some(tracer) = &server.tracer {
            show_tracer(tracer);
        }
    }
}

fn show_server_space(name: &str, server: &ServerSpaceStatus) {
    let ports = if server.ports.is_empty() { "no ports".into() } else { server.ports.join(" ") };
    let first_id = server.first_id.map(|id| format!("ids from {id}"));
    show_space(name, &ports, &server.space, first_id.into_iter().collect());
    if !server.given_by_chance.is_empty() {
        let line = format!(
            "{}: the kernel gives these to any program; reserve them in \
             net.ipv4.ip_local_reserved_ports",
            server.given_by_chance.join(" ")
        );
        anstream::println!("      {}", styled(BUSY, line));
    }
    for line in server.refused.iter().flat_map(refused) {
        anstream::println!("      {}", styled(BUSY, line));
    }
}

/// The journal of what changes on a server.
fn show_changes(changes: &ChangesStatus) {
    if let Some(failure) = &changes.failure {
        anstream::println!("      {}", styled(BAD, format!("changes: {}", escape(failure))));
    }
    let size = bytes(changes.bytes as u64);
    let text = format!("changes: {} paths known, {size}", changes.entries);
    anstream::println!("      {}", styled(FAINT, text));
    if let Some(reason) = &changes.last_gap {
        let text = format!("changes: not known {} times, last: {}", changes.gaps, escape(reason));
        anstream::println!("      {}", styled(BUSY, text));
    }
    for place in &changes.unwatched {
        let text = format!("changes: to be scanned every time: {}", escape(place));
        anstream::println!("      {}", styled(BUSY, text));
    }
}

/// What records a server's system calls.
fn show_tracer(tracer: &TracerStatus) {
    if let Some(problem) = &tracer.problem {
        anstream::println!("      {}", styled(BAD, format!("system calls: {}", escape(problem))));
    }
    let memory = tracer.memory_bytes.map_or(String::new(), |m| format!(", {}", bytes(m)));
    let text = format!("system calls: {} recorded{memory}", tracer.recorded);
    anstream::println!("      {}", styled(FAINT, text));
    if !tracer.lost.is_empty() {
        let each = tracer.lost.iter().map(|(cpu, count)| format!("{count} on processor {cpu}"));
        let text = format!("system calls lost: {}", each.collect::<Vec<_>>().join(", "));
        anstream::println!("      {}", styled(BUSY, text));
    }
}

fn server_line(name: &str, server: &ServerStatus) -> String {
    let kind = escape(&server.kind);
    let (style, mark, state) = match &server.reason {
        Some(reason) => (BUSY, "○", format!("{kind}, down: {}", escape(reason))),
        None => (GOOD, "●", kind),
    };
    format!("{} {} {}", styled(style, mark), styled(STRONG, name), styled(FAINT, state))
}

/// What a port guard has refused, a line for each kind.
fn refused(counts: &Counts) -> Vec<String> {
    let kinds = [
        (What::Bind, counts.binds, "refused to bind", "times"),
        (What::Connect, counts.connects, "kept from denied ports", "times"),
        (What::Listen, counts.listens, "kept others from ports that are not registered", "packets"),
    ];
    let line = |(what, count, text, unit)| {
        let named = counts.ports.iter().filter(|one: &&Refused| one.what == what);
        let named: Vec<_> = named.take(NAMED_PORTS).map(port).collect();
        format!("{text}: {count} {unit} ({})", named.join(", "))
    };
    kinds.into_iter().filter(|(_, count, ..)| *count > 0).map(line).collect()
}

fn port(refused: &Refused) -> String {
    let protocol = match refused.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{protocol}/{}", refused.port)
}

fn show_hyperspector(one: &HyperspectorStatus) {
    println!();
    anstream::println!("{} {}", styled(STRONG, &one.name), vpn_line(&one.vpn));
    for peer in &one.vpn.peers {
        anstream::println!("    {}", peer_line(peer));
    }
    let width = one.portspaces.iter().map(|p| short(&p.name).len()).max().unwrap_or(0);
    for portspace in &one.portspaces {
        show_portspace(portspace, width);
    }
}

/// A portspace's name without its HyperSpector, which stands above it.
fn short(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, short)| short)
}

fn show_portspace(portspace: &PortspaceStatus, width: usize) {
    let address = format!("{:15}", portspace.address.to_string());
    let windows = &portspace.windows;
    let mut more = Vec::new();
    if !windows.packets.is_empty() {
        more.push(format!("packets of {}", windows.packets.join(", ")));
    }
    if !windows.files.is_empty() {
        more.push(format!("files of {}", windows.files.join(", ")));
    }
    if !windows.changes.is_empty() {
        more.push(format!("changes of {}", windows.changes.join(", ")));
    }
    if !windows.processes.is_empty() {
        more.push(format!("processes of {}", windows.processes.join(", ")));
    }
    let sockets = windows.sockets.iter().map(socket_words).collect::<Vec<_>>();
    if !sockets.is_empty() {
        more.push(format!("sockets of {}", sockets.join(", ")));
    }
    let syscalls = windows.syscalls.iter().map(syscall_words).collect::<Vec<_>>();
    if !syscalls.is_empty() {
        more.push(format!("system calls of {}", syscalls.join(", ")));
    }
    let name = format!("{:width$}", short(&portspace.name));
    show_space(&name, &address, &portspace.space, more);
    for line in portspace.refused.iter().flat_map(kept_in) {
        anstream::println!("      {}", styled(BUSY, line));
    }
    for spot in blind_spots(windows) {
        anstream::println!("      {}", styled(BUSY, escape(&spot)));
    }
}

fn show_space(name: &str, place: &str, space: &SpaceStatus, more: Vec<String>) {
    let (style, mark, state) = state(space);
    anstream::println!(
        "  {} {} {} {} {}",
        styled(style, mark),
        styled(STRONG, name),
        styled(FAINT, place),
        styled(style, state),
        styled(FAINT, details(space, more))
    );
    if let Some(reason) = &space.reason {
        println!("      {}", escape(reason));
    }
    for line in &space.last_lines {
        anstream::println!("      {} {}", styled(FAINT, "|"), escape(line));
    }
    for lack in lacks(space) {
        anstream::println!("      {}", styled(BUSY, escape(&lack)));
    }
}

/// What the space goes without, since its spec or the kernel has it so.
fn lacks(space: &SpaceStatus) -> Vec<String> {
    let enforced = &space.enforced;
    let landlock = enforced.landlock.strip_prefix("missing: ");
    let landlock = landlock.map(|why| format!("missing: landlock: {why}"));
    let missing = space.missing.iter().map(|what| format!("missing: {what}"));
    let limits = space.limits_missing.iter().map(|limit| format!("not limited: {limit}"));
    let mounts = enforced.mounts.iter().flat_map(|(mount, parts)| {
        let left_out = parts.iter().filter(|part| part.starts_with("left out: "));
        left_out.map(move |part| format!("{mount}, {part}"))
    });
    landlock.into_iter().chain(missing).chain(limits).chain(mounts).collect()
}

fn socket_words(socket: &SocketStatus) -> String {
    let lost = if socket.lost > 0 { format!(", {} lost", socket.lost) } else { String::new() };
    let path = escape(&socket.path.to_string_lossy());
    format!("{} {path} ({} messages{lost})", socket.server, socket.accepted)
}

fn syscall_words(window: &SyscallStatus) -> String {
    let words = window.readers.iter().map(|reader| {
        let missed = reader.missed;
        let missed = if missed > 0 { format!(", {missed} missed") } else { String::new() };
        format!("{} records{missed}", reader.sent)
    });
    let words: Vec<String> = words.collect();
    let words = if words.is_empty() { "nobody reads".to_owned() } else { words.join("; ") };
    format!("{} ({words})", window.server)
}

/// What does not show in a portspace's windows as it should, and why.
fn blind_spots(windows: &WindowsStatus) -> impl Iterator<Item = String> {
    let sockets = windows.sockets.iter().filter_map(|socket| {
        let why = socket.problem.as_ref()?;
        Some(format!("nothing of {} {}: {why}", socket.server, socket.path.display()))
    });
    let views = windows.views.iter().flat_map(|(view, status)| {
        let empty = status.empty.as_ref().map(|why| format!("no files of {view}: {why}"));
        let notes = status.notes.iter().map(move |note| format!("files of {view}: {note}"));
        empty.into_iter().chain(notes)
    });
    let syscalls = windows.syscalls.iter().filter_map(|window| {
        Some(format!("no system calls of {}: {}", window.server, window.problem.as_ref()?))
    });
    sockets.chain(views).chain(syscalls)
}

fn state(space: &SpaceStatus) -> (anstyle::Style, &'static str, String) {
    let since = duration(ago(space.since_ms));
    match space.state {
        State::Running => (GOOD, "●", format!("running for {since}")),
        State::Starting => (BUSY, "◌", "starting".to_owned()),
        State::Waiting => {
            let next = space.next_ms.map_or(Duration::ZERO, until);
            let last = space.last_end.map_or(String::new(), |end| format!(" (last: {end})"));
            (GOOD, "○", format!("next run in {}{last}", duration(next)))
        }
        State::Stopped => (BUSY, "■", format!("ended {since} ago")),
        State::Failed => {
            let next = space.next_ms.map(|at| format!(", again in {}", duration(until(at))));
            (BAD, "✗", format!("failed{}", next.unwrap_or_default()))
        }
    }
}

/// What it uses and how often it was started, and `more`.
fn details(space: &SpaceStatus, more: Vec<String>) -> String {
    let mut parts = Vec::new();
    if let Some(memory) = space.usage.memory_bytes {
        parts.push(bytes(memory));
    }
    match (space.every_seconds, space.restarts) {
        (Some(seconds), runs) => {
            let period = duration(Duration::from_secs(seconds));
            parts.push(format!("every {period}, run {}", runs + 1));
        }
        (None, 0) => {}
        (None, restarts) => parts.push(format!("{restarts} restarts")),
    }
    parts.extend(more);
    if space.ids == Ids::Host {
        parts.push("host ids".to_owned());
    }
    parts.join(" · ")
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn ago(millis: u64) -> Duration {
    now().saturating_sub(Duration::from_millis(millis))
}

fn until(millis: u64) -> Duration {
    Duration::from_millis(millis).saturating_sub(now())
}
