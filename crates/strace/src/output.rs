//! Where lines go: standard output, a file that is rotated, or a FIFO that is never waited for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, OFlags, mknodat};
use rustix::io::Errno;

/// When a new file is begun, and how many old ones are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    pub size: u64,
    pub count: u32,
}

/// How often it is tried whether a FIFO has a reader.
const RETRY: Duration = Duration::from_millis(200);

/// How much is gathered before it is written.
const GATHERED: usize = 64 << 10;

/// Where lines go.
#[derive(Debug)]
pub struct Output {
    to: To,
    gathered: String,
}

#[derive(Debug)]
enum To {
    Standard(io::Stdout),
    File { file: File, path: PathBuf, size: u64, rotation: Option<Rotation> },
    Fifo(Fifo),
}

impl Output {
    /// Standard output.
    pub fn standard() -> Self {
        Self { to: To::Standard(io::stdout()), gathered: String::new() }
    }

    /// A file, or a FIFO where there is one of that name.
    pub fn file(path: &Path, is_appended: bool, rotation: Option<Rotation>) -> io::Result<Self> {
        let to = if is_fifo(path) {
            To::Fifo(Fifo::new(path))
        } else {
            let mut options = OpenOptions::new();
            options.create(true).append(true).mode(0o600);
            let file = options.open(path)?;
            if !is_appended {
                file.set_len(0)?;
            }
            let size = file.metadata()?.len();
            To::File { file, path: path.to_owned(), size, rotation }
        };
        Ok(Self { to, gathered: String::new() })
    }

    /// A FIFO, which is made where nothing is.
    pub fn fifo(path: &Path) -> io::Result<Self> {
        match mknodat(CWD, path, FileType::Fifo, 0o600.into(), 0) {
            Err(Errno::EXIST) if !is_fifo(path) => {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is no FIFO"));
            }
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self { to: To::Fifo(Fifo::new(path)), gathered: String::new() })
    }

    /// Adds lines that belong together.
    pub fn add(&mut self, lines: &str) -> io::Result<()> {
        if let To::Fifo(fifo) = &mut self.to {
            return fifo.write(lines);
        }
        self.gathered.push_str(lines);
        if self.gathered.len() >= GATHERED { self.flush() } else { Ok(()) }
    }

    /// Writes what has been gathered.
    pub fn flush(&mut self) -> io::Result<()> {
        let bytes = self.gathered.as_bytes();
        match &mut self.to {
            To::Standard(out) => out.write_all(bytes).and_then(|()| out.flush())?,
            To::File { file, path, size, rotation } => {
                if let Some(rotation) = rotation
                    && *size > 0
                    && *size + bytes.len() as u64 > rotation.size
                {
                    *file = rotate(path, rotation.count)?;
                    *size = 0;
                }
                file.write_all(bytes)?;
                *size += bytes.len() as u64;
            }
            To::Fifo(_) => {}
        }
        self.gathered.clear();
        Ok(())
    }

    /// How many lots of lines were lost that nobody has been told of, if lines can be written again.
    pub fn take_lost(&mut self) -> Option<u64> {
        let To::Fifo(fifo) = &mut self.to else { return None };
        (fifo.lost > 0 && fifo.is_ready()).then(|| std::mem::take(&mut fifo.lost))
    }

    /// How many were lost in all.
    pub fn total_lost(&self) -> u64 {
        match &self.to {
            To::Fifo(fifo) => fifo.total,
            _ => 0,
        }
    }
}

