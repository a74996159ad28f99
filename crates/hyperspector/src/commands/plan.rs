//! `hyperspector plan`: what `up` would do here.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use hyperspector_agent::client;
use hyperspector_agent::layout::Layout;
use hyperspector_agent::protocol::{Answer, Request};
use hyperspector_spec::plan::{
    Adoption, Change, HostPlan, HyperspectorChange, HyperspectorPlan, ServerKind, ServerPlan, diff,
};

use super::spec;
use crate::cli::{Exit, Global};
use crate::terminal::{BAD, BUSY, FAINT, GOOD, escape, styled};

pub fn run(global: &Global, path: &Path, json: bool) -> Result<ExitCode> {
    let Some(read) = spec::read(path)? else { return Ok(Exit::Usage.into()) };
    let host = global.host();
    let Some(plan) = read.plan(&host) else { return Ok(Exit::Usage.into()) };
    if json {
        println!("{}", crate::terminal::json(&plan)?);
        return Ok(Exit::Fine.into());
    }
    read.show_notes();
    let layout = Layout::existing(&global.state_dir, &global.run_dir);
    show(running(&layout).as_ref(), &plan);
    Ok(if read.verify(&host) { Exit::Fine } else { Exit::Usage }.into())
}

/// The plan that was applied last and still runs, as far as this user may know.
fn running(layout: &Layout) -> Option<HostPlan> {
    let answered = client::ask(layout, &Request::Status, |_| {}).ok().flatten();
    let is_up = matches!(answered, Some(Answer::Status(_)));
    let text = std::fs::read(layout.plan()).ok().filter(|_| is_up)?;
    serde_json::from_slice(&text).ok()
}

fn show(old: Option<&HostPlan>, new: &HostPlan) {
    let changes = diff(old, new);
    if changes.servers.is_empty() && changes.hyperspectors.is_empty() {
        println!("{} has no part in this file: nothing would be done", new.host);
    }
    for one in &changes.servers {
        let detail = new.server(&one.name).map(described).unwrap_or_default();
        anstream::println!("{} server {} {}", mark(&one.change), one.name, styled(FAINT, detail));
        show_fields(&one.fields, one.restart, "    ");
    }
    for one in &changes.hyperspectors {
        let plan = new.hyperspectors.iter().find(|plan| plan.name == one.name);
        show_hyperspector(one, plan);
    }
}

/// What a server is: `adopted: unit nginx.service`, or a server space's command and ports.
fn described(server: &ServerPlan) -> String {
    match &server.kind {
        ServerKind::Adopted(Adoption::Base) => "adopted: the base system".to_owned(),
        ServerKind::Adopted(Adoption::Directory(path)) => format!("adopted: {}", path.display()),
        ServerKind::Adopted(Adoption::Unit(unit)) => format!("adopted: unit {unit}"),
        ServerKind::Adopted(Adoption::Container(name)) => format!("adopted: container {name}"),
        ServerKind::Adopted(Adoption::Cgroup(path)) => {
            format!("adopted: cgroup /{}", path.display())
        }
        ServerKind::Adopted(Adoption::PidFile(path)) => {
            format!("adopted: the process in {}", path.display())
        }
        ServerKind::Space(server) => {
            let ports: Vec<_> = server.ports.iter().map(ToString::to_string).collect();
            let ports = if ports.is_empty() { "no ports".to_owned() } else { ports.join(", ") };
            format!("{ports}: {}", brief(&server.space.command))
        }
    }
}

fn show_hyperspector(one: &HyperspectorChange, plan: Option<&HyperspectorPlan>) {
    anstream::println!("{} HyperSpector {}", mark(&one.change), one.name);
    if let Some(plan) = plan {
        let networks: Vec<_> = plan.vpn.networks.iter().map(ToString::to_string).collect();
        let peers: Vec<_> = plan.vpn.peers.iter().map(|peer| peer.host.as_str()).collect();
        let detail = if peers.is_empty() {
            format!("network {}, on this host alone", networks.join(", "))
        } else {
            format!(
                "network {}, UDP port {}, peers {}",
                networks.join(", "),
                plan.vpn.listen_port,
                peers.join(", ")
            )
        };
        anstream::println!("  {} VPN {}", mark(&one.vpn.change), styled(FAINT, detail));
    }
    for portspace in &one.portspaces {
        let found =
            plan.and_then(|plan| plan.portspaces.iter().find(|plan| plan.name == portspace.name));
        let detail = found.map_or(String::new(), |plan| {
            format!("{} at {}: {}", plan.space.hostname, plan.address, brief(&plan.space.command))
        });
        anstream::println!(
            "  {} {} {}",
            mark(&portspace.change),
            portspace.name,
            styled(FAINT, detail)
        );
        show_fields(&portspace.fields, portspace.restart, "      ");
    }
}

/// What differs, and what that costs.
fn show_fields(fields: &[&str], restart: bool, indent: &str) {
    if !fields.is_empty() {
        let what = if restart { "would be restarted" } else { "would go on" };
        println!("{indent}{what}; changed: {}", fields.join(", "));
    }
}

/// A command on part of a line.
fn brief(command: &[String]) -> String {
    const LONGEST: usize = 70;
    let line = escape(&command.join(" "));
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn mark(change: &Change) -> String {
    match change {
        Change::Added => styled(GOOD, "+"),
        Change::Removed => styled(BAD, "-"),
        Change::Changed => styled(BUSY, "~"),
        Change::Unchanged => styled(FAINT, "="),
    }
}
