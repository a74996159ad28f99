//! Rings, fanout groups and what else a capture socket can be made to do.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::call::{NULL, bytes, bytes_mut, own, sys, zeroed};
use super::packets::{Kind, bind, interfaces, packet_socket, set};
use super::{Attempt, Targets, Verdict};

const RING: &str = "ring memory is capped: broker";
const FANOUT: &str = "fanout groups are one's own: broker";
const WATCHED: &str = "only watched interfaces are seen";

const fn attempt(name: &'static str, tests: &'static str, run: fn(&Targets) -> Verdict) -> Attempt {
    Attempt::new("packets", name, tests, run)
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt("ring-transmit", "no transmit ring: seccomp", |_| transmit_ring()),
    attempt("ring-receive-too-large", RING, ring_too_large),
    attempt("ring-receive-many", RING, ring_many),
    attempt("fanout-foreign-group", FANOUT, fanout_foreign),
    attempt("bind-unwatched", WATCHED, |t| {
        Verdict::worst(t.unwatched.iter().map(|index| {
            on_socket(|socket| bind(socket, *index), &[libc::ENODEV, libc::ENXIO]).on(index)
        }))
    }),
    attempt("unbound-sees-unwatched", WATCHED, |_| foreign_frames()),
    attempt("socket-namespace", "a capture socket does not lead to the host's network", |_| {
        on_socket(
            |socket| {
                const SIOCGSKNS: u64 = 0x894c;
                let namespace = own(sys!(libc::SYS_ioctl, socket, SIOCGSKNS, NULL))?;
                sys!(libc::SYS_setns, &namespace, libc::CLONE_NEWNET)
            },
            &[libc::ENOTTY],
        )
    }),
    attempt("diag-packet", "other capture sockets do not show", |_| packet_diag()),
];

/// Does something with a packet socket.
pub(super) fn on_socket(act: impl Fn(&OwnedFd) -> io::Result<i64>, refusals: &[i32]) -> Verdict {
    match packet_socket(Kind::Raw) {
        Err(error) => Verdict::of_or::<()>(Err(error), &[libc::EAFNOSUPPORT]).on("socket"),
        Ok(socket) => Verdict::of_or(act(&socket), refusals),
    }
}

/// A ring of `blocks` blocks of 1 MiB (TPACKET_V2).
fn ring(socket: &OwnedFd, option: i32, blocks: u32) -> io::Result<i64> {
    set(socket, libc::SOL_PACKET, libc::PACKET_VERSION, &1_i32.to_ne_bytes())?;
    let (block, frame) = (1_u32 << 20, 2048_u32);
    let request = [block, blocks, frame, blocks * (block / frame)];
    set(socket, libc::SOL_PACKET, option, bytes(&request))
}

fn transmit_ring() -> Verdict {
    on_socket(|socket| ring(socket, libc::PACKET_TX_RING, 1), &[])
}

fn ring_too_large(targets: &Targets) -> Verdict {
    let Some(limit) = targets.ring_limit else { return Verdict::error("needs --ring-limit") };
    let blocks = u32::try_from(limit >> 20).unwrap_or(u32::MAX / 1024) + 1;
    on_socket(|socket| ring(socket, libc::PACKET_RX_RING, blocks), &[libc::ENOMEM, libc::ENOBUFS])
}

/// Several rings, each within the limit, that together are above it.
fn ring_many(targets: &Targets) -> Verdict {
    let Some(limit) = targets.ring_limit else { return Verdict::error("needs --ring-limit") };
    let blocks = u32::try_from((limit >> 20) / 2).unwrap_or(1).max(1);
    let mut sockets = Vec::new();
    for number in 0..4 {
        let made = packet_socket(Kind::Raw).and_then(|socket| {
            ring(&socket, libc::PACKET_RX_RING, blocks)?;
            Ok(socket)
        });
        match made {
            Ok(socket) => sockets.push(socket),
            Err(error) if number == 0 => return Verdict::of::<()>(Err(error)),
            Err(error) => {
                let refusals = &[libc::ENOMEM, libc::ENOBUFS];
                return Verdict::of_or::<()>(Err(error), refusals).on(format!("ring {number}"));
            }
        }
    }
    Verdict::possible(format!("{} rings of {blocks} MiB, with a limit of {limit} bytes", 4))
}

