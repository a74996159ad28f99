//! `hyperspector`: existing intrusion detection systems in a virtual distributed environment of
//! their own.

mod cli;
mod commands;
mod interrupts;
mod terminal;
mod workers;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Before anything else: a worker is another program in the same file.
    if let Some(code) = workers::run_if_asked() {
        return code;
    }
    terminal::end_quietly_on_broken_pipe();
    match commands::run(cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            terminal::error(&error);
            cli::Exit::Failed.into()
        }
    }
}
