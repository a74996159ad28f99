//! A program that is run inside a portspace or a server space as its root, tries everything that such
//! a space should refuse, and reports what it could do: one line of JSON for each attempt.
//!
//! Each attempt runs in a child process of its own with a time limit, so that one that is killed
//! (by a seccomp filter, say) or hangs is an answer like any other. Attempts are real, and are
//! checked by their effect where that can be seen from inside; those that would harm the machine if
//! they worked are made with arguments that change nothing (the same clock, the same host name), or
//! that must fail after the permission check.

mod abi;
mod call;
mod child;
mod denied;
mod files;
mod interfaces;
mod kernel;
mod limits;
mod locks;
mod namespaces;
mod netlink;
mod network;
mod packets;
mod ports;
mod processes;
mod pseudo;
mod rings;
mod sockets;
mod targets;
mod verdict;
mod window;

use std::io::Write;

use serde::{Deserialize, Serialize};

pub use targets::Targets;
pub use verdict::{Outcome, Verdict};

/// One thing that is tried.
#[derive(Clone, Copy)]
pub struct Attempt {
    /// The group that it belongs to.
    pub group: &'static str,
    /// Its name, unique over all groups.
    pub name: &'static str,
    /// The protection that it tests.
    pub tests: &'static str,
    run: fn(&Targets) -> Verdict,
}

impl Attempt {
    const fn new(
        group: &'static str,
        name: &'static str,
        tests: &'static str,
        run: fn(&Targets) -> Verdict,
    ) -> Self {
        Self { group, name, tests, run }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The attempt's name.
    pub name: String,
    /// Its group.
    pub group: String,
    /// What it came to.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// All attempts, in the order in which they run.
pub fn attempts() -> impl Iterator<Item = &'static Attempt> {
    let tables = [
        namespaces::ATTEMPTS,
        files::ATTEMPTS,
        sockets::ATTEMPTS,
        locks::ATTEMPTS,
        pseudo::ATTEMPTS,
        packets::ATTEMPTS,
        rings::ATTEMPTS,
        interfaces::ATTEMPTS,
        abi::ATTEMPTS,
        processes::ATTEMPTS,
        kernel::ATTEMPTS,
        network::ATTEMPTS,
        ports::ATTEMPTS,
        denied::ATTEMPTS,
        limits::ATTEMPTS,
        window::ATTEMPTS,
    ];
    tables.into_iter().flatten()
}

/// The program: `attacker list` or `attacker run [OPTION…] [GROUP|NAME…]`. Returns the exit code:
/// 0 when it finished, whatever it could do; 2 on bad usage.
pub fn main(arguments: &[String]) -> u8 {
    match arguments.split_first() {
        Some((verb, [])) if verb == "list" => list(),
        Some((verb, rest)) if verb == "run" => match Targets::parse(rest) {
            Ok((targets, names)) => return run(&targets, &names),
            Err(why) => return usage(&why),
        },
        Some((verb, [])) if verb == child::WHO_AM_I => child::report_ids(),
        _ => return usage("expected list or run"),
    }
    0
}

fn usage(why: &str) -> u8 {
    eprintln!(
        "attacker: {why}\nusage: attacker list\n       attacker run [OPTION…] [GROUP|NAME…]\n{}",
        targets::OPTIONS
    );
    2
}

fn list() {
    for attempt in attempts() {
        println!("{:<12} {:<28} {}", attempt.group, attempt.name, attempt.tests);
    }
}

fn run(targets: &Targets, names: &[String]) -> u8 {
    let wanted =
        |a: &Attempt| names.is_empty() || names.iter().any(|n| n == a.name || n == a.group);
    if let Some(name) = names.iter().find(|n| !attempts().any(|a| *n == a.name || *n == a.group)) {
        return usage(&format!("no attempt or group is called {name}"));
    }
    for attempt in attempts().filter(|attempt| wanted(attempt)) {
        let verdict = child::judge(|| (attempt.run)(targets));
        let line = Line { name: attempt.name.into(), group: attempt.group.into(), verdict };
        let text = serde_json::to_string(&line).unwrap_or_default();
        if writeln!(std::io::stdout(), "{text}").is_err() {
            return 1;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_differ_from_groups() {
        let mut seen = BTreeSet::new();
        let groups: BTreeSet<_> = attempts().map(|attempt| attempt.group).collect();
        for attempt in attempts() {
            assert!(seen.insert(attempt.name), "{} is there twice", attempt.name);
            assert!(!groups.contains(attempt.name), "{} is also a group", attempt.name);
            assert!(!attempt.tests.is_empty());
        }
    }

    #[test]
    fn options_are_told_from_names() {
        let arguments = ["files", "--tcp", "192.0.2.1:80", "--victim", "7:sleep"];
        let arguments: Vec<String> = arguments.map(String::from).to_vec();
        let (targets, names) = Targets::parse(&arguments).unwrap();
        assert_eq!(names, ["files"]);
        assert_eq!(targets.tcp, ["192.0.2.1:80".parse().unwrap()]);
        assert_eq!(targets.victim, Some((7, "sleep".into())));
        assert!(Targets::parse(&["--tcp".to_owned()]).is_err());
    }

    #[test]
    fn a_child_that_is_killed_is_a_verdict() {
        let verdict = child::judge(|| {
            // SAFETY: abort(3) ends this child process and returns to nobody.
            unsafe { libc::abort() }
        });
        assert_eq!(verdict.outcome, Outcome::Error);
        assert!(verdict.detail.contains("signal 6"), "{}", verdict.detail);
    }
}
