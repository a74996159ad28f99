//! `hyperspector up`: this host made equal to a spec.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hyperspector_agent::client;
use hyperspector_agent::layout::{Layout, private_dir};
use hyperspector_agent::lock;
use hyperspector_agent::logs::Follow;
use hyperspector_agent::protocol::{Answer, Done, Outcome, Request};
use hyperspector_spec::plan::HostPlan;

use super::{agent, logs, spec};
use crate::cli::{Exit, Global};
use crate::terminal::{BAD, FAINT, GOOD, Progress, escape, styled};

/// How long another agent may take to start, or to end.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often the logs are looked at.
const STEP: Duration = Duration::from_millis(100);

pub fn run(global: &Global, path: &Path, detach: bool) -> Result<ExitCode> {
    let Some(read) = spec::read(path)? else { return Ok(Exit::Usage.into()) };
    let host = global.host();
    let Some(plan) = read.plan(&host) else { return Ok(Exit::Usage.into()) };
    if !read.verify(&host) {
        return Ok(Exit::Usage.into());
    }
    read.show_notes();
    let layout = global.layout()?;
    let interrupted = (!detach).then(crate::interrupts::Interrupts::take).transpose()?;
    let outcomes = apply(&layout, plan)?;
    show(&outcomes);
    let exit = exit(&outcomes);
    match interrupted {
        Some(interrupts) => {
            follow_until_interrupted(&layout, &outcomes, &interrupts).map(|()| exit)
        }
        None => Ok(exit),
    }
    .map(Into::into)
}

/// Has the agent apply `plan`, starting one where none runs.
pub fn apply(layout: &Layout, plan: HostPlan) -> Result<Vec<Outcome>> {
    let progress = Progress::new(false);
    let request = Request::Apply(Box::new(plan));
    let ask = || client::ask(layout, &request, |text| progress.step(text));
    let deadline = Instant::now() + PATIENCE;
    let mut answer = ask()?;
    while answer.is_none() {
        // Another `up` may have started one just now, or a `down` may not be through yet.
        let is_held = || lock::holder(layout).is_some();
        let was_held = is_held();
        if let Err(error) = start_agent(layout)
            && (!(was_held || is_held()) || Instant::now() > deadline)
        {
            return Err(error);
        }
        answer = ask()?;
        if answer.is_none() && Instant::now() > deadline {
            break;
        }
    }
    match answer {
        Some(Answer::Applied(outcomes)) => Ok(outcomes),
        _ => bail!("the agent went away; its messages are in {}", layout.agent_log().display()),
    }
}

/// Starts the agent as a process of its own, and waits until it listens.
fn start_agent(layout: &Layout) -> Result<()> {
    // A `down --purge` that was not through yet may have taken it.
    private_dir(&layout.state).with_context(|| format!("make {}", layout.state.display()))?;
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(layout.agent_log())
        .with_context(|| format!("open {}", layout.agent_log().display()))?;
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command
        .arg("--state-dir")
        .arg(&layout.state)
        .arg("--run-dir")
        .arg(&layout.run)
        .arg("agent")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    // SAFETY: the closure makes only async-signal-safe system calls and allocates nothing.
    unsafe { command.pre_exec(on_its_own) };
    let mut child = command.spawn().context("start the agent")?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line).context("hear from the agent")?;
    }
    if line.trim() != agent::READY {
        let _ = child.wait();
        let log = std::fs::read_to_string(layout.agent_log()).unwrap_or_default();
        bail!("the agent did not start: {}", log.lines().last().unwrap_or("it said nothing"));
    }
    Ok(())
}

/// In the agent to be: a session of its own, and nothing that the caller's shell had open.
fn on_its_own() -> std::io::Result<()> {
    rustix::process::setsid()?;
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: close_range takes integers, and with CLOEXEC only marks descriptors.
    let result = unsafe { libc::close_range(3, u32::MAX, flags) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Shows what became of each space.
pub fn show(outcomes: &[Outcome]) {
    for outcome in outcomes {
        let name = outcome.name.to_string();
        match &outcome.failure {
            None => {
                let done = match outcome.done {
                    Done::Started => "started",
                    Done::Restarted => "restarted",
                    Done::Kept => "unchanged",
                    Done::Limited => "limits changed",
                    Done::Changed => "changed",
                    Done::Removed => "removed",
                };
                anstream::eprintln!("{} {name} {}", styled(GOOD, "✓"), styled(FAINT, done));
            }
            Some(failure) => {
                let reason = escape(&failure.reason);
                anstream::eprintln!("{} {name}: {reason}", styled(BAD, "✗"));
                for line in &failure.last_lines {
                    anstream::eprintln!("    {} {}", styled(FAINT, "|"), escape(line));
                }
            }
        }
    }
}

/// How `up` ends.
pub fn exit(outcomes: &[Outcome]) -> Exit {
    if outcomes.iter().any(|outcome| outcome.failure.is_some()) { Exit::Partly } else { Exit::Fine }
}

/// Prints the logs of all spaces as they come, until Ctrl-C; then takes everything down.
fn follow_until_interrupted(
    layout: &Layout,
    outcomes: &[Outcome],
    interrupts: &crate::interrupts::Interrupts,
) -> Result<()> {
    anstream::eprintln!(
        "{}",
        styled(FAINT, "following the logs; Ctrl-C takes everything down (up -d leaves it running)")
    );
    let mut all: BTreeMap<String, Follow> = outcomes
        .iter()
        .filter(|outcome| outcome.done != Done::Removed)
        .map(|one| (one.name.to_string(), Follow::new(layout.space(&one.name).logs())))
        .collect();
    while !interrupts.came_within(STEP) {
        for (name, follow) in &mut all {
            for line in follow.more().unwrap_or_default() {
                logs::print(Some(name), &line);
            }
        }
    }
    super::down::take_down(layout, false)
}
