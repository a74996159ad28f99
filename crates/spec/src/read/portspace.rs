//! `[hyperspector.NAME.portspace.NAME]`: an isolated environment that runs one IDS.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::errors::SpecError;
use crate::model::{Addresses, Portspace};
use crate::plan::{Ids, Limits, Mount, Protection, Restart, Root, Run};
use crate::reader::{At, Problems, Table, Value};

use super::{ON, watch};

const COMMAND: &str = "command = [\"suricata\", \"--af-packet=eth0\"]";
const ROOT: &str = "root = \"/srv/roots/trixie\"";
const IDS: &str = "ids = \"private\"";
const USER: &str = "user = \"root\"";
const DIRECTORY: &str = "directory = \"/\"";
const ENVIRONMENT: &str = "environment = { TZ = \"UTC\" }";
const MOUNT: &str = "mount = [{ from = \"/etc/nids\", to = \"/etc/nids\" }]";
const ADDRESS: &str = "address.web1 = \"10.66.0.7\"";
const RESTART: &str = "restart = \"always\"";
const EVERY: &str = "every = \"15min\"";
const KEEP: &str = "keep = [\"/var/lib/aide\"]";
const MASK: &str = "mask = [\"/etc/secret\"]";
const LIMITS: &str = "limits = { memory = \"512MiB\", cpu = 1.5, pids = 512 }";
const STOP_GRACE: &str = "stop-grace = \"10s\"";
const ALLOW_MISSING: &str = "allow-missing = [\"landlock\"]";

const DEFAULT_PIDS: u32 = 4096;
const DEFAULT_STOP_GRACE: u32 = 10;
/// A year and a day over; a longer period is a mistake.
const LONGEST_PERIOD: u64 = 366 * 86400;

/// Directories that HyperSpector makes or fills inside every portspace.
const OURS: [&str; 6] = ["/proc", "/sys", "/dev", "/.serverfs", "/.dserverfs", "/.serverproc"];

const IDS_WORDS: [(&str, Ids); 2] = [("private", Ids::Private), ("host", Ids::Host)];

const RESTARTS: [(&str, Restart); 4] = [
    ("always", Restart::Always),
    ("on-failure", Restart::OnFailure),
    ("clean", Restart::Clean),
    ("never", Restart::Never),
];

const PROTECTIONS: [(&str, Protection); 3] = [
    ("landlock", Protection::Landlock),
    ("unix-guard", Protection::UnixGuard),
    ("limits", Protection::Limits),
];

pub(super) fn read(name: At<String>, mut table: Table<'_>) -> Portspace {
    let problems = table.problems();
    if name.value == "localhost" {
        let error = SpecError::new(name.span.clone(), "a portspace cannot be called `localhost`");
        problems.add(error.help("that name stands for the portspace itself; choose another"));
    }
    table.require("on", ON);
    table.require("command", COMMAND);
    let on = table.names("on", ON);
    let root = table.get("root", ROOT, root);
    let command = table.value("command", COMMAND);
    let command = command.map(|value| command_of(&value, problems)).unwrap_or_default();
    let ids = table.get("ids", IDS, |v| Ok(At::new(v.one_of(&IDS_WORDS)?, v.span.clone())));
    let user = table.get("user", USER, user);
    let directory = table.get("directory", DIRECTORY, Value::path);
    let environment = environment(&mut table);
    let mounts = mounts(&mut table);
    let address = table.value("address", ADDRESS).map(|value| addresses(&value, problems));
    let (packets, files) = watch::read(&mut table);
    let run = run(&mut table);
    let keep = table.list("keep", KEEP, Value::path_below_root);
    let mask = table.list("mask", MASK, Value::path_below_root);
    let limits = limits(&mut table);
    let stop_grace = table.get("stop-grace", STOP_GRACE, |value| value.seconds(0..=3600));
    let allow_missing = table.list("allow-missing", ALLOW_MISSING, |value| {
        Ok(At::new(value.one_of(&PROTECTIONS)?, value.span.clone()))
    });
    let here = name.span.clone();
    table.finish();
    Portspace {
        on,
        root: root.unwrap_or(At::new(Root::Base, here.clone())),
        command,
        ids: ids.unwrap_or(At::new(Ids::default(), here.clone())),
        user: user.unwrap_or_else(|| "root".to_owned()),
        directory: directory.unwrap_or(At::new("/".into(), here)),
        environment,
        mounts,
        address: address.unwrap_or_default(),
        packets,
        files,
        run,
        keep: keep.into_iter().map(|path| path.value).collect(),
        mask: mask.into_iter().map(|path| path.value).collect(),
        limits,
        stop_grace: stop_grace.map_or(DEFAULT_STOP_GRACE, |seconds| seconds as u32),
        allow_missing,
        name,
    }
}

