//! Keys: one pair for each host and HyperSpector. The private one lives in a file that only root
//! can read, and in the process that uses it; the public one is text that operators pass around.

use std::fmt;
use std::fs::{File, OpenOptions, rename};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, openat, renameat_with};
use rustix::io::Errno;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

/// The bytes of a key.
pub const KEY_LENGTH: usize = 32;

/// The base64 characters of a key, without a newline.
const TEXT_LENGTH: usize = 44;

/// Why a key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text is not base64 of 32 bytes.
    #[error("a key is {TEXT_LENGTH} characters of base64, as `hyperspector key` prints them")]
    NotAKey,
    /// The public key is a point with which every secret would be the same.
    #[error("the public key is a weak one that no private key has")]
    Weak,
    /// Others than the owner can get at the file.
    #[error("read {}: group or others can read it (mode {mode:03o}); chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file belongs to another user, or is no regular file.
    #[error("read {}: not a regular file of this user", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file does not hold a key.
    #[error("read {}: not a key", path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("{operation} {}: {source}", path.display())]
    File {
        /// `read`, `create`.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel gave no random bytes.
    #[error("generate a key: {0}")]
    Random(#[from] getrandom::Error),
}

/// A public key. As text: base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_LENGTH]);

impl PublicKey {
    /// Takes the bytes as they are; for keys that were checked before.
    pub const fn from_bytes(bytes: [u8; KEY_LENGTH]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; KEY_LENGTH] {
        &self.0
    }

    /// Whether a secret agreed with this key depends on the secret: the few points of low order
    /// would make it the same for everybody.
    fn is_contributory(&self) -> bool {
        let any = StaticSecret::from([0x42; KEY_LENGTH]);
        any.diffie_hellman(&x25519_dalek::PublicKey::from(self.0)).was_contributory()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut bytes = [0; KEY_LENGTH];
        decode(text, &mut bytes)?;
        let key = Self(bytes);
        if key.is_contributory() { Ok(key) } else { Err(KeyError::Weak) }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyText).and_then(|Bytes(bytes)| {
            let key = Self(*bytes);
            if key.is_contributory() { Ok(key) } else { Err(de::Error::custom(KeyError::Weak)) }
        })
    }
}

/// A private key. It is wiped when dropped and never printed.
#[derive(Clone)]
pub struct SecretKey(StaticSecret);

impl SecretKey {
    /// A new one, from the kernel's random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; KEY_LENGTH]);
        getrandom::fill(&mut *bytes)?;
        Ok(Self(StaticSecret::from(*bytes)))
    }

    /// Takes the bytes.
    pub(crate) fn from_bytes(bytes: [u8; KEY_LENGTH]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    /// Reads the key file at `path`.
    ///
    /// Refused: a symbolic link, a file of another user, a file that group or others can read.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let file = open_private(path)?;
        // One byte more than a key and its newline, so that longer files are noticed.
        let mut text = Zeroizing::new([0_u8; TEXT_LENGTH + 2]);
        let length = read_up_to(&file, &mut *text).map_err(|e| failed("read", path, e))?;
        let content = || KeyError::Content { path: path.to_owned() };
        let text = std::str::from_utf8(&text[..length]).map_err(|_| content())?;
        text.trim_ascii().parse().map_err(|_| content())
    }

    /// Reads the key file at `path`, or makes a new key and the file where there is none.
    ///
    /// The file appears whole, with mode 0600, on disk, and never in place of another.
    pub fn load_or_create(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        match Self::load(path) {
            Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let key = Self::generate()?;
        match key.create(path) {
            Ok(()) => Ok(key),
            // Somebody was faster: theirs is the key.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(e) => Err(failed("create", path, e)),
        }
    }

    /// Puts the key file at `next` in the place of the one at `path`, in one step, and overwrites what
    /// that one held. (A file system that copies on writing, and a flash disk, may keep it for longer.)
    pub fn succeed(path: impl AsRef<Path>, next: impl AsRef<Path>) -> Result<(), KeyError> {
        let (path, next) = (path.as_ref(), next.as_ref());
        let old = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path);
        rename(next, path).map_err(|e| failed("replace", path, e))?;
        let wiped = match old {
            Ok(old) => wipe(&old),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        };
        wiped.and_then(|()| sync_folder(path)).map_err(|e| failed("wipe the old", path, e))
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }

    /// The key as the protocol's code wants it.
    pub fn secret(&self) -> &StaticSecret {
        &self.0
    }

    /// As base64; wiped when dropped.
    fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(TEXT_LENGTH));
        STANDARD.encode_string(self.0.as_bytes(), &mut text);
        text
    }

    /// Makes the file at `path`; an error where there is one.
    fn create(&self, path: &Path) -> io::Result<()> {
        let folder = folder(path);
        let mut salt = [0; 8];
        getrandom::fill(&mut salt).map_err(io::Error::other)?;
        let temporary = folder.join(format!(".key-{:016x}", u64::from_ne_bytes(salt)));
        let made = self.write_new(&temporary).and_then(|()| {
            renameat_with(CWD, &temporary, CWD, path, RenameFlags::NOREPLACE)?;
            sync_folder(path)
        });
        if made.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        made
    }

    fn write_new(&self, path: &Path) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(self.to_text().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; KEY_LENGTH]);
        decode(text, &mut bytes)?;
        Ok(Self(StaticSecret::from(*bytes)))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(hidden)")
    }
}

/// Only for the channel to the process that is to use the key: see [`crate::device::Config`].
impl Serialize for SecretKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_text())
    }
}

impl<'de> Deserialize<'de> for SecretKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyText).map(|Bytes(bytes)| Self(StaticSecret::from(*bytes)))
    }
}

