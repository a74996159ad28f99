//! Observing a datagram socket that the server's own receiver has: a BPF program on that socket
//! copies each message into a ring, and lets it through.
//!
//! The receiver keeps everything: its messages, their order, the senders' ids, descriptors that are
//! passed, and that writers wait for it. Nothing of ours is in the way, and when all of ours has died
//! the ring fills up and no more happens. The program runs in the writer's own call, when the message
//! is about to be queued. A message that is then refused, since the receiver's queue is full and the
//! writer does not wait, is observed all the same; before Linux 6.14, one whose writer waits is
//! observed once more when it goes on. How many found no room in the ring is told with the next one that
//! does.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use libbpf_rs::{MapCore, MapHandle, ObjectBuilder};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::batch::Sender;
use crate::packets::Embedded;

static OBJECT: &Embedded<{ include_bytes!(concat!(env!("OUT_DIR"), "/sockets.bpf.o")).len() }> =
    &Embedded(*include_bytes!(concat!(env!("OUT_DIR"), "/sockets.bpf.o")));

/// The size of the ring; the same in the program.
const RING: usize = 16 << 20;
const PAGE: usize = 4096;
/// How many messages are taken before others have their turn.
const TURN: usize = 512;
/// The program wakes us no sooner than this after it has done so: for so long is looked again. It is
/// more than SELDOM there.
pub(super) const AGAIN: Duration = Duration::from_millis(6);
/// What comes before a message's bytes; the same in the program.
const OWN: usize = 32;
/// The kernel's own header of a record (BPF_RINGBUF_HDR_SZ).
const HEADER: usize = 8;
/// The record is being written.
const BUSY: u32 = 1 << 31;
/// The record is not to be read.
const DISCARD: u32 = 1 << 30;

/// Why a socket cannot be observed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses the program.
    #[error("load the observer (Linux 6.2 or later with CONFIG_DEBUG_INFO_BTF is needed): {0}")]
    Load(#[source] libbpf_rs::Error),
    /// The receiver has set a filter of its own, which ours would replace.
    #[error("the receiver has a filter of its own on its socket")]
    Taken,
    /// The socket does not take it.
    #[error("attach the observer to the receiver's socket: {0}")]
    Attach(#[source] io::Error),
}

/// Attaches an observer to a receiver's `socket`, in the place of an earlier one, and returns its
/// ring. It stays until [`detach`], or until the socket is closed.
///
/// # Errors
/// As [`Error`] says. On an error nothing is attached.
pub fn attach(socket: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    if has_own_filter(socket) {
        return Err(Error::Taken);
    }
    let (program, ring) = load().map_err(Error::Load)?;
    set(socket, libc::SO_ATTACH_BPF, program.as_raw_fd()).map_err(Error::Attach)?;
    Ok(ring)
}

/// Takes the observer off a receiver's `socket`; fine where there is none.
///
/// # Errors
/// As setsockopt(2).
pub fn detach(socket: BorrowedFd<'_>) -> io::Result<()> {
    match set(socket, libc::SO_DETACH_FILTER, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// Whether this kernel has what an observer needs.
///
/// # Errors
/// Why not.
pub fn probe() -> Result<(), Error> {
    load().map(drop).map_err(Error::Load)
}

/// A classic filter, which is none of ours; ours cannot be read, and that is an error (EACCES).
fn has_own_filter(socket: BorrowedFd<'_>) -> bool {
    let mut length: libc::socklen_t = 0;
    // SAFETY: with a length of 0 the kernel writes nothing but the length, which lives across the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_GET_FILTER,
            std::ptr::null_mut(),
            &raw mut length,
        )
    };
    result == 0 && length > 0
}

fn set(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is an integer that lives across the call, of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The program and its ring.
fn load() -> libbpf_rs::Result<(OwnedFd, OwnedFd)> {
    // What libbpf would print, the error says.
    libbpf_rs::set_print(None);
    let object = ObjectBuilder::default().open_memory(&OBJECT.0)?.load()?;
    let missing = || libbpf_rs::Error::from(io::Error::from(io::ErrorKind::NotFound));
    let program = object.progs().next().ok_or_else(missing)?;
    let ring = object.maps().find(|map| map.name() == "ring").ok_or_else(missing)?;
    let ring = MapHandle::try_from(&ring)?;
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(libbpf_rs::Error::from);
    Ok((own(program.as_fd())?, own(ring.as_fd())?))
}

/// A message that was observed.
pub(super) struct Observed<'a> {
    /// Its bytes; `None` where there is only a loss to tell.
    pub(super) bytes: Option<&'a [u8]>,
    pub(super) sender: Sender,
    /// The rest of it is not there.
    pub(super) cut: bool,
    /// Descriptors came with it. They are the receiver's.
    pub(super) descriptors: bool,
    /// How many messages before it found no room.
    pub(super) missed: u64,
}

/// What [`Observer::take`] has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The ring was empty.
    Nothing,
    /// All that was there, but for a message that is being written.
    All,
    /// There is more.
    Some,
}

