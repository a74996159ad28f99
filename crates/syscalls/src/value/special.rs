//! Calls whose arguments depend on each other.

use super::argument::{self, arg, arg32};
use super::cell::{self, number, signal_name};
use super::futex;
use super::{Argument, Detail, Value, plain, shape};
use crate::decode::Call;
use crate::names::{descriptors, files, ipc, memory, network, processes, terminal};
use crate::record::Part;
use crate::table::Syscall;

/// The arguments of a call that has its own way of telling them.
pub(super) fn arguments<'a>(
    call: &'a Call,
    syscall: &'static Syscall,
    detail: Detail,
) -> Option<Vec<Argument<'a>>> {
    let usual = || usual(call, syscall, detail);
    let first = |count: usize| usual().into_iter().take(count).collect::<Vec<_>>();
    Some(match syscall.name {
        "open" if !makes_file(arg32(call, 1)) => first(2),
        "openat" if !makes_file(arg32(call, 2)) => first(3),
        "mq_open" if arg32(call, 1) & CREATE == 0 => first(2),
        "clone" => clone(call, usual()),
        "fcntl" => fcntl(call, usual()),
        // FIONCLEX, FIOCLEX
        "ioctl" if matches!(arg32(call, 1), 0x5450 | 0x5451) => {
            with(first(2), 1, ioctl(arg(call, 1)))
        }
        // FICLONE
        "ioctl" if arg32(call, 1) == 0x4004_9409 => {
            let from = Value::Signed(arg32(call, 2).cast_signed().into());
            with(with(usual(), 1, ioctl(arg(call, 1))), 2, from)
        }
        "ioctl" => with(usual(), 1, ioctl(arg(call, 1))),
        "futex" => futex::arguments(call, usual()),
        "prctl" => prctl(call, usual()),
        "mmap" => with(usual(), 3, mapping(arg(call, 3))),
        "mremap" if arg(call, 3) & 2 == 0 => first(4),
        "socket" | "socketpair" => with(usual(), 1, kind(arg32(call, 1))),
        "preadv2" | "pwritev2" => without(usual(), 4),
        "shmget" => with(usual(), 2, with_mode(&ipc::SHARED_GET, arg32(call, 2))),
        "semget" => with(usual(), 2, with_mode(&ipc::GET, arg32(call, 2))),
        "msgget" => with(usual(), 1, with_mode(&ipc::GET, arg32(call, 1))),
        "mknod" if !is_device(arg32(call, 1)) => with(first(2), 1, file_mode(call, 1)),
        "mknodat" if !is_device(arg32(call, 2)) => with(first(3), 2, file_mode(call, 2)),
        "mknod" => with(usual(), 1, file_mode(call, 1)),
        "mknodat" => with(usual(), 2, file_mode(call, 2)),
        "getrandom" => with(usual(), 0, random(call)),
        "membarrier" if arg32(call, 1) & 1 == 0 => first(2),
        "reboot" if arg32(call, 2) != 0xa1b2_c3d4 => first(3),
        "fanotify_init" => with(usual(), 0, fanotify(arg32(call, 0))),
        "statx" => with(usual(), 2, statx(arg32(call, 2))),
        "rt_sigreturn" => {
            let mask = usual().into_iter().map(|argument| ("mask", argument.value));
            vec![plain("frame", Value::Struct(mask.collect(), false))]
        }
        "rseq" => with(usual(), 1, Value::Hex(arg(call, 1))),
        "sched_setaffinity" | "sched_getaffinity" => with_processors(call, usual()),
        "wait4" if call.result == 0 => with(usual(), 3, Value::Address(arg(call, 3))),
        "epoll_ctl" if arg32(call, 1) == 2 => with(usual(), 3, Value::Address(arg(call, 3))),
        "personality" if arg32(call, 0) == u32::MAX => first(1),
        "personality" => with(usual(), 0, personality(arg32(call, 0))),
        name @ ("utimensat" | "futimesat" | "utimes") => with_times(call, usual(), name),
        "utime" => utime(call, usual()),
        "openat2" => open_how(usual()),
        "mount" => mount(call, usual()),
        _ => return None,
    })
}

const CREATE: u32 = 0o100;

fn makes_file(flags: u32) -> bool {
    const TEMPORARY: u32 = 0o20_000_000;
    flags & (CREATE | TEMPORARY) != 0
}

