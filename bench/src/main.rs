//! Measures HyperSpector beside the same work without it, in one run and in turns.
//!
//! `hyperspector-bench [NAME…]` runs the benches of these names, or all; prints a table for each
//! and writes `target/bench/NAME.json`. It needs root. Everything happens in network namespaces
//! and directories of its own, which are removed at the end, also after a failure or Ctrl-C.

mod capture;
mod changes;
mod files;
mod generate;
mod interrupt;
mod lab;
mod memory;
mod packets;
mod product;
mod report;
mod server;
mod start;
mod syscalls;
mod tee;
mod tools;
mod vpn;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use report::Row;

/// A bench: its name, and what runs it.
type Bench = (&'static str, fn() -> Result<Vec<Row>>);

const BENCHES: &[Bench] = &[
    ("start", start::run),
    ("files", files::run),
    ("changes", changes::run),
    ("packets", packets::run),
    ("server", server::run),
    ("tee", tee::run),
    ("syscalls", syscalls::run),
    ("vpn", vpn::run),
    ("vpn-flood", vpn::flooded),
    ("vpn-scale", vpn::scale::run),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == hyperspector_sys::worker::SUBCOMMAND) {
        return hyperspector_vpn::device::worker_main();
    }
    // The programs that are measured are this one again; nothing may happen before.
    let done = match tools::run_if_asked(&arguments) {
        Some(done) => done,
        None => run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hyperspector-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(names: &[String]) -> Result<()> {
    let chosen = chosen(names)?;
    // SAFETY: geteuid takes nothing and cannot fail.
    ensure!(unsafe { libc::geteuid() } == 0, "only root can do this; try sudo");
    interrupt::watch();
    warn_when_busy();
    for (name, bench) in chosen {
        let rows = bench().with_context(|| format!("bench {name}"))?;
        report::print(name, &rows);
        let path = report::write(&target()?, name, &rows)?;
        println!("written to {}\n", path.display());
    }
    Ok(())
}

/// Says so when others use the machine: what they take goes to one side or the other.
fn warn_when_busy() {
    let load = std::fs::read_to_string("/proc/loadavg").ok();
    let load = load.and_then(|text| text.split(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if load > processors as f64 / 2.0 {
        println!("the machine is busy (load {load} on {processors} processors): figures will vary");
    }
}

fn chosen(names: &[String]) -> Result<Vec<Bench>> {
    if names.is_empty() {
        return Ok(BENCHES.to_vec());
    }
    let find = |name: &String| BENCHES.iter().find(|(known, _)| known == name).copied();
    let mut found = Vec::new();
    for name in names {
        let known: Vec<_> = BENCHES.iter().map(|(name, _)| *name).collect();
        let Some(bench) = find(name) else {
            bail!("there is no bench {name:?}; there are {}", known.join(", "));
        };
        found.push(bench);
    }
    Ok(found)
}

/// The build's target directory: this program is in its `release`.
fn target() -> Result<PathBuf> {
    let program = std::env::current_exe().context("find this program")?;
    let target = program.ancestors().nth(2).context("this program is not in a target directory")?;
    Ok(target.to_owned())
}
