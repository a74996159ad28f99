//! `hyperspector-changes`: lists, in a portspace, what changed in a server's tree since the last scan that
//! was completed.

mod output;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use hyperspector_changes::list::{self, Windows};
use hyperspector_changes::mark::Marks;

use crate::output::{Failure, Format};

/// Lists what changed in a server's files since the last scan that was completed.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = HELP)]
struct Cli {
    /// The server, as the spec calls it
    server: String,
    /// Print raw paths, each ended by a NUL
    #[arg(short = '0', long, conflicts_with = "json")]
    null: bool,
    /// Print JSON: how each path changed, and why all is to be scanned where it is
    #[arg(long)]
    json: bool,
    /// Print paths as they are in this portspace, below /.serverfs/SERVER
    #[arg(long)]
    view: bool,
    /// Print only files that are there now, those below moved directories included
    #[arg(long)]
    files: bool,
    /// The scan of what was listed is complete: list what comes from now on the next time
    #[arg(long, conflicts_with_all = ["null", "json", "view", "files"])]
    done: bool,
    /// Whose marks to go by, where several scans of one server each have their own
    #[arg(long, value_name = "NAME")]
    mark: Option<String>,
    /// Where marks are kept: a directory that outlives restarts (`keep`)
    #[arg(long, value_name = "DIR", default_value = "/var/lib/hyperspector-changes")]
    marks: PathBuf,
    /// The root below which the windows are
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

const HELP: &str = "\
A path that ends with a slash stands for all that is below it. Without -0, bytes that are no
printable text are shown as \\xNN, and a backslash as \\\\.

A list leaves the mark as it is. --done sets it to where the list was read, so that the next list
makes up for a scan that is killed. Run one scan at a time for each mark.

Examples:
  hyperspector-changes shop                      what changed
  hyperspector-changes shop -0 --files --view >list && xargs -0r clamscan <list &&
    hyperspector-changes shop --done             scan what is new, and remember
  hyperspector-changes shop --json | jq -r '.changes[] | select(.tree) | .path'

Exit status: 0 the list is complete, 1 failed, 2 wrong command line, 3 it is not known what
changed: nothing is listed, scan everything (then --done).";

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hyperspector-changes: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    let name = cli.mark.as_deref().unwrap_or(&cli.server);
    for word in [name, &cli.server] {
        if word.is_empty() || word.starts_with('.') || word.contains('/') {
            return Err(Failure::Name(word.to_owned()));
        }
    }
    let marks = Marks::new(&cli.marks, name);
    if cli.done {
        marks.set().map_err(|cause| Failure::Set(cli.marks.clone(), cause))?;
        return Ok(ExitCode::SUCCESS);
    }
    let windows = Windows::of(&cli.root, &cli.server);
    let seen = marks.read().map_err(|cause| Failure::Marks(cli.marks.clone(), cause))?;
    let failed = |cause| Failure::List(cli.server.clone(), cause);
    let (list, now) = list::read(&windows, seen.as_ref()).map_err(failed)?;
    // Before anything is printed: whoever reads the list may be done at once.
    marks.prepare(&now).map_err(|cause| Failure::Marks(cli.marks.clone(), cause))?;
    let format = Format {
        null: cli.null,
        json: cli.json,
        prefix: cli.view.then(|| windows.files.clone()),
        files: cli.files,
    };
    output::print(&cli.server, &list, &windows, &format)
}
