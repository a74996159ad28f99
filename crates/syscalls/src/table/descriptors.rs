//! Reading, writing, and what descriptors are for.

use super::Kind::{
    Bits, By, Entries, Fd, Flags, Hex, In, InVector, Int, Long, Many, OneOf, Out, OutVector,
    Pointer, Size, To, Uint,
};
use super::{Arg, Class, Count, Outcome, Syscall, Way};
use crate::layout::Shape::{Fields, Poll, TwoFds};
use crate::layout::{descriptors as l, signals, time};
use crate::names::descriptors as n;

calls! {
    read(fd: Fd, buf: Out, count: Size) -> Number [Descriptor];
    write(fd: Fd, buf: In(2), count: Size) -> Number [Descriptor];
    pread64(fd: Fd, buf: Out, count: Size, offset: Long) -> Number [Descriptor];
    pwrite64(fd: Fd, buf: In(2), count: Size, offset: Long) -> Number [Descriptor];
    readv(fd: Fd, iov: OutVector(2), iovcnt: Size) -> Number [Descriptor];
    writev(fd: Fd, iov: InVector(2), iovcnt: Size) -> Number [Descriptor];
    preadv(fd: Fd, iov: OutVector(2), iovcnt: Size, pos_l: Long) -> Number [Descriptor];
    pwritev(fd: Fd, iov: InVector(2), iovcnt: Size, pos_l: Long) -> Number [Descriptor];
    preadv2(fd: Fd, iov: OutVector(2), iovcnt: Size, pos_l: Long, pos_h: Long, flags: Flags(&n::READ_WRITE)) -> Number [Descriptor];
    pwritev2(fd: Fd, iov: InVector(2), iovcnt: Size, pos_l: Long, pos_h: Long, flags: Flags(&n::READ_WRITE)) -> Number [Descriptor];
    lseek(fd: Fd, offset: Long, whence: OneOf(&n::SEEK)) -> Number [Descriptor];
    close(fd: Fd) -> Zero [Descriptor];
    close_range(first: Uint, last: Uint, flags: Flags(&n::CLOSE_RANGE)) -> Zero [Descriptor];
    dup(oldfd: Fd) -> Fd [Descriptor];
    dup2(oldfd: Fd, newfd: Fd) -> Fd [Descriptor];
    dup3(oldfd: Fd, newfd: Fd, flags: Flags(&n::DUP)) -> Fd [Descriptor];
    pipe(pipefd: To(TwoFds, Way::Out)) -> Zero [Descriptor];
    pipe2(pipefd: To(TwoFds, Way::Out), flags: Flags(&n::PIPE)) -> Zero [Descriptor];
    fcntl(fd: Fd, cmd: OneOf(&n::FCNTL), arg: By(1)) -> Number [Descriptor];
    ioctl(fd: Fd, request: Hex, argp: By(1)) -> Number [Descriptor];
    getdents(fd: Fd, dirp: Entries, count: Size) -> Number [Descriptor];
    getdents64(fd: Fd, dirp: Entries, count: Size) -> Number [Descriptor];
    sendfile(out_fd: Fd, in_fd: Fd, offset: To(Fields(&l::OFFSET), Way::InOut), count: Size) -> Number [Descriptor Network];
    splice(fd_in: Fd, off_in: To(Fields(&l::OFFSET), Way::In), fd_out: Fd, off_out: To(Fields(&l::OFFSET), Way::In), len: Size, flags: Flags(&n::SPLICE)) -> Number [Descriptor];
    tee(fd_in: Fd, fd_out: Fd, len: Size, flags: Flags(&n::SPLICE)) -> Number [Descriptor];
    vmsplice(fd: Fd, iov: InVector(2), nr_segs: Size, flags: Flags(&n::SPLICE)) -> Number [Descriptor];
    copy_file_range(fd_in: Fd, off_in: To(Fields(&l::OFFSET), Way::In), fd_out: Fd, off_out: To(Fields(&l::OFFSET), Way::In), len: Size, flags: Hex) -> Number [Descriptor];
    poll(fds: Many(Poll, Way::InOut, Count::Of(1)), nfds: Uint, timeout: Int) -> Number [Descriptor];
    ppoll(fds: Many(Poll, Way::InOut, Count::Of(1)), nfds: Uint, tmo_p: To(Fields(&time::TIMESPEC), Way::InLeft), sigmask: To(Fields(&signals::SET), Way::In), sigsetsize: Size) -> Number [Descriptor];
    select(nfds: Int, readfds: Bits(0), writefds: Bits(0), exceptfds: Bits(0), timeout: To(Fields(&time::TIMEVAL), Way::InLeft)) -> Number [Descriptor];
    pselect6(nfds: Int, readfds: Bits(0), writefds: Bits(0), exceptfds: Bits(0), timeout: To(Fields(&time::TIMESPEC), Way::InLeft), sigmask: To(Fields(&l::SELECT_MASK), Way::In)) -> Number [Descriptor];
    epoll_create(size: Int) -> Fd [Descriptor];
    epoll_create1(flags: Flags(&n::EPOLL_CREATE)) -> Fd [Descriptor];
    epoll_ctl(epfd: Fd, op: OneOf(&n::EPOLL_CTL), fd: Fd, event: To(Fields(&l::EPOLL_EVENT), Way::In)) -> Zero [Descriptor];
    epoll_wait(epfd: Fd, events: Many(Fields(&l::EPOLL_EVENT), Way::Out, Count::Result), maxevents: Int, timeout: Int) -> Number [Descriptor];
    epoll_pwait(epfd: Fd, events: Many(Fields(&l::EPOLL_EVENT), Way::Out, Count::Result), maxevents: Int, timeout: Int, sigmask: To(Fields(&signals::SET), Way::In), sigsetsize: Size) -> Number [Descriptor];
    epoll_pwait2(epfd: Fd, events: Many(Fields(&l::EPOLL_EVENT), Way::Out, Count::Result), maxevents: Int, timeout: To(Fields(&time::TIMESPEC), Way::In), sigmask: To(Fields(&signals::SET), Way::In), sigsetsize: Size) -> Number [Descriptor];
    epoll_ctl_old() -> Number [Descriptor];
    epoll_wait_old() -> Number [Descriptor];
    eventfd(initval: Uint) -> Fd [Descriptor];
    eventfd2(initval: Uint, flags: Flags(&n::EVENTFD)) -> Fd [Descriptor];
    signalfd(fd: Fd, mask: To(Fields(&signals::SET), Way::In), sizemask: Size) -> Fd [Descriptor Signal];
    signalfd4(fd: Fd, mask: To(Fields(&signals::SET), Way::In), sizemask: Size, flags: Flags(&n::SIGNALFD)) -> Fd [Descriptor Signal];
    timerfd_create(clockid: OneOf(&crate::names::time::CLOCK), flags: Flags(&n::TIMERFD_CREATE)) -> Fd [Descriptor];
    timerfd_settime(fd: Fd, flags: Flags(&n::TIMERFD_SET), new_value: To(Fields(&time::ITIMERSPEC), Way::In), old_value: To(Fields(&time::ITIMERSPEC), Way::Out)) -> Zero [Descriptor];
    timerfd_gettime(fd: Fd, curr_value: To(Fields(&time::ITIMERSPEC), Way::Out)) -> Zero [Descriptor];
    io_setup(nr_events: Uint, ctx_idp: To(Fields(&l::ADDRESS), Way::Out)) -> Zero [];
    io_destroy(ctx_id: Pointer) -> Zero [];
    io_submit(ctx_id: Pointer, nr: Long, iocbpp: Pointer) -> Number [];
    io_cancel(ctx_id: Pointer, iocb: Pointer, result: Pointer) -> Zero [];
    io_getevents(ctx_id: Pointer, min_nr: Long, nr: Long, events: Many(Fields(&l::IO_EVENT), Way::Out, Count::Result), timeout: To(Fields(&time::TIMESPEC), Way::In)) -> Number [];
    io_pgetevents(ctx_id: Pointer, min_nr: Long, nr: Long, events: Many(Fields(&l::IO_EVENT), Way::Out, Count::Result), timeout: To(Fields(&time::TIMESPEC), Way::In), sig: Pointer) -> Number [];
    io_uring_setup(entries: Uint, p: To(Fields(&l::URING_PARAMS), Way::InOut)) -> Fd [Descriptor Default];
    io_uring_enter(fd: Fd, to_submit: Uint, min_complete: Uint, flags: Flags(&crate::names::system::URING_ENTER), argp: Pointer, argsz: Size) -> Number [Descriptor];
    io_uring_register(fd: Fd, opcode: OneOf(&crate::names::system::URING_REGISTER), arg: Pointer, nr_args: Uint) -> Number [Descriptor];
    io_uring_request(opcode: OneOf(&crate::names::system::URING_OPERATION), fd: Fd, user_data: Hex, flags: Flags(&crate::names::system::URING_REQUEST)) -> Number [Descriptor Default];
    pidfd_getfd(pidfd: Fd, targetfd: Int, flags: Hex) -> Fd [Descriptor Default];
}
