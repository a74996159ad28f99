//! The port guard of a server space, which is on the host's network: it binds and is reached at its
//! registered ports alone, and does not reach what the host offers on loopback and `deny` names.
//!
//! Eight BPF programs on the server space's cgroup, so that they judge every socket made in it,
//! whoever holds it later:
//!
//! - *bind*: a registered port needs no capability, port 0 (any that is free) is let through, and
//!   anything else fails with `EACCES`. Options like `SO_REUSEPORT` are not asked about.
//! - *ingress*: a TCP listener on a port that is not registered hears nothing from other hosts, only
//!   what comes over loopback. It can have such a port without naming it (port 0, or `listen` without
//!   `bind`), and no hook stands before that, so its packets are judged: there is no moment between.
//!   Tying the listener to the loopback device instead (`TCP_LISTEN_CB`, `SO_BINDTODEVICE`) would cost
//!   established connections nothing, but comes after the listener is open, and fails where the
//!   program has tied its socket to another device before, which needs no capability.
//! - *connect* and *sendmsg*: a denied port on an address that leads to this host by its form
//!   (127.0.0.0/8, ::1, 0.0.0.0, ::, those mapped into IPv6, multicast and broadcast) fails with
//!   `EACCES`.
//! - *egress*: a new connection or a datagram to a denied port is dropped when it leaves by the
//!   loopback interface, whatever the address: the host's own ones, those that the host's firewall
//!   redirects. A connection ends with `ETIMEDOUT` then, a datagram with `EPERM`.
//!
//! The last three are attached where something is denied. Links and maps are pinned, so they hold
//! when nobody of ours runs. [`rules`] keeps other ways onto
//! the network shut (raw sockets, MPTCP, SCTP and the like).
//!
//! # What it does not do
//! A UDP socket gets datagrams on any port that the kernel has chosen for it, since that is how
//! clients get their answers. A program can ask for ports until it is given one it likes, as any on
//! the host can: what is registered should lie outside of `net.ipv4.ip_local_port_range`, or in
//! `net.ipv4.ip_local_reserved_ports`. A denied UDP service that is bound to all addresses hears a
//! subnet's own broadcast address. Local traffic in a VRF is not on the loopback interface.

mod counts;
mod rules;

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use libbpf_rs::{
    Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, OpenObject, ProgramMut,
};
use serde::{Deserialize, Serialize};

pub use counts::{Counts, Refused, What, counts};
pub use rules::rules;

use crate::packets::Embedded;

static OBJECT: &Embedded<{ include_bytes!(concat!(env!("OUT_DIR"), "/ports.bpf.o")).len() }> =
    &Embedded(*include_bytes!(concat!(env!("OUT_DIR"), "/ports.bpf.o")));

/// Names of the maps, and of their pins.
const CONFIG: &str = "config";
const TOTALS: &str = "totals";
const REFUSED: &str = "refused";

/// What is added to the name of a pin until it takes the place of the one before. A bpffs takes no dots.
const NEW: &str = "_new";

/// Bytes of a set of ports, one bit for each (`SET_BYTES` of the program).
const SET_BYTES: usize = 65536 / 8;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A range of ports of one protocol, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

