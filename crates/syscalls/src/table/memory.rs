//! Memory.

use super::Kind::{Fd, Flags, Hex, Int, OneOf, Pid, Pointer, Size};
use super::{Arg, Class, Outcome, Syscall};
use crate::names::memory as n;

calls! {
    brk(addr: Pointer) -> Pointer [Memory];
    mmap(addr: Pointer, length: Size, prot: Flags(&n::PROTECTION), flags: Flags(&n::MAP), fd: Fd, offset: Hex) -> Pointer [Memory Descriptor];
    munmap(addr: Pointer, length: Size) -> Zero [Memory];
    mremap(old_address: Pointer, old_size: Size, new_size: Size, flags: Flags(&n::REMAP), new_address: Pointer) -> Pointer [Memory];
    mprotect(addr: Pointer, len: Size, prot: Flags(&n::PROTECTION)) -> Zero [Memory];
    pkey_mprotect(addr: Pointer, len: Size, prot: Flags(&n::PROTECTION), pkey: Int) -> Zero [Memory];
    pkey_alloc(flags: Hex, access_rights: Hex) -> Number [];
    pkey_free(pkey: Int) -> Zero [];
    msync(addr: Pointer, length: Size, flags: Flags(&n::SYNC)) -> Zero [Memory];
    madvise(addr: Pointer, length: Size, advice: OneOf(&n::ADVICE)) -> Zero [Memory];
    process_madvise(pidfd: Fd, iovec: super::Kind::InVector(2), vlen: Size, advice: OneOf(&n::ADVICE), flags: Hex) -> Number [Memory Descriptor];
    process_mrelease(pidfd: Fd, flags: Hex) -> Zero [Descriptor];
    mincore(addr: Pointer, length: Size, vec: Pointer) -> Zero [Memory];
    mlock(addr: Pointer, len: Size) -> Zero [Memory];
    mlock2(addr: Pointer, len: Size, flags: Flags(&n::LOCK)) -> Zero [Memory];
    munlock(addr: Pointer, len: Size) -> Zero [Memory];
    mlockall(flags: Flags(&n::LOCK_ALL)) -> Zero [Memory];
    munlockall() -> Zero [Memory];
    mseal(addr: Pointer, len: Size, flags: Hex) -> Zero [Memory];
    map_shadow_stack(addr: Pointer, size: Size, flags: Hex) -> Pointer [Memory];
    memfd_secret(flags: Flags(&n::MEMFD)) -> Fd [Descriptor];
    remap_file_pages(addr: Pointer, size: Size, prot: Flags(&n::PROTECTION), pgoff: Size, flags: Flags(&n::MAP)) -> Zero [Memory];
    mbind(addr: Pointer, len: Size, mode: OneOf(&n::POLICY), nodemask: Pointer, maxnode: Size, flags: Hex) -> Zero [Memory];
    set_mempolicy(mode: OneOf(&n::POLICY), nodemask: Pointer, maxnode: Size) -> Zero [Memory];
    set_mempolicy_home_node(start: Pointer, len: Size, home_node: Size, flags: Hex) -> Zero [Memory];
    get_mempolicy(mode: Pointer, nodemask: Pointer, maxnode: Size, addr: Pointer, flags: Hex) -> Zero [Memory];
    migrate_pages(pid: Pid, maxnode: Size, old_nodes: Pointer, new_nodes: Pointer) -> Number [Memory];
    move_pages(pid: Pid, count: Size, pages: Pointer, nodes: Pointer, status: Pointer, flags: Hex) -> Number [Memory];
    membarrier(cmd: Flags(&n::MEMBARRIER), flags: Hex, cpu_id: Int) -> Number [];
    userfaultfd(flags: Flags(&crate::names::system::USERFAULTFD)) -> Fd [Descriptor];
    process_vm_readv(pid: Pid, local_iov: super::Kind::OutVector(2), liovcnt: Size, remote_iov: Pointer, riovcnt: Size, flags: Hex) -> Number [Default];
    process_vm_writev(pid: Pid, local_iov: super::Kind::InVector(2), liovcnt: Size, remote_iov: Pointer, riovcnt: Size, flags: Hex) -> Number [Default];
    modify_ldt(func: Int, ptr: Pointer, bytecount: Size) -> Number [];
}
