//! The judge: programs run under strace(1) and under our tracer at once, and every call of every
//! thread is compared: its name, the text of its arguments, its result.
//!
//! `JUDGE='ls -l /' cargo test -p hyperspector-window --test strace -- --nocapture` judges a command of
//! one's own.

mod group;
mod lines;

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::Duration;

use group::Group;
use lines::{Line, Threads};

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
        if a.len() != b.len() {
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

#[test]
fn calls_are_those_that_strace_tells() {
    let script = std::env::var("JUDGE").unwrap_or_else(|_| "ls -l /".to_owned());
    let verdict = judge(&script);
    show(&verdict);
    assert!(verdict.disordered.is_empty());
}