fn usual<'a>(call: &'a Call, syscall: &'static Syscall, detail: Detail) -> Vec<Argument<'a>> {
    let each = (0_u8..).zip(syscall.args);
    let value = |(index, arg): (u8, &crate::table::Arg)| {
        plain(arg.name, argument::value(call, index, arg.kind, detail))
    };
    each.map(value).collect()
}

pub(super) fn with<'a>(
    mut all: Vec<Argument<'a>>,
    place: usize,
    value: Value<'a>,
) -> Vec<Argument<'a>> {
    if let Some(argument) = all.get_mut(place) {
        argument.value = value;
    }
    all
}

fn without(mut all: Vec<Argument<'_>>, place: usize) -> Vec<Argument<'_>> {
    if place < all.len() {
        all.remove(place);
    }
    all
}

fn clone<'a>(call: &Call, all: Vec<Argument<'a>>) -> Vec<Argument<'a>> {
    let flags = arg(call, 0);
    let named = |place: usize, name| {
        let value = all.get(place).map_or(Value::Address(0), |argument| argument.value.clone());
        Argument { name, value, is_named: true }
    };
    let (names, rest) = processes::CLONE.split(flags & !0xff);
    let mut parts: Vec<String> = Vec::new();
    parts.extend((!names.is_empty()).then_some(names));
    parts.extend((rest != 0).then(|| format!("{rest:#x}")));
    match crate::names::signal((flags & 0xff) as u32) {
        Some(name) => parts.push(format!("SIG{name}")),
        None if flags & 0xff != 0 => parts.push((flags & 0xff).to_string()),
        None if parts.is_empty() => parts.push("0".to_owned()),
        None => {}
    }
    let mut made = vec![named(1, "child_stack"), named(0, "flags")];
    if let Some(last) = made.last_mut() {
        last.value = Value::Name(parts.join("|").into());
    }
    if flags & (0x0010_0000 | 0x1000) != 0 {
        made.push(named(2, "parent_tid"));
    }
    if flags & 0x0008_0000 != 0 {
        made.push(named(4, "tls"));
    }
    if flags & (0x0020_0000 | 0x0100_0000) != 0 {
        made.push(named(3, "child_tidptr"));
    }
    made
}

fn fcntl<'a>(call: &Call, all: Vec<Argument<'a>>) -> Vec<Argument<'a>> {
    let value = arg(call, 2);
    let number = u64::from(arg32(call, 2));
    let shown = match arg32(call, 1) {
        // F_GETFD, F_GETFL, F_GETOWN, F_GETSIG, F_GETLEASE, F_GETPIPE_SZ, F_GET_SEALS
        1 | 3 | 9 | 11 | 1025 | 1032 | 1034 => return all.into_iter().take(2).collect(),
        0 | 8 | 1030 | 1031 => Value::Signed(cell::signed(number, 4)),
        2 => Value::Name(descriptors::FD_FLAGS.flags(number)),
        4 => Value::Name(cell::open(number)),
        10 => signal_name(number),
        1024 => cell::one(&descriptors::LOCK_KIND, value),
        1026 => Value::Name(descriptors::DNOTIFY.flags(value)),
        1033 => Value::Name(descriptors::SEALS.flags(value)),
        5..=7 | 15 | 16 | 36..=38 => return all,
        _ => Value::Hex(value),
    };
    with(all, 2, shown)
}

fn ioctl(command: u64) -> Value<'static> {
    let command = command & 0xffff_ffff;
    match command {
        0x5402 => either("SNDCTL_TMR_START", "TCSETS"),
        0x5403 => either("SNDCTL_TMR_STOP", "TCSETSW"),
        0x5404 => either("SNDCTL_TMR_CONTINUE", "TCSETSF"),
        0x4004_9409 => either("BTRFS_IOC_CLONE", "FICLONE"),
        0x4020_940d => either("BTRFS_IOC_CLONE_RANGE", "FICLONERANGE"),
        _ => match terminal::IOCTL.name(command) {
            Some(name) => Value::name(name),
            None => Value::Made("_IOC", parts(command)),
        },
    }
}

/// Two names of the same number.
fn either(one: &'static str, other: &'static str) -> Value<'static> {
    Value::Either(vec![Value::name(one), Value::name(other)])
}

