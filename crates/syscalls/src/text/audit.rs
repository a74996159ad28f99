//! Records as the kernel's audit writes them, for ausearch(8) and aureport(8).
//!
//! One serial for each call: SYSCALL, then what belongs to it of EXECVE, SOCKADDR, CWD, PATH and
//! PROCTITLE, then EOE. What a server chose is in quotes, or in base 16 where quotes would not hold it.

use std::fmt::Write;

use crate::decode::{Call, Event};
use crate::named::Named;
use crate::numbers::Abi;
use crate::record::{Part, item_mark};
use crate::table::{Kind, Outcome};

/// How long one record may become: those who read them stop at less than 9,000 bytes.
const LONGEST: usize = 7500;

/// How many bytes of one path there are at most; in base 16 they take twice as many.
const PATH: usize = 4000;

/// How many bytes of a socket address.
const ADDRESS: usize = 128;

/// How much of a process's title there is.
const TITLE: usize = 128;

/// Writes records, each call's under a serial of its own.
#[derive(Clone, Debug)]
pub struct Audit {
    /// What CLOCK_REALTIME was, in nanoseconds, when CLOCK_MONOTONIC was 0.
    pub epoch: i64,
    /// The next serial.
    pub serial: u64,
}

impl Audit {
    /// Writes an event's records. Threads' ends and births have none.
    pub fn write(&mut self, text: &mut String, event: &Event) {
        let time = match event {
            Event::Call(call) if call.is_birth() => return,
            Event::Call(call) => call.time,
            Event::Lost { time, .. } | Event::Missed { time, .. } | Event::Gap { time, .. } => {
                *time
            }
            Event::End { .. } => return,
        };
        let stamp = self.stamp(time);
        match event {
            Event::Call(call) => write_call(text, call, &stamp),
            Event::Lost { cpu, count, .. } => line(text, "DAEMON_ERR", &stamp, |text| {
                let _ = write!(text, "op=lost-records count={count} cpu={cpu} res=failed");
            }),
            Event::Missed { count, .. } => line(text, "DAEMON_ERR", &stamp, |text| {
                let _ = write!(text, "op=missed-records count={count} res=failed");
            }),
            Event::Gap { time, since } => line(text, "DAEMON_ERR", &stamp, |text| {
                let part = time.saturating_sub(*since) / 1_000_000;
                let known = if *since == 0 { "unknown".to_owned() } else { format!("{part}ms") };
                let _ = write!(text, "op=no-tracer length={known} res=failed");
            }),
            Event::End { .. } => {}
        }
        line(text, "EOE", &stamp, |_| {});
        self.serial += 1;
    }

    fn stamp(&self, time: u64) -> String {
        let time = time.cast_signed().saturating_add(self.epoch);
        let (seconds, part) = (time.div_euclid(1_000_000_000), time.rem_euclid(1_000_000_000));
        format!("audit({seconds}.{:03}:{})", part / 1_000_000, self.serial)
    }
}

fn line(text: &mut String, kind: &str, stamp: &str, rest: impl FnOnce(&mut String)) {
    let _ = write!(text, "type={kind} msg={stamp}: ");
    rest(text);
    text.push('\n');
}

fn write_call(text: &mut String, call: &Call, stamp: &str) {
    let paths = paths(call);
    line(text, "SYSCALL", stamp, |text| write_syscall(text, call, paths.len()));
    if call.name().starts_with("execve") {
        write_execve(text, call, stamp);
    }
    if let Some(address) = address(call) {
        line(text, "SOCKADDR", stamp, |text| {
            text.push_str("saddr=");
            hex(text, address.get(..ADDRESS).unwrap_or(address));
        });
    }
    if let Some(cwd) = call.cwd.as_ref().filter(|_| !paths.is_empty()) {
        line(text, "CWD", stamp, |text| field(text, "cwd", &cwd.text));
    }
    for (item, path) in paths.iter().enumerate() {
        line(text, "PATH", stamp, |text| write_path(text, item, path));
    }
    line(text, "PROCTITLE", stamp, |text| {
        let title = call.title.as_deref().unwrap_or(&call.who.comm);
        field(text, "proctitle", title.get(..TITLE).unwrap_or(title));
    });
}

fn write_syscall(text: &mut String, call: &Call, items: usize) {
    let arch = match call.abi {
        Abi::X86_64 | Abi::X32 => 0xc000_003e_u32,
        Abi::I386 => 0x4000_0003,
        Abi::Aarch64 => 0xc000_00b7,
        Abi::Arm => 0x4000_0028,
    };
    let number = if call.abi == Abi::X32 { call.number | 0x4000_0000 } else { call.number };
    let _ = write!(text, "arch={arch:x} syscall={number}");
    if !call.is_unreturned() {
        let success = if call.error().is_some() { "no" } else { "yes" };
        let _ = write!(text, " success={success} exit={}", call.result);
    }
    for (place, arg) in call.args.iter().take(4).enumerate() {
        let _ = write!(text, " a{place}={arg:x}");
    }
    let who = &call.who;
    let ([uid, euid, suid, fsuid], [gid, egid, sgid, fsgid]) = (who.uid, who.gid);
    let _ = write!(
        text,
        " items={items} ppid={} pid={} auid={} uid={uid} gid={gid} euid={euid} suid={suid} \
         fsuid={fsuid} egid={egid} sgid={sgid} fsgid={fsgid} tty=(none) ses={} ",
        who.parent, call.pid, who.login, who.session
    );
    field(text, "comm", &who.comm);
    text.push(' ');
    match &who.program {
        Some(program) => field(text, "exe", &program.text),
        None => text.push_str("exe=(null)"),
    }
    text.push_str(" key=(null)");
}

