//! `hyperspector down`: everything taken down, with or without an agent.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use hyperspector_agent::layout::Layout;
use hyperspector_agent::process::{Process, ProcessId};
use hyperspector_agent::protocol::Request;
use hyperspector_agent::{client, server, teardown};

use crate::cli::{Exit, Global};
use crate::terminal::Progress;

/// How long the agent may take to end after everything is down.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn run(global: &Global, purge: bool) -> Result<ExitCode> {
    take_down(&global.existing()?, purge)?;
    Ok(Exit::Fine.into())
}

/// Takes everything of `layout` down.
pub fn take_down(layout: &Layout, purge: bool) -> Result<()> {
    let progress = Progress::new(false);
    let tell = |text: &str| progress.step(text);
    let agent =
        server::running(layout).and_then(|pid| ProcessId::of(pid.cast_signed()).ok()?.open());
    if client::ask(layout, &Request::Down { purge }, tell)?.is_some() {
        // It has answered; what is left to it is to end.
        wait_for(agent);
    } else {
        // No agent, or one that is dying: what it has left is found by what is there.
        wait_for(agent);
        teardown::everything(layout, &|text| progress.step(&text))?;
        for path in [layout.socket(), layout.lock()] {
            let _ = std::fs::remove_file(path);
        }
    }
    if purge {
        teardown::purge(layout)?;
    }
    Ok(())
}

fn wait_for(agent: Option<Process>) {
    if let Some(agent) = agent {
        agent.has_ended_within(PATIENCE);
    }
}
