//! What the agent writes down of what it has made, so that the next agent can adopt or remove it.

use std::collections::BTreeMap;

use hyperspector_space::config::Enforced;
use hyperspector_spec::plan::{PortspacePlan, ServerSpacePlan, VpnPlan};
use hyperspector_vpn::backend::Handle;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::layout::{Layout, SpaceName};
use crate::process::ProcessId;
pub use crate::processes::Shown;
pub use crate::watch::Watched;

/// What is known of any space.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpaceRecord {
    /// Its init.
    pub init: ProcessId,
    /// What keeps it shut.
    pub enforced: Enforced,
    /// Which limits could not be put in place, with the reason.
    pub limits_missing: Vec<String>,
    /// Protections that it does not have and that the spec lets it go without, with the reason.
    #[serde(default)]
    pub missing: Vec<String>,
    /// When it was made, in milliseconds since 1970.
    pub since: u64,
    /// How often it was made again, by the restart policy `clean` or since its init had ended.
    pub renewals: u64,
}

/// A portspace on this host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortspaceRecord {
    /// What it was made from.
    pub plan: PortspacePlan,
    /// What it is, as any space.
    #[serde(flatten)]
    pub space: SpaceRecord,
    /// Its broker, where it has one.
    pub broker: Option<ProcessId>,
    /// The interfaces of the host that it watches.
    #[serde(default)]
    pub watched: Vec<Watched>,
    /// What shows of servers' processes, by server.
    #[serde(default)]
    pub processes: BTreeMap<String, Shown>,
    /// The ranges of ids of server spaces that are mapped into it.
    #[serde(default)]
    pub ranges: Vec<u32>,
}

/// A server space on this host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerSpaceRecord {
    /// What it was made from.
    pub plan: ServerSpacePlan,
    /// What it is, as any space.
    #[serde(flatten)]
    pub space: SpaceRecord,
}

/// A HyperSpector's VPN on this host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VpnRecord {
    /// What it was made from.
    pub plan: VpnPlan,
    /// How to find it.
    pub handle: Handle,
}

/// What is written down of any space, and how many seconds it has to end after being asked to.
pub(crate) fn known(layout: &Layout, name: &SpaceName) -> Option<(SpaceRecord, u32)> {
    let path = layout.space(name).record();
    match name {
        SpaceName::Server(_) => {
            let record: ServerSpaceRecord = files::load(&path)?;
            Some((record.space, record.plan.space.stop_grace))
        }
        SpaceName::Portspace(_) => {
            let record: PortspaceRecord = files::load(&path)?;
            Some((record.space, record.plan.space.stop_grace))
        }
    }
}
