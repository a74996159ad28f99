//! Numbers of system calls and their names, for each calling convention.

mod aarch64;
mod i386;
mod x86_64;

/// A calling convention with numbers of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Abi {
    /// 64-bit x86.
    X86_64,
    /// 64-bit x86 with 32-bit pointers; its numbers are those of x86-64 for most calls.
    X32,
    /// 32-bit x86.
    I386,
    /// 64-bit Arm.
    Aarch64,
    /// 32-bit Arm: recorded as such, and no more is known of it here.
    Arm,
}

impl Abi {
    /// The convention of this program itself.
    pub const NATIVE: Self =
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// The 32-bit convention that this machine has too.
    pub const COMPAT: Self = if cfg!(target_arch = "aarch64") { Self::Arm } else { Self::I386 };

    /// What a record's byte means.
    pub fn of_record(byte: u8) -> Self {
        match byte {
            0 => Self::NATIVE,
            2 => Self::X32,
            _ => Self::COMPAT,
        }
    }

    fn names(self) -> &'static [(u32, &'static str)] {
        match self {
            Self::X86_64 | Self::X32 => x86_64::NAMES,
            Self::I386 => i386::NAMES,
            Self::Aarch64 => aarch64::NAMES,
            Self::Arm => &[],
        }
    }

    /// The name of call `number`.
    pub fn name(self, number: u32) -> Option<&'static str> {
        let names = self.names();
        let found = names.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        names.get(found).map(|(_, name)| *name)
    }

    /// The number of the call `name`.
    pub fn number(self, name: &str) -> Option<u32> {
        self.names().iter().find(|(_, other)| *other == name).map(|(number, _)| *number)
    }

    /// All calls, by number.
    pub fn calls(self) -> impl Iterator<Item = (u32, &'static str)> {
        self.names().iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_order_and_names_come_once() {
        for abi in [Abi::X86_64, Abi::I386, Abi::Aarch64] {
            assert!(abi.names().windows(2).all(|pair| pair[0].0 < pair[1].0), "{abi:?}");
            let mut names: Vec<_> = abi.calls().map(|(_, name)| name).collect();
            names.sort_unstable();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{abi:?}");
        }
    }

    #[test]
    fn the_native_numbers_are_the_kernel_s() {
        for (name, number) in [
            ("read", libc_number(libc::SYS_read)),
            ("execve", libc_number(libc::SYS_execve)),
            ("openat2", libc_number(libc::SYS_openat2)),
            ("pidfd_open", libc_number(libc::SYS_pidfd_open)),
        ] {
            assert_eq!(Abi::NATIVE.number(name), Some(number));
            assert_eq!(Abi::NATIVE.name(number), Some(name));
        }
        assert_eq!(Abi::NATIVE.name(5000), None);
    }

    fn libc_number(number: i64) -> u32 {
        u32::try_from(number).unwrap()
    }
}
