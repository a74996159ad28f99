//! The transmit guard's program: loading it, attaching it to an interface, pinning the attachment.
//!
//! The guard's root directory is the pin directory, so pins are named by the index alone.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use libbpf_rs::{
    Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, OpenObject, libbpf_sys,
};
use serde::{Deserialize, Serialize};

use super::{COUNTER, clsact};
use crate::packets::Embedded;

static OBJECT: &Embedded<{ include_bytes!(concat!(env!("OUT_DIR"), "/transmit.bpf.o")).len() }> =
    &Embedded(*include_bytes!(concat!(env!("OUT_DIR"), "/transmit.bpf.o")));

static SEND: &Embedded<{ include_bytes!(concat!(env!("OUT_DIR"), "/send.bpf.o")).len() }> =
    &Embedded(*include_bytes!(concat!(env!("OUT_DIR"), "/send.bpf.o")));

/// Name of the pin of the program that refuses sending as such.
const SEND_PIN: &str = "send";

/// How the program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// By a link of its own (tcx, Linux 6.6).
    #[default]
    Tcx,
    /// As a filter of the clsact qdisc.
    Clsact,
}

/// The loaded program and its counter.
#[derive(Clone, Debug)]
pub(super) struct Program {
    program: Arc<OwnedFd>,
    counter: Arc<MapHandle>,
}

impl Program {
    /// Loads it, with the counter that a guard before has pinned under this name, if there is one,
    /// and pins the counter there otherwise.
    pub(super) fn load(pinned: Option<&str>) -> libbpf_rs::Result<Self> {
        let mut open = ObjectBuilder::default().open_memory(&OBJECT.0)?;
        if let Some(name) = pinned {
            reuse(&mut open, name)?;
        }
        let object = open.load()?;
        let missing = || libbpf_rs::Error::from(io::Error::from(io::ErrorKind::NotFound));
        let program = object.progs().next().ok_or_else(missing)?.as_fd().try_clone_to_owned()?;
        let map = object.maps().find(|map| map.name() == COUNTER).ok_or_else(missing)?;
        let counter = MapHandle::try_from(&map)?;
        if let Some(name) = pinned.filter(|name| !fs::exists(name).unwrap_or(false)) {
            pin(counter.as_fd(), name)?;
        }
        Ok(Self { program: Arc::new(program), counter: Arc::new(counter) })
    }

    /// Packets dropped so far.
    pub(super) fn dropped(&self) -> libbpf_rs::Result<u64> {
        let counts = self.counter.lookup_percpu(&0_u32.to_ne_bytes(), MapFlags::ANY)?;
        let count = |bytes: &Vec<u8>| bytes.as_slice().try_into().map_or(0, u64::from_ne_bytes);
        Ok(counts.iter().flatten().map(count).sum())
    }

    /// Attaches it to the interface, first in line, and pins that.
    ///
    /// # Errors
    /// `ENODEV` where there is no such interface (any more).
    pub(super) fn attach(&self, how: How, index: u32) -> io::Result<Attached> {
        match how {
            How::Tcx => {
                let link = link(self.program.as_fd(), index)?;
                let name = index.to_string();
                // The link before, of this guard or of a dead one, is let go only now.
                remove_if_there(fs::remove_file(&name))?;
                pin(link.as_fd(), &name)?;
                Ok(Attached { _link: Some(link) })
            }
            How::Clsact => {
                clsact::attach(self.program.as_fd(), index)?;
                Ok(Attached { _link: None })
            }
        }
    }

    /// Attaches it to the loopback interface by clsact.
    pub(super) fn try_clsact(&self) -> io::Result<()> {
        clsact::make_qdisc(1)?;
        clsact::add_filter(self.program.as_fd(), 1)
    }

    /// Whether the kernel has tcx, found out by attaching to the loopback interface.
    pub(super) fn has_tcx(&self) -> io::Result<bool> {
        match link(self.program.as_fd(), 1) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Makes the program use the pinned counter.
fn reuse(object: &mut OpenObject, name: &str) -> libbpf_rs::Result<()> {
    for mut map in object.maps_mut().filter(|map| map.name() == COUNTER) {
        // A counter of another shape is from another version: begin anew.
        if fs::exists(name)? && map.reuse_pinned_map(name).is_err() {
            fs::remove_file(name)?;
        }
    }
    Ok(())
}

/// Keeps a program attached; the pin does too.
#[derive(Debug)]
pub(super) struct Attached {
    _link: Option<OwnedFd>,
}

/// Loads the program that refuses sending on marked sockets as such. The loader reads the kernel's
/// types from /sys.
///
/// # Errors
/// Where the kernel has no BPF LSM.
pub(super) fn load_send() -> libbpf_rs::Result<Object> {
    ObjectBuilder::default().open_memory(&SEND.0)?.load()
}

/// Attaches and pins it; it holds for all interfaces that there are and will be. What a guard before
/// had pinned goes only then.
///
/// # Errors
/// Where BPF LSM is not switched on (`lsm=` on the kernel's command line).
pub(super) fn deny_sending(object: &Object) -> libbpf_rs::Result<Link> {
    let missing = || libbpf_rs::Error::from(io::Error::from(io::ErrorKind::NotFound));
    let program = object.progs_mut().next().ok_or_else(missing)?;
    let mut link = program.attach_lsm()?;
    remove_if_there(fs::remove_file(SEND_PIN))?;
    link.pin(SEND_PIN)?;
    Ok(link)
}

/// Forgets the pins of an interface that is gone.
pub(super) fn forget(index: u32) -> io::Result<()> {
    remove_if_there(fs::remove_file(index.to_string()))?;
    clsact::forget(index)
}

/// Makes a tcx link at the head of the interface's egress.
fn link(program: BorrowedFd<'_>, index: u32) -> io::Result<OwnedFd> {
    let target = i32::try_from(index).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    let options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
        // A program ahead of this one could end the chain before it.
        flags: libbpf_sys::BPF_F_BEFORE,
        ..Default::default()
    };
    let egress = libbpf_sys::BPF_TCX_EGRESS;
    // SAFETY: `program` is open and `options` is of the size that it says, across the call.
    let fd = unsafe {
        libbpf_sys::bpf_link_create(program.as_raw_fd(), target, egress, &raw const options)
    };
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(-fd));
    }
    // SAFETY: the call has just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a BPF object.
fn pin(object: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: `object` is open and `name` is a C string, across the call.
    match unsafe { libbpf_sys::bpf_obj_pin(object.as_raw_fd(), name.as_ptr()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// Something that is already as it should be is no error.
pub(super) fn remove_if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) =>
        {
            Ok(())
        }
        other => other,
    }
}
