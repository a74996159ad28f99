//! `hyperspector doctor`: what this kernel and machine offer, what is missing, what that costs.

use std::process::ExitCode;

use anstyle::Style;
use anyhow::Result;
use hyperspector_agent::doctor::{Part, Report, Row, State, examine};

use crate::cli::{Exit, Global};
use crate::terminal::{BAD, BUSY, GOOD, STRONG, escape, styled};

/// Where lines are broken.
const WIDTH: usize = 100;

pub fn run(global: &Global, json: bool) -> Result<ExitCode> {
    let report = examine(&global.existing()?);
    if json {
        println!("{}", crate::terminal::json(&report)?);
    } else {
        show(&report);
    }
    Ok(if report.fit { Exit::Fine } else { Exit::Failed }.into())
}

fn show(report: &Report) {
    let width = report.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or(0);
    for (number, part) in report.rows.chunk_by(|a, b| a.part == b.part).enumerate() {
        if number > 0 {
            println!();
        }
        anstream::println!("{}", styled(STRONG, title(part[0].part)));
        for row in part {
            show_row(row, width);
        }
    }
    println!();
    anstream::println!("{}", verdict(report));
}

fn title(part: Part) -> &'static str {
    match part {
        Part::Machine => "machine",
        Part::Portspaces => "portspaces",
        Part::Files => "file windows",
        Part::Packets => "packet windows",
        Part::Syscalls => "system calls",
        Part::Vpn => "VPN",
        Part::Servers => "server spaces",
    }
}

fn show_row(row: &Row, width: usize) {
    let (style, mark) = mark(row);
    // "  ✓ what  ": what follows is aligned below the detail.
    let indent = width + 6;
    let mut lines = wrap(&escape(&row.detail), WIDTH - indent).into_iter();
    let first = lines.next().unwrap_or_default();
    let what = format!("{:width$}", row.what);
    anstream::println!("  {} {}  {first}", styled(style, mark), styled(STRONG, what));
    lines.for_each(|line| println!("{:indent$}{line}", ""));
    let notes = [("cost", &row.cost), ("mend", &row.mend)];
    for (name, text) in notes.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
        for (number, line) in wrap(text, WIDTH - indent - 6).into_iter().enumerate() {
            let name = if number == 0 { name } else { "" };
            anstream::println!("{:indent$}{} {line}", "", styled(style, format!("{name:5}")));
        }
    }
}

fn mark(row: &Row) -> (Style, &'static str) {
    match row.state {
        State::Good => (GOOD, "✓"),
        State::Degraded => (BUSY, "!"),
        State::Missing => (BAD, "✗"),
    }
}

/// The one line that many will read alone.
fn verdict(report: &Report) -> String {
    let lacks =
        |part: Part| report.rows.iter().any(|row| row.part == part && row.state == State::Missing);
    if !report.fit {
        let reasons: Vec<_> = report
            .rows
            .iter()
            .filter(|row| row.essential && row.state == State::Missing)
            .map(|row| row.what)
            .collect();
        return styled(BAD, format!("no portspace can be made here: {}", reasons.join(", ")));
    }
    let parts = [
        (Part::Files, "file windows"),
        (Part::Packets, "packet windows"),
        (Part::Syscalls, "system calls"),
        (Part::Vpn, "VPN"),
        (Part::Servers, "server spaces"),
    ];
    let lost: Vec<_> =
        parts.iter().filter(|(part, _)| lacks(*part)).map(|(_, name)| *name).collect();
    if lost.is_empty() {
        return styled(
            GOOD,
            "portspaces and server spaces can be made here, with every window and the VPN",
        );
    }
    let text = format!("portspaces can be made here; not whole: {}", lost.join(", "));
    styled(BUSY, text)
}

/// Breaks text at blanks into lines of at most `width` characters, where words are no longer.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_at_blanks() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a-very-long-word x", 5), ["a-very-long-word", "x"]);
        assert_eq!(wrap("", 5), [""]);
    }
}
