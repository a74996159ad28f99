//! From the table to what the BPF program captures: the same layout as bpf/syscalls.h.

use crate::layout::Shape;
use crate::numbers::Abi;
use crate::table::{self, Arg, Count, Kind, Outcome, Syscall, Way};
use crate::value::command::MEANINGS;

/// Numbers below this have rules.
pub const CALLS: usize = 512;

/// Arguments of a call.
pub const ARGS: usize = 6;

const STRING: u8 = 1;
const BUFFER: u8 = 2;
const FIXED: u8 = 3;
const ARRAY: u8 = 4;
const STRINGS: u8 = 5;
const VECTOR: u8 = 6;
const MESSAGE: u8 = 7;
const COUNTED: u8 = 8;
const DESCRIPTOR: u8 = 9;
const RESULT: u8 = 10;
const RESULT_VECTOR: u8 = 11;
const RESULT_ARRAY: u8 = 12;
const BITS: u8 = 13;
const COMMAND: u8 = 14;
const DESCRIPTORS: u8 = 15;
const ENTRIES: u8 = 16;

const IN: u8 = 1;
const AFTER: u8 = 2;
const ALWAYS: u8 = 4;

const GIVES_FILE: u32 = 1;
const NAMES_PATHS: u32 = 2;
const EXECUTES: u32 = 4;
const ENDS: u32 = 8;
const HAS_IN: u32 = 16;
const HAS_AFTER: u32 = 32;
const RETURNS: u32 = 64;

/// How one argument is captured (struct hs_rule).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    how: u8,
    when: u8,
    length: u16,
}

/// How one call is captured (struct hs_call_rules).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallRules {
    args: [Rule; ARGS],
    flags: u32,
}

impl CallRules {
    /// Its bytes, as the map wants them.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size_of::<Self>());
        for rule in self.args {
            bytes.extend([rule.how, rule.when]);
            bytes.extend(rule.length.to_ne_bytes());
        }
        bytes.extend(self.flags.to_ne_bytes());
        bytes
    }
}

/// The rules of the calls of this machine's own convention, by number, then those of the 32-bit one.
pub fn rules() -> Vec<CallRules> {
    let mut rules = vec![CallRules::default(); 2 * CALLS];
    let (native, compat) = rules.split_at_mut(CALLS);
    for (slots, abi) in [(native, Abi::NATIVE), (compat, Abi::COMPAT)] {
        for (number, name) in abi.calls() {
            if let (Some(slot), Some(call)) = (slots.get_mut(number as usize), table::of(abi, name))
            {
                *slot = of_call(call, abi == Abi::NATIVE);
            }
        }
    }
    rules
}

fn of_call(call: &Syscall, is_native: bool) -> CallRules {
    let mut rules = CallRules::default();
    for (slot, arg) in rules.args.iter_mut().zip(call.args) {
        if is_native || is_alike(arg.kind) {
            *slot = of_argument(arg);
        } else if matches!(arg.kind, Kind::Strings | Kind::Environment) {
            *slot = Rule { how: STRINGS, when: IN, length: 4 };
        }
    }
    let has = |when| rules.args.iter().any(|rule| rule.when & when != 0);
    let names_paths = call.args.iter().any(|arg| matches!(arg.kind, Kind::Path | Kind::DirFd));
    rules.flags = flag(call.result == Outcome::Fd || call.name == "fcntl", GIVES_FILE)
        | flag(names_paths, NAMES_PATHS)
        | flag(call.name.starts_with("execve"), EXECUTES)
        | flag(call.result == Outcome::Never, ENDS)
        | flag(is_native && call.name == "rt_sigreturn", RETURNS)
        | flag(has(IN), HAS_IN)
        | flag(has(AFTER), HAS_AFTER);
    rules
}

/// Whether what an argument points at looks the same for 32-bit programs.
fn is_alike(kind: Kind) -> bool {
    let is_pair = matches!(kind, Kind::To(Shape::TwoFds, _));
    is_pair
        || matches!(
            kind,
            Kind::Path
                | Kind::Text
                | Kind::Fd
                | Kind::DirFd
                | Kind::ChangedFd
                | Kind::In(_)
                | Kind::InText(_)
                | Kind::Out
                | Kind::OutPath
                | Kind::Sockaddr(_)
                | Kind::OutSockaddr(_)
                | Kind::SockaddrSize
        )
}

