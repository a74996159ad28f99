//! Making the TUN device of the embedded VPN (Documentation/networking/tuntap.rst).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::status::Offload;

/// Packets of the inside that may stand for many, by what is asked for; the kernel cuts up the
/// others itself (TUN_F_* in include/uapi/linux/if_tun.h).
const TCP_OFFLOADS: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
const UDP_OFFLOADS: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// Makes a TUN device in the calling thread's network namespace, with a descriptor for each of its
/// `queues`.
///
/// It goes away when the last descriptor of it is closed. Returns what it will do for many packets
/// at a time: with `offload`, what this kernel can.
pub fn create(name: &str, offload: bool, queues: usize) -> io::Result<(Vec<OwnedFd>, Offload)> {
    let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let mut devices = vec![attach(name, several | libc::IFF_TUN_EXCL)?];
    for _ in 1..queues {
        devices.push(attach(name, several)?);
    }
    // What one says counts for the whole device.
    let mut made = Offload::default();
    for device in &devices {
        made = agree(device, offload)?;
    }
    Ok((devices, made))
}

fn agree(device: &OwnedFd, offload: bool) -> io::Result<Offload> {
    let made = |tcp, udp| Offload { tcp, udp, ..Offload::default() };
    if offload {
        if set_offload(device, TCP_OFFLOADS | UDP_OFFLOADS).is_ok() {
            return Ok(made(true, true));
        }
        // UDP since Linux 6.2.
        if set_offload(device, TCP_OFFLOADS).is_ok() {
            return Ok(made(true, false));
        }
    }
    set_offload(device, 0)?;
    Ok(made(false, false))
}

fn attach(name: &str, more: libc::c_int) -> io::Result<OwnedFd> {
    let open = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let device = openat(CWD, "/dev/net/tun", open, Mode::empty())
        .map_err(|e| io::Error::new(e.kind(), format!("open /dev/net/tun: {e}")))?;
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more;
    let mut request = interface_request(name)?;
    // The flags are 16 bits, of which IFF_TUN_EXCL is the highest.
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is, for the time of the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(device) }
}

fn set_offload(device: &OwnedFd, offloads: libc::c_uint) -> io::Result<()> {
    let argument = libc::c_ulong::from(offloads);
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An interface request with just the name in it.
fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ || bytes.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an interface name"));
    }
    // SAFETY: ifreq is a plain C structure, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(bytes) {
        *place = byte.cast_signed();
    }
    Ok(request)
}
