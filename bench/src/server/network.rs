//! The network: round trips of one byte, and throughput by iperf3, between the host and another.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{ADDRESS, SPACE, rate, time};
use crate::lab::{Lab, Side, output};
use crate::product::Product;
use crate::report::Row;
use crate::tools::{ECHO, PING};

/// Where the base side listens: echoes, throughput. The server space has the ports one below.
const BASE: (u16, u16) = (7002, 5202);
/// See [`BASE`].
const HERE: (u16, u16) = (7001, 5201);
/// Round trips in one measurement.
const TRIPS: u32 = 4000;
/// How long a server may take to end.
const GRACE: Duration = Duration::from_secs(5);
/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn rows(lab: &Lab, base: &Side<'_>, product: &Product<'_>) -> Result<Vec<Row>> {
    let program = std::env::current_exe().context("find this program")?;
    let (echo, throughput) = (BASE.0.to_string(), BASE.1.to_string());
    let _base = [
        Server::start(base.base(&program)?.args([ECHO, &echo]))?,
        Server::start(base.base("iperf3")?.args(["-s", "-p", &throughput]))?,
    ];
    let (echo, throughput) = (HERE.0.to_string(), HERE.1.to_string());
    let _here = [
        Server::start(&mut product.exec(SPACE, &program, &[ECHO, &echo])?)?,
        Server::start(&mut product.exec(
            SPACE,
            Path::new("iperf3"),
            &["-s", "-p", &throughput],
        )?)?,
    ];
    let mut rows = Vec::new();
    for protocol in ["tcp", "udp"] {
        let ping = |port: u16| -> Result<f64> {
            let port = port.to_string();
            let arguments = [PING, protocol, ADDRESS, &port];
            let text = output(lab.outside.command(&program)?.args(arguments))?;
            text.trim().parse().context("read what a round trip took")
        };
        ping(HERE.0).or_else(|_| patiently(|| ping(HERE.0)))?;
        let case = format!("{}: round trip of 1 byte", protocol.to_uppercase());
        rows.push(time(case, "µs", || ping(BASE.0), || ping(HERE.0))?);
    }
    for (case, options) in [
        ("TCP: to the server", &[][..]),
        ("TCP: from the server", &["-R"]),
        ("UDP: to the server, 1400 bytes", &["-u", "-b", "0", "-l", "1400"]),
        ("UDP: from the server, 1400 bytes", &["-u", "-b", "0", "-l", "1400", "-R"]),
    ] {
        let iperf = |port: u16| iperf(lab, port, options);
        let measured = |port| patiently(|| iperf(port));
        rows.push(rate(case.into(), "Mbit/s", || measured(BASE.1), || measured(HERE.1))?);
    }
    Ok(rows)
}

/// Megabits for each second that arrive.
fn iperf(lab: &Lab, port: u16, options: &[&str]) -> Result<f64> {
    let port = port.to_string();
    let mut command = lab.outside.command("iperf3")?;
    command.args(["-c", ADDRESS, "-p", &port, "-t", "1", "-O", "0", "-J"]).args(options);
    let found: Value = serde_json::from_str(&output(&mut command)?).context("read iperf3")?;
    let received = found["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(received.with_context(|| format!("iperf3 says {}", found["error"]))? / 1e6)
}

/// Tries until it works.
pub fn patiently<T>(mut act: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match act() {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
            done => return done,
        }
    }
}

/// A server that is asked to end when this is dropped, so that its workers do too, and killed when it
/// does not.
pub struct Server(Child);

impl Server {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(quiet.spawn().with_context(|| format!("start {quiet:?}"))?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = self.0.id().cast_signed();
        // SAFETY: kill takes integers; the child has not been waited for, so its id is its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let deadline = Instant::now() + GRACE;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `__echo PORT`: sends back what comes by TCP and UDP.
pub fn echo(arguments: &[String]) -> Result<()> {
    let [port] = arguments else { bail!("wrong arguments") };
    let port: u16 = port.parse()?;
    let datagrams = UdpSocket::bind(("0.0.0.0", port)).context("bind")?;
    let listener = TcpListener::bind(("0.0.0.0", port)).context("listen")?;
    std::thread::spawn(move || {
        let mut byte = [0; 1];
        while let Ok((_, from)) = datagrams.recv_from(&mut byte) {
            let _ = datagrams.send_to(&byte, from);
        }
    });
    for stream in listener.incoming() {
        let mut stream = stream.context("accept")?;
        stream.set_nodelay(true)?;
        let mut byte = [0; 1];
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
    }
    Ok(())
}

/// `__ping tcp|udp ADDRESS PORT`: prints the microseconds that a round trip takes.
pub fn ping(arguments: &[String]) -> Result<()> {
    let [protocol, address, port] = arguments else { bail!("wrong arguments") };
    let target = (address.as_str(), port.parse::<u16>()?);
    let mut byte = [0; 1];
    let took = if protocol == "tcp" {
        let mut stream = TcpStream::connect(target).context("connect")?;
        stream.set_nodelay(true)?;
        timed(|| {
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)
        })?
    } else {
        let socket = UdpSocket::bind("0.0.0.0:0").context("bind")?;
        socket.connect(target).context("connect")?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        timed(|| {
            socket.send(&byte)?;
            socket.recv(&mut byte).map(drop)
        })?
    };
    println!("{took}");
    Ok(())
}

fn timed(mut trip: impl FnMut() -> std::io::Result<()>) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..TRIPS {
        trip().context("exchange a byte")?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(TRIPS))
}
