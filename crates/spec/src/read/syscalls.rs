//! `watch.syscalls`: system calls of servers, and what is written of them.

use std::path::{Path, PathBuf};

use hyperspector_syscalls::filter::Filter;

use crate::errors::SpecError;
use crate::masks::default_mask;
use crate::model::{Space, SyscallWatch};
use crate::plan::{SyscallText, TextForm};
use crate::reader::{At, Problems, Table, Value};

use super::OURS;

const SYSCALLS: &str = "watch.syscalls = [\"shop\"]";
const TEXT: &str = "watch.syscalls = [{ server = \"shop\", to = \"/var/log/shop.trace\" }]";
const FORM: &str = "form = \"json\"";
const CALLS: &str = "calls = [\"%file\", \"execve\", \"!readlink\"]";
const FAILED_ONLY: &str = "failed-only = true";
const FIFO: &str = "fifo = true";
const SIZE: &str = "size = \"64MiB\"";
const KEEP: &str = "keep = 4";

const FORMS: [(&str, TextForm); 3] =
    [("strace", TextForm::Strace), ("json", TextForm::Json), ("audit", TextForm::Audit)];

/// Keys that say how something is written.
const ABOUT_TEXT: [&str; 6] = ["form", "calls", "failed-only", "fifo", "size", "keep"];

/// Those of them that a FIFO has no use for.
const ABOUT_FILES: [&str; 2] = ["size", "keep"];

const DEFAULT_SIZE: u64 = 64 << 20;
const DEFAULT_KEEP: i64 = 4;

/// Reads the windows on system calls of a portspace that is otherwise `space`.
pub(super) fn read(table: &mut Table<'_>, space: &Space) -> Vec<SyscallWatch> {
    let problems = table.problems();
    let watches = table.list("syscalls", SYSCALLS, |value| watch(value, space, problems));
    let mut kept: Vec<SyscallWatch> = Vec::new();
    for watch in watches.into_iter().flatten() {
        match kept.iter().find(|earlier| clashes(earlier, &watch)) {
            Some(_) => problems.add(twice(&watch)),
            None => kept.push(watch),
        }
    }
    kept
}

/// `"shop"` or `{ server = "shop", to = "/var/log/shop.trace" }`.
fn watch<'a>(
    value: &Value<'a>,
    space: &Space,
    problems: &'a Problems,
) -> Result<Option<SyscallWatch>, SpecError> {
    if value.is_string() {
        return Ok(Some(SyscallWatch { server: value.string()?, text: None }));
    }
    if !value.is_table() {
        return Err(value.must_be("a server's name or a table"));
    }
    let mut table = value.table("this window on system calls", problems)?;
    table.require("server", SYSCALLS);
    let server = table.get("server", TEXT, Value::string);
    if let Some(key) = ABOUT_TEXT.iter().find(|key| table.has(key) && !table.has("to")) {
        let message = format!("`{key}` says how system calls are written, and nothing is");
        let help =
            format!("add where to, {TEXT}; readers of the socket say themselves what they want");
        problems.add(SpecError::new(value.span.clone(), message).help(help));
    }
    let is_written = table.has("to");
    let is_rotated = ABOUT_FILES.iter().find(|key| table.has(key));
    let text = text(&mut table, space);
    table.finish();
    if let (Some(key), Some(true)) = (is_rotated, text.as_ref().map(|text| text.fifo)) {
        let message = format!("`{key}` is about a file, and what is written goes to a FIFO");
        problems.add(SpecError::new(value.span.clone(), message).help("take one of the two out"));
    }
    // Where what is written has had its error, there is no window without text instead.
    let server = server.filter(|_| text.is_some() == is_written);
    Ok(server.map(|server| SyscallWatch { server, text }))
}

fn text(table: &mut Table<'_>, space: &Space) -> Option<SyscallText> {
    let to = table.get("to", TEXT, |value| to(value, space));
    let form = table.get("form", FORM, |value| value.one_of(&FORMS));
    let calls = table.get("calls", CALLS, calls);
    let failed_only = table.get("failed-only", FAILED_ONLY, Value::boolean);
    let fifo = table.get("fifo", FIFO, Value::boolean);
    let size = table.get("size", SIZE, |value| value.bytes(1 << 20..=1 << 40));
    let keep = table.get("keep", KEEP, |value| value.integer(0..=1000));
    Some(SyscallText {
        to: to?,
        form: form.unwrap_or_default(),
        calls: calls.unwrap_or_default(),
        failed_only: failed_only.unwrap_or_default(),
        fifo: fifo.unwrap_or_default(),
        size: size.unwrap_or(DEFAULT_SIZE),
        keep: keep.unwrap_or(DEFAULT_KEEP) as u32,
    })
}

/// Where the text goes: the portspace can write there.
fn to(value: &Value<'_>, space: &Space) -> Result<PathBuf, SpecError> {
    let path = value.path_below_root()?.value;
    let ours = OURS.iter().map(|ours| (Path::new(*ours).to_owned(), "HyperSpector's"));
    let mounts = space.mounts.iter().map(|mount| (mount.value.to.clone(), "a read-only mount"));
    let own = space.hide.iter().map(|hidden| (hidden.value.clone(), "hidden by `mask`"));
    let default =
        default_mask(&space.root.value).into_iter().map(|path| (path, "hidden by default"));
    match ours.chain(mounts).chain(own).chain(default).find(|(above, _)| path.starts_with(above)) {
        Some((above, why)) => {
            let (shown, above) = (path.display(), above.display());
            let message = format!("nothing can be written to \"{shown}\": {above} is {why}");
            Err(SpecError::new(value.span.clone(), message).help("choose another path for `to`"))
        }
        None => Ok(path),
    }
}

/// Words for calls, as the tracer understands them.
fn calls(value: &Value<'_>) -> Result<Vec<String>, SpecError> {
    let words: Vec<At<String>> =
        value.elements()?.iter().map(Value::string).collect::<Result<_, _>>()?;
    for word in &words {
        let alone = Filter { calls: vec![word.value.clone()], ..Filter::default() };
        if let Err(refused) = alone.calls() {
            return Err(SpecError::new(word.span.clone(), refused.to_string())
                .help(format!("for example: {CALLS}")));
        }
    }
    let all: Vec<String> = words.into_iter().map(|word| word.value).collect();
    let whole = Filter { calls: all.clone(), ..Filter::default() };
    whole.check().map_err(|refused| value.error(refused.to_string()))?;
    Ok(all)
}

fn clashes(one: &SyscallWatch, other: &SyscallWatch) -> bool {
    match (&one.text, &other.text) {
        (Some(one), Some(other)) => one.to == other.to,
        (None, None) => one.server.value == other.server.value,
        _ => false,
    }
}

fn twice(watch: &SyscallWatch) -> SpecError {
    let span = watch.server.span.clone();
    match &watch.text {
        Some(text) => {
            let message = format!("two things are written to \"{}\"", text.to.display());
            SpecError::new(span, message)
                .help("give the second another: to = \"/var/log/other.trace\"")
        }
        None => {
            let message = format!("`watch.syscalls` has \"{}\" twice", watch.server.value);
            SpecError::new(span, message).help("take one out")
        }
    }
}
