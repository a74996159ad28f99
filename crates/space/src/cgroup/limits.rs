//! From the plan's limits to the kernel's files, in either layout.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use hyperspector_spec::plan::Limits;
use hyperspector_sys::errno::text;
use serde::{Deserialize, Serialize};

use super::Cgroup;
use super::detect::Weighing;

/// A limit that a plan can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Memory in bytes, swap included.
    Memory,
    /// Processors.
    Cpu,
    /// The share of the processors when all are busy.
    CpuWeight,
    /// The share of the disks when they are busy.
    IoWeight,
    /// Processes and threads.
    Pids,
}

/// What became of a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforcement {
    /// The limit.
    pub limit: Limit,
    /// Why the kernel does not enforce it; `None` where it does.
    pub missing: Option<String>,
}

/// The default of every weight (v2's scale of 1 to 10000).
const DEFAULT_WEIGHT: u16 = 100;

/// Why a disk weight that was written does nothing.
const UNWEIGHED: &str =
    "no disk is shared out by weight: none has the bfq scheduler, nor is io.cost.qos on";

/// Sets all limits, those that are not asked for to the kernel's defaults; says what became of each
/// that is asked for.
pub(super) fn apply(group: &Cgroup, limits: &Limits) -> Vec<Enforcement> {
    let results = [
        (Limit::Memory, limits.memory.is_some(), memory(group, limits.memory)),
        (Limit::Cpu, limits.cpu_millis.is_some(), cpu(group, limits.cpu_millis)),
        (Limit::CpuWeight, limits.cpu_weight.is_some(), cpu_weight(group, limits.cpu_weight)),
        (Limit::IoWeight, limits.io_weight.is_some(), io_weight(group, limits.io_weight)),
        (Limit::Pids, limits.pids.is_some(), pids(group, limits.pids)),
    ];
    let asked = results.into_iter().filter(|(_, asked, _)| *asked);
    asked.map(|(limit, _, result)| Enforcement { limit, missing: result.err() }).collect()
}

fn memory(group: &Cgroup, bytes: Option<u64>) -> Result<(), String> {
    if let Some(node) = group.v2_with("memory.max") {
        write(&node.join("memory.max"), &or(bytes, "max"))?;
        // What is limited must not go on in the swap space.
        return write_if_there(&node.join("memory.swap.max"), bytes.map_or("max", |_| "0"));
    }
    let node = group.v1_of("memory")?;
    let (memory, both) =
        (node.join("memory.limit_in_bytes"), node.join("memory.memsw.limit_in_bytes"));
    // The sum must never be less than the memory alone: out of the way first.
    write_if_there(&both, "-1")?;
    write(&memory, &or(bytes, "-1"))?;
    write_if_there(&both, &or(bytes, "-1"))
}

fn cpu(group: &Cgroup, millis: Option<u32>) -> Result<(), String> {
    let period = period(millis);
    let quota = millis.map(|millis| u64::from(millis) * period / 1000);
    if let Some(node) = group.v2_with("cpu.max") {
        return write(&node.join("cpu.max"), &format!("{} {period}", or(quota, "max")));
    }
    let node = group.v1_of("cpu")?;
    // Without a quota any period is accepted.
    write(&node.join("cpu.cfs_quota_us"), "-1")?;
    write(&node.join("cpu.cfs_period_us"), &period.to_string())?;
    write(&node.join("cpu.cfs_quota_us"), &or(quota, "-1"))
}

/// The period in microseconds over which processor time is counted. The kernel takes no quota below
/// a millisecond, so that less than a hundredth of a processor needs a longer one.
fn period(millis: Option<u32>) -> u64 {
    if millis.is_some_and(|millis| millis < 10) { 1_000_000 } else { 100_000 }
}

fn cpu_weight(group: &Cgroup, weight: Option<u16>) -> Result<(), String> {
    let weight = weight.unwrap_or(DEFAULT_WEIGHT);
    if let Some(node) = group.v2_with("cpu.weight") {
        return write(&node.join("cpu.weight"), &weight.to_string());
    }
    write(&group.v1_of("cpu")?.join("cpu.shares"), &shares(weight).to_string())
}

