//! `adopt`: a server that already runs.

use std::path::{Path, PathBuf};

use crate::errors::SpecError;
use crate::plan::Adoption;
use crate::reader::{At, Problems, Value};

pub(super) const ADOPT: &str = "adopt = { unit = \"nginx.service\" }";
const DIRECTORY: &str = "adopt = { directory = \"/srv/www\" }";
const CONTAINER: &str = "adopt = { container = \"shop\" }";
const CGROUP: &str = "adopt = { cgroup = \"/system.slice/shop.service\" }";
const PID_FILE: &str = "adopt = { pid_file = \"/run/shop.pid\" }";

/// All the forms, for who has written another.
const FORMS: &str = "write adopt = \"base\", or a table of one of these: directory = \"/srv/www\", \
    unit = \"nginx.service\", container = \"shop\", cgroup = \"/system.slice/shop.service\", \
    pid_file = \"/run/shop.pid\"";

/// The keys of a table.
pub(super) const KEYS: [&str; 5] = ["directory", "unit", "container", "cgroup", "pid_file"];

/// The kinds of systemd units that have processes of their own (systemd.unit(5)).
const UNITS: [&str; 3] = [".service", ".scope", ".slice"];

/// The other kinds.
const OTHER_UNITS: [&str; 8] =
    [".socket", ".target", ".timer", ".mount", ".automount", ".path", ".device", ".swap"];

/// `None` where it says nothing, which has been noted.
pub(super) fn read<'a>(
    value: &Value<'a>,
    problems: &'a Problems,
) -> Result<Option<At<Adoption>>, SpecError> {
    if value.is_string() {
        return word(value).map(Some);
    }
    if !value.is_table() {
        return Err(value.must_be("\"base\" or a table").help(FORMS));
    }
    let mut table = value.table("this adoption", problems)?;
    let count = KEYS.iter().filter(|key| table.has(key)).count();
    let adoptions = [
        table.get("directory", DIRECTORY, directory),
        table.get("unit", ADOPT, unit),
        table.get("container", CONTAINER, container),
        table.get("cgroup", CGROUP, cgroup),
        table.get("pid_file", PID_FILE, pid_file),
    ];
    table.require_any(&KEYS, "does not say what is adopted", FORMS);
    table.finish();
    if count > 1 {
        let message = format!("`adopt` has {count} keys");
        return Err(SpecError::new(value.span.clone(), message)
            .help("a server is one thing: keep one key, and declare a server for each other"));
    }
    let adoption = adoptions.into_iter().flatten().next();
    Ok(adoption.map(|adoption| At::new(adoption, value.span.clone())))
}

/// `"base"`; for anything else, what it probably was meant to be.
fn word(value: &Value<'_>) -> Result<At<Adoption>, SpecError> {
    let word = value.string()?;
    let text = word.value.as_str();
    let is_unit = UNITS.iter().any(|suffix| text.ends_with(suffix));
    let help = match text {
        "base" => return Ok(At::new(Adoption::Base, word.span)),
        "/" => "write adopt = \"base\"".to_owned(),
        path if path.starts_with('/') => format!("write adopt = {{ directory = {path:?} }}"),
        unit if is_unit => format!("write adopt = {{ unit = {unit:?} }}"),
        name if !name.is_empty() && name.chars().all(in_a_container) => format!(
            "write adopt = {{ unit = \"{name}.service\" }} or adopt = {{ container = \"{name}\" }}"
        ),
        _ => FORMS.to_owned(),
    };
    Err(value.error(format!("`adopt` cannot be \"{text}\"")).help(help))
}

fn directory(value: &Value<'_>) -> Result<Adoption, SpecError> {
    let path = value.path()?.value;
    if path.as_os_str() == "/" {
        let error = value.error(format!("{} cannot be \"/\"", value.name()));
        return Err(error.help("the base system is a server of its own kind: adopt = \"base\""));
    }
    Ok(Adoption::Directory(path))
}

