//! Keys: one pair for each host and HyperSpector. The private one lives in a file that only root
//! can read, and in the process that uses it; the public one is text that operators pass around.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

mod file;

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

#[cfg(test)]
mod tests {
    use super::*;

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
