//! What only the host itself can say about a spec: whether what it names is there.
//!
//! The questions are a trait, so that this crate asks nothing of the system.

use std::path::Path;

use crate::errors::SpecError;
use crate::model::{Kind, Model, Packets, Space};
use crate::plan::{Adoption, Root};
use crate::reader::{At, Problems};
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
    for portspace in model.portspaces().filter(|portspace| portspace.is_on(host)) {
        space(&portspace.space, facts, problems);
        if let Some(packets) = &portspace.watch.packets {
            interfaces(packets, facts, problems);
        }
    }
    for server in model.servers.iter().filter(|server| server.is_on(host)) {
        match &server.kind {
            Kind::Space(it) => space(&it.space, facts, problems),
            Kind::Adopted(At { value: Adoption::Directory(directory), span }) => {
                if !facts.is_directory(directory) {
                    problems.add(no_directory(span.clone(), directory));
                }
            }
            // Units, containers and processes come and go; `status` says what is there.
            Kind::Adopted(_) | Kind::Unreadable => {}
        }
    }
}

fn space(space: &Space, facts: &dyn Facts, problems: &Problems) {
    root_and_command(space, facts, problems);
    start_directory(space, facts, problems);
    mounts(space, facts, problems);
}

fn root_and_command(space: &Space, facts: &dyn Facts, problems: &Problems) {
    let root = &space.root;
    if let Root::Directory(directory) = &root.value
        && !facts.is_directory(directory)
    {
        let error = no_directory(root.span.clone(), directory);
        problems.add(error.help("make it, for example with mmdebstrap(1)"));
        // Whether the command is in it cannot be said.
        return;
    }
    let Some(command) = space.command.first() else { return };
    let mounted = in_a_mount(space, Path::new(&command.value));
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
fn start_directory(space: &Space, facts: &dyn Facts, problems: &Problems) {
    let directory = &space.directory;
    let here = space.root.value == Root::Base && !in_a_mount(space, &directory.value);
    if here && !facts.is_directory(&directory.value) {
        problems.add(no_directory(directory.span.clone(), &directory.value));
    }
}

/// Whether a path inside is one of the host's that is mounted there, and so not in the root.
fn in_a_mount(space: &Space, path: &Path) -> bool {
    space.mounts.iter().any(|mount| path.starts_with(&mount.value.to))
}

fn mounts(space: &Space, facts: &dyn Facts, problems: &Problems) {
    for mount in space.mounts.iter().filter(|mount| !facts.exists(&mount.value.from)) {
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
