//! Bytes that a server chooses, as text.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_utf_8_has_its_bytes_beside_it() {
        let (lossy, hex) = text(b"a\xff\x00b");
        assert_eq!(lossy, "a\u{fffd}\0b");
        assert_eq!(hex.as_deref(), Some("61ff0062"));
    }
}
