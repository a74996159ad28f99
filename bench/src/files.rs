//! AIDE over a tree of files, through a file window and directly.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::interrupt;
use crate::lab::{Lab, output};
use crate::product::{HOST, Product};
use crate::report::{Row, in_turn};
use crate::start::{ensure_running, portspace};
use crate::tools::{TIME, Took};

/// Turns that count; one more goes before them, which also brings the files into memory.
const TURNS: usize = 11;
/// How many files there are.
pub const FILES: usize = 30_000;
/// How many are in one directory.
const IN_DIRECTORY: usize = 100;
/// The least file's size in bytes, and how many times that the greatest is.
const SIZE: (usize, usize) = (512, 32);
/// Where the portspace has AIDE's configuration.
const INSIDE: &str = "/tmp/bench/aide.conf";
/// What the product aims at.
const GOAL: f64 = 1.03;

pub fn run() -> Result<Vec<Row>> {
    ensure_aide()?;
    let lab = Lab::new()?;
    let work = tempfile::Builder::new().prefix("hs-bench-files-").tempdir()?;
    let shown = work.path().join("shown");
    println!("making {FILES} files");
    make_tree(&shown.join("tree"))?;

    let product = Product::new(&lab.host)?;
    product.write(&spec(&shown))?;
    output(&mut product.up()?)?;
    ensure_running(&product)?;
    // In the portspace, /tmp is its own.
    let (base, here) = (work.path().join("base"), Path::new("/tmp/bench").to_owned());
    fs::create_dir(&base)?;
    output(&mut product.exec("bench/fim", Path::new("mkdir"), &["-p", "/tmp/bench"])?)?;
    let script = format!(
        "cat > /tmp/bench/aide.conf <<'END'\n{}END\n",
        config(Path::new("/.serverfs/tree"), &here)
    );
    output(&mut product.exec("bench/fim", Path::new("sh"), &["-c", &script])?)?;
    fs::write(base.join("aide.conf"), config(&shown, &base))?;

    let program = std::env::current_exe().context("find this program")?;
    let outside = base.join("aide.conf").display().to_string();
    let (mut bases, mut heres) = (Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        interrupt::check()?;
        let (direct, through) = in_turn(
            turn,
            || took(lab.base(&program)?.args(arguments(&outside))),
            || took(&mut product.exec("bench/fim", &program, &arguments(INSIDE))?),
        )?;
        ensure!(through.filtered && !direct.filtered, "the two sides are not what they should be");
        if turn > 0 {
            bases.push(direct);
            heres.push(through);
        }
    }
    same_count(&product, &base)?;
    let row = |case: &str, field: fn(&Took) -> f64| {
        let of = |side: &[Took]| side.iter().map(field).collect::<Vec<_>>();
        Row::pair(format!("AIDE, {FILES} files, {case}"), "s", &of(&bases), &of(&heres))
            .ratio_at_most(GOAL)
    };
    Ok(vec![row("from start to end", |took| took.wall), row("processor time", |took| took.cpu)])
}

pub fn ensure_aide() -> Result<()> {
    let found = Command::new("aide").arg("--version").output();
    ensure!(found.is_ok(), "aide is not there; apt-get install --no-install-recommends aide");
    Ok(())
}

fn spec(shown: &Path) -> String {
    let server =
        format!("[server.tree]\non = [\"{HOST}\"]\nadopt = {{ directory = {shown:?} }}\n\n");
    let fim = portspace("fim", "[\"sleep\", \"infinity\"]", "watch.files = [\"tree\"]");
    crate::start::spec(&[&server, &fim])
}

/// The same on both sides, but for where the tree and the data base are.
fn config(root: &Path, data: &Path) -> String {
    format!(
        "root_prefix={}\ndatabase_out=file:{}/aide.db\ngzip_dbout=no\nreport_url=stdout\n\
         /tree p+u+g+s+m+sha256\n",
        root.display(),
        data.display()
    )
}

fn arguments(config: &str) -> [&str; 5] {
    [TIME, "aide", "--init", "--config", config]
}

fn took(command: &mut Command) -> Result<Took> {
    serde_json::from_str(&output(command)?).context("read what it took")
}

/// Both sides must have done the same work.
fn same_count(product: &Product<'_>, base: &Path) -> Result<()> {
    let direct = fs::read_to_string(base.join("aide.db"))?;
    let through =
        output(&mut product.exec("bench/fim", Path::new("cat"), &["/tmp/bench/aide.db"])?)?;
    let entries = |text: &str| text.lines().filter(|line| line.starts_with("/tree")).count();
    let (direct, through) = (entries(&direct), entries(&through));
    ensure!(
        direct == through,
        "AIDE found {direct} entries directly and {through} through the window"
    );
    ensure!(direct > FILES, "AIDE found just {direct} entries");
    Ok(())
}

/// Files of many sizes, with contents that differ.
pub fn make_tree(top: &Path) -> Result<()> {
    let mut state = 1_u64;
    let mut content = vec![0_u8; SIZE.0 * SIZE.1];
    for number in 0..FILES {
        let directory = top.join(format!("d{:04}", number / IN_DIRECTORY));
        if number % IN_DIRECTORY == 0 {
            interrupt::check()?;
            fs::create_dir_all(&directory)?;
        }
        // A simple generator: numbers that look random, and are the same every time.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let length = SIZE.0 * (1 + (state >> 33) as usize % SIZE.1);
        content[..8].copy_from_slice(&state.to_ne_bytes());
        fs::write(directory.join(format!("f{number:06}")), &content[..length])?;
    }
    Ok(())
}
