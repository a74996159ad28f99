//! `hyperspector agent`: the agent's own process, which `up` starts.

use std::process::ExitCode;

use anyhow::Result;
use hyperspector_agent::server;

use crate::cli::{Exit, Global};

/// What the agent prints when it listens.
pub const READY: &str = "ready";

pub fn run(global: &Global) -> Result<ExitCode> {
    let layout = global.layout()?;
    server::run(&layout, say_ready)?;
    Ok(Exit::Fine.into())
}

/// Tells whoever started the agent, and lets go of their pipe.
fn say_ready() {
    println!("{READY}");
    let null = std::fs::File::options().write(true).open("/dev/null");
    if let Ok(null) = null {
        let _ = rustix::stdio::dup2_stdout(null);
    }
}
