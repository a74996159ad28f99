//! Bytes that a server chooses, as JSON that is safe to print.

use std::io;

use serde::Serialize;
use serde_json::ser::Formatter;

/// The string for `bytes`, and their hexadecimal digits where it is not exactly them.
pub(super) fn text(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(hex(bytes))),
    }
}

/// Hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `value` as JSON in ASCII, nothing of which steers a terminal.
pub(super) fn json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Ascii))?;
    Ok(out)
}

/// Escapes what is not printable ASCII; serde_json itself does so with the control characters below
/// the space, with quotes and backslashes.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for letter in fragment.chars() {
            if (' '..='~').contains(&letter) {
                writer.write_all(&[letter as u8])?;
            } else {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were_and_steer_nothing() {
        for name in ["plain", "a\"b\\c\n\x1b[2J\u{7f}\u{9b}31m", "\u{202e}gpj.exe 😀", "\0"] {
            let (text, hex) = text(name.as_bytes());
            assert_eq!((text.as_str(), hex), (name, None));
            let json = json(&text).unwrap();
            assert!(json.iter().all(|byte| (b' '..=b'~').contains(byte)), "{name:?}");
            assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), name);
        }
    }

    #[test]
    fn what_is_not_utf_8_has_its_bytes_beside_it() {
        let (lossy, hex) = text(b"a\xff\x00b");
        assert_eq!(lossy, "a\u{fffd}\0b");
        assert_eq!(hex.as_deref(), Some("61ff0062"));
    }
}
