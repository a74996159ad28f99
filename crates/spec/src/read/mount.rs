//! `mount`: files and directories of the host inside a space.

use std::path::PathBuf;

use crate::errors::SpecError;
use crate::model::Space;
use crate::plan::Mount;
use crate::reader::{At, Problems, Table, Value};

use super::OURS;
use super::space::Of;

const PORTSPACE: &str = "mount = [{ from = \"/etc/nids\", to = \"/etc/nids\" }]";
const SERVER: &str = "mount = [{ from = \"/srv/www\", to = \"/srv/www\", mode = \"ro\" }]";

/// Whether a mount can be written to.
const MODES: [(&str, bool); 2] = [("ro", false), ("rw", true)];

/// File systems of the kernel, whose files have no owners to shift and act on the whole host.
const KERNELS: [&str; 2] = ["/proc", "/sys"];

/// Reads the mounts; two at one place are an error.
pub(super) fn read(of: Of, table: &mut Table<'_>) -> Vec<At<Mount>> {
    let problems = table.problems();
    let example = if of == Of::Portspace { PORTSPACE } else { SERVER };
    let mounts = table.list("mount", example, |value| {
        let read = mount(of, example, value, problems)?;
        Ok(read.map(|mount| At::new(mount, value.span.clone())))
    });
    let mounts: Vec<_> = mounts.into_iter().flatten().collect();
    for (index, mount) in mounts.iter().enumerate() {
        if mounts[..index].iter().any(|earlier| earlier.value.to == mount.value.to) {
            let message = format!("\"{}\" is mounted on twice", mount.value.to.display());
            problems.add(SpecError::new(mount.span.clone(), message).help("take one out"));
        }
    }
    mounts
}

fn mount<'a>(
    of: Of,
    example: &'static str,
    value: &Value<'a>,
    problems: &'a Problems,
) -> Result<Option<Mount>, SpecError> {
    if value.is_string() {
        return Err(in_one_string(value));
    }
    let mut table = value.table("this mount", problems)?;
    table.require("from", example);
    table.require("to", example);
    let from = table.get("from", example, |value| from(of, value));
    let to = table.get("to", example, to);
    let writable = table.get("mode", example, |value| mode(of, value));
    table.finish();
    let writable = writable.unwrap_or_default();
    Ok(from.zip(to).map(|(from, to)| Mount { from, to, writable }))
}

/// As container runtimes have it: `FROM:TO` or `FROM:TO:MODE`.
fn in_one_string(value: &Value<'_>) -> SpecError {
    let error = value.must_be("a table");
    let text = value.string().map(|text| text.value).unwrap_or_default();
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [from, to] => error.help(format!("write {{ from = {from:?}, to = {to:?} }}")),
        [from, to, mode] => {
            let help = format!("write {{ from = {from:?}, to = {to:?}, mode = {mode:?} }}");
            error.help(help)
        }
        _ => error,
    }
}

fn from(of: Of, value: &Value<'_>) -> Result<PathBuf, SpecError> {
    let path = value.path()?.value;
    if path.as_os_str() == "/" {
        let help = match of {
            Of::Portspace => "a window shows the whole base system: watch.files = [\"base\"]",
            Of::Server => "mount the directories that the server needs, each by itself",
        };
        return Err(value.error("`mount.from` cannot be \"/\"").help(help));
    }
    match KERNELS.iter().find(|kernels| path.starts_with(kernels)) {
        Some(kernels) => Err(value
            .error(format!("`mount.from` cannot be in {kernels}"))
            .help("every space has a /proc and a /sys of its own, which show what is its own")),
        None => Ok(path),
    }
}

fn to(value: &Value<'_>) -> Result<PathBuf, SpecError> {
    let path = value.path_below_root()?.value;
    match OURS.iter().find(|ours| path.starts_with(ours)) {
        Some(ours) => Err(value.error(format!("`mount.to` cannot be in {ours}"))),
        None => Ok(path),
    }
}

fn mode(of: Of, value: &Value<'_>) -> Result<bool, SpecError> {
    let writable = value.one_of(&MODES)?;
    if writable && of == Of::Portspace {
        let message = "a portspace's mount is always read-only";
        return Err(SpecError::new(value.span.clone(), message).help(
            "an IDS that was taken must not write on the host; what it writes goes to its own file \
             system, and stays there where `keep` names the directory",
        ));
    }
    Ok(writable)
}

/// Notes mounts at what the file itself hides. One below is seen, and nothing beside it; one at what
/// is hidden by default is seen (see the planner).
pub(super) fn are_seen(space: &Space, hide_key: &str, problems: &Problems) {
    for mount in &space.mounts {
        let to = &mount.value.to;
        if space.hide.iter().any(|hidden| hidden.value == *to) {
            let message = format!("\"{}\" is hidden by `{hide_key}`", to.display());
            let error = SpecError::new(mount.span.clone(), message);
            problems
                .add(error.help("what is mounted there would not be seen: keep one of the two"));
        }
    }
}
