//! One file for each command.

mod agent;
mod check;
mod doctor;
mod down;
mod exec;
mod key;
mod logs;
mod plan;
mod run;
mod spec;
mod status;
mod up;

use std::process::ExitCode;

use anyhow::{Context, Result};
use hyperspector_agent::layout::{Layout, SpaceName};
use hyperspector_spec::plan::PortspaceName;

use crate::cli::{Cli, Command, Global};

/// Does what was typed.
pub fn run(cli: Cli) -> Result<ExitCode> {
    let global = &cli.global;
    match cli.command {
        Command::Doctor { json } => doctor::run(global, json),
        Command::Check { spec } => check::run(&spec),
        Command::Plan { spec, json } => plan::run(global, &spec, json),
        Command::Key { hyperspectors, rotate } => key::run(global, &hyperspectors, rotate),
        Command::Up { spec, detach } => up::run(global, &spec, detach),
        Command::Status { json } => status::run(global, json),
        Command::Exec(exec) => exec::run(global, &exec),
        Command::Logs { name, follow, lines, json } => {
            logs::run(global, &name, follow, lines, json)
        }
        Command::Down { purge } => down::run(global, purge),
        Command::Run(run) => run::run(&run),
        Command::Agent => agent::run(global),
    }
}

impl Global {
    /// This host's name in the spec.
    fn host(&self) -> String {
        let machine = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.host.clone().unwrap_or_else(machine)
    }

    /// The agent's directories, made where they are not there.
    fn layout(&self) -> Result<Layout> {
        need_root()?;
        Layout::prepare(&self.state_dir, &self.run_dir).with_context(|| {
            format!("make {} and {}", self.state_dir.display(), self.run_dir.display())
        })
    }

    /// The agent's directories, which may not be there.
    fn existing(&self) -> Result<Layout> {
        need_root()?;
        Ok(Layout::existing(&self.state_dir, &self.run_dir))
    }
}

fn need_root() -> Result<()> {
    anyhow::ensure!(rustix::process::geteuid().is_root(), "only root can do this; try sudo");
    Ok(())
}

/// Reads `HYPERSPECTOR/PORTSPACE`, or the name of a server.
fn space(text: &str) -> Result<SpaceName> {
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    match text.split_once('/') {
        Some((hyperspector, portspace)) if is_name(hyperspector) && is_name(portspace) => {
            let (hyperspector, portspace) = (hyperspector.into(), portspace.into());
            Ok(SpaceName::Portspace(PortspaceName { hyperspector, portspace }))
        }
        None if is_name(text) => Ok(SpaceName::Server(text.into())),
        _ => anyhow::bail!(
            "{text:?} is no name: expected HYPERSPECTOR/PORTSPACE, or a server's name"
        ),
    }
}

/// The spaces that are there, for messages.
fn known(layout: &Layout) -> Vec<String> {
    let names = |path: &std::path::Path| -> Vec<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| !name.starts_with('.')).collect()
    };
    let base = layout.state.join("portspaces");
    let mut all: Vec<String> = names(&base)
        .into_iter()
        .flat_map(|one| names(&base.join(&one)).into_iter().map(move |two| format!("{one}/{two}")))
        .collect();
    all.extend(names(&layout.server_states()));
    all.sort();
    all
}

/// An error for a space that is not there, or not running.
fn unknown(layout: &Layout, name: &SpaceName) -> anyhow::Error {
    let known = known(layout);
    if known.contains(&name.to_string()) {
        return anyhow::anyhow!("{name} does not run; `hyperspector status` says why");
    }
    let there = if known.is_empty() { "none is".to_owned() } else { known.join(", ") };
    let what = match name {
        SpaceName::Portspace(_) => "portspace",
        SpaceName::Server(_) => "server space",
    };
    anyhow::anyhow!("{what} {name} is not here; here: {there}")
}
