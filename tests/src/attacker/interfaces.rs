//! Changing interfaces, addresses and routes.

use std::io;
use std::os::fd::OwnedFd;

use super::call::{own, sys};
use super::packets::{Kind, interfaces, packet_socket};
use super::{Attempt, Targets, Verdict, netlink};

const HOST: &str = "interfaces do not change through a capture socket";
const OWN: &str = "own interfaces, addresses and routes are fixed: no CAP_NET_ADMIN";
const SPOOF: &str = "no foreign source address";

const fn attempt(name: &'static str, tests: &'static str, run: fn(&Targets) -> Verdict) -> Attempt {
    Attempt::new("packets", name, tests, run)
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt("ioctl-packet-flags", HOST, |_| same_value(packet, SIOCGIFFLAGS, SIOCSIFFLAGS)),
    attempt("ioctl-packet-mtu", HOST, |_| same_value(packet, SIOCGIFMTU, SIOCSIFMTU)),
    attempt("ioctl-packet-mac", HOST, |_| same_value(packet, SIOCGIFHWADDR, SIOCSIFHWADDR)),
    attempt("ioctl-packet-address", HOST, |_| new_address(packet)),
    attempt("ioctl-packet-ethtool", HOST, |_| ethtool(packet)),
    attempt("ioctl-own-flags", OWN, |_| same_value(inet, SIOCGIFFLAGS, SIOCSIFFLAGS)),
    attempt("ioctl-own-address", OWN, |_| new_address(inet)),
    attempt("ioctl-own-ethtool", OWN, |_| ethtool(inet)),
    attempt("netlink-link-up", OWN, |_| {
        Verdict::worst(
            interfaces()
                .into_iter()
                .map(|(name, index)| Verdict::of(netlink::set_up(index)).on(name)),
        )
    }),
    attempt("netlink-link-new", OWN, |_| new_link()),
    attempt("netlink-address", OWN, |_| {
        added(|index, add| netlink::address(index, [198, 51, 100, 9], add))
    }),
    attempt("netlink-route", OWN, |_| {
        added(|index, add| netlink::route(index, [198, 51, 100, 10], add))
    }),
    attempt("bind-transparent", SPOOF, |_| bind_foreign(libc::IP_TRANSPARENT)),
    attempt("bind-to-device", OWN, |_| {
        Verdict::of(inet().and_then(|socket| {
            super::packets::set(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo")
        }))
        .on("own interfaces only")
        .harmless()
    }),
    attempt("own-socket-mark", "no marks on own sockets: no CAP_NET_ADMIN", |_| {
        Verdict::of(inet().and_then(|socket| {
            super::packets::set(&socket, libc::SOL_SOCKET, libc::SO_MARK, &1_u32.to_ne_bytes())
        }))
    }),
    attempt("netfilter-rules", OWN, |_| netlink_family(libc::NETLINK_NETFILTER, nftables)),
    attempt("audit-netlink", "no audit control: no CAP_AUDIT_CONTROL", |_| {
        netlink_family(libc::NETLINK_AUDIT, audit)
    }),
];

const SIOCGIFFLAGS: u64 = 0x8913;
const SIOCSIFFLAGS: u64 = 0x8914;
const SIOCSIFADDR: u64 = 0x8916;
const SIOCGIFMTU: u64 = 0x8921;
const SIOCSIFMTU: u64 = 0x8922;
const SIOCSIFHWADDR: u64 = 0x8924;
const SIOCGIFHWADDR: u64 = 0x8927;
const SIOCETHTOOL: u64 = 0x8946;

impl Verdict {
    /// For what may succeed: an answer, and no hole.
    fn harmless(mut self) -> Self {
        if self.outcome == super::Outcome::Possible {
            self.outcome = super::Outcome::Refused;
            self.detail.push_str(" (harmless)");
        }
        self
    }
}

fn packet() -> io::Result<OwnedFd> {
    packet_socket(Kind::Raw)
}

fn inet() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    own(sys!(libc::SYS_socket, libc::AF_INET, kind, 0))
}

type Make = fn() -> io::Result<OwnedFd>;

/// Does something with the request structure of each interface.
fn each(make: Make, act: impl Fn(&OwnedFd, &mut [u8; 40]) -> io::Result<i64>) -> Verdict {
    let socket = match make() {
        Ok(socket) => socket,
        Err(error) => return Verdict::of_or::<()>(Err(error), &[libc::EAFNOSUPPORT]).on("socket"),
    };
    Verdict::worst(interfaces().into_iter().map(|(name, _)| {
        let mut request = [0_u8; 40];
        let length = name.len().min(15);
        request[..length].copy_from_slice(&name.as_bytes()[..length]);
        let refusals = &[libc::EOPNOTSUPP, libc::ENODEV, libc::EBUSY];
        Verdict::of_or(act(&socket, &mut request), refusals).on(name)
    }))
}

/// Reads a property of each interface and sets it to what it is.
fn same_value(make: Make, get: u64, set: u64) -> Verdict {
    each(make, |socket, request| {
        sys!(libc::SYS_ioctl, socket, get, &mut *request)?;
        sys!(libc::SYS_ioctl, socket, set, &*request)
    })
}

