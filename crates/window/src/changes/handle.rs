//! File handles: names of files that stay the same whatever the files are called
//! (open_by_handle_at(2)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use libc as l;

/// A handle, as the kernel has it: `struct file_handle` with what follows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Handle(Box<[u8]>);

/// The size of `struct file_handle`.
const HEADER: usize = 8;
/// The longest handle (`MAX_HANDLE_SZ`).
const LONGEST: usize = 128;
/// How often a file is opened that the kernel has no answer for just now.
const TRIES: usize = 20;

impl Handle {
    /// Takes a handle from the front of `bytes`.
    pub(super) fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
        let length = usize::try_from(length).ok().filter(|length| *length <= LONGEST)?;
        let (handle, rest) = bytes.split_at_checked(HEADER + length)?;
        Some((Self(handle.into()), rest))
    }

    /// The handle of the file that `fd` is open on.
    pub(super) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let mut bytes = vec![0_u8; HEADER + LONGEST];
        bytes[..4].copy_from_slice(&u32::try_from(LONGEST).unwrap_or(0).to_ne_bytes());
        let mut mount = 0;
        // SAFETY: the path is a static empty C string; `bytes` holds a file_handle of the length that
        // is written in it, which the kernel fills, and `mount` an int; both live across the call.
        let result = unsafe {
            l::syscall(
                l::SYS_name_to_handle_at,
                fd.as_raw_fd(),
                c"".as_ptr(),
                bytes.as_mut_ptr(),
                &raw mut mount,
                l::AT_EMPTY_PATH,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Self::split(&bytes)
            .map(|(handle, _)| handle)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Opens the file as a mere place in the file system that `mount` is a file of; its path is one of
    /// that mount. Needs CAP_DAC_READ_SEARCH.
    ///
    /// # Errors
    /// `ESTALE` where it is gone.
    pub(super) fn open(&self, mount: impl AsFd) -> io::Result<OwnedFd> {
        for _ in 0..TRIES {
            match self.try_open(mount.as_fd()) {
                // What ext4 answers, too, while a new file takes over the inode of one that is gone
                // (iget_locked gives nothing for one in the making).
                Err(error) if error.raw_os_error() == Some(l::ENOMEM) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => return other,
            }
        }
        self.try_open(mount.as_fd())
    }

    fn try_open(&self, mount: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        // SAFETY: `self.0` holds a file_handle with as many bytes after it as it says, which the
        // kernel only reads.
        let fd = unsafe {
            l::syscall(
                l::SYS_open_by_handle_at,
                mount.as_raw_fd(),
                self.0.as_ptr(),
                l::O_PATH | l::O_CLOEXEC,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the descriptor is new and nobody else's.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// Whether an error says that a file is gone.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(l::ESTALE | l::ENOENT))
}
