//! The VPN: links into the hub, and one of the two WireGuards.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use hyperspector_sys::netlink::{Connection, End, Kind};
use hyperspector_sys::netns;
use hyperspector_vpn::{kernel, tun};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use super::{Part, Row, Want, text};

pub(super) fn rows() -> Vec<Row> {
    let namespace = match netns::new() {
        Ok(namespace) => namespace,
        Err(error) => {
            let want = Want::essential("CONFIG_NET_NS=y");
            return vec![Row::wanting(Part::Vpn, "links into the hub", text(error), want)];
        }
    };
    let (wireguard, tun) = (wireguard(&namespace), tun_device(&namespace));
    vec![
        Row::tried(
            Part::Vpn,
            "links into the hub",
            veth(&namespace),
            Want::essential("CONFIG_VETH=y or =m"),
        ),
        kernel_row(wireguard.clone(), tun.is_ok()),
        embedded_row(tun, wireguard.is_ok()),
        Row::tried(
            Part::Vpn,
            "nftables",
            nftables(&namespace),
            Want::degraded("nothing in this version", "CONFIG_NF_TABLES=y or =m"),
        ),
    ]
}

fn veth(namespace: &OwnedFd) -> Result<&'static str, String> {
    let make = || {
        let mut links = Connection::open_in(namespace.as_fd())?;
        links.create(Kind::Veth(End::named("hs-try1")), &End::named("hs-try0"))
    };
    make().map(|()| "veth").map_err(|error| error.to_string())
}

fn kernel_row(wireguard: Result<(), String>, has_tun: bool) -> Row {
    let mend = "CONFIG_WIREGUARD=m (Debian: part of linux-image-*)";
    let want = if has_tun {
        Want::degraded("the embedded one takes its place; it takes more processor time", mend)
    } else {
        Want::missing("vpn = \"kernel\" cannot be had", mend)
    };
    Row::tried(Part::Vpn, "kernel WireGuard", wireguard.map(|()| "a device was made"), want)
}

fn embedded_row(tun: Result<String, String>, has_wireguard: bool) -> Row {
    let mend = "CONFIG_TUN=y or =m, and /dev/net/tun";
    let want = if has_wireguard {
        Want::degraded("vpn = \"embedded\" cannot be had; the kernel's is there", mend)
    } else {
        Want::missing("no VPN: HyperSpectors on one host alone", mend)
    };
    Row::tried(Part::Vpn, "TUN", tun, want)
}

fn wireguard(namespace: &OwnedFd) -> Result<(), String> {
    match netns::within(namespace.as_fd(), kernel::is_available).map_err(text)? {
        Ok(true) => Ok(()),
        Ok(false) => Err("the kernel has none".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn tun_device(namespace: &OwnedFd) -> Result<String, String> {
    let made =
        netns::within(namespace.as_fd(), || tun::create("hs-try-tun", true, 1)).map_err(text)?;
    let (_, offload) = made.map_err(|error| text(error).replace("No such", "no such"))?;
    Ok(match (offload.tcp, offload.udp) {
        (true, true) => "a device was made, with offload of TCP and UDP".into(),
        (true, false) => "a device was made, with offload of TCP; of UDP since Linux 6.2".into(),
        _ => "a device was made, without offload".into(),
    })
}

/// Asks for the tables of a namespace, which has none (include/uapi/linux/netfilter/nf_tables.h).
fn nftables(namespace: &OwnedFd) -> Result<&'static str, String> {
    let answer = netns::within(namespace.as_fd(), ask_for_tables).map_err(text)?;
    match answer.map_err(text)? {
        0 => Ok("there"),
        errno => Err(text(io::Error::from_raw_os_error(-errno))),
    }
}

/// Returns 0, or the negative errno of the answer.
fn ask_for_tables() -> io::Result<i32> {
    const GET_TABLE: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | libc::NFT_MSG_GETTABLE as u16;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut request = Vec::with_capacity(20);
    request.extend(20_u32.to_ne_bytes());
    request.extend(GET_TABLE.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    // Sequence number, port, and nfgenmsg: every family, version 0, resource 0.
    request.extend([0; 12]);
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(netlink::NETFILTER),
    )?;
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0_u8; 256];
    // The kernel answers before `send` returns.
    let (got, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    Ok(errno_of(&answer[..got]))
}

/// The negative errno of an error message; 0 for any other.
fn errno_of(message: &[u8]) -> i32 {
    let kind = message.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let errno = message.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    if kind == Some(libc::NLMSG_ERROR as u16) { errno.unwrap_or(-libc::EBADMSG) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_message_has_its_errno() {
        let mut message = vec![0; 20];
        message[4..6].copy_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
        message[16..20].copy_from_slice(&(-22_i32).to_ne_bytes());
        assert_eq!(errno_of(&message), -22);
        message[4..6].copy_from_slice(&(libc::NLMSG_DONE as u16).to_ne_bytes());
        assert_eq!(errno_of(&message), 0);
    }
}
