//! The system calls by name: what their arguments are.
//!
//! Sources: the section 2 man pages, and include/linux/syscalls.h for the order of arguments.

mod calls;

pub use calls::CALLS;

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
    /// A number of bytes.
    Size,
    /// An address of the caller that is not followed.
    Pointer,
    /// A descriptor.
    Fd,
    /// A directory's descriptor, or AT_FDCWD.
    DirFd,
    /// A string that names a file.
    Path,
    /// Another string.
    Text,
    /// A file's mode bits.
    Mode,
    /// Bytes that the call reads, as many as the argument says.
    In(u8),
    /// Bytes that the call writes, as many as its result says.
    Out,
    /// A socket address that the call reads, as long as the argument says.
    Sockaddr(u8),
    /// A socket address that the call writes, as long as the number that the argument points at.
    OutSockaddr(u8),
    /// Strings, up to a null pointer.
    Strings,
    /// An I/O vector that is read, of as many elements as the argument says.
    InVector(u8),
    /// An I/O vector that is written.
    OutVector(u8),
    /// A struct msghdr that is sent.
    InMessage,
    /// A struct msghdr that is received.
    OutMessage,
}

/// What a result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 0, or an error.
    Zero,
    /// A number.
    Number,
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
    /// It is in the default set: what it does decides about security.
    Default,
}

/// The call of that name.
pub fn find(name: &str) -> Option<&'static Syscall> {
    CALLS.iter().find(|call| call.name == name)
}
