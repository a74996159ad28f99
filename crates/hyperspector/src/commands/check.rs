//! `hyperspector check`: a spec for the whole fleet, without touching anything.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::spec;
use crate::cli::Exit;

pub fn run(path: &Path) -> Result<ExitCode> {
    let Some(read) = spec::read(path)? else { return Ok(Exit::Usage.into()) };
    read.show_notes();
    let hosts = read.spec.hosts().count();
    let hyperspectors: Vec<&str> = read.spec.hyperspectors().collect();
    println!("{}: fine; {hosts} hosts, HyperSpectors {}", path.display(), hyperspectors.join(", "));
    Ok(Exit::Fine.into())
}
