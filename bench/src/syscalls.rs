//! What the system call window costs a web server, beside strace and perf trace, and how many calls it
//! takes without losing one.
//!
//! The base side is the same server a moment before, when nobody traces anything: the kernel's hooks
//! cost every process of the machine, so both cannot run at once. Server, clients, tracer and reader share
//! the machine's processors, so there are two figures: what is left of the requests when they are all
//! busy, and what a request takes of the server's own time.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::interrupt;
use crate::lab::{Lab, output};
use crate::product::{HOST, Product};
use crate::report::{Row, in_turn};
use crate::server::web;
use crate::start::portspace;
use crate::tools::{CALLS, DRAIN};

/// Turns that count; one more goes before them.
const TURNS: usize = 5;
/// Turns of the fixed rate, and of other tools.
const RATE_TURNS: usize = 3;
const TOOL_TURNS: usize = 2;
const ADDRESS: &str = "198.51.100.1";
const PORT: u16 = 8001;
const SPACE: &str = "bench";
/// Calls in a second, by two threads, and for how long.
const RATE: u64 = 500_000;
const SECONDS: u64 = 3;
/// How long the agent takes at most to have another tracer ready, which the measurement is not of.
const SETTLED: Duration = Duration::from_millis(1500);
/// How long something may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

const DEFAULT: &str = r#"{"version":1,"filter":{"calls":["default"]}}"#;
const ALL: &str = r#"{"version":1,"filter":{"calls":["all"]},"queue":67108864}"#;

pub fn run() -> Result<Vec<Row>> {
    let lab = Lab::new()?;
    lab.connect(ADDRESS, "198.51.100.2")?;
    let work = tempfile::Builder::new().prefix("hs-bench-syscalls-").tempdir()?;
    let bench =
        Bench { lab: &lab, product: Product::new(&lab.host)?, site: web::site(work.path())? };
    bench.watch(None)?;
    crate::server::network::patiently(|| bench.requests())?;
    let mut rows = bench.fixed_rate()?;
    rows.iter().for_each(tell);
    for (size, case, goal) in [
        ("default", "default set of calls, binary reader", Some(0.98)),
        ("all", "all calls, binary reader", Some(0.93)),
        ("text", "all calls, binary reader and all three text forms", Some(0.93)),
    ] {
        add(&mut rows, bench.window(size, case, goal)?);
    }
    for tool in ["strace", "perf"] {
        match bench.tool(tool) {
            Ok(two) => add(&mut rows, two),
            Err(error) => println!("{tool} cannot be measured here: {error:#}"),
        }
    }
    Ok(rows)
}

struct Bench<'a> {
    lab: &'a Lab,
    product: Product<'a>,
    site: std::path::PathBuf,
}