/// What a command of ioctl(2) is made of.
fn parts(command: u64) -> Vec<Value<'static>> {
    let way = match command >> 30 & 3 {
        0 => "_IOC_NONE",
        1 => "_IOC_WRITE",
        2 => "_IOC_READ",
        _ => "_IOC_READ|_IOC_WRITE",
    };
    let hex = |shift: u32, mask: u64| Value::Hex(command >> shift & mask);
    vec![Value::name(way), hex(8, 0xff), hex(0, 0xff), hex(16, 0x3fff)]
}

fn prctl<'a>(call: &'a Call, all: Vec<Argument<'a>>) -> Vec<Argument<'a>> {
    let value = arg(call, 1);
    let two = |second| with(all.iter().take(2).cloned().collect(), 1, second);
    let flag = || Value::Signed(value.cast_signed());
    match arg32(call, 0) {
        // What has no further argument: PR_GET_DUMPABLE and so on.
        3 | 7 | 21 | 27 | 30 | 34 => all.into_iter().take(1).collect(),
        1 => two(signal_name(value)),
        2 | 15 | 16 | 37 => all.into_iter().take(2).collect(),
        4 | 36 => two(dumpable(arg32(call, 0), value)),
        8 | 29 => two(Value::Unsigned(value)),
        22 => seccomp(value, all),
        23 | 24 => two(cell::one(&processes::CAPABILITY, value)),
        38 | 41 => with(all, 1, flag()),
        _ => all,
    }
}

pub(super) fn dumpable(command: u32, value: u64) -> Value<'static> {
    match (command, value) {
        (4, 0) => Value::name("SUID_DUMP_DISABLE"),
        (4, 1) => Value::name("SUID_DUMP_USER"),
        (4, 2) => Value::name("SUID_DUMP_ROOT"),
        _ => Value::Unsigned(value),
    }
}

fn seccomp(mode: u64, all: Vec<Argument<'_>>) -> Vec<Argument<'_>> {
    let count = if mode == 2 { 3 } else { 2 };
    let all = all.into_iter().take(count).collect();
    with(all, 1, cell::one(&processes::SECCOMP_MODE, mode))
}

fn mapping(flags: u64) -> Value<'static> {
    let kind = memory::MAP_KIND.one(flags & 0xf);
    let (names, rest) = memory::MAP.split(flags & !0xf);
    let mut parts = vec![kind.into_owned()];
    parts.extend((!names.is_empty()).then_some(names));
    parts.extend((rest != 0).then(|| format!("{rest:#x}")));
    Value::Name(parts.join("|").into())
}

fn kind(value: u32) -> Value<'static> {
    let kind = network::KIND.one(u64::from(value & 0xf));
    let flags = u64::from(value & !0xf);
    match flags {
        0 => Value::Name(kind),
        _ => Value::Name(format!("{kind}|{}", network::KIND_FLAGS.flags(flags)).into()),
    }
}

fn fanotify(value: u32) -> Value<'static> {
    const CLASS: u32 = 0xc;
    let class = match value & CLASS {
        0 => "FAN_CLASS_NOTIF",
        4 => "FAN_CLASS_CONTENT",
        8 => "FAN_CLASS_PRE_CONTENT",
        _ => "0xc /* FAN_CLASS_??? */",
    };
    match value & !CLASS {
        0 => Value::name(class),
        flags => {
            let flags = files::FANOTIFY_INIT.flags(flags.into());
            Value::Name(format!("{class}|{flags}").into())
        }
    }
}

fn statx(value: u32) -> Value<'static> {
    let how = if value & 0x6000 == 0 { "AT_STATX_SYNC_AS_STAT" } else { "" };
    match (how, files::AT_STATX.flags(value.into())) {
        ("", flags) => Value::Name(flags),
        (how, _) if value == 0 => Value::name(how),
        (how, flags) => Value::Name(format!("{how}|{flags}").into()),
    }
}

fn with_mode(set: &crate::names::Set, flags: u32) -> Value<'static> {
    let mode = cell::octal(u64::from(flags & 0o777));
    match flags & !0o777 {
        0 => Value::Name(mode.into()),
        other => Value::Name(format!("{}|{mode}", set.flags(other.into())).into()),
    }
}

fn is_device(mode: u32) -> bool {
    matches!(mode >> 12 & 0xf, 2 | 6)
}

