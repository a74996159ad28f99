//! `hyperspector agent`: the agent's own process, which `up` starts.

use std::process::ExitCode;

use anyhow::Result;
use hyperspector_agent::server;

use crate::cli::{Exit, Global};

/// What the agent prints when it listens.
pub const READY: &str = "ready";

pub fn run(global: &Global) -> Result<ExitCode> {
    let layout = global.layout()?;
    server::run(&layout, || println!("{READY}"))?;
    Ok(Exit::Fine.into())
}
