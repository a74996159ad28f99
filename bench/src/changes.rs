//! AIDE over what changed since its last run, by the recipe `examples/aide-changes`, beside a run over
//! everything: in one portspace, in turns. And what the journal costs those who write: on a file system
//! that is watched beside one that is not.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::files::{FILES, ensure_aide, make_tree};
use crate::interrupt;
use crate::lab::{Lab, output, run as run_command};
use crate::product::{HOST, Product};
use crate::report::{Row, in_turn};
use crate::start::{ensure_running, portspace};
use crate::tools::{TIME, Took};

/// Turns that count; one more goes before them, which also brings the files into memory.
const TURNS: usize = 5;
/// How many of a hundred files change between two runs, and what a run may take of a full one.
const CASES: [(usize, Option<f64>); 5] =
    [(0, Some(0.05)), (1, Some(0.1)), (10, Some(0.5)), (50, None), (100, None)];
/// How long it takes until a change is on the list, and more.
const SETTLED: Duration = Duration::from_millis(500);
/// Turns of writing that count; one more goes before them.
const WRITE_TURNS: usize = 15;
/// How often is written in a turn, to one file and to as many.
const WRITES: usize = 300_000;
const WRITTEN: usize = 5_000;
/// What is written at once: a line of a log.
const LINE: [u8; 100] = [b'x'; 100];
const CHECK: &str = "/etc/ids/check-changes";

pub fn run() -> Result<Vec<Row>> {
    ensure_aide()?;
    let lab = Lab::new()?;
    let work = tempfile::Builder::new().prefix("hs-bench-changes-").tempdir()?;
    let shop = work.path().join("shop");
    println!("making {FILES} files");
    make_tree(&shop.join("srv"))?;
    let [plain, watched] = ["plain", "watched"].map(|name| Memory::new(work.path().join(name)));
    let (plain, watched) = (plain?, watched?);

    let product = Product::new(&lab.host)?;
    product.write(&spec(&shop, &watched.0)?)?;
    output(&mut product.up()?)?;
    ensure_running(&product)?;
    output(&mut product.exec("bench/fim", Path::new("/etc/ids/accept"), &[])?)?;
    let mut rows = vec![
        write("100 bytes to one file", "writes/s", &plain.0, &watched.0, append)?,
        write("make, write, close", "files/s", &plain.0, &watched.0, make)?,
    ];
    for case in CASES {
        rows.push(measure(&product, &shop, case)?);
    }
    Ok(rows)
}

/// A file system in memory. Dropping it takes it away.
struct Memory(PathBuf);

impl Memory {
    fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path)?;
        run_command(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // The views of it may be on their way out.
        if let Err(error) = run_command(Command::new("umount").arg("--lazy").arg(&self.0)) {
            eprintln!("{error:#}");
        }
    }
}

/// What a writer gets done on either file system.
fn write(
    case: &str,
    unit: &'static str,
    plain: &Path,
    watched: &Path,
    writer: fn(&Path) -> Result<f64>,
) -> Result<Row> {
    let (mut bases, mut heres) = (Vec::new(), Vec::new());
    for turn in 0..=WRITE_TURNS {
        interrupt::check()?;
        let (base, here) = in_turn(turn, || writer(plain), || writer(watched))?;
        if turn > 0 {
            bases.push(base);
            heres.push(here);
        }
    }
    Ok(Row::pair(format!("a writer, watched: {case}"), unit, &bases, &heres))
}

fn append(at: &Path) -> Result<f64> {
    let mut file = File::create(at.join("log"))?;
    let start = Instant::now();
    for _ in 0..WRITES {
        file.write_all(&LINE)?;
    }
    Ok(WRITES as f64 / start.elapsed().as_secs_f64())
}

fn make(at: &Path) -> Result<f64> {
    let directory = at.join("files");
    fs::create_dir(&directory)?;
    let start = Instant::now();
    for number in 0..WRITTEN {
        File::create(directory.join(number.to_string()))?.write_all(&LINE)?;
    }
    let took = start.elapsed().as_secs_f64();
    fs::remove_dir_all(directory)?;
    Ok(WRITTEN as f64 / took)
}

fn measure(
    product: &Product<'_>,
    shop: &Path,
    (percent, goal): (usize, Option<f64>),
) -> Result<Row> {
    let program = std::env::current_exe().context("find this program")?;
    let changed = FILES * percent / 100;
    let (mut all, mut changes) = (Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        interrupt::check()?;
        let check = |arguments: &[&str]| -> Result<Took> {
            rewrite(&shop.join("srv"), changed)?;
            std::thread::sleep(SETTLED);
            let arguments = [&[TIME, CHECK], arguments].concat();
            took(&mut product.exec("bench/fim", &program, &arguments)?)
        };
        let (full, restricted) = in_turn(turn, || check(&["--all"]), || check(&[]))?;
        if turn > 0 {
            all.push(full.wall);
            changes.push(restricted.wall);
        }
    }
    let case = format!("AIDE, {FILES} files, {percent} % changed: all against changes");
    let row = Row::pair(case, "s", &all, &changes);
    Ok(match goal {
        Some(goal) => row.ratio_at_most(goal),
        None => row,
    })
}

/// The recipe's own files, with the server and the root of this bench.
fn spec(shop: &Path, watched: &Path) -> Result<String> {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/aide-changes");
    let recipe = fs::canonicalize(recipe).context("find the recipe")?;
    let server =
        format!("[server.shop]\non = [\"{HOST}\"]\nadopt = {{ directory = {shop:?} }}\n\n");
    let log = format!("[server.log]\non = [\"{HOST}\"]\nadopt = {{ directory = {watched:?} }}\n\n");
    let more = format!(
        "mount = [{{ from = {recipe:?}, to = \"/etc/ids\" }}]\n\
         watch.files = [\"shop\"]\nwatch.changes = [\"shop\", \"log\"]"
    );
    let fim = portspace("fim", "[\"sleep\", \"infinity\"]", &more);
    Ok(crate::start::spec(&[&server, &log, &fim]))
}

/// Writes the first `count` files again, as they are, spread over all directories.
fn rewrite(top: &Path, count: usize) -> Result<()> {
    let mut paths = Vec::new();
    for directory in fs::read_dir(top)? {
        for file in fs::read_dir(directory?.path())? {
            paths.push(file?.path());
        }
    }
    ensure!(paths.len() == FILES, "there are {} files", paths.len());
    paths.sort();
    let step = FILES / count.max(1);
    for path in paths.iter().step_by(step.max(1)).take(count) {
        let content = fs::read(path)?;
        fs::write(path, content)?;
    }
    Ok(())
}

/// AIDE's report comes before what it took.
fn took(command: &mut Command) -> Result<Took> {
    let text = output(command)?;
    let last = text.lines().rfind(|line| line.starts_with('{')).context("read what it took")?;
    serde_json::from_str(last).context("read what it took")
}
