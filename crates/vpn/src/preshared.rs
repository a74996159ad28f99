//! A secret that two hosts share beside their keys: what was recorded stays closed to whoever can
//! one day undo the key agreement.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::keys::{KEY_LENGTH, KeyError, SecretKey};

/// A preshared key. It is wiped when dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PresharedKey(Zeroizing<[u8; KEY_LENGTH]>);

impl PresharedKey {
    /// Takes the bytes.
    pub fn from_bytes(bytes: [u8; KEY_LENGTH]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_LENGTH] {
        &self.0
    }

    /// Reads the file at `path`, as `wg genpsk` makes it; `None` where there is none.
    ///
    /// Refused as for a private key: a link, a file of another user, one that others can read.
    pub fn load(path: impl AsRef<Path>) -> Result<Option<Self>, KeyError> {
        match SecretKey::load(path) {
            Ok(key) => Ok(Some(Self::from(&key))),
            Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// In the shape of a private key, which goes through text and files without leaving a copy.
    fn as_secret(&self) -> SecretKey {
        SecretKey::from_bytes(*self.0)
    }
}

impl From<&SecretKey> for PresharedKey {
    fn from(key: &SecretKey) -> Self {
        Self::from_bytes(*key.secret().as_bytes())
    }
}

impl FromStr for PresharedKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        text.parse().map(|key: SecretKey| Self::from(&key))
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(hidden)")
    }
}

/// Only for the channel to the process that is to use it.
impl Serialize for PresharedKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_secret().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PresharedKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        SecretKey::deserialize(deserializer).map(|key| Self::from(&key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_through_text_and_is_not_printed() {
        let key = PresharedKey::from_bytes([7; KEY_LENGTH]);
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<PresharedKey>(&json).unwrap(), key);
        assert_eq!(json.trim_matches('"').parse::<PresharedKey>().unwrap(), key);
        assert_eq!(format!("{key:?}"), "PresharedKey(hidden)");
    }

    #[test]
    fn no_file_is_no_key_and_an_open_one_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web2.psk");
        assert_eq!(PresharedKey::load(&path).unwrap(), None);
        std::fs::write(&path, "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(PresharedKey::load(&path).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let read = PresharedKey::load(&path).unwrap();
        assert_eq!(read, Some(PresharedKey::from_bytes([7; KEY_LENGTH])));
    }
}
