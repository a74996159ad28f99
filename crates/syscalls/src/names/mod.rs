//! Flags and enumerations by name, in files by subject.
//!
//! The names and numbers are those of the kernel's headers for programs (include/uapi); where flags
//! overlap, a name for several comes before those for one.

/// Defines sets: a doc comment, a name, what stands for what is unknown, and pairs.
macro_rules! sets {
    ($($(#[$doc:meta])* $set:ident $unknown:literal: $($name:ident $value:literal),*;)*) => {
        $(
            $(#[$doc])*
            pub const $set: crate::names::Set = crate::names::Set {
                names: &[$(($value, stringify!($name))),*],
                unknown: $unknown,
            };
        )*
    };
}

pub mod descriptors;
pub mod errors;
pub mod files;
pub mod ipc;
pub mod memory;
pub mod network;
pub mod processes;
pub mod signals;
pub mod system;
pub mod terminal;
pub mod time;

use std::borrow::Cow;
use std::fmt::Write;

/// Numbers and their names.
#[derive(Debug, PartialEq, Eq)]
pub struct Set {
    /// Each number with its name.
    pub names: &'static [(u64, &'static str)],
    /// What is said of a number that has none.
    pub unknown: &'static str,
}

impl Set {
    /// The name of exactly this number.
    pub fn name(&self, value: u64) -> Option<&'static str> {
        self.names.iter().find(|(number, _)| *number == value).map(|(_, name)| *name)
    }

    /// The number of that name.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.names.iter().find(|(_, other)| *other == name).map(|(number, _)| *number)
    }

    /// The value as one of the names; as a number with a note where it is none.
    pub fn one(&self, value: u64) -> Cow<'static, str> {
        match self.name(value) {
            Some(name) => Cow::Borrowed(name),
            None if value == 0 => Cow::Owned(format!("0 /* {} */", self.unknown)),
            None => Cow::Owned(format!("{value:#x} /* {} */", self.unknown)),
        }
    }

    /// The value as flags: names joined by `|`, and a number for the rest.
    pub fn flags(&self, value: u64) -> Cow<'static, str> {
        if let Some(name) = self.name(value) {
            return Cow::Borrowed(name);
        }
        if value == 0 {
            return Cow::Borrowed("0");
        }
        let (text, rest) = self.split(value);
        Cow::Owned(match (text.is_empty(), rest) {
            (_, 0) => text,
            (true, _) => format!("{rest:#x} /* {} */", self.unknown),
            (false, _) => format!("{text}|{rest:#x}"),
        })
    }

    /// The names that are in `value`, and the bits that have none.
    pub fn split(&self, value: u64) -> (String, u64) {
        let mut rest = value;
        let mut text = String::new();
        for (number, name) in self.names {
            if *number != 0 && rest & number == *number {
                let bar = if text.is_empty() { "" } else { "|" };
                let _ = write!(text, "{bar}{name}");
                rest &= !number;
            }
        }
        (text, rest)
    }
}

/// Names of signals 1 to 31.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The first real-time signal, as the kernel counts.
const FIRST_REAL_TIME: u32 = 32;

/// A signal's name without `SIG`.
pub fn signal(number: u32) -> Option<Cow<'static, str>> {
    match number {
        1..=31 => SIGNALS.get(number as usize - 1).copied().map(Cow::Borrowed),
        FIRST_REAL_TIME => Some(Cow::Borrowed("RTMIN")),
        33..=64 => Some(Cow::Owned(format!("RT_{}", number - FIRST_REAL_TIME))),
        _ => None,
    }
}

/// The kernel's own errors that programs do not get to see, except under a tracer.
const RESTARTS: [(i64, &str, &str); 4] = [
    (512, "ERESTARTSYS", "To be restarted if SA_RESTART is set"),
    (513, "ERESTARTNOINTR", "To be restarted"),
    (514, "ERESTARTNOHAND", "To be restarted if no handler"),
    (516, "ERESTART_RESTARTBLOCK", "Interrupted by signal"),
];

/// The name and meaning of a restart "error" of that number.
pub fn restart(number: i64) -> Option<(&'static str, &'static str)> {
    let found = RESTARTS.iter().find(|(other, ..)| *other == number)?;
    Some((found.1, found.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_joined_and_the_rest_is_a_number() {
        assert_eq!(files::OPEN.flags(0o2_000_100), "O_CREAT|O_CLOEXEC");
        assert_eq!(memory::PROTECTION.flags(0), "PROT_NONE");
        assert_eq!(memory::PROTECTION.flags(0x101), "PROT_READ|0x100");
        assert_eq!(memory::PROTECTION.flags(0x100), "0x100 /* PROT_??? */");
        assert_eq!(files::RENAME.flags(0), "0");
        assert_eq!(memory::ADVICE.one(4), "MADV_DONTNEED");
        assert_eq!(memory::ADVICE.one(999), "0x3e7 /* MADV_??? */");
    }

    #[test]
    fn open_s_flags_are_those_of_the_machine() {
        for (name, value) in [
            ("O_DIRECTORY", libc::O_DIRECTORY),
            ("O_NOFOLLOW", libc::O_NOFOLLOW),
            ("O_DIRECT", libc::O_DIRECT),
            ("O_TMPFILE", libc::O_TMPFILE),
        ] {
            assert_eq!(files::OPEN.number(name), Some(u64::from(value.cast_unsigned())), "{name}");
        }
        assert_eq!(files::OPEN_ARM.flags(0o40_000), "O_DIRECTORY");
        assert_eq!(files::OPEN_ARM.flags(0o100_000), "O_NOFOLLOW");
    }

    #[test]
    fn signals_have_the_names_of_the_kernel_s_numbers() {
        assert_eq!(signal(libc::SIGCHLD.cast_unsigned()).unwrap(), "CHLD");
        assert_eq!(signal(libc::SIGSYS.cast_unsigned()).unwrap(), "SYS");
        assert_eq!(signal(33).unwrap(), "RT_1");
        assert_eq!(signal(0), None);
    }
}