fn root(value: &Value<'_>) -> Result<At<Root>, SpecError> {
    let text = value.string()?.value;
    if !text.starts_with('/') {
        let message = format!("`root` must be an absolute path, not \"{text}\"");
        return Err(SpecError::new(value.span.clone(), message).help(
            "\"/\" or a directory that holds a root file system; this version has no images yet",
        ));
    }
    let path = value.path()?;
    let is_base = path.value.as_os_str() == "/";
    Ok(At::new(if is_base { Root::Base } else { Root::Directory(path.value) }, path.span))
}

/// The program and its arguments, each a string of its own.
fn command_of(value: &Value<'_>, problems: &Problems) -> Vec<At<String>> {
    if value.is_string() {
        problems.add(command_in_one_string(value));
        return Vec::new();
    }
    let elements = problems.keep(value.elements()).unwrap_or_default();
    let words: Vec<_> = elements.iter().filter_map(|e| problems.keep(e.string())).collect();
    if value.is_list() && elements.is_empty() {
        problems.add(value.error("`command` is empty"));
    }
    if let Some(program) = words.first() {
        problems.keep(check_program(program));
    }
    words
}

fn command_in_one_string(value: &Value<'_>) -> SpecError {
    let text = value.string().map(|text| text.value).unwrap_or_default();
    let words: Vec<_> = text.split_whitespace().map(|word| format!("{word:?}")).collect();
    value
        .must_be("a list: the program, then each argument")
        .help(format!("write command = [{}]", words.join(", ")))
}

fn check_program(program: &At<String>) -> Result<(), SpecError> {
    let name = &program.value;
    if name.is_empty() || (name.contains('/') && !name.starts_with('/')) {
        let message = format!("`command` cannot begin with \"{name}\"");
        return Err(SpecError::new(program.span.clone(), message)
            .help("write a bare name, which is looked up along PATH, or an absolute path"));
    }
    Ok(())
}

/// A user's name as useradd(8) takes it, or a number.
fn user(value: &Value<'_>) -> Result<String, SpecError> {
    let user = value.string()?.value;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let number = user.parse::<u32>();
    let all_digits = user.bytes().all(|b| b.is_ascii_digit());
    let name = user.trim_end_matches('$');
    let fits = (1..=32).contains(&user.len()) && !name.starts_with('-') && name.chars().all(plain);
    if name.is_empty() || !fits || (all_digits && number.is_err()) {
        return Err(value.error(format!("\"{user}\" is neither a user's name nor a user id")));
    }
    Ok(user)
}

fn environment(table: &mut Table<'_>) -> BTreeMap<String, String> {
    let Some(variables) = table.table("environment", ENVIRONMENT) else { return BTreeMap::new() };
    let problems = table.problems();
    let mut environment = BTreeMap::new();
    for (name, value) in variables.entries(ENVIRONMENT) {
        if name.value.is_empty() || name.value.contains(['=', '\0']) {
            let message = format!("\"{}\" cannot be the name of a variable", name.value);
            problems.add(SpecError::new(name.span, message).help("a name has no `=` and no NUL"));
        } else if let Some(text) = problems.keep(value.string()) {
            environment.insert(name.value, text.value);
        }
    }
    environment
}

