//! How long it takes from `up -d` to the first instruction of a portspace's command, beside the
//! same program under unshare(1); and what our own processes weigh.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::interrupt;
use crate::lab::{Lab, WATCHED, output};
use crate::memory;
use crate::product::{HOST, Product};
use crate::report::{Row, in_turn};
use crate::tools::{STAMP, now};

/// Turns that count; one more goes before them.
const TURNS: usize = 15;
/// How long a command may take to print its line.
const PATIENCE: Duration = Duration::from_secs(20);
/// What the product aims at, in milliseconds.
const GOAL: f64 = 100.0;

pub fn run() -> Result<Vec<Row>> {
    let lab = Lab::new()?;
    let program = std::env::current_exe().context("find this program")?;
    let mut rows =
        vec![first(&lab, &program, false)?, first(&lab, &program, true)?, added(&lab, &program)?];
    rows.extend(memory::rows(&lab)?);
    Ok(rows)
}

/// The first portspace: the agent is started too. `fresh`: nothing is there yet of keys and layers.
fn first(lab: &Lab, program: &Path, fresh: bool) -> Result<Row> {
    let product = Product::new(&lab.host)?;
    product.write(&spec(&[&stamping("one", program)]))?;
    let turn = || {
        let took = started(&product, "bench/one")?;
        product.down(fresh)?;
        Ok(took)
    };
    let (base, here) = in_turns(lab, program, turn)?;
    let case = if fresh { "no agent, never run before" } else { "no agent" };
    Ok(Row::pair(case, "ms", &base, &here).at_most(GOAL))
}

/// A portspace that is added to those of a running agent.
fn added(lab: &Lab, program: &Path) -> Result<Row> {
    let product = Product::new(&lab.host)?;
    let other = portspace("other", "[\"sleep\", \"infinity\"]", "");
    let without = spec(&[&other]);
    let with = spec(&[&other, &stamping("one", program)]);
    product.write(&without)?;
    output(&mut product.up()?)?;
    let turn = || {
        product.write(&with)?;
        let took = started(&product, "bench/one")?;
        product.write(&without)?;
        output(&mut product.up()?)?;
        Ok(took)
    };
    let (base, here) = in_turns(lab, program, turn)?;
    Ok(Row::pair("running agent, second portspace", "ms", &base, &here).at_most(GOAL))
}

/// Base and here in turns, in milliseconds.
fn in_turns(
    lab: &Lab,
    program: &Path,
    here: impl Fn() -> Result<f64>,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut bases, mut heres) = (Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        interrupt::check()?;
        let (base, here) = in_turn(turn, || unshared(lab, program), &here)?;
        if turn > 0 {
            bases.push(base);
            heres.push(here);
        }
    }
    Ok((bases, heres))
}

/// The program under unshare(1), with as many namespaces.
fn unshared(lab: &Lab, program: &Path) -> Result<f64> {
    const NAMESPACES: [&str; 10] = [
        "--user",
        "--map-root-user",
        "--mount",
        "--mount-proc",
        "--pid",
        "--fork",
        "--net",
        "--ipc",
        "--uts",
        "--cgroup",
    ];
    let mut command = lab.base("unshare")?;
    command.args(NAMESPACES).arg(program).arg(STAMP);
    let before = now();
    let line = output(&mut command)?;
    Ok(millis(before, line.trim().parse().context("read the time")?))
}

/// From right before `up -d` is executed to the time that the portspace printed.
fn started(product: &Product<'_>, name: &str) -> Result<f64> {
    let mut up = product.up()?;
    let before = now();
    output(&mut up)?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        // Lines of the turns before have earlier times.
        let lines = product.last_lines(name)?;
        let mut times = lines.iter().filter_map(|line| line.trim().parse().ok());
        if let Some(time) = times.find(|time| *time > before) {
            return Ok(millis(before, time));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("{name} printed no time");
}

fn millis(from: u128, to: u128) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

fn stamping(name: &str, program: &Path) -> String {
    portspace(
        name,
        &format!("[{:?}, {STAMP:?}]", program.display().to_string()),
        "restart = \"never\"",
    )
}

/// A portspace in the HyperSpector `bench`.
pub fn portspace(name: &str, command: &str, more: &str) -> String {
    format!(
        "[hyperspector.bench.portspace.{name}]\non = [\"{HOST}\"]\ncommand = {command}\n{more}\n"
    )
}

/// A spec for one host.
pub fn spec(portspaces: &[&str]) -> String {
    let head = format!("[host.{HOST}]\n\n[hyperspector.bench]\nnetwork = \"10.66.0.0/24\"\n\n");
    head + &portspaces.join("\n")
}

/// Waits until the portspaces of a status run.
pub fn ensure_running(product: &Product<'_>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let status = product.status()?;
        let all = status["hyperspectors"][0]["portspaces"].as_array().context("no portspaces")?;
        if all.iter().all(|one| one["state"] == "running") {
            return Ok(());
        }
        ensure!(Instant::now() < end, "not all portspaces run: {status}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a packet window takes in a spec.
pub fn watching_packets() -> String {
    format!("watch.packets = [\"{WATCHED}\"]")
}
