//! What is allowed and worth knowing.

use crate::errors::{Span, SpecError};
use crate::model::{Kind, Model, Portspace, Space};
use crate::plan::{Adoption, Ids};

/// Notes in the order of the file.
pub(crate) fn notes(model: &Model) -> Vec<SpecError> {
    let mut notes = Vec::new();
    for (server, space) in model.server_spaces() {
        let what = format!("server `{}`", server.name.value);
        notes.extend(space_notes(&what, &space.space));
    }
    for portspace in model.portspaces() {
        let what = format!("portspace `{}`", portspace.name.value);
        notes.extend(space_notes(&what, &portspace.space));
        notes.extend(owners_as_they_are(model, portspace));
        notes.extend(names_of_all_processes(model, portspace));
    }
    notes.sort_by_key(|note| note.span.start);
    notes
}

fn note(span: &Span, message: String, help: &str) -> SpecError {
    SpecError::new(span.clone(), message).help(help)
}

fn space_notes(what: &str, space: &Space) -> Vec<SpecError> {
    let mut notes = Vec::new();
    if space.ids.value == Ids::Host {
        let message = format!("{what} runs with the host's user ids");
        let help = "it can read what only the host's root can; it still has no capability outside";
        notes.push(note(&space.ids.span, message, help));
    }
    for missing in &space.allow_missing {
        let message = format!("{what} also runs where a protection is missing");
        let help = "`hyperspector status` shows what is enforced";
        notes.push(note(&missing.span, message, help));
    }
    notes
}

/// The kernel can shift no owners on an overlay, which is what most containers run on.
fn owners_as_they_are(model: &Model, portspace: &Portspace) -> Vec<SpecError> {
    if portspace.space.ids.value == Ids::Host {
        return Vec::new();
    }
    let unshifted = |name: &str| match model.server(name).map(|server| &server.kind) {
        Some(Kind::Space(_)) => Some(
            "the kernel cannot shift them on an overlay: the server's root shows as a great \
             number, the same on each run",
        ),
        Some(Kind::Adopted(adopted)) if matches!(adopted.value, Adoption::Container(_)) => Some(
            "where the container's root is an overlay, the kernel cannot shift them: a container \
             without user ids of its own shows root's files as nobody's (65534)",
        ),
        _ => None,
    };
    let note_on = |watch: &crate::model::FileWatch| {
        let name = &watch.server.value;
        let help = unshifted(name)?;
        let message = format!("owners of files of server `{name}` show as they are on the host");
        Some(note(&watch.server.span, message, help))
    };
    portspace.watch.files.iter().filter_map(note_on).collect()
}

fn names_of_all_processes(model: &Model, portspace: &Portspace) -> Option<SpecError> {
    let is_base = |name: &str| match model.server(name).map(|server| &server.kind) {
        None => name == "base",
        Some(Kind::Adopted(adopted)) => adopted.value == Adoption::Base,
        Some(_) => false,
    };
    let watched = portspace.watch.processes.iter().find(|watched| is_base(&watched.value))?;
    let name = &portspace.name.value;
    let message = format!("portspace `{name}` sees every process of the host, portspaces' too");
    let help = "their names and command lines show, those of other HyperSpectors among them; \
                adopt one unit or cgroup to show just that";
    Some(note(&watched.span, message, help))
}
