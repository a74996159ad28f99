//! Structures that are more than fields at fixed places.

use super::cell::{self, number, signal_name, signals};
use super::{Detail, Value, message};
use crate::decode::Call;
use crate::layout::Shape;
use crate::names::{processes, signals as n};

/// What `bytes`, which argument `index` points at, are; nothing where they are too few.
pub(super) fn value<'a>(
    call: &'a Call,
    shape: Shape,
    bytes: &'a [u8],
    index: u8,
    detail: Detail,
) -> Option<Value<'a>> {
    match shape {
        Shape::Poll => poll(call, bytes),
        Shape::Fields(layout) => cell::layout(call, layout, bytes, detail),
        Shape::TwoFds => two(call, bytes, index),
        Shape::WaitStatus => wait(call, bytes),
        Shape::SignalInfo => info(call, bytes),
        Shape::SignalAction => action(bytes),
        Shape::SignalEvent => event(bytes),
        Shape::CloneArgs => clone(call, bytes),
        Shape::Capabilities => capabilities(bytes),
        Shape::Message => message::of_many(call, bytes),
        Shape::Terminal => super::terminal::value(bytes, detail),
    }
}

/// struct pollfd; what is not polled has no events.
fn poll(call: &Call, bytes: &[u8]) -> Option<Value<'static>> {
    let fd = cell::descriptor(call, number(bytes, 0, 4));
    let is_none = matches!(fd, Value::Fd(..0, _));
    let events = crate::names::descriptors::POLL.flags(number(bytes, 4, 2));
    let mut fields = vec![("fd", fd)];
    if !is_none {
        fields.push(("events", Value::Name(events)));
    }
    (bytes.len() >= 8).then_some(Value::Struct(fields, false))
}

fn two(call: &Call, bytes: &[u8], index: u8) -> Option<Value<'static>> {
    let fd = |place: u8| {
        let number = number(bytes, u16::from(place) * 4, 4);
        let of = |file: &&crate::decode::FileOf| file.arg == index && file.index == place;
        let file = call.files.iter().find(of).map(|of| of.file.clone());
        let fd = ((number & 0xffff_ffff) as u32).cast_signed();
        Value::Fd(fd, file.or_else(|| call.file_of(fd).cloned()))
    };
    (bytes.len() >= 8).then(|| Value::List(vec![fd(0), fd(1)], false))
}

fn wait(call: &Call, bytes: &[u8]) -> Option<Value<'static>> {
    let status = (number(bytes, 0, 4) & 0xffff_ffff) as u32;
    if call.result == 0 || bytes.len() < 4 {
        return None;
    }
    let (low, high) = (status & 0x7f, status >> 8 & 0xff);
    let name = |number: u32| match crate::names::signal(number) {
        Some(name) => format!("SIG{name}"),
        None => number.to_string(),
    };
    let text = match (status & 0xff, low) {
        _ if status == 0xffff => "WIFCONTINUED(s)".to_owned(),
        (0x7f, _) => format!("WIFSTOPPED(s) && WSTOPSIG(s) == {}", name(high)),
        (_, 0) => format!("WIFEXITED(s) && WEXITSTATUS(s) == {high}"),
        _ => {
            let core = if status & 0x80 != 0 { " && WCOREDUMP(s)" } else { "" };
            format!("WIFSIGNALED(s) && WTERMSIG(s) == {}{core}", name(low))
        }
    };
    Some(Value::List(vec![Value::Made("{}", vec![Value::Name(text.into())])], false))
}

/// siginfo_t: which fields it has depends on what the signal came from.
fn info(call: &Call, bytes: &[u8]) -> Option<Value<'static>> {
    if bytes.len() < 48 {
        return None;
    }
    let (signal, code) = (number(bytes, 0, 4), number(bytes, 8, 4));
    let int = |at| Value::Signed(cell::signed(number(bytes, at, 4), 4));
    let is_child = signal == 17 && (1..=6).contains(&code);
    let set = if is_child { n::CHILD_CODE } else { n::CODE };
    if signal == 0 && call.syscall.is_some_and(|call| call.name == "waitid") {
        return Some(Value::Struct(Vec::new(), false));
    }
    let mut fields = vec![("si_signo", signal_name(signal)), ("si_code", cell::one(&set, code))];
    if is_child {
        let is_exit = code == 1;
        fields.extend([
            ("si_pid", int(16)),
            ("si_uid", Value::Unsigned(number(bytes, 20, 4))),
            ("si_status", if is_exit { int(24) } else { signal_name(number(bytes, 24, 4)) }),
            ("si_utime", Value::Unsigned(number(bytes, 32, 8))),
            ("si_stime", Value::Unsigned(number(bytes, 40, 8))),
        ]);
    } else if code == 0xffff_fffe {
        fields.extend([("si_timerid", int(16)), ("si_overrun", int(20))]);
        fields.extend(pair(bytes));
    } else if code != 0x80 {
        fields.extend([("si_pid", int(16)), ("si_uid", Value::Unsigned(number(bytes, 20, 4)))]);
        if code == 0xffff_ffff {
            fields.extend(pair(bytes));
        }
    }
    Some(Value::Struct(fields, false))
}