/// The reading end of the program's ring (the kernel's Documentation/bpf/ringbuf.rst).
pub(super) struct Observer {
    map: OwnedFd,
    /// How far it was read: written here, read by the kernel.
    consumer: Mapping,
    /// How far it was written, and behind that page the ring, twice in a row.
    data: Mapping,
}

impl Observer {
    /// Maps the ring behind `map`; what was not read from it before is read now.
    pub(super) fn open(map: OwnedFd) -> io::Result<Self> {
        let consumer = Mapping::new(map.as_fd(), ProtFlags::READ | ProtFlags::WRITE, PAGE, 0)?;
        let data = Mapping::new(map.as_fd(), ProtFlags::READ, PAGE + 2 * RING, PAGE as u64)?;
        Ok(Self { map, consumer, data })
    }

    /// The map itself.
    pub(super) fn map(&self) -> &OwnedFd {
        &self.map
    }

    /// Takes what there is, for a while.
    pub(super) fn take(&mut self, mut one: impl FnMut(Observed<'_>)) -> Taken {
        // SAFETY: the first page of each mapping begins with a position, which the kernel and we
        // access atomically.
        let consumer = unsafe { AtomicU64::from_ptr(self.consumer.start.as_ptr().cast()) };
        let mut position = consumer.load(Ordering::Acquire);
        let is_empty = position >= self.producer();
        for _ in 0..TURN {
            let Some((length, bytes)) = self.record(position) else {
                return if is_empty { Taken::Nothing } else { Taken::All };
            };
            if let Some(observed) = bytes.and_then(read) {
                one(observed);
            }
            position += (HEADER + length).next_multiple_of(8) as u64;
            consumer.store(position, Ordering::Release);
        }
        Taken::Some
    }

    /// How far the ring was written.
    fn producer(&self) -> u64 {
        // SAFETY: as in `take`; this page is only read.
        let producer = unsafe { AtomicU64::from_ptr(self.data.start.as_ptr().cast()) };
        producer.load(Ordering::Acquire)
    }

    /// The record at `position`: its length, and its bytes where it counts.
    fn record(&self, position: u64) -> Option<(usize, Option<&[u8]>)> {
        if position >= self.producer() {
            return None;
        }
        let at = PAGE + (position % RING as u64) as usize;
        let header = self.data.start.as_ptr().wrapping_add(at);
        // SAFETY: inside the mapping, and records are aligned to 8 bytes.
        let length = unsafe { AtomicU32::from_ptr(header.cast()) }.load(Ordering::Acquire);
        if length & BUSY != 0 {
            return None;
        }
        let size = (length & !(BUSY | DISCARD)) as usize;
        if size > RING {
            return None;
        }
        // SAFETY: a record is no longer than the ring, which is mapped twice in a row, and the
        // kernel writes it no more until the consumer's position is behind it.
        let bytes = unsafe { std::slice::from_raw_parts(header.wrapping_add(HEADER), size) };
        Some((size, (length & DISCARD == 0).then_some(bytes)))
    }
}

impl AsFd for Observer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

fn read(record: &[u8]) -> Option<Observed<'_>> {
    let (own, rest) = record.split_first_chunk::<OWN>()?;
    let words = own.as_chunks::<4>().0;
    let [total, length, pid, uid, gid, flags] =
        [0, 1, 2, 3, 4, 5].map(|index: usize| u32::from_ne_bytes(words[index]));
    let missed = u64::from_ne_bytes(*own.last_chunk()?);
    Some(Observed {
        bytes: rest.get(..length as usize),
        sender: Sender { pid, uid, gid },
        cut: total > length,
        descriptors: flags & 1 != 0,
        missed,
    })
}

/// A mapped part of the map.
struct Mapping {
    start: NonNull<u8>,
    size: usize,
}

impl Mapping {
    fn new(map: BorrowedFd<'_>, access: ProtFlags, size: usize, at: u64) -> io::Result<Self> {
        // SAFETY: a new mapping at a place of the kernel's choice overlaps nothing; a map's memory
        // lasts as long as it is mapped.
        let start = unsafe { mmap(std::ptr::null_mut(), size, access, MapFlags::SHARED, map, at) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, size })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is `self`'s alone, and nothing borrowed from it is left.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.size) };
    }
}
