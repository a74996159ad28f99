//! Control messages.

use super::Value;
use super::cell::{self, number};
use crate::decode::Call;
use crate::layout::{terminal, time};
use crate::names::network as n;

/// Bytes of a control message before its data.
const HEAD: usize = 16;

/// The control messages that `bytes` are.
pub(super) fn messages<'a>(call: &'a Call, bytes: &'a [u8]) -> Value<'a> {
    let mut rest = bytes;
    let mut values = Vec::new();
    while rest.len() >= HEAD {
        let told = usize::try_from(number(rest, 0, 8)).unwrap_or(usize::MAX);
        let length = told.clamp(HEAD, rest.len());
        let data = rest.get(HEAD..length).unwrap_or_default();
        values.push(message(call, rest, told, data));
        rest = rest.get(told.max(HEAD).saturating_add(7) & !7..).unwrap_or_default();
    }
    Value::List(values, false)
}

fn message<'a>(call: &'a Call, head: &'a [u8], length: usize, data: &'a [u8]) -> Value<'a> {
    let (level, kind) = (number(head, 8, 4), number(head, 12, 4));
    let kind_name = match level {
        1 => cell::one(&n::CONTROL, kind),
        0 => cell::one(&n::IP_OPTION, kind),
        41 => cell::one(&n::IPV6_OPTION, kind),
        _ => Value::Hex(kind),
    };
    let mut fields = vec![
        ("cmsg_len", Value::Unsigned(length as u64)),
        ("cmsg_level", cell::one(&n::LEVEL, level)),
        ("cmsg_type", kind_name),
    ];
    if !data.is_empty() {
        fields.push(("cmsg_data", content(call, level, kind, data)));
    }
    Value::Struct(fields, false)
}

fn content<'a>(call: &'a Call, level: u64, kind: u64, data: &'a [u8]) -> Value<'a> {
    let detail = super::Detail::default();
    let found = match (level, kind) {
        (1, 1) => {
            let each = data.chunks_exact(4).map(|fd| cell::descriptor(call, number(fd, 0, 4)));
            Some(Value::List(each.collect(), false))
        }
        (1, 2) => cell::layout(call, &terminal::CREDENTIALS, data, detail),
        (1, 29) => cell::layout(call, &time::TIMEVAL, data, detail),
        (1, 35) => cell::layout(call, &time::TIMESPEC, data, detail),
        (0, 2 | 13) | (41, 52 | 67) if data.len() >= 4 => {
            let value = Value::Signed(cell::signed(number(data, 0, 4), 4));
            Some(Value::List(vec![value], false))
        }
        _ => None,
    };
    found.unwrap_or(Value::bytes(data))
}
