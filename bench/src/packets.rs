//! The same capture program in the base system and in a portspace, on the same interface.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::capture::{Captured, READY};
use crate::generate::Sent;
use crate::interrupt;
use crate::lab::{Lab, PEER, WATCHED, output};
use crate::product::Product;
use crate::report::{Row, in_turn};
use crate::start::{ensure_running, portspace, spec, watching_packets};
use crate::tools::{CAPTURE, GENERATE};

/// Turns that count at each rate; one more goes before them.
const TURNS: usize = 11;
/// How often the program reads each packet when it is to have more to do than it can.
const BUSY: u32 = 60;
/// How long is sent for, in seconds.
const SENDING: f64 = 1.0;
/// How much longer is captured, so that all that was sent is seen.
const AFTER: f64 = 0.7;
/// Frames each second that every machine can take.
const FIXED: f64 = 50_000.0;

pub fn run() -> Result<Vec<Row>> {
    let lab = Lab::new()?;
    let product = Product::new(&lab.host)?;
    let sleeping = portspace("nids", "[\"sleep\", \"infinity\"]", &watching_packets());
    product.write(&spec(&[&sleeping]))?;
    output(&mut product.up()?)?;
    ensure_running(&product)?;
    let mut rows = at_rate(&lab, &product, "fixed rate", FIXED, 1)?;
    rows.extend(at_rate(&lab, &product, "saturation", 0.0, BUSY)?);
    Ok(rows)
}

fn at_rate(
    lab: &Lab,
    product: &Product<'_>,
    name: &str,
    rate: f64,
    passes: u32,
) -> Result<Vec<Row>> {
    let program = std::env::current_exe().context("find this program")?;
    let (seconds, passes) = ((SENDING + AFTER).to_string(), passes.to_string());
    let arguments = [CAPTURE, WATCHED, &seconds, &passes];
    let (mut base, mut here) = (Side::default(), Side::default());
    for turn in 0..=TURNS {
        interrupt::check()?;
        let mut direct = lab.base(&program)?;
        direct.args(arguments);
        let mut through = product.exec("bench/nids", &program, &arguments)?;
        let (one, other) = in_turn(
            turn,
            || measure(lab, &program, &mut direct, rate),
            || measure(lab, &program, &mut through, rate),
        )?;
        if turn > 0 {
            base.add(one);
            here.add(other);
        }
    }
    let lost =
        Row::amounts(format!("lost in the ring, {name}"), "% of sent", &base.lost, &here.lost);
    let case = |what: &str| format!("{what}, {name}");
    Ok(vec![
        Row::pair(case("sent"), "packets/s", &base.sent, &here.sent),
        Row::pair(case("captured"), "packets/s", &base.captured, &here.captured).equal(),
        // At saturation it depends on what was sent, which is what the sender's processor could do.
        if rate > 0.0 { lost.no_more(100.0) } else { lost },
    ])
}

/// What was seen on one side.
#[derive(Debug, Default)]
struct Side {
    sent: Vec<f64>,
    captured: Vec<f64>,
    lost: Vec<f64>,
}

impl Side {
    fn add(&mut self, (sent, captured): (Sent, Captured)) {
        let of_sent = |packets: u64| packets as f64 * 100.0 / sent.frames as f64;
        self.sent.push(sent.frames as f64 / sent.seconds);
        self.captured.push(captured.read as f64 / sent.seconds);
        self.lost.push(of_sent(captured.lost));
    }
}

/// Captures while frames are sent.
fn measure(
    lab: &Lab,
    program: &Path,
    capture: &mut Command,
    rate: f64,
) -> Result<(Sent, Captured)> {
    capture.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = capture.spawn().context("start the capture")?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let first = lines.next().transpose()?;
    if first.as_deref() != Some(READY) {
        let status = child.wait()?;
        anyhow::bail!("the capture did not start: {status}");
    }
    let mut generate = lab.outside.command(program)?;
    generate.args([GENERATE, PEER, &rate.to_string(), &SENDING.to_string()]);
    let sent = output(&mut generate);
    let last = lines.next().transpose()?;
    ensure!(child.wait()?.success(), "the capture failed");
    let captured = last.context("the capture said nothing")?;
    Ok((
        serde_json::from_str(&sent?).context("read what was sent")?,
        serde_json::from_str(&captured).context("read what was captured")?,
    ))
}
