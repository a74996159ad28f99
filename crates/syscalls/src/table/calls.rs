//! The table itself.

use super::Class::{Default, Descriptor, File, Network, Process};
use super::Kind::{
    DirFd, Fd, In, InMessage, InVector, Int, Mode, Out, OutMessage, OutSockaddr, OutVector, Path,
    Pointer, Size, Sockaddr, Strings,
};
use super::{Arg, Outcome, Syscall};

const fn a(name: &'static str, kind: super::Kind) -> Arg {
    Arg { name, kind }
}

/// All calls whose arguments are known.
pub const CALLS: &[Syscall] = &[
    Syscall {
        name: "read",
        args: &[a("fd", Fd), a("buf", Out), a("count", Size)],
        result: Outcome::Number,
        class: &[Descriptor],
    },
    Syscall {
        name: "write",
        args: &[a("fd", Fd), a("buf", In(2)), a("count", Size)],
        result: Outcome::Number,
        class: &[Descriptor],
    },
    Syscall { name: "close", args: &[a("fd", Fd)], result: Outcome::Zero, class: &[Descriptor] },
    Syscall {
        name: "openat",
        args: &[a("dirfd", DirFd), a("pathname", Path), a("flags", Int), a("mode", Mode)],
        result: Outcome::Fd,
        class: &[File, Descriptor, Default],
    },
    Syscall {
        name: "execve",
        args: &[a("pathname", Path), a("argv", Strings), a("envp", Strings)],
        result: Outcome::Zero,
        class: &[File, Process, Default],
    },
    Syscall {
        name: "connect",
        args: &[a("sockfd", Fd), a("addr", Sockaddr(2)), a("addrlen", Size)],
        result: Outcome::Zero,
        class: &[Network, Descriptor, Default],
    },
    Syscall {
        name: "accept",
        args: &[a("sockfd", Fd), a("addr", OutSockaddr(2)), a("addrlen", Pointer)],
        result: Outcome::Fd,
        class: &[Network, Descriptor, Default],
    },
    Syscall {
        name: "writev",
        args: &[a("fd", Fd), a("iov", InVector(2)), a("iovcnt", Int)],
        result: Outcome::Number,
        class: &[Descriptor],
    },
    Syscall {
        name: "readv",
        args: &[a("fd", Fd), a("iov", OutVector(2)), a("iovcnt", Int)],
        result: Outcome::Number,
        class: &[Descriptor],
    },
    Syscall {
        name: "sendmsg",
        args: &[a("sockfd", Fd), a("msg", InMessage), a("flags", Int)],
        result: Outcome::Number,
        class: &[Network, Descriptor],
    },
    Syscall {
        name: "recvmsg",
        args: &[a("sockfd", Fd), a("msg", OutMessage), a("flags", Int)],
        result: Outcome::Number,
        class: &[Network, Descriptor],
    },
    Syscall {
        name: "exit_group",
        args: &[a("status", Int)],
        result: Outcome::Never,
        class: &[Process, Default],
    },
];
