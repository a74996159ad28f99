//! Clocks and timers.

use super::Kind::{Flags, Int, OneOf, Pointer, To, Uint};
use super::{Arg, Class, Outcome, Syscall, Way};
use crate::layout::Shape::{Fields, SignalEvent};
use crate::layout::{descriptors as d, time as l};
use crate::names::time as n;

calls! {
    time(tloc: To(Fields(&d::LONG), Way::Out)) -> Number [Clock];
    gettimeofday(tv: To(Fields(&l::TIMEVAL), Way::Out), tz: To(Fields(&l::TIMEZONE), Way::Out)) -> Zero [Clock];
    settimeofday(tv: To(Fields(&l::TIMEVAL), Way::In), tz: To(Fields(&l::TIMEZONE), Way::In)) -> Zero [Clock Default];
    adjtimex(buf: To(Fields(&l::TIMEX), Way::Out)) -> Number [Clock];
    clock_adjtime(clk_id: OneOf(&n::CLOCK), buf: To(Fields(&l::TIMEX), Way::Out)) -> Number [Clock];
    clock_gettime(clockid: OneOf(&n::CLOCK), tp: To(Fields(&l::TIMESPEC), Way::Out)) -> Zero [Clock];
    clock_settime(clockid: OneOf(&n::CLOCK), tp: To(Fields(&l::TIMESPEC), Way::In)) -> Zero [Clock Default];
    clock_getres(clockid: OneOf(&n::CLOCK), res: To(Fields(&l::TIMESPEC), Way::Out)) -> Zero [Clock];
    clock_nanosleep(clockid: OneOf(&n::CLOCK), flags: Flags(&n::TIMER_FLAGS), request: To(Fields(&l::TIMESPEC), Way::In), remain: To(Fields(&l::TIMESPEC), Way::Left)) -> Zero [];
    nanosleep(req: To(Fields(&l::TIMESPEC), Way::In), rem: To(Fields(&l::TIMESPEC), Way::Left)) -> Zero [];
    alarm(seconds: Uint) -> Number [];
    getitimer(which: OneOf(&n::INTERVAL_TIMER), curr_value: To(Fields(&l::ITIMERVAL), Way::Out)) -> Zero [];
    setitimer(which: OneOf(&n::INTERVAL_TIMER), new_value: To(Fields(&l::ITIMERVAL), Way::In), old_value: To(Fields(&l::ITIMERVAL), Way::Out)) -> Zero [];
    timer_create(clockid: OneOf(&n::CLOCK), sevp: To(SignalEvent, Way::In), timerid: To(Fields(&d::INT), Way::Out)) -> Zero [];
    timer_settime(timerid: Int, flags: Flags(&n::TIMER_FLAGS), new_value: To(Fields(&l::ITIMERSPEC), Way::In), old_value: To(Fields(&l::ITIMERSPEC), Way::Out)) -> Zero [];
    timer_gettime(timerid: Int, curr_value: To(Fields(&l::ITIMERSPEC), Way::Out)) -> Zero [];
    timer_getoverrun(timerid: Int) -> Number [];
    timer_delete(timerid: Int) -> Zero [];
    getcpu(cpu: To(Fields(&d::UINT), Way::Out), node: To(Fields(&d::UINT), Way::Out), tcache: Pointer) -> Zero [];
}
