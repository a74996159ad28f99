//! A table: which keys it has, which it should have, and which nobody asked for.

use toml::de::DeTable;

use super::{At, Problems, Value};
use crate::errors::{Span, SpecError};
use crate::words::{NAME_RULE, is_name, nearest, suggest};

/// A TOML table that is being read.
pub(crate) struct Table<'a> {
    /// What it is, for messages: "portspace `nids`".
    what: String,
    /// What stands before its keys in messages: "limits.".
    prefix: String,
    map: &'a DeTable<'a>,
    /// Its header, or its key.
    pub(crate) span: Span,
    problems: &'a Problems,
    asked: Vec<&'static str>,
    required: Vec<Required>,
}

/// What container runtimes and systemd call things, and what they are called here.
const ELSEWHERE: [(&str, &str); 26] = [
    ("volumes", "mount"),
    ("volume", "mount"),
    ("binds", "mount"),
    ("image", "root"),
    ("rootfs", "root"),
    ("cmd", "command"),
    ("entrypoint", "command"),
    ("exec", "command"),
    ("args", "command"),
    ("workdir", "directory"),
    ("working-dir", "directory"),
    ("cwd", "directory"),
    ("expose", "ports"),
    ("listen", "ports"),
    ("docker", "container"),
    ("podman", "container"),
    ("service", "unit"),
    ("systemd", "unit"),
    ("path", "directory"),
    ("pid", "pid_file"),
    ("logs", "sockets"),
    ("type", "kind"),
    ("from", "path"),
    ("source", "from"),
    ("target", "to"),
    ("resources", "limits"),
];

/// Keys of which one must be there, and what is said where none is.
struct Required {
    keys: Vec<&'static str>,
    message: String,
    help: String,
}

impl<'a> Table<'a> {
    /// The whole file.
    pub(crate) fn root(map: &'a DeTable<'a>, problems: &'a Problems) -> Self {
        Self::new("the file", String::new(), map, 0..0, problems)
    }

    pub(super) fn new(
        what: &str,
        prefix: String,
        map: &'a DeTable<'a>,
        span: Span,
        problems: &'a Problems,
    ) -> Self {
        let (asked, required) = (Vec::new(), Vec::new());
        Self { what: what.to_owned(), prefix, map, span, problems, asked, required }
    }

