//! What is allowed and worth knowing.

use crate::errors::{Span, SpecError};
use crate::model::{FileWatch, Kind, Model, Portspace, Space};
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
        notes.extend(masked_in_files_alone(model, portspace));
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
    for mount in space.mounts.iter().filter(|mount| mount.value.writable) {
        let message = format!("{what} can write to {} of the host", mount.value.from.display());
        let help = "what its root writes there belongs to root of the host; set-user-ID files \
                    cannot be made, in this server space";
        notes.push(note(&mount.span, message, help));
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
    let help = |name: &str| match kind(model, name)? {
        Kind::Space(_) => Some(
            "the kernel cannot shift them on an overlay: each shows as a number of the server's \
             own range; everything can be read",
        ),
        Kind::Adopted(adopted) if matches!(adopted.value, Adoption::Container(_)) => Some(
            "the kernel cannot shift them where the container's root is an overlay: root's files \
             show as nobody's, and those that only root may read cannot be read; ids = \"host\" can",
        ),
        _ => None,
    };
    let note_on = |watch: &FileWatch| {
        let name = &watch.server.value;
        let help = help(name)?;
        let message = format!("owners of files of server `{name}` show unshifted");
        Some(note(&watch.server.span, message, help))
    };
    portspace.watch.files.iter().filter_map(note_on).collect()
}

/// A mask of a file window is that window's alone.
fn masked_in_files_alone(model: &Model, portspace: &Portspace) -> Vec<SpecError> {
    let has_layer = |name: &str| match kind(model, name) {
        Some(Kind::Space(_)) => true,
        Some(Kind::Adopted(adopted)) => matches!(adopted.value, Adoption::Container(_)),
        _ => false,
    };
    let changes = |name: &str| portspace.watch.changes.iter().find(|watched| watched.value == name);
    let note_on = |watch: &FileWatch| {
        let name = &watch.server.value;
        let changed = changes(name).filter(|_| !watch.mask.is_empty() && has_layer(name))?;
        let message = format!("changes of server `{name}` show what its file window hides");
        let help = format!("to hide it in every window, name it in `mask` of [server.{name}]");
        Some(note(&changed.span, message, &help))
    };
    portspace.watch.files.iter().filter_map(note_on).collect()
}

fn kind<'a>(model: &'a Model, name: &str) -> Option<&'a Kind> {
    model.server(name).map(|server| &server.kind)
}

fn names_of_all_processes(model: &Model, portspace: &Portspace) -> Option<SpecError> {
    let is_base = |name: &str| match kind(model, name) {
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
