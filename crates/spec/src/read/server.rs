//! `[server.NAME]`: what is watched.

use crate::errors::SpecError;
use crate::model::{Kind, Server, ServerSpace};
use crate::reader::{At, Table, Value};

use super::adopt::{self, ADOPT};
use super::space::{self, Of};
use super::{ON, ports};

const MASK: &str = "mask = [\"private\"]";
const PORTS: &str = "ports = [\"tcp/80\", \"udp/53\", \"tcp/8000-8010\"]";
const DENY: &str = "deny = [\"tcp/5432\"]";

/// What a section that says nothing of the kind could say.
const INSTEAD: &str = "add command = [\"nginx\", \"-g\", \"daemon off;\"] for a server space, or \
    adopt = { unit = \"nginx.service\" }, for example, for what already runs";

/// Names that are taken, and by what.
const TAKEN: [(&str, &str); 2] = [
    ("base", "`base` is always there and stands for the base system; choose another name"),
    ("localhost", "that name stands for the server itself; choose another"),
];

/// The keys that need `command`.
const OF_SPACES: [&str; 15] = [
    "ports",
    "deny",
    "root",
    "ids",
    "user",
    "directory",
    "environment",
    "mount",
    "restart",
    "every",
    "keep",
    "hide",
    "limits",
    "stop-grace",
    "allow-missing",
];

pub(super) fn read(name: At<String>, mut table: Table<'_>) -> Server {
    if let Some((taken, help)) = TAKEN.iter().find(|(taken, _)| *taken == name.value) {
        let message = format!("a server cannot be called `{taken}`");
        table.problems().add(SpecError::new(name.span.clone(), message).help(help));
    }
    for key in adopt::KEYS.into_iter().filter(|key| *key != "directory") {
        let help = format!("write adopt = {{ {key} = … }}");
        table.refuse(key, format!("`{key}` belongs in `adopt`"), &help);
    }
    table.refuse("watch", "a server watches nothing", "windows are keys of a portspace");
    table.require("on", ON);
    let on = table.names("on", ON);
    let kind = kind(&name, &mut table);
    let mask = table.list("mask", MASK, Value::part_of_tree);
    table.finish();
    Server { name, on, kind, mask: mask.into_iter().map(|path| path.value).collect() }
}

fn kind(name: &At<String>, table: &mut Table<'_>) -> Kind {
    match (table.has("command"), table.has("adopt")) {
        (true, true) => {
            let message = format!("server `{}` has both `command` and `adopt`", name.value);
            let help = "a server space is started by HyperSpector, an adopted server by somebody \
                else; take one of them out";
            table.refuse("adopt", message, help);
            space(name, table);
            Kind::Unreadable
        }
        (false, true) => adopted(name, table),
        (true, false) => Kind::Space(Box::new(space(name, table))),
        (false, false) => {
            neither(name, table);
            Kind::Unreadable
        }
    }
}

/// A server that does not say what it is; what else it says is read as that of a server space.
fn neither(name: &At<String>, table: &mut Table<'_>) {
    if let Some(directory) = table.value("directory", "") {
        let path = directory.string().map_or("/srv/www".to_owned(), |path| path.value);
        let error = SpecError::new(directory.span, "`directory` is where a `command` starts");
        table.problems().add(error.help(format!(
            "to watch the files of a directory, write adopt = {{ directory = {path:?} }}"
        )));
    } else if !adopt::KEYS.iter().any(|key| table.has(key)) {
        table.require_any(&["command", "adopt"], "does not say what it is", INSTEAD);
    }
    space(name, table);
    // Known, so that a mistyped one is recognised.
    table.value("adopt", ADOPT);
}

fn adopted(name: &At<String>, table: &mut Table<'_>) -> Kind {
    let adopted = table.value("adopt", ADOPT);
    let problems = table.problems();
    let adoption = adopted.and_then(|value| problems.keep(adopt::read(&value, problems)));
    for key in OF_SPACES {
        let message = format!("`{key}` of server `{}` needs `command`", name.value);
        table.refuse(key, message, "an adopted server is left as it is; take it out");
    }
    adoption.flatten().map_or(Kind::Unreadable, Kind::Adopted)
}

fn space(name: &At<String>, table: &mut Table<'_>) -> ServerSpace {
    let space = space::read(Of::Server, table, &name.span);
    let ports = ports::read(table, "ports", PORTS);
    let deny = ports::read(table, "deny", DENY);
    for denied in &deny {
        if let Some(own) = ports.iter().find(|own| own.value.meets(denied.value)) {
            let message =
                format!("\"{}\" denies \"{}\", a port of its own", denied.value, own.value);
            let help = "`deny` is for services of others on the host's loopback; take it out";
            table.problems().add(SpecError::new(denied.span.clone(), message).help(help));
        }
    }
    ServerSpace { space, ports, deny }
}
