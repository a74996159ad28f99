//! One argument by its kind.

use std::borrow::Cow;

use super::cell::{self, number};
use super::{Detail, Value, command, message, option, shape, sockaddr};
use crate::decode::Call;
use crate::layout::Shape;
use crate::numbers::Abi;
use crate::record::{Part, item_mark};
use crate::table::{Count, Kind, Way};

/// The number that an argument is; 0 for one that there is not.
pub(super) fn arg(call: &Call, index: u8) -> u64 {
    call.args.get(usize::from(index)).copied().unwrap_or_default()
}

/// The lower half of an argument, which is all that many calls look at.
pub(super) fn arg32(call: &Call, index: u8) -> u32 {
    (arg(call, index) & 0xffff_ffff) as u32
}

/// The value of the argument of that number, which is of that kind.
pub(super) fn value<'a>(call: &'a Call, index: u8, kind: Kind, detail: Detail) -> Value<'a> {
    scalar(call, index, kind).unwrap_or_else(|| in_memory(call, index, kind, detail))
}

fn scalar(call: &Call, index: u8, kind: Kind) -> Option<Value<'static>> {
    let (whole, half) = (arg(call, index), arg32(call, index));
    Some(match kind {
        Kind::Int | Kind::Pid => Value::Signed(half.cast_signed().into()),
        Kind::Uint => Value::Unsigned(half.into()),
        Kind::Long if call.abi == Abi::I386 => Value::Signed(half.cast_signed().into()),
        Kind::Long => Value::Signed(whole.cast_signed()),
        Kind::Size => Value::Unsigned(whole),
        Kind::Hex => Value::Hex(whole),
        Kind::Key if half == 0 => Value::name("IPC_PRIVATE"),
        Kind::Key => Value::Hex(half.into()),
        Kind::Pointer => Value::Address(whole),
        Kind::Fd | Kind::ChangedFd | Kind::DirFd => descriptor(call, index),
        Kind::Id if half == u32::MAX => Value::Signed(-1),
        Kind::Id => Value::Unsigned(half.into()),
        Kind::Signal => cell::signal_name(half.into()),
        Kind::Device => cell::device(half.into()),
        Kind::Flags(set) => Value::Name(set.flags(half.into())),
        Kind::OneOf(set) => cell::one(set, half.into()),
        Kind::Mode => Value::Octal(u64::from(half) & 0xffff),
        Kind::Open => Value::Name(cell::open(half.into())),
        _ => return None,
    })
}

/// A descriptor that is an argument itself: what it stood for was told with the call.
fn descriptor(call: &Call, index: u8) -> Value<'static> {
    const AT_FDCWD: i32 = -100;
    let fd = arg32(call, index).cast_signed();
    let of_argument = || call.files.iter().find(|file| file.arg == index && !file.is_after);
    let file = match fd {
        AT_FDCWD => call.cwd.clone(),
        _ => of_argument().map(|of| of.file.clone()).or_else(|| call.file(index).cloned()),
    };
    Value::Fd(fd, file)
}

fn in_memory<'a>(call: &'a Call, index: u8, kind: Kind, detail: Detail) -> Value<'a> {
    let address = Value::Address(arg(call, index));
    let found = match kind {
        Kind::Path => text(call, index, true),
        Kind::Text => text(call, index, false),
        Kind::In(_) => buffer(call, index, false),
        Kind::InText(_) => buffer(call, index, false),
        Kind::Out => buffer(call, index, true),
        Kind::InTyped(_) => typed(call, index, false),
        Kind::OutTyped => typed(call, index, true),
        Kind::OutPath => out_path(call, index),
        Kind::Entries => entries(call, index),
        Kind::Sockaddr(_) => sockaddr::read(call, index, false),
        Kind::OutSockaddr(length) => sockaddr::written(call, index, length),
        Kind::SockaddrSize => size(call, index),
        Kind::Strings => strings(call, index),
        Kind::Environment => environment(call, index),
        Kind::InVector(_) => message::vector(call, index, false, detail),
        Kind::OutVector(_) => message::vector(call, index, true, detail),
        Kind::InMessage => message::message(call, index, false, detail),
        Kind::OutMessage => message::message(call, index, true, detail),
        Kind::To(shape, way) => to(call, index, shape, way, detail),
        Kind::Many(shape, way, count) => many(call, index, shape, way, count, detail),
        Kind::Bits(count) => bits(call, index, arg32(call, count)),
        Kind::OptionIn(_) => option::value(call, index, false, detail),
        Kind::OptionOut(_) => option::value(call, index, true, detail),
        Kind::By(by) => command::value(call, index, by, detail),
        _ => None,
    };
    found.unwrap_or(address)
}

