//! A sender of frames: at a rate, or as many as go.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Frames for one system call.
const BATCH: usize = 32;
/// Bytes of a frame: about the mean of the Internet's.
const FRAME: usize = 512;

/// What was sent.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Sent {
    /// Frames.
    pub frames: u64,
    /// For how long, in seconds.
    pub seconds: f64,
}

/// `__generate INTERFACE RATE SECONDS`: RATE frames each second, or with 0 as many as go.
pub fn main(arguments: &[String]) -> Result<()> {
    let [interface, rate, seconds] = arguments else { anyhow::bail!("wrong arguments") };
    let (rate, seconds): (f64, f64) = (rate.parse()?, seconds.parse()?);
    pin(0)?;
    let socket = open(interface).with_context(|| format!("open {interface}"))?;
    let sent = send(&socket, rate, Duration::from_secs_f64(seconds)).context("send")?;
    println!("{}", serde_json::to_string(&sent)?);
    Ok(())
}

fn send(socket: &OwnedFd, rate: f64, time: Duration) -> io::Result<Sent> {
    let frame = frame();
    let mut piece = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: FRAME };
    // SAFETY: mmsghdr is a plain C structure, for which all zeroes is a value.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
    for message in &mut messages {
        message.msg_hdr.msg_iov = &raw mut piece;
        message.msg_hdr.msg_iovlen = 1;
    }
    let (start, mut frames) = (Instant::now(), 0_u64);
    loop {
        let elapsed = start.elapsed();
        if elapsed >= time {
            return Ok(Sent { frames, seconds: elapsed.as_secs_f64() });
        }
        if rate > 0.0 && frames as f64 > elapsed.as_secs_f64() * rate {
            // The least sleep is longer than a batch takes; what was missed is made up for.
            std::thread::sleep(Duration::from_micros(50));
            continue;
        }
        let (fd, count) = (socket.as_raw_fd(), BATCH as libc::c_uint);
        // SAFETY: each header points to `piece`, and that to `frame`; all live across the call.
        match unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), count, 0) } {
            sent if sent >= 0 => frames += u64::from(sent.cast_unsigned()),
            _ => match io::Error::last_os_error() {
                // The queue is full: that is as fast as it goes.
                error if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                error => return Err(error),
            },
        }
    }
}

/// A broadcast frame of an EtherType for experiments, which no protocol takes.
fn frame() -> [u8; FRAME] {
    let mut frame = [0x5a; FRAME];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[0x02, 0x68, 0x73, 0, 0, 1]);
    frame[12..14].copy_from_slice(&0x88b5_u16.to_be_bytes());
    frame
}

/// A packet socket that sends on an interface, past its queue.
fn open(interface: &str) -> io::Result<OwnedFd> {
    let socket = packet_socket()?;
    let bypass: libc::c_int = 1;
    option(&socket, libc::PACKET_QDISC_BYPASS, &bypass)?;
    bind(&socket, interface, 0)?;
    Ok(socket)
}

/// A packet socket that receives nothing yet.
pub fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: socket takes three integers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets an option of a packet socket (packet(7)).
pub fn option<T>(socket: &OwnedFd, name: libc::c_int, value: &T) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    let value = std::ptr::from_ref(value).cast();
    // SAFETY: `value` points to `size` bytes, which the kernel reads during the call.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, name, value, size) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Binds a packet socket to an interface and a protocol.
pub fn bind(socket: &OwnedFd, interface: &str, protocol: u16) -> io::Result<()> {
    let name = CString::new(interface)?;
    // SAFETY: `name` is a C string that lives across the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: sockaddr_ll is a plain C structure, for which all zeroes is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index.cast_signed();
    let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is of the size that is passed, and lives across the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Keeps this thread on one processor, where there are several.
pub fn pin(processor: usize) -> io::Result<()> {
    // SAFETY: cpu_set_t is a plain C structure, for which all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is large enough for the first processors.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the set lives across the call, and its size is passed.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
