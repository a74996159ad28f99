//! Socket addresses.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::Value;
use super::argument::arg;
use super::cell::{self, number};
use crate::decode::Call;
use crate::names::network as n;
use crate::record::Part;

/// The address that an argument points at.
pub(super) fn read(call: &Call, index: u8, is_out: bool) -> Option<Value<'_>> {
    if arg(call, index) == 0 {
        return None;
    }
    let (bytes, _) = call.data(index, Part::Bytes, is_out)?;
    address(bytes)
}

/// The address that a call has written, of the length that the argument `length` points at.
pub(super) fn written(call: &Call, index: u8, length: u8) -> Option<Value<'_>> {
    if call.error().is_some() || arg(call, index) == 0 {
        return None;
    }
    let size = |out| call.data(length, Part::Bytes, out).map(|(bytes, _)| number(bytes, 0, 4));
    let room = size(false)?.min(size(true)?);
    let (bytes, _) = call.data(index, Part::Bytes, true)?;
    address(bytes.get(..usize::try_from(room).ok()?.min(bytes.len()))?)
}

/// What the bytes of an address mean.
pub(super) fn address(bytes: &[u8]) -> Option<Value<'_>> {
    if bytes.len() < 2 {
        return None;
    }
    let family = number(bytes, 0, 2);
    let mut fields = vec![("sa_family", cell::one(&n::FAMILY, family))];
    let more = match (family, bytes.len()) {
        (_, 2) => Vec::new(),
        (1, _) => unix(bytes),
        (2, 8..) => inet(bytes),
        (10, 24..) => inet6(bytes),
        (16, 12..) => netlink(bytes),
        (17, 20..) => packet(bytes),
        _ => vec![("sa_data", Value::bytes(bytes.get(2..)?))],
    };
    fields.extend(more);
    Some(Value::Struct(fields, false))
}

type Fields<'a> = Vec<(&'static str, Value<'a>)>;

fn unix(bytes: &[u8]) -> Fields<'_> {
    let name = bytes.get(2..).unwrap_or_default();
    let value = match name {
        [0, rest @ ..] => Value::Abstract(rest),
        path => {
            let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
            Value::Bytes { bytes: Cow::Borrowed(path), more: false, is_path: true }
        }
    };
    vec![("sun_path", value)]
}

fn big_endian(bytes: &[u8], at: usize) -> u64 {
    let pair = bytes.get(at..at + 2).and_then(|pair| pair.try_into().ok()).unwrap_or_default();
    u16::from_be_bytes(pair).into()
}

fn port(bytes: &[u8]) -> Value<'static> {
    Value::Made("htons", vec![Value::Unsigned(big_endian(bytes, 2))])
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

/// An IPv4 address as a macro makes it.
pub(super) fn inet_addr(bytes: &[u8]) -> Value<'static> {
    let text = Ipv4Addr::from(array::<4>(bytes, 0)).to_string();
    let text = Value::Bytes { bytes: Cow::Owned(text.into_bytes()), more: false, is_path: true };
    Value::Made("inet_addr", vec![text])
}

fn inet(bytes: &[u8]) -> Fields<'static> {
    let address = inet_addr(bytes.get(4..).unwrap_or_default());
    vec![("sin_port", port(bytes)), ("sin_addr", address)]
}

fn inet6(bytes: &[u8]) -> Fields<'static> {
    let flow = u32::from_be_bytes(array(bytes, 4));
    let mut fields = vec![
        ("sin6_port", port(bytes)),
        ("sin6_flowinfo", Value::Made("htonl", vec![Value::Unsigned(flow.into())])),
        ("sin6_addr", Value::Inet6(Ipv6Addr::from(array::<16>(bytes, 8)))),
    ];
    if bytes.len() >= 28 {
        fields.push(("sin6_scope_id", Value::Unsigned(number(bytes, 24, 4))));
    }
    fields
}

fn netlink(bytes: &[u8]) -> Fields<'static> {
    let groups = format!("{:08x}", number(bytes, 8, 4));
    vec![
        ("nl_pid", Value::Signed(cell::signed(number(bytes, 4, 4), 4))),
        ("nl_groups", Value::Name(groups.into())),
    ]
}

fn packet(bytes: &[u8]) -> Fields<'_> {
    let protocol = n::ETHERNET_PROTOCOL.one(big_endian(bytes, 2));
    let length = number(bytes, 11, 1);
    let mut fields = vec![
        ("sll_protocol", Value::Made("htons", vec![Value::Name(protocol)])),
        ("sll_ifindex", Value::Signed(cell::signed(number(bytes, 4, 4), 4))),
        ("sll_hatype", Value::Hex(number(bytes, 8, 2))),
        ("sll_pkttype", cell::one(&n::PACKET_KIND, number(bytes, 10, 1))),
        ("sll_halen", Value::Unsigned(length)),
    ];
    if length > 0 {
        let end = (12 + usize::from(length.min(8) as u8)).min(bytes.len());
        let each = bytes.get(12..end).unwrap_or_default();
        let each = each.iter().map(|byte| Value::Hex((*byte).into())).collect();
        fields.push(("sll_addr", Value::List(each, false)));
    }
    fields
}