fn text(call: &Call, index: u8, is_path: bool) -> Option<Value<'_>> {
    let (bytes, marks) = call.data(index, Part::Bytes, false)?;
    let more = marks & item_mark::MORE != 0;
    Some(Value::Bytes { bytes: Cow::Borrowed(bytes), more, is_path })
}

fn buffer(call: &Call, index: u8, is_out: bool) -> Option<Value<'_>> {
    if arg(call, index) == 0 || is_out && (call.error().is_some() || asks_size(call, index)) {
        return None;
    }
    let (bytes, marks) = call.data(index, Part::Bytes, is_out)?;
    let more = marks & item_mark::MORE != 0;
    Some(Value::Bytes { bytes: Cow::Borrowed(bytes), more, is_path: false })
}

/// Whether the call asks for the size of an extended attribute only.
fn asks_size(call: &Call, index: u8) -> bool {
    let is_xattr = call.syscall.is_some_and(|call| call.name.contains("xattr"));
    is_xattr && arg(call, index + 1) == 0
}

/// A System V message: its type, and its text.
fn typed(call: &Call, index: u8, is_out: bool) -> Option<Value<'_>> {
    if is_out && call.error().is_some() {
        return None;
    }
    let (bytes, marks) = call.data(index, Part::Bytes, is_out)?;
    let (kind, text) = bytes.split_at_checked(8)?;
    let more = marks & item_mark::MORE != 0;
    let text = Value::Bytes { bytes: Cow::Borrowed(text), more, is_path: false };
    let kind = Value::Signed(number(kind, 0, 8).cast_signed());
    Some(Value::Struct(vec![("mtype", kind), ("mtext", text)], false))
}

fn out_path(call: &Call, index: u8) -> Option<Value<'_>> {
    let (bytes, marks) = call.data(index, Part::Bytes, true)?;
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let more = marks & item_mark::MORE != 0;
    let is_path = call.syscall.is_some_and(|call| call.name == "getcwd");
    Some(Value::Bytes { bytes: Cow::Borrowed(bytes), more, is_path })
}

/// How many directory entries there are.
fn entries(call: &Call, index: u8) -> Option<Value<'_>> {
    if call.error().is_some() || call.is_unreturned() {
        return None;
    }
    let (bytes, _) = call.data(index, Part::Count, true)?;
    let note = format!("{} entries", number(bytes, 0, 8));
    Some(Value::Noted(Box::new(Value::Address(arg(call, index))), note))
}

/// A number before and after the call, as strace(1) writes a socket address's size.
fn size(call: &Call, index: u8) -> Option<Value<'_>> {
    let half = |out| {
        let (bytes, _) = call.data(index, Part::Bytes, out)?;
        Some(cell::signed(number(bytes, 0, 4), 4))
    };
    let before = half(false)?;
    let after = if call.error().is_some() { None } else { half(true) };
    let mut shown = Value::Signed(before);
    if let Some(after) = after.filter(|after| *after != before) {
        shown = Value::Changed(Box::new(shown), Box::new(Value::Signed(after)));
    }
    Some(Value::List(vec![shown], false))
}

fn elements(call: &Call, index: u8) -> impl Iterator<Item = &crate::decode::Datum> {
    let is_element =
        move |item: &&crate::decode::Datum| item.arg == index && item.part == Part::Element;
    call.items().iter().filter(is_element)
}

fn strings(call: &Call, index: u8) -> Option<Value<'_>> {
    let mut values = Vec::new();
    let mut more = false;
    for item in elements(call, index) {
        let is_more = item.marks & item_mark::MORE != 0;
        if usize::from(item.index) >= MOST_STRINGS {
            more = true;
        } else if item.marks & item_mark::FAULT == 0 {
            let bytes = Cow::Borrowed(call.bytes(item));
            values.push(Value::Bytes { bytes, more: is_more, is_path: false });
        } else {
            more = true;
        }
    }
    (!values.is_empty() || arg(call, index) != 0).then_some(Value::List(values, more))
}

