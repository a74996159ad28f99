//! Fields of structures.

use std::borrow::Cow;

use super::{Detail, Value};
use crate::decode::Call;
use crate::layout::{Cell, Field, Layout, Only};
use crate::names::{Set, files, signal};

/// The structure that `bytes` are; nothing where they are too few.
pub(super) fn layout<'a>(
    call: &Call,
    layout: &Layout,
    bytes: &'a [u8],
    detail: Detail,
) -> Option<Value<'a>> {
    let bytes = bytes.get(..usize::from(layout.size))?;
    if let [Field { name: "", at, cell, .. }] = layout.fields {
        return value(call, cell, bytes.get(usize::from(*at)..)?, detail);
    }
    let mut fields = Vec::with_capacity(layout.fields.len());
    let mut is_more = false;
    for field in layout.fields {
        if is_told(field, bytes, detail) {
            let place = bytes.get(usize::from(field.at)..)?;
            fields.push((field.name, value(call, &field.cell, place, detail)?));
        } else {
            is_more |= field.only == Only::Verbose;
        }
    }
    if layout.fields.iter().all(|field| field.name.is_empty()) {
        return Some(Value::List(fields.into_iter().map(|(_, value)| value).collect(), false));
    }
    Some(Value::Struct(fields, is_more))
}

fn is_told(field: &Field, bytes: &[u8], detail: Detail) -> bool {
    let is_device = |at: u16| matches!(number(bytes, at, 4) >> 12 & 0xf, 2 | 6);
    match field.only {
        Only::Always => true,
        Only::Verbose => detail.verbose,
        Only::Device(at) => is_device(at),
        Only::NoDevice(at) => !is_device(at),
    }
}

/// The number at that place, of that many bytes; 0 where there are too few.
pub(super) fn number(bytes: &[u8], at: u16, size: u8) -> u64 {
    let at = usize::from(at);
    let taken = bytes.get(at..at + usize::from(size)).unwrap_or_default();
    let mut whole = [0; 8];
    if let Some(place) = whole.get_mut(..taken.len()) {
        place.copy_from_slice(taken);
    }
    u64::from_le_bytes(whole)
}

/// A number of that many bytes with its sign.
pub(super) fn signed(value: u64, size: u8) -> i64 {
    let shift = 64_u32.saturating_sub(u32::from(size) * 8);
    (value << shift).cast_signed() >> shift
}

fn value<'a>(call: &Call, cell: &Cell, bytes: &'a [u8], detail: Detail) -> Option<Value<'a>> {
    let bytes = bytes.get(..cell.size())?;
    let number = |size| number(bytes, 0, size);
    Some(match *cell {
        Cell::Signed(size) => Value::Signed(signed(number(size), size)),
        Cell::Unsigned(size) => Value::Unsigned(number(size)),
        Cell::Hex(size) => hex(number(size)),
        Cell::Address => Value::Address(number(8)),
        Cell::Fd => descriptor(call, number(4)),
        Cell::Flags(size, set) => Value::Name(set.flags(number(size))),
        Cell::OneOf(size, set) => one(set, number(size)),
        Cell::Mode(size) => mode(number(size)),
        Cell::Octal(size) => Value::Octal(number(size)),
        Cell::Device(size) => device(number(size)),
        Cell::Limit => limit(number(8)),
        Cell::Signal => signal_name(number(4)),
        Cell::Signals => signals(number(8)),
        Cell::Text(_) => text(bytes),
        Cell::Open => Value::Name(open(number(8))),
        Cell::Ticks => ticks(number(8)),
        Cell::Nanoseconds => nanoseconds(number(8)),
        Cell::Struct(inner) => return layout(call, inner, bytes, detail),
        Cell::Array(inner, _) => {
            let each = bytes.chunks_exact(inner.size().max(1));
            Value::List(each.filter_map(|one| value(call, inner, one, detail)).collect(), false)
        }
    })
}

/// A number in base 16, 0 as `0`.
pub(super) fn hex(value: u64) -> Value<'static> {
    Value::Hex(value)
}