/// Sets the address that `lo` has, on an alias of it, so that nothing is lost where it works.
fn new_address(make: Make) -> Verdict {
    let socket = match make() {
        Ok(socket) => socket,
        Err(error) => return Verdict::of_or::<()>(Err(error), &[libc::EAFNOSUPPORT]).on("socket"),
    };
    let mut request = [0_u8; 40];
    request[..7].copy_from_slice(b"lo:hsat");
    request[16..18].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    request[20..24].copy_from_slice(&[127, 66, 66, 66]);
    let result = sys!(libc::SYS_ioctl, &socket, SIOCSIFADDR, &request);
    if result.is_ok() {
        // Setting the alias down removes its address again.
        request[16..].fill(0);
        let _ = sys!(libc::SYS_ioctl, &socket, SIOCSIFFLAGS, &request);
    }
    Verdict::of(result)
}

/// Sets the interface's receive checksumming to what it is (ETHTOOL_GRXCSUM, ETHTOOL_SRXCSUM).
fn ethtool(make: Make) -> Verdict {
    const GET_CHECKSUM: u32 = 0x14;
    const SET_CHECKSUM: u32 = 0x15;
    each(make, |socket, request| {
        let mut value = [0_u8; 8];
        value[..4].copy_from_slice(&GET_CHECKSUM.to_ne_bytes());
        let place = value.as_mut_ptr().expose_provenance() as u64;
        request[16..24].copy_from_slice(&place.to_ne_bytes());
        sys!(libc::SYS_ioctl, socket, SIOCETHTOOL, &mut *request)?;
        value[..4].copy_from_slice(&SET_CHECKSUM.to_ne_bytes());
        sys!(libc::SYS_ioctl, socket, SIOCETHTOOL, &*request)
    })
}

fn new_link() -> Verdict {
    Verdict::worst(["dummy", "bridge", "veth", "ipvlan"].map(|kind| {
        let result = netlink::new_link(kind, "hsattack0");
        if result.is_ok() {
            let _ = netlink::remove_link("hsattack0");
        }
        Verdict::of_or(result, &[libc::EOPNOTSUPP]).on(kind)
    }))
}

/// Adds something to each interface and takes it away again.
fn added(change: impl Fn(i32, bool) -> io::Result<()>) -> Verdict {
    Verdict::worst(interfaces().into_iter().map(|(name, index)| {
        let result = change(index, true);
        if result.is_ok() {
            let _ = change(index, false);
        }
        Verdict::of_or(result, &[libc::ENETDOWN]).on(name)
    }))
}

/// Binds to an address that is not ours, after setting an option that permits it.
fn bind_foreign(option: i32) -> Verdict {
    let result = inet().and_then(|socket| {
        super::packets::set(&socket, libc::SOL_IP, option, &1_u32.to_ne_bytes())?;
        let mut place = [0_u8; 16];
        place[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        place[4..8].copy_from_slice(&[198, 51, 100, 7]);
        sys!(libc::SYS_bind, &socket, &place, place.len())
    });
    Verdict::of_or(result, &[libc::EADDRNOTAVAIL])
}

/// Sends one request to a netlink family and takes the error of its acknowledgement.
fn netlink_family(family: i32, request: fn() -> Vec<u8>) -> Verdict {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    let answer = own(sys!(libc::SYS_socket, libc::AF_NETLINK, kind, family)).and_then(|socket| {
        let request = request();
        let mut answer = [0_u8; 4096];
        sys!(libc::SYS_sendto, &socket, &request[..], request.len(), 0, 0, 0)?;
        if !super::network::readable(&socket, std::time::Duration::from_millis(200)) {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
        sys!(libc::SYS_recvfrom, &socket, &mut answer, 4096, 0, 0, 0)?;
        let is_error = answer[4..6] == 2_u16.to_ne_bytes();
        match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
            code if is_error && code != 0 => Err(io::Error::from_raw_os_error(-code)),
            _ => Ok(()),
        }
    });
    let refusals = &[libc::EPROTONOSUPPORT, libc::ECONNREFUSED, libc::EAFNOSUPPORT];
    Verdict::of_or(answer, refusals)
}

/// Asks the audit system for its state (AUDIT_GET), which needs CAP_AUDIT_CONTROL.
fn audit() -> Vec<u8> {
    header(1000, 16)
}

/// Asks for the number of the rule set's generation (NFT_MSG_GETGEN), which needs CAP_NET_ADMIN.
fn nftables() -> Vec<u8> {
    let mut request = header(10 << 8 | 16, 20);
    request.extend_from_slice(&[0, 0, 0, 0]);
    request
}

fn header(kind: u16, length: u32) -> Vec<u8> {
    let mut header = length.to_ne_bytes().to_vec();
    header.extend_from_slice(&kind.to_ne_bytes());
    header.extend_from_slice(&5_u16.to_ne_bytes());
    header.extend_from_slice(&[0; 8]);
    header
}
