//! Names, and the nearest one to a name that was mistyped.

/// What a name may be, for the text of an error.
pub(crate) const NAME_RULE: &str =
    "a name is 1 to 32 of a to z, 0 to 9 and `-`, and neither begins nor ends with `-`";

/// Whether `name` may name a host, a server, a HyperSpector or a portspace: such names become parts
/// of host names and of paths.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.len() <= 32
        && ends.iter().all(|end| end.is_some_and(|b| plain(*b)))
        && bytes.iter().all(|b| plain(*b) || *b == b'-')
}

/// The one of `known` that `word` was most probably meant to be.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= slips(candidate))
        .min()
        .map(|(_, candidate)| candidate)
}

/// How many slips in `word` still leave it a probable spelling.
fn slips(word: &str) -> usize {
    match word.len() {
        0..3 => 0,
        3..6 => 1,
        _ => 2,
    }
}

/// The number of slips between the two; a word that was cut short counts as one.
fn distance(word: &str, candidate: &str) -> usize {
    if word.len() >= 3 && candidate.starts_with(word) && word != candidate {
        return 1;
    }
    strsim::damerau_levenshtein(word, candidate)
}

/// "did you mean `x`?" where something is near, else what there is.
pub(crate) fn suggest(word: &str, kind: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => format!("there are no {kind}"),
        None => format!("{kind}: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_short() {
        for good in ["a", "web1", "a-b", "0", &"x".repeat(32)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "ö", &"x".repeat(33)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn the_nearest_is_found_and_the_far_is_not() {
        let known = ["command", "environment", "on", "user"];
        assert_eq!(nearest("comand", known), Some("command"));
        assert_eq!(nearest("env", known), Some("environment"));
        assert_eq!(nearest("User", known), Some("user"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest("xy", known), None);
    }

    #[test]
    fn a_suggestion_names_what_there_is() {
        assert_eq!(suggest("web", "hosts in this file", &["web1"]), "did you mean `web1`?");
        assert_eq!(
            suggest("x", "hosts in this file", &["db", "web"]),
            "hosts in this file: db, web"
        );
        assert_eq!(suggest("x", "hosts in this file", &[]), "there are no hosts in this file");
    }
}
