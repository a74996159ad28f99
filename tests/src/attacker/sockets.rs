//! Reaching Unix sockets that a file window shows, under every name that one can give them.

use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::call::{open, own, sys};
use super::files::{in_windows, path};
use super::{Attempt, Targets, Verdict};

const CONNECT: &str = "sockets in a file window cannot be reached: connect guard";

const fn attempt(name: &'static str, run: fn(&Targets) -> Verdict) -> Attempt {
    Attempt::new("files", name, CONNECT, run)
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt("socket-stream-connect", |t| stream(t, plainly)),
    attempt("socket-stream-relative", |t| stream(t, relatively)),
    attempt("socket-stream-symlink", |t| stream(t, through_link)),
    attempt("socket-stream-descriptor", |t| stream(t, through_descriptor)),
    attempt("socket-stream-directory", |t| stream(t, through_directory)),
    attempt("socket-stream-chroot", |t| stream(t, after_chroot)),
    attempt("socket-stream-dots", |t| stream(t, with_dots)),
    attempt("socket-datagram-connect", |t| datagram(t, plainly, connect_and_send)),
    attempt("socket-datagram-send", |t| datagram(t, plainly, send_to)),
    attempt("socket-datagram-relative", |t| datagram(t, relatively, send_to)),
    attempt("socket-datagram-symlink", |t| datagram(t, through_link, send_to)),
    attempt("socket-datagram-descriptor", |t| datagram(t, through_descriptor, send_to)),
    attempt("socket-datagram-many", |t| datagram(t, relatively, send_many)),
    attempt("socket-datagram-bound", |t| datagram(t, plainly, bound_send)),
    attempt("socket-high-bits", high_bits),
    attempt("socket-stream-race", race),
];

/// Gives another name for a socket.
type Name = fn(&Path) -> io::Result<PathBuf>;

fn stream(targets: &Targets, name: Name) -> Verdict {
    tried(targets, "stream.sock", |place| by(name, place, |at| UnixStream::connect(at).map(drop)))
}

fn datagram(targets: &Targets, name: Name, send: fn(&Path) -> io::Result<()>) -> Verdict {
    tried(targets, "datagram.sock", |place| by(name, place, send))
}

/// Acts on the socket by another name, and leaves no link behind.
fn by(name: Name, place: &Path, act: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let at = name(place)?;
    let done = act(&at);
    if at == link() {
        std::fs::remove_file(at)?;
    }
    done
}

fn tried(targets: &Targets, name: &str, act: impl Fn(&Path) -> io::Result<()>) -> Verdict {
    in_windows(targets, |dir| {
        let place = dir.join(name);
        match std::fs::symlink_metadata(&place) {
            // ENOENT: whoever connects for us does not follow the links of our /proc.
            Ok(found) if found.file_type().is_socket() => {
                Verdict::of_or(act(&place), &[libc::ENOENT])
            }
            _ => Verdict::error(format!("no {name} here")),
        }
    })
}

fn plainly(place: &Path) -> io::Result<PathBuf> {
    Ok(place.to_owned())
}

fn parts(place: &Path) -> io::Result<(&Path, &Path)> {
    let name = place.file_name().map(Path::new);
    place.parent().zip(name).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

fn relatively(place: &Path) -> io::Result<PathBuf> {
    let (dir, name) = parts(place)?;
    std::env::set_current_dir(dir)?;
    Ok(name.to_owned())
}

fn link() -> PathBuf {
    PathBuf::from(format!("/tmp/hs-attack-link-{}", std::process::id()))
}

fn through_link(place: &Path) -> io::Result<PathBuf> {
    let link = link();
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(place, &link)?;
    Ok(link)
}

fn through_descriptor(place: &Path) -> io::Result<PathBuf> {
    let socket = open(&path(place), libc::O_PATH)?;
    Ok(format!("/proc/self/fd/{}", socket.into_raw_fd()).into())
}

fn through_directory(place: &Path) -> io::Result<PathBuf> {
    let (dir, name) = parts(place)?;
    let dir = open(&path(dir), libc::O_PATH | libc::O_DIRECTORY)?;
    Ok(Path::new(&format!("/proc/self/fd/{}", dir.into_raw_fd())).join(name))
}

fn after_chroot(place: &Path) -> io::Result<PathBuf> {
    let (dir, name) = parts(place)?;
    std::os::unix::fs::chroot(dir)?;
    std::env::set_current_dir("/")?;
    Ok(Path::new("/").join(name))
}

fn with_dots(place: &Path) -> io::Result<PathBuf> {
    let (dir, name) = parts(place)?;
    Ok(Path::new("/proc/../").join(dir.strip_prefix("/").unwrap_or(dir)).join(".").join(name))
}

fn connect_and_send(place: &Path) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(place)?;
    socket.send(b"hs-attack").map(drop)
}

