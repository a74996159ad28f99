//! The system as a whole: its name, its modules, its log, random numbers, and calls that are no more.

use super::Kind::{Fd, Flags, Hex, Int, OneOf, Out, Pid, Pointer, Size, Text, To, Uint};
use super::{Arg, Class, Outcome, Syscall, Way};
use crate::layout::Shape::Fields;
use crate::layout::processes as l;
use crate::names::system as n;

calls! {
    uname(buf: To(Fields(&l::UTSNAME), Way::Out)) -> Zero [];
    sysinfo(info: To(Fields(&l::SYSINFO), Way::Out)) -> Zero [];
    syslog(kind: OneOf(&n::SYSLOG), buf: Out, len: Int) -> Number [];
    getrandom(buf: Out, buflen: Size, flags: Flags(&n::RANDOM)) -> Number [];
    reboot(magic: OneOf(&n::REBOOT_MAGIC), magic2: OneOf(&n::REBOOT_MAGIC2), cmd: OneOf(&n::REBOOT), arg: Pointer) -> Zero [Default];
    vhangup() -> Zero [];
    bpf(cmd: OneOf(&n::BPF), attr: Pointer, size: Uint) -> Number [Descriptor Default];
    perf_event_open(attr: Pointer, pid: Pid, cpu: Int, group_fd: Fd, flags: Flags(&n::PERF)) -> Fd [Descriptor Default];
    init_module(module_image: Pointer, len: Size, param_values: Text) -> Zero [Default];
    finit_module(fd: Fd, param_values: Text, flags: Flags(&n::MODULE)) -> Zero [Descriptor Default];
    delete_module(name: Text, flags: Flags(&n::MODULE_DELETE)) -> Zero [Default];
    kexec_load(entry: Hex, nr_segments: Size, segments: Pointer, flags: Hex) -> Zero [Default];
    kexec_file_load(kernel_fd: Fd, initrd_fd: Fd, cmdline_len: Size, cmdline: Text, flags: Hex) -> Zero [Descriptor Default];
    _sysctl(args: Pointer) -> Zero [];
    create_module(name: Text, size: Size) -> Pointer [];
    get_kernel_syms(table: Pointer) -> Number [];
    query_module(name: Text, which: Int, buf: Pointer, bufsize: Size, ret: Pointer) -> Zero [];
    nfsservctl(cmd: Int, argp: Pointer, resp: Pointer) -> Number [];
    getpmsg() -> Number [];
    putpmsg() -> Number [];
    afs_syscall() -> Number [];
    tuxcall() -> Number [];
    security() -> Number [];
    uretprobe() -> Number [];
}
