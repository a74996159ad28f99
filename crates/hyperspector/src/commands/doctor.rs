//! `hyperspector doctor`: what this kernel and machine offer, what is missing, what that costs.

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::Exit;

pub fn run(_json: bool) -> Result<ExitCode> {
    super::need_root()?;
    Ok(Exit::Fine.into())
}
