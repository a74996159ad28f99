//! JSON, one object a line: the schema is in docs/syscalls.md.
//!
//! Bytes that are UTF-8 are strings; others are objects with `hex`. Nothing that a server chooses can
//! end a line or a string.

use std::fmt::Write;

use crate::decode::{Call, Event, FileOf};
use crate::named::Named;
use crate::names;
use crate::numbers::Abi;
use crate::record::{item_mark, mark};
use crate::value::{self, Detail, Note, Value};

/// The schema's version, which is in each line as `v`.
pub const VERSION: u32 = 1;

/// Writes an event as a line, with its end. `epoch` is what CLOCK_REALTIME was, in nanoseconds, when
/// CLOCK_MONOTONIC was 0.
pub fn write(text: &mut String, event: &Event, epoch: i64) {
    let mut object = Object::new(text);
    object.number("v", VERSION);
    match event {
        Event::Call(call) => write_call(&mut object, call, epoch),
        Event::End { time, pid, tid, own, status } => {
            object.string("kind", b"end");
            object.number("time", at(*time, epoch));
            object.number("pid", pid);
            object.number("tid", tid);
            write_own(&mut object, *own);
            match status.map(|status| (status & 0x7f, status >> 8 & 0xff)) {
                Some((0, code)) => object.number("exit", code),
                Some((signal, _)) => object.number("signal", signal),
                None => {}
            }
        }
        Event::Lost { time, cpu, count } => {
            object.string("kind", b"lost");
            object.number("time", at(*time, epoch));
            object.number("cpu", cpu);
            object.number("count", count);
        }
        Event::Missed { time, count } => {
            object.string("kind", b"missed");
            object.number("time", at(*time, epoch));
            object.number("count", count);
        }
        Event::Gap { time, since } => {
            object.string("kind", b"gap");
            object.number("time", at(*time, epoch));
            if *since != 0 {
                object.number("since", at(*since, epoch));
            }
        }
    }
    object.end();
    text.push('\n');
}

fn at(time: u64, epoch: i64) -> i64 {
    time.cast_signed().saturating_add(epoch)
}

/// The numbers of the server's own PID namespace.
fn write_own(object: &mut Object<'_>, own: [u32; 2]) {
    if own[0] != 0 {
        object.number("server_pid", own[0]);
        object.number("server_tid", own[1]);
    }
}

fn write_call(object: &mut Object<'_>, call: &Call, epoch: i64) {
    object.string("kind", b"call");
    object.number("time", at(call.time, epoch));
    object.number("pid", call.pid);
    object.number("tid", call.tid);
    write_own(object, call.who.own);
    object.number("ppid", call.who.parent);
    for (name, place) in [("uid", 0), ("euid", 1)] {
        object.number(name, call.who.uid.get(place).copied().unwrap_or_default());
    }
    for (name, place) in [("gid", 0), ("egid", 1)] {
        object.number(name, call.who.gid.get(place).copied().unwrap_or_default());
    }
    if call.who.login != u32::MAX {
        object.number("login", call.who.login);
    }
    object.bytes("comm", &call.who.comm);
    if let Some(program) = &call.who.program {
        object.bytes("exe", &program.text);
    }
    object.string("abi", abi(call.abi).as_bytes());
    object.number("nr", call.number);
    object.string("call", call.name().as_bytes());
    write_arguments(object.key("args"), call);
    write_result(object, call);
    if !call.is_unreturned() {
        object.number("duration", call.duration);
    }
    if let Some(cwd) = &call.cwd {
        object.bytes("cwd", &cwd.text);
    }
    write_files(object, call);
    write_marks(object, call);
}

fn abi(abi: Abi) -> &'static str {
    match abi {
        Abi::X86_64 => "x86_64",
        Abi::X32 => "x32",
        Abi::I386 => "i386",
        Abi::Aarch64 => "aarch64",
        Abi::Arm => "arm",
    }
}

