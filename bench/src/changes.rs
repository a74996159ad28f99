//! AIDE over what changed since its last run, by the recipe `examples/aide-changes`, beside a run over
//! everything: in one portspace, in turns.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::files::{FILES, ensure_aide, make_tree};
use crate::interrupt;
use crate::lab::{Lab, output};
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
const CHECK: &str = "/etc/ids/check-changes";

pub fn run() -> Result<Vec<Row>> {
    ensure_aide()?;
    let lab = Lab::new()?;
    let work = tempfile::Builder::new().prefix("hs-bench-changes-").tempdir()?;
    let shop = work.path().join("shop");
    println!("making {FILES} files");
    make_tree(&shop.join("srv"))?;

    let product = Product::new(&lab.host)?;
    product.write(&spec(&shop)?)?;
    output(&mut product.up()?)?;
    ensure_running(&product)?;
    output(&mut product.exec("bench/fim", Path::new("/etc/ids/accept"), &[])?)?;
    CASES.into_iter().map(|case| measure(&product, &shop, case)).collect()
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
fn spec(shop: &Path) -> Result<String> {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/aide-changes");
    let recipe = fs::canonicalize(recipe).context("find the recipe")?;
    let server =
        format!("[server.shop]\non = [\"{HOST}\"]\nadopt = {{ directory = {shop:?} }}\n\n");
    let more = format!(
        "mount = [{{ from = {recipe:?}, to = \"/etc/ids\" }}]\n\
         watch.files = [\"shop\"]\nwatch.changes = [\"shop\"]"
    );
    let fim = portspace("fim", "[\"sleep\", \"infinity\"]", &more);
    Ok(crate::start::spec(&[&server, &fim]))
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
