//! SHA-256 of executables, each file once.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::cpu_time;

/// Larger files are not read, in bytes.
pub(super) const LARGEST: u64 = 512 << 20;
/// How many files are remembered.
const MOST: usize = 8 << 10;
/// Files up to this size are read whole, in bytes; of larger ones some in each round.
const SMALL: u64 = 1 << 20;
/// How much of small files, and of large ones, is read in one round, in bytes; what is left comes in
/// the next.
const SMALL_SHARE: u64 = 8 << 20;
/// See [`SMALL_SHARE`].
const LARGE_SHARE: u64 = 16 << 20;
/// How much of the processor's time goes into large ones in one round.
const LARGE_TIME: Duration = Duration::from_millis(50);
/// For so many rounds others wait until a large file that was begun is gone on with.
const PATIENCE: u32 = 32;
/// How much is read between two signs of life, in bytes.
const PIECE: usize = 256 << 10;

/// Which content: a file that changes gets another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Content {
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified: (i64, u32),
    pub(super) changed: (i64, u32),
}

impl Content {
    fn is_large(&self) -> bool {
        self.size > SMALL
    }
}

/// Hashes by content.
pub(super) struct Hashes {
    known: HashMap<Content, String>,
    /// A file that has been read in part, and how far.
    begun: Option<(Content, Sha256, u64)>,
    /// How many rounds ago.
    waited: u32,
    /// When the time for large files is over, on the clock of the processor's time.
    end: Duration,
    /// How much of small files, and of large ones, may still be read in this round.
    left: [u64; 2],
    buffer: Vec<u8>,
}

/// Why there is no hash yet.
const LATER: &str = "comes later";

impl Hashes {
    /// Nothing is read before the first [`Self::refill`].
    pub(super) fn new() -> Self {
        Self {
            known: HashMap::new(),
            begun: None,
            waited: 0,
            end: Duration::MAX,
            left: [0; 2],
            buffer: vec![0; PIECE],
        }
    }

    /// A new round begins.
    pub(super) fn refill(&mut self) {
        self.left = [SMALL_SHARE, LARGE_SHARE];
        self.end = cpu_time() + LARGE_TIME;
        self.waited += 1;
        if self.waited > PATIENCE {
            self.begun = None;
        }
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
        alive: impl FnMut(),
    ) -> Result<String, String> {
        if let Some(known) = self.known.get(&content) {
            return Ok(known.clone());
        }
        if content.size > LARGEST {
            return Err(format!("larger than {} MiB", LARGEST >> 20));
        }
        let others = self.begun.as_ref().is_some_and(|(begun, ..)| *begun != content);
        if self.left[usize::from(content.is_large())] == 0 || content.is_large() && others {
            return Err(LATER.into());
        }
        let hash = open().and_then(|file| self.go_on(content, &file, alive))?;
        self.known.insert(content, hash.clone());
        Ok(hash)
    }

    /// Reads on where an earlier round has ended, at most until this one does.
    fn go_on(
        &mut self,
        content: Content,
        file: &File,
        mut alive: impl FnMut(),
    ) -> Result<String, String> {
        let begun = self.begun.take_if(|(begun, ..)| *begun == content);
        let (mut hash, mut at) = begun.map_or((Sha256::new(), 0), |(_, hash, at)| (hash, at));
        let left = &mut self.left[usize::from(content.is_large())];
        loop {
            alive();
            match file.read_at(&mut self.buffer, at) {
                Ok(0) => return Ok(super::text::hex(&hash.finalize())),
                Ok(got) => {
                    hash.update(&self.buffer[..got]);
                    at += got as u64;
                    *left = left.saturating_sub(got as u64);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(hyperspector_sys::errno::text(&error)),
            }
            if at > LARGEST {
                return Err("it grows".into());
            }
            if content.is_large() && (*left == 0 || cpu_time() >= self.end) {
                *left = 0;
                (self.begun, self.waited) = (Some((content, hash, at)), 0);
                return Err(LATER.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn content(size: u64) -> Content {
        Content { device: (1, 2), inode: 3, size, modified: (4, 5), changed: (6, 7) }
    }

    /// From FIPS 180-2.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn file(text: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        file
    }

    #[test]
    fn a_file_is_read_once() {
        let mut hashes = Hashes::new();
        hashes.refill();
        assert_eq!(hashes.of(content(3), || Ok(file(b"abc")), || ()).as_deref(), Ok(ABC));
        assert_eq!(hashes.of(content(3), || Err("again".into()), || ()).as_deref(), Ok(ABC));
    }

    #[test]
    fn large_files_and_late_ones_are_told() {
        let mut hashes = Hashes::new();
        let never = || Err("opened".into());
        assert_eq!(
            hashes.of(content(LARGEST + 1), never, || ()),
            Err("larger than 512 MiB".into())
        );
        hashes.left = [0, LARGE_SHARE];
        assert_eq!(hashes.of(content(1), never, || ()), Err(LATER.into()));
    }

    #[test]
    fn large_files_come_one_after_the_other() {
        let mut hashes = Hashes { buffer: vec![0; 1], ..Hashes::new() };
        let [one, other] = [SMALL + 1, SMALL + 2].map(content);
        let begun = |hashes: &Hashes| hashes.begun.as_ref().map(|(_, _, at)| *at);
        hashes.left = [SMALL_SHARE, 1];
        assert_eq!(hashes.of(one, || Ok(file(b"abc")), || ()), Err(LATER.into()));
        hashes.left = [SMALL_SHARE, LARGE_SHARE];
        assert_eq!(hashes.of(other, || Ok(file(b"abc")), || ()), Err(LATER.into()));
        assert_eq!(begun(&hashes), Some(1), "what was begun is not begun anew");
        for _ in 0..=PATIENCE {
            hashes.refill();
        }
        // Nobody has asked for it any more.
        assert_eq!(hashes.of(other, || Ok(file(b"abc")), || ()).as_deref(), Ok(ABC));
    }

    #[test]
    fn a_large_file_is_read_in_pieces() {
        let mut hashes = Hashes { buffer: vec![0; 1], ..Hashes::new() };
        let large = content(SMALL + 1);
        for _ in 0..3 {
            hashes.left = [SMALL_SHARE, 1];
            assert_eq!(hashes.of(large, || Ok(file(b"abc")), || ()), Err(LATER.into()));
        }
        hashes.refill();
        assert_eq!(hashes.of(large, || Ok(file(b"abc")), || ()).as_deref(), Ok(ABC));
    }
}
