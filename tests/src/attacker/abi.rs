//! Getting round the filter by another architecture's system calls: `int 0x80` and x32.

use std::io;

use super::call::sys;
use super::{Attempt, Targets, Verdict};

const ABI: &str = "only the native system call interface: seccomp checks the architecture first";

const fn attempt(name: &'static str, tests: &'static str, run: fn(&Targets) -> Verdict) -> Attempt {
    Attempt::new("packets", name, tests, run)
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt("int80-getpid", ABI, |_| int80(20, [0; 3])),
    attempt("int80-socket-packet", ABI, |_| {
        int80(359, [libc::AF_PACKET.cast_unsigned(), libc::SOCK_RAW.cast_unsigned(), 0])
    }),
    attempt("int80-socketcall-packet", ABI, |_| socketcall()),
    attempt("int80-unshare", ABI, |_| int80(310, [libc::CLONE_NEWUSER.cast_unsigned(), 0, 0])),
    attempt("int80-bpf", ABI, |_| int80_reached(357, [0; 3])),
    attempt("x32-getpid", ABI, |_| Verdict::of(x32(libc::SYS_getpid, 0, 0, 0))),
    attempt("x32-socket-packet", ABI, |_| {
        Verdict::of(x32(libc::SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0))
    }),
    attempt("x32-unshare", ABI, |_| Verdict::of(x32(libc::SYS_unshare, libc::CLONE_NEWUSER, 0, 0))),
];

/// The bit that marks a system call of the x32 interface.
const X32: i64 = 0x4000_0000;

fn x32(number: i64, first: i32, second: i32, third: i32) -> io::Result<i64> {
    sys!(number | X32, first, second, third)
}

fn int80(number: u32, arguments: [u32; 3]) -> Verdict {
    Verdict::of_or(call32(number, arguments), &[libc::EAFNOSUPPORT])
}

fn int80_reached(number: u32, arguments: [u32; 3]) -> Verdict {
    Verdict::reached(call32(number, arguments))
}

/// socket(2) as 32-bit programs of old call it: through socketcall(2), with the arguments in memory
/// below 4 GiB, where a filter cannot look.
fn socketcall() -> Verdict {
    const SOCKET: u32 = 1;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let place = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    if place == libc::MAP_FAILED {
        return Verdict::error("no memory below 4 GiB");
    }
    let arguments = [libc::AF_PACKET.cast_unsigned(), libc::SOCK_RAW.cast_unsigned(), 0];
    // SAFETY: the mapping is writable, aligned to a page, and larger than three integers.
    unsafe { place.cast::<[u32; 3]>().write(arguments) };
    let address = u32::try_from(place.addr()).unwrap_or(0);
    int80(102, [SOCKET, address, 0])
}

#[cfg(target_arch = "x86_64")]
fn call32(number: u32, arguments: [u32; 3]) -> io::Result<i64> {
    let mut result = u64::from(number);
    // SAFETY: a 32-bit system call takes its arguments in ebx, ecx and edx and clobbers r8 to r11;
    // rbx is saved by hand, since the compiler reserves it. The calls made here write no memory.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first}",
            "int 0x80",
            "xchg rbx, {first}",
            first = inout(reg) u64::from(arguments[0]) => _,
            inout("rax") result,
            in("rcx") u64::from(arguments[1]),
            in("rdx") u64::from(arguments[2]),
            in("rsi") 0_u64,
            in("rdi") 0_u64,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
        );
    }
    // The result is a 32-bit integer, negative for an error.
    let result = i64::from((result as u32).cast_signed());
    if result < 0 {
        let number = i32::try_from(-result).unwrap_or(0);
        return Err(io::Error::from_raw_os_error(number));
    }
    Ok(result)
}

#[cfg(not(target_arch = "x86_64"))]
fn call32(_number: u32, _arguments: [u32; 3]) -> io::Result<i64> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}
