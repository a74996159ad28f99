//! File I/O by fio: in the server space's own root, which is an overlay, and in a directory of the
//! host that is mounted in it, each beside the same on the base system's file system. What is mounted
//! is read and written by both sides in the same directory: two files differ by where the page cache
//! has them, which is up to a tenth where a record is a megabyte.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{SPACE, in_turns, rated};
use crate::lab::{Side, output};
use crate::product::Product;
use crate::report::Row;

/// Files and records, in KiB, and how many files.
const SIZES: [(usize, usize, usize); 2] = [(1024, 1, 16), (65536, 1024, 2)];

/// What is done, as fio's options. `loops` is replaced by what comes to about the same time for each
/// size of a record.
const WORK: [(&str, &str); 6] = [
    ("write", "--rw=write --create_on_open=1 --unlink_each_loop=1 --loops=4"),
    ("rewrite", "--rw=write --overwrite=1 --time_based --runtime=300ms"),
    ("read", "--rw=read --invalidate=1"),
    ("re-read", "--rw=read --invalidate=0 --pre_read=1 --time_based --runtime=300ms"),
    ("random read", "--rw=randread --invalidate=0 --pre_read=1 --time_based --runtime=300ms"),
    ("random write", "--rw=randwrite --overwrite=1 --time_based --runtime=300ms"),
];

/// Makes the directory of the host that the server space has mounted.
pub fn volume(work: &Path) -> Result<PathBuf> {
    let path = work.join("volume");
    fs::create_dir(&path)?;
    Ok(path)
}

pub fn rows(base: &Side<'_>, product: &Product<'_>, work: &Path) -> Result<Vec<Row>> {
    let tree = work.join("base");
    fs::create_dir(&tree)?;
    output(&mut product.exec(SPACE, Path::new("mkdir"), &["/var/bench"])?)?;
    let volume = work.join("volume");
    let places = [("own root", "/var/bench", &tree), ("mount", "/volume", &volume)];
    let mut rows = Vec::new();
    for (place, directory, tree) in places {
        let tree = tree.display().to_string();
        for (file, record, count) in SIZES {
            for (what, options) in WORK {
                let size = if file < 1024 * 16 { "1 MiB" } else { "64 MiB" };
                let case = format!("{place}: {what}, {size} by {record} KiB");
                let arguments =
                    |directory: &str| arguments(directory, file, record, count, options);
                let direct = || fio(base.base("fio")?.args(arguments(&tree)));
                let inside = || {
                    let arguments = arguments(directory);
                    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                    fio(&mut product.exec(SPACE, Path::new("fio"), &arguments)?)
                };
                let (bases, heres) = in_turns(direct, inside)?;
                let of = |side: &[Done], field: fn(&Done) -> f64| {
                    side.iter().map(field).collect::<Vec<_>>()
                };
                let mut row = |case: String, unit, field: fn(&Done) -> f64| {
                    rows.push(rated(case, unit, &of(&bases, field), &of(&heres, field)));
                };
                row(case.clone(), "MiB/s", |done| done.rate);
                row(case + ", processor time", "MiB/cpu s", |done| done.by_processor);
            }
        }
    }
    Ok(rows)
}

fn arguments(
    directory: &str,
    file: usize,
    record: usize,
    count: usize,
    options: &str,
) -> Vec<String> {
    let mut all: Vec<String> = options.split(' ').map(str::to_owned).collect();
    all.extend([
        "--name=bench".to_owned(),
        format!("--directory={directory}"),
        format!("--filesize={file}k"),
        format!("--size={}k", file * count),
        format!("--nrfiles={count}"),
        "--file_service_type=sequential".to_owned(),
        format!("--bs={record}k"),
        "--ioengine=psync".to_owned(),
        "--fallocate=none".to_owned(),
        "--output-format=json".to_owned(),
    ]);
    all
}

/// What fio did.
struct Done {
    /// MiB for each second of its run.
    rate: f64,
    /// MiB for each second of processor time: what others run meanwhile takes nothing of it.
    by_processor: f64,
}

/// Runs fio.
fn fio(command: &mut Command) -> Result<Done> {
    let text = output(command)?;
    let json = text.find('{').map_or("", |start| &text[start..]);
    let found: Value = serde_json::from_str(json).context("read what fio says")?;
    let job = &found["jobs"][0];
    let bytes = |kind: &str| job[kind]["bw_bytes"].as_f64().unwrap_or(0.0);
    let rate = bytes("read").max(bytes("write")) / f64::from(1 << 20);
    let share = |field: &str| job[field].as_f64().unwrap_or(0.0) / 100.0;
    let by_processor = rate / (share("usr_cpu") + share("sys_cpu"));
    ensure!(rate > 0.0 && by_processor.is_finite(), "fio did nothing: {text}");
    Ok(Done { rate, by_processor })
}