impl Bench<'_> {
    /// Has the server run, and be traced for a portspace as `window` says.
    fn watch(&self, window: Option<&str>) -> Result<()> {
        let server = format!(
            "[server.{SPACE}]\non = [\"{HOST}\"]\nports = [\"tcp/{PORT}\"]\n\
             command = [\"nginx\", \"-c\", \"/site/nginx.conf\"]\n\
             mount = [{{ from = {:?}, to = \"/site\" }}]\n\n",
            self.site
        );
        let sleep = "[\"sleep\", \"infinity\"]";
        let ids = portspace(
            "ids",
            sleep,
            &window.map(|w| format!("watch.syscalls = {w}")).unwrap_or_default(),
        );
        self.product.write(&crate::start::spec(&[&server, &ids]))?;
        output(&mut self.product.up()?).map(drop)
    }

    /// Requests.
    fn requests(&self) -> Result<Load> {
        let pids = self.server_pids()?;
        let time = || pids.iter().map(|pid| run_time(*pid)).sum::<Result<u64>>();
        let url = format!("http://{ADDRESS}:{PORT}/1k");
        let before = time()?;
        let text = output(self.lab.outside.command("wrk")?.args(["-t1", "-c16", "-d1s", &url]))?;
        let taken = (time()? - before) as f64 / 1000.0;
        let told = || format!("wrk says {text}");
        let rate = web::requests(&text).with_context(told)?;
        Ok(Load { rate, cost: taken / web::number(&text).with_context(told)? })
    }

    fn window(&self, size: &str, case: &str, goal: Option<f64>) -> Result<[Row; 2]> {
        let (window, request) = match size {
            "default" => (format!("[\"{SPACE}\"]"), DEFAULT),
            "all" => (format!("[\"{SPACE}\"]"), ALL),
            _ => (texts(), ALL),
        };
        let (mut bases, mut heres, mut seen) = (Vec::new(), Vec::new(), 0);
        for turn in 0..=TURNS {
            interrupt::check()?;
            let untraced = || {
                self.watch(None)?;
                self.requests()
            };
            let traced = || {
                self.watch(Some(&window))?;
                let reader = Reader::start(&self.product, request)?;
                std::thread::sleep(SETTLED);
                let requests = self.requests()?;
                seen += reader.end()?.records;
                Ok(requests)
            };
            let (base, here) = in_turn(turn, untraced, traced)?;
            if turn > 0 {
                bases.push(base);
                heres.push(here);
            }
        }
        ensure!(size == "default" || seen > 0, "nothing was recorded");
        let [rate, cost] = rows(case, &bases, &heres);
        Ok([goal.map_or(rate.clone(), |goal| rate.ratio_at_least(goal)), cost])
    }

    /// Another tool on the same server.
    fn tool(&self, name: &str) -> Result<[Row; 2]> {
        self.watch(None)?;
        let pids = self.server_pids()?;
        let (mut bases, mut heres) = (Vec::new(), Vec::new());
        for turn in 0..=TOOL_TURNS {
            interrupt::check()?;
            let traced = || {
                let mut command = Command::new(name);
                match name {
                    "strace" => command.args(["-f", "-tt", "-T", "-y", "-o", "/dev/null"]),
                    _ => command.args(["trace", "-o", "/dev/null"]),
                };
                if name == "strace" {
                    command.args(pids.iter().flat_map(|pid| ["-p".to_owned(), pid.to_string()]));
                } else {
                    let list: Vec<String> = pids.iter().map(u32::to_string).collect();
                    command.args(["-p", &list.join(",")]);
                }
                let mut tool = Tool(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
                std::thread::sleep(Duration::from_millis(500));
                ensure!(tool.0.try_wait()?.is_none(), "it ends at once");
                self.requests()
            };
            let (base, here) = in_turn(turn, || self.requests(), traced)?;
            if turn > 0 {
                bases.push(base);
                heres.push(here);
            }
        }
        let case = match name {
            "strace" => "strace -f -tt -T -y",
            _ => "perf trace",
        };
        Ok(rows(case, &bases, &heres))
    }

    /// The processes of nginx in the server space.
    fn server_pids(&self) -> Result<Vec<u32>> {
        let status = self.product.status()?;
        let cgroup = status["servers"][0]["cgroup"].as_str().context("the server has no cgroup")?;
        let mut pids = Vec::new();
        for root in ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup"] {
            let path = Path::new(root).join(cgroup.trim_start_matches('/'));
            collect(&path, &mut pids);
            if !pids.is_empty() {
                break;
            }
        }
        pids.retain(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "nginx")
        });
        ensure!(!pids.is_empty(), "no process of nginx is in {cgroup}");
        Ok(pids)
    }

    /// A fixed number of calls in a second, all of them recorded.
    fn fixed_rate(&self) -> Result<Vec<Row>> {
        let (mut rates, mut lost) = (Vec::new(), Vec::new());
        let (mut tracers, mut readers) = (Vec::new(), Vec::new());
        let (mut bases, mut heres) = (Vec::new(), Vec::new());
        for turn in 0..=RATE_TURNS {
            interrupt::check()?;
            self.watch(None)?;
            let base = self.calls()?;
            self.watch(Some(&format!("[\"{SPACE}\"]")))?;
            let reader = Reader::start(&self.product, ALL)?;
            std::thread::sleep(SETTLED);
            let before = self.tracer()?;
            let here = self.calls()?;
            let after = self.tracer()?;
            let got = reader.end()?;
            ensure!(got.records > RATE * SECONDS / 2, "only {} calls were recorded", got.records);
            if turn > 0 {
                rates.push(here.rate);
                lost.push(got.lost as f64);
                tracers.push((after.cpu - before.cpu) / (after.recorded - before.recorded) as f64);
                readers.push(got.cpu / got.records as f64);
                bases.push(base.cost);
                heres.push(here.cost);
            }
        }
        let case = |what: &str| format!("{RATE} calls/s of two threads, {SECONDS} s: {what}");
        let million = |costs: &[f64]| costs.iter().map(|cost| cost * 1e6).collect::<Vec<_>>();
        Ok(vec![
            Row::alone(case("made"), "calls/s", &rates),
            Row::alone(case("lost"), "records", &lost).at_most(0.0),
            Row::pair(case("the caller itself"), "µs/call", &bases, &heres),
            Row::alone(case("tracer"), "s/million", &million(&tracers)),
            Row::alone(case("reader"), "s/million", &million(&readers)),
        ])
    }

    /// Calls in the server space.
    fn calls(&self) -> Result<Load> {
        let program = std::env::current_exe().context("find this program")?;
        let (rate, seconds) = (RATE.to_string(), SECONDS.to_string());
        let mut calls = self.product.exec(SPACE, &program, &[CALLS, &rate, &seconds])?;
        serde_json::from_str(&output(&mut calls)?).context("read the rate")
    }

    fn tracer(&self) -> Result<Tracer> {
        let status = self.product.status()?;
        let tracer = &status["servers"][0]["tracer"];
        let pid = tracer["pid"].as_u64().with_context(|| format!("no tracer runs: {tracer}"))?;
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        Ok(Tracer { recorded: number(&tracer["recorded"]), cpu: run_time(pid)? as f64 / 1e9 })
    }
}

