//! The system's errors in the words of ours: small letters, and no number.

use std::io;

/// `file exists` for `File exists (os error 17)`; the text of any other error as it is.
pub fn text(error: &io::Error) -> String {
    let full = error.to_string();
    match error.raw_os_error() {
        Some(_) => lower(full.split(" (os error").next().unwrap_or(&full)),
        None => full,
    }
}

/// The text with its first letter made small, unless the first word is an acronym.
pub(crate) fn lower(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_and_words_stay() {
        assert_eq!(text(&io::Error::from_raw_os_error(libc::EEXIST)), "file exists");
        assert_eq!(text(&io::Error::other("No")), "No");
    }

    #[test]
    fn acronyms_stay() {
        assert_eq!(lower("MTU too small"), "MTU too small");
        assert_eq!(lower("File exists"), "file exists");
        assert_eq!(lower(""), "");
    }
}
