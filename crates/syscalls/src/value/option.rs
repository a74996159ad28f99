//! Socket options.

use super::argument::{arg, arg32};
use super::cell::{self, number};
use super::{Detail, Value};
use crate::decode::Call;
use crate::layout::terminal;
use crate::names::network as n;
use crate::record::{Part, item_mark};

/// An option's name, which depends on its level.
pub(super) fn name(level: u32, option: u32) -> Value<'static> {
    let option = u64::from(option);
    match level {
        1 => cell::one(&n::SOCKET_OPTION, option),
        0 => cell::one(&n::IP_OPTION, option),
        6 => cell::one(&n::TCP_OPTION, option),
        17 => cell::one(&n::UDP_OPTION, option),
        41 => cell::one(&n::IPV6_OPTION, option),
        58 => cell::one(&n::ICMPV6_OPTION, option),
        255 => cell::one(&n::RAW_OPTION, option),
        263 => cell::one(&n::PACKET_OPTION, option),
        270 => cell::one(&n::NETLINK_OPTION, option),
        _ => Value::Hex(option),
    }
}

/// An option's value.
pub(super) fn value<'a>(
    call: &'a Call,
    index: u8,
    is_out: bool,
    detail: Detail,
) -> Option<Value<'a>> {
    if is_out && call.error().is_some() || arg(call, index) == 0 {
        return None;
    }
    let (mut bytes, marks) = call.data(index, Part::Bytes, is_out)?;
    if is_out {
        let (length, _) = call.data(index + 1, Part::Bytes, true)?;
        let length = usize::try_from(number(length, 0, 4)).ok()?;
        bytes = bytes.get(..length.min(bytes.len()))?;
    }
    let is_more = marks & item_mark::MORE != 0;
    content(call, (arg32(call, 1), arg32(call, 2)), bytes, is_more, detail)
}

fn content<'a>(
    call: &'a Call,
    option: (u32, u32),
    bytes: &'a [u8],
    more: bool,
    detail: Detail,
) -> Option<Value<'a>> {
    let int = || {
        let value = (bytes.len() >= 4).then(|| cell::signed(number(bytes, 0, 4), 4))?;
        Some(Value::List(vec![Value::Signed(value)], false))
    };
    let text = || Value::Bytes { bytes: bytes.into(), more, is_path: false };
    match option {
        (1, 13) => cell::layout(call, &terminal::LINGER, bytes, detail),
        (1, 17) => cell::layout(call, &terminal::CREDENTIALS, bytes, detail),
        (1, 4) => Some(Value::List(vec![error(number(bytes, 0, 4))], false)),
        (1, 25 | 31 | 26 | 28) | (6, 11 | 13 | 31) | (0, 35..=41) | (0, 4) => Some(text()),
        _ if bytes.len() == 4 => int(),
        _ => Some(text()),
    }
}

fn error(value: u64) -> Value<'static> {
    match crate::names::errors::ERRORS.name(value) {
        Some(name) => Value::name(name),
        None => Value::Signed(cell::signed(value, 4)),
    }
}
