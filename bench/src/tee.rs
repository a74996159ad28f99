//! Messages per second from a writer to a reader: through the tee beside a plain socket, and to a
//! receiver that is observed beside one that is not.
//!
//! ```text
//!   plain:     writer ──► reader (on the host)
//!   tee:       writer ──► tee ──► reader (in a portspace)
//!   observed:  writer ──► receiver (on the host), whose messages a reader in a portspace gets too
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::interrupt;
use crate::lab::{Lab, output};
use crate::product::{HOST, Product};
use crate::report::{Row, in_turn};
use crate::start::{ensure_running, portspace};
use crate::tools::{TAKE, now};

/// Turns that count; one more goes before them.
const TURNS: usize = 11;
/// Messages of a turn.
const MESSAGES: usize = 100_000;
/// The length of a message: a long line of a log.
const LENGTH: usize = 200;
/// How long a socket may take to be there.
const PATIENCE: Duration = Duration::from_secs(20);
/// What may wait for a reader.
const QUEUE: &str = "256MiB";

/// How messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Datagrams,
    Stream,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Datagrams => "dgram",
            Self::Stream => "stream",
        }
    }
}

/// What a turn took: the writer alone, and until the reader had everything, in messages per second.
#[derive(Clone, Copy, Debug)]
struct Rates {
    writer: f64,
    whole: f64,
}

pub fn run() -> Result<Vec<Row>> {
    let lab = Lab::new()?;
    let mut rows = Vec::new();
    for kind in [Kind::Datagrams, Kind::Stream] {
        rows.extend(through(&lab, kind)?);
    }
    rows.extend(observed(&lab)?);
    Ok(rows)
}

/// A plain socket beside one whose messages go through the tee.
fn through(lab: &Lab, kind: Kind) -> Result<Vec<Row>> {
    let work = tempfile::Builder::new().prefix("hs-bench-tee-").tempdir()?;
    let (plain, ours) = (work.path().join("plain"), work.path().join("ours"));
    let product = Product::new(&lab.host)?;
    start(&product, &ours, kind)?;
    let program = std::env::current_exe().context("find this program")?;
    let arguments = |path: &Path| [kind.word().to_owned(), path.display().to_string()];
    let mut outside = Reader::start(lab.base(&program)?.arg(TAKE).args(arguments(&plain)))?;
    let [word, inside] = arguments(Path::new("/run/reader"));
    let mut inside =
        Reader::start(&mut product.exec("bench/ids", &program, &[TAKE, &word, &inside])?)?;
    wait_for(&plain)?;
    wait_for(&ours)?;
    let (mut bases, mut heres) = (Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        interrupt::check()?;
        let (base, here) = in_turn(
            turn,
            || rates(kind, &plain, &mut outside),
            || rates(kind, &ours, &mut inside),
        )?;
        if turn > 0 {
            bases.push(base);
            heres.push(here);
        }
    }
    ensure_no_loss(&product)?;
    let name = kind.word();
    Ok(vec![
        row(&format!("{name}, from writer to reader"), &bases, &heres, |rates| rates.whole),
        row(&format!("{name}, what the writer gets rid of"), &bases, &heres, |rates| rates.writer),
    ])
}

/// A server's own receiver, observed and not.
fn observed(lab: &Lab) -> Result<Vec<Row>> {
    let kind = Kind::Datagrams;
    let work = tempfile::Builder::new().prefix("hs-bench-tee-").tempdir()?;
    let (plain, ours) = (work.path().join("plain"), work.path().join("ours"));
    let program = std::env::current_exe().context("find this program")?;
    let receiver = |path: &Path| -> Result<Reader> {
        let mut command = lab.base(&program)?;
        let reader = Reader::start(command.args([TAKE, kind.word()]).arg(path))?;
        wait_for(path)?;
        Ok(reader)
    };
    let (mut alone, mut watched) = (receiver(&plain)?, receiver(&ours)?);
    let product = Product::new(&lab.host)?;
    start(&product, &ours, kind)?;
    let mut command = product.exec("bench/ids", &program, &[TAKE, kind.word(), "/run/reader"])?;
    let mut ids = Reader::start(&mut command)?;
    std::thread::sleep(Duration::from_secs(2));
    let (mut bases, mut heres) = (Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        interrupt::check()?;
        let (base, here) = in_turn(
            turn,
            || rates(kind, &plain, &mut alone),
            || {
                let rates = rates(kind, &ours, &mut watched)?;
                // The reader has the same number; it is not measured, but waited for.
                ids.end().context("the observed messages")?;
                Ok(rates)
            },
        )?;
        if turn > 0 {
            bases.push(base);
            heres.push(here);
        }
    }
    ensure_no_loss(&product)?;
    Ok(vec![row("dgram, to a receiver that is observed", &bases, &heres, |rates| rates.whole)])
}

