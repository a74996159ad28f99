//! The system calls by name: what their arguments are, in files by subject.
//!
//! Sources: the section 2 man pages, and include/linux/syscalls.h for the order of arguments.

/// Defines calls: name, arguments, result, classes.
macro_rules! calls {
    ($($name:ident($($arg:ident: $kind:expr),*) -> $result:ident [$($class:ident)*];)*) => {
        /// The calls of this subject.
        pub(super) const CALLS: &[Syscall] = &[
            $(Syscall {
                name: stringify!($name),
                args: &[$(Arg { name: stringify!($arg), kind: $kind }),*],
                result: Outcome::$result,
                class: &[$(Class::$class),*],
            }),*
        ];
    };
}

mod descriptors;
mod files;
mod i386;
mod ipc;
mod memory;
mod network;
mod processes;
mod signals;
mod system;
mod time;

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::layout::Shape;
use crate::names::Set;
use crate::numbers::Abi;

/// One system call, whatever its number.
#[derive(Debug)]
pub struct Syscall {
    /// Its name, as in [`crate::numbers`].
    pub name: &'static str,
    /// Its arguments.
    pub args: &'static [Arg],
    /// What its result is.
    pub result: Outcome,
    /// What it does that matters to whoever watches.
    pub class: &'static [Class],
}

/// One argument.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// Its name in the man page.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
}

/// What an argument is. Where another argument is named, it is by its number, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A signed number.
    Int,
    /// An unsigned number.
    Uint,
    /// A signed 64-bit number.
    Long,
    /// An unsigned 64-bit number, a number of bytes.
    Size,
    /// A number that is written in base 16.
    Hex,
    /// A System V key.
    Key,
    /// An address of the caller that is not followed.
    Pointer,
    /// A descriptor.
    Fd,
    /// A descriptor of which the call changes what it stands for.
    ChangedFd,
    /// A directory's descriptor, or AT_FDCWD.
    DirFd,
    /// A process or thread.
    Pid,
    /// A user or group; the greatest number is -1, none.
    Id,
    /// A signal.
    Signal,
    /// A device's number.
    Device,
    /// Flags of 32 bits.
    Flags(&'static Set),
    /// One of several names.
    OneOf(&'static Set),
    /// A string that names a file.
    Path,
    /// Another string.
    Text,
    /// A file's mode bits.
    Mode,
    /// How open(2) opens.
    Open,
    /// Bytes that the call reads, as many as the argument says.
    In(u8),
    /// Text of a length that the argument says, that the call reads.
    InText(u8),
    /// Bytes that the call writes, as many as its result says.
    Out,
    /// A System V message that the call reads: a type, and text as long as the argument says.
    InTyped(u8),
    /// A System V message that the call writes.
    OutTyped,
    /// Text that the call writes, as long as the result says.
    OutPath,
    /// Directory entries that the call writes; only their number is told.
    Entries,
    /// A socket address that the call reads, as long as the argument says.
    Sockaddr(u8),
    /// A socket address that the call writes, as long as the number that the argument points at.
    OutSockaddr(u8),
    /// The length of such an address, as it was and as it is.
    SockaddrSize,
    /// Strings, up to a null pointer.
    Strings,
    /// The same, told by its number only.
    Environment,
    /// An I/O vector that is read, of as many elements as the argument says.
    InVector(u8),
    /// An I/O vector that is written.
    OutVector(u8),
    /// A struct msghdr that is sent.
    InMessage,
    /// A struct msghdr that is received.
    OutMessage,
    /// What it points at.
    To(Shape, Way),
    /// As many as there are.
    Many(Shape, Way, Count),
    /// Bits, as many as the argument says.
    Bits(u8),
    /// Bytes that the call reads, as long as the argument says; what they mean depends on others.
    OptionIn(u8),
    /// Bytes that the call writes, as long as the number that the argument points at.
    OptionOut(u8),
    /// What it is depends on the argument of that number.
    By(u8),
}

/// Which way what an argument points at goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The call reads it.
    In,
    /// The call writes it.
    Out,
    /// Both.
    InOut,
    /// Both; what it has written is told with the result.
    InLeft,
    /// The call writes it where it was interrupted.
    Left,
}

/// How many elements there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// As many as the argument says.
    Of(u8),
    /// As many as the result says.
    Result,
}

/// What a result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 0, or an error.
    Zero,
    /// A number.
    Number,
    /// A number that is written in base 16.
    Hex,
    /// A number that is written in base 8.
    Octal,
    /// A descriptor.
    Fd,
    /// An address.
    Pointer,
    /// It does not return.
    Never,
}

/// What calls have in common, for `-e trace=%CLASS` and for the default set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// It takes a path.
    File,
    /// It takes or gives a descriptor.
    Descriptor,
    /// It makes, ends or waits for processes.
    Process,
    /// Sockets.
    Network,
    /// Signals.
    Signal,
    /// System V and POSIX objects.
    Ipc,
    /// Memory.
    Memory,
    /// It changes who the caller is.
    Creds,
    /// It reads or sets a clock.
    Clock,
    /// It is in the default set: what it does decides about security.
    Default,
}

impl Class {
    /// The class that `-e trace=%NAME` means.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "file" => Self::File,
            "desc" => Self::Descriptor,
            "process" => Self::Process,
            "network" | "net" => Self::Network,
            "signal" => Self::Signal,
            "ipc" => Self::Ipc,
            "memory" => Self::Memory,
            "creds" => Self::Creds,
            "clock" => Self::Clock,
            "default" => Self::Default,
            _ => return None,
        })
    }
}

/// The tables, by subject.
const SUBJECTS: [&[Syscall]; 9] = [
    files::CALLS,
    descriptors::CALLS,
    memory::CALLS,
    processes::CALLS,
    signals::CALLS,
    time::CALLS,
    network::CALLS,
    ipc::CALLS,
    system::CALLS,
];

static BY_NAME: LazyLock<HashMap<&'static str, &'static Syscall>> =
    LazyLock::new(|| all().map(|call| (call.name, call)).collect());

/// All calls whose arguments are known.
pub fn all() -> impl Iterator<Item = &'static Syscall> {
    SUBJECTS.into_iter().flatten()
}

pub(crate) use i386::modern;

/// The call that has that name in a calling convention; nothing where its arguments are not known.
pub fn of(abi: Abi, name: &str) -> Option<&'static Syscall> {
    match abi {
        Abi::X86_64 | Abi::Aarch64 => find(name),
        Abi::I386 => i386::find(name),
        Abi::X32 | Abi::Arm => None,
    }
}

/// The call of that name on 64-bit machines.
pub fn find(name: &str) -> Option<&'static Syscall> {
    BY_NAME.get(name).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_there_once_and_has_a_number_somewhere() {
        let mut names: Vec<_> = all().map(|call| call.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        for call in all() {
            let abis = [Abi::X86_64, Abi::I386, Abi::Aarch64];
            assert!(abis.iter().any(|abi| abi.number(call.name).is_some()), "{}", call.name);
            assert!(call.args.len() <= crate::rules::ARGS, "{}", call.name);
        }
    }

    #[test]
    fn every_call_of_the_64_bit_conventions_has_arguments() {
        let missing = |abi: Abi| {
            let names = abi.calls().map(|(_, name)| name);
            names.filter(|name| find(name).is_none()).collect::<Vec<_>>()
        };
        assert_eq!(missing(Abi::X86_64), Vec::<&str>::new());
        assert_eq!(missing(Abi::Aarch64), Vec::<&str>::new());
    }
}
