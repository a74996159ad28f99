//! Sending frames, in every way that a packet socket offers.
//!
//! A frame that "was sent" proves nothing: it may be dropped on its way out. So a second socket
//! listens for our own outgoing frames, which the kernel shows only when they reach the interface.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::call::{NULL, bytes, c, own, sys, zeroed};
use super::{Attempt, Targets, Verdict};

const SEND: &str = "nothing leaves by a packet socket: transmit guard on every interface";
const BYPASS: &str = "the transmit guard cannot be bypassed: seccomp";
const SOURCE: &str = "no packets with a foreign source";

/// What every frame of ours holds.
pub const MAGIC: &[u8] = b"hyperspector-attack-frame";

/// `SOCK_PACKET` of Linux 2.0 (include/linux/net.h).
const OLD_SOCKET: i32 = 10;

/// The EtherType of our frames: one for local experiments.
const ETHER_TYPE: u16 = 0x88b5;
const ALL: i32 = (libc::ETH_P_ALL as u16).to_be() as i32;

const fn attempt(name: &'static str, tests: &'static str, run: fn(&Targets) -> Verdict) -> Attempt {
    Attempt::new("packets", name, tests, run)
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt("packet-send-bound", SEND, |_| everywhere(Kind::Raw, send_bound)),
    attempt("packet-sendto", SEND, |_| everywhere(Kind::Raw, send_to)),
    attempt("packet-sendmsg", SEND, |_| everywhere(Kind::Raw, send_message)),
    attempt("packet-sendmmsg", SEND, |_| everywhere(Kind::Raw, send_messages)),
    attempt("packet-write", SEND, |_| everywhere(Kind::Raw, write)),
    attempt("packet-writev", SEND, |_| everywhere(Kind::Raw, writev)),
    attempt("packet-sendfile", SEND, |_| everywhere(Kind::Raw, send_file)),
    attempt("packet-splice", SEND, |_| everywhere(Kind::Raw, splice)),
    attempt("packet-aio", SEND, |_| everywhere(Kind::Raw, submit)),
    attempt("packet-datagram-sendto", SEND, |_| everywhere(Kind::Datagram, send_to)),
    attempt("packet-mark-cleared", SEND, |_| everywhere(Kind::Raw, send_unmarked)),
    attempt("packet-priority", SEND, |_| everywhere(Kind::Raw, send_priority)),
    attempt("packet-vnet-header", SEND, |_| everywhere(Kind::Raw, send_vnet)),
    attempt("packet-qdisc-bypass", BYPASS, |_| everywhere(Kind::Raw, send_bypass)),
    attempt("packet-bypass-high-bits", BYPASS, |_| everywhere(Kind::Raw, send_bypass_high_bits)),
    attempt("packet-new-interfaces", SEND, |_| flood_new_interfaces()),
    attempt("packet-old-socket", "SOCK_PACKET is refused", |_| everywhere(Kind::Old, send_old)),
    attempt("packet-old-inet", "SOCK_PACKET is refused", |_| {
        let kind = OLD_SOCKET | libc::SOCK_CLOEXEC;
        Verdict::of_or(own(sys!(libc::SYS_socket, libc::AF_INET, kind, ALL)), &[libc::EINVAL])
    }),
    attempt("packet-set-mark", "the mark on capture sockets is fixed", |_| set_mark()),
    attempt("raw-ip-foreign-source", SOURCE, |_| raw_ip()),
    attempt("raw-ipv6", SOURCE, |_| {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let protocol = libc::IPPROTO_RAW;
        Verdict::of_or(own(sys!(libc::SYS_socket, libc::AF_INET6, kind, protocol)), UNSUPPORTED)
    }),
];

const UNSUPPORTED: &[i32] = &[libc::EAFNOSUPPORT, libc::EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT];

/// The kinds of packet sockets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `SOCK_RAW`: frames with their header.
    Raw,
    /// `SOCK_DGRAM`: the kernel makes the header.
    Datagram,
    /// `SOCK_PACKET`: the interface of Linux 2.0.
    Old,
}

/// A packet socket for all protocols, not bound.
pub(super) fn packet_socket(kind: Kind) -> io::Result<OwnedFd> {
    let kind = match kind {
        Kind::Raw => libc::SOCK_RAW,
        Kind::Datagram => libc::SOCK_DGRAM,
        Kind::Old => OLD_SOCKET,
    };
    own(sys!(libc::SYS_socket, libc::AF_PACKET, kind | libc::SOCK_CLOEXEC, ALL))
}