fn write_arguments(text: &mut String, call: &Call) {
    let mut object = Object::new(text);
    for argument in value::arguments(call, Detail { verbose: true }) {
        write_value(object.key(argument.name), &argument.value);
    }
    object.end();
}

fn write_result(object: &mut Object<'_>, call: &Call) {
    if call.is_unreturned() {
        return;
    }
    object.number("result", call.result);
    if let Some(error) = call.error() {
        let name = names::errors::ERRORS.name(error.into());
        let name = name.or_else(|| names::restart(error.into()).map(|(name, _)| name));
        object.string("error", name.unwrap_or("E???").as_bytes());
    }
    match value::answer(call, Detail { verbose: true }).note {
        Some(Note::Text(note)) => object.string("note", note.as_bytes()),
        Some(Note::Value(value)) => write_value(object.key("note"), &value),
        None => {}
    }
}

fn write_files(object: &mut Object<'_>, call: &Call) {
    if call.files.is_empty() {
        return;
    }
    let text = object.key("files");
    text.push('[');
    for (place, of) in call.files.iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        write_file(text, of);
    }
    text.push(']');
}

fn write_file(text: &mut String, of: &FileOf) {
    let mut object = Object::new(text);
    match of.arg {
        6 => object.string("of", b"result"),
        arg => object.number("of", arg),
    }
    if of.is_after {
        object.flag("after");
    }
    write_named(&mut object, &of.file);
    object.end();
}

fn write_named(object: &mut Object<'_>, file: &Named) {
    object.bytes("path", &file.text);
    if file.is_deleted {
        object.flag("deleted");
    }
    if file.is_outside {
        object.flag("outside");
    }
    object.number("inode", file.inode);
    object.string("dev", format!("{}:{}", file.device.0, file.device.1).as_bytes());
    object.string("mode", format!("{:o}", file.mode).as_bytes());
    for (name, owner) in ["uid", "gid"].into_iter().zip(file.owner) {
        object.number(name, owner);
    }
    if matches!(file.mode & 0o170_000, 0o020_000 | 0o060_000) {
        let (major, minor) = file.special;
        object.string("rdev", format!("{major}:{minor}").as_bytes());
    }
    if let Some(socket) = &file.socket {
        let mut inner = Object::new(object.key("socket"));
        let family = names::network::FAMILY.one(socket.family.into());
        inner.string("family", family.as_bytes());
        inner.string("type", names::network::KIND.one(socket.kind.into()).as_bytes());
        inner.number("protocol", socket.protocol);
        for (name, end) in [("local", &socket.local), ("peer", &socket.peer)] {
            if let Some(end) = end {
                inner.string(name, end.as_bytes());
            }
        }
        inner.end();
    }
}

fn write_marks(object: &mut Object<'_>, call: &Call) {
    const MARKS: [(u16, &str); 4] = [
        (mark::UNDER_WAY, "under_way"),
        (mark::NO_RETURN, "no_return"),
        (mark::ENTRY_LOST, "entry_lost"),
        (mark::SHORTENED, "shortened"),
    ];
    let mut marks: Vec<_> =
        MARKS.iter().filter(|(bit, _)| call.marks & bit != 0).map(|(_, name)| *name).collect();
    if call.items().iter().any(|item| item.marks & item_mark::AT_EXIT != 0) {
        marks.push("read_at_exit");
    }
    if !marks.is_empty() {
        let list = marks.join("\",\"");
        let _ = write!(object.key("marks"), "[\"{list}\"]");
    }
}