fn is_fifo(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

/// FILE becomes FILE.1, FILE.1 becomes FILE.2, and the oldest goes.
fn rotate(path: &Path, count: u32) -> io::Result<File> {
    if count == 0 {
        return OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(path)
            .and_then(|_| OpenOptions::new().append(true).open(path));
    }
    let old = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..count).rev() {
        match fs::rename(old(number), old(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, old(1))?;
    OpenOptions::new().create_new(true).append(true).mode(0o600).open(path)
}

/// A FIFO whose reader may be slow, or not there.
#[derive(Debug)]
struct Fifo {
    path: PathBuf,
    file: Option<File>,
    tried: Option<Instant>,
    /// What is left of lines that were written in part.
    rest: Vec<u8>,
    lost: u64,
    total: u64,
}

impl Fifo {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), file: None, tried: None, rest: Vec::new(), lost: 0, total: 0 }
    }

    fn write(&mut self, lines: &str) -> io::Result<()> {
        if !self.is_ready() {
            self.lose();
            return Ok(());
        }
        self.rest = lines.as_bytes().to_vec();
        let before = self.rest.len();
        self.push()?;
        // Nothing of it went out: whoever reads gets the next lines whole.
        if self.rest.len() == before || self.file.is_none() {
            self.rest.clear();
            self.lose();
        }
        Ok(())
    }

    fn lose(&mut self) {
        self.lost += 1;
        self.total += 1;
    }

    /// Whether there is a reader, who has got all that was begun.
    fn is_ready(&mut self) -> bool {
        self.open();
        self.push().is_ok() && self.file.is_some() && self.rest.is_empty()
    }

    fn open(&mut self) {
        if self.file.is_some() || self.tried.is_some_and(|tried| tried.elapsed() < RETRY) {
            return;
        }
        self.tried = Some(Instant::now());
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        // Fails as long as nobody reads.
        let opened = OpenOptions::new().write(true).custom_flags(flags).open(&self.path);
        self.file = opened
            .ok()
            .filter(|file| file.metadata().is_ok_and(|found| found.file_type().is_fifo()));
    }

    fn push(&mut self) -> io::Result<()> {
        while !self.rest.is_empty() {
            let Some(file) = &mut self.file else { return Ok(()) };
            match file.write(&self.rest) {
                Ok(count) => drop(self.rest.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.file = None;
                    self.rest.clear();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn files_are_rotated_at_whole_lines() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("out");
        let rotation = Some(Rotation { size: 4096, count: 2 });
        let mut output = Output::file(&path, false, rotation).unwrap();
        for number in 0..1000 {
            output.add(&format!("{number:0>40}\n")).unwrap();
            output.flush().unwrap();
        }
        let read = |name| fs::read_to_string(place.path().join(name)).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 3);
        let all = [read("out.2"), read("out.1"), read("out")].concat();
        assert!(read("out.1").len() <= 4096 && read("out.1").ends_with('\n'));
        let last: Vec<u32> = all.lines().map(|line| line.parse().unwrap()).collect();
        assert!(last.windows(2).all(|pair| pair[0] + 1 == pair[1]) && last.last() == Some(&999));
    }

    #[test]
    fn a_fifo_is_made_and_nothing_else_is_taken_for_one() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("fifo");
        assert!(Output::fifo(&path).is_ok() && is_fifo(&path) && Output::fifo(&path).is_ok());
        let file = place.path().join("file");
        fs::write(&file, "kept").unwrap();
        assert!(Output::fifo(&file).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"kept");
    }

    #[test]
    fn without_old_files_the_file_begins_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("out");
        let mut output =
            Output::file(&path, false, Some(Rotation { size: 4096, count: 0 })).unwrap();
        for number in 0..1000 {
            output.add(&format!("{number:0>40}\n")).unwrap();
            output.flush().unwrap();
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() <= 4096 && text.ends_with("999\n"), "{}", text.len());
    }

    #[test]
    fn a_fifo_without_a_reader_loses_and_counts() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        let mut output = Output::file(&path, false, None).unwrap();
        output.add("nobody\n").unwrap();
        assert_eq!((output.take_lost(), output.total_lost()), (None, 1));
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let mut reader = OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
        std::thread::sleep(RETRY);
        assert_eq!(output.take_lost(), Some(1));
        for _ in 0..10_000 {
            output.add(&format!("{}\n", "x".repeat(99))).unwrap();
        }
        let lost = output.total_lost() - 1;
        assert!(lost > 1000);
        let mut bytes = vec![0; 2 << 20];
        let count = reader.read(&mut bytes).unwrap();
        let text = std::str::from_utf8(&bytes[..count]).unwrap();
        assert!(text.split_inclusive('\n').all(|line| line.len() == 100));
        drop(reader);
        output.add("gone\n").unwrap();
        assert_eq!(output.total_lost(), lost + 2);
    }
}
