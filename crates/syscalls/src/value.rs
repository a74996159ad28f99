//! What a call's arguments are, as values that every text form is written from.

mod argument;
mod cell;
pub(crate) use cell::octal;
pub(crate) mod command;
mod control;
mod futex;
mod message;
mod note;
mod option;
mod shape;
mod sockaddr;
mod special;
mod terminal;

use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::sync::Arc;

use crate::decode::Call;
use crate::named::Named;
use crate::numbers::Abi;
use crate::table::Outcome;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// A signed number.
    Signed(i64),
    /// An unsigned number.
    Unsigned(u64),
    /// A number in base 16.
    Hex(u64),
    /// A number in base 8.
    Octal(u64),
    /// An address; 0 is `NULL`.
    Address(u64),
    /// Constants by name.
    Name(Cow<'static, str>),
    /// Bytes; whether there were more, and whether they are a path.
    Bytes {
        /// What was captured.
        bytes: Cow<'a, [u8]>,
        /// Whether there was more.
        more: bool,
        /// Whether they are a path, which is never shortened.
        is_path: bool,
    },
    /// Bytes that are no text; whether there were more.
    Raw(&'a [u8], bool),
    /// A name in the abstract name space of Unix sockets.
    Abstract(&'a [u8]),
    /// An IPv6 address.
    Inet6(Ipv6Addr),
    /// A descriptor and what it stands for.
    Fd(i32, Option<Arc<Named>>),
    /// A structure; whether it has fields that are not told.
    Struct(Vec<(&'static str, Value<'a>)>, bool),
    /// Several; whether there were more.
    List(Vec<Value<'a>>, bool),
    /// As it was before the call, and as it is after it.
    Changed(Box<Value<'a>>, Box<Value<'a>>),
    /// With a note.
    Noted(Box<Value<'a>>, String),
    /// As a macro of a header makes it: a name, and what it is made of.
    Made(&'static str, Vec<Value<'a>>),
    /// One of two constants that have the same number.
    Either(Vec<Value<'a>>),
}

impl<'a> Value<'a> {
    /// A constant by its name.
    pub(crate) fn name(name: &'static str) -> Self {
        Self::Name(Cow::Borrowed(name))
    }

    /// Whole bytes.
    pub(crate) fn bytes(bytes: &'a [u8]) -> Self {
        Self::Bytes { bytes: Cow::Borrowed(bytes), more: false, is_path: false }
    }
}

/// An argument of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument<'a> {
    /// Its name in the man page.
    pub name: &'static str,
    /// What it is.
    pub value: Value<'a>,
    /// Whether strace(1) writes the name too.
    pub is_named: bool,
}

/// How much is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// All fields of structures.
    pub verbose: bool,
}

/// The arguments of a call, as far as the call has them.
pub fn arguments<'a>(call: &'a Call, detail: Detail) -> Vec<Argument<'a>> {
    let Some(syscall) = call.syscall else { return numbers(call) };
    // What is special of others is in memory that looks different for 32-bit programs.
    let is_alike = call.abi == Abi::NATIVE || matches!(syscall.name, "open" | "openat");
    let special = is_alike.then(|| special::arguments(call, syscall, detail)).flatten();
    if let Some(arguments) = special {
        return arguments;
    }
    let each = (0_u8..).zip(syscall.args);
    each.map(|(index, arg)| plain(arg.name, argument::value(call, index, arg.kind, detail)))
        .collect()
}

/// The arguments of a call whose meaning is not known.
fn numbers(call: &Call) -> Vec<Argument<'_>> {
    const NAMES: [&str; 6] = ["a0", "a1", "a2", "a3", "a4", "a5"];
    let each = NAMES.into_iter().zip(call.args);
    each.map(|(name, arg)| plain(name, Value::Hex(arg))).collect()
}

fn plain<'a>(name: &'static str, value: Value<'a>) -> Argument<'a> {
    Argument { name, value, is_named: false }
}

/// What a result is.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<'a> {
    /// It, as a value; nothing where the call failed or never returned.
    pub value: Option<Value<'a>>,
    /// What is told besides.
    pub note: Option<Note<'a>>,
}

/// What is told of a result besides.
#[derive(Clone, Debug, PartialEq)]
pub enum Note<'a> {
    /// Some words.
    Text(String),
    /// What the call has written.
    Value(Value<'a>),
}

/// The result of a call that returned.
pub fn answer<'a>(call: &'a Call, detail: Detail) -> Answer<'a> {
    if call.is_unreturned() || call.error().is_some() {
        return Answer { value: None, note: None };
    }
    let note = note::note(call, detail);
    let outcome = note::outcome(call).or(call.syscall.map(|call| call.result));
    let result = call.result;
    let value = match outcome {
        Some(Outcome::Fd) => {
            let fd = i32::try_from(result).unwrap_or(-1);
            Value::Fd(fd, call.file(6).cloned())
        }
        Some(Outcome::Hex | Outcome::Pointer) => Value::Hex(result.cast_unsigned()),
        Some(Outcome::Octal) => Value::Octal(result.cast_unsigned()),
        Some(Outcome::Zero | Outcome::Number | Outcome::Never) | None => Value::Signed(result),
    };
    Answer { value: Some(value), note }
}