/// An address of the packet family, with the broadcast address as the other end.
pub(super) fn address(index: i32) -> libc::sockaddr_ll {
    let mut address: libc::sockaddr_ll = zeroed();
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ETHER_TYPE.to_be();
    address.sll_ifindex = index;
    address.sll_halen = 6;
    address.sll_addr[..6].fill(0xff);
    address
}

/// Binds to an interface, for all protocols.
pub(super) fn bind(socket: &OwnedFd, index: i32) -> io::Result<i64> {
    let mut place = address(index);
    place.sll_protocol = u16::try_from(ALL).unwrap_or_default();
    sys!(libc::SYS_bind, socket, bytes(&place), size_of_val(&place))
}

/// The interfaces in sight: name and index.
pub(super) fn interfaces() -> Vec<(String, i32)> {
    let mut found = Vec::new();
    let text = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    for line in text.lines().skip(2) {
        let Some((name, _)) = line.split_once(':') else { continue };
        let name = name.trim();
        // SAFETY: the name is a C string that lives across the call.
        let index = unsafe { libc::if_nametoindex(c(name).as_ptr()) };
        if index != 0 {
            found.push((name.to_owned(), index.cast_signed()));
        }
    }
    found
}

/// A frame of ours with a serial number, so that each attempt looks for its own.
struct Frame {
    bytes: Vec<u8>,
    tag: Vec<u8>,
}

impl Frame {
    fn new(kind: Kind) -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut tag = MAGIC.to_vec();
        tag.extend_from_slice(format!("-{}-{serial}.", std::process::id()).as_bytes());
        let mut bytes = Vec::new();
        if kind != Kind::Datagram {
            bytes.extend_from_slice(&[0xff; 6]);
            bytes.extend_from_slice(&[2, 0, 0, 0, 0, 1]);
            bytes.extend_from_slice(&ETHER_TYPE.to_be_bytes());
        }
        bytes.extend_from_slice(&tag);
        bytes.resize(128, 0);
        Self { bytes, tag }
    }
}

type Send = fn(&OwnedFd, i32, &[u8]) -> io::Result<i64>;

/// Tries a way of sending on every interface in sight.
fn everywhere(kind: Kind, send: Send) -> Verdict {
    if let Err(error) = packet_socket(kind) {
        return Verdict::of_or::<()>(Err(error), UNSUPPORTED).on("socket");
    }
    Verdict::worst(interfaces().into_iter().map(|(name, index)| {
        sent(kind, index, send).unwrap_or_else(|error| Verdict::of::<()>(Err(error))).on(name)
    }))
}

/// Sends one frame and looks whether it reaches the interface. A send that the guard drops gives
/// ENOBUFS.
fn sent(kind: Kind, index: i32, send: Send) -> io::Result<Verdict> {
    let listener = packet_socket(Kind::Raw)?;
    bind(&listener, index)?;
    let socket = packet_socket(kind)?;
    let frame = Frame::new(kind);
    let result = send(&socket, index, &frame.bytes);
    if appears(&listener, &frame.tag) {
        return Ok(Verdict::possible("the frame was seen going out"));
    }
    Ok(match result {
        Ok(_) => Verdict::refused("sent, but it did not go out"),
        Err(error) => {
            Verdict::of_or::<()>(Err(error), &[libc::ENOBUFS, libc::EINVAL, libc::ENETDOWN])
        }
    })
}

/// Whether a frame with the tag shows on the socket within a moment.
fn appears(listener: &OwnedFd, tag: &[u8]) -> bool {
    let deadline = Instant::now() + Duration::from_millis(60);
    let mut buffer = [0_u8; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !super::network::readable(listener, left) {
            return false;
        }
        let flags = libc::MSG_DONTWAIT;
        let got = sys!(libc::SYS_recvfrom, listener, &mut buffer, 2048, flags, NULL, NULL);
        let got = usize::try_from(got.unwrap_or(0)).unwrap_or(0);
        if buffer[..got].windows(tag.len()).any(|window| window == tag) {
            return true;
        }
    }
}

fn send_bound(socket: &OwnedFd, index: i32, frame: &[u8]) -> io::Result<i64> {
    bind(socket, index)?;
    sys!(libc::SYS_sendto, socket, frame, frame.len(), 0, NULL, 0)
}

fn send_to(socket: &OwnedFd, index: i32, frame: &[u8]) -> io::Result<i64> {
    let place = address(index);
    sys!(libc::SYS_sendto, socket, frame, frame.len(), 0, bytes(&place), size_of_val(&place))
}

