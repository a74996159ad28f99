//! Attributes of netlink messages (netlink(7)), written and read; numbers are big-endian here.

const NESTED: u16 = 0x8000;

/// The number of what a list holds (`NFTA_LIST_ELEM`).
pub const ELEMENT: u16 = 1;

/// An attribute, padded.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// An attribute of attributes.
pub fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &parts.concat())
}

/// An attribute that is a list of attributes of attributes.
pub fn list(kind: u16, elements: Vec<Vec<u8>>) -> Vec<u8> {
    let elements: Vec<_> =
        elements.into_iter().map(|element| nested(ELEMENT, &[element])).collect();
    nested(kind, &elements)
}

/// A number of 32 bits.
pub fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// Text with its NUL.
pub fn string(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// The value of the attribute of that number; `None` where it is not there or cut off.
pub fn find(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & !NESTED;
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

/// The text of an attribute's value.
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_and_padding_is_skipped() {
        let bytes = [attribute(2, &string("ab")), nested(4, &[number(1, 7)])].concat();
        assert_eq!(find(&bytes, 2).map(text).as_deref(), Some("ab"));
        assert_eq!(find(&bytes, 4).and_then(|inner| find(inner, 1)), Some(&[0, 0, 0, 7][..]));
        assert_eq!(find(&bytes, 9), None);
    }

    #[test]
    fn lying_lengths_end_the_search() {
        assert_eq!(find(&[0; 8], 1), None);
        assert_eq!(find(&[255; 8], 1), None);
        assert_eq!(find(&[9, 0, 1, 0, 1], 1), None);
    }
}
