//! A few netlink requests (rtnetlink(7), sock_diag(7)), by hand.

use std::io;

use super::call::{NULL, bytes, own, sys, zeroed};

const ACK: u16 = 4;
const REQUEST: u16 = 1;
const CREATE: u16 = 0x400;

/// A request under construction.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16) -> Self {
        let mut header = vec![0; 16];
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&(REQUEST | ACK | flags).to_ne_bytes());
        Self(header)
    }

    fn with(mut self, part: &[u8]) -> Self {
        self.0.extend_from_slice(part);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn attribute(self, kind: u16, value: &[u8]) -> Self {
        let mut attribute = Vec::new();
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        attribute.extend_from_slice(&length.to_ne_bytes());
        attribute.extend_from_slice(&kind.to_ne_bytes());
        attribute.extend_from_slice(value);
        self.with(&attribute)
    }

    /// Sends the request and returns the error of its acknowledgement.
    fn ask(self) -> io::Result<()> {
        self.ask_of(libc::NETLINK_ROUTE)
    }

    /// As [`Self::ask`], in another protocol than rtnetlink.
    fn ask_of(mut self, protocol: i32) -> io::Result<()> {
        let length = u32::try_from(self.0.len()).map_err(io::Error::other)?;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let socket = own(sys!(libc::SYS_socket, libc::AF_NETLINK, kind, protocol))?;
        sys!(libc::SYS_sendto, &socket, &self.0[..], self.0.len(), 0, NULL, 0)?;
        let mut answer = [0_u8; 4096];
        sys!(libc::SYS_recvfrom, &socket, &mut answer, 4096, 0, NULL, NULL)?;
        match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)),
        }
    }
}

fn link_header(index: i32, flags: u32, change: u32) -> [u8; 16] {
    let mut header: libc::ifinfomsg = zeroed();
    header.ifi_index = index;
    header.ifi_flags = flags;
    header.ifi_change = change;
    let mut copy = [0; 16];
    copy.copy_from_slice(bytes(&header));
    copy
}

/// Sets an interface up, which changes nothing where it is up.
pub(super) fn set_up(index: i32) -> io::Result<()> {
    let up = libc::IFF_UP as u32;
    Request::new(libc::RTM_NEWLINK, 0).with(&link_header(index, up, up)).ask()
}

/// Makes an interface of the given kind.
pub(super) fn new_link(kind: &str, name: &str) -> io::Result<()> {
    const LINKINFO: u16 = 18;
    const INFO_KIND: u16 = 1;
    let info = Request(Vec::new()).attribute(INFO_KIND, kind.as_bytes()).0;
    Request::new(libc::RTM_NEWLINK, CREATE)
        .with(&link_header(0, 0, 0))
        .attribute(libc::IFLA_IFNAME, name.as_bytes())
        .attribute(LINKINFO, &info)
        .ask()
}

/// Removes an interface.
pub(super) fn remove_link(name: &str) -> io::Result<()> {
    Request::new(libc::RTM_DELLINK, 0)
        .with(&link_header(0, 0, 0))
        .attribute(libc::IFLA_IFNAME, name.as_bytes())
        .ask()
}

/// Adds an address with a full-length prefix, or removes it.
pub(super) fn address(index: i32, address: [u8; 4], add: bool) -> io::Result<()> {
    let kind = if add { libc::RTM_NEWADDR } else { libc::RTM_DELADDR };
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut header = [libc::AF_INET as u8, 32, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    let request = Request::new(kind, if add { CREATE } else { 0 });
    request.with(&header).attribute(libc::IFA_LOCAL, &address).ask()
}

/// Adds a route to one address through an interface, or removes it.
pub(super) fn route(index: i32, address: [u8; 4], add: bool) -> io::Result<()> {
    let kind = if add { libc::RTM_NEWROUTE } else { libc::RTM_DELROUTE };
    // struct rtmsg: family, destination and source length, tos, table, protocol, scope, type, flags.
    let header = [
        libc::AF_INET as u8,
        32,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_STATIC,
        libc::RT_SCOPE_LINK,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    Request::new(kind, if add { CREATE } else { 0 })
        .with(&header)
        .attribute(libc::RTA_DST, &address)
        .attribute(libc::RTA_OIF, &index.to_ne_bytes())
        .ask()
}

/// Ends the TCP listener on a port of all addresses.
pub(super) fn destroy_listener(port: u16) -> io::Result<()> {
    const SOCK_DESTROY: u16 = 21;
    // struct inet_diag_req_v2: family, protocol, two that do not matter, states, then the socket:
    // ports, two addresses, interface, and a cookie that means any.
    let mut request = [0_u8; 56];
    request[..2].copy_from_slice(&[libc::AF_INET as u8, libc::IPPROTO_TCP as u8]);
    request[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    request[8..10].copy_from_slice(&port.to_be_bytes());
    request[48..].fill(0xff);
    Request::new(SOCK_DESTROY, 0).with(&request).ask_of(libc::NETLINK_SOCK_DIAG)
}