/// The arguments of an execution, in as many records as they need.
fn write_execve(text: &mut String, call: &Call, stamp: &str) {
    let is_argument = |item: &&crate::decode::Datum| {
        let argv = if call.name() == "execveat" { 2 } else { 1 };
        item.part == Part::Element && item.arg == argv && item.marks & item_mark::FAULT == 0
    };
    let all: Vec<_> = call.items().iter().filter(is_argument).collect();
    let mut body = format!("argc={}", all.len());
    for (place, item) in all.iter().enumerate() {
        let mut value = String::new();
        untrusted(&mut value, call.bytes(item));
        if value.len() > LONGEST {
            let _ = write!(body, " a{place}_len={}", value.len());
            let mut rest = value.as_str();
            for part in 0_usize.. {
                let (now, later) = rest.split_at(rest.len().min(LONGEST));
                flush(text, &mut body, stamp, now.len());
                let _ = write!(body, " a{place}[{part}]={now}");
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
        } else {
            flush(text, &mut body, stamp, value.len());
            let _ = write!(body, " a{place}={value}");
        }
    }
    line(text, "EXECVE", stamp, |text| text.push_str(body.trim_start()));
}

/// Ends a record where so much more would make it too long.
fn flush(text: &mut String, body: &mut String, stamp: &str, more: usize) {
    if body.len() + more > LONGEST && !body.is_empty() {
        line(text, "EXECVE", stamp, |text| text.push_str(body.trim_start()));
        body.clear();
    }
}

/// The socket address that a call was given, or has written.
fn address(call: &Call) -> Option<&[u8]> {
    let each = (0_u8..).zip(call.syscall?.args);
    each.filter_map(|(index, arg)| match arg.kind {
        Kind::Sockaddr(_) => call.data(index, Part::Bytes, false),
        Kind::OutSockaddr(_) => call.data(index, Part::Bytes, true),
        Kind::InMessage => call.data(index, Part::Name, false),
        Kind::OutMessage => call.data(index, Part::Name, true),
        _ => None,
    })
    .map(|(bytes, _)| bytes)
    .find(|bytes| !bytes.is_empty())
}

/// A path that a call named.
struct Path<'a> {
    name: &'a [u8],
    file: Option<&'a Named>,
    kind: &'static str,
}

fn paths(call: &Call) -> Vec<Path<'_>> {
    let Some(syscall) = call.syscall else { return Vec::new() };
    let each = (0_u8..).zip(syscall.args).filter(|(_, arg)| arg.kind == Kind::Path);
    let named = each.filter_map(|(index, _)| call.data(index, Part::Bytes, false));
    let mut paths: Vec<_> =
        named.map(|(name, _)| Path { name, file: None, kind: kind(call, syscall.name) }).collect();
    if let Some(last) = paths.last_mut() {
        let opened = || call.file(6).filter(|_| syscall.result == Outcome::Fd);
        let executed = || {
            let is_done = syscall.name.starts_with("execve") && call.error().is_none();
            call.who.program.as_ref().filter(|_| is_done)
        };
        last.file = opened().or_else(executed).map(AsRef::as_ref);
        // What the name has led to, where that says something else: a link, or from a directory.
        if let Some(file) = last.file.filter(|file| is_other(file, last.name)) {
            paths.push(Path { name: &file.text, file: Some(file), kind: "NORMAL" });
        }
    }
    paths
}

/// Whether a file's path is known, and not that name.
fn is_other(file: &Named, name: &[u8]) -> bool {
    file.text.first() == Some(&b'/') && file.text != name
}

fn kind(call: &Call, name: &str) -> &'static str {
    if call.error().is_some() {
        return "UNKNOWN";
    }
    let starts = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
    match () {
        () if starts(&["unlink", "rmdir"]) => "DELETE",
        () if starts(&["mkdir", "mknod", "symlink", "link", "creat"]) => "CREATE",
        () => "NORMAL",
    }
}

fn write_path(text: &mut String, item: usize, path: &Path<'_>) {
    let _ = write!(text, "item={item} ");
    field(text, "name", path.name);
    if let Some(file) = path.file {
        let (major, minor) = file.device;
        let _ = write!(
            text,
            " inode={} dev={major:02x}:{minor:02x} mode={:07o} ouid={} ogid={} rdev={:02x}:{:02x}",
            file.inode, file.mode, file.owner[0], file.owner[1], file.special.0, file.special.1
        );
    }
    let _ = write!(text, " nametype={}", path.kind);
}

fn field(text: &mut String, name: &str, bytes: &[u8]) {
    text.push_str(name);
    text.push('=');
    untrusted(text, bytes.get(..PATH).unwrap_or(bytes));
}

/// In quotes where nothing in it is special, else in base 16.
fn untrusted(text: &mut String, bytes: &[u8]) {
    let is_plain = |byte: &u8| (b'!'..=b'~').contains(byte) && *byte != b'"';
    if bytes.iter().all(is_plain) {
        let _ = write!(text, "\"{}\"", String::from_utf8_lossy(bytes));
    } else {
        hex(text, bytes);
    }
}

fn hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "{byte:02X}");
    }
}
