//! Signals.

use super::Kind::{OneOf, Pid, Signal, Size, To};
use super::{Arg, Class, Outcome, Syscall, Way};
use crate::layout::Shape::{Fields, SignalAction, SignalInfo};
use crate::layout::{signals as l, time};
use crate::names::signals as n;

calls! {
    kill(pid: Pid, sig: Signal) -> Zero [Signal Process Default];
    tkill(tid: Pid, sig: Signal) -> Zero [Signal Process Default];
    tgkill(tgid: Pid, tid: Pid, sig: Signal) -> Zero [Signal Process Default];
    rt_sigaction(signum: Signal, act: To(SignalAction, Way::In), oldact: To(SignalAction, Way::Out), sigsetsize: Size) -> Zero [Signal];
    rt_sigprocmask(how: OneOf(&n::MASK_HOW), set: To(Fields(&l::SET), Way::In), oldset: To(Fields(&l::SET), Way::Out), sigsetsize: Size) -> Zero [Signal];
    rt_sigpending(set: To(Fields(&l::SET), Way::Out), sigsetsize: Size) -> Zero [Signal];
    rt_sigsuspend(mask: To(Fields(&l::SET), Way::In), sigsetsize: Size) -> Zero [Signal];
    rt_sigtimedwait(set: To(Fields(&l::SET), Way::In), info: To(SignalInfo, Way::Out), timeout: To(Fields(&time::TIMESPEC), Way::In), sigsetsize: Size) -> Number [Signal];
    rt_sigqueueinfo(tgid: Pid, sig: Signal, info: To(SignalInfo, Way::In)) -> Zero [Signal Process];
    rt_tgsigqueueinfo(tgid: Pid, tid: Pid, sig: Signal, info: To(SignalInfo, Way::In)) -> Zero [Signal Process];
    rt_sigreturn(mask: To(Fields(&l::SET), Way::In)) -> Number [Signal];
    sigaltstack(ss: To(Fields(&l::STACK), Way::In), old_ss: To(Fields(&l::STACK), Way::Out)) -> Zero [Signal];
    pause() -> Zero [Signal];
    restart_syscall() -> Number [];
}