fn flag(is_set: bool, flag: u32) -> u32 {
    if is_set { flag } else { 0 }
}

fn of_argument(arg: &Arg) -> Rule {
    of_kind(arg.kind).unwrap_or_default()
}

/// How an argument of that kind is captured; nothing where its number is all.
fn of_kind(kind: Kind) -> Option<Rule> {
    let rule = |how, when, length: u16| Some(Rule { how, when, length });
    match kind {
        Kind::Path | Kind::Text => rule(STRING, IN, 0),
        Kind::Fd | Kind::DirFd => rule(DESCRIPTOR, IN, 0),
        Kind::ChangedFd => rule(DESCRIPTOR, IN | AFTER, 0),
        Kind::In(length)
        | Kind::InText(length)
        | Kind::Sockaddr(length)
        | Kind::OptionIn(length) => rule(BUFFER, IN, length.into()),
        Kind::Out | Kind::OutPath => rule(RESULT, AFTER, 0),
        Kind::InTyped(length) => rule(BUFFER, IN, u16::from(length) | TYPE << 3),
        Kind::OutTyped => rule(RESULT, AFTER, TYPE),
        Kind::Entries => rule(ENTRIES, AFTER, 0),
        Kind::OutSockaddr(length) | Kind::OptionOut(length) => rule(COUNTED, AFTER, length.into()),
        Kind::SockaddrSize => rule(FIXED, IN | AFTER, 4),
        Kind::Strings | Kind::Environment => rule(STRINGS, IN, 8),
        Kind::InVector(count) => rule(VECTOR, IN, count.into()),
        Kind::OutVector(count) => rule(RESULT_VECTOR, AFTER, count.into()),
        Kind::InMessage => rule(MESSAGE, IN, 0),
        Kind::OutMessage => rule(MESSAGE, IN | AFTER, 0),
        Kind::To(Shape::TwoFds, _) => rule(DESCRIPTORS, AFTER, 2),
        Kind::To(shape, way) => rule(FIXED, of_way(way), shape.size()),
        Kind::Many(shape, way, Count::Of(count)) => {
            rule(ARRAY, of_way(way), shape.size() << 3 | u16::from(count))
        }
        Kind::Many(shape, way, Count::Result) => rule(RESULT_ARRAY, of_way(way), shape.size()),
        Kind::Bits(count) => rule(BITS, IN | AFTER, count.into()),
        Kind::By(by) => rule(COMMAND, IN | AFTER, by.into()),
        _ => None,
    }
}

/// Bytes of a message's type before it.
const TYPE: u16 = 8;

fn of_way(way: Way) -> u8 {
    match way {
        Way::In => IN,
        Way::Out => AFTER,
        Way::InOut | Way::InLeft => IN | AFTER,
        Way::Left => AFTER | ALWAYS,
    }
}

/// The rule for a call's argument that depends on a command, with the call's number and the command.
pub fn commands(abi: Abi) -> Vec<([u32; 2], [u8; 4])> {
    let mut found = Vec::new();
    for meaning in MEANINGS {
        let (Some(number), Some(rule)) = (abi.number(meaning.call), of_kind(meaning.kind)) else {
            continue;
        };
        let [low, high] = rule.length.to_ne_bytes();
        let bytes = [rule.how, rule.when, low, high];
        found.extend(meaning.commands.iter().map(|command| ([number, *command], bytes)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_has_the_bytes_that_the_program_reads() {
        assert_eq!(size_of::<CallRules>(), ARGS * 4 + 4);
        let open = of_call(table::find("openat").unwrap(), true);
        assert_eq!(open.args[0], Rule { how: DESCRIPTOR, when: IN, length: 0 });
        assert_eq!(open.args[1], Rule { how: STRING, when: IN, length: 0 });
        assert_eq!(open.flags, GIVES_FILE | NAMES_PATHS | HAS_IN);
        assert_eq!(open.to_bytes().len(), size_of::<CallRules>());
    }
}
