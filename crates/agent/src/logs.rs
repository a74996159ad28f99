//! Reading what portspaces printed: two files that take turns, lines with the time in front.
//!
//! The files are written by a portspace's init, which may be taken: no more is read than it should
//! have written.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hyperspector_space::init::log::NOTE;

/// The most that is read of a file at once, in bytes: twice what init lets it grow to.
const MOST: u64 = 2 * crate::space::LOG_SIZE;
/// How much of the end of a file is read for the last lines, in bytes.
const END: u64 = 64 << 10;
/// The longest line, in bytes; of a longer one its beginning is taken.
const LINE: u64 = 64 << 10;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it arrived, in microseconds since 1970.
    pub micros: u64,
    /// What was printed, as it is: to be escaped before anybody sees it.
    pub text: String,
}

/// Follows a portspace's two log files.
#[derive(Debug)]
pub struct Follow {
    files: [PathBuf; 2],
    /// How far each has been read, and which inode and size that was at.
    read: [u64; 2],
}

impl Follow {
    /// Starts at the beginning of what is kept.
    pub fn new(files: [PathBuf; 2]) -> Self {
        Self { files, read: [0, 0] }
    }

    /// Starts at the end.
    pub fn from_now(files: [PathBuf; 2]) -> Self {
        let read = [0, 1].map(|i: usize| std::fs::metadata(&files[i]).map_or(0, |m| m.size()));
        Self { files, read }
    }

    /// The lines that have come since the last call, oldest first.
    pub fn more(&mut self) -> io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        for index in 0..2 {
            match self.read_on(index) {
                Ok(mut more) => lines.append(&mut more),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        lines.sort_by_key(|line| line.micros);
        Ok(lines)
    }

    /// Leaves out all but the last `bytes` of each file; what is left of a line is no line.
    fn skip_to_last(&mut self, bytes: u64) {
        for (read, path) in self.read.iter_mut().zip(&self.files) {
            let size = std::fs::metadata(path).map_or(0, |found| found.size());
            *read = (*read).max(size.saturating_sub(bytes));
        }
    }

    fn read_on(&mut self, index: usize) -> io::Result<Vec<Line>> {
        let mut file = File::open(&self.files[index])?;
        let size = file.metadata()?.size();
        if size < self.read[index] {
            // Its turn came again: it was emptied.
            self.read[index] = 0;
        }
        file.seek(SeekFrom::Start(self.read[index]))?;
        let mut reader = BufReader::new(file.take((size - self.read[index]).min(MOST)));
        let mut lines = Vec::new();
        let mut bytes = Vec::new();
        while reader.by_ref().take(LINE).read_until(b'\n', &mut bytes)? > 0 {
            let mut length = bytes.len() as u64;
            let is_whole = bytes.last() == Some(&b'\n');
            if !is_whole && length < LINE {
                break;
            }
            if !is_whole {
                length += reader.skip_until(b'\n')? as u64;
            }
            self.read[index] += length;
            lines.extend(parse(&bytes));
            bytes.clear();
        }
        Ok(lines)
    }
}

fn parse(bytes: &[u8]) -> Option<Line> {
    let text = String::from_utf8_lossy(bytes);
    let (stamp, text) = text.trim_end_matches('\n').split_once(' ')?;
    let (seconds, micros) = stamp.split_once('.')?;
    let micros =
        seconds.parse::<u64>().ok()?.checked_mul(1_000_000)? + micros.parse::<u64>().ok()?;
    Some(Line { micros, text: text.to_owned() })
}

/// The last `count` lines that the command itself printed.
pub fn last(files: &[PathBuf; 2], count: usize) -> Vec<String> {
    let mut log = Follow::new(files.clone());
    log.skip_to_last(END);
    let mut lines = log.more().unwrap_or_default();
    lines.retain(|line| !line.text.starts_with(NOTE));
    let first = lines.len().saturating_sub(count);
    lines.drain(first..).map(|line| line.text).collect()
}

/// Whether a portspace has ever printed anything.
pub fn exist(files: &[PathBuf; 2]) -> bool {
    files.iter().any(|path| Path::new(path).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_files_come_in_the_order_of_time() {
        let home = tempfile::tempdir().unwrap();
        let files = [home.path().join("0"), home.path().join("1")];
        std::fs::write(&files[0], "3.000001 c\n").unwrap();
        std::fs::write(&files[1], "1.000000 a\n2.000000 b b\nhalf").unwrap();
        let mut follow = Follow::new(files.clone());
        let texts: Vec<_> = follow.more().unwrap().into_iter().map(|line| line.text).collect();
        assert_eq!(texts, ["a", "b b", "c"]);
        assert!(follow.more().unwrap().is_empty());
        std::fs::write(&files[1], "4.000000 d\n").unwrap();
        assert_eq!(follow.more().unwrap()[0].text, "d");
        assert_eq!(last(&files, 1), ["d"]);
    }

    #[test]
    fn a_file_without_end_is_read_in_part() {
        let home = tempfile::tempdir().unwrap();
        let files = [home.path().join("0"), home.path().join("1")];
        std::fs::write(&files[0], "1.000000 first\n").unwrap();
        let file = File::options().write(true).open(&files[0]).unwrap();
        // Zeros for ever, as a hostile init may make them.
        file.set_len(1 << 40).unwrap();
        let mut follow = Follow::new(files.clone());
        assert_eq!(follow.more().unwrap()[0].text, "first");
        assert!(follow.read[0] <= MOST);
        assert!(last(&files, 10).is_empty());
    }

    #[test]
    fn a_long_line_is_cut() {
        let home = tempfile::tempdir().unwrap();
        let files = [home.path().join("0"), home.path().join("1")];
        let long = "x".repeat(200_000);
        std::fs::write(&files[0], format!("1.000000 {long}\n2.000000 next\n")).unwrap();
        let lines = Follow::new(files.clone()).more().unwrap();
        assert_eq!((lines.len(), lines[1].text.as_str()), (2, "next"));
        assert!(lines[0].text.len() < 70_000);
        assert_eq!(last(&files, 1), ["next"]);
    }
}
