//! JSON that is safe to print: in ASCII, nothing of which steers a terminal.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::Formatter;

/// Writes `value` as JSON.
///
/// # Errors
/// As writing to `out`.
pub fn write(value: &impl Serialize, out: impl Write) -> io::Result<()> {
    Ok(value.serialize(&mut serde_json::Serializer::with_formatter(out, Ascii))?)
}

/// Escapes what is not printable ASCII; serde_json itself does so with the control characters below
/// the space, with quotes and backslashes.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(
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
        for name in ["plain", "a\"b\\c\n\x1b[2J\u{7f}\u{9b}31m", "\u{202e}gpj.exe \u{1f600}", "\0"]
        {
            let mut json = Vec::new();
            write(&name, &mut json).unwrap();
            assert!(json.iter().all(|byte| (b' '..=b'~').contains(byte)), "{name:?}");
            assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), name);
        }
    }
}
