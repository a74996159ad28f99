//! What results are where a command decides that, and what is told of them besides.

use super::argument::{self, arg32};
use super::cell::{self, number};
use super::special::{dumpable, personality};
use super::{Detail, Note, Value};
use crate::decode::Call;
use crate::layout::time;
use crate::names::{descriptors, memory, processes};
use crate::record::Part;
use crate::table::Outcome;

/// What the result is where a command decides that.
pub(super) fn outcome(call: &Call) -> Option<Outcome> {
    let name = call.syscall?.name;
    match (name, arg32(call, 1)) {
        ("membarrier", _) if arg32(call, 0) == 0 && call.result != 0 => Some(Outcome::Hex),
        ("landlock_create_ruleset", _) if arg32(call, 2) & 1 != 0 => Some(Outcome::Number),
        ("fcntl", 0 | 1030) => Some(Outcome::Fd),
        ("fcntl", 3 | 1025) => Some(Outcome::Hex),
        ("fcntl", 1 | 1034) if call.result != 0 => Some(Outcome::Hex),
        _ => None,
    }
}

/// What is told of a result besides.
pub(super) fn note(call: &Call, detail: Detail) -> Option<Note<'_>> {
    let result = call.result.cast_unsigned();
    match call.syscall?.name {
        "fcntl" => fcntl_note(arg32(call, 1), result).map(Note::Text),
        "poll" | "ppoll" | "select" | "pselect6" if call.result == 0 => {
            Some(Note::Text("Timeout".to_owned()))
        }
        "poll" => polled(call).map(|list| Note::Value(Value::List(list, false))),
        "ppoll" => Some(Note::Text(ppolled(call, detail)?)),
        "select" | "pselect6" => Some(Note::Text(selected(call, detail))),
        "membarrier" if arg32(call, 0) == 0 && call.result != 0 => {
            Some(Note::Text(memory::MEMBARRIER.flags(result).into_owned()))
        }
        "sched_getscheduler" => Some(Note::Text(processes::SCHEDULER.one(result).into_owned())),
        "personality" => {
            Some(Note::Text(crate::text::plain(&personality((result & 0xffff_ffff) as u32))))
        }
        "prctl" if arg32(call, 0) == 3 => dumpable_name(result),
        "rt_sigtimedwait" => {
            let name = crate::names::signal(u32::try_from(result).ok()?)?;
            Some(Note::Text(format!("SIG{name}")))
        }
        "time" => crate::text::date(call.result, 0, 0).map(Note::Text),
        "adjtimex" | "clock_adjtime" => {
            crate::names::time::ADJUST_RESULT.name(result).map(|name| Note::Text(name.to_owned()))
        }
        _ => None,
    }
}

fn fcntl_note(command: u32, result: u64) -> Option<String> {
    match (command, result) {
        (1, 1..) => Some(format!("flags {}", descriptors::FD_FLAGS.flags(result))),
        (3, _) => Some(format!("flags {}", cell::open(result))),
        (1025, _) => descriptors::LOCK_KIND.name(result).map(str::to_owned),
        (1034, 1..) => Some(format!("seals {}", descriptors::SEALS.flags(result))),
        _ => None,
    }
}

fn polled(call: &Call) -> Option<Vec<Value<'_>>> {
    let (bytes, _) = call.data(0, Part::Bytes, true)?;
    let each = bytes.chunks_exact(8).filter(|one| number(one, 6, 2) != 0);
    let value = |one: &[u8]| {
        let fd = cell::signed(number(one, 0, 4), 4);
        let events = descriptors::POLL.flags(number(one, 6, 2));
        Value::Struct(vec![("fd", Value::Signed(fd)), ("revents", Value::Name(events))], false)
    };
    Some(each.map(value).collect())
}

/// The time that is left, as it was written back.
fn left(call: &Call, place: u8, layout: &'static crate::layout::Layout) -> Option<String> {
    let (bytes, _) = call.data(place, Part::Bytes, true)?;
    let value = cell::layout(call, layout, bytes, Detail::default())?;
    Some(format!("left {}", crate::text::plain(&value)))
}

fn ppolled(call: &Call, _: Detail) -> Option<String> {
    let polled = polled(call).filter(|polled| !polled.is_empty());
    let mut parts: Vec<_> =
        polled.map(|polled| crate::text::plain(&Value::List(polled, false))).into_iter().collect();
    parts.extend(left(call, 2, &time::TIMESPEC));
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn selected(call: &Call, _: Detail) -> String {
    let mut parts = Vec::new();
    for (place, name) in [(1, "in"), (2, "out"), (3, "except")] {
        if let Some((bytes, _)) = call.data(place, Part::Bytes, true) {
            let Value::Made(_, set) = argument::bit_list(call, bytes, arg32(call, 0), false) else {
                continue;
            };
            let numbers: Vec<_> = set.iter().map(crate::text::plain).collect();
            if !numbers.is_empty() {
                parts.push(format!("{name} [{}]", numbers.join(" ")));
            }
        }
    }
    let is_select = call.syscall.is_some_and(|call| call.name == "select");
    parts.extend(left(call, 4, if is_select { &time::TIMEVAL } else { &time::TIMESPEC }));
    parts.join(", ")
}

fn dumpable_name(result: u64) -> Option<Note<'static>> {
    match dumpable(4, result) {
        Value::Name(name) => Some(Note::Text(name.into_owned())),
        _ => None,
    }
}
