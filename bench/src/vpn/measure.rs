//! What is measured of a tunnel.

use std::fs;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::CALM;
use super::sides::Side;
use crate::lab::{Lab, output};
use crate::server::network::{Server, patiently};
use crate::tools::{ECHO, TRIPS};

/// Where iperf3 and the echo listen, on the outside.
const IPERF: u16 = 5301;
const ECHOES: u16 = 5302;
/// Seconds of each throughput.
const SECONDS: &str = "2";
/// Round trips of each turn.
const COUNT: usize = 4000;
/// The clock of /proc/PID/stat (proc(5)), the same on every architecture that we run on.
const TICKS: f64 = 100.0;

/// What a turn found.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    tcp: Flow,
    tcp4: Flow,
    udp: Flow,
    trip: f64,
    /// Percent that were lost at a rate below saturation.
    pub lost: f64,
}

/// One throughput.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// What arrived, in Mbit/s.
    pub rate: f64,
    /// Processor seconds for each gigabit: of both ends of the tunnel, and of iperf3.
    cpu: f64,
    lost: f64,
}

/// The name of the row for round trips.
pub const TRIP: &str = "round trip of 1 byte, median";

type Field = (&'static str, &'static str, fn(&Figures) -> f64);

/// What there is a row for.
pub const FIELDS: [Field; 6] = [
    ("TCP, 1 stream", "Mbit/s", |figures| figures.tcp.rate),
    ("TCP, 4 streams", "Mbit/s", |figures| figures.tcp4.rate),
    ("UDP, 1300 bytes", "Mbit/s", |figures| figures.udp.rate),
    (TRIP, "µs", |figures| figures.trip),
    ("processor for a gigabit of TCP", "s", |figures| figures.tcp.cpu),
    ("processor for a gigabit of UDP", "s", |figures| figures.udp.cpu),
];

/// What answers on the outside.
pub struct Servers {
    _servers: [Server; 2],
}

impl Servers {
    /// Starts them, for one side.
    pub fn start(lab: &Lab, side: &Side<'_>) -> Result<Self> {
        let program = std::env::current_exe().context("find this program")?;
        let port = |first: u16| (first + 10 * u16::from(octet(side))).to_string();
        let servers = [
            Server::start(lab.outside.command("iperf3")?.args(["-s", "-p", &port(IPERF)]))?,
            Server::start(lab.outside.command(program)?.args([ECHO, &port(ECHOES)]))?,
        ];
        Ok(Self { _servers: servers })
    }
}

/// What tells a side's ports from others'.
fn octet(side: &Side<'_>) -> u8 {
    side.host.split('.').nth(2).and_then(|part| part.parse().ok()).unwrap_or(0)
}

/// Everything, once.
pub fn all(lab: &Lab, side: &Side<'_>) -> Result<Figures> {
    let calm = format!("{CALM}M");
    Ok(Figures {
        tcp: tcp(lab, side, 1)?,
        tcp4: tcp(lab, side, 4)?,
        udp: iperf(lab, side, &["-u", "-b", "0", "-l", "1300"])?,
        lost: iperf(lab, side, &["-u", "-b", &calm, "-l", "1300"])?.lost,
        trip: trip(lab, side)?,
    })
}

/// TCP from the host to the outside.
pub fn tcp(lab: &Lab, side: &Side<'_>, streams: u32) -> Result<Flow> {
    iperf(lab, side, &["-P", &streams.to_string()])
}

fn iperf(lab: &Lab, side: &Side<'_>, options: &[&str]) -> Result<Flow> {
    let port = (IPERF + 10 * u16::from(octet(side))).to_string();
    let (found, wall, used) = patiently(|| {
        let (before, start) = (busy(side)?, Instant::now());
        let mut command = lab.host.command("iperf3")?;
        command.args(["-c", &side.outside, "-p", &port, "-t", SECONDS, "-J"]).args(options);
        let found: Value = serde_json::from_str(&output(&mut command)?).context("read iperf3")?;
        ensure!(!found["end"]["cpu_utilization_percent"].is_null(), "iperf3: {}", found["error"]);
        Ok((found, start.elapsed().as_secs_f64(), busy(side)? - before))
    })?;
    let end = &found["end"];
    let number = |value: &Value| value.as_f64().with_context(|| format!("iperf3: {end}"));
    // Of UDP it tells what was sent, and how much of that was lost.
    let lost = end["sum"]["lost_percent"].as_f64().unwrap_or(0.0);
    let sum = if options.contains(&"-u") { &end["sum"] } else { &end["sum_received"] };
    let arrived = number(&sum["bits_per_second"])? * (1.0 - lost / 100.0);
    let percent = &end["cpu_utilization_percent"];
    let ends = number(&percent["host_total"])? + number(&percent["remote_total"])?;
    let gigabits = arrived * wall / 1e9;
    Ok(Flow { rate: arrived / 1e6, cpu: (used + ends / 100.0 * wall) / gigabits, lost })
}

/// Processor time of both ends of the tunnel until now, in seconds (proc(5)).
fn busy(side: &Side<'_>) -> Result<f64> {
    side.processes()
        .map(|process| {
            let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
            let (_, rest) = text.rsplit_once(')').context("read /proc/PID/stat")?;
            let ticks = rest.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
            Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
        })
        .sum()
}

/// The median of round trips, in microseconds.
fn trip(lab: &Lab, side: &Side<'_>) -> Result<f64> {
    let program = std::env::current_exe().context("find this program")?;
    let port = (ECHOES + 10 * u16::from(octet(side))).to_string();
    let text = output(lab.host.command(program)?.args([TRIPS, &side.outside, &port]))?;
    text.trim().parse().context("read what a round trip took")
}

/// `__trips ADDRESS PORT`: prints the median of round trips of one byte by UDP, in microseconds.
pub fn trips(arguments: &[String]) -> Result<()> {
    let [address, port] = arguments else { bail!("wrong arguments") };
    let socket = UdpSocket::bind("0.0.0.0:0").context("bind")?;
    socket.connect((address.as_str(), port.parse::<u16>()?)).context("connect")?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut byte = [0; 1];
    let mut took = Vec::with_capacity(COUNT);
    for _ in 0..COUNT {
        let start = Instant::now();
        socket.send(&byte).context("send a byte")?;
        socket.recv(&mut byte).context("get it back")?;
        took.push(start.elapsed());
    }
    took.sort_unstable();
    println!("{}", took[COUNT / 2].as_secs_f64() * 1e6);
    Ok(())
}