/// Joins the given group, in every way that its owner may have made it, and stays a second.
///
/// Where a group is made for us instead, its id is another one, or the broker shows us the id that
/// we asked for: then the test that owns the group judges, by whether it still gets every frame.
fn fanout_foreign(targets: &Targets) -> Verdict {
    let Some(id) = targets.fanout else { return Verdict::error("needs --fanout") };
    // PACKET_FANOUT_LB, _HASH, _CPU, _RND, _QM: a group takes members of its own kind only.
    Verdict::worst([1_u32, 0, 2, 4, 5].map(|kind| match packet_socket(Kind::Raw) {
        Err(error) => Verdict::of_or::<()>(Err(error), &[libc::EAFNOSUPPORT]).on("socket"),
        Ok(socket) => match join(&socket, id, kind) {
            Ok(got) if got == id => Verdict::possible(format!("is in group {id}")),
            Ok(got) => Verdict::refused(format!("asked for group {id}, is in group {got}")),
            Err(error) => Verdict::of_or::<()>(Err(error), &[libc::EINVAL, libc::EBUSY]),
        },
    }))
}

/// Joins a fanout group, stays for a moment, and asks in which one the socket is.
fn join(socket: &OwnedFd, id: u16, kind: u32) -> io::Result<u16> {
    let option = libc::PACKET_FANOUT;
    let index = interfaces().iter().find(|(name, _)| name != "lo").map_or(0, |(_, index)| *index);
    bind(socket, index)?;
    set(socket, libc::SOL_PACKET, option, &(u32::from(id) | kind << 16).to_ne_bytes())?;
    std::thread::sleep(Duration::from_millis(200));
    let mut value = [0_u8; 4];
    let mut size = 4_u32.to_ne_bytes();
    sys!(libc::SYS_getsockopt, socket, libc::SOL_PACKET, option, &mut value, &mut size)?;
    Ok(u16::from_ne_bytes([value[0], value[1]]))
}

/// Listens on a socket that is bound to no interface, for frames of interfaces out of sight.
fn foreign_frames() -> Verdict {
    let socket = match packet_socket(Kind::Raw) {
        Ok(socket) => socket,
        Err(error) => return Verdict::of_or::<()>(Err(error), &[]).on("socket"),
    };
    let known: Vec<i32> = interfaces().into_iter().map(|(_, index)| index).collect();
    let deadline = Instant::now() + Duration::from_millis(1500);
    let mut seen = 0;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        if !super::network::readable(&socket, left) {
            break;
        }
        let mut buffer = [0_u8; 64];
        let mut from: libc::sockaddr_ll = zeroed();
        let mut size = 20_u32.to_ne_bytes();
        let flags = libc::MSG_DONTWAIT;
        let place = bytes_mut(&mut from);
        let got = sys!(libc::SYS_recvfrom, &socket, &mut buffer, 64, flags, place, &mut size);
        if got.is_ok() {
            seen += 1;
            if !known.contains(&from.sll_ifindex) {
                return Verdict::possible(format!("a frame of interface {}", from.sll_ifindex));
            }
        }
    }
    Verdict::refused(format!("{seen} frames, all of interfaces in sight"))
}

/// Asks for all packet sockets of the network namespace (sock_diag(7)).
fn packet_diag() -> Verdict {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    let socket = own(sys!(libc::SYS_socket, libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG));
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => return Verdict::of_or::<()>(Err(error), &[libc::EPROTONOSUPPORT]),
    };
    let capture = packet_socket(Kind::Raw);
    // struct nlmsghdr: length, SOCK_DIAG_BY_FAMILY with NLM_F_REQUEST | NLM_F_DUMP, sequence, port;
    // struct packet_diag_req: family, protocol, pad, inode, show, two cookies.
    let request = [36_u32, 20 | 0x301 << 16, 1, 0, libc::AF_PACKET.cast_unsigned(), 0, 0, 0, 0];
    let size = size_of_val(&request);
    let mut answer = [0_u8; 4096];
    let flags = libc::MSG_DONTWAIT;
    let got = sys!(libc::SYS_sendto, socket.as_raw_fd(), bytes(&request), size, 0, NULL, 0)
        .and_then(|_| sys!(libc::SYS_recvfrom, &socket, &mut answer, 4096, flags, NULL, NULL));
    drop(capture);
    match got {
        Ok(_) if answer[4] == 20 => Verdict::possible("packet sockets of this namespace show"),
        Ok(_) => Verdict::refused("nothing shows"),
        Err(error) => Verdict::of::<()>(Err(error)),
    }
}
