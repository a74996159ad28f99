//! Bytes as a string of C: attackers choose every one of them.

use std::fmt::Write;

/// Writes bytes in quotes: printing ASCII as it is, all else escaped.
pub fn quote(text: &mut String, bytes: &[u8]) {
    text.push('"');
    inside(text, bytes);
    text.push('"');
}

/// Writes bytes in quotes, each as a number of base 16.
pub fn quote_hex(text: &mut String, bytes: &[u8]) {
    text.push('"');
    for byte in bytes {
        let _ = write!(text, "\\x{byte:02x}");
    }
    text.push('"');
}

/// The same as [`quote`] without the quotes.
fn inside(text: &mut String, bytes: &[u8]) {
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(*byte));
            }
            b'\t' => text.push_str("\\t"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            0x0b => text.push_str("\\v"),
            0x0c => text.push_str("\\f"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => octal(text, *byte, bytes.get(at + 1).copied()),
        }
    }
}

/// A byte in base 8: as short as it can be without taking a digit that follows into it.
fn octal(text: &mut String, byte: u8, next: Option<u8>) {
    let is_digit = next.is_some_and(|next| matches!(next, b'0'..=b'7'));
    let _ = if is_digit { write!(text, "\\{byte:03o}") } else { write!(text, "\\{byte:o}") };
}

/// Writes a file's name between `<` and `>`: nothing in it can end it early.
pub fn name(text: &mut String, bytes: &[u8]) {
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'<' | b'>' => {
                let _ = write!(text, "\\{byte:o}");
            }
            _ => inside(text, bytes.get(at..=at).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quoted(bytes: &[u8]) -> String {
        let mut text = String::new();
        quote(&mut text, bytes);
        text
    }

    #[test]
    fn what_does_not_print_is_escaped() {
        assert_eq!(quoted(b"a\"b\\\n\t"), r#""a\"b\\\n\t""#);
        assert_eq!(quoted(b"\0x\x001\x008\x7fELF\xff"), r#""\0x\0001\08\177ELF\377""#);
    }

    proptest! {
        #[test]
        fn a_quoted_string_is_one_printing_line(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let text = quoted(&bytes);
            prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let inner = &text[1..text.len() - 1];
            let unescaped = inner.replace("\\\\", "").replace("\\\"", "");
            prop_assert!(!unescaped.contains('"'));
        }
    }
}