/// What was done, and what it took.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Load {
    /// In a second.
    rate: f64,
    /// Microseconds of its own processor time for each.
    cost: f64,
}

/// The rows of a web server's requests.
fn rows(case: &str, bases: &[Load], heres: &[Load]) -> [Row; 2] {
    let rates = |all: &[Load]| all.iter().map(|load| load.rate).collect::<Vec<_>>();
    let costs = |all: &[Load]| all.iter().map(|load| load.cost).collect::<Vec<_>>();
    let case = format!("nginx, 1 KiB: {case}");
    [
        Row::pair(&case, "requests/s", &rates(bases), &rates(heres)),
        Row::pair(format!("{case}: nginx"), "µs/request", &costs(bases), &costs(heres)),
    ]
}

/// How a tracer is.
struct Tracer {
    recorded: u64,
    /// In seconds.
    cpu: f64,
}

/// What a process of one thread took so far of processors, in nanoseconds (schedstat, proc(5)).
fn run_time(pid: impl std::fmt::Display) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let first = text.split_whitespace().next().context("read a process's time")?;
    Ok(first.parse()?)
}

/// What this process took so far, in seconds.
fn own_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn collect(group: &Path, pids: &mut Vec<u32>) {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.path().is_dir()) {
        collect(&entry.path(), pids);
    }
}

/// A window whose calls are written in all three forms too.
fn texts() -> String {
    let table = |form: &str| {
        format!(
            "{{ server = \"{SPACE}\", to = \"/run/trace.{form}\", form = \"{form}\", calls = [\"all\"] }}"
        )
    };
    let all = ["strace", "json", "audit"].map(table).join(", ");
    format!("[\"{SPACE}\", {all}]")
}

fn add(rows: &mut Vec<Row>, two: [Row; 2]) {
    two.iter().for_each(tell);
    rows.extend(two);
}

/// Says what was found as soon as it was.
fn tell(row: &Row) {
    let of = row.base.map(|base| format!(" of {base:.2}")).unwrap_or_default();
    let ratio = row.ratio.map(|ratio| format!(" ({ratio:.3})")).unwrap_or_default();
    println!("{}: {:.2}{of} {}{ratio}", row.case, row.here, row.unit);
}

/// A tool that traces. Ended as Ctrl-C would, so that it lets go of what it traces.
struct Tool(Child);

