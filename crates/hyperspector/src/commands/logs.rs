//! `hyperspector logs`: what the command of a portspace or a server space printed.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use hyperspector_agent::logs::{self, Follow, Line};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::cli::{Exit, Global};
use crate::interrupts::Interrupts;
use crate::terminal::{FAINT, STRONG, escape, safe_json, styled};

/// How often the log is looked at.
const STEP: Duration = Duration::from_millis(100);

pub fn run(
    global: &Global,
    name: &str,
    follow: bool,
    lines: Option<usize>,
    json: bool,
) -> Result<ExitCode> {
    let layout = global.existing()?;
    let name = super::space(name)?;
    let files = layout.space(&name).logs();
    if !logs::exist(&files) {
        return Err(super::unknown(&layout, &name));
    }
    let mut log = Follow::new(files);
    let mut kept = log.more().with_context(|| format!("read the log of {name}"))?;
    let skipped = kept.len().saturating_sub(lines.unwrap_or(usize::MAX));
    let show = |line: &Line| if json { print_json(line) } else { print(None, line) };
    kept.drain(..skipped);
    kept.iter().for_each(show);
    if follow {
        let interrupts = Interrupts::take()?;
        while !interrupts.came_within(STEP) {
            log.more().with_context(|| format!("read the log of {name}"))?.iter().for_each(show);
        }
    }
    Ok(Exit::Fine.into())
}

/// Prints one line for a person.
pub fn print(name: Option<&str>, line: &Line) {
    let time = local_time(line.micros);
    let text = escape(&line.text);
    match name {
        Some(name) => anstream::println!("{} {} {text}", styled(FAINT, time), styled(STRONG, name)),
        None => anstream::println!("{} {text}", styled(FAINT, time)),
    }
}

fn print_json(line: &Line) {
    let line = serde_json::json!({ "micros": line.micros, "text": line.text });
    println!("{}", safe_json(&line.to_string()));
}

fn local_time(micros: u64) -> String {
    let time = Timestamp::from_microsecond(i64::try_from(micros).unwrap_or(0)).unwrap_or_default();
    time.to_zoned(TimeZone::system()).strftime("%F %T.%3f").to_string()
}
