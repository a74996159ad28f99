//! What portspaces watch: known servers, on all their hosts, that have what is to be seen.

use crate::errors::SpecError;
use crate::model::{Kind, Model, Portspace, Server, SocketWatch};
use crate::plan::{Adoption, SocketKind};
use crate::reader::{At, Problems};
use crate::words::suggest;

/// What a portspace watches is known, on all its hosts, and has what is to be seen.
pub(super) fn servers_are_there(model: &Model, portspace: &Portspace, problems: &Problems) {
    let declared = model.servers.iter().map(|server| server.name.value.as_str());
    let known: Vec<_> = std::iter::once("base").chain(declared).collect();
    for watched in portspace.watch.servers().filter(|watched| watched.value != "base") {
        match model.server(&watched.value) {
            Some(server) => server_is_on_hosts(server, watched, portspace, problems),
            None => {
                let message = format!("server `{}` is not in this file", watched.value);
                let help = suggest(&watched.value, "servers in this file", &known);
                problems.add(SpecError::new(watched.span.clone(), message).help(help));
            }
        }
    }
    let watch = &portspace.watch;
    let sockets = watch.sockets.iter().map(|socket| (&socket.server, "sockets"));
    let syscalls = watch.syscalls.iter().map(|trace| (&trace.server, "system calls"));
    let processes = watch.processes.iter().map(|server| (server, "processes"));
    for (watched, what) in processes.chain(sockets).chain(syscalls) {
        has_processes(model, watched, what, problems);
    }
}

fn server_is_on_hosts(
    server: &Server,
    watched: &At<String>,
    portspace: &Portspace,
    problems: &Problems,
) {
    let missing: Vec<_> = portspace
        .on
        .iter()
        .map(|host| host.value.as_str())
        .filter(|host| !server.is_on(host))
        .collect();
    // A server without hosts has had its error.
    if missing.is_empty() || server.on.is_empty() {
        return;
    }
    let name = &server.name.value;
    let message = format!("server `{name}` is not on {}", missing.join(", "));
    let portspace = &portspace.name.value;
    let help =
        format!("add it to `on` of [server.{name}], or take it out of `on` of `{portspace}`");
    problems.add(SpecError::new(watched.span.clone(), message).help(help));
}

/// An adopted directory is files alone.
fn has_processes(model: &Model, watched: &At<String>, what: &str, problems: &Problems) {
    let Some(server) = model.server(&watched.value) else { return };
    let Kind::Adopted(At { value: Adoption::Directory(_), .. }) = &server.kind else { return };
    let name = &watched.value;
    let message = format!("server `{name}` has no {what}: it is a directory");
    let help = "its files and changes can be watched; to see more, adopt what runs there: unit, \
                container, cgroup or pid_file";
    problems.add(SpecError::new(watched.span.clone(), message).help(help));
}

/// A socket of a server is of one kind, whoever watches it.
pub(super) fn kinds_agree(model: &Model, problems: &Problems) {
    let sockets: Vec<_> = model
        .portspaces()
        .flat_map(|portspace| portspace.watch.sockets.iter().map(move |s| (portspace, s)))
        .collect();
    for (index, (_, socket)) in sockets.iter().enumerate() {
        let same = |other: &SocketWatch| {
            other.server.value == socket.server.value && other.path.value == socket.path.value
        };
        let Some((portspace, first)) = sockets[..index].iter().find(|(_, other)| same(other))
        else {
            continue;
        };
        if first.kind.value != socket.kind.value {
            let (path, by) = (socket.path.value.display(), &portspace.name.value);
            let (kind, other) = (word(socket.kind.value), word(first.kind.value));
            let message = format!("\"{path}\" is {kind} here, and {other} in portspace `{by}`");
            let help = "a socket is of one kind; `ss -xa` shows of which";
            problems.add(SpecError::new(socket.kind.span.clone(), message).help(help));
        }
    }
}

fn word(kind: SocketKind) -> &'static str {
    match kind {
        SocketKind::Dgram => "\"dgram\"",
        SocketKind::Stream => "\"stream\"",
        SocketKind::Seqpacket => "\"seqpacket\"",
    }
}
