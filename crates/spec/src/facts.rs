//! What only the host itself can say about a spec: whether what it names is there.
//!
//! The questions are a trait, so that this crate asks nothing of the system.

use std::path::Path;

use crate::errors::SpecError;
use crate::model::{Model, Packets, Portspace};
use crate::plan::{Adoption, Root};
use crate::reader::Problems;
use crate::words::suggest;

/// What is there on a host.
pub trait Facts {
    /// Whether `command` is a program in `root`: a bare name along `PATH`, or an absolute path.
    fn is_command(&self, root: &Root, command: &str) -> bool;
    /// Whether the host has this network interface.
    fn has_interface(&self, name: &str) -> bool;
    /// The host's network interfaces, for the text of an error.
    fn interfaces(&self) -> Vec<String>;
    /// Whether this path of the host is a directory.
    fn is_directory(&self, path: &Path) -> bool;
    /// Whether there is anything at this path of the host.
    fn exists(&self, path: &Path) -> bool;
}

/// Notes what `host` needs and does not have.
pub(crate) fn verify(model: &Model, host: &str, facts: &dyn Facts, problems: &Problems) {
    let portspaces = model.hyperspectors.iter().flat_map(|h| &h.portspaces);
    for portspace in portspaces.filter(|portspace| portspace.is_on(host)) {
        root_and_command(portspace, facts, problems);
        start_directory(portspace, facts, problems);
        mounts(portspace, facts, problems);
        if let Some(packets) = &portspace.packets {
            interfaces(packets, facts, problems);
        }
    }
    for server in &model.servers {
        let Some(source) = &server.source else { continue };
        let Adoption::Directory(directory) = &source.value else { continue };
        if server.on.iter().any(|on| on.value == host) && !facts.is_directory(directory) {
            problems.add(no_directory(source.span.clone(), directory));
        }
    }
}

fn root_and_command(portspace: &Portspace, facts: &dyn Facts, problems: &Problems) {
    let root = &portspace.root;
    if let Root::Directory(directory) = &root.value
        && !facts.is_directory(directory)
    {
        let error = no_directory(root.span.clone(), directory);
        problems.add(error.help("make it, for example with mmdebstrap(1)"));
        // Whether the command is in it cannot be said.
        return;
    }
    let Some(command) = portspace.command.first() else { return };
    let mounted = in_a_mount(portspace, Path::new(&command.value));
    if !mounted && !facts.is_command(&root.value, &command.value) {
        let shown = match &root.value {
            Root::Base => "/".into(),
            Root::Directory(directory) => directory.display().to_string(),
        };
        let message = format!("command `{}` is not in the root {shown}", command.value);
        let help = "install it there, or write its absolute path as seen from inside";
        problems.add(SpecError::new(command.span.clone(), message).help(help));
    }
}

/// Only the base system's can be checked from outside: links in another root lead elsewhere.
fn start_directory(portspace: &Portspace, facts: &dyn Facts, problems: &Problems) {
    let directory = &portspace.directory;
    let here = portspace.root.value == Root::Base && !in_a_mount(portspace, &directory.value);
    if here && !facts.is_directory(&directory.value) {
        problems.add(no_directory(directory.span.clone(), &directory.value));
    }
}

/// Whether a path inside is one of the host's that is mounted there, and so not in the root.
fn in_a_mount(portspace: &Portspace, path: &Path) -> bool {
    portspace.mounts.iter().any(|mount| path.starts_with(&mount.value.to))
}

fn mounts(portspace: &Portspace, facts: &dyn Facts, problems: &Problems) {
    for mount in portspace.mounts.iter().filter(|mount| !facts.exists(&mount.value.from)) {
        let message = format!("{} is not there", mount.value.from.display());
        problems.add(SpecError::new(mount.span.clone(), message));
    }
}

fn interfaces(packets: &Packets, facts: &dyn Facts, problems: &Problems) {
    for interface in packets.interfaces.iter().filter(|i| !facts.has_interface(&i.value)) {
        let there = facts.interfaces();
        let there: Vec<_> = there.iter().map(String::as_str).collect();
        let message = format!("interface `{}` is not there", interface.value);
        let mut help = suggest(&interface.value, "interfaces here", &there);
        if help.starts_with("did") {
            help = format!("{help} interfaces here: {}", there.join(", "));
        }
        problems.add(SpecError::new(interface.span.clone(), message).help(help));
    }
}

fn no_directory(span: crate::errors::Span, directory: &Path) -> SpecError {
    SpecError::new(span, format!("directory {} is not there", directory.display()))
}
