//! What the tracer's programs are told, in memory that both share: nothing of it takes a system call.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use hyperspector_syscalls::rules::CALLS;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use serde::{Deserialize, Serialize};

/// How many cgroups can be named.
pub const MOST_GROUPS: usize = 16;

/// How many processes, and users, recording can be limited to.
pub const MOST_WHO: usize = 16;

/// struct hs_settings
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Raw {
    groups: [u64; MOST_GROUPS],
    but: [u64; MOST_GROUPS],
    generation: u32,
    by_process: u32,
    string: u32,
    buffer: u32,
    files: u32,
    wake: u32,
    native: [u64; CALLS / 64],
    compat: [u64; CALLS / 64],
    failed_only: u32,
    has_space: u32,
    space: u32,
    by_space: u32,
    agent: u32,
    pid_count: u32,
    uid_count: u32,
    zero: u32,
    pids: [u32; MOST_WHO],
    uids: [u32; MOST_WHO],
}

/// How long the settings are.
pub(super) const SIZE: usize = size_of::<Raw>();

/// Whose calls are recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// The ids of cgroups (v2) whose tasks are traced, and those below them.
    pub groups: Vec<u64>,
    /// Those below them that are not.
    pub but: Vec<u64>,
    /// Whether processes are traced by their number too.
    pub by_process: bool,
    /// The inode number of the server's PID namespace, where it has one of its own.
    pub space: Option<u32>,
    /// Whether all in that are traced too.
    pub by_space: bool,
    /// A process that is not traced, though its cgroup is: by its number in the initial PID namespace.
    pub agent: Option<u32>,
}

/// A set of calls, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calls([u64; CALLS / 64]);

impl Calls {
    /// Every call.
    pub const ALL: Self = Self([u64::MAX; CALLS / 64]);
    /// No call.
    pub const NONE: Self = Self([0; CALLS / 64]);

    /// Those whose bits are set.
    #[must_use]
    pub const fn of(bits: [u64; CALLS / 64]) -> Self {
        Self(bits)
    }

    /// With the call of that number too.
    #[must_use]
    pub fn with(mut self, number: u32) -> Self {
        if let Some(word) = self.0.get_mut(number as usize / 64) {
            *word |= 1 << (number % 64);
        }
        self
    }
}

/// Whom calls are recorded of: at most [`MOST_WHO`] of them; of everybody where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Only {
    count: usize,
    numbers: [u32; MOST_WHO],
}

impl Only {
    /// All of these; everybody where they are too many.
    #[must_use]
    pub fn of(numbers: impl IntoIterator<Item = u32>) -> Self {
        let mut only = Self::default();
        for number in numbers {
            if only.numbers.iter().take(only.count).any(|known| *known == number) {
                continue;
            }
            let Some(slot) = only.numbers.get_mut(only.count) else { return Self::default() };
            *slot = number;
            only.count += 1;
        }
        only
    }
}

/// What is recorded of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Calls of the native convention.
    pub native: Calls,
    /// Calls of the 32-bit one.
    pub compat: Calls,
    /// Up to how many bytes of a string; at most 4096.
    pub string: u32,
    /// Up to how many bytes of other data of one argument; at most 4096.
    pub buffer: u32,
    /// Whether files behind descriptors are told.
    pub files: bool,
    /// How many bytes may wait before the reader is woken.
    pub wake: u32,
    /// Whether calls that succeed are left out.
    pub failed_only: bool,
    /// Processes and threads, by their numbers on the host or in the server's own PID namespace.
    pub pids: Only,
    /// Users, real or effective.
    pub uids: Only,
}

/// The shared memory.
pub(super) struct Shared(NonNull<Raw>);

// SAFETY: it is memory that stays mapped for as long as this value lives, and every change of it takes
// `&mut self`.
unsafe impl Send for Shared {}

impl Shared {
    /// Maps the settings' map.
    pub(super) fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice takes nothing away from anybody; the
        // map's one value is at least as long as `Raw`, which is the type that it is read by.
        let address =
            unsafe { mmap(std::ptr::null_mut(), SIZE, protection, MapFlags::SHARED, fd, 0) }?;
        NonNull::new(address.cast()).map(Self).ok_or_else(|| io::Error::other("mapped at 0"))
    }

    /// Sets what is recorded.
    pub(super) fn set(&mut self, settings: &Settings) {
        // SAFETY: the memory is mapped, aligned as a page is, and holds any bytes of `Raw` validly; the
        // programs in the kernel read single words of it, of which they may see old and new ones.
        let raw = unsafe { self.0.as_mut() };
        raw.string = settings.string;
        raw.buffer = settings.buffer;
        raw.files = settings.files.into();
        raw.wake = settings.wake;
        raw.failed_only = settings.failed_only.into();
        raw.native = settings.native.0;
        raw.compat = settings.compat.0;
        // Nobody is let through, or left out, by half a list.
        (raw.pid_count, raw.uid_count) = (0, 0);
        fence(Ordering::Release);
        (raw.pids, raw.uids) = (settings.pids.numbers, settings.uids.numbers);
        fence(Ordering::Release);
        raw.pid_count = settings.pids.count as u32;
        raw.uid_count = settings.uids.count as u32;
    }

    /// Sets whose calls are recorded.
    pub(super) fn set_scope(&mut self, scope: &Scope) {
        // SAFETY: as in `set`.
        let raw = unsafe { self.0.as_mut() };
        fill(&mut raw.groups, &scope.groups);
        fill(&mut raw.but, &scope.but);
        raw.by_process = scope.by_process.into();
        raw.has_space = scope.space.is_some().into();
        raw.space = scope.space.unwrap_or(0);
        raw.by_space = scope.by_space.into();
        raw.agent = scope.agent.unwrap_or(0);
        // Last: what the programs remember of cgroups holds for one generation.
        // SAFETY: the field is aligned, and nobody else in this process has a reference to it.
        let generation = unsafe { AtomicU32::from_ptr(&raw mut raw.generation) };
        generation.fetch_add(1, Ordering::Release);
    }
}

fn fill(slots: &mut [u64; MOST_GROUPS], ids: &[u64]) {
    *slots = [0; MOST_GROUPS];
    for (slot, id) in slots.iter_mut().zip(ids) {
        *slot = *id;
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and size, and nothing refers to it any more.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), SIZE) };
    }
}
