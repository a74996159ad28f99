//! What can be asked of the agent over its control socket, by root alone: a closed, typed table.
//!
//! One request for each connection; the agent answers with any number of [`Answer::Progress`] and
//! one answer of another kind.

use hyperspector_spec::plan::HostPlan;
use serde::{Deserialize, Serialize};

use crate::layout::SpaceName;
use crate::status::HostStatus;

/// A request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Make the host equal to this plan.
    Apply(Box<HostPlan>),
    /// Tell how things are.
    Status,
    /// Take everything down and end.
    Down {
        /// Remove what lasts too: upper layers, logs, keys, id ranges.
        purge: bool,
    },
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// What is being done, for people.
    Progress(String),
    /// The plan was applied, as far as each space came up.
    Applied(Vec<Outcome>),
    /// How things are.
    Status(Box<HostStatus>),
    /// Everything is down.
    Down,
    /// It could not be done.
    Failed(String),
}

/// What became of one space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which one.
    pub name: SpaceName,
    /// What was done to it.
    pub done: Done,
    /// Why it does not run, where it does not, with the last lines that it printed.
    pub failure: Option<Failure>,
}

/// What was done to a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Done {
    /// It was made.
    Started,
    /// It was taken down and made again.
    Restarted,
    /// It goes on as it was.
    Kept,
    /// Its limits were changed while it runs.
    Limited,
    /// What it may use and reach was changed while it runs.
    Changed,
    /// It was taken down.
    Removed,
}

/// Why a space does not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The reason.
    pub reason: String,
    /// The last lines of its log, as they are: to be escaped before anybody sees them.
    pub last_lines: Vec<String>,
}