fn write_value(text: &mut String, value: &Value<'_>) {
    let _ = match value {
        Value::Signed(number) => write!(text, "{number}"),
        Value::Unsigned(number) => write!(text, "{number}"),
        Value::Hex(number) | Value::Address(number) => write!(text, "\"{number:#x}\""),
        Value::Octal(_) | Value::Made(..) | Value::Either(_) => {
            string(text, super::plain(value).as_bytes());
            Ok(())
        }
        Value::Name(name) => {
            string(text, name.as_bytes());
            Ok(())
        }
        Value::Bytes { bytes, more, .. } => {
            bytes_or_more(text, bytes, *more);
            Ok(())
        }
        Value::Raw(bytes, more) => {
            bytes_or_more(text, bytes, *more);
            Ok(())
        }
        Value::Abstract(name) => {
            let mut object = Object::new(text);
            object.bytes("abstract", name);
            object.end();
            Ok(())
        }
        Value::Inet6(address) => write!(text, "\"{address}\""),
        Value::Fd(fd, file) => {
            let mut object = Object::new(text);
            object.number("fd", fd);
            if let Some(file) = file {
                object.bytes("path", &file.text);
            }
            object.end();
            Ok(())
        }
        Value::Struct(fields, more) => {
            let mut object = Object::new(text);
            for (name, value) in fields {
                write_value(object.key(name), value);
            }
            if *more {
                object.flag("more");
            }
            object.end();
            Ok(())
        }
        Value::List(values, more) => {
            list(text, values, *more);
            Ok(())
        }
        Value::Changed(before, after) => {
            let mut object = Object::new(text);
            write_value(object.key("before"), before);
            write_value(object.key("after"), after);
            object.end();
            Ok(())
        }
        Value::Noted(value, note) => {
            let mut object = Object::new(text);
            write_value(object.key("value"), value);
            object.string("note", note.as_bytes());
            object.end();
            Ok(())
        }
    };
}

fn list(text: &mut String, values: &[Value<'_>], more: bool) {
    text.push('[');
    for (place, value) in values.iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        write_value(text, value);
    }
    if more {
        text.push_str(if values.is_empty() { "{\"more\":true}" } else { ",{\"more\":true}" });
    }
    text.push(']');
}

fn bytes_or_more(text: &mut String, bytes: &[u8], more: bool) {
    if !more {
        return write_bytes(text, bytes);
    }
    let mut object = Object::new(text);
    write_bytes(object.key("start"), bytes);
    object.flag("more");
    object.end();
}

/// Bytes as a string where they are UTF-8, else as an object.
fn write_bytes(text: &mut String, bytes: &[u8]) {
    if std::str::from_utf8(bytes).is_ok() {
        return string(text, bytes);
    }
    text.push_str("{\"hex\":\"");
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text.push_str("\"}");
}

/// A string; what is no UTF-8 in it is replaced.
fn string(text: &mut String, bytes: &[u8]) {
    text.push('"');
    for letter in String::from_utf8_lossy(bytes).chars() {
        match letter {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            // Also those that some take for the end of a line.
            '\0'..=' ' if letter != ' ' => escape(text, letter),
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => escape(text, letter),
            _ => text.push(letter),
        }
    }
    text.push('"');
}

fn escape(text: &mut String, letter: char) {
    let _ = write!(text, "\\u{:04x}", u32::from(letter));
}

/// An object that is being written.
struct Object<'a> {
    text: &'a mut String,
    is_empty: bool,
}

impl<'a> Object<'a> {
    fn new(text: &'a mut String) -> Self {
        text.push('{');
        Self { text, is_empty: true }
    }

    /// Writes a name; what is written next is its value.
    fn key(&mut self, name: &str) -> &mut String {
        if !self.is_empty {
            self.text.push(',');
        }
        self.is_empty = false;
        let _ = write!(self.text, "\"{name}\":");
        self.text
    }

    fn number(&mut self, name: &str, number: impl std::fmt::Display) {
        let _ = write!(self.key(name), "{number}");
    }

    fn string(&mut self, name: &str, bytes: &[u8]) {
        string(self.key(name), bytes);
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        write_bytes(self.key(name), bytes);
    }

    fn flag(&mut self, name: &str) {
        self.key(name).push_str("true");
    }

    fn end(self) {
        self.text.push('}');
    }
}
