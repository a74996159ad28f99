//! What this kernel and machine offer: each thing is tried, in short-lived threads, processes and
//! namespaces of its own, and nothing of the machine is changed. (The kernel may load a module that
//! was asked for, and keeps it.)

mod cgroups;
mod files;
mod kernel;
mod machine;
mod network;
mod packets;
mod servers;
mod syscalls;

use std::io;

use serde::Serialize;

use crate::layout::Layout;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether portspaces can be made here.
    pub fit: bool,
    /// What was looked at, in an order to read.
    pub rows: Vec<Row>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What needs it.
    pub part: Part,
    /// What it is.
    pub what: &'static str,
    /// How it is here.
    pub state: State,
    /// Whether there can be no portspaces without it.
    pub essential: bool,
    /// What was seen, or why there is none.
    pub detail: String,
    /// What does not work, or works less well, for want of it.
    pub cost: Option<String>,
    /// What would mend it: a kernel option, a version, a package, a setting.
    pub mend: Option<String>,
}

/// The parts of HyperSpector that have needs of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The machine as a whole.
    Machine,
    /// Portspaces, whatever they watch.
    Portspaces,
    /// File windows.
    Files,
    /// Packet windows.
    Packets,
    /// Windows on system calls.
    Syscalls,
    /// The VPNs.
    Vpn,
    /// Server spaces.
    Servers,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There, as it should be.
    Good,
    /// There in part, or replaced by something less good.
    Degraded,
    /// Not there.
    Missing,
}

/// What the want of a thing means.
#[derive(Clone, Copy, Debug)]
struct Want {
    state: State,
    essential: bool,
    cost: &'static str,
    mend: &'static str,
}

impl Want {
    /// There can be no portspaces without it.
    const fn essential(mend: &'static str) -> Self {
        let cost = "no portspace can be made";
        Self { state: State::Missing, essential: true, cost, mend }
    }

    /// Something cannot be had without it.
    const fn missing(cost: &'static str, mend: &'static str) -> Self {
        Self { state: State::Missing, essential: false, cost, mend }
    }

    /// Something is less good without it.
    const fn degraded(cost: &'static str, mend: &'static str) -> Self {
        Self { state: State::Degraded, essential: false, cost, mend }
    }
}

impl Row {
    /// A thing that is as it should be.
    fn good(part: Part, what: &'static str, detail: impl Into<String>) -> Self {
        let (state, detail) = (State::Good, detail.into());
        Self { part, what, state, essential: false, detail, cost: None, mend: None }
    }

    /// A thing that is not, for the reason in `detail`.
    fn wanting(part: Part, what: &'static str, detail: impl Into<String>, want: Want) -> Self {
        let Want { state, essential, cost, mend } = want;
        let (cost, mend) = (Some(cost.to_owned()), Some(mend.to_owned()));
        Self { part, what, state, essential, detail: detail.into(), cost, mend }
    }

    /// A thing that was tried: what was seen, or why it could not be.
    fn tried<D: Into<String>>(
        part: Part,
        what: &'static str,
        result: Result<D, String>,
        want: Want,
    ) -> Self {
        match result {
            Ok(detail) => Self { essential: want.essential, ..Self::good(part, what, detail) },
            Err(why) => Self::wanting(part, what, why, want),
        }
    }

    fn prevents_portspaces(&self) -> bool {
        self.essential && self.state == State::Missing
    }
}

/// Tries everything, for an agent with these directories, which need not be there. The caller must
/// be root.
pub fn examine(layout: &Layout) -> Report {
    let parts = [
        machine::rows(),
        kernel::rows(),
        cgroups::rows(),
        files::rows(&layout.state),
        packets::rows(),
        syscalls::rows(),
        network::rows(),
        servers::rows(),
    ];
    let mut rows: Vec<Row> = parts.into_iter().flatten().collect();
    // Stable: within a part, things stay in the order in which they were tried.
    rows.sort_by_key(|row| row.part as u8);
    Report { fit: !rows.iter().any(Row::prevents_portspaces), rows }
}

/// An error in the words of ours.
fn text(error: impl Into<io::Error>) -> String {
    hyperspector_sys::errno::text(&error.into())
}

/// Runs `work` in a thread of its own, which takes what it did to itself with it.
fn in_thread<R: Send>(work: impl FnOnce() -> Result<R, String> + Send) -> Result<R, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("doctor".into()).spawn_scoped(scope, work);
        let ended = thread.map_err(text)?.join();
        ended.unwrap_or_else(|_| Err("the thread that tried it panicked".into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_want_of_an_essential_thing_prevents_portspaces() {
        let row = |result: Result<&str, &str>, want| {
            let result = result.map_err(str::to_owned);
            Row::tried(Part::Portspaces, "x", result, want).prevents_portspaces()
        };
        assert!(row(Err("no"), Want::essential("y")));
        assert!(!row(Ok("yes"), Want::essential("y")));
        assert!(!row(Err("no"), Want::missing("x", "y")));
    }

    #[test]
    fn what_is_good_has_no_cost() {
        let row = Row::tried(Part::Vpn, "x", Ok("fine"), Want::degraded("slow", "newer"));
        assert_eq!((row.state, row.cost, row.mend), (State::Good, None, None));
    }

    #[test]
    fn a_thread_that_panics_is_an_answer() {
        assert!(in_thread::<()>(|| panic!("on purpose")).is_err());
    }
}
