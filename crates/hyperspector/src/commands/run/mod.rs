//! `hyperspector run`: one portspace without a spec.
//!
//! It gets an agent, a state and a run directory of its own, which are gone when it ends.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyperspector_agent::client;
use hyperspector_agent::layout::Layout;
use hyperspector_agent::logs::Follow;
use hyperspector_agent::machine::Machine;
use hyperspector_agent::protocol::{Answer, Request};
use hyperspector_space::control::{End, State};
use hyperspector_spec::plan::{HostPlan, PortspaceName};
use hyperspector_spec::{Errors, Spec, SpecError};

mod text;

use crate::cli::{Exit, Run};
use crate::interrupts::Interrupts;
use crate::terminal::{self, escape};

/// How often its state is looked at.
const STEP: Duration = Duration::from_millis(50);

/// The portspace's name.
const NAME: (&str, &str) = ("run", "run");

pub fn run(run: &Run) -> Result<ExitCode> {
    super::need_root()?;
    let plan = match plan(run) {
        Ok(plan) => plan,
        Err(error) => {
            terminal::error(&error);
            return Ok(Exit::Usage.into());
        }
    };
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
    let text = text::spec(run)?;
    let explained = |errors: Errors| {
        let lines: Vec<_> = errors.iter().map(explained).collect();
        anyhow::anyhow!("{}", lines.join("\n"))
    };
    let spec = Spec::parse(&text).map_err(explained)?;
    spec.verify(text::HOST, &Machine).map_err(explained)?;
    spec.plan(text::HOST).map_err(explained)
}

/// Without a place, since nobody has seen the text.
fn explained(error: &SpecError) -> String {
    match &error.help {
        Some(help) => format!("{}; {help}", error.message),
        None => error.message.clone(),
    }
}
