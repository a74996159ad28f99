//! Reading a spec for a command: every mistake is shown in its place.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::Result;
use hyperspector_agent::machine::Machine;
use hyperspector_spec::plan::HostPlan;
use hyperspector_spec::{Errors, Spec};

use crate::terminal;

/// A spec and its text.
pub struct Read {
    name: String,
    text: String,
    pub spec: Spec,
}

/// Reads the spec at `path`; `None` when it cannot be read or has mistakes, which have been shown.
pub fn read(path: &Path) -> Result<Option<Read>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            terminal::error(&anyhow::anyhow!("read {}: {error}", path.display()));
            return Ok(None);
        }
    };
    let name = path.display().to_string();
    match Spec::parse(&text) {
        Ok(spec) => Ok(Some(Read { name, text, spec })),
        Err(errors) => {
            show(&errors, &name, &text);
            Ok(None)
        }
    }
}

impl Read {
    /// What `host` should have; `None` when it is not in the file, which has been shown.
    pub fn plan(&self, host: &str) -> Option<HostPlan> {
        self.spec.plan(host).inspect_err(|errors| self.show(errors)).ok()
    }

    /// Whether this machine has what `host` needs; what is missing has been shown.
    pub fn verify(&self, host: &str) -> bool {
        self.spec.verify(host, &Machine).inspect_err(|errors| self.show(errors)).is_ok()
    }

    /// Shows what is allowed and worth knowing.
    pub fn show_notes(&self) {
        for note in self.spec.notes() {
            eprintln!("{}\n", note.render_note(&self.name, &self.text, is_coloured()));
        }
    }

    fn show(&self, errors: &Errors) {
        show(errors, &self.name, &self.text);
    }
}

fn show(errors: &Errors, name: &str, text: &str) {
    eprintln!("{}", errors.render(name, text, is_coloured()));
    // One line each, for editors and scripts.
    eprintln!("{}", errors.lines(name, text));
}

fn is_coloured() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
