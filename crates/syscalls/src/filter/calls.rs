//! Sets of system calls, and the words that name them.

use crate::numbers::Abi;
use crate::rules::CALLS;
use crate::table::{self, Class, modern};

/// One bit for each number below [`CALLS`].
pub type Bits = [u64; CALLS / 64];

/// Which calls, by number, for each calling convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallSet {
    /// Of the native convention, and of x32, whose numbers are nearly the same.
    pub native: Bits,
    /// Of the 32-bit one.
    pub compat: Bits,
    /// Whether calls with numbers that no table has are in it, and any of x32: a server has no good
    /// reason for them.
    pub unnamed: bool,
}

impl CallSet {
    /// Every call.
    pub const ALL: Self =
        Self { native: [u64::MAX; CALLS / 64], compat: [u64::MAX; CALLS / 64], unnamed: true };
    /// No call.
    pub const NONE: Self =
        Self { native: [0; CALLS / 64], compat: [0; CALLS / 64], unnamed: false };

    /// The calls that are in one of both.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        let both = |mine: &mut Bits, theirs: &Bits| {
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine |= theirs);
        };
        both(&mut self.native, &other.native);
        both(&mut self.compat, &other.compat);
        self.unnamed |= other.unnamed;
        self
    }

    /// Whether it has the call of that number; `abi` is the byte of a record's head.
    pub fn has(&self, abi: u8, number: u32) -> bool {
        let bits = if abi == 1 { &self.compat } else { &self.native };
        match bits.get(number as usize / 64) {
            Some(word) if abi != 2 => word >> (number % 64) & 1 != 0,
            Some(word) => self.unnamed || word >> (number % 64) & 1 != 0,
            None => self.unnamed,
        }
    }

    /// Puts in, or takes out, the calls whose names are such.
    fn change(&mut self, is_in: bool, is_it: impl Fn(Abi, &str) -> bool) -> bool {
        let mut is_any = false;
        for (bits, abi) in [(&mut self.native, Abi::NATIVE), (&mut self.compat, Abi::COMPAT)] {
            for (number, _) in abi.calls().filter(|(_, name)| is_it(abi, name)) {
                is_any = true;
                let Some(word) = bits.get_mut(number as usize / 64) else { continue };
                let bit = 1 << (number % 64);
                *word = if is_in { *word | bit } else { *word & !bit };
            }
        }
        is_any
    }

    /// Puts in, or takes out, what a word means; whether it means anything.
    pub(super) fn apply(&mut self, word: &str, is_in: bool) -> bool {
        let whole = if is_in { Self::ALL } else { Self::NONE };
        match word {
            "all" => *self = whole,
            "none" => *self = if is_in { *self } else { Self::ALL },
            "default" => {
                self.unnamed = is_in;
                if Abi::COMPAT.calls().next().is_none() {
                    // No names are known there: what they are cannot be told apart.
                    self.compat = whole.compat;
                }
                return self.class(Class::Default, is_in);
            }
            _ => {
                let Some(group) = word.strip_prefix('%') else {
                    return self.change(is_in, |_, name| name == word);
                };
                return match (group, Class::named(group)) {
                    (_, Some(class)) => self.class(class, is_in),
                    (group, None) => self.family(group, is_in),
                };
            }
        }
        true
    }

    fn class(&mut self, class: Class, is_in: bool) -> bool {
        self.change(is_in, |abi, name| {
            table::of(abi, name).is_some_and(|call| call.class.contains(&class))
        })
    }

    /// The groups that are lists of names.
    fn family(&mut self, group: &str, is_in: bool) -> bool {
        let Some((_, names)) = FAMILIES.iter().find(|(name, _)| *name == group) else {
            return false;
        };
        self.change(is_in, |_, name| names.contains(&modern(name)))
    }
}

/// Groups of strace(1) that are no classes of the table.
const FAMILIES: [(&str, &[&str]); 7] = [
    ("stat", &["stat"]),
    ("lstat", &["lstat"]),
    ("fstat", &["fstat", "newfstatat"]),
    ("%stat", &["stat", "lstat", "fstat", "newfstatat", "statx"]),
    ("statfs", &["statfs"]),
    ("fstatfs", &["fstatfs"]),
    ("%statfs", &["statfs", "fstatfs", "ustat"]),
];

/// All words that name several calls, for messages.
pub const GROUPS: &str = "all, none, default, %file, %desc, %process, %network, %signal, %ipc, \
     %memory, %creds, %clock, %stat, %lstat, %fstat, %%stat, %statfs, %fstatfs, %%statfs";

#[cfg(test)]
mod tests {
    use super::*;

    fn set(words: &[&str]) -> CallSet {
        let mut set = CallSet::NONE;
        for word in words {
            assert!(set.apply(word.trim_start_matches('!'), !word.starts_with('!')), "{word}");
        }
        set
    }

    fn has(set: &CallSet, name: &str) -> bool {
        set.has(0, Abi::NATIVE.number(name).unwrap())
    }

    #[test]
    fn words_put_in_and_take_out() {
        let files = set(&["%file", "!unlinkat"]);
        assert!(has(&files, "openat") && !has(&files, "unlinkat") && !has(&files, "read"));
        assert!(set(&["default"]).has(0, 5000) && !files.has(0, 5000));
        assert!(!has(&set(&["all", "!read"]), "read"));
        assert!(has(&set(&["none", "read"]), "read"));
        assert!(has(&set(&["%%stat"]), "statx"));
        let mut nothing = CallSet::NONE;
        assert!(!nothing.apply("opne", true) && !nothing.apply("%fil", true));
    }

    #[test]
    fn groups_hold_for_the_32_bit_convention_too() {
        let number = |name| Abi::I386.number(name).unwrap();
        assert!(set(&["%network"]).has(1, number("socketcall")));
        assert!(set(&["%file"]).has(1, number("stat64")));
        assert!(set(&["default"]).has(1, number("setuid32")));
        assert!(!set(&["%network"]).has(1, number("read")));
    }

    #[test]
    fn the_default_set_has_what_decides_about_security() {
        let default = set(&["default"]);
        for name in
            ["execve", "openat", "connect", "bind", "unlinkat", "renameat", "mount", "ptrace"]
        {
            assert!(has(&default, name) || Abi::NATIVE.number(name).is_none(), "{name}");
        }
        assert!(!has(&default, "read") && !has(&default, "futex"));
    }
}
