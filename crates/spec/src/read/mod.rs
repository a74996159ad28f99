//! From text to the model: one file for each kind of section.

pub(crate) use hyperspector::{DEFAULT_PORT, overlap};

mod adopt;
mod allow;
mod host;
mod hyperspector;
mod mount;
mod ports;
mod portspace;
mod server;
mod sockets;
mod space;
mod syscalls;
mod watch;

use std::collections::BTreeMap;

use toml::de::DeTable;

use crate::errors::SpecError;
use crate::model::Model;
use crate::reader::{Problems, Table};

const HOST: &str = "[host.web1]";
const SERVER: &str = "[server.site]";
const HYPERSPECTOR: &str = "[hyperspector.alpha]";
const PORTSPACE: &str = "[hyperspector.alpha.portspace.nids]";
const ON: &str = "on = [\"web1\"]";

/// Directories that HyperSpector makes or fills inside every space.
const OURS: [&str; 8] = [
    "/proc",
    "/sys",
    "/dev",
    "/.serverfs",
    "/.dserverfs",
    "/.serverproc",
    "/.servertrace",
    "/.hyperspector",
];

/// Reads a file. What could be read is returned whatever is noted in `problems`; where the text is
/// not TOML, that is nothing.
pub(crate) fn read(text: &str, problems: &Problems) -> Option<Model> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        note_syntax(text, &errors, problems);
        return None;
    }
    let mut file = Table::root(document.get_ref(), problems);
    let hosts = file.sections("host", "host", HOST);
    let servers = file.sections("server", "server", SERVER);
    let hyperspectors = file.sections("hyperspector", "HyperSpector", HYPERSPECTOR);
    file.refuse(
        "portspace",
        "a portspace belongs to a HyperSpector",
        "its section is called [hyperspector.alpha.portspace.nids], for example",
    );
    file.finish();
    Some(Model {
        hosts: hosts.into_iter().map(|(name, table)| host::read(name, table)).collect(),
        servers: servers.into_iter().map(|(name, table)| server::read(name, table)).collect(),
        hyperspectors: hyperspectors
            .into_iter()
            .map(|(name, table)| hyperspector::read(name, table))
            .collect(),
    })
}

/// How many lines with syntax errors are noted: after so many, the file is no spec at all.
const MOST_SYNTAX_ERRORS: usize = 50;

/// Notes the first syntax error of each line: those after it are mostly its consequences.
fn note_syntax(text: &str, errors: &[toml::de::Error], problems: &Problems) {
    let mut lines = BTreeMap::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let line_start = text.get(..span.start).and_then(|before| before.rfind('\n'));
        lines.entry(line_start).or_insert((span, error));
    }
    for (span, error) in lines.into_values().take(MOST_SYNTAX_ERRORS) {
        problems.add(syntax_error(text, error.message(), span));
    }
}

fn syntax_error(text: &str, message: &str, span: std::ops::Range<usize>) -> SpecError {
    let found = text.get(span.clone()).unwrap_or_default();
    // An empty place at the very beginning would stand for the whole file.
    let span = if span == (0..0) { 0..text.len().min(1) } else { span };
    if message == "duplicate key" {
        return SpecError::new(span, format!("`{found}` is here for the second time"))
            .help("each key and each section is written once; merge the two");
    }
    // What the parser expected is a list of its own terms, of use only to who knows TOML's grammar.
    let cause = message.split(", expected").next().unwrap_or(message);
    let error = SpecError::new(span, format!("not TOML: {cause}"));
    match cause {
        "unclosed table" => error.help("a section's header is one line: [host.web1]"),
        "string values must be quoted" | "missing value" | "invalid float" | "invalid integer" => {
            error.help("a string is written in quotes: user = \"root\"")
        }
        "invalid basic string" => {
            error.help("a string ends with a quote on its own line, and writes a backslash as \\\\")
        }
        _ => error,
    }
}
