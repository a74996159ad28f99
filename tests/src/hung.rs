//! A file system that answers nobody: FUSE whose program never reads a request.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

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
        Self { place: place.to_owned(), requests: Some(requests) }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // Without its program, the kernel answers by itself.
        self.requests = None;
        let place = CString::new(self.place.as_os_str().as_bytes()).unwrap();
        // SAFETY: the string ends with a zero byte and lives across the call.
        unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) };
    }
}
