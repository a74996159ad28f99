//! The VPN: links into the hub, and one of the two WireGuards.

use std::os::fd::{AsFd, OwnedFd};

use hyperspector_sys::netlink::{Connection, End, Kind};
use hyperspector_sys::netns;
use hyperspector_vpn::{hub, kernel, tun};

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
            "rules of hubs",
            rules(&namespace),
            Want::essential(
                "CONFIG_NF_TABLES, NF_TABLES_IPV4, NFT_CT, NFT_CONNLIMIT, NFT_REJECT: =y or =m",
            ),
        ),
        Row::tried(
            Part::Vpn,
            "rates",
            rates(&namespace),
            Want::missing("portspaces need rate = \"none\"", "CONFIG_NET_SCH_HTB=y or =m"),
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

fn rules(namespace: &OwnedFd) -> Result<&'static str, String> {
    let made = hub::try_rules(namespace.as_fd());
    made.map(|()| "nf_tables with connection tracking").map_err(|error| error.to_string())
}

/// A scheduler on `lo`, which every namespace has.
fn rates(namespace: &OwnedFd) -> Result<&'static str, String> {
    let make = || {
        let mut links = Connection::open_in(namespace.as_fd())?;
        links.add_scheduler("lo", 1 << 16, 1)
    };
    make().map(|()| "HTB").map_err(|error| error.to_string())
}
