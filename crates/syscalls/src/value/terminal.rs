//! A terminal's settings.

use std::borrow::Cow;

use super::cell::number;
use super::{Detail, Value};
use crate::names::terminal as n;

/// The kernel's struct termios.
pub(super) fn value(bytes: &[u8], _: Detail) -> Option<Value<'_>> {
    if bytes.len() < 36 {
        return None;
    }
    let at = |place| number(bytes, place, 4);
    let fields = vec![
        ("c_iflag", Value::Name(n::INPUT.flags(at(0)))),
        ("c_oflag", Value::Name(output(at(4)).into())),
        ("c_cflag", Value::Name(control(at(8)).into())),
        ("c_lflag", Value::Name(n::LOCAL.flags(at(12)))),
    ];
    Some(Value::Struct(fields, true))
}

/// Several settings of so many bits each: the name's start, how far they are shifted, how wide.
const DELAYS: [(&str, u32, u64); 6] =
    [("NL", 8, 1), ("CR", 9, 3), ("TAB", 11, 3), ("BS", 13, 1), ("VT", 14, 1), ("FF", 15, 1)];

fn output(value: u64) -> String {
    let mut parts = Vec::new();
    let mut rest = value;
    for (name, shift, width) in DELAYS {
        parts.push(format!("{name}{}", value >> shift & width));
        rest &= !(width << shift);
    }
    with_flags(parts, n::OUTPUT.flags(rest), rest)
}

fn control(value: u64) -> String {
    const SPEED: u64 = 0o010_017;
    const SIZE: u64 = 0o60;
    const INPUT_SPEED: u64 = 0o010_017 << 16;
    let mut parts = vec![n::SPEED.one(value & SPEED).into_owned()];
    let input = (value & INPUT_SPEED) >> 16;
    if input != 0 {
        parts.push(format!("{}<<IBSHIFT", n::SPEED.one(input)));
    }
    parts.push(n::SIZE.one(value & SIZE).into_owned());
    let rest = value & !(SPEED | SIZE | INPUT_SPEED);
    with_flags(parts, n::CONTROL.flags(rest), rest)
}

fn with_flags(mut parts: Vec<String>, flags: Cow<'_, str>, rest: u64) -> String {
    if rest != 0 {
        parts.push(flags.into_owned());
    }
    parts.join("|")
}
