//! File systems that do not answer: FUSE whose program never reads a request, or reads them all and leaves
//! some without an answer.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// One that is mounted. Dropping it unmounts it: whoever waits there goes on with an error.
#[derive(Debug)]
pub struct Hung {
    place: PathBuf,
    requests: Option<File>,
}

impl Hung {
    /// Mounts one over `place`.
    #[track_caller]
    pub fn mount(place: &Path) -> Self {
        Self { place: place.to_owned(), requests: Some(mount(place)) }
    }
}

/// An empty directory that answers everybody, until it has gone mute for some: whoever of them asks
/// then cannot even be killed, since the kernel knows that the request was read. Dropping it unmounts it.
#[derive(Debug)]
pub struct Moody {
    place: PathBuf,
    is_mute: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    program: Option<JoinHandle<()>>,
}

impl Moody {
    /// Mounts one over `place` that can go mute for the processes in the cgroups whose path holds `group`.
    #[track_caller]
    pub fn mount(place: &Path, group: &str) -> Self {
        let [is_mute, is_over] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let (requests, group) = (mount(place), group.to_owned());
        let (mute, over) = (is_mute.clone(), is_over.clone());
        let program = std::thread::spawn(move || {
            let is_answered = |pid| !mute.load(Ordering::Relaxed) || !is_in(pid, &group);
            serve(requests, &is_answered, &over);
        });
        Self { place: place.to_owned(), is_mute, is_over, program: Some(program) }
    }

    /// Goes mute.
    pub fn go_mute(&self) {
        self.is_mute.store(true, Ordering::Relaxed);
    }
}

impl Drop for Moody {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.program.take().map(JoinHandle::join);
        unmount(&self.place);
    }
}

/// Whether a process is in a cgroup whose path holds `group`.
fn is_in(pid: u32, group: &str) -> bool {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
    groups.is_ok_and(|groups| groups.contains(group))
}

/// Answers requests, but for those of processes that are not to be answered. The kernel answers by itself
/// once this has ended.
fn serve(mut requests: File, is_answered: &dyn Fn(u32) -> bool, is_over: &AtomicBool) {
    let mut buffer = vec![0_u8; 64 << 10];
    while !is_over.load(Ordering::Relaxed) {
        let mut poll = libc::pollfd { fd: requests.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: poll is one structure that lives across the call.
        if unsafe { libc::poll(&raw mut poll, 1, 20) } != 1 {
            continue;
        }
        let Ok(read) = requests.read(&mut buffer) else { return };
        let word = |at: usize| u32::from_ne_bytes(buffer[at..at + 4].try_into().unwrap());
        assert!(read >= HEADER, "a request without a header");
        let (operation, pid) = (word(4), word(32));
        let Some((error, body)) = answer(operation).filter(|_| is_answered(pid)) else { continue };
        let length = u32::try_from(16 + body.len()).unwrap();
        let head = [&length.to_ne_bytes()[..], &i32::to_ne_bytes(-error), &buffer[8..16]];
        let _ = requests.write(&[&head.concat()[..], &body].concat());
    }
}

/// The size of `struct fuse_in_header` (include/uapi/linux/fuse.h).
const HEADER: usize = 40;

/// The error and the body of an answer; `None` where there is none to be given.
fn answer(operation: u32) -> Option<(i32, Vec<u8>)> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    Some(match operation {
        // FORGET, INTERRUPT, BATCH_FORGET
        2 | 36 | 42 => return None,
        // LOOKUP: nothing is there.
        1 => (libc::ENOENT, Vec::new()),
        // GETATTR: a directory of root's, to be asked for each time.
        3 => {
            let mut attributes = [0_u32; 26];
            attributes[4] = 1;
            (attributes[19], attributes[20]) = (libc::S_IFDIR | 0o755, 2);
            (0, words(&attributes))
        }
        // STATFS
        17 => (0, vec![0; 80]),
        // INIT: version 7.31, and writes of 4096 bytes.
        26 => {
            let mut limits = [0_u32; 16];
            (limits[0], limits[1], limits[5]) = (7, 31, 4096);
            (0, words(&limits))
        }
        // OPENDIR
        27 => (0, vec![0; 16]),
        // READDIR, RELEASEDIR, ACCESS
        28 | 29 | 34 => (0, Vec::new()),
        _ => (libc::ENOSYS, Vec::new()),
    })
}

/// Mounts FUSE over `place`.
#[track_caller]
fn mount(place: &Path) -> File {
    let requests = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
    let options =
        format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", requests.as_raw_fd());
    let [kind, path, options] =
        [b"fuse".as_slice(), place.as_os_str().as_bytes(), options.as_bytes()]
            .map(|t| CString::new(t).unwrap());
    // SAFETY: all are strings that end with a zero byte and live across the call.
    let mounted = unsafe {
        libc::mount(
            kind.as_ptr(),
            path.as_ptr(),
            kind.as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV,
            options.as_ptr().cast(),
        )
    };
    assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
    requests
}

fn unmount(place: &Path) {
    let place = CString::new(place.as_os_str().as_bytes()).unwrap();
    // SAFETY: the string ends with a zero byte and lives across the call.
    unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) };
}

impl Drop for Hung {
    fn drop(&mut self) {
        // Without its program, the kernel answers by itself.
        self.requests = None;
        unmount(&self.place);
    }
}
