//! `watch.sockets`: copies of what is sent to Unix sockets of servers.

use std::path::{Path, PathBuf};

use crate::errors::SpecError;
use crate::masks::default_mask;
use crate::model::{SocketWatch, Space};
use crate::plan::SocketKind;
use crate::reader::{At, Problems, Table, Value};

use super::OURS;

const SOCKETS: &str = "watch.sockets = [{ server = \"shop\", path = \"/dev/log\" }]";
const KIND: &str = "kind = \"dgram\"";
const QUEUE: &str = "queue = \"1MiB\"";
const SENDERS: &str = "senders = true";

const KINDS: [(&str, SocketKind); 3] = [
    ("dgram", SocketKind::Dgram),
    ("stream", SocketKind::Stream),
    ("seqpacket", SocketKind::Seqpacket),
];

const DEFAULT_QUEUE: u64 = 1 << 20;

/// The longest path of a socket, in bytes (`sun_path` without its NUL, unix(7)).
const LONGEST_PATH: usize = 107;

/// In a portspace `/dev` is fixed; this is a link to the second.
const DEV_LOG: [&str; 2] = ["/dev/log", "/run/log.socket"];

/// Reads the socket windows of a portspace that is otherwise `space`.
pub(super) fn read(table: &mut Table<'_>, space: &Space) -> Vec<SocketWatch> {
    let problems = table.problems();
    let watches = table.list("sockets", SOCKETS, |value| watch(value, problems));
    let watches: Vec<_> = watches.into_iter().flatten().collect();
    for (index, watch) in watches.iter().enumerate() {
        let place = listened_at(&watch.to.value);
        if watches[..index].iter().any(|earlier| listened_at(&earlier.to.value) == place) {
            let message = format!("two sockets lead to \"{}\"", watch.to.value.display());
            problems.add(SpecError::new(watch.to.span.clone(), message).help(
                "at each path one reader listens: give the second another, to = \"/run/other\"",
            ));
        }
        problems.keep(can_listen(&watch.to, space));
    }
    watches
}

fn watch<'a>(value: &Value<'a>, problems: &'a Problems) -> Result<Option<SocketWatch>, SpecError> {
    let mut table = value.table("this socket", problems)?;
    table.require("server", SOCKETS);
    table.require("path", SOCKETS);
    let server = table.get("server", SOCKETS, Value::string);
    let path = table.get("path", SOCKETS, path);
    let kind = table.get("kind", KIND, |v| Ok(At::new(v.one_of(&KINDS)?, v.span.clone())));
    let to_is_there = table.has("to");
    let to = table.get("to", SOCKETS, to);
    let queue = table.get("queue", QUEUE, |value| value.bytes(64 << 10..=1 << 30));
    let senders = table.get("senders", SENDERS, Value::boolean);
    table.finish();
    let Some((server, path)) = server.zip(path) else { return Ok(None) };
    let to = if to_is_there { to } else { problems.keep(default_to(&path)) };
    Ok(to.map(|to| SocketWatch {
        server,
        kind: kind.unwrap_or(At::new(SocketKind::default(), value.span.clone())),
        to,
        queue: queue.unwrap_or(DEFAULT_QUEUE),
        senders: senders.unwrap_or_default(),
        path,
    }))
}

/// The path of a socket as a server sees it.
fn path(value: &Value<'_>) -> Result<At<PathBuf>, SpecError> {
    let path = socket(value)?;
    match ["/proc", "/sys"].iter().find(|kernels| path.value.starts_with(kernels)) {
        Some(kernels) => Err(value.error(format!("{} cannot be in {kernels}", value.name()))),
        None => Ok(path),
    }
}

/// The path at which a portspace's reader listens.
fn to(value: &Value<'_>) -> Result<At<PathBuf>, SpecError> {
    let path = socket(value)?;
    is_free(&path)?;
    Ok(path)
}

/// Where nothing else is said, the reader listens at the same path.
fn default_to(path: &At<PathBuf>) -> Result<At<PathBuf>, SpecError> {
    is_free(path)?;
    Ok(path.clone())
}

/// A path that fits into a socket's address.
fn socket(value: &Value<'_>) -> Result<At<PathBuf>, SpecError> {
    if value.string()?.value.starts_with('@') {
        return Err(value
            .error(format!("{} cannot be an abstract socket", value.name()))
            .help("only sockets that have a path in the file system can be watched"));
    }
    let path = value.path_below_root()?;
    let length = path.value.as_os_str().len();
    if length > LONGEST_PATH {
        let message = format!("{} has {length} bytes", value.name());
        let help = format!("a socket's path has at most {LONGEST_PATH}");
        return Err(value.error(message).help(help));
    }
    Ok(path)
}

/// The reader must be able to make a socket there.
fn is_free(path: &At<PathBuf>) -> Result<(), SpecError> {
    let shown = path.value.display();
    if DEV_LOG.iter().any(|known| path.value == Path::new(known)) {
        return Ok(());
    }
    match OURS.iter().find(|ours| path.value.starts_with(ours)) {
        Some(ours) => {
            let message = format!("no reader can listen at \"{shown}\": {ours} is read-only");
            Err(SpecError::new(path.span.clone(), message).help(
                "say where it listens in the portspace: to = \"/dev/log\" or to = \"/run/shop.log\"",
            ))
        }
        None => Ok(()),
    }
}

/// The same as far as the portspace's own mounts and masks are concerned.
fn can_listen(to: &At<PathBuf>, space: &Space) -> Result<(), SpecError> {
    let place = listened_at(&to.value);
    let default = default_mask(&space.root.value);
    let mounts = space.mounts.iter().map(|mount| (&mount.value.to, "a read-only mount"));
    let own = space.hide.iter().map(|hidden| (&hidden.value, "hidden by `mask`"));
    let default = default.iter().map(|path| (path, "hidden by default"));
    match mounts.chain(own).chain(default).find(|(path, _)| place.starts_with(path)) {
        Some((path, why)) => {
            let (shown, path) = (to.value.display(), path.display());
            let message = format!("no reader can listen at \"{shown}\": {path} is {why}");
            Err(SpecError::new(to.span.clone(), message).help("choose another path for `to`"))
        }
        None => Ok(()),
    }
}

/// The path that a reader's socket really has.
fn listened_at(to: &Path) -> &Path {
    if to == Path::new(DEV_LOG[0]) { Path::new(DEV_LOG[1]) } else { to }
}