/// What a [`KeyText`] yields; wiped, since it may be a private key.
struct Bytes(Zeroizing<[u8; KEY_LENGTH]>);

/// Reads a key from text in place, without a copy of the text.
struct KeyText;

impl Visitor<'_> for KeyText {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key in base64")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
        let mut bytes = Zeroizing::new([0; KEY_LENGTH]);
        // The text is not quoted in the message: it may be most of a private key.
        decode(text, &mut bytes).map_err(E::custom)?;
        Ok(Bytes(bytes))
    }
}

/// Overwrites what a key file holds, on disk.
fn wipe(mut file: &File) -> io::Result<()> {
    file.write_all(&[0; TEXT_LENGTH + 1])?;
    file.sync_all()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

fn decode(text: &str, bytes: &mut [u8; KEY_LENGTH]) -> Result<(), KeyError> {
    if text.len() != TEXT_LENGTH {
        return Err(KeyError::NotAKey);
    }
    // The decoder wants room for the whole of its estimate, which is a byte more.
    let mut room = Zeroizing::new([0; KEY_LENGTH + 1]);
    match STANDARD.decode_slice(text, &mut *room) {
        Ok(KEY_LENGTH) => bytes.copy_from_slice(&room[..KEY_LENGTH]),
        _ => return Err(KeyError::NotAKey),
    }
    Ok(())
}

/// Opens a file that must be this user's alone.
fn open_private(path: &Path) -> Result<File, KeyError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty()).map_err(|e| failed("read", path, e))?;
    let stat = rustix::fs::fstat(&file).map_err(|e| failed("read", path, e))?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if !regular || stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(KeyError::Foreign { path: path.to_owned() });
    }
    let mode = stat.st_mode & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    Ok(file.into())
}

/// Reads until `buffer` is full or the file ends.
fn read_up_to(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(e) if e.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(length)
}

fn failed(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> KeyError {
    KeyError::File { operation, path: path.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn the_key_is_made_once_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alpha.key");
        let made = SecretKey::load_or_create(&path).unwrap();
        let read = SecretKey::load_or_create(&path).unwrap();
        assert_eq!(made.public(), read.public());
        assert_eq!(mode(&path), 0o600);
        let names = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 1, "a temporary file was left behind");
    }

    #[test]
    fn a_next_key_takes_the_place_of_the_old_which_is_wiped() {
        let folder = tempfile::tempdir().unwrap();
        let (path, next) = (folder.path().join("a.key"), folder.path().join("a.next.key"));
        SecretKey::load_or_create(&path).unwrap();
        let made = SecretKey::load_or_create(&next).unwrap();
        let mut old = File::open(&path).unwrap();
        SecretKey::succeed(&path, &next).unwrap();
        assert_eq!(SecretKey::load(&path).unwrap().public(), made.public());
        assert!(!next.exists() && mode(&path) == 0o600);
        let mut left = Vec::new();
        old.read_to_end(&mut left).unwrap();
        assert_eq!(left, [0; TEXT_LENGTH + 1]);
        assert!(SecretKey::succeed(&path, &next).is_err(), "there is no next one");
        assert_eq!(SecretKey::load(&path).unwrap().public(), made.public());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alpha.key");
        SecretKey::load_or_create(&path).unwrap();
        for bits in [0o640, 0o604, 0o620, 0o601] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bits)).unwrap();
            let error = SecretKey::load_or_create(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn links_folders_and_garbage_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a.key"), folder.path().join("b.key"));
        SecretKey::load_or_create(&path).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(SecretKey::load_or_create(&link).is_err());
        assert!(SecretKey::load_or_create(folder.path()).is_err());
        for text in [&b""[..], b"short", &[b'A'; 200], &[0xff; 44]] {
            std::fs::write(&path, text).unwrap();
            let error = SecretKey::load(&path).unwrap_err();
            assert!(matches!(error, KeyError::Content { .. }), "{error}");
        }
    }

    #[test]
    fn creating_never_replaces_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        let first = SecretKey::load_or_create(&path).unwrap();
        let error = SecretKey::generate().unwrap().create(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(SecretKey::load(&path).unwrap().public(), first.public());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn debug_never_prints_the_key() {
        let key = SecretKey::generate().unwrap();
        let printed = format!("{key:?}");
        assert!(!printed.contains(key.to_text().as_str()));
        assert_eq!(printed, "SecretKey(hidden)");
    }

    #[test]
    fn keys_go_through_text_and_json() {
        let key = SecretKey::generate().unwrap();
        let text = key.public().to_string();
        assert_eq!(text.parse::<PublicKey>().unwrap(), key.public());
        let json = serde_json::to_string(&(&key, key.public())).unwrap();
        let (secret, public): (SecretKey, PublicKey) = serde_json::from_str(&json).unwrap();
        assert_eq!((secret.public(), public), (key.public(), key.public()));
    }

    #[test]
    fn a_known_pair_agrees_with_other_programs() {
        // RFC 7748, section 6.1: Alice.
        let secret: SecretKey = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=".parse().unwrap();
        let public = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        assert_eq!(secret.public().to_string(), public);
    }

    #[test]
    fn weak_and_malformed_public_keys_are_refused() {
        let zero = STANDARD.encode([0_u8; 32]);
        assert!(matches!(zero.parse::<PublicKey>(), Err(KeyError::Weak)));
        let mut one = [0_u8; 32];
        one[0] = 1;
        assert!(matches!(STANDARD.encode(one).parse::<PublicKey>(), Err(KeyError::Weak)));
        for text in ["", "abc", "!SDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="] {
            assert!(matches!(text.parse::<PublicKey>(), Err(KeyError::NotAKey)), "{text}");
        }
    }
}
