//! Lines as strace(1) of Debian writes them.
//!
//! One line a call: we know calls whole, so none is ever "unfinished". Lines come in the order in
//! which calls ended. A call that never returns has `?` for a result, as strace writes `exit_group`.

use std::fmt::Write;

use super::{descriptor, quote};
use crate::decode::{Call, Event, shown};
use crate::names;
use crate::value::{self, Argument, Detail, Note, Value};

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// The thread's number before each line (`-f`).
    pub threads: Threads,
    /// The time before each line (`-t`).
    pub times: Times,
    /// How long the call took (`-T`).
    pub durations: bool,
    /// What descriptors stand for (`-y`).
    pub files: Files,
    /// How many bytes of strings (`-s`).
    pub string: usize,
    /// All fields of structures (`-v`).
    pub verbose: bool,
    /// Nanoseconds of CLOCK_REALTIME when CLOCK_MONOTONIC was 0.
    pub epoch: i64,
    /// Seconds that local time is before UTC.
    pub zone: i64,
}

/// How threads are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// Not.
    None,
    /// As in files: the number.
    Number,
    /// As on terminals: in brackets.
    Brackets,
}

/// How times are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// Not.
    None,
    /// Time of day in seconds (`-t`).
    Seconds,
    /// Time of day in microseconds (`-tt`).
    Micros,
    /// Seconds since 1970, with microseconds (`-ttt`).
    Epoch,
}

/// How what descriptors stand for is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// Not.
    None,
    /// By paths (`-y`).
    Paths,
    /// By sockets' addresses too (`-yy`).
    Addresses,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            threads: Threads::Number,
            times: Times::Micros,
            durations: true,
            files: Files::Paths,
            string: 32,
            verbose: false,
            epoch: 0,
            zone: 0,
        }
    }
}

/// Where results begin, where a line is not longer.
const COLUMN: usize = 40;

/// Writes an event as a line, with its end.
pub fn write(text: &mut String, event: &Event, style: &Style) {
    match event {
        // A tracer that stops its tracees does not see that they are born in a call.
        Event::Call(call) if call.is_birth() => {}
        Event::Call(call) => write_call(text, call, style),
        Event::End { time, tid, own, status: Some(status), .. } => {
            prefix(text, shown(*tid, *own), *time, style);
            let _ = writeln!(text, "+++ {} +++", ending(*status));
        }
        Event::End { .. } => {}
        Event::Lost { time, cpu, count } => {
            prefix(text, 0, *time, style);
            let _ = writeln!(text, "+++ {count} records lost on processor {cpu} +++");
        }
        Event::Missed { time, count } => {
            prefix(text, 0, *time, style);
            let _ = writeln!(text, "+++ {count} records missed: this reader was too slow +++");
        }
        Event::Gap { time, since: 0 } => {
            prefix(text, 0, *time, style);
            text.push_str("+++ nothing was recorded before this: there was no tracer +++\n");
        }
        Event::Gap { time, since } => {
            prefix(text, 0, *time, style);
            let millis = time.saturating_sub(*since) / 1_000_000;
            let _ =
                writeln!(text, "+++ nothing was recorded for {millis} ms: there was no tracer +++");
        }
    }
}

fn ending(status: u32) -> String {
    let (signal, code) = (status & 0x7f, status >> 8 & 0xff);
    if signal == 0 {
        return format!("exited with {code}");
    }
    let core = if status & 0x80 != 0 { " (core dumped)" } else { "" };
    match names::signal(signal) {
        Some(name) => format!("killed by SIG{name}{core}"),
        None => format!("killed by {signal}{core}"),
    }
}

fn prefix(text: &mut String, tid: u32, time: u64, style: &Style) {
    let _ = match style.threads {
        Threads::None => Ok(()),
        Threads::Number => write!(text, "{tid:<5} "),
        Threads::Brackets => write!(text, "[pid {tid:>5}] "),
    };
    let time = time.cast_signed().saturating_add(style.epoch);
    let (whole, part) = (time.div_euclid(1_000_000_000), time.rem_euclid(1_000_000_000) / 1000);
    let seconds = (whole + style.zone).rem_euclid(86_400);
    let day = format_args!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let _ = match style.times {
        Times::None => Ok(()),
        Times::Seconds => write!(text, "{day} "),
        Times::Micros => write!(text, "{day}.{part:06} "),
        Times::Epoch => write!(text, "{whole}.{part:06} "),
    };
}

fn write_call(text: &mut String, call: &Call, style: &Style) {
    let start = text.len();
    prefix(text, shown(call.tid, call.who.own), call.time, style);
    write_arguments(text, call, style);
    text.push(' ');
    while text.len() - start < COLUMN {
        text.push(' ');
    }
    text.push_str("= ");
    write_result(text, call, style);
    if style.durations && !call.is_unreturned() {
        let micros = call.duration / 1000;
        let _ = write!(text, " <{}.{:06}>", micros / 1_000_000, micros % 1_000_000);
    }
    text.push('\n');
}

/// Writes a call's name and arguments, without its result.
pub fn write_arguments(text: &mut String, call: &Call, style: &Style) {
    text.push_str(&call.name());
    text.push('(');
    let detail = Detail { verbose: style.verbose };
    for (place, Argument { name, value, is_named }) in
        value::arguments(call, detail).iter().enumerate()
    {
        if place > 0 {
            text.push_str(", ");
        }
        if *is_named {
            text.push_str(name);
            text.push('=');
        }
        write_value(text, value, style);
    }
    text.push(')');
}