/// What a server space may bind, and may not reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The registered ports.
    pub ports: Vec<Range>,
    /// The ports on this host that are out of reach.
    pub deny: Vec<Range>,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel lacks something.
    #[error("load the port guard (Linux 6.1 or later with CONFIG_CGROUP_BPF is needed): {0}")]
    Load(#[source] libbpf_rs::Error),
    /// A program could not be attached.
    #[error(
        "attach {0} to the server space's cgroup (cgroup v2, and no cgroup above it with programs \
         that exclude others): {1}"
    )]
    Attach(String, #[source] libbpf_rs::Error),
    /// A link or a map could not be pinned, or unpinned.
    #[error("change the pin {0} of the port guard: {1}")]
    Pin(String, #[source] io::Error),
    /// The pin directory could not be made.
    #[error("make {0} for the port guard's pins: {1}")]
    PinDir(String, #[source] io::Error),
    /// The ports could not be set.
    #[error("set the ports of the port guard: {0}")]
    Configure(#[source] libbpf_rs::Error),
    /// The counts could not be read.
    #[error("read the counts of the port guard: {0}")]
    Counts(#[source] libbpf_rs::Error),
}

/// Attaches the guard to a server space's cgroup (a cgroup v2 directory) and pins it in `pins`, a
/// directory on a bpffs for this server space alone, which is made. Where it is attached already, it
/// changes to `config` without a gap, for existing sockets too, and counting goes on.
///
/// Sockets belong to the cgroup in which they were made: attach before the first process enters.
///
/// # Errors
/// As [`Error`] says. What was attached before stays so, with the new ports if the error came late.
pub fn attach(cgroup: BorrowedFd<'_>, config: &Config, pins: &Path) -> Result<(), Error> {
    fs::create_dir_all(pins).map_err(|e| Error::PinDir(pins.display().to_string(), e))?;
    let object = load(Some(pins)).map_err(Error::Load)?;
    for map in object.maps() {
        let name = map.name().to_string_lossy().into_owned();
        if name == CONFIG {
            set(&map, config).map_err(Error::Configure)?;
        }
        keep(pins, &name, |path| MapHandle::try_from(&map)?.pin(path))?;
    }
    let (wanted, idle): (Vec<_>, Vec<_>) =
        object.progs_mut().partition(|program| is_needed(program, config));
    // All of them before the first one takes an older one's place.
    let attached = wanted.iter().map(|program| attach_one(program, cgroup));
    for (name, mut link) in attached.collect::<Result<Vec<_>, _>>()? {
        keep(pins, &name, |path| link.pin(path))?;
    }
    for program in &idle {
        unpin(pins, &name(program))?;
    }
    Ok(())
}

/// What looks at each connection and packet that goes out has nothing to do where nothing is denied.
fn is_needed(program: &ProgramMut<'_>, config: &Config) -> bool {
    const OUTWARD: [&str; 3] = ["connect", "sendmsg", "egress"];
    let name = name(program);
    !config.deny.is_empty() || !OUTWARD.iter().any(|word| name.contains(word))
}

fn name(program: &ProgramMut<'_>) -> String {
    program.name().to_string_lossy().into_owned()
}

/// Removes the guard, and the directory. An absent directory is no error.
///
/// # Errors
/// The first failure; the rest is removed all the same.
pub fn remove(pins: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let remove = |entry: io::Result<fs::DirEntry>| fs::remove_file(entry?.path());
    let removed = entries.map(remove).fold(Ok(()), io::Result::and);
    removed.and(fs::remove_dir(pins))
}

/// Whether the kernel has everything that the guard needs, found out by loading it.
///
/// # Errors
/// What the kernel says.
pub fn probe() -> Result<(), Error> {
    load(None).map(drop).map_err(Error::Load)
}

/// Loads the programs, with the maps of a guard that is pinned already.
fn load(pins: Option<&Path>) -> libbpf_rs::Result<Object> {
    // What libbpf would print, the error says.
    libbpf_rs::set_print(None);
    let mut object = ObjectBuilder::default().open_memory(&OBJECT.0)?;
    if let Some(pins) = pins {
        reuse(&mut object, pins)?;
    }
    object.load()
}

fn reuse(object: &mut OpenObject, pins: &Path) -> io::Result<()> {
    for mut map in object.maps_mut() {
        let pinned = pins.join(map.name());
        // One of another shape is of another version of the guard: `keep` replaces it.
        if fs::exists(&pinned)? {
            let _ = map.reuse_pinned_map(&pinned);
        }
    }
    Ok(())
}

fn attach_one(program: &ProgramMut<'_>, cgroup: BorrowedFd<'_>) -> Result<(String, Link), Error> {
    let link = program.attach_cgroup(cgroup.as_raw_fd());
    Ok((name(program), link.map_err(|e| Error::Attach(name(program), e))?))
}

/// Pins something under `name`, in one step in place of what is there.
fn keep(
    pins: &Path,
    name: &str,
    pin: impl FnOnce(&Path) -> libbpf_rs::Result<()>,
) -> Result<(), Error> {
    let new = format!("{name}{NEW}");
    unpin(pins, &new)?;
    let pinned = pin(&pins.join(&new)).map_err(io::Error::other);
    let kept = pinned.and_then(|()| fs::rename(pins.join(&new), pins.join(name)));
    kept.map_err(|e| Error::Pin(name.into(), e))
}

/// Removes a pin. That it is not there is no error.
fn unpin(pins: &Path, name: &str) -> Result<(), Error> {
    match fs::remove_file(pins.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Pin(name.into(), error))
        }
        _ => Ok(()),
    }
}

/// Writes the ports. A port that is in both the old and the new set is so at every moment.
fn set(map: &impl MapCore, config: &Config) -> libbpf_rs::Result<()> {
    map.update(&0_u32.to_ne_bytes(), &encode(config), MapFlags::ANY)
}

/// The program's `struct config`.
fn encode(config: &Config) -> Vec<u8> {
    let mut sets = vec![0; 4 * SET_BYTES];
    let (registered, denied) = sets.split_at_mut(2 * SET_BYTES);
    for (sets, ranges) in [(registered, &config.ports), (denied, &config.deny)] {
        for range in ranges {
            let start = match range.protocol {
                Protocol::Tcp => 0,
                Protocol::Udp => SET_BYTES,
            };
            for port in usize::from(range.first)..=usize::from(range.last) {
                sets[start + port / 8] |= 1 << (port % 8);
            }
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(protocol: Protocol, first: u16, last: u16) -> Range {
        Range { protocol, first, last }
    }

    /// The ports in one of the four sets.
    fn ports(sets: &[u8], number: usize) -> Vec<usize> {
        let set = &sets[number * SET_BYTES..][..SET_BYTES];
        (0..65536).filter(|port| set[port / 8] >> (port % 8) & 1 == 1).collect()
    }

    #[test]
    fn each_range_is_in_its_own_set() {
        let config = Config {
            ports: vec![range(Protocol::Tcp, 80, 80), range(Protocol::Udp, 65534, 65535)],
            deny: vec![range(Protocol::Tcp, 7, 9), range(Protocol::Udp, 1, 1)],
        };
        let sets = encode(&config);
        assert_eq!(sets.len(), 4 * SET_BYTES);
        assert_eq!(ports(&sets, 0), [80]);
        assert_eq!(ports(&sets, 1), [65534, 65535]);
        assert_eq!(ports(&sets, 2), [7, 8, 9]);
        assert_eq!(ports(&sets, 3), [1]);
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_empty() {
        let config = Config { ports: vec![range(Protocol::Tcp, 9, 8)], deny: Vec::new() };
        assert!(encode(&config).iter().all(|byte| *byte == 0));
    }
}
