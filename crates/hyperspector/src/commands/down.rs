//! `hyperspector down`: everything taken down, with or without an agent.

use std::process::ExitCode;

use anyhow::Result;
use hyperspector_agent::layout::Layout;
use hyperspector_agent::protocol::Request;
use hyperspector_agent::{client, server, teardown};

use crate::cli::{Exit, Global};
use crate::terminal::Progress;

pub fn run(global: &Global, purge: bool) -> Result<ExitCode> {
    take_down(&global.existing()?, purge)?;
    Ok(Exit::Fine.into())
}

/// Takes everything of `layout` down.
pub fn take_down(layout: &Layout, purge: bool) -> Result<()> {
    let progress = Progress::new(false);
    let tell = |text: &str| progress.step(text);
    if client::ask(layout, &Request::Down { purge }, tell)?.is_some() {
        wait_for_end(layout);
    } else {
        // No agent: what it has left is found by what is there.
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

/// Waits until the agent, which has answered, has ended too.
fn wait_for_end(layout: &Layout) {
    for _ in 0..500 {
        if server::running(layout).is_none() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