fn file_mode(call: &Call, index: u8) -> Value<'static> {
    cell::mode(u64::from(arg32(call, index) & 0xffff))
}

fn random(call: &Call) -> Value<'_> {
    match call.data(0, Part::Bytes, true) {
        Some((bytes, marks)) if call.error().is_none() => {
            Value::Raw(bytes, marks & crate::record::item_mark::MORE != 0)
        }
        _ => Value::Address(arg(call, 0)),
    }
}

fn with_processors<'a>(call: &'a Call, all: Vec<Argument<'a>>) -> Vec<Argument<'a>> {
    let is_out = call.syscall.is_some_and(|call| call.name == "sched_getaffinity");
    match call.data(2, Part::Bytes, is_out) {
        Some((bytes, _)) if call.error().is_none() || !is_out => {
            with(all, 2, shape::processors(bytes))
        }
        _ => all,
    }
}

pub(super) fn personality(value: u32) -> Value<'static> {
    let kind = processes::PERSONALITY.one(u64::from(value & 0xff));
    let flags = u64::from(value & !0xff);
    match flags {
        0 => Value::Name(kind),
        _ => Value::Name(format!("{kind}|{}", processes::PERSONALITY_FLAGS.flags(flags)).into()),
    }
}

/// Times that files get: the two special values stand alone, others have a note with the date.
fn with_times<'a>(call: &'a Call, all: Vec<Argument<'a>>, name: &str) -> Vec<Argument<'a>> {
    let (place, part) = match name {
        "utimensat" => (2, "tv_nsec"),
        "futimesat" => (2, "tv_usec"),
        _ => (1, "tv_usec"),
    };
    let Some((bytes, _)) = call.data(place, Part::Bytes, false) else { return all };
    let time = |at| file_time(number(bytes, at, 8), number(bytes, at + 8, 8), part);
    with(all, place.into(), Value::List(vec![time(0), time(16)], false))
}

fn file_time(seconds: u64, rest: u64, part: &'static str) -> Value<'static> {
    let (seconds, is_nano) = (seconds.cast_signed(), part == "tv_nsec");
    match rest {
        0x3fff_ffff if is_nano => Value::name("UTIME_NOW"),
        0x3fff_fffe if is_nano => Value::name("UTIME_OMIT"),
        _ => {
            let rest = Value::Signed(rest.cast_signed());
            let fields = vec![("tv_sec", Value::Signed(seconds)), (part, rest.clone())];
            let digits = if is_nano { 9 } else { 6 };
            let Value::Signed(rest) = rest else { return Value::Struct(fields, false) };
            noted(Value::Struct(fields, false), crate::text::date(seconds, rest, digits))
        }
    }
}

fn noted(value: Value<'_>, note: Option<String>) -> Value<'_> {
    match note {
        Some(note) => Value::Noted(Box::new(value), note),
        None => value,
    }
}

/// struct utimbuf, with dates.
fn utime<'a>(call: &'a Call, all: Vec<Argument<'a>>) -> Vec<Argument<'a>> {
    let Some((bytes, _)) = call.data(1, Part::Bytes, false) else { return all };
    let time = |at| {
        let seconds = number(bytes, at, 8).cast_signed();
        noted(Value::Signed(seconds), crate::text::date(seconds, 0, 6))
    };
    with(all, 1, Value::Struct(vec![("actime", time(0)), ("modtime", time(8))], false))
}

/// struct open_how: a mode only where a file may be made.
fn open_how<'a>(mut all: Vec<Argument<'a>>) -> Vec<Argument<'a>> {
    if let Some(Argument { value: Value::Struct(fields, _), .. }) = all.get_mut(2) {
        fields.retain(|(name, value)| *name != "mode" || *value != Value::Octal(0));
    }
    all
}

fn mount<'a>(call: &'a Call, all: Vec<Argument<'a>>) -> Vec<Argument<'a>> {
    /// Flags for which the kernel looks at neither type nor data.
    const CHANGES: u32 = 0x1000 | 0x2000 | 0xe_0000 | 0x10_0000;
    if arg32(call, 3) & CHANGES == 0 {
        return all;
    }
    let all = with(all, 2, Value::Address(arg(call, 2)));
    with(all, 4, Value::Address(arg(call, 4)))
}
