//! A stranger's mistakes: for each small spec in `mistakes.txt`, every error with its place, its
//! message and its help.
//!
//! `BLESS=1 cargo test -p hyperspector-spec` writes what there is; read the difference before it is
//! committed.

use std::path::Path;

use hyperspector_spec::Spec;

const CASE: &str = "### ";
const ERRORS: &str = "--- errors";

/// The errors of one spec, one on a line.
fn errors(toml: &str) -> String {
    match Spec::parse(toml) {
        Ok(_) => "none".to_owned(),
        Err(errors) => errors.lines("f", toml),
    }
}

#[test]
fn every_mistake_is_met_with_what_would_be_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes.txt");
    let text = std::fs::read_to_string(&path).unwrap();
    let (preface, cases) = text.split_at(text.find(CASE).unwrap());
    let mut actual = preface.to_owned();
    for case in cases.split(CASE).skip(1) {
        let (title, rest) = case.split_once('\n').unwrap();
        let toml = rest.split(ERRORS).next().unwrap().trim_end();
        let errors = errors(&format!("{toml}\n"));
        actual += &format!("{CASE}{title}\n{toml}\n{ERRORS}\n{errors}\n\n");
    }
    if std::env::var_os("BLESS").is_some() {
        return std::fs::write(&path, &actual).unwrap();
    }
    let actual = actual.trim_end();
    for (line, (is, should)) in actual.lines().zip(text.lines()).enumerate() {
        assert_eq!(is, should, "line {} of mistakes.txt", line + 1);
    }
    assert_eq!(actual, text.trim_end());
}