/// A message header for one frame; what it points to must outlive it.
fn message(place: &libc::sockaddr_ll, part: &[u64; 2]) -> [u64; 7] {
    // struct msghdr: name, namelen, iov, iovlen, control, controllen, flags.
    let name = std::ptr::from_ref(place).addr() as u64;
    let part = part.as_ptr().addr() as u64;
    [name, size_of_val(place) as u64, part, 1, 0, 0, 0]
}

fn part(frame: &[u8]) -> [u64; 2] {
    [frame.as_ptr().addr() as u64, frame.len() as u64]
}

fn send_message(socket: &OwnedFd, index: i32, frame: &[u8]) -> io::Result<i64> {
    let (place, part) = (address(index), part(frame));
    sys!(libc::SYS_sendmsg, socket, bytes(&message(&place, &part)), 0)
}

fn send_messages(socket: &OwnedFd, index: i32, frame: &[u8]) -> io::Result<i64> {
    let (place, part) = (address(index), part(frame));
    let mut vector = [0_u64; 8];
    vector[..7].copy_from_slice(&message(&place, &part));
    sys!(libc::SYS_sendmmsg, socket, bytes(&vector), 1, 0)
}

fn write(socket: &OwnedFd, index: i32, frame: &[u8]) -> io::Result<i64> {
    bind(socket, index)?;
    sys!(libc::SYS_write, socket, frame, frame.len())
}

fn writev(socket: &OwnedFd, index: i32, frame: &[u8]) -> io::Result<i64> {
    bind(socket, index)?;
    sys!(libc::SYS_writev, socket, bytes(&part(frame)), 1)
}

fn send_file(socket: &OwnedFd, index: i32, frame: &[u8]) -> io::Result<i64> {
    bind(socket, index)?;
    let memory = own(sys!(libc::SYS_memfd_create, c"frame", libc::MFD_CLOEXEC))?;
    sys!(libc::SYS_pwrite64, &memory, frame, frame.len(), 0)?;
    sys!(libc::SYS_sendfile, socket, &memory, NULL, frame.len())
}

fn splice(socket: &OwnedFd, index: i32, frame: &[u8]) -> io::Result<i64> {
    bind(socket, index)?;
    let (reader, mut writer) = io::pipe()?;
    io::Write::write_all(&mut writer, frame)?;
    sys!(libc::SYS_splice, reader.as_raw_fd(), NULL, socket, NULL, frame.len(), 0)
}

/// One asynchronous write (io_submit(2)).
fn submit(socket: &OwnedFd, index: i32, frame: &[u8]) -> io::Result<i64> {
    const PWRITE: u64 = 1;
    bind(socket, index)?;
    let mut context = [0_u8; 8];
    sys!(libc::SYS_io_setup, 1, &mut context)?;
    // struct iocb: data, key and rw_flags, opcode with priority and descriptor, buffer, length,
    // offset, reserved, flags.
    let descriptor = u64::from(socket.as_raw_fd().cast_unsigned()) << 32;
    let [buffer, length] = part(frame);
    let block = [0, 0, PWRITE | descriptor, buffer, length, 0, 0, 0];
    let list = [block.as_ptr().addr() as u64];
    sys!(libc::SYS_io_submit, u64::from_ne_bytes(context), 1, bytes(&list))
}

pub(super) fn set(socket: &OwnedFd, level: i32, option: i32, value: &[u8]) -> io::Result<i64> {
    sys!(libc::SYS_setsockopt, socket, level, option, value, value.len())
}

fn send_unmarked(socket: &OwnedFd, index: i32, frame: &[u8]) -> io::Result<i64> {
    let _ = set(socket, libc::SOL_SOCKET, libc::SO_MARK, &0_u32.to_ne_bytes());
    send_with_control(socket, index, frame, libc::SO_MARK)
}

