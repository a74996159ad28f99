//! `watch.…` of a portspace: its windows.

use crate::errors::SpecError;
use crate::model::{FileWatch, Packets, Space, Watch};
use crate::reader::{At, Problems, Table, Value};

use super::{sockets, syscalls};

const WATCH: &str = "watch.packets = [\"eth0\"]";
const PACKETS: &str = "watch.packets = [\"eth0\"]";
const FILES: &str = "watch.files = [\"base\"]";
const CHANGES: &str = "watch.changes = [\"shop\"]";
const PROCESSES: &str = "watch.processes = [\"shop\"]";
const RING: &str = "watch.packets = { interfaces = [\"eth0\"], ring = \"256MiB\" }";
const FILES_MASK: &str = "watch.files = [{ server = \"base\", mask = [\"/root\"] }]";

const DEFAULT_RING: u64 = 256 << 20;

/// Reads the windows of a portspace that is otherwise `space`.
pub(super) fn read(table: &mut Table<'_>, space: &Space) -> Watch {
    let Some(mut table) = table.table("watch", WATCH) else { return Watch::default() };
    let watch = Watch {
        packets: packets(&mut table),
        files: files(&mut table),
        changes: table.names("changes", CHANGES),
        sockets: sockets::read(&mut table, space),
        processes: table.names("processes", PROCESSES),
        syscalls: syscalls::read(&mut table, space),
    };
    table.finish();
    watch
}

fn packets(table: &mut Table<'_>) -> Option<Packets> {
    let problems = table.problems();
    let value = table.value("packets", PACKETS)?;
    let (interfaces, ring_limit) = if value.is_table() {
        let mut table = problems.keep(value.table("this packet window", problems))?;
        table.require("interfaces", RING);
        let interfaces = table.names("interfaces", RING);
        let ring = table.get("ring", RING, |value| value.bytes(1 << 20..=1 << 40));
        table.finish();
        (interfaces, ring.unwrap_or(DEFAULT_RING))
    } else {
        (table.names("packets", PACKETS), DEFAULT_RING)
    };
    let interfaces: Vec<_> =
        interfaces.into_iter().filter_map(|name| problems.keep(interface(name))).collect();
    (!interfaces.is_empty()).then_some(Packets { interfaces, ring_limit })
}

/// A name that the kernel would take (dev_valid_name in net/core/dev.c).
fn interface(name: At<String>) -> Result<At<String>, SpecError> {
    let text = &name.value;
    let banned = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text == "any" {
        return Err(SpecError::new(name.span, "`watch.packets` names interfaces one by one")
            .help("\"any\" stands for no interface: write [\"eth0\", \"lo\"], for example"));
    }
    if text.is_empty() || text.len() > 15 || text == "." || text == ".." || text.contains(banned) {
        let message = format!("\"{text}\" cannot be the name of an interface");
        return Err(SpecError::new(name.span, message).help("`ip -br link` lists their names"));
    }
    Ok(name)
}

fn files(table: &mut Table<'_>) -> Vec<FileWatch> {
    let problems = table.problems();
    let watches = table.list("files", FILES, |value| file_watch(value, problems));
    let watches: Vec<_> = watches.into_iter().flatten().collect();
    for (index, watch) in watches.iter().enumerate() {
        let server = &watch.server;
        if watches[..index].iter().any(|earlier| earlier.server.value == server.value) {
            let message = format!("`watch.files` has \"{}\" twice", server.value);
            problems.add(SpecError::new(server.span.clone(), message).help("take one out"));
        }
    }
    watches
}

/// `"site"` or `{ server = "site", mask = ["private"] }`.
fn file_watch<'a>(
    value: &Value<'a>,
    problems: &'a Problems,
) -> Result<Option<FileWatch>, SpecError> {
    if value.is_string() {
        return Ok(Some(FileWatch { server: value.string()?, mask: Vec::new() }));
    }
    if !value.is_table() {
        return Err(value.must_be("a server's name or a table"));
    }
    let mut table = value.table("this file window", problems)?;
    table.require("server", FILES_MASK);
    let server = table.get("server", FILES_MASK, Value::string);
    let mask = table.list("mask", FILES_MASK, Value::part_of_tree);
    table.finish();
    let mask = mask.into_iter().map(|path| path.value).collect();
    Ok(server.map(|server| FileWatch { server, mask }))
}
