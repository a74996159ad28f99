//! A value: what it must be, and what is said when it is something else.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::de::DeValue;

use super::{At, Problems, Table};
use crate::errors::{Span, SpecError};
use crate::units;
use crate::words::nearest;

/// A value that is being read.
pub(crate) struct Value<'a> {
    /// What it is called in messages: "`port`", or "each value of `on`".
    pub(super) name: String,
    /// A line that would be right.
    pub(super) example: &'static str,
    pub(super) value: &'a DeValue<'a>,
    pub(crate) span: Span,
}

impl<'a> Value<'a> {
    /// What it is called in messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// An error about this value, with the example as its help.
    pub(crate) fn error(&self, message: impl AsRef<str>) -> SpecError {
        let help = format!("for example: {}", self.example);
        SpecError::new(self.span.clone(), message).help(help)
    }

    /// An error that says what the value must be.
    pub(crate) fn must_be(&self, wanted: &str) -> SpecError {
        self.error(format!("{} must be {wanted}, not {}", self.name, type_name(self.value)))
    }

    /// The same for a list; what was written as one string is shown as a list of it.
    fn must_be_a_list(&self) -> SpecError {
        let error = self.must_be("a list");
        match self.value.as_str() {
            Some(text) => error.help(format!("write {} = [{text:?}]", self.name.trim_matches('`'))),
            None => error,
        }
    }

    pub(crate) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    pub(crate) fn is_string(&self) -> bool {
        self.value.is_str()
    }

    pub(crate) fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// A string without NUL, which could be passed to no program and name no file.
    pub(crate) fn string(&self) -> Result<At<String>, SpecError> {
        let text = self.value.as_str().ok_or_else(|| self.must_be("a string"))?;
        if text.contains('\0') {
            return Err(self.error(format!("{} holds a NUL character", self.name)));
        }
        Ok(At::new(text.to_owned(), self.span.clone()))
    }

    pub(crate) fn boolean(&self) -> Result<bool, SpecError> {
        self.value.as_bool().ok_or_else(|| self.must_be("true or false"))
    }

