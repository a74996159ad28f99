//! `hyperspector run`: one portspace without a spec.
//!
//! It gets an agent, a state and a run directory of its own, which are gone when it ends.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyperspector_agent::client;
use hyperspector_agent::layout::Layout;
use hyperspector_agent::logs::Follow;
use hyperspector_agent::machine::Machine;
use hyperspector_agent::protocol::{Answer, Request};
use hyperspector_space::control::{End, State};
use hyperspector_spec::Spec;
use hyperspector_spec::plan::{HostPlan, PortspaceName};

use crate::cli::{Exit, Run};
use crate::interrupts::Interrupts;
use crate::terminal::escape;

/// How often its state is looked at.
const STEP: Duration = Duration::from_millis(50);

/// The portspace's name.
const NAME: (&str, &str) = ("run", "run");

pub fn run(run: &Run) -> Result<ExitCode> {
    super::need_root()?;
    let plan = plan(run)?;
    let home = PathBuf::from(format!("/run/hyperspector-run.{}", std::process::id()));
    let state = PathBuf::from(format!("/var/tmp/hyperspector-run.{}", std::process::id()));
    let layout = Layout::prepare(&state, &home).context("make the run's directories")?;
    let interrupts = Interrupts::take()?;
    let ended = follow(&layout, plan, &interrupts);
    let down = super::down::take_down(&layout, true);
    let code = ended?;
    down.context("clean up")?;
    Ok(code)
}

fn follow(layout: &Layout, plan: HostPlan, interrupts: &Interrupts) -> Result<ExitCode> {
    let name = PortspaceName { hyperspector: NAME.0.into(), portspace: NAME.1.into() };
    let outcomes = super::up::apply(layout, plan)?;
    let mut log = Follow::new(layout.portspace(&name).logs());
    let mut show = || -> Result<()> {
        for line in log.more()? {
            println!("{}", escape(&line.text));
        }
        Ok(())
    };
    loop {
        show()?;
        if let Some(end) = end(layout)? {
            show()?;
            return Ok(super::exec::exit_code(end));
        }
        if let Some(failure) = outcomes.iter().find_map(|outcome| outcome.failure.as_ref()) {
            bail!("{}", failure.reason);
        }
        if interrupts.came_within(STEP) {
            return Ok(Exit::Fine.into());
        }
    }
}

/// How the command ended; `None` while it runs.
fn end(layout: &Layout) -> Result<Option<End>> {
    let Some(Answer::Status(status)) = client::ask(layout, &Request::Status, |_| {})? else {
        bail!("the agent went away");
    };
    let portspace = status.hyperspectors.iter().flat_map(|one| &one.portspaces).next();
    Ok(match portspace.map(|portspace| &portspace.space) {
        Some(portspace) if portspace.state == State::Stopped => portspace.last_end,
        // Nothing keeps it shut: it could not be made.
        Some(portspace) if portspace.enforced.syscalls_allowed == 0 => {
            bail!("{}", portspace.reason.as_deref().unwrap_or("the portspace could not be made"))
        }
        Some(portspace) if portspace.init_pid.is_none() => Some(End::Signal(libc::SIGKILL)),
        Some(_) => None,
        None => bail!("the portspace is gone"),
    })
}

/// The plan of the one portspace, by way of the same text that everybody writes.
fn plan(run: &Run) -> Result<HostPlan> {
    let text = spec(run)?;
    let explained = |errors: hyperspector_spec::Errors| anyhow::anyhow!("{errors}");
    let spec = Spec::parse(&text).map_err(explained)?;
    spec.verify("here", &Machine).map_err(explained)?;
    spec.plan("here").map_err(explained)
}

fn spec(run: &Run) -> Result<String> {
    use std::fmt::Write;
    let mut text = String::from("[host.here]\n");
    let mut views = Vec::new();
    for path in &run.files {
        let path =
            std::fs::canonicalize(path).with_context(|| format!("find {}", path.display()))?;
        if path == Path::new("/") {
            views.push("base".to_owned());
            continue;
        }
        let name = view_name(&path, views.len());
        writeln!(
            text,
            "[server.{name}]\non = [\"here\"]\nadopt = {{ directory = {} }}",
            quoted(&path)
        )?;
        views.push(name);
    }
    writeln!(text, "[hyperspector.run]\nnetwork = \"10.255.255.0/24\"")?;
    writeln!(text, "[hyperspector.run.portspace.run]\non = [\"here\"]\nrestart = \"never\"")?;
    writeln!(text, "command = {}", list(&run.command))?;
    if let Some(root) = &run.root {
        let root =
            std::fs::canonicalize(root).with_context(|| format!("find {}", root.display()))?;
        writeln!(text, "root = {}", quoted(&root))?;
    }
    if run.host_ids {
        writeln!(text, "ids = \"host\"")?;
    }
    if let Some(memory) = &run.memory {
        writeln!(text, "limits.memory = {}", serde_json::to_string(memory)?)?;
    }
    if !run.allow_missing.is_empty() {
        writeln!(text, "allow-missing = {}", list(&run.allow_missing))?;
    }
    if !run.packets.is_empty() {
        writeln!(text, "watch.packets = {}", list(&run.packets))?;
    }
    if !views.is_empty() {
        writeln!(text, "watch.files = {}", list(&views))?;
    }
    Ok(text)
}

/// A server's name for a directory: its last component as far as that makes a name.
fn view_name(path: &Path, number: usize) -> String {
    let last = path.file_name().map(|name| name.to_string_lossy().to_lowercase());
    let name: String = last
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(24)
        .collect();
    let name = name.trim_matches('-');
    if name.is_empty() || name == "base" { format!("files{number}") } else { name.to_owned() }
}

/// A TOML basic string; JSON's escapes are among TOML's.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy().into_owned()).to_string()
}

fn list(items: &[String]) -> String {
    serde_json::Value::from(items.to_vec()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_makes_a_spec_that_holds() {
        let run = Run {
            packets: vec!["eth0".into()],
            files: vec!["/".into(), "/usr".into()],
            root: None,
            host_ids: true,
            memory: Some("64MiB".into()),
            allow_missing: vec!["unix-guard".into()],
            command: vec!["tcpdump".into(), "-w".into(), "a \"quoted\" \\ file".into()],
        };
        let plan = Spec::parse(&spec(&run).unwrap()).unwrap().plan("here").unwrap();
        let portspace = &plan.hyperspectors[0].portspaces[0];
        assert_eq!(portspace.space.command, run.command);
        assert_eq!(portspace.windows.files.len(), 2);
    }
}
