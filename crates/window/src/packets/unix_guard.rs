//! The Unix guard: a Unix socket that a portspace sees in a file window cannot be connected to.
//!
//! A read-only mount does not stop that, so two BPF programs on the portspace's cgroup
//! (`cgroup/connect_unix` and `cgroup/sendmsg_unix`, Linux 6.7) refuse every connection and every
//! addressed datagram to a *path*, except from the portspace's broker; and the broker, asked by
//! seccomp about `connect`, makes the connection for the portspace unless the path leads into a
//! window. Abstract names are left alone: they belong to a network namespace, and a portspace has
//! its own.
//!
//! What a portspace cannot do under it: send a datagram to a path without connecting first.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, ObjectBuilder};

use super::Embedded;
use super::rules::{Action, Cond, Rule, Test};

static OBJECT: &Embedded<{ include_bytes!(concat!(env!("OUT_DIR"), "/unix.bpf.o")).len() }> =
    &Embedded(*include_bytes!(concat!(env!("OUT_DIR"), "/unix.bpf.o")));

/// Name of the map, and of its pin.
const PARTIES: &str = "parties";

/// The key of the map's one entry.
const KEY: [u8; 4] = [0; 4];

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no such programs, or no BTF.
    #[error("load the unix guard (Linux 6.7 or later with CONFIG_DEBUG_INFO_BTF is needed): {0}")]
    Load(#[source] libbpf_rs::Error),
    /// A program could not be attached.
    #[error("attach {0} to the portspace's cgroup (cgroup v2): {1}")]
    Attach(String, #[source] libbpf_rs::Error),
    /// The cgroup could not be looked at.
    #[error("look at the portspace's cgroup: {0}")]
    Cgroup(#[source] io::Error),
    /// A link or the map could not be pinned.
    #[error("pin {0}: {1}")]
    Pin(String, #[source] libbpf_rs::Error),
    /// The broker could not be named.
    #[error("tell the unix guard its broker: {0}")]
    Broker(#[source] libbpf_rs::Error),
    /// The pin directory could not be made or emptied.
    #[error("prepare {0} for pins: {1}")]
    PinDir(String, #[source] io::Error),
}

/// Attaches the guard to the portspace's cgroup (a cgroup v2 directory) and pins it in `pin_dir`, a
/// directory on a bpffs for this portspace alone. What was pinned there is replaced without a gap.
///
/// `broker` is the broker's process id in the initial PID namespace. The portspace's processes must
/// be in this cgroup itself and not in others below it, and the broker in neither.
///
/// # Errors
/// As [`Error`] says. On an error nothing new stays attached.
pub fn attach(cgroup: BorrowedFd<'_>, broker: u32, pin_dir: &Path) -> Result<(), Error> {
    let pin_error = |e| Error::PinDir(pin_dir.display().to_string(), e);
    fs::create_dir_all(pin_dir).map_err(pin_error)?;
    let object = load().map_err(Error::Load)?;
    let map = parties_map(&object).map_err(Error::Load)?;
    let inode = rustix::fs::fstat(cgroup).map_err(|e| Error::Cgroup(e.into()))?.st_ino;
    name_parties(&map, inode, broker).map_err(Error::Broker)?;
    let mut links = Vec::new();
    for program in object.progs_mut() {
        let name = program.name().to_string_lossy().into_owned();
        let link = program
            .attach_cgroup(cgroup.as_raw_fd())
            .map_err(|e| Error::Attach(name.clone(), e))?;
        links.push((name, link));
    }
    // The new programs judge by now, so the old ones may go.
    clear(pin_dir).map_err(pin_error)?;
    for (name, link) in &mut links {
        link.pin(pin_dir.join(&*name)).map_err(|e| Error::Pin(name.clone(), e))?;
    }
    let mut map = map;
    map.pin(pin_dir.join(PARTIES)).map_err(|e| Error::Pin(PARTIES.into(), e))
}

/// Names another broker, or with 0 none, after the one before has died.
///
/// # Errors
/// If nothing is pinned in `pin_dir`.
pub fn set_broker(pin_dir: &Path, broker: u32) -> Result<(), Error> {
    let map = MapHandle::from_pinned_path(pin_dir.join(PARTIES)).map_err(Error::Broker)?;
    let parties = map.lookup(&KEY, MapFlags::ANY).map_err(Error::Broker)?.unwrap_or_default();
    let cgroup = parties.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    name_parties(&map, cgroup, broker).map_err(Error::Broker)
}

/// Removes the guard, and the directory. An absent directory is no error.
///
/// # Errors
/// The first failure; the rest is removed all the same.
pub fn remove(pin_dir: &Path) -> io::Result<()> {
    match clear(pin_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        cleared => cleared.and(fs::remove_dir(pin_dir)),
    }
}

/// The rules of a portspace under the guard: the broker is asked about every `connect` with an
/// address that could hold a path.
pub fn rules() -> &'static [Rule] {
    const LONGER_THAN_A_FAMILY: Cond = Cond { arg: 2, test: Test::AtLeast(3) };
    &[Rule {
        call: libc::SYS_connect,
        when: &[LONGER_THAN_A_FAMILY],
        action: Action::Ask,
        reason: "paths are connected by the broker, which looks where they lead",
    }]
}

/// Loads both programs.
pub(super) fn load() -> libbpf_rs::Result<Object> {
    // What libbpf would print, the error says.
    libbpf_rs::set_print(None);
    ObjectBuilder::default().open_memory(&OBJECT.0)?.load()
}

fn parties_map(object: &Object) -> libbpf_rs::Result<MapHandle> {
    let missing = || libbpf_rs::Error::from(io::Error::from(io::ErrorKind::NotFound));
    let map = object.maps().find(|map| map.name() == PARTIES).ok_or_else(missing)?;
    MapHandle::try_from(&map)
}

/// A cgroup's id is its directory's inode number.
fn name_parties(map: &MapHandle, cgroup: u64, broker: u32) -> libbpf_rs::Result<()> {
    let parties = [cgroup.to_ne_bytes(), u64::from(broker).to_ne_bytes()].concat();
    map.update(&KEY, &parties, MapFlags::ANY)
}

fn clear(pin_dir: &Path) -> io::Result<()> {
    let mut result = Ok(());
    for entry in fs::read_dir(pin_dir)? {
        result = result.and(entry.and_then(|entry| fs::remove_file(entry.path())));
    }
    result
}
