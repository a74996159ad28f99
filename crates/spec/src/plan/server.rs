//! Servers: what is watched, and how it comes to run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Ports, SpacePlan};

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerPlan {
    /// Its name.
    pub name: String,
    /// Absolute paths, as the server sees them, that every window on it hides.
    pub mask: Vec<PathBuf>,
    /// How it comes to run.
    pub kind: ServerKind,
}

/// How a server comes to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerKind {
    /// In a server space of ours.
    Space(Box<ServerSpacePlan>),
    /// By somebody else's doing: it is found, and left as it is.
    Adopted(Adoption),
}

/// How a server that is not ours is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Adoption {
    /// The base system: the host's whole tree and all its processes.
    Base,
    /// A directory of the host: files alone, no processes.
    Directory(PathBuf),
    /// A systemd unit, with its suffix: `nginx.service`.
    Unit(String),
    /// A container of Docker, Podman, containerd, CRI-O, runc or crun, by name or id.
    Container(String),
    /// A cgroup, relative to the hierarchies' roots, without a leading `/`.
    Cgroup(PathBuf),
    /// The process whose id is in this file, and its descendants.
    PidFile(PathBuf),
}

/// A server space: like a portspace, but on the host's network, with only its registered ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSpacePlan {
    /// What it is made of.
    pub space: SpacePlan,
    /// The ports that it may bind.
    pub ports: Vec<Ports>,
    /// Services on the host's loopback addresses that it may not reach.
    pub deny: Vec<Ports>,
}
