//! A server in a server space beside the same server on the base system: file I/O, the network, and
//! a web server's requests.

mod files;
pub mod network;
pub mod web;

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::interrupt;
use crate::lab::{Lab, output};
use crate::product::{HOST, Product};
use crate::report::{Row, in_turn};

/// Turns that count; one more goes before them.
const TURNS: usize = 7;
/// The least that a rate may come to, as a ratio.
const LEAST: f64 = 0.99;
/// The most that a time may come to, as a ratio.
const MOST: f64 = 1.01;

/// The address of the host on the cable.
const ADDRESS: &str = "198.51.100.1";
/// The name of the server space that measures run in.
const SPACE: &str = "bench";
/// The ports that belong to the server space: web, echoes, throughput.
const PORTS: &str = "[\"tcp/8001\", \"tcp/7001\", \"udp/7001\", \"tcp/5201\", \"udp/5201\"]";

pub fn run() -> Result<Vec<Row>> {
    let lab = Lab::new()?;
    lab.connect(ADDRESS, "198.51.100.2")?;
    let work = tempfile::Builder::new().prefix("hs-bench-server-").tempdir()?;
    let product = Product::new(&lab.host)?;
    let web = web::site(work.path())?;
    let volume = files::volume(work.path())?;
    product.write(&format!(
        "[host.{HOST}]\n\n[server.{SPACE}]\non = [\"{HOST}\"]\nports = {PORTS}\n\
         command = [\"nginx\", \"-c\", \"/site/nginx.conf\"]\n\
         mount = [{{ from = {web:?}, to = \"/site\" }}, \
         {{ from = {volume:?}, to = \"/volume\", mode = \"rw\" }}]\n"
    ))?;
    output(&mut product.up()?)?;
    let server = product.status()?["servers"][0].clone();
    let state = &server["space"]["state"];
    ensure!(state == "running", "the server space is {state}");
    let cgroup = server["cgroup"].as_str().context("the server has no cgroup")?;
    let base = lab.beside(Path::new(cgroup))?;
    let mut rows = files::rows(&base, &product, work.path())?;
    rows.extend(network::rows(&lab, &base, &product)?);
    rows.extend(web::rows(&lab, &base, &web)?);
    Ok(rows)
}

/// Measures both sides in turns; the first does not count.
fn in_turns<R>(
    mut base: impl FnMut() -> Result<R>,
    mut here: impl FnMut() -> Result<R>,
) -> Result<(Vec<R>, Vec<R>)> {
    let (mut bases, mut heres) = (Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        interrupt::check()?;
        let (one, other) = in_turn(turn, &mut base, &mut here)?;
        if turn > 0 {
            bases.push(one);
            heres.push(other);
        }
    }
    Ok((bases, heres))
}

/// Something of which there should be as much.
fn rated(case: String, unit: &'static str, bases: &[f64], heres: &[f64]) -> Row {
    told(Row::pair(case, unit, bases, heres).ratio_at_least(LEAST))
}

/// Something of which there should be as much, measured in turns.
fn rate(
    case: String,
    unit: &'static str,
    base: impl FnMut() -> Result<f64>,
    here: impl FnMut() -> Result<f64>,
) -> Result<Row> {
    let (bases, heres) = in_turns(base, here)?;
    Ok(rated(case, unit, &bases, &heres))
}

/// Something that should take as long.
fn time(
    case: String,
    unit: &'static str,
    base: impl FnMut() -> Result<f64>,
    here: impl FnMut() -> Result<f64>,
) -> Result<Row> {
    let (bases, heres) = in_turns(base, here)?;
    Ok(told(Row::pair(case, unit, &bases, &heres).ratio_at_most(MOST)))
}

/// Says how far it has come: all of them take minutes.
fn told(row: Row) -> Row {
    println!("{}: {:.3}", row.case, row.ratio.unwrap_or(f64::NAN));
    row
}
