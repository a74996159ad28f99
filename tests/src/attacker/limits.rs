//! Using more than what is allowed. Each attempt needs its bound from the command line.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use super::call::sys;
use super::child::{fork, wait};
use super::{Attempt, Targets, Verdict};

const fn attempt(name: &'static str, tests: &'static str, run: fn(&Targets) -> Verdict) -> Attempt {
    Attempt::new("limits", name, tests, run)
}

pub(super) const ATTEMPTS: &[Attempt] = &[
    attempt("limit-processes", "the number of processes: cgroup pids", processes),
    attempt("limit-memory", "memory: cgroup memory", memory),
    attempt("limit-disk", "the file system under the upper layer", fill),
];

/// Forks children that wait, until refused.
fn processes(targets: &Targets) -> Verdict {
    let Some(most) = targets.processes else { return Verdict::error("needs --processes") };
    let mut children = Vec::new();
    let refused = loop {
        if children.len() == most {
            break None;
        }
        match fork(|| {
            loop {
                std::thread::sleep(Duration::from_secs(30));
            }
        }) {
            Ok(child) => children.push(child),
            Err(error) => break Some(error),
        }
    };
    for child in &children {
        let _ = sys!(libc::SYS_kill, *child, libc::SIGKILL);
    }
    for child in &children {
        let _ = wait(*child, Duration::from_secs(5));
    }
    let made = format!("{} children", children.len());
    match refused {
        None => Verdict::possible(made),
        Some(error) => Verdict::of_or::<()>(Err(error), &[libc::EAGAIN, libc::ENOMEM]).on(made),
    }
}

/// Takes memory and writes to it, in a child that may be killed for it.
fn memory(targets: &Targets) -> Verdict {
    let Some(most) = targets.memory else { return Verdict::error("needs --memory") };
    let child = fork(|| {
        let mut kept = Vec::new();
        for _ in 0..most {
            let mut block = vec![0_u8; 1 << 20];
            block.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
            kept.push(std::hint::black_box(block));
        }
        // SAFETY: ends this child without running the parent's exit handlers.
        unsafe { libc::_exit(0) }
    });
    match child.map(|child| wait(child, Duration::from_secs(15))) {
        Err(error) => Verdict::of::<()>(Err(error)),
        Ok(Some(0)) => Verdict::possible(format!("{most} MiB taken")),
        Ok(Some(status)) => Verdict::refused(format!("the child ended with status {status:#x}")),
        Ok(None) => Verdict::refused("the child makes no progress"),
    }
}

/// Writes a file of the wanted size below /tmp.
fn fill(targets: &Targets) -> Verdict {
    let Some(most) = targets.fill else { return Verdict::error("needs --fill") };
    let place = format!("/tmp/hs-attack-fill-{}", std::process::id());
    let written = write_file(&place, most);
    let _ = std::fs::remove_file(&place);
    match written {
        Ok(()) => Verdict::possible(format!("{most} MiB written")),
        Err(error) => Verdict::of_or::<()>(Err(error), &[libc::ENOSPC, libc::EDQUOT]),
    }
}

fn write_file(place: &str, mebibytes: usize) -> io::Result<()> {
    let mut file = File::create(place)?;
    let block = vec![0x5a_u8; 1 << 20];
    (0..mebibytes).try_for_each(|_| file.write_all(&block))?;
    file.sync_all()
}
