//! The judge: programs run under strace(1) and under our tracer at once, and every call of every
//! thread is compared: its name, the text of its arguments, its result.
//!
//! `JUDGE='ls -l /' cargo test -p hyperspector-window --test strace -- --nocapture` judges a command of
//! one's own.

mod audit;
mod explain;
mod group;
mod lines;
mod programs;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::Duration;

use group::Group;
use lines::{Line, Threads};
use programs::PROGRAMS;

/// How many bytes of strings both show.
const STRING: usize = 256;

/// What came out.
#[derive(Default)]
struct Verdict {
    /// How many calls of each name were equal in all.
    equal: BTreeMap<String, u64>,
    /// Of those that were not, both texts.
    unequal: Vec<(Line, Line)>,
    /// Calls that this strace has no name for.
    unknown: BTreeSet<String>,
    /// Threads whose calls were not the same in name and order.
    disordered: Vec<String>,
}

fn judge(script: &str) -> Verdict {
    let group = Group::new("judge");
    let out = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("strace");
    command.args(["-f", "-tt", "-T", "-y", "-s", &STRING.to_string(), "-o"]).arg(out.path());
    let script = format!("{}; {script}", group.enter());
    command.args(["sh", "-c", &script]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let (records, has_ended) = group::traced(&group, command, Duration::from_secs(60));
    assert!(has_ended, "{script}: not ended in a minute");
    let theirs = lines::of_strace(&String::from_utf8_lossy(&std::fs::read(out.path()).unwrap()));
    let (ours, lost) = lines::of_records(&records, STRING);
    assert_eq!(lost, 0, "{script}: records lost");
    compare(&theirs, &ours)
}

fn compare(theirs: &Threads, ours: &Threads) -> Verdict {
    let mut verdict = Verdict::default();
    for tid in theirs.keys().chain(ours.keys()).collect::<BTreeSet<_>>() {
        let empty = Vec::new();
        let (a, b) = (theirs.get(tid).unwrap_or(&empty), ours.get(tid).unwrap_or(&empty));
        for (a, b) in a.iter().zip(b) {
            if a.name.starts_with("syscall_0x") && !b.name.starts_with("syscall_0x") {
                verdict.unknown.insert(b.name.clone());
                continue;
            }
            if a.name != b.name {
                verdict.disordered.push(format!("{tid}: {a:?} is not {b:?}"));
                break;
            }
            if a == b {
                *verdict.equal.entry(a.name.clone()).or_default() += 1;
            } else {
                verdict.unequal.push((a.clone(), b.clone()));
            }
        }
        let is_cut = a.len() == b.len() + 1 && a.last().is_some_and(explain::is_unfinished);
        if a.len() != b.len() && !is_cut {
            let (x, y) = (a.last(), b.last());
            verdict.disordered.push(format!(
                "{tid}: {} and {} calls: {x:?} {y:?}",
                a.len(),
                b.len()
            ));
        }
    }
    verdict
}

fn show(verdict: &Verdict) {
    let mut shown: BTreeMap<&str, u32> = BTreeMap::new();
    for (a, b) in &verdict.unequal {
        let count = shown.entry(&a.name).or_default();
        *count += 1;
        if *count <= 4 {
            println!("- {} = {}\n+ {} = {}", a.call, a.result, b.call, b.result);
        }
    }
    for line in &verdict.disordered {
        println!("! {line}");
    }
    let equal: u64 = verdict.equal.values().sum();
    println!(
        "{equal} equal of {} names; {} unequal: {shown:?}",
        verdict.equal.len(),
        verdict.unequal.len()
    );
}

impl Verdict {
    fn add(&mut self, other: Self) {
        for (name, count) in other.equal {
            *self.equal.entry(name).or_default() += count;
        }
        self.unequal.extend(other.unequal);
        self.unknown.extend(other.unknown);
        self.disordered.extend(other.disordered);
    }

    /// What differs without an explanation.
    fn unexplained(&self) -> Vec<&(Line, Line)> {
        self.unequal.iter().filter(|(a, b)| !explain::is_explained(a, b)).collect()
    }
}

/// Judges all programs, in a directory that goes afterwards.
fn judge_all() -> Verdict {
    let mut all = Verdict::default();
    let here = format!("{}/tests/strace", env!("CARGO_MANIFEST_DIR"));
    let [calls, compat] =
        ["calls", "compat"].map(|name| format!("/usr/bin/python3 {here}/{name}.py"));
    let ours = [("calls", calls.as_str()), ("compat", compat.as_str())];
    for (name, script) in PROGRAMS.iter().copied().chain(ours) {
        let place = tempfile::tempdir().unwrap();
        let verdict = judge(&format!("cd {}; {script}", place.path().display()));
        let equal: u64 = verdict.equal.values().sum();
        let (names, unequal) = (verdict.equal.len(), verdict.unequal.len());
        println!("{name}: {equal} calls equal, of {names} names; {unequal} unequal");
        all.add(verdict);
    }
    all
}

#[test]
fn calls_are_those_that_strace_tells() {
    let verdict = match std::env::var("JUDGE") {
        Ok(script) => judge(&script),
        Err(_) => judge_all(),
    };
    show(&verdict);
    let unexplained = verdict.unexplained();
    println!("{} unexplained", unexplained.len());
    for (a, b) in &unexplained {
        println!("? {} = {}\n? {} = {}", a.call, a.result, b.call, b.result);
    }
    assert!(verdict.disordered.is_empty());
    if std::env::var_os("JUDGE").is_none() {
        assert!(unexplained.is_empty());
        assert!(verdict.equal.len() >= 150, "{}", verdict.equal.len());
    }
}
