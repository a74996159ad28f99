//! One record of a journal: `NUMBER KINDS WHAT` and a NUL. Paths hold any byte but NUL.

use std::ops::{BitOr, BitOrAssign};

/// The longest record that is read, in bytes: a path and what is before it.
pub const LONGEST: usize = 8192;

/// What happened to a path, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kinds(u8);

impl Kinds {
    /// It was made.
    pub const CREATED: Self = Self(1);
    /// Its content was written.
    pub const MODIFIED: Self = Self(2);
    /// Its owner, mode, times, extended attributes or number of names changed.
    pub const ATTRIBUTES: Self = Self(4);
    /// It was renamed, from this path or to it.
    pub const MOVED: Self = Self(8);
    /// It was removed.
    pub const DELETED: Self = Self(16);
    /// A file system was mounted there, or is not any more, or was not watched before.
    pub const MOUNTED: Self = Self(32);

    /// The letters in a record and the words for people, in order.
    const NAMES: [(u8, &str); 6] = [
        (b'c', "created"),
        (b'w', "modified"),
        (b'a', "attributes"),
        (b'm', "moved"),
        (b'd', "deleted"),
        (b'v', "mounted"),
    ];

    /// Whether all of `other` is in it.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is nothing in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The words for people.
    pub fn words(self) -> Vec<&'static str> {
        self.each().map(|(_, word)| word).collect()
    }

    fn each(self) -> impl Iterator<Item = (u8, &'static str)> {
        let bits = (0..).map(|bit| 1 << bit);
        let named = Self::NAMES.into_iter().zip(bits);
        named.filter(move |(_, bit)| self.0 & bit != 0).map(|(name, _)| name)
    }

    fn parse(letters: &[u8]) -> Option<Self> {
        letters.iter().try_fold(Self::default(), |kinds, letter| {
            let bit = Self::NAMES.iter().position(|(known, _)| known == letter)?;
            Some(kinds | Self(1 << bit))
        })
    }
}

impl BitOr for Kinds {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Kinds {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

/// What a record is about. It is also what takes the place of an older record of the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// One path, absolute as the server sees it.
    Path(Vec<u8>),
    /// A directory whose path changed its meaning, and with it every path below.
    Tree(Vec<u8>),
    /// A file that has, or had, more names than the one by which it was changed.
    Inode {
        /// The device's major number.
        major: u32,
        /// The device's minor number.
        minor: u32,
        /// The inode's number.
        number: u64,
    },
}

impl Subject {
    /// As it is in a record. No two subjects look the same: only a tree's path ends with a slash.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Path(path) => path.clone(),
            Self::Tree(path) if path.ends_with(b"/") => path.clone(),
            Self::Tree(path) => [path, &b"/"[..]].concat(),
            Self::Inode { major, minor, number } => {
                format!("inode {major}:{minor} {number}").into_bytes()
            }
        }
    }

    /// Reads what [`Self::encode`] made.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [b'/'] => Some(Self::Tree(b"/".to_vec())),
            [b'/', .., b'/'] => Some(Self::Tree(bytes[..bytes.len() - 1].to_vec())),
            [b'/', ..] => Some(Self::Path(bytes.to_vec())),
            _ => {
                let text = std::str::from_utf8(bytes).ok()?.strip_prefix("inode ")?;
                let (device, number) = text.split_once(' ')?;
                let (major, minor) = device.split_once(':')?;
                let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
                Some(Self::Inode { major, minor, number: number.parse().ok()? })
            }
        }
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Something changed.
    Changed(Kinds, Subject),
    /// What changed before is not known, for this reason.
    Gap(String),
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its sequence number, from 1.
    pub number: u64,
    /// What it says.
    pub word: Word,
}

/// Appends a record to `to`.
pub fn write(to: &mut Vec<u8>, number: u64, kinds: Kinds, subject: &[u8]) {
    to.extend_from_slice(number.to_string().as_bytes());
    to.push(b' ');
    to.extend(kinds.each().map(|(letter, _)| letter));
    to.push(b' ');
    to.extend_from_slice(subject);
    to.push(0);
}

/// Appends a gap to `to`.
pub fn write_gap(to: &mut Vec<u8>, number: u64, reason: &str) {
    to.extend_from_slice(format!("{number} ! {}", reason.replace('\0', "")).as_bytes());
    to.push(0);
}

/// Reads the whole records of a segment. One that is cut off at the end is being written; anything
/// else that is no record is `None`.
pub fn parse(segment: &[u8]) -> impl Iterator<Item = Option<Record>> {
    let whole = segment.iter().rposition(|byte| *byte == 0).map_or(0, |end| end + 1);
    let records = segment[..whole].split(|byte| *byte == 0);
    records.take(segment[..whole].iter().filter(|byte| **byte == 0).count()).map(parse_one)
}

fn parse_one(record: &[u8]) -> Option<Record> {
    if record.len() > LONGEST {
        return None;
    }
    let mut parts = record.splitn(3, |byte| *byte == b' ');
    let number = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let (kinds, rest) = (parts.next()?, parts.next()?);
    let word = if kinds == b"!" {
        Word::Gap(String::from_utf8_lossy(rest).into_owned())
    } else {
        Word::Changed(Kinds::parse(kinds)?, Subject::parse(rest)?)
    };
    Some(Record { number, word })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round(word: Word, number: u64) -> Vec<Option<Record>> {
        let mut bytes = Vec::new();
        match &word {
            Word::Changed(kinds, subject) => write(&mut bytes, number, *kinds, &subject.encode()),
            Word::Gap(reason) => write_gap(&mut bytes, number, reason),
        }
        parse(&bytes).collect()
    }

    proptest! {
        #[test]
        fn any_path_comes_back(path in proptest::collection::vec(1_u8..=255, 1..300), bits in 0_u8..64) {
            let mut path = [b"/", &path[..]].concat();
            while path.ends_with(b"/") { path.pop(); }
            prop_assume!(!path.is_empty());
            for subject in [Subject::Path(path.clone()), Subject::Tree(path.clone())] {
                let word = Word::Changed(Kinds(bits), subject);
                prop_assert_eq!(round(word.clone(), 7), vec![Some(Record { number: 7, word })]);
            }
        }

        #[test]
        fn garbage_is_told_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let _ = parse(&bytes).count();
        }
    }

    #[test]
    fn the_other_words_come_back() {
        let inode = Subject::Inode { major: 254, minor: 0, number: u64::MAX };
        for word in [
            Word::Changed(Kinds::MODIFIED | Kinds::MOVED, inode),
            Word::Changed(Kinds::MOUNTED, Subject::Tree(b"/".to_vec())),
            Word::Gap("the queue was full".into()),
        ] {
            assert_eq!(round(word.clone(), 1), [Some(Record { number: 1, word })]);
        }
    }

    #[test]
    fn a_record_that_is_being_written_is_not_there_yet() {
        let mut bytes = Vec::new();
        write(&mut bytes, 1, Kinds::CREATED, b"/a");
        write(&mut bytes, 2, Kinds::CREATED, b"/b");
        assert_eq!(parse(&bytes[..bytes.len() - 1]).count(), 1);
        assert_eq!(parse(b"").count(), 0);
        assert_eq!(parse(b"x\0").collect::<Vec<_>>(), [None]);
    }
}