/// How many strings of a vector are captured (HS_ARGV).
const MOST_STRINGS: usize = 64;

fn environment(call: &Call, index: u8) -> Option<Value<'_>> {
    let address = arg(call, index);
    if address == 0 {
        return None;
    }
    let is_rest = |item: &&crate::decode::Datum| usize::from(item.index) >= MOST_STRINGS;
    let count = elements(call, index).filter(|item| !is_rest(item)).count() as u64;
    let rest = elements(call, index).find(is_rest).map(|item| number(call.bytes(item), 0, 8));
    let count = count + rest.unwrap_or_default();
    let s = if count == 1 { "" } else { "s" };
    Some(Value::Noted(Box::new(Value::Address(address)), format!("{count} var{s}")))
}

fn to<'a>(call: &'a Call, index: u8, shape: Shape, way: Way, detail: Detail) -> Option<Value<'a>> {
    let is_out = way == Way::Out;
    if is_out && call.error().is_some() || way == Way::Left && !was_interrupted(call) {
        return None;
    }
    let is_out = is_out || way == Way::Left;
    let value = |is_out| {
        let (bytes, _) = call.data(index, Part::Bytes, is_out)?;
        shape::value(call, shape, bytes, index, detail)
    };
    let before = value(is_out)?;
    let after = if way == Way::InOut && call.error().is_none() { value(true) } else { None };
    let shown = |value| match is_number(shape) {
        true => Value::List(vec![value], false),
        false => value,
    };
    Some(match after {
        Some(after) if after != before => {
            Value::Changed(Box::new(shown(before)), Box::new(shown(after)))
        }
        _ => shown(before),
    })
}

/// Whether a signal interrupted the call.
fn was_interrupted(call: &Call) -> bool {
    const EINTR: u32 = 4;
    const ERESTART_RESTARTBLOCK: u32 = 516;
    matches!(call.error(), Some(EINTR | ERESTART_RESTARTBLOCK))
}

/// Whether what it points at is a number alone.
fn is_number(shape: Shape) -> bool {
    let Shape::Fields(layout) = shape else { return false };
    matches!(layout.fields, [field] if field.name.is_empty() && !matches!(field.cell, crate::layout::Cell::Signals | crate::layout::Cell::Text(_)))
}

fn many<'a>(
    call: &'a Call,
    index: u8,
    shape: Shape,
    way: Way,
    count: Count,
    detail: Detail,
) -> Option<Value<'a>> {
    let is_out = way == Way::Out;
    if is_out && (call.error().is_some() || call.is_unreturned()) || arg(call, index) == 0 {
        return None;
    }
    let wanted = match count {
        Count::Of(other) => u64::from(arg32(call, other)),
        Count::Result => call.result.cast_unsigned(),
    };
    if wanted == 0 {
        return Some(Value::List(Vec::new(), false));
    }
    let (bytes, marks) = call.data(index, Part::Bytes, is_out)?;
    let each = bytes.chunks_exact(usize::from(shape.size()));
    let values = each.filter_map(|one| shape::value(call, shape, one, index, detail)).collect();
    Some(Value::List(values, marks & item_mark::MORE != 0))
}

/// Descriptors whose bits are set.
fn bits(call: &Call, index: u8, count: u32) -> Option<Value<'_>> {
    let (bytes, _) = call.data(index, Part::Bytes, false)?;
    Some(bit_list(call, bytes, count, true))
}

pub(super) fn bit_list(call: &Call, bytes: &[u8], count: u32, named: bool) -> Value<'static> {
    let is_set =
        |fd: &u32| bytes.get(*fd as usize / 8).is_some_and(|byte| byte >> (fd % 8) & 1 != 0);
    let each = (0..count.min(1024)).filter(is_set);
    let value = |fd: u32| match named {
        true => cell::descriptor(call, fd.into()),
        false => Value::Fd(fd.cast_signed(), None),
    };
    Value::Made("", each.map(value).collect())
}
