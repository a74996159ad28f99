//! `hyperspector check`: a spec for the whole fleet, without touching anything.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::spec;
use crate::cli::Exit;

pub fn run(path: &Path) -> Result<ExitCode> {
    let Some(read) = spec::read(path)? else { return Ok(Exit::Usage.into()) };
    read.show_notes();
    let spec = &read.spec;
    let mut parts = vec![match spec.hosts().count() {
        1 => "1 host".to_owned(),
        hosts => format!("{hosts} hosts"),
    }];
    parts.extend(listed("servers", spec.servers()));
    parts.extend(listed("HyperSpectors", spec.hyperspectors()));
    println!("{}: fine; {}", path.display(), parts.join("; "));
    Ok(Exit::Fine.into())
}

/// `KIND A, B`, where there are any.
fn listed<'a>(kind: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<_> = names.collect();
    (!names.is_empty()).then(|| format!("{kind} {}", names.join(", ")))
}
