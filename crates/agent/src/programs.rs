//! Programs of ours in portspaces, in `/.hyperspector`.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use hyperspector_spec::plan::PortspacePlan;
use hyperspector_window::changes::view;

use crate::error::{Doing, Error};

/// The program that reads journals.
const CHANGES: &str = "hyperspector-changes";
/// The program that reads system calls.
pub(crate) const STRACE: &str = "hyperspector-strace";

/// Shows what a portspace's windows need, before its command runs.
pub(crate) fn show(plan: &PortspacePlan, init: i32) -> Result<(), Error> {
    let windows = &plan.windows;
    let needed = [(CHANGES, windows.changes.is_empty()), (STRACE, windows.syscalls.is_empty())];
    let names = needed.into_iter().filter_map(|(name, is_idle)| (!is_idle).then_some(name));
    let doing = || format!("show {} the programs for its windows", plan.name);
    let programs: Vec<(&str, PathBuf)> = names
        .map(|name| Ok((name, program(name)?)))
        .collect::<Result<_, String>>()
        .map_err(|why| Error::new(doing(), why))?;
    if programs.is_empty() {
        return Ok(());
    }
    let mounts = File::open(format!("/proc/{init}/ns/mnt")).doing(doing)?;
    view::show_programs(mounts.as_fd(), &programs).doing(doing)
}

/// A program's file: beside our own.
fn program(name: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("find our own program: {error}"))?;
    beside(&own, name)
}

/// A program's file beside `own`; else what would be right.
fn beside(own: &Path, name: &str) -> Result<PathBuf, String> {
    let path = own.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(format!(
        "{} is missing: it has to be in the same directory as the program that runs here; \
         `tools/build` makes all of them",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_missing_is_told_with_what_would_be_right() {
        let home = tempfile::tempdir().unwrap();
        let own = home.path().join("hyperspector");
        let text = beside(&own, CHANGES).unwrap_err();
        let place = home.path().join(CHANGES);
        assert!(text.starts_with(&place.display().to_string()), "{text}");
        assert!(text.contains("tools/build"), "{text}");
        std::fs::write(&place, "").unwrap();
        assert_eq!(beside(&own, CHANGES).unwrap(), place);
    }
}