/// Writes a call's result, with what is told besides.
pub fn write_result(text: &mut String, call: &Call, style: &Style) {
    if call.is_unreturned() {
        text.push('?');
        return;
    }
    if let Some(error) = call.error() {
        write_error(text, error);
        return;
    }
    let answer = value::answer(call, Detail { verbose: style.verbose });
    if let Some(value) = &answer.value {
        write_value(text, value, style);
    }
    match &answer.note {
        Some(Note::Text(note)) => {
            let _ = write!(text, " ({note})");
        }
        Some(Note::Value(value)) => {
            text.push_str(" (");
            write_value(text, value, &Style { files: Files::None, ..*style });
            text.push(')');
        }
        None => {}
    }
}

fn write_error(text: &mut String, error: u32) {
    if let Some((name, meaning)) = names::restart(error.into()) {
        let _ = write!(text, "? {name} ({meaning})");
        return;
    }
    match names::errors::ERRORS.name(error.into()) {
        Some(name) => {
            let _ = write!(text, "-1 {name} ({})", meaning(error));
        }
        None => {
            let _ = write!(text, "-1 (errno {error})");
        }
    }
}

/// What an error means, in the C library's words.
pub fn meaning(error: u32) -> String {
    let error = std::io::Error::from_raw_os_error(error.cast_signed()).to_string();
    error.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Writes a value.
pub(crate) fn write_value(text: &mut String, value: &Value<'_>, style: &Style) {
    let _ = match value {
        Value::Signed(number) => write!(text, "{number}"),
        Value::Unsigned(number) => write!(text, "{number}"),
        Value::Hex(0) => write!(text, "0"),
        Value::Hex(number) => write!(text, "{number:#x}"),
        Value::Octal(number) => write!(text, "{}", octal(*number)),
        Value::Address(0) => write!(text, "NULL"),
        Value::Address(number) => write!(text, "{number:#x}"),
        Value::Name(name) => write!(text, "{name}"),
        Value::Bytes { bytes, more, is_path } => {
            write_bytes(text, bytes, *more, *is_path, style);
            Ok(())
        }
        Value::Raw(bytes, more) => {
            let shown = bytes.get(..style.string).unwrap_or(bytes);
            quote::quote_hex(text, shown);
            dots(text, *more || shown.len() < bytes.len());
            Ok(())
        }
        Value::Abstract(name) => {
            text.push('@');
            quote::quote(text, name);
            Ok(())
        }
        Value::Inet6(address) => write!(text, "{address}"),
        Value::Fd(fd, file) => {
            descriptor::write(text, *fd, file.as_deref(), style.files);
            Ok(())
        }
        Value::Struct(fields, more) => {
            write_struct(text, fields, *more, style);
            Ok(())
        }
        Value::List(values, more) => {
            write_list(text, ("[", ", ", "]"), values, *more, style);
            Ok(())
        }
        Value::Changed(before, after) => {
            write_value(text, before, style);
            text.push_str(" => ");
            write_value(text, after, style);
            Ok(())
        }
        Value::Noted(value, note) => {
            write_value(text, value, style);
            write!(text, " /* {note} */")
        }
        Value::Made(name, parts) => {
            let signs = match *name {
                "" | "[]" => ("[", " ", "]"),
                "{}" => ("{", "", "}"),
                name => {
                    text.push_str(name);
                    ("(", ", ", ")")
                }
            };
            write_list(text, signs, parts, false, style);
            Ok(())
        }
        Value::Either(values) => {
            write_list(text, ("", " or ", ""), values, false, style);
            Ok(())
        }
    };
}

fn octal(number: u64) -> String {
    value::octal(number)
}

fn dots(text: &mut String, more: bool) {
    if more {
        text.push_str("...");
    }
}

fn write_bytes(text: &mut String, bytes: &[u8], more: bool, is_path: bool, style: &Style) {
    let most = if is_path { usize::MAX } else { style.string };
    let shown = bytes.get(..most).unwrap_or(bytes);
    quote::quote(text, shown);
    dots(text, more || shown.len() < bytes.len());
}

fn write_struct(text: &mut String, fields: &[(&str, Value<'_>)], more: bool, style: &Style) {
    text.push('{');
    for (place, (name, value)) in fields.iter().enumerate() {
        if place > 0 {
            text.push_str(", ");
        }
        if let Value::Inet6(address) = value {
            let _ = write!(text, "inet_pton(AF_INET6, \"{address}\", &{name})");
            continue;
        }
        text.push_str(name);
        text.push('=');
        write_value(text, value, style);
    }
    if more {
        text.push_str(", ...");
    }
    text.push('}');
}

fn write_list(
    text: &mut String,
    (open, between, close): (&str, &str, &str),
    values: &[Value<'_>],
    more: bool,
    style: &Style,
) {
    text.push_str(open);
    for (place, value) in values.iter().enumerate() {
        if place > 0 {
            text.push_str(between);
        }
        write_value(text, value, style);
    }
    if more {
        text.push_str(if values.is_empty() { "..." } else { ", ..." });
    }
    text.push_str(close);
}
