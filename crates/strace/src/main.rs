//! `hyperspector-strace`: prints, in a portspace, the system calls of a server that it watches.

mod cli;
mod output;
mod print;
mod signals;
mod source;
mod wanted;
mod zone;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use hyperspector_syscalls::decode::Event;

use crate::cli::Cli;
use crate::output::{Output, Rotation};
use crate::print::{Choice, Form, Printer};
use crate::source::{News, Source};
use crate::wanted::{Wanted, Wrong};

/// How long is waited at once: a signal that comes between looking and waiting waits that long.
const PATIENCE: Duration = Duration::from_millis(200);

/// Why it ends.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Wrong(#[from] Wrong),
    #[error(transparent)]
    Source(#[from] source::Failure),
    #[error("open {0}: {1}")]
    Open(String, #[source] io::Error),
    #[error("write: {0}")]
    Write(#[source] io::Error),
    #[error("heed signals: {0}")]
    Signals(#[source] io::Error),
}

const WRONG: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough.
        Err(Failure::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("hyperspector-strace: {error}");
            ExitCode::from(if matches!(error, Failure::Wrong(_)) { WRONG } else { 1 })
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let wanted = Wanted::new(cli)?;
    let choice = choice(cli, &wanted);
    let mut source = Source::new(&cli.sockets, cli.server.as_deref(), wanted.request, cli.wait)?;
    let output = match &cli.output {
        None => Output::standard(),
        Some(path) => to_file(cli, path, wanted.rotation)
            .map_err(|error| Failure::Open(path.display().to_string(), error))?,
    };
    signals::note_them().map_err(Failure::Signals)?;
    let mut printer = Printer::new(choice, output);
    // Children may outlive them, and go on to be traced.
    let alive = (!cli.follow).then(|| cli.pids.iter().copied().collect());
    follow(&mut source, &mut printer, alive)?;
    let lost = printer.end().map_err(Failure::Write)?;
    if lost > 0 {
        eprintln!("hyperspector-strace: {lost} lines were lost: nobody read the FIFO in time");
    }
    Ok(())
}

fn to_file(cli: &Cli, path: &Path, rotation: Option<Rotation>) -> io::Result<Output> {
    match cli.fifo {
        true => Output::fifo(path),
        false => Output::file(path, cli.append, rotation),
    }
}

fn choice(cli: &Cli, wanted: &Wanted) -> Choice {
    Choice {
        form: match (cli.json, cli.audit) {
            (true, _) => Form::Json,
            (_, true) => Form::Audit,
            _ => Form::Strace,
        },
        style: wanted.style,
        calls: !cli.count,
        summary: (cli.count || cli.count_too).then(|| cli.sort.into()),
        ends: cli.quiet == 0,
    }
}

/// Prints what comes until a signal comes, or the last of these processes has ended.
fn follow(
    source: &mut Source,
    printer: &mut Printer,
    mut alive: Option<BTreeSet<u32>>,
) -> Result<(), Failure> {
    while !signals::have_come() {
        while let Some(record) = source.record()? {
            let event = printer.take(record).map_err(Failure::Write)?;
            let (Some(alive), Some(Event::End { pid, tid, own, .. })) = (&mut alive, event) else {
                continue;
            };
            let named = if own[0] == 0 { pid } else { own[0] };
            if tid == pid && alive.remove(&named) && alive.is_empty() {
                return Ok(());
            }
        }
        printer.flush().map_err(Failure::Write)?;
        if let News::Back { since } = source.wait(PATIENCE)? {
            printer.is_back(since);
        }
    }
    Ok(())
}