fn mounts(table: &mut Table<'_>) -> Vec<At<Mount>> {
    let problems = table.problems();
    let mounts = table.list("mount", MOUNT, |value| {
        let read = mount(value, problems)?;
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

fn mount<'a>(value: &Value<'a>, problems: &'a Problems) -> Result<Option<Mount>, SpecError> {
    let mut table = value.table("this mount", problems)?;
    table.require("from", MOUNT);
    table.require("to", MOUNT);
    let from = table.get("from", MOUNT, |value| match value.path()? {
        path if path.value.as_os_str() != "/" => Ok(path.value),
        _ => Err(value
            .error("`mount.from` cannot be \"/\"")
            .help("a window shows the whole base system: watch.files = [\"base\"]")),
    });
    let to = table.get("to", MOUNT, |value| {
        let path = value.path_below_root()?.value;
        match OURS.iter().find(|ours| path.starts_with(ours)) {
            Some(ours) => Err(value.error(format!("`mount.to` cannot be in {ours}"))),
            None => Ok(path),
        }
    });
    table.finish();
    Ok(from.zip(to).map(|(from, to)| Mount { from, to, writable: false }))
}

fn addresses<'a>(value: &Value<'a>, problems: &'a Problems) -> Addresses {
    if !value.is_table() {
        return problems.keep(address(value)).map_or(Addresses::None, Addresses::One);
    }
    let Some(each) = problems.keep(value.table("this address", problems)) else {
        return Addresses::None;
    };
    let read = |(host, value)| Some((host, problems.keep(address(&value))?));
    Addresses::Each(each.entries(ADDRESS).into_iter().filter_map(read).collect())
}

fn address(value: &Value<'_>) -> Result<At<Ipv4Addr>, SpecError> {
    let text = value.string()?;
    let parsed = text.value.parse();
    parsed
        .map(|address| At::new(address, text.span))
        .map_err(|_| value.error(format!("\"{}\" is not an IPv4 address", text.value)))
}

/// A service, or a command that runs again and again.
fn run(table: &mut Table<'_>) -> Run {
    let restart_at = table.value("restart", RESTART).map(|value| value.span);
    let restart = table.get("restart", RESTART, |value| value.one_of(&RESTARTS));
    let every = table.get("every", EVERY, |value| value.seconds(1..=LONGEST_PERIOD));
    if let (Some(span), Some(_)) = (restart_at, table.value("every", EVERY)) {
        let error = SpecError::new(span, "`restart` and `every` exclude each other");
        table.problems().add(error.help("`every` starts the command again by itself; keep one"));
    }
    match every {
        Some(seconds) => Run::Every { seconds },
        None => Run::Service { restart: restart.unwrap_or_default() },
    }
}

fn limits(table: &mut Table<'_>) -> Limits {
    let defaults = Limits { pids: Some(DEFAULT_PIDS), ..Limits::default() };
    let Some(mut table) = table.table("limits", LIMITS) else { return defaults };
    let weight = |value: &Value<'_>| value.integer(1..=10000).map(|weight| weight as u16);
    let limits = Limits {
        memory: table.get("memory", "memory = \"512MiB\"", |v| v.bytes(4 << 20..=1 << 50)),
        cpu_millis: table.get("cpu", "cpu = 1.5", |v| v.thousandths(10..=4_096_000)),
        cpu_weight: table.get("cpu-weight", "cpu-weight = 100", weight),
        io_weight: table.get("io-weight", "io-weight = 100", weight),
        pids: table
            .get("pids", "pids = 512", |v| v.integer(2..=4_194_304).map(|pids| pids as u32))
            .or(defaults.pids),
    };
    table.finish();
    limits
}
