//! futex(2).

use std::borrow::Cow;

use super::argument::{arg, arg32};
use super::special::with;
use super::{Argument, Value};
use crate::decode::Call;
use crate::names::processes;

/// The arguments of futex(2), which depend on its operation.
pub(super) fn arguments<'a>(call: &'a Call, all: Vec<Argument<'a>>) -> Vec<Argument<'a>> {
    let whole = arg32(call, 1);
    let all = with(all, 1, Value::Name(command(whole)));
    let number = |place: u8| Value::Unsigned(arg32(call, place).into());
    let bits = match arg32(call, 5) {
        u32::MAX => Value::name("FUTEX_BITSET_MATCH_ANY"),
        other => Value::Hex(other.into()),
    };
    let count = |places: &[usize]| -> Vec<Argument<'a>> {
        places.iter().filter_map(|place| all.get(*place).cloned()).collect()
    };
    match whole & 127 {
        0 => count(&[0, 1, 2, 3]),
        6 | 13 => count(&[0, 1, 3]),
        9 => with(count(&[0, 1, 2, 3, 5]), 4, bits),
        10 => with(count(&[0, 1, 2, 5]), 3, bits),
        3 => with(count(&[0, 1, 2, 3, 4]), 3, number(3)),
        4 | 12 => with(with(count(&[0, 1, 2, 3, 4, 5]), 3, number(3)), 5, number(5)),
        5 => with(with(count(&[0, 1, 2, 3, 4, 5]), 3, number(3)), 5, wake_operation(call)),
        11 => count(&[0, 1, 2, 3, 4]),
        1 | 2 => count(&[0, 1, 2]),
        7 | 8 => count(&[0, 1]),
        _ => with(all, 3, Value::Address(arg(call, 3))),
    }
}

fn command(whole: u32) -> Cow<'static, str> {
    let Some(name) = processes::FUTEX.name(u64::from(whole & 127)) else {
        return processes::FUTEX.one(whole.into());
    };
    let private = if whole & 128 != 0 { "_PRIVATE" } else { "" };
    let clock = if whole & 256 != 0 { "|FUTEX_CLOCK_REALTIME" } else { "" };
    Cow::Owned(format!("{name}{private}{clock}"))
}

/// What FUTEX_WAKE_OP does, as futex(2) puts it together.
fn wake_operation(call: &Call) -> Value<'static> {
    const OPERATIONS: [&str; 5] =
        ["FUTEX_OP_SET", "FUTEX_OP_ADD", "FUTEX_OP_OR", "FUTEX_OP_ANDN", "FUTEX_OP_XOR"];
    const COMPARISONS: [&str; 6] = [
        "FUTEX_OP_CMP_EQ",
        "FUTEX_OP_CMP_NE",
        "FUTEX_OP_CMP_LT",
        "FUTEX_OP_CMP_LE",
        "FUTEX_OP_CMP_GT",
        "FUTEX_OP_CMP_GE",
    ];
    let value = arg32(call, 5);
    let name = |names: &[&'static str], number: u32| match names.get(number as usize) {
        Some(name) => (*name).to_owned(),
        None => format!("{number:#x}"),
    };
    let shift = if value >> 28 & 8 != 0 { "FUTEX_OP_OPARG_SHIFT<<28|" } else { "" };
    Value::Name(Cow::Owned(
        format!(
            "{shift}{}<<28|{:#x}<<12|{}<<24|{:#x}",
            name(&OPERATIONS, value >> 28 & 7),
            value >> 12 & 0xfff,
            name(&COMPARISONS, value >> 24 & 0xf),
            value & 0xfff
        )
        .replace("0x0", "0"),
    ))
}
