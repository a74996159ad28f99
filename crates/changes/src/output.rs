//! What a person, or a program, gets to see of a list.

use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyperspector_changes::ascii;
use hyperspector_changes::list::{List, Windows};
use hyperspector_changes::record::Kinds;
use serde::Serialize;

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0:?} is no name")]
    Name(String),
    #[error("keep marks in {0}: {1}")]
    Marks(PathBuf, #[source] io::Error),
    #[error("set the mark in {0}: {1}; a list must be read first")]
    Set(PathBuf, #[source] io::Error),
    #[error("list what changed in {0}: {1}")]
    List(String, #[source] io::Error),
    #[error("print the list: {0}")]
    Print(#[source] io::Error),
}

/// What is wanted.
pub struct Format {
    pub null: bool,
    pub json: bool,
    pub prefix: Option<PathBuf>,
    pub files: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    server: &'a str,
    /// Whether everything is to be scanned, since it is not known what changed.
    all: bool,
    reason: Option<&'a str>,
    changes: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    path: String,
    /// The path's bytes, where they are no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    kinds: Vec<&'static str>,
    tree: bool,
}

/// The status that says that everything is to be scanned.
const ALL: u8 = 3;

/// Prints the list.
pub fn print(
    server: &str,
    list: &List,
    windows: &Windows,
    format: &Format,
) -> Result<ExitCode, Failure> {
    let entries =
        entries(list, windows, format).map_err(|cause| Failure::List(server.to_owned(), cause))?;
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = if format.json {
        print_json(&mut out, server, list, entries)
    } else {
        print_paths(&mut out, &entries, format.null)
    };
    match printed.and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.map_err(Failure::Print)?,
    }
    let Some(reason) = &list.all else { return Ok(ExitCode::SUCCESS) };
    if !format.json {
        eprintln!("hyperspector-changes: scan everything: {}", readable(reason.as_bytes()));
    }
    Ok(ExitCode::from(ALL))
}

type Shown = (Vec<u8>, Kinds, bool);

fn entries(list: &List, windows: &Windows, format: &Format) -> io::Result<Vec<Shown>> {
    let prefix = format.prefix.as_ref().map_or(&b""[..], |path| path.as_os_str().as_bytes());
    let shown = |path: &[u8]| [prefix, path].concat();
    if format.files {
        let known = |path: &[u8]| list.changes.get(path).map_or(Kinds::MOVED, |one| one.kinds);
        let files = list.files(windows)?;
        return Ok(files.iter().map(|path| (shown(path), known(path), false)).collect());
    }
    let all = list.changes.iter();
    Ok(all.map(|(path, one)| (shown(path), one.kinds, one.is_tree)).collect())
}

fn print_json(
    out: &mut impl Write,
    server: &str,
    list: &List,
    entries: Vec<Shown>,
) -> io::Result<()> {
    let entry = |(path, kinds, tree): Shown| Entry {
        path: String::from_utf8_lossy(&path).into_owned(),
        path_base64: std::str::from_utf8(&path).is_err().then(|| STANDARD.encode(&path)),
        kinds: kinds.words(),
        tree,
    };
    let changes = entries.into_iter().map(entry).collect();
    let reason = list.all.as_deref();
    let document = Document { server, all: reason.is_some(), reason, changes };
    ascii::write(&document, &mut *out)?;
    out.write_all(b"\n")
}

fn print_paths(out: &mut impl Write, entries: &[Shown], null: bool) -> io::Result<()> {
    for (path, _, is_tree) in entries {
        let end = if *is_tree && !path.ends_with(b"/") { "/" } else { "" };
        if null {
            out.write_all(&[path, end.as_bytes(), b"\0"].concat())?;
        } else {
            writeln!(out, "{}{end}", readable(path))?;
        }
    }
    Ok(())
}

/// The path on one line, with nothing in it that a terminal would act on.
fn readable(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                steering if steering.is_control() || is_reordering(steering) => {
                    let mut bytes = [0; 4];
                    for byte in steering.encode_utf8(&mut bytes).bytes() {
                        text.push_str(&format!("\\x{byte:02x}"));
                    }
                }
                other => text.push(other),
            }
        }
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// Characters that change the order or the look of what stands around them (UAX 9).
fn is_reordering(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_printable_and_says_the_same() {
        let path = "/a\u{9b}2J\u{7f}\u{202e}\n\u{1f600}\u{fc}";
        let entries = vec![(path.as_bytes().to_vec(), Kinds::MOVED, false)];
        let list = List { all: Some("\u{9b}why".to_owned()), ..List::default() };
        let mut out = Vec::new();
        print_json(&mut out, "shop", &list, entries).unwrap();
        assert!(out.strip_suffix(b"\n").unwrap().iter().all(|byte| (b' '..=b'~').contains(byte)));
        let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(read["changes"][0]["path"], path);
        assert_eq!(read["reason"], "\u{9b}why");
    }

    #[test]
    fn a_path_cannot_steer_a_terminal_or_look_like_two() {
        assert_eq!(readable(b"/a\n/b\x1b[2J\xff\\"), r"/a\x0a/b\x1b[2J\xff\\");
        assert_eq!(readable("/bücher".as_bytes()), "/bücher");
        assert_eq!(readable("/\u{9b}".as_bytes()), r"/\xc2\x9b");
        assert_eq!(readable("/\u{202e}cod.exe".as_bytes()), r"/\xe2\x80\xaecod.exe");
    }
}
