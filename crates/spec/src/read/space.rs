//! What portspaces and server spaces have in common.

use std::collections::BTreeMap;

use crate::errors::{Span, SpecError};
use crate::model::Space;
use crate::plan::{Ids, Limits, Protection, Restart, Root, Run};
use crate::reader::{At, Problems, Table, Value};

use super::mount;

const ROOT: &str = "root = \"/srv/roots/trixie\"";
const IDS: &str = "ids = \"private\"";
const USER: &str = "user = \"root\"";
const DIRECTORY: &str = "directory = \"/\"";
const ENVIRONMENT: &str = "environment = { TZ = \"UTC\" }";
const RESTART: &str = "restart = \"always\"";
const EVERY: &str = "every = \"15min\"";
const LIMITS: &str = "limits = { memory = \"512MiB\", cpu = 1.5, pids = 512 }";
const STOP_GRACE: &str = "stop-grace = \"10s\"";
const ALLOW_MISSING: &str = "allow-missing = [\"landlock\"]";

const DEFAULT_PIDS: u32 = 4096;
const DEFAULT_STOP_GRACE: u32 = 10;
/// A year and a day over; a longer period is a mistake.
const LONGEST_PERIOD: u64 = 366 * 86400;

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

/// A kind of space, as far as it makes a difference here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Portspace,
    Server,
}

impl Of {
    pub(super) fn command(self) -> &'static str {
        match self {
            Self::Portspace => "command = [\"suricata\", \"--af-packet=eth0\"]",
            Self::Server => "command = [\"nginx\", \"-g\", \"daemon off;\"]",
        }
    }

    fn keep(self) -> &'static str {
        match self {
            Self::Portspace => "keep = [\"/var/lib/aide\"]",
            Self::Server => "keep = [\"/var/lib/shop\"]",
        }
    }

    /// The key of what is hidden from the space itself, which in a server means what is hidden
    /// from those who watch it.
    fn hide(self) -> (&'static str, &'static str) {
        match self {
            Self::Portspace => ("mask", "mask = [\"/etc/secret\"]"),
            Self::Server => ("hide", "hide = [\"/etc/secret\"]"),
        }
    }
}

/// Reads the keys that every space has; those that are not there get their defaults, whose place is
/// `here`.
pub(super) fn read(of: Of, table: &mut Table<'_>, here: &Span) -> Space {
    let problems = table.problems();
    let command = table.value("command", of.command());
    let command = command.map(|value| command_of(&value, problems)).unwrap_or_default();
    let root = table.get("root", ROOT, root);
    let ids = table.get("ids", IDS, |v| Ok(At::new(v.one_of(&IDS_WORDS)?, v.span.clone())));
    let user = table.get("user", USER, user);
    let directory = table.get("directory", DIRECTORY, Value::path);
    let environment = environment(table);
    let mounts = mount::read(of, table);
    let run = run(table);
    let keep = table.list("keep", of.keep(), Value::path_below_root);
    let (hide_key, hide_example) = of.hide();
    let hide = table.list(hide_key, hide_example, Value::path_below_root);
    let limits = limits(table);
    let stop_grace = table.get("stop-grace", STOP_GRACE, |value| value.seconds(0..=3600));
    let allow_missing = table.list("allow-missing", ALLOW_MISSING, |value| {
        Ok(At::new(value.one_of(&PROTECTIONS)?, value.span.clone()))
    });
    let space = Space {
        root: root.unwrap_or(At::new(Root::Base, here.clone())),
        command,
        ids: ids.unwrap_or(At::new(Ids::default(), here.clone())),
        user: user.unwrap_or_else(|| "root".to_owned()),
        directory: directory.unwrap_or(At::new("/".into(), here.clone())),
        environment,
        mounts,
        run,
        keep: keep.into_iter().map(|path| path.value).collect(),
        hide,
        limits,
        stop_grace: stop_grace.map_or(DEFAULT_STOP_GRACE, |seconds| seconds as u32),
        allow_missing,
    };
    mount::are_seen(&space, hide_key, problems);
    space
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
    let words: Vec<_> = shell_words(&text).iter().map(|word| format!("{word:?}")).collect();
    value
        .must_be("a list: the program, then each argument")
        .help(format!("write command = [{}]", words.join(", ")))
}

/// What a shell would make of a simple command: words in quotes stay whole.
fn shell_words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
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