    pub(crate) fn problems(&self) -> &'a Problems {
        self.problems
    }

    fn know(&mut self, key: &'static str) {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
    }

    /// Whether `key` is there.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The value of `key`, which the table knows from now on; `example` is a whole line.
    pub(crate) fn value(&mut self, key: &'static str, example: &'static str) -> Option<Value<'a>> {
        self.know(key);
        let value = self.map.get(key)?;
        let name = format!("`{}{key}`", self.prefix);
        Some(Value { name, example, value: value.get_ref(), span: value.span() })
    }

    /// Reads one value.
    pub(crate) fn get<T>(
        &mut self,
        key: &'static str,
        example: &'static str,
        read: impl FnOnce(&Value<'a>) -> Result<T, SpecError>,
    ) -> Option<T> {
        let value = self.value(key, example)?;
        self.problems.keep(read(&value))
    }

    /// Reads a list, leaving out the elements that are wrong; an absent one is empty.
    pub(crate) fn list<T>(
        &mut self,
        key: &'static str,
        example: &'static str,
        read: impl Fn(&Value<'a>) -> Result<T, SpecError>,
    ) -> Vec<T> {
        let Some(value) = self.value(key, example) else { return Vec::new() };
        let elements = self.problems.keep(value.elements()).unwrap_or_default();
        elements.iter().filter_map(|element| self.problems.keep(read(element))).collect()
    }

    /// Reads a list of names, which is not empty and in which each may stand once.
    pub(crate) fn names(&mut self, key: &'static str, example: &'static str) -> Vec<At<String>> {
        if let Some(value) = self.value(key, example)
            && value.elements().is_ok_and(|elements| elements.is_empty())
        {
            self.problems.add(value.error(format!("{} is empty", value.name)));
        }
        let mut names: Vec<At<String>> = Vec::new();
        for name in self.list(key, example, Value::string) {
            if names.iter().any(|earlier| earlier.value == name.value) {
                let message = format!("`{}{key}` has \"{}\" twice", self.prefix, name.value);
                self.problems.add(SpecError::new(name.span, message).help("take one out"));
            } else {
                names.push(name);
            }
        }
        names
    }

    /// Makes `finish` note an error when `key` is absent.
    pub(crate) fn require(&mut self, key: &'static str, example: &'static str) {
        let message = format!("{} has no `{}{key}`", self.what, self.prefix);
        let help = format!("add a line, for example: {example}");
        self.required.push(Required { keys: vec![key], message, help });
    }

    /// The same for any one of `keys`.
    pub(crate) fn require_any(&mut self, keys: &[&'static str], message: &str, help: &str) {
        let message = format!("{} {message}", self.what);
        self.required.push(Required { keys: keys.to_vec(), message, help: help.to_owned() });
    }

    /// Notes an error when `key` is there.
    pub(crate) fn refuse(&mut self, key: &'static str, message: impl AsRef<str>, instead: &str) {
        if let Some((key_at, _)) = self.map.get_key_value(key) {
            self.know(key);
            self.problems.add(SpecError::new(key_at.span(), message).help(instead));
        }
    }

    /// The table under `key`, whose keys are then called `KEY.…`.
    pub(crate) fn table(&mut self, key: &'static str, example: &'static str) -> Option<Table<'a>> {
        let value = self.value(key, example)?;
        self.problems.keep(value.table(&self.what, self.problems))
    }

    /// The sections under `key`, in the order of the file: `[host.web1]` and `[host.web2]`.
    pub(crate) fn sections(
        &mut self,
        key: &'static str,
        kind: &str,
        example: &'static str,
    ) -> Vec<(At<String>, Table<'a>)> {
        let Some(all) = self.table(key, example) else { return Vec::new() };
        let entries = all.entries(example);
        let sections = entries.into_iter().filter_map(|(name, value)| {
            let what = format!("{kind} `{}`", name.value);
            let mut table = self.problems.keep(value.table(&what, self.problems))?;
            table.prefix.clear();
            if !is_name(&name.value) {
                let message = format!("`{}` cannot be the name of a {kind}", name.value);
                self.problems.add(SpecError::new(name.span.clone(), message).help(NAME_RULE));
            }
            Some((name, table))
        });
        sections.collect()
    }

    /// Everything in the table, in the order of the file; for tables whose keys are names.
    pub(crate) fn entries(&self, example: &'static str) -> Vec<(At<String>, Value<'a>)> {
        let mut entries: Vec<_> = self
            .map
            .iter()
            .map(|(key, value)| {
                let name = format!("`{}{}`", self.prefix, key.get_ref());
                let value = Value { name, example, value: value.get_ref(), span: value.span() };
                (At::new(key.get_ref().to_string(), key.span()), value)
            })
            .collect();
        entries.sort_by_key(|(key, _)| key.span.start);
        entries
    }

    /// The key here that other programs call `word`.
    fn meant_by(&self, word: &str) -> Option<&'static str> {
        let meant = ELSEWHERE.iter().filter(|(elsewhere, _)| *elsewhere == word);
        meant.map(|(_, here)| *here).find(|here| self.asked.contains(here))
    }

    /// Notes every key that the table does not know and every one that it lacks, but not one that
    /// an unknown key was probably meant to be.
    pub(crate) fn finish(self) {
        let mut meant = Vec::new();
        for key in self.map.keys().filter(|key| !self.asked.contains(&key.get_ref().as_ref())) {
            let word = key.get_ref();
            let message = format!("unknown key `{}{word}` in {}", self.prefix, self.what);
            let near = nearest(word, self.asked.iter().copied()).or_else(|| self.meant_by(word));
            let help = match near {
                Some(near) => format!("did you mean `{}{near}`?", self.prefix),
                None => suggest(word, "keys here", &self.asked),
            };
            meant.extend(near);
            self.problems.add(SpecError::new(key.span(), message).help(help));
        }
        let is_there = |key: &&str| self.map.contains_key(*key) || meant.contains(key);
        for required in self.required.iter().filter(|required| !required.keys.iter().any(is_there))
        {
            let error = SpecError::new(self.span.clone(), &required.message);
            self.problems.add(error.help(&required.help));
        }
    }
}
