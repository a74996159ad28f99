//! `[server.NAME]`: what is watched.

use crate::errors::SpecError;
use crate::model::Server;
use crate::plan::Adoption;
use crate::reader::{At, Table, Value};

use super::ON;

const DIRECTORY: &str = "directory = \"/srv/www\"";
const ADOPT: &str = "adopt = \"base\"";
const MASK: &str = "mask = [\"private\"]";
const INSTEAD: &str = "a server is `directory = \"/srv/www\"` or `adopt = \"base\"` so far";

pub(super) fn read(name: At<String>, mut table: Table<'_>) -> Server {
    if name.value == "base" {
        let error = SpecError::new(name.span.clone(), "a server cannot be called `base`")
            .help("`base` is always there and stands for the base system; choose another name");
        table.problems().add(error);
    }
    table.not_yet("command", INSTEAD);
    table.not_yet("ports", INSTEAD);
    table.require("on", ON);
    let on = table.names("on", ON);
    let source = source(&name, &mut table);
    let mask = table.list("mask", MASK, Value::part_of_tree);
    table.finish();
    Server { name, on, source, mask: mask.into_iter().map(|path| path.value).collect() }
}

/// Where its files are: one of `adopt` and `directory`.
fn source(name: &At<String>, table: &mut Table<'_>) -> Option<At<Adoption>> {
    let adopted = table.value("adopt", ADOPT);
    let directory = table.value("directory", DIRECTORY);
    let problems = table.problems();
    match (adopted, directory) {
        (Some(adopted), None) => problems.keep(adopt(&adopted)),
        (None, Some(value)) => problems.keep(in_directory(&value)),
        (Some(adopted), Some(_)) => {
            let message = format!("server `{}` has both `adopt` and `directory`", name.value);
            problems.add(SpecError::new(adopted.span, message).help("take one of them out"));
            None
        }
        (None, None) => {
            // A server of a kind to come has had its error.
            if !table.has_any(&["command", "ports"]) {
                let message = format!("server `{}` does not say what it is", name.value);
                problems.add(SpecError::new(table.span.clone(), message).help(INSTEAD));
            }
            None
        }
    }
}

fn adopt(value: &Value<'_>) -> Result<At<Adoption>, SpecError> {
    if value.is_string() && value.string()?.value == "base" {
        return Ok(At::new(Adoption::Base, value.span.clone()));
    }
    let message = "this version can adopt nothing but \"base\" yet";
    Err(SpecError::new(value.span.clone(), message).help(INSTEAD))
}

fn in_directory(value: &Value<'_>) -> Result<At<Adoption>, SpecError> {
    let path = value.path()?;
    if path.value.as_os_str() == "/" {
        let message = "`directory` cannot be \"/\"";
        return Err(SpecError::new(path.span, message)
            .help("the base system is a server of its own kind: adopt = \"base\""));
    }
    Ok(At::new(Adoption::Directory(path.value), path.span))
}