fn row(case: &str, bases: &[Rates], heres: &[Rates], field: fn(&Rates) -> f64) -> Row {
    let of = |side: &[Rates]| side.iter().map(field).collect::<Vec<_>>();
    let case = format!("{MESSAGES} messages of {LENGTH} bytes, {case}");
    Row::pair(case, "messages/s", &of(bases), &of(heres))
}

/// A portspace that reads the host's socket at `path`.
fn start(product: &Product<'_>, path: &Path, kind: Kind) -> Result<()> {
    let window = format!(
        "watch.sockets = [{{ server = \"host\", path = {path:?}, to = \"/run/reader\", \
         kind = \"{}\", queue = \"{QUEUE}\" }}]",
        kind.word()
    );
    let server = format!("[server.host]\non = [\"{HOST}\"]\nadopt = \"base\"\n\n");
    let ids = portspace("ids", "[\"sleep\", \"infinity\"]", &window);
    product.write(&crate::start::spec(&[&server, &ids]))?;
    output(&mut product.up()?)?;
    ensure_running(product)
}

/// Every message of every turn must have come.
fn ensure_no_loss(product: &Product<'_>) -> Result<()> {
    let status = product.status()?;
    let window = &status["hyperspectors"][0]["portspaces"][0]["windows"]["sockets"][0];
    let taken = window["accepted"].as_u64().unwrap_or_default();
    ensure!(window["lost"] == 0 && taken > 0, "messages were lost: {window}");
    Ok(())
}

fn wait_for(path: &Path) -> Result<()> {
    let start = Instant::now();
    while !path.exists() {
        ensure!(start.elapsed() < PATIENCE, "nobody makes {}", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Sends the messages of a turn, and waits until they are all there.
fn rates(kind: Kind, path: &Path, reader: &mut Reader) -> Result<Rates> {
    let message = [b'x'; LENGTH];
    let begin = now();
    let start = Instant::now();
    match kind {
        Kind::Datagrams => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path).with_context(|| format!("connect to {}", path.display()))?;
            for _ in 0..MESSAGES {
                socket.send(&message)?;
            }
        }
        Kind::Stream => {
            let mut stream = UnixStream::connect(path)
                .with_context(|| format!("connect to {}", path.display()))?;
            for _ in 0..MESSAGES {
                stream.write_all(&message)?;
            }
        }
    }
    let written = start.elapsed().as_secs_f64();
    let end = reader.end()?;
    let whole = end.saturating_sub(begin) as f64 / 1e9;
    Ok(Rates { writer: MESSAGES as f64 / written, whole: MESSAGES as f64 / whole })
}

/// A program that takes messages, and says when it has had [`MESSAGES`] more.
struct Reader {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Reader {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
        let output = child.stdout.take().context("the reader's output")?;
        Ok(Self { child, output: BufReader::new(output) })
    }

    /// Waits until it has had all of a turn; when that was, in nanoseconds since 1970.
    fn end(&mut self) -> Result<u128> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("the reader says {line:?}"))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The reader: `KIND PATH`.
pub fn take(arguments: &[String]) -> Result<()> {
    let [kind, path] = arguments else { bail!("a kind and a path") };
    let path = PathBuf::from(path);
    let mut buffer = vec![0; 1 << 16];
    let mut out = std::io::stdout();
    let mut say = || -> Result<()> {
        writeln!(out, "{}", now())?;
        Ok(out.flush()?)
    };
    if kind == Kind::Datagrams.word() {
        let socket = UnixDatagram::bind(path)?;
        loop {
            for _ in 0..MESSAGES {
                ensure!(socket.recv(&mut buffer)? == LENGTH, "a message of another length");
            }
            say()?;
        }
    }
    let listener = UnixListener::bind(path)?;
    loop {
        let (mut stream, _) = listener.accept()?;
        let mut left = MESSAGES * LENGTH;
        while left > 0 {
            let got = stream.read(&mut buffer)?;
            ensure!(got > 0, "the stream ends {left} bytes too soon");
            left -= got;
        }
        say()?;
    }
}