fn send_to(place: &Path) -> io::Result<()> {
    UnixDatagram::unbound()?.send_to(b"hs-attack", place).map(drop)
}

/// A socket with a name of its own, that a server could answer to.
fn bound_send(place: &Path) -> io::Result<()> {
    let name = format!("/tmp/hs-attack-socket-{}", std::process::id());
    let _ = std::fs::remove_file(&name);
    let sent = UnixDatagram::bind(&name)?.send_to(b"hs-attack", place).map(drop);
    let _ = std::fs::remove_file(&name);
    sent
}

/// The address of a socket by its path (struct sockaddr_un).
fn address(place: &Path) -> [u8; 110] {
    let mut address = [0_u8; 110];
    address[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    let text = place.as_os_str().as_encoded_bytes();
    let length = text.len().min(107);
    address[2..2 + length].copy_from_slice(&text[..length]);
    address
}

/// sendmmsg(2) with the address in the message.
fn send_many(place: &Path) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    let address = address(place);
    let data = *b"hs-attack";
    let part = [data.as_ptr().addr() as u64, data.len() as u64];
    let name = address.as_ptr().addr() as u64;
    let header = [name, address.len() as u64, part.as_ptr().addr() as u64, 1, 0, 0, 0, 0];
    sys!(libc::SYS_sendmmsg, socket.as_raw_fd(), super::call::bytes(&header), 1, 0).map(drop)
}

/// A socket made with bits set that the kernel cuts off.
fn high_bits(targets: &Targets) -> Verdict {
    const HIGH: u64 = 1 << 32;
    tried(targets, "stream.sock", |place| {
        let (family, kind) = (libc::AF_UNIX as u64, libc::SOCK_STREAM as u64);
        let socket = own(sys!(libc::SYS_socket, family | HIGH, kind | HIGH, HIGH))?;
        let address = address(place);
        sys!(libc::SYS_connect, &socket, &address, address.len()).map(drop)
    })
}

/// Connects again and again to a link that another process turns, back and forth, from a socket of
/// our own to the server's: whoever checks the path and then connects may see two different ones.
fn race(targets: &Targets) -> Verdict {
    tried(targets, "stream.sock", |place| {
        let name =
            |what: &str| PathBuf::from(format!("/tmp/hs-race-{what}-{}", std::process::id()));
        let (own_socket, link, next) = (name("own"), name("link"), name("next"));
        let listener = UnixListener::bind(&own_socket)?;
        listener.set_nonblocking(true)?;
        let turner = super::child::fork(|| {
            loop {
                for target in [place, own_socket.as_path()] {
                    let _ = std::os::unix::fs::symlink(target, &next);
                    let _ = std::fs::rename(&next, &link);
                }
            }
        })?;
        let reached = connect_for_a_while(&link, &listener);
        let _ = sys!(libc::SYS_kill, turner, libc::SIGKILL);
        for name in [own_socket, link, next] {
            let _ = std::fs::remove_file(name);
        }
        if reached { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EACCES)) }
    })
}

/// Whether a connection was made that did not come to our own listener.
fn connect_for_a_while(link: &Path, listener: &UnixListener) -> bool {
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        let connected = UnixStream::connect(link).is_ok();
        if connected && listener.accept().is_err() {
            return true;
        }
    }
    false
}
