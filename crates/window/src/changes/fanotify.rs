//! fanotify(7) groups that report names: the calls, and what is read from a group.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libc as l;

use super::handle::Handle;

/// What is asked for: everything that makes a tree another one. A file that is written through a
/// mapping tells nothing until it is closed and unmapped, hence FAN_CLOSE_WRITE.
const WANTED: u64 = l::FAN_CREATE
    | l::FAN_DELETE
    | l::FAN_MOVED_FROM
    | l::FAN_MOVED_TO
    | l::FAN_MODIFY
    | l::FAN_CLOSE_WRITE
    | l::FAN_ATTRIB
    | l::FAN_ONDIR;

/// Makes a group whose queue is bounded by the host's setting (fs.fanotify.max_queued_events). Needs
/// CAP_SYS_ADMIN, and Linux 5.17.
pub(super) fn group() -> io::Result<OwnedFd> {
    let flags =
        l::FAN_CLASS_NOTIF | l::FAN_CLOEXEC | l::FAN_NONBLOCK | l::FAN_REPORT_DFID_NAME_TARGET;
    // SAFETY: fanotify_init takes two integers.
    let fd = unsafe { l::fanotify_init(flags, (l::O_RDONLY | l::O_CLOEXEC).cast_unsigned()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has `group` report what changes on the file system that `on` is a file of. Needs CAP_SYS_ADMIN.
///
/// # Errors
/// `ENODEV`, `EXDEV` or `EOPNOTSUPP` where the kernel cannot tell files of that file system apart.
pub fn mark(group: BorrowedFd<'_>, on: BorrowedFd<'_>) -> io::Result<()> {
    change(group, on, l::FAN_MARK_ADD)
}

/// Undoes [`mark`].
pub fn unmark(group: BorrowedFd<'_>, on: BorrowedFd<'_>) -> io::Result<()> {
    change(group, on, l::FAN_MARK_REMOVE)
}

fn change(group: BorrowedFd<'_>, on: BorrowedFd<'_>, what: u32) -> io::Result<()> {
    let (group, on) = (group.as_raw_fd(), on.as_raw_fd());
    let flags = what | l::FAN_MARK_FILESYSTEM;
    // SAFETY: fanotify_mark takes integers and a path, which may be null: then `on` itself is meant.
    match unsafe { l::fanotify_mark(group, flags, WANTED, on, std::ptr::null()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The flags of [`ignore_writes`]: for one file, whatever is written to it, and as long as the kernel
/// has it in memory anyway.
pub(super) const IGNORE: u32 = l::FAN_MARK_ADD
    | l::FAN_MARK_IGNORED_MASK
    | l::FAN_MARK_IGNORED_SURV_MODIFY
    | l::FAN_MARK_EVICTABLE;

/// Has `group` report no more writes to `file`, which is open as a mere place; `descriptors` is this
/// process's `/proc/self/fd`. Needs Linux 5.19, and to be allowed to read the file.
pub(super) fn ignore_writes(
    group: BorrowedFd<'_>,
    descriptors: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
) -> io::Result<()> {
    let name = CString::new(file.as_raw_fd().to_string())?;
    let (group, at) = (group.as_raw_fd(), descriptors.as_raw_fd());
    // SAFETY: fanotify_mark takes integers and a path, which lives across the call.
    match unsafe { l::fanotify_mark(group, IGNORE, l::FAN_MODIFY, at, name.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Undoes every [`ignore_writes`].
pub(super) fn ignore_nothing(group: BorrowedFd<'_>) -> io::Result<()> {
    let (group, here) = (group.as_raw_fd(), l::AT_FDCWD);
    // SAFETY: as above; the path is a static C string.
    match unsafe { l::fanotify_mark(group, l::FAN_MARK_FLUSH, 0, here, c".".as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) mask: u64,
    /// The file system.
    pub(super) fsid: u64,
    /// The directory, and the name in it.
    pub(super) place: Option<(Handle, Vec<u8>)>,
    /// The file itself.
    pub(super) target: Option<Handle>,
}

impl Event {
    /// Whether any of these bits is set.
    pub(super) fn is_any(&self, bits: u64) -> bool {
        self.mask & bits != 0
    }
}

/// Reads what is in the queue, at most what fits into `buffer`; nothing where it is empty.
pub(super) fn read(group: &OwnedFd, buffer: &mut [u8]) -> io::Result<Vec<Event>> {
    match rustix::io::read(group.as_fd(), &mut *buffer) {
        Ok(length) => Ok(parse(&buffer[..length])),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// The size of `struct fanotify_event_metadata`.
const METADATA: usize = 24;

fn parse(mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(length) = number(bytes, 0).filter(|length| *length >= METADATA) {
        let Some(event) = bytes.get(..length) else { break };
        let mask = event[8..16].try_into().map_or(0, u64::from_ne_bytes);
        events.push(parse_info(mask, &event[METADATA..]));
        bytes = &bytes[length..];
    }
    events
}

/// Reads the records after an event's metadata (`struct fanotify_event_info_fid`).
fn parse_info(mask: u64, mut bytes: &[u8]) -> Event {
    let mut event = Event { mask, fsid: 0, place: None, target: None };
    while bytes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([bytes[2], bytes[3]]));
        let Some(record) = bytes.get(..length).filter(|record| record.len() >= 12) else { break };
        if let Some((handle, rest)) = Handle::split(&record[12..]) {
            event.fsid = record[4..12].try_into().map_or(0, u64::from_ne_bytes);
            match record[0] {
                l::FAN_EVENT_INFO_TYPE_FID => event.target = Some(handle),
                l::FAN_EVENT_INFO_TYPE_DFID_NAME => {
                    let name = rest.split(|byte| *byte == 0).next().unwrap_or_default();
                    event.place = Some((handle, name.to_vec()));
                }
                l::FAN_EVENT_INFO_TYPE_DFID => event.place = Some((handle, b".".to_vec())),
                _ => {}
            }
        }
        bytes = &bytes[length..];
    }
    event
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let number = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_ne_bytes(number)).ok()
}