impl Drop for Tool {
    fn drop(&mut self) {
        // SAFETY: kill takes integers; the child has not been waited for, so its id is its own.
        unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGINT) };
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A reader in the portspace, which ends when its input does.
struct Reader {
    child: Child,
    input: ChildStdin,
}

/// What a reader got.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Got {
    records: u64,
    lost: u64,
    /// What it took, in seconds.
    cpu: f64,
}

impl Reader {
    fn start(product: &Product<'_>, request: &str) -> Result<Self> {
        let program = std::env::current_exe().context("find this program")?;
        let socket = format!("/.servertrace/{SPACE}");
        let mut command = product.exec("bench/ids", &program, &[DRAIN, &socket, request])?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("the reader's input")?;
        // It says when its stream has begun.
        let mut byte = [0];
        child.stdout.as_mut().context("the reader's output")?.read_exact(&mut byte)?;
        Ok(Self { child, input })
    }

    fn end(self) -> Result<Got> {
        std::thread::sleep(Duration::from_millis(300));
        drop(self.input);
        let text = String::from_utf8(self.child.wait_with_output()?.stdout)?;
        serde_json::from_str(&text).with_context(|| format!("the reader says {text:?}"))
    }
}

/// `__drain SOCKET REQUEST`: reads records until the input ends, and says how many calls there were and
/// how many records were lost.
pub fn drain(arguments: &[String]) -> Result<()> {
    let [socket, request] = arguments else { bail!("a socket and a request") };
    let start = Instant::now();
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) if start.elapsed() > PATIENCE => bail!("connect to {socket}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    writeln!(stream, "{request}")?;
    let ending = stream.try_clone()?;
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = ending.shutdown(std::net::Shutdown::Both);
    });
    let mut got = Got { records: 0, lost: 0, cpu: 0.0 };
    let mut buffer = vec![0; 1 << 20];
    let (mut filled, mut has_begun) = (0, false);
    loop {
        let length = stream.read(&mut buffer[filled..])?;
        if length == 0 {
            break;
        }
        filled += length;
        let mut at = 0;
        while let Some((kind, length, count)) = record(&buffer[at..filled]) {
            match kind {
                CALL => got.records += 1,
                LOST | MISSED => got.lost += count,
                _ => {}
            }
            at += length;
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        if !has_begun {
            has_begun = true;
            print!("+");
            std::io::stdout().flush()?;
        }
    }
    got.cpu = own_time();
    println!("{}", serde_json::to_string(&got)?);
    Ok(())
}

/// Kinds of records (docs/syscalls.md).
const CALL: u8 = 1;
const LOST: u8 = 6;
const MISSED: u8 = 9;

/// The kind, the length and the first number of the record at the front, where it is whole.
fn record(bytes: &[u8]) -> Option<(u8, usize, u64)> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let whole = bytes.get(..length)?;
    let count =
        whole.get(24..32).and_then(|count| count.try_into().ok()).map_or(0, u64::from_ne_bytes);
    Some((*whole.get(4)?, length, count))
}

/// `__calls RATE SECONDS`: makes calls of a byte's read by two threads, and says how many in a second and
/// what each took.
pub fn calls(arguments: &[String]) -> Result<()> {
    let [rate, seconds] = arguments else { bail!("a rate and seconds") };
    let (rate, seconds): (u64, u64) = (rate.parse()?, seconds.parse()?);
    let (start, before) = (Instant::now(), own_time());
    let threads: Vec<_> =
        (0..2).map(|_| std::thread::spawn(move || half(rate / 2, seconds))).collect();
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a thread died"))??;
    }
    let made = (rate * seconds) as f64;
    let load = Load {
        rate: made / start.elapsed().as_secs_f64(),
        cost: (own_time() - before) * 1e6 / made,
    };
    println!("{}", serde_json::to_string(&load)?);
    Ok(())
}

/// In portions of a millisecond's.
fn half(rate: u64, seconds: u64) -> Result<()> {
    let mut file = fs::File::open("/dev/zero")?;
    let (portion, mut byte) = (rate / 1000, [0]);
    let start = Instant::now();
    for number in 0..seconds * 1000 {
        for _ in 0..portion {
            file.read_exact(&mut byte)?;
        }
        let due = Duration::from_millis(number + 1);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    Ok(())
}