    /// An integer in `range`.
    pub(crate) fn integer(&self, range: RangeInclusive<i64>) -> Result<i64, SpecError> {
        let written = self.value.as_integer().ok_or_else(|| self.must_be("an integer"))?;
        i64::from_str_radix(written.as_str(), written.radix())
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let (low, high) = (range.start(), range.end());
                self.error(format!("{} must be {low} to {high}, not {written}", self.name))
            })
    }

    /// A number that may have a point, in thousandths.
    pub(crate) fn thousandths(&self, range: RangeInclusive<u32>) -> Result<u32, SpecError> {
        let text = match self.value {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => return Err(self.must_be("a number")),
        };
        let number = text.parse::<f64>().unwrap_or(f64::NAN);
        let (low, high) = (f64::from(*range.start()) / 1e3, f64::from(*range.end()) / 1e3);
        if !(low..=high).contains(&number) {
            return Err(self.error(format!("{} must be {low} to {high}, not {text}", self.name)));
        }
        // In range, so it fits.
        Ok((number * 1e3).round() as u32)
    }

    /// A time in seconds, in `range`.
    pub(crate) fn seconds(&self, range: RangeInclusive<u64>) -> Result<u64, SpecError> {
        self.with_unit("a time with its unit", range, units::seconds, units::write_seconds)
    }

    /// A size in bytes, in `range`.
    pub(crate) fn bytes(&self, range: RangeInclusive<u64>) -> Result<u64, SpecError> {
        self.with_unit("a size with its unit", range, units::bytes, units::write_bytes)
    }

    /// A rate in bits per second, in `range`.
    pub(crate) fn rate(&self, range: RangeInclusive<u64>) -> Result<u64, SpecError> {
        self.with_unit("a rate with its unit", range, units::rate, units::write_rate)
    }

    fn with_unit(
        &self,
        wanted: &str,
        range: RangeInclusive<u64>,
        read: impl Fn(&str) -> Result<u64, units::UnitError>,
        write: impl Fn(u64) -> String,
    ) -> Result<u64, SpecError> {
        let wanted = format!("a string that holds {wanted}");
        let text = self.value.as_str().ok_or_else(|| self.must_be(&wanted))?;
        let value = read(text).map_err(|unit| {
            let message = format!("{}: {}", self.name, unit.message);
            SpecError::new(self.span.clone(), message).help(unit.help)
        })?;
        if !range.contains(&value) {
            let (low, high) = (write(*range.start()), write(*range.end()));
            return Err(self.error(format!("{} must be {low} to {high}, not {text}", self.name)));
        }
        Ok(value)
    }

    /// One of a few words.
    pub(crate) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, SpecError> {
        let word = self.string()?.value;
        if let Some((_, meaning)) = words.iter().find(|(known, _)| *known == word) {
            return Ok(*meaning);
        }
        let known: Vec<_> = words.iter().map(|(known, _)| *known).collect();
        let message = format!("{} cannot be \"{word}\"", self.name);
        let mut help = format!("it can be \"{}\"", known.join("\", \""));
        if let Some(near) = nearest(&word, known.iter().copied()) {
            help = format!("did you mean \"{near}\"? {help}");
        }
        Err(SpecError::new(self.span.clone(), message).help(help))
    }

    /// An absolute path without `..`, in its shortest form.
    pub(crate) fn path(&self) -> Result<At<PathBuf>, SpecError> {
        let text = self.string()?.value;
        if !text.starts_with('/') {
            return Err(
                self.error(format!("{} must be an absolute path, not \"{text}\"", self.name))
            );
        }
        self.clean(&text)
    }

    /// The same for a path in a tree of its own, where a leading `/` changes nothing.
    pub(crate) fn path_in_tree(&self) -> Result<At<PathBuf>, SpecError> {
        let text = self.string()?.value;
        self.clean(&text)
    }

    /// An absolute path that is not `/` itself.
    pub(crate) fn path_below_root(&self) -> Result<At<PathBuf>, SpecError> {
        self.path().and_then(|path| self.not_the_root(path))
    }

    /// A path in a tree of its own that is not the whole tree.
    pub(crate) fn part_of_tree(&self) -> Result<At<PathBuf>, SpecError> {
        self.path_in_tree().and_then(|path| self.not_the_root(path))
    }

    fn not_the_root(&self, path: At<PathBuf>) -> Result<At<PathBuf>, SpecError> {
        if path.value.as_os_str() == "/" {
            return Err(self.error(format!("{} cannot be \"/\"", self.name)));
        }
        Ok(path)
    }

    fn clean(&self, text: &str) -> Result<At<PathBuf>, SpecError> {
        if text.chars().any(char::is_control) {
            return Err(self.error(format!("{} holds a control character", self.name)));
        }
        let mut path = PathBuf::from("/");
        for part in text.split('/').filter(|part| !part.is_empty()) {
            if part == "." || part == ".." {
                let message = format!("{} must be without \"{part}\", not \"{text}\"", self.name);
                return Err(self.error(message));
            }
            path.push(part);
        }
        Ok(At::new(path, self.span.clone()))
    }

    /// The elements of a list.
    pub(crate) fn elements(&self) -> Result<Vec<Value<'a>>, SpecError> {
        let list = self.value.as_array().ok_or_else(|| self.must_be_a_list())?;
        let name = format!("each value of {}", self.name);
        let element = |value: &'a toml::Spanned<DeValue<'a>>| Value {
            name: name.clone(),
            example: self.example,
            value: value.get_ref(),
            span: value.span(),
        };
        Ok(list.iter().map(element).collect())
    }

    /// The table that this is; `what` is what it is called when it lacks a key.
    pub(crate) fn table(&self, what: &str, problems: &'a Problems) -> Result<Table<'a>, SpecError> {
        let map = self.value.as_table().ok_or_else(|| self.must_be("a table"))?;
        let prefix =
            format!("{}.", self.name.trim_start_matches("each value of ").trim_matches('`'));
        Ok(Table::new(what, prefix, map, self.span.clone(), problems))
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
