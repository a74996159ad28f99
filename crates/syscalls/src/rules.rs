//! From the table to what the BPF program captures: the same layout as bpf/syscalls.h.

use crate::numbers::Abi;
use crate::table::{self, Arg, Kind, Outcome, Syscall};

/// Numbers below this have rules.
pub const CALLS: usize = 512;

/// Arguments of a call.
pub const ARGS: usize = 6;

const STRING: u8 = 1;
const BUFFER: u8 = 2;
const STRINGS: u8 = 5;
const VECTOR: u8 = 6;
const MESSAGE: u8 = 7;
const COUNTED: u8 = 8;
const DESCRIPTOR: u8 = 9;
const RESULT: u8 = 10;
const RESULT_VECTOR: u8 = 11;

const IN: u8 = 1;
const AFTER: u8 = 2;

const GIVES_FILE: u32 = 1;
const NAMES_PATHS: u32 = 2;
const EXECUTES: u32 = 4;
const ENDS: u32 = 8;
const HAS_IN: u32 = 16;
const HAS_AFTER: u32 = 32;

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

/// The rules of the calls of `abi`, by number.
pub fn rules(abi: Abi) -> Vec<CallRules> {
    let mut rules = vec![CallRules::default(); CALLS];
    for (number, name) in abi.calls() {
        if let (Some(slot), Some(call)) = (rules.get_mut(number as usize), table::find(name)) {
            *slot = of_call(call);
        }
    }
    rules
}

fn of_call(call: &Syscall) -> CallRules {
    let mut rules = CallRules::default();
    for (slot, arg) in rules.args.iter_mut().zip(call.args) {
        *slot = of_argument(arg);
    }
    let has = |when| rules.args.iter().any(|rule| rule.how != DESCRIPTOR && rule.when & when != 0);
    let names_paths = call.args.iter().any(|arg| arg.kind == Kind::Path);
    rules.flags = flag(call.result == Outcome::Fd, GIVES_FILE)
        | flag(names_paths, NAMES_PATHS)
        | flag(call.name.starts_with("execve"), EXECUTES)
        | flag(call.result == Outcome::Never, ENDS)
        | flag(has(IN), HAS_IN)
        | flag(has(AFTER), HAS_AFTER);
    rules
}

fn flag(is_set: bool, flag: u32) -> u32 {
    if is_set { flag } else { 0 }
}

fn of_argument(arg: &Arg) -> Rule {
    let rule = |how, when, length: u8| Rule { how, when, length: u16::from(length) };
    match arg.kind {
        Kind::Path | Kind::Text => rule(STRING, IN, 0),
        Kind::Fd | Kind::DirFd => rule(DESCRIPTOR, IN, 0),
        Kind::In(length) | Kind::Sockaddr(length) => rule(BUFFER, IN, length),
        Kind::Out => rule(RESULT, AFTER, 0),
        Kind::OutSockaddr(length) => rule(COUNTED, AFTER, length),
        Kind::Strings => rule(STRINGS, IN, 0),
        Kind::InVector(count) => rule(VECTOR, IN, count),
        Kind::OutVector(count) => rule(RESULT_VECTOR, AFTER, count),
        Kind::InMessage => rule(MESSAGE, IN, 0),
        Kind::OutMessage => rule(MESSAGE, AFTER, 0),
        Kind::Int | Kind::Uint | Kind::Long | Kind::Size | Kind::Pointer | Kind::Mode => {
            Rule::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_has_the_bytes_that_the_program_reads() {
        assert_eq!(size_of::<CallRules>(), ARGS * 4 + 4);
        let open = of_call(table::find("openat").unwrap());
        assert_eq!(open.args[0], Rule { how: DESCRIPTOR, when: IN, length: 0 });
        assert_eq!(open.args[1], Rule { how: STRING, when: IN, length: 0 });
        assert_eq!(open.flags, GIVES_FILE | NAMES_PATHS | HAS_IN);
        assert_eq!(open.to_bytes().len(), size_of::<CallRules>());
    }

    #[test]
    fn every_call_of_the_table_has_a_number_somewhere() {
        for call in table::CALLS {
            let abis = [Abi::X86_64, Abi::I386, Abi::Aarch64];
            assert!(abis.iter().any(|abi| abi.number(call.name).is_some()), "{}", call.name);
            assert!(call.args.len() <= ARGS, "{}", call.name);
        }
    }
}
