//! The command line: strace's letters, for what has a meaning here.

use std::path::PathBuf;

use clap::{ArgAction, Parser, ValueEnum};
use hyperspector_syscalls::summary::Order;

/// Prints the system calls of a server that this portspace watches, as strace does, without stopping it.
#[derive(Debug, Parser)]
#[command(name = "hyperspector-strace", version, max_term_width = 100, after_help = HELP)]
pub struct Cli {
    /// The server, as the spec calls it; needed where several are watched
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,
    /// Wait for a server that does not run yet, instead of failing
    #[arg(long, requires = "server")]
    pub wait: bool,
    /// Only this process or thread, by its number in /.serverproc/NAME; several with commas, or the option
    /// again. Without it, all of the server
    #[arg(short = 'p', long = "attach", value_name = "PID", value_delimiter = ',')]
    pub pids: Vec<u32>,
    /// With -p: its children too, from now on; all of the server is traced without -p anyway
    #[arg(short = 'f', long = "follow-forks")]
    pub follow: bool,
    /// What is wanted: trace=CALLS, status=failed|successful, decode-fds=path|all
    #[arg(short = 'e', value_name = "EXPRESSION")]
    pub expressions: Vec<String>,
    /// Which calls: names and groups with commas, all but those with ! before. Without it, all
    #[arg(long, value_name = "CALLS")]
    pub trace: Option<String>,
    /// Only calls that failed, or only those that did not
    #[arg(long, value_name = "STATUS")]
    pub status: Option<String>,
    /// Only calls that name PATH or what is below it, or whose descriptors stand for it
    #[arg(short = 'P', long = "trace-path", value_name = "PATH")]
    pub paths: Vec<String>,
    /// Only calls of that user, by number in the host's own user namespace
    #[arg(long, value_name = "UID", value_delimiter = ',')]
    pub uid: Vec<u32>,
    /// Only successful calls, as -e status=successful
    #[arg(short = 'z', long = "successful-only", conflicts_with = "failed_only")]
    pub successful_only: bool,
    /// Only failed calls, as -e status=failed
    #[arg(short = 'Z', long = "failed-only")]
    pub failed_only: bool,
    /// Count calls, times and errors, and print the table at the end
    #[arg(short = 'c', long = "summary-only")]
    pub count: bool,
    /// The same, besides the calls
    #[arg(short = 'C', long = "summary", conflicts_with = "count")]
    pub count_too: bool,
    /// What comes first in the table
    #[arg(short = 'S', long = "summary-sort-by", value_name = "BY", default_value = "time")]
    pub sort: Sort,
    /// The table's times are those that passed; they always are
    #[arg(short = 'w', long = "summary-wall-clock")]
    pub wall_clock: bool,
    /// What descriptors stand for; twice: with sockets' addresses
    #[arg(short = 'y', action = ArgAction::Count)]
    pub files: u8,
    /// How many bytes of strings
    #[arg(short = 's', long = "string-limit", value_name = "N", default_value_t = 32)]
    pub string: u32,
    /// The time of day before each line; twice: with microseconds; thrice: since 1970
    #[arg(short = 't', action = ArgAction::Count)]
    pub times: u8,
    /// How long each call took
    #[arg(short = 'T', long = "syscall-times")]
    pub durations: bool,
    /// All fields of structures
    #[arg(short = 'v', long = "no-abbrev")]
    pub verbose: bool,
    /// No lines for threads that end
    #[arg(short = 'q', long = "quiet", action = ArgAction::Count)]
    pub quiet: u8,
    /// Write to FILE instead of standard output; a FIFO is never waited for: what nobody reads in time is
    /// lost and counted
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Make a FIFO of FILE, where there is none
    #[arg(long, requires = "output")]
    pub fifo: bool,
    /// Append to the file
    #[arg(short = 'A', long = "append", alias = "output-append-mode", requires = "output")]
    pub append: bool,
    /// Begin a new file after SIZE bytes (K, M, G), and keep COUNT old ones: FILE.1 is the latest; a FIFO
    /// stays as it is
    #[arg(long, value_name = "SIZExCOUNT", requires = "output")]
    pub rotate: Option<String>,
    /// JSON, one object a line
    #[arg(long, conflicts_with_all = ["audit", "count", "count_too"])]
    pub json: bool,
    /// Linux audit records, for ausearch and aureport
    #[arg(long, conflicts_with_all = ["count", "count_too"])]
    pub audit: bool,
    /// Where the servers' sockets are
    #[arg(long, value_name = "DIR", default_value = "/.servertrace", hide = true)]
    pub sockets: PathBuf,
}

/// What comes first in the table.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Sort {
    /// What took the most time
    #[value(alias = "time-total", alias = "total-time", alias = "time_total")]
    Time,
    /// What was called most often
    #[value(alias = "count")]
    Calls,
    /// What failed most often
    #[value(alias = "error")]
    Errors,
    /// By name
    #[value(alias = "syscall", alias = "syscall-name")]
    Name,
}

impl From<Sort> for Order {
    fn from(sort: Sort) -> Self {
        match sort {
            Sort::Time => Self::Time,
            Sort::Calls => Self::Calls,
            Sort::Errors => Self::Errors,
            Sort::Name => Self::Name,
        }
    }
}

const HELP: &str = "\
The server is never stopped: a call that is recorded takes it about a microsecond longer. What was
lost is told where it was lost. When the tracer was restarted, a line says for how long nothing
was recorded, and the trace goes on. Ctrl-C ends it, with the table where -c asks for it. Groups
of calls: %file, %network, %process, %desc, %memory, %signal, %ipc, %creds, %clock, %stat and the
like, default (what decides about security), all.

Examples:
  hyperspector-strace -e trace=%network -yy                 who talks to whom
  hyperspector-strace --server shop -Z -e %file -tt         files that could not be opened
  hyperspector-strace -p 4711 -f -e execve -s 200           what a process executes
  hyperspector-strace --server shop -P /etc -y -T           what is done with /etc
  hyperspector-strace --server shop -c                      counts; Ctrl-C prints them
  hyperspector-strace -e default --audit -o /var/log/shop.audit --rotate 64Mx5
  ausearch -i -if /var/log/shop.audit -m EXECVE

Exit status: 0 ended by Ctrl-C, SIGTERM, or with the processes of -p; 1 failed;
2 wrong command line.";
