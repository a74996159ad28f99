//! The steps of making and ending a space.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hyperspector_space::launch::{Building, Launched};
use hyperspector_spec::plan::{HyperspectorPlan, PortspacePlan, ServerSpacePlan, SpacePlan};
use hyperspector_window::sockets::place::worker::Places;

use crate::build::{Begun, Portspace};
use crate::error::Error;
use crate::helper::Reply;
use crate::servers::ServerSpace;
use crate::servers::space as server;
use crate::views::FIRST_PATIENCE;

/// How long the file systems that a space is made of may take to be looked at, and the processes that it is
/// to see. What could not be made is tried again, when a mount that is made on demand is there.
const LOOKING: Duration = Duration::from_secs(3);
/// How long the builder may take for each of its two processes.
pub(super) const BUILDING: Duration = Duration::from_secs(30);
/// How long a server space's command waits for its sockets.
const PLACING: Duration = Duration::from_secs(2);
/// When those who wait are told what for.
const TOLD: Duration = Duration::from_secs(2);

/// What a space is made from.
pub(crate) enum What {
    /// A server space.
    Server(Box<ServerSpacePlan>),
    /// A portspace, and what it is a part of.
    Portspace(Box<HyperspectorPlan>, Box<PortspacePlan>),
}

impl What {
    /// What is common to both.
    pub(super) fn space(&self) -> &SpacePlan {
        match self {
            Self::Server(plan) => &plan.space,
            Self::Portspace(_, plan) => &plan.space,
        }
    }
}

/// A space that is being made or ended.
pub(crate) struct Making {
    /// `None` for one that ends for good.
    pub(super) what: Option<What>,
    /// How often it was made again, this time included.
    pub(super) renewals: u64,
    pub(super) step: Step,
    /// When the step began.
    since: Instant,
}

/// What is being done, and what was done before that.
pub(super) enum Step {
    /// What there is of it ends; `None` where there was nothing.
    Ending(Option<JoinHandle<Result<(), Error>>>),
    /// What it is made of is looked at.
    Looking(Reply<Places>),
    /// A server space's builder works.
    BuildingServer(Box<server::Begun>, Building),
    /// A portspace's builder works.
    BuildingPortspace(Box<Begun>, Building),
    /// A server space gets its sockets before its command runs.
    Placing(Box<ServerSpace>, Box<Launched>),
    /// A portspace gets its views before its command runs.
    Showing(Box<Portspace>, Box<Launched>),
}

impl Step {
    /// What is waited for, for people.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Ending(_) => "what ran of it ends",
            Self::Looking(_) => "the file systems that it is made of are looked at",
            Self::BuildingServer(..) | Self::BuildingPortspace(..) => "its root is built",
            Self::Placing(..) => "its sockets are put in their places",
            Self::Showing(..) => "what it watches is shown to it",
        }
    }

    /// How long is waited before it fails, or goes on without.
    fn patience(&self) -> Duration {
        match self {
            // It ends by itself.
            Self::Ending(_) => Duration::MAX,
            Self::Looking(_) => LOOKING,
            Self::BuildingServer(..) | Self::BuildingPortspace(..) => BUILDING,
            Self::Placing(..) => PLACING,
            Self::Showing(..) => FIRST_PATIENCE,
        }
    }
}

impl Making {
    /// One that begins with a step.
    pub(super) fn at(what: Option<What>, renewals: u64, step: Step) -> Self {
        Self { what, renewals, step, since: Instant::now() }
    }

    /// What it is made from, where it is a portspace.
    pub(crate) fn portspace(&self) -> Option<&PortspacePlan> {
        match self.what.as_ref()? {
            What::Server(_) => None,
            What::Portspace(_, plan) => Some(plan),
        }
    }

    /// The init of a portspace that is being shown things.
    pub(crate) fn shown(&self) -> Option<i32> {
        match &self.step {
            Step::Showing(portspace, _) => Some(portspace.init.id.pid),
            _ => None,
        }
    }

    /// What is waited for, where that takes long.
    pub(crate) fn waits(&self) -> Option<&'static str> {
        (self.since.elapsed() >= TOLD).then(|| self.step.describe())
    }

    /// Whether the time of the step is over.
    pub(super) fn is_late(&self) -> bool {
        self.since.elapsed() >= self.step.patience()
    }
}
