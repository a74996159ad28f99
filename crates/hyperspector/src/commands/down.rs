//! `hyperspector down`: everything taken down, with or without an agent.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hyperspector_agent::layout::Layout;
use hyperspector_agent::lock::{self, Lock};
use hyperspector_agent::process::{Process, ProcessId};
use hyperspector_agent::protocol::Request;
use hyperspector_agent::{client, teardown};

use crate::cli::{Exit, Global};
use crate::terminal::Progress;

/// How long an agent may take to answer that is just starting, or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait for the lock before the agent that may have it is asked again.
const STEP: Duration = Duration::from_millis(100);

pub fn run(global: &Global, purge: bool) -> Result<ExitCode> {
    take_down(&global.existing()?, purge)?;
    Ok(Exit::Fine.into())
}

/// Takes everything of `layout` down.
pub fn take_down(layout: &Layout, purge: bool) -> Result<()> {
    let progress = Progress::new(false);
    let is_new = !layout.run.exists();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let agent = agent(layout);
        match client::ask(layout, &Request::Down { purge }, |text| progress.step(text)) {
            Ok(Some(_)) => {
                // What is left to it is to end.
                has_ended(agent.as_ref());
                return Ok(());
            }
            Err(error) if !has_ended(agent.as_ref()) => return Err(error.into()),
            // No agent, one that is just starting, or one that has died.
            Ok(None) | Err(_) => {}
        }
        // With the lock, no agent starts half-way.
        if let Some(lock) = Lock::take(layout, STEP)? {
            without_agent(layout, purge, &progress)?;
            lock.remove();
            if purge || is_new {
                teardown::directories(layout);
            }
            return Ok(());
        }
        if Instant::now() > deadline {
            let holder =
                lock::holder(layout).map_or(String::new(), |pid| format!(" (process {pid})"));
            bail!("the agent{holder} does not answer, and does not end");
        }
    }
}

/// Takes down what is there.
fn without_agent(layout: &Layout, purge: bool, progress: &Progress) -> Result<()> {
    let tell = |text: String| progress.step(&text);
    teardown::everything(layout, &tell)?;
    if purge {
        teardown::purge(layout, &tell)?;
    }
    Ok(())
}

fn agent(layout: &Layout) -> Option<Process> {
    ProcessId::of(lock::holder(layout)?.cast_signed()).ok()?.open()
}

/// Whether the agent has ended, or does soon.
fn has_ended(agent: Option<&Process>) -> bool {
    agent.is_none_or(|agent| agent.has_ended_within(Duration::from_secs(10)))
}
