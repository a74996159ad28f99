//! Shadows: interfaces in a portspace's network namespace that look like interfaces of the host.
//!
//! A capture program looks up an interface by name, index and MTU in its own network namespace, and
//! then binds its packet socket to the index. The socket is one of the host's network namespace (the
//! broker made it), so the names and indexes must be the same in both. Nothing ever goes through a
//! shadow: it has no addresses, and no route leads to it. `lo` is 1 everywhere and needs none.

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use hyperspector_sys::netlink::{self, Connection, End, Kind, Link, Mac};

/// The kinds of link that can be a shadow, best first. A dummy and an ifb are up and running at
/// once and alone; a bridge without ports has no carrier; a veth needs a peer beside it.
const KINDS: [Shape; 4] = [Shape::Dummy, Shape::Ifb, Shape::Bridge, Shape::Veth];

/// What a shadow is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A dummy.
    Dummy,
    /// An intermediate functional block.
    Ifb,
    /// A bridge without ports.
    Bridge,
    /// One end of a pair, with its other end beside it.
    Veth,
}

/// Why there is no shadow.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The kernel has no kind of link that could be one.
    #[error(
        "shadow {0}: the kernel has no dummy, ifb, bridge or veth links; load one of these modules"
    )]
    NoKind(String),
    /// The portspace has an interface of that name or index already.
    #[error(
        "shadow {name}: the portspace has an interface with its name or its index {index} already"
    )]
    Taken {
        /// The host's interface.
        name: String,
        /// Its index.
        index: u32,
    },
}

/// Makes the shadow of the host's interface `host` in the network namespace of a portspace: same
/// name, index, Ethernet address and MTU, up, without addresses. For `lo` nothing is to be done.
pub fn make(namespace: BorrowedFd<'_>, host: &Link) -> Result<Option<Shape>, Error> {
    make_of(&KINDS, namespace, host)
}

/// Like [`make`], of the first of these kinds that the kernel has.
pub fn make_of(
    shapes: &[Shape],
    namespace: BorrowedFd<'_>,
    host: &Link,
) -> Result<Option<Shape>, Error> {
    if host.is_loopback() {
        return Ok(None);
    }
    let mut netlink = Connection::open_in(namespace)?;
    for &shape in shapes {
        match make_as(&mut netlink, shape, host) {
            Err(error) if error.is_unsupported() => {}
            // Either of them, depending on whether the name or the index is taken.
            Err(error) if error.is_exists() || error.is_busy() => {
                return Err(Error::Taken { name: host.name.clone(), index: host.index });
            }
            other => return Ok(other.map(|()| Some(shape))?),
        }
    }
    Err(Error::NoKind(host.name.clone()))
}

/// Makes the shadow follow its interface, whose name, MTU or address may have changed.
pub fn follow(namespace: BorrowedFd<'_>, host: &Link) -> Result<(), Error> {
    let mut netlink = Connection::open_in(namespace)?;
    let shadow = netlink.link(host.index)?;
    let same_mac = usable(host.mac).is_none_or(|mac| shadow.mac == Some(mac));
    if shadow.name != host.name || !same_mac {
        // Not every kind can be changed so; and nothing that captures holds on to a shadow.
        netlink.delete(host.index)?;
        make(namespace, host)?;
    } else if shadow.mtu != host.mtu {
        netlink.set_mtu(host.index, host.mtu)?;
    }
    Ok(())
}

/// Removes the shadow of an interface; not an error where there is none.
pub fn remove(namespace: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
    match Connection::open_in(namespace)?.delete(name) {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Loads the module of a kind without the interfaces that it would make in the host's network
/// namespace, and that would stay there, if the kernel loaded it by itself.
pub fn load_module(shape: Shape) {
    let (module, setting) = match shape {
        Shape::Dummy => ("dummy", "numdummies=0"),
        Shape::Ifb => ("ifb", "numifbs=0"),
        Shape::Bridge | Shape::Veth => return,
    };
    if Path::new("/sys/module").join(module).exists() {
        return;
    }
    // The program that the kernel would run. Without it, or without the module, making the link says
    // what is wrong.
    let Ok(program) = fs::read_to_string("/proc/sys/kernel/modprobe") else { return };
    let _ = Command::new(program.trim())
        .args(["-q", module, setting])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Makes a shadow of one kind; on an error nothing stays.
fn make_as(netlink: &mut Connection, shape: Shape, host: &Link) -> Result<(), netlink::Error> {
    load_module(shape);
    let peer = peer_name(host.index);
    let end = End {
        index: Some(host.index),
        mac: usable(host.mac),
        mtu: Some(host.mtu),
        ..End::named(&host.name)
    };
    let kind = match shape {
        Shape::Dummy => Kind::Dummy,
        Shape::Ifb => Kind::Ifb,
        Shape::Bridge => Kind::Bridge,
        Shape::Veth => Kind::Veth(End { mtu: Some(host.mtu), ..End::named(&peer) }),
    };
    netlink.create(kind, &end)?;
    let up = match shape {
        Shape::Veth => netlink.set_up(peer.as_str(), true),
        _ => Ok(()),
    };
    up.and_then(|()| netlink.set_up(host.index, true)).inspect_err(|_| {
        // The first error is the one to tell.
        let _ = netlink.delete(host.index);
    })
}

/// The name of a veth shadow's other end.
fn peer_name(index: u32) -> String {
    format!("hs-p{index}")
}

/// The address, unless an Ethernet interface cannot come up with it: all zeros, or a group's. Tunnels
/// have such; what captures on them does not look at it.
fn usable(mac: Option<Mac>) -> Option<Mac> {
    mac.filter(|mac| mac.0 != [0; 6] && mac.0[0] & 1 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_would_keep_it_down_are_left_out() {
        let mac = Mac([0x02, 0xfc, 0, 0, 0, 1]);
        assert_eq!(usable(Some(mac)), Some(mac));
        assert_eq!(usable(Some(Mac([0; 6]))), None);
        assert_eq!(usable(Some(Mac([0xff; 6]))), None);
        assert_eq!(usable(None), None);
    }

    #[test]
    fn a_peers_name_is_never_too_long() {
        assert!(peer_name(u32::MAX).len() <= 15);
    }
}
