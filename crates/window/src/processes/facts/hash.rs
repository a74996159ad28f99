//! SHA-256 of executables, each file once.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// Larger files are not read, in bytes.
pub(super) const LARGEST: u64 = 512 << 20;
/// How many files are remembered.
const MOST: usize = 8 << 10;
/// How long files may be read for in one round; the others come in the next.
const BUDGET: Duration = Duration::from_millis(300);
/// How much is read between two signs of life.
const PIECE: usize = 1 << 20;

/// Which content: a file that changes gets another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Content {
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified: (i64, u32),
    pub(super) changed: (i64, u32),
}

/// Hashes by content.
pub(super) struct Hashes {
    known: HashMap<Content, String>,
    left: Duration,
    buffer: Vec<u8>,
}

impl Hashes {
    pub(super) fn new() -> Self {
        Self { known: HashMap::new(), left: BUDGET, buffer: vec![0; PIECE] }
    }

    /// A new round begins.
    pub(super) fn refill(&mut self) {
        self.left = BUDGET;
        if self.known.len() > MOST {
            self.known.clear();
        }
    }

    /// The hash of `content`, which `open` opens. `alive` is called now and then.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn of(
        &mut self,
        content: Content,
        open: impl FnOnce() -> Result<File, String>,
        mut alive: impl FnMut(),
    ) -> Result<String, String> {
        if let Some(known) = self.known.get(&content) {
            return Ok(known.clone());
        }
        if content.size > LARGEST {
            return Err(format!("larger than {} MiB", LARGEST >> 20));
        }
        if self.left.is_zero() {
            return Err("comes later".into());
        }
        let start = Instant::now();
        let hash = open().and_then(|file| digest(file, &mut self.buffer, &mut alive));
        self.left = self.left.saturating_sub(start.elapsed());
        let hash = hash?;
        self.known.insert(content, hash.clone());
        Ok(hash)
    }
}

fn digest(mut file: File, buffer: &mut [u8], alive: &mut impl FnMut()) -> Result<String, String> {
    let (mut hash, mut total) = (Sha256::new(), 0);
    loop {
        alive();
        match file.read(buffer) {
            Ok(0) => return Ok(super::text::hex(&hash.finalize())),
            Ok(got) => hash.update(&buffer[..got]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(hyperspector_sys::errno::text(&error)),
        }
        total += 1_u64;
        // It grows as it is read.
        if total > 2 * LARGEST / PIECE as u64 {
            return Err("it does not end".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    fn content(size: u64) -> Content {
        Content { device: (1, 2), inode: 3, size, modified: (4, 5), changed: (6, 7) }
    }

    #[test]
    fn a_file_is_read_once() {
        let mut hashes = Hashes::new();
        let open = || {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"abc").unwrap();
            file.rewind().unwrap();
            Ok(file)
        };
        // From FIPS 180-2.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hashes.of(content(3), open, || ()).as_deref(), Ok(abc));
        assert_eq!(hashes.of(content(3), || Err("again".into()), || ()).as_deref(), Ok(abc));
    }

    #[test]
    fn large_files_and_late_ones_are_told() {
        let mut hashes = Hashes::new();
        let never = || Err("opened".into());
        assert_eq!(
            hashes.of(content(LARGEST + 1), never, || ()),
            Err("larger than 512 MiB".into())
        );
        hashes.left = Duration::ZERO;
        assert_eq!(hashes.of(content(1), never, || ()), Err("comes later".into()));
    }
}
