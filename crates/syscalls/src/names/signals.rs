//! Names of signals.

sets! {
    /// Of rt_sigprocmask(2).
    MASK_HOW "SIG_???":
        SIG_BLOCK 0, SIG_UNBLOCK 1, SIG_SETMASK 2;
    /// Of rt_sigaction(2).
    ACTION "SA_???":
        SA_RESTORER 0x4000000, SA_ONSTACK 0x8000000, SA_RESTART 0x10000000,
        SA_NODEFER 0x40000000, SA_RESETHAND 0x80000000, SA_SIGINFO 4, SA_NOCLDSTOP 1,
        SA_NOCLDWAIT 2, SA_UNSUPPORTED 0x400, SA_EXPOSE_TAGBITS 0x800;
    /// Of sigaltstack(2).
    STACK "SS_???":
        SS_ONSTACK 1, SS_DISABLE 2, SS_AUTODISARM 0x80000000;
    /// Origins of signals.
    CODE "SI_???":
        SI_USER 0, SI_KERNEL 0x80, SI_QUEUE 0xffffffff, SI_TIMER 0xfffffffe, SI_MESGQ 0xfffffffd,
        SI_ASYNCIO 0xfffffffc, SI_SIGIO 0xfffffffb, SI_TKILL 0xfffffffa;
    /// What became of a child.
    CHILD_CODE "CLD_???":
        CLD_EXITED 1, CLD_KILLED 2, CLD_DUMPED 3, CLD_TRAPPED 4, CLD_STOPPED 5, CLD_CONTINUED 6;
    /// Of struct sigevent.
    NOTIFY "SIGEV_???":
        SIGEV_SIGNAL 0, SIGEV_NONE 1, SIGEV_THREAD 2, SIGEV_THREAD_ID 4;
}
