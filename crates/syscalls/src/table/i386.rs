//! Calls of 32-bit x86 that are called otherwise, or have other arguments, than on 64-bit machines.
//! Numbers of 64 bits come in two arguments there; what others point at looks different, and is not told.

use super::Kind::{DirFd, Fd, Flags, Hex, In, Int, OneOf, Out, Path, Pid, Pointer, Size, Uint};
use super::{Arg, Class, Outcome, Syscall};
use crate::names::{descriptors as d, files as f, memory as m, network as net, processes as p};

calls! {
    waitpid(pid: Pid, wstatus: Pointer, options: Flags(&p::WAIT)) -> Number [Process];
    umount(target: Path) -> Zero [File Default];
    stime(t: Pointer) -> Zero [Clock];
    nice(inc: Int) -> Number [];
    readdir(fd: Fd, dirp: Pointer, count: Uint) -> Number [Descriptor];
    truncate64(path: Path, length_low: Hex, length_high: Hex) -> Zero [File];
    ftruncate64(fd: Fd, length_low: Hex, length_high: Hex) -> Zero [Descriptor];
    pread64(fd: Fd, buf: Out, count: Size, offset_low: Hex, offset_high: Hex) -> Number [Descriptor];
    pwrite64(fd: Fd, buf: In(2), count: Size, offset_low: Hex, offset_high: Hex) -> Number [Descriptor];
    readahead(fd: Fd, offset_low: Hex, offset_high: Hex, count: Size) -> Zero [Descriptor];
    fallocate(fd: Fd, mode: Flags(&f::FALLOCATE), offset_low: Hex, offset_high: Hex, len_low: Hex, len_high: Hex) -> Zero [Descriptor];
    fadvise64(fd: Fd, offset_low: Hex, offset_high: Hex, len: Size, advice: OneOf(&f::ADVICE)) -> Zero [Descriptor];
    fadvise64_64(fd: Fd, offset_low: Hex, offset_high: Hex, len_low: Hex, len_high: Hex, advice: OneOf(&f::ADVICE)) -> Zero [Descriptor];
    sync_file_range(fd: Fd, offset_low: Hex, offset_high: Hex, nbytes_low: Hex, nbytes_high: Hex, flags: Flags(&f::SYNC_RANGE)) -> Zero [Descriptor];
    fanotify_mark(fd: Fd, flags: Flags(&f::FANOTIFY_MARK), mask_low: Hex, mask_high: Hex, dirfd: DirFd, pathname: Path) -> Zero [File Descriptor];
    _llseek(fd: Fd, offset_high: Hex, offset_low: Hex, result: Pointer, whence: OneOf(&d::SEEK)) -> Zero [Descriptor];
    select(arguments: Pointer) -> Number [Descriptor];
    mmap(arguments: Pointer) -> Pointer [Memory Descriptor];
    mmap2(addr: Pointer, length: Size, prot: Flags(&m::PROTECTION), flags: Flags(&m::MAP), fd: Fd, pgoffset: Hex) -> Pointer [Memory Descriptor];
    clone(flags: Hex, stack: Pointer, parent_tid: Pointer, tls: Pointer, child_tid: Pointer) -> Number [Process Default];
    socketcall(call: OneOf(&net::SOCKETCALL), args: Pointer) -> Number [Network Default];
    ipc(call: Uint, first: Int, second: Hex, third: Hex, ptr: Pointer, fifth: Hex) -> Number [Ipc];
    sigaction(signum: super::Kind::Signal, act: Pointer, oldact: Pointer) -> Zero [Signal];
    signal(signum: super::Kind::Signal, handler: Pointer) -> Pointer [Signal];
    sgetmask() -> Hex [Signal];
    ssetmask(newmask: Hex) -> Hex [Signal];
    sigprocmask(how: Int, set: Pointer, oldset: Pointer) -> Zero [Signal];
    sigpending(set: Pointer) -> Zero [Signal];
    sigsuspend(unused1: Int, unused2: Int, mask: Hex) -> Zero [Signal];
    sigreturn() -> Number [Signal];
    rt_sigreturn() -> Number [Signal];
    olduname(name: Pointer) -> Zero [];
    oldolduname(name: Pointer) -> Zero [];
    set_thread_area(u_info: Pointer) -> Zero [];
    get_thread_area(u_info: Pointer) -> Zero [];
}

/// The call of that name.
pub(super) fn find(name: &str) -> Option<&'static Syscall> {
    CALLS.iter().find(|call| call.name == name).or_else(|| super::find(modern(name)))
}

/// A call of the 32-bit convention by the name that it has elsewhere.
pub(crate) fn modern(name: &str) -> &str {
    match name {
        "_llseek" => "lseek",
        "_newselect" => "select",
        "mmap2" => "mmap",
        "ugetrlimit" => "getrlimit",
        "umount" => "umount2",
        "waitpid" => "wait4",
        "sigaction" => "rt_sigaction",
        "sigpending" => "rt_sigpending",
        "sigprocmask" => "rt_sigprocmask",
        "sigreturn" => "rt_sigreturn",
        "sigsuspend" => "rt_sigsuspend",
        "signal" | "sgetmask" | "ssetmask" => "rt_sigaction",
        "socketcall" => "socket",
        "ipc" => "semop",
        "readdir" => "getdents",
        "oldstat" => "stat",
        "oldlstat" => "lstat",
        "oldfstat" => "fstat",
        "fstatat64" => "newfstatat",
        "sendfile64" => "sendfile",
        "fadvise64_64" => "fadvise64",
        "stime" => "settimeofday",
        "nice" => "setpriority",
        "olduname" | "oldolduname" => "uname",
        "ftime" => "gettimeofday",
        "ulimit" => "setrlimit",
        _ => {
            let short = ["_time64", "64_time64", "_time32", "64", "32"]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            match short {
                Some(short) if super::find(name).is_none() => short,
                _ => name,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::Abi;

    #[test]
    fn every_call_of_the_32_bit_convention_is_known_by_another_name_or_gone() {
        let unknown = |(_, name): &(u32, &str)| find(name).is_none();
        let names: Vec<_> = Abi::I386.calls().filter(unknown).map(|(_, name)| name).collect();
        let gone = ["break", "stty", "gtty", "prof", "lock", "mpx", "profil", "idle", "bdflush"];
        let is_other = |name: &&str| !gone.contains(name) && !name.starts_with("vm86");
        assert_eq!(names.into_iter().filter(is_other).collect::<Vec<_>>(), [""; 0]);
    }

    #[test]
    fn what_is_different_is_in_no_other_table_by_mistake() {
        for call in CALLS {
            assert!(Abi::I386.number(call.name).is_some(), "{}", call.name);
            assert!(call.args.len() <= crate::rules::ARGS, "{}", call.name);
        }
        assert_eq!(find("setuid32").unwrap().name, "setuid");
        assert_eq!(find("openat").unwrap().name, "openat");
        assert_eq!(find("mmap").unwrap().args.len(), 1);
    }
}