/// v1's scale: 1024 is the default, 2 the least.
fn shares(weight: u16) -> u64 {
    (u64::from(weight) * 1024 / u64::from(DEFAULT_WEIGHT)).max(2)
}

fn io_weight(group: &Cgroup, weight: Option<u16>) -> Result<(), String> {
    let weight = weight.unwrap_or(DEFAULT_WEIGHT);
    let mut done = Err("the kernel has no disk weights (neither io.weight nor bfq)".to_owned());
    let mut set = |node: &Path, file: &str, value: String, weighed: bool| {
        let path = node.join(file);
        if path.exists() {
            // Written in any case: it counts as soon as a disk is shared out by weight.
            let written = write(&path, &value);
            let result = if weighed { written } else { written.and(Err(UNWEIGHED.to_owned())) };
            done = result.or_else(|why| done.clone().or(Err(why)));
        }
    };
    let Weighing { bfq: has_bfq, cost } = group.weighing;
    if let Some(node) = &group.v2 {
        set(node, "io.weight", format!("default {weight}"), cost);
        set(node, "io.bfq.weight", bfq(weight).to_string(), has_bfq);
    }
    if let Some(node) = group.v1.get("blkio") {
        set(node, "blkio.bfq.weight", bfq(weight).to_string(), has_bfq);
        // Only kernels whose default scheduler weighs (CFQ, before Linux 5.0) have this file.
        set(node, "blkio.weight", bfq(weight).max(10).to_string(), true);
    }
    done
}

/// BFQ's scale: 100 is its default too, but 1000 its most.
fn bfq(weight: u16) -> u16 {
    match weight {
        0..=100 => weight.max(1),
        _ => 100 + (weight.min(10_000) - 100) / 11,
    }
}

fn pids(group: &Cgroup, most: Option<u32>) -> Result<(), String> {
    let node = match group.v2_with("pids.max") {
        Some(node) => node,
        None => group.v1_of("pids")?,
    };
    write(&node.join("pids.max"), &or(most, "max"))
}

/// Enables a v2 controller for the groups below `node`.
pub(super) fn enable(node: &Path, controller: &str) -> Result<(), String> {
    if lists(&node.join("cgroup.subtree_control"), controller) {
        return Ok(());
    }
    if !lists(&node.join("cgroup.controllers"), controller) {
        return Err(format!("no {controller} controller in {}", node.display()));
    }
    write(&node.join("cgroup.subtree_control"), &format!("+{controller}"))
}

/// Whether a file with names separated by blanks holds `name`.
fn lists(file: &Path, name: &str) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|n| n == name))
}

fn or(value: Option<impl ToString>, default: &str) -> String {
    value.map_or_else(|| default.to_owned(), |value| value.to_string())
}

fn write_if_there(path: &Path, value: &str) -> Result<(), String> {
    if path.exists() { write(path, value) } else { Ok(()) }
}

fn write(path: &Path, value: &str) -> Result<(), String> {
    write_file(path, value)
        .map_err(|e| format!("write {value} to {}: {}", path.display(), text(&e)))
}

/// Writes a control file in one call; never makes one.
pub(super) fn write_file(path: &Path, value: &str) -> io::Result<()> {
    // Truncating means nothing to the kernel's files, and keeps those of a test clean.
    OpenOptions::new().write(true).truncate(true).open(path)?.write_all(value.as_bytes())
}

#[cfg(test)]
mod conversions {
    use super::*;

    #[test]
    fn weights_are_converted_between_the_scales() {
        assert_eq!([shares(1), shares(100), shares(10_000)], [10, 1024, 102_400]);
        assert_eq!([bfq(1), bfq(100), bfq(10_000)], [1, 100, 1000]);
        assert!((1..10_000).all(|w| bfq(w) <= bfq(w + 1) && shares(w) < shares(w + 1)));
    }

    #[test]
    fn every_quota_is_one_that_the_kernel_takes() {
        for millis in [1_u32, 9, 10, 1500, 64_000] {
            let quota = u64::from(millis) * period(Some(millis)) / 1000;
            assert!(quota >= 1000, "{millis}");
        }
    }
}