/// One of several names.
pub(super) fn one(set: &Set, value: u64) -> Value<'static> {
    Value::Name(set.one(value))
}

/// A descriptor that is in memory.
pub(super) fn descriptor(call: &Call, value: u64) -> Value<'static> {
    let fd = (value & 0xffff_ffff) as u32;
    let fd = fd.cast_signed();
    Value::Fd(fd, call.file_of(fd).cloned())
}

/// A file's type and permissions.
pub(super) fn mode(value: u64) -> Value<'static> {
    let (kind, rest) = (value & 0o170_000, value & 0o7_777);
    let mut parts = match files::FILE_TYPE.name(kind) {
        Some(name) => vec![name.to_owned()],
        None if kind != 0 => vec![octal(kind)],
        None => return Value::Octal(value),
    };
    for (bit, name) in [(0o4000, "S_ISUID"), (0o2000, "S_ISGID"), (0o1000, "S_ISVTX")] {
        if rest & bit != 0 {
            parts.push(name.to_owned());
        }
    }
    parts.push(octal(rest & 0o777));
    Value::Name(Cow::Owned(parts.join("|")))
}

/// A number in base 8, of at least three digits.
pub(crate) fn octal(value: u64) -> String {
    if value == 0 { "000".to_owned() } else { format!("{:0>3}", format!("0{value:o}")) }
}

/// A device's number in the form that programs see.
pub(super) fn device(value: u64) -> Value<'static> {
    let major = value >> 8 & 0xfff | value >> 32 & 0xffff_f000;
    let minor = value & 0xff | value >> 12 & 0xffff_ff00;
    Value::Made("makedev", vec![Value::Hex(major), Value::Hex(minor)])
}

fn limit(value: u64) -> Value<'static> {
    match value {
        u64::MAX => Value::name("RLIM64_INFINITY"),
        _ if value > 1024 && value.is_multiple_of(1024) => {
            Value::Name(Cow::Owned(format!("{}*1024", value / 1024)))
        }
        _ => Value::Unsigned(value),
    }
}

/// A signal's name.
pub(super) fn signal_name(value: u64) -> Value<'static> {
    let number = (value & 0xffff_ffff) as u32;
    match signal(number) {
        Some(name) => Value::Name(Cow::Owned(format!("SIG{name}"))),
        None => Value::Signed(number.cast_signed().into()),
    }
}

/// A set of signals; where most are in it, those that are not.
pub(super) fn signals(mask: u64) -> Value<'static> {
    let is_most = mask.count_ones() >= 64 * 2 / 3;
    let shown = if is_most { !mask } else { mask };
    let names = (1..=64).filter(|number| shown >> (number - 1) & 1 != 0).filter_map(signal);
    let names = names.collect::<Vec<_>>().join(" ");
    let tilde = if is_most { "~" } else { "" };
    Value::Name(Cow::Owned(format!("{tilde}[{names}]")))
}

/// Text up to a zero.
pub(super) fn text(bytes: &[u8]) -> Value<'_> {
    Value::bytes(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
}

fn ticks(value: u64) -> Value<'static> {
    let number = Value::Signed(value.cast_signed());
    match value {
        0 => number,
        _ => Value::Noted(Box::new(number), format!("{}.{:02} s", value / 100, value % 100)),
    }
}

fn nanoseconds(value: u64) -> Value<'static> {
    match value {
        0x3fff_ffff => Value::name("UTIME_NOW"),
        0x3fff_fffe => Value::name("UTIME_OMIT"),
        _ => Value::Signed(value.cast_signed()),
    }
}

/// How open(2) opens: the way of access, and flags.
pub(super) fn open(value: u64) -> Cow<'static, str> {
    let way = match value & 3 {
        0 => "O_RDONLY",
        1 => "O_WRONLY",
        2 => "O_RDWR",
        _ => "O_ACCMODE",
    };
    let (names, rest) = files::OPEN.split(value & !3);
    let mut text = way.to_owned();
    if !names.is_empty() {
        text += "|";
        text += &names;
    }
    if rest != 0 {
        text += &format!("|{rest:#x}");
    }
    Cow::Owned(text)
}
