//! I/O vectors and messages.

use std::borrow::Cow;

use super::argument::arg;
use super::cell::{self, number};
use super::{Detail, Value, control, sockaddr};
use crate::decode::{Call, Datum};
use crate::names::network;
use crate::record::{Part, item_mark};

/// Bytes of one element of an I/O vector.
const ELEMENT: usize = 16;

/// An I/O vector that an argument points at, with what was written through it or read from it.
pub(super) fn vector(call: &Call, index: u8, is_out: bool, _: Detail) -> Option<Value<'_>> {
    if is_out && call.error().is_some() || arg(call, index) == 0 {
        return None;
    }
    let is_it = |item: &&Datum| item.arg == index && is_side(item, is_out);
    let items: Vec<_> = call.items().iter().filter(is_it).collect();
    elements(call, &items, is_out)
}

fn is_side(item: &Datum, is_out: bool) -> bool {
    (item.marks & item_mark::OUT != 0) == is_out
}

fn elements<'a>(call: &'a Call, items: &[&Datum], is_out: bool) -> Option<Value<'a>> {
    let array = items.iter().find(|item| item.part == Part::Vector)?;
    if array.marks & item_mark::FAULT != 0 {
        return None;
    }
    let mut left = if is_out { call.result.cast_unsigned() } else { u64::MAX };
    let each = (0_u8..).zip(call.bytes(array).chunks_exact(ELEMENT)).map(|(place, element)| {
        let (base, length) = (number(element, 0, 8), number(element, 8, 8));
        let here = length.min(left);
        left -= here;
        let is_here = |item: &&&Datum| item.part == Part::VectorData && item.index == place;
        let data = items.iter().find(is_here).filter(|item| item.marks & item_mark::FAULT == 0);
        let base = match data {
            _ if base == 0 => Value::Address(0),
            _ if here == 0 => Value::bytes(&[]),
            Some(item) => Value::Bytes {
                bytes: Cow::Borrowed(call.bytes(item)),
                more: item.marks & item_mark::MORE != 0,
                is_path: false,
            },
            None => Value::Address(base),
        };
        Value::Struct(vec![("iov_base", base), ("iov_len", Value::Unsigned(length))], false)
    });
    let each = each.collect();
    Some(Value::List(each, array.marks & item_mark::MORE != 0))
}

/// A struct msghdr that an argument points at.
pub(super) fn message(call: &Call, index: u8, is_out: bool, _: Detail) -> Option<Value<'_>> {
    if is_out && call.error().is_some() {
        let (before, _) = call.data(index, Part::Bytes, false)?;
        let room = Value::Signed(cell::signed(number(before, 8, 4), 4));
        return Some(Value::Struct(vec![("msg_namelen", room)], false));
    }
    let is_it = |item: &&Datum| item.arg == index && is_side(item, is_out);
    let items: Vec<_> = call.items().iter().filter(is_it).collect();
    let head = items.iter().find(|item| item.part == Part::Bytes)?;
    if head.marks & item_mark::FAULT != 0 {
        return None;
    }
    let room = is_out.then(|| call.data(index, Part::Bytes, false)).flatten();
    Some(of_items(call, call.bytes(head), &items, is_out, room.map(|(bytes, _)| bytes)))
}

fn of_items<'a>(
    call: &'a Call,
    head: &'a [u8],
    items: &[&Datum],
    is_out: bool,
    before: Option<&[u8]>,
) -> Value<'a> {
    let part = |wanted| {
        let found = items.iter().find(|item| item.part == wanted)?;
        (found.marks & item_mark::FAULT == 0).then(|| call.bytes(found))
    };
    let name_length = number(head, 8, 4);
    let name = part(Part::Name).and_then(sockaddr::address);
    let mut length = Value::Signed(cell::signed(name_length, 4));
    if let Some(before) = before.map(|before| number(before, 8, 4))
        && before != name_length
    {
        let before = Value::Signed(cell::signed(before, 4));
        length = Value::Changed(Box::new(before), Box::new(length));
    }
    let vector = elements(call, items, is_out).unwrap_or_else(|| match number(head, 24, 8) {
        0 if number(head, 16, 8) != 0 => Value::List(Vec::new(), false),
        _ => Value::Address(number(head, 16, 8)),
    });
    let mut fields = vec![
        ("msg_name", name.unwrap_or_else(|| Value::Address(number(head, 0, 8)))),
        ("msg_namelen", length),
        ("msg_iov", vector),
        ("msg_iovlen", Value::Unsigned(number(head, 24, 8))),
    ];
    let control_length = number(head, 40, 8);
    if control_length != 0 {
        let control = part(Part::Control).map(|bytes| control::messages(call, bytes));
        let address = Value::Address(number(head, 32, 8));
        fields.push(("msg_control", control.unwrap_or(address)));
    }
    fields.push(("msg_controllen", Value::Unsigned(control_length)));
    fields.push(("msg_flags", Value::Name(network::MESSAGE.flags(number(head, 48, 4)))));
    Value::Struct(fields, false)
}

/// One struct mmsghdr, of which the pointers are not followed.
pub(super) fn of_many<'a>(call: &'a Call, bytes: &'a [u8]) -> Option<Value<'a>> {
    let head = bytes.get(..56)?;
    let inner = of_items(call, head, &[], false, None);
    let fields = vec![("msg_hdr", inner), ("msg_len", Value::Unsigned(number(bytes, 56, 4)))];
    Some(Value::Struct(fields, false))
}