/// union sigval at its place in siginfo_t.
fn pair(bytes: &[u8]) -> [(&'static str, Value<'static>); 2] {
    let int = Value::Signed(cell::signed(number(bytes, 24, 4), 4));
    let pointer = Value::Address(number(bytes, 24, 8));
    [("si_int", int), ("si_ptr", pointer)]
}

/// The kernel's struct sigaction.
fn action(bytes: &[u8]) -> Option<Value<'static>> {
    const SA_RESTORER: u64 = 0x0400_0000;
    let flags = number(bytes, 8, 8);
    let handler = match number(bytes, 0, 8) {
        0 => Value::name("SIG_DFL"),
        1 => Value::name("SIG_IGN"),
        u64::MAX => Value::name("SIG_ERR"),
        other => Value::Address(other),
    };
    let mut fields = vec![
        ("sa_handler", handler),
        ("sa_mask", signals(number(bytes, 24, 8))),
        ("sa_flags", Value::Name(n::ACTION.flags(flags))),
    ];
    if flags & SA_RESTORER != 0 {
        fields.push(("sa_restorer", Value::Address(number(bytes, 16, 8))));
    }
    (bytes.len() >= 32).then_some(Value::Struct(fields, false))
}

fn event(bytes: &[u8]) -> Option<Value<'static>> {
    let int = Value::Signed(cell::signed(number(bytes, 0, 4), 4));
    let pointer = Value::Address(number(bytes, 0, 8));
    let how = number(bytes, 12, 4);
    let signal = match how {
        1 => Value::Unsigned(number(bytes, 8, 4)),
        _ => signal_name(number(bytes, 8, 4)),
    };
    let mut fields = Vec::new();
    if number(bytes, 0, 8) != 0 {
        let value = vec![("sival_int", int), ("sival_ptr", pointer)];
        fields.push(("sigev_value", Value::Struct(value, false)));
    }
    fields.extend([("sigev_signo", signal), ("sigev_notify", cell::one(&n::NOTIFY, how))]);
    match how {
        4 => fields
            .push(("sigev_notify_thread_id", Value::Signed(cell::signed(number(bytes, 16, 4), 4)))),
        2 => fields.extend([
            ("sigev_notify_function", Value::Address(number(bytes, 16, 8))),
            ("sigev_notify_attributes", Value::Address(number(bytes, 24, 8))),
        ]),
        _ => {}
    }
    (bytes.len() >= 32).then_some(Value::Struct(fields, false))
}

/// struct clone_args: what is not used is left out.
fn clone(call: &Call, bytes: &[u8]) -> Option<Value<'static>> {
    let at = |place: u16| number(bytes, place * 8, 8);
    let flags = at(0);
    let has = |flag| flags & flag != 0;
    let mut fields = vec![("flags", Value::Name(processes::CLONE.flags(flags)))];
    if has(0x1000) {
        fields.push(("pidfd", Value::Address(at(1))));
    }
    if has(0x0020_0000 | 0x0100_0000) {
        fields.push(("child_tid", Value::Address(at(2))));
    }
    if has(0x0010_0000) {
        fields.push(("parent_tid", Value::Address(at(3))));
    }
    let signal = if at(4) == 0 { Value::Unsigned(0) } else { signal_name(at(4)) };
    fields.push(("exit_signal", signal));
    fields.push(("stack", Value::Address(at(5))));
    fields.push(("stack_size", Value::Hex(at(6))));
    if has(0x0008_0000) {
        fields.push(("tls", Value::Address(at(7))));
    }
    if has(0x2_0000_0000) {
        fields.push(("cgroup", cell::descriptor(call, at(10))));
    }
    let before = (bytes.len() >= 64).then_some(Value::Struct(fields, false))?;
    // What the kernel has written there is what it returned.
    if !has(0x0010_0000) || call.result <= 0 {
        return Some(before);
    }
    let child = Value::List(vec![Value::Signed(call.result)], false);
    let after = Value::Struct(vec![("parent_tid", child)], false);
    Some(Value::Changed(Box::new(before), Box::new(after)))
}

/// Two times three words: the lower and upper halves of each set.
fn capabilities(bytes: &[u8]) -> Option<Value<'static>> {
    let set = |at: u16| {
        let mask = number(bytes, at, 4) | number(bytes, at + 12, 4) << 32;
        let name = |bit: u64| match processes::CAPABILITY.name(bit) {
            Some(name) => format!("1<<{name}"),
            None => format!("{:#x}", 1_u64 << bit),
        };
        let names: Vec<_> = (0..64).filter(|bit| mask >> bit & 1 != 0).map(name).collect();
        Value::Name(if names.is_empty() { "0".into() } else { names.join("|").into() })
    };
    let fields = vec![("effective", set(0)), ("permitted", set(4)), ("inheritable", set(8))];
    (bytes.len() >= 24).then_some(Value::Struct(fields, false))
}

/// The processors whose bits are set.
pub(super) fn processors(bytes: &[u8]) -> Value<'static> {
    let count = u32::try_from(bytes.len() * 8).unwrap_or(u32::MAX);
    let is_set =
        |bit: &u32| bytes.get(*bit as usize / 8).is_some_and(|byte| byte >> (bit % 8) & 1 != 0);
    let each = (0..count).filter(is_set).map(|bit| Value::Unsigned(bit.into()));
    Value::Made("[]", each.collect())
}
