//! The way to attach on kernels without tcx: a filter of the clsact qdisc (tc-bpf(8)).
//!
//! Filters have no pins. What was made is written down in the pin directory as empty directories,
//! so that it can be undone when the guard is dead.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libbpf_rs::{TC_EGRESS, TC_INGRESS, libbpf_sys};

use super::transmit::remove_if_there;
use crate::packets::netlink::Socket;

/// First among the filters of the interface.
const PRIORITY: u32 = 1;
/// One that nobody else has, so that nothing of others is replaced.
const HANDLE: u32 = 0x6873;

const RTM_GETTFILTER: u16 = 46;
/// The two lists of filters of a clsact qdisc (include/uapi/linux/pkt_sched.h).
const PARENTS: [u32; 2] = [0xffff_fff2, 0xffff_fff3];

/// What the guard has made on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trace {
    /// A filter, in a qdisc that was there.
    Filter(u32),
    /// The qdisc too.
    Qdisc(u32),
}

impl Trace {
    /// Its name in the pin directory.
    fn name(self) -> String {
        match self {
            Self::Filter(index) => format!("filter-{index}"),
            Self::Qdisc(index) => format!("qdisc-{index}"),
        }
    }

    /// Reads such a name.
    pub(super) fn named(name: &OsStr) -> Option<Self> {
        let (kind, index) = name.to_str()?.split_once('-')?;
        let index = index.parse().ok()?;
        match kind {
            "filter" => Some(Self::Filter(index)),
            "qdisc" => Some(Self::Qdisc(index)),
            _ => None,
        }
    }

    /// Removes what was made; the qdisc only if nobody else's filters are in it.
    pub(super) fn undo(self) -> io::Result<()> {
        let (Self::Filter(index) | Self::Qdisc(index)) = self;
        gone_is_well(remove_filter(index))?;
        if matches!(self, Self::Qdisc(_)) && filters(index)? == 0 {
            gone_is_well(remove_qdisc(index))?;
        }
        Ok(())
    }
}

/// Attaches `program` to the egress of the interface.
pub(super) fn attach(program: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    // Written down first: what is recorded and absent does no harm, the reverse would stay.
    match make_qdisc(index) {
        Ok(()) => remove_if_there(fs::create_dir(Trace::Qdisc(index).name()))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove_if_there(fs::create_dir(Trace::Filter(index).name()))?;
        }
        Err(error) => return Err(error),
    }
    add_filter(program, index)
}

/// Attaches `program` to the interface's clsact qdisc.
pub(super) fn add_filter(program: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let (hook, mut options) = (hook(index, TC_EGRESS), options());
    options.prog_fd = program.as_raw_fd();
    options.flags = libbpf_sys::BPF_TC_F_REPLACE;
    // SAFETY: both are of the size that they say, across the call, and `program` is open.
    check(unsafe { libbpf_sys::bpf_tc_attach(&raw const hook, &raw mut options) })
}

fn remove_filter(index: u32) -> io::Result<()> {
    let (hook, options) = (hook(index, TC_EGRESS), options());
    // SAFETY: both are of the size that they say, across the call.
    check(unsafe { libbpf_sys::bpf_tc_detach(&raw const hook, &raw const options) })
}

/// Makes the qdisc; an error where there is one.
pub(super) fn make_qdisc(index: u32) -> io::Result<()> {
    let mut hook = hook(index, TC_EGRESS);
    // SAFETY: `hook` is of the size that it says, across the call.
    check(unsafe { libbpf_sys::bpf_tc_hook_create(&raw mut hook) })
}

fn remove_qdisc(index: u32) -> io::Result<()> {
    // Both directions together stand for the qdisc.
    let mut hook = hook(index, TC_EGRESS | TC_INGRESS);
    // SAFETY: `hook` is of the size that it says, across the call.
    check(unsafe { libbpf_sys::bpf_tc_hook_destroy(&raw mut hook) })
}

/// Forgets an interface that is gone.
pub(super) fn forget(index: u32) -> io::Result<()> {
    remove_if_there(fs::remove_dir(Trace::Filter(index).name()))?;
    remove_if_there(fs::remove_dir(Trace::Qdisc(index).name()))
}

/// How many filters the interface's clsact qdisc has.
fn filters(index: u32) -> io::Result<usize> {
    let mut socket = Socket::open(None, 0)?;
    let mut count = 0;
    for parent in PARENTS {
        // struct tcmsg: family and padding, interface, handle, parent, info.
        let mut request = [0; 20];
        request[4..8].copy_from_slice(&index.to_ne_bytes());
        request[12..16].copy_from_slice(&parent.to_ne_bytes());
        socket.dump(RTM_GETTFILTER, &request, |_| count += 1)?;
    }
    Ok(count)
}

fn hook(index: u32, attach_point: libbpf_sys::bpf_tc_attach_point) -> libbpf_sys::bpf_tc_hook {
    libbpf_sys::bpf_tc_hook {
        sz: size_of::<libbpf_sys::bpf_tc_hook>() as libbpf_sys::size_t,
        ifindex: i32::try_from(index).unwrap_or(i32::MAX),
        attach_point,
        ..Default::default()
    }
}

fn options() -> libbpf_sys::bpf_tc_opts {
    libbpf_sys::bpf_tc_opts {
        sz: size_of::<libbpf_sys::bpf_tc_opts>() as libbpf_sys::size_t,
        handle: HANDLE,
        priority: PRIORITY,
        ..Default::default()
    }
}

/// libbpf returns the negative errno.
fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// The interface, the qdisc or the filter may have gone by itself.
fn gone_is_well(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) =>
        {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_the_pin_directory_are_read_as_written() {
        for trace in [Trace::Filter(7), Trace::Qdisc(12)] {
            assert_eq!(Trace::named(OsStr::new(&trace.name())), Some(trace));
        }
        assert_eq!(Trace::named(OsStr::new("12")), None);
        assert_eq!(Trace::named(OsStr::new("qdisc-x")), None);
    }
}
