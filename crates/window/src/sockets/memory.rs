//! Memory that outlives the process that works on it: a sealed memfd (memfd_create(2)), mapped by
//! whoever is handed its descriptor.
//!
//! It begins with a page of counters, which several processes may read; what comes after belongs to
//! the one tee of the moment.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The size of the page of counters, in bytes.
pub(super) const HEAD: usize = 4096;

/// The counters of that page; what follows them in it is the place of a [`super::batch`] table.
pub(super) const WORDS: usize = 128;

/// A new piece of memory of `size` bytes, all zero, whose size nobody can change.
pub(super) fn create(name: &str, size: usize) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, size as u64)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// A mapped piece of memory.
#[derive(Debug)]
pub(super) struct Memory {
    start: NonNull<u8>,
    size: usize,
}

impl Memory {
    /// Maps what [`create`] has made.
    ///
    /// # Errors
    /// `InvalidData` where it can be made smaller, or is too small for the counters.
    pub(super) fn map(fd: impl AsFd) -> io::Result<Self> {
        let size = usize::try_from(fstat(&fd)?.st_size).map_err(io::Error::other)?;
        let sealed = rustix::fs::fcntl_get_seals(&fd)?;
        if !sealed.contains(SealFlags::SHRINK) || size < HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not memory of a keeper"));
        }
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at a place of the kernel's choice overlaps nothing; the file is
        // sealed, so that no part of it can go away under the mapping.
        let start = unsafe { mmap(std::ptr::null_mut(), size, access, flags, &fd, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, size })
    }

    /// Its size in bytes.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// A counter. Any process may read and write it at any time.
    pub(super) fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < WORDS, "there are {WORDS} counters");
        let word = self.start.as_ptr().cast::<AtomicU64>().wrapping_add(index);
        // SAFETY: the mapping is page-aligned, at least a page long and lives as long as `self`; all
        // accesses to this part of it are atomic, in every process.
        unsafe { &*word }
    }

    /// Where the bytes `at..at + length` are; they are checked to be behind the counters.
    pub(super) fn place(&mut self, at: usize, length: usize) -> *mut u8 {
        self.check(at, length);
        self.start.as_ptr().wrapping_add(at)
    }

    /// The bytes `at..at + length`, which are behind the counters.
    pub(super) fn bytes(&self, at: usize, length: usize) -> &[u8] {
        self.check(at, length);
        // SAFETY: within the mapping, which lives as long as `self`. Only the tee of the moment
        // writes here, which is the process that calls this, and only through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().wrapping_add(at), length) }
    }

    /// Copies `bytes` to `at`, behind the counters.
    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        let to = self.place(at, bytes.len());
        // SAFETY: `to` has room for them by the check in `place`; `bytes` is no part of this
        // mapping, since `&mut self` lets nobody hold one.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    fn check(&self, at: usize, length: usize) {
        let end = at.checked_add(length);
        let inside = at >= WORDS * 8 && end.is_some_and(|end| end <= self.size);
        assert!(inside, "bytes outside of the shared memory");
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is `self`'s alone, and nothing borrowed from it is left.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.size) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn what_one_mapping_writes_another_reads() {
        let fd = create("test", 3 * HEAD).unwrap();
        let mut one = Memory::map(&fd).unwrap();
        let two = Memory::map(&fd).unwrap();
        one.write(HEAD, b"hello");
        one.word(3).store(7, Ordering::Relaxed);
        assert_eq!(two.bytes(HEAD, 5), b"hello");
        assert_eq!(two.word(3).load(Ordering::Relaxed), 7);
    }

    #[test]
    fn memory_that_could_shrink_is_refused() {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, 8192).unwrap();
        assert!(Memory::map(&fd).is_err());
        let fd = create("test", 8192).unwrap();
        assert!(ftruncate(&fd, 0).is_err());
    }
}