/// A unit's whole name: `NAME.KIND` or `NAME@INSTANCE.KIND` (systemd.unit(5)).
fn unit(value: &Value<'_>) -> Result<Adoption, SpecError> {
    let unit = value.string()?.value;
    let wrong = |problem: &str| value.error(format!("\"{unit}\" {problem}"));
    let in_a_unit = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if unit.is_empty() || unit.len() > 255 || !unit.chars().all(in_a_unit) {
        return Err(wrong("cannot be the name of a unit")
            .help("`systemctl list-units` shows their names, with their suffixes"));
    }
    if let Some(suffix) = OTHER_UNITS.iter().find(|suffix| unit.ends_with(*suffix)) {
        let name = unit.trim_end_matches(suffix);
        return Err(wrong("has no processes of its own").help(format!(
            "name the unit that runs them: adopt = {{ unit = \"{name}.service\" }}"
        )));
    }
    let Some(suffix) = UNITS.iter().find(|suffix| unit.ends_with(*suffix)) else {
        return Err(
            wrong("has no suffix").help(format!("write adopt = {{ unit = \"{unit}.service\" }}"))
        );
    };
    match unit.trim_end_matches(suffix) {
        "" => Err(wrong("has no name before its suffix")),
        name if name.ends_with('@') => Err(wrong("is a template, of which nothing runs by itself")
            .help(format!("name an instance: adopt = {{ unit = \"{name}INSTANCE{suffix}\" }}"))),
        _ => Ok(Adoption::Unit(unit)),
    }
}

/// A name as container runtimes take it, or an id.
fn container(value: &Value<'_>) -> Result<Adoption, SpecError> {
    let name = value.string()?.value;
    let wrong = |problem: &str| value.error(format!("\"{name}\" {problem}"));
    if let Some(rest) = name.strip_prefix('/') {
        return Err(
            wrong("begins with \"/\"").help(format!("write adopt = {{ container = {rest:?} }}"))
        );
    }
    if name.contains([':', '/']) {
        return Err(wrong("is an image, not a container")
            .help("`docker ps`, `podman ps` or `crictl ps` shows the names of containers"));
    }
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !begins || name.len() > 253 || !name.chars().all(in_a_container) {
        return Err(wrong("is neither a container's name nor its id"));
    }
    Ok(Adoption::Container(name))
}

fn in_a_container(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

/// A cgroup below the root of the hierarchies, as `/proc/PID/cgroup` has it; kept without its
/// leading `/`.
fn cgroup(value: &Value<'_>) -> Result<Adoption, SpecError> {
    let path = value.path_in_tree()?.value;
    let below = path.strip_prefix("/").unwrap_or(&path);
    if below.as_os_str().is_empty() {
        let error = value.error(format!("{} cannot be \"/\"", value.name()));
        return Err(error.help("every process is in it: adopt = \"base\""));
    }
    if path.starts_with("/sys/fs/cgroup") {
        return Err(value
            .error(format!("{} is written from the root of the cgroups on", value.name()))
            .help(mounted(&path)));
    }
    if below.starts_with("hyperspector") {
        return Err(value
            .error(format!("{} is HyperSpector's own", value.name()))
            .help("a server space is watched by its name; a portspace is nobody's server"));
    }
    Ok(Adoption::Cgroup(below.to_owned()))
}

/// What to write instead of a path in the file system; version 1 has a directory for each hierarchy.
fn mounted(path: &Path) -> String {
    let below: PathBuf = path.strip_prefix("/sys/fs/cgroup").unwrap_or(path).into();
    let help = format!("write cgroup = \"/{}\"", below.display());
    format!("{help}, without the directory of a version 1 hierarchy")
}

fn pid_file(value: &Value<'_>) -> Result<Adoption, SpecError> {
    Ok(Adoption::PidFile(value.path_below_root()?.value))
}