/// A mark for this message alone, in its control data.
fn send_with_control(socket: &OwnedFd, index: i32, frame: &[u8], kind: i32) -> io::Result<i64> {
    let (place, part) = (address(index), part(frame));
    let mut control = [0_u8; 24];
    control[..8].copy_from_slice(&20_u64.to_ne_bytes());
    control[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
    control[12..16].copy_from_slice(&kind.to_ne_bytes());
    let mut header = message(&place, &part);
    header[4] = control.as_ptr().addr() as u64;
    header[5] = control.len() as u64;
    sys!(libc::SYS_sendmsg, socket, bytes(&header), 0)
}

fn send_priority(socket: &OwnedFd, index: i32, frame: &[u8]) -> io::Result<i64> {
    let _ = set(socket, libc::SOL_SOCKET, libc::SO_PRIORITY, &6_u32.to_ne_bytes());
    send_to(socket, index, frame)
}

fn send_vnet(socket: &OwnedFd, index: i32, frame: &[u8]) -> io::Result<i64> {
    const VNET_HDR: i32 = 15;
    set(socket, libc::SOL_PACKET, VNET_HDR, &1_u32.to_ne_bytes())?;
    let mut longer = vec![0; 10];
    longer.extend_from_slice(frame);
    send_to(socket, index, &longer)
}

fn send_bypass(socket: &OwnedFd, index: i32, frame: &[u8]) -> io::Result<i64> {
    set(socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1_u32.to_ne_bytes())?;
    send_to(socket, index, frame)
}

/// The same with bits set that the kernel cuts off and a careless filter compares.
fn send_bypass_high_bits(socket: &OwnedFd, index: i32, frame: &[u8]) -> io::Result<i64> {
    const HIGH: u64 = 1 << 32;
    let (level, option) = (libc::SOL_PACKET as u64, libc::PACKET_QDISC_BYPASS as u64);
    let value = 1_u32.to_ne_bytes();
    sys!(libc::SYS_setsockopt, socket, level | HIGH, option | HIGH, &value, 4)?;
    send_to(socket, index, frame)
}

/// Sends to every index that an interface may have or get, again and again for a while: one that
/// has just appeared may not be guarded yet.
fn flood_new_interfaces() -> Verdict {
    let socket = match packet_socket(Kind::Raw) {
        Ok(socket) => socket,
        Err(error) => return Verdict::of_or::<()>(Err(error), UNSUPPORTED).on("socket"),
    };
    let frame = Frame::new(Kind::Raw);
    let deadline = Instant::now() + Duration::from_millis(1500);
    let (mut rounds, mut stopped) = (0_u32, 0_u32);
    while Instant::now() < deadline {
        for index in 1..=64 {
            match send_to(&socket, index, &frame.bytes) {
                Ok(_) => return Verdict::possible(format!("interface {index} took a frame")),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => stopped += 1,
                Err(_) => {}
            }
        }
        rounds += 1;
    }
    Verdict::refused(format!("{rounds} rounds, {stopped} frames stopped, none taken"))
}

fn send_old(socket: &OwnedFd, index: i32, frame: &[u8]) -> io::Result<i64> {
    let name = interfaces().into_iter().find(|(_, number)| *number == index);
    // struct sockaddr_pkt: family, device name, protocol.
    let mut place = [0_u8; 18];
    place[..2].copy_from_slice(&(libc::AF_PACKET as u16).to_ne_bytes());
    if let Some((name, _)) = name {
        let length = name.len().min(13);
        place[2..2 + length].copy_from_slice(&name.as_bytes()[..length]);
    }
    place[16..].copy_from_slice(&ETHER_TYPE.to_be_bytes());
    sys!(libc::SYS_sendto, socket, frame, frame.len(), 0, &place, place.len())
}

fn set_mark() -> Verdict {
    match packet_socket(Kind::Raw) {
        Err(error) => Verdict::of_or::<()>(Err(error), UNSUPPORTED).on("socket"),
        Ok(socket) => Verdict::worst([0_u32, 7].map(|mark| {
            Verdict::of(set(&socket, libc::SOL_SOCKET, libc::SO_MARK, &mark.to_ne_bytes()))
        })),
    }
}

/// An IP packet whose source is not ours, to an address on each network that we are on.
fn raw_ip() -> Verdict {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    let socket = match own(sys!(libc::SYS_socket, libc::AF_INET, kind, libc::IPPROTO_RAW)) {
        Ok(socket) => socket,
        Err(error) => return Verdict::of_or::<()>(Err(error), UNSUPPORTED).on("socket"),
    };
    let mut packet = [0_u8; 28];
    packet[0] = 0x45;
    packet[8] = 64;
    packet[9] = libc::IPPROTO_UDP as u8;
    packet[12..16].copy_from_slice(&[198, 51, 100, 7]);
    packet[16..20].copy_from_slice(&[127, 0, 0, 1]);
    let mut place: libc::sockaddr_in = zeroed();
    place.sin_family = libc::AF_INET as u16;
    place.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
    let size = size_of_val(&place);
    let result = sys!(libc::SYS_sendto, &socket, &packet, packet.len(), 0, bytes(&place), size);
    Verdict::reached(result).on("a raw IP socket could be made")
}
