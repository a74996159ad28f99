//! What the user types.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// How the program ends; these never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked.
    Fine = 0,
    /// It could not.
    Failed = 1,
    /// The command line or the spec is wrong; nothing was touched.
    Usage = 2,
    /// Some portspaces or server spaces do not run; the others do.
    Partly = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs unmodified intrusion detection systems in isolated portspaces that watch this host through
/// read-only windows and are joined by a VPN of their own.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  hyperspector doctor                          what this machine offers
  hyperspector up examples/one-host.toml --host localhost
                                               watch this machine; Ctrl-C takes it down again
  hyperspector up -d fleet.toml                bring this host's part up and leave it running
  hyperspector status                          how things are
  hyperspector exec alpha/nids -- bash         a shell inside a portspace
  hyperspector run --packets eth0 -- tcpdump -ni eth0
                                               one portspace, without a spec

Exit status: 0 fine, 1 failed, 2 wrong command line or spec (nothing was touched),
3 some portspaces or server spaces do not run.";

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// This host's name in the spec [default: the machine's host name]
    #[arg(long, global = true, env = "HYPERSPECTOR_HOST", value_name = "NAME")]
    pub host: Option<String>,
    /// Where keys, upper layers and logs are kept
    #[arg(
        long,
        global = true,
        env = "HYPERSPECTOR_STATE_DIR",
        value_name = "DIR",
        default_value = "/var/lib/hyperspector",
        hide_env = true
    )]
    pub state_dir: PathBuf,
    /// Where sockets and namespaces are kept; one agent runs for each
    #[arg(
        long,
        global = true,
        env = "HYPERSPECTOR_RUN_DIR",
        value_name = "DIR",
        default_value = "/run/hyperspector",
        hide_env = true
    )]
    pub run_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Tell what this kernel and machine offer, what is missing, and what that costs
    #[command(after_help = "\
Examples:
  hyperspector doctor
  hyperspector doctor --json | jq .")]
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check a spec for the whole fleet
    #[command(after_help = "\
Example:
  hyperspector check fleet.toml                 every mistake, with its line and what would be right")]
    Check {
        /// The spec
        spec: PathBuf,
    },
    /// Tell what `up` would do here; changes nothing
    #[command(after_help = "\
Examples:
  hyperspector plan fleet.toml                  what differs from what runs here
  hyperspector plan fleet.toml --host web2 --json
                                                all that web2 is to have")]
    Plan {
        /// The spec
        spec: PathBuf,
        /// Print this host's whole plan as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print this host's public keys as lines for the spec, making keys where there are none
    #[command(
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true,
        after_help = "\
Examples:
  hyperspector key alpha                        a line for [host.NAME] of fleet.toml
  hyperspector key rotate alpha                 another key, and both in the line"
    )]
    Key {
        /// The HyperSpectors
        #[arg(required = true, value_name = "HYPERSPECTOR")]
        hyperspectors: Vec<String>,
        #[command(subcommand)]
        rotate: Option<Rotate>,
    },
    /// Make this host equal to a spec, and follow the logs until Ctrl-C takes everything down
    #[command(after_help = "\
Examples:
  hyperspector up examples/one-host.toml --host localhost
  hyperspector up -d fleet.toml                 leaves it running; again after each edit")]
    Up {
        /// The spec
        spec: PathBuf,
        /// Leave it running, and return when it runs
        #[arg(short, long)]
        detach: bool,
    },
    /// Tell how things are
    #[command(after_help = "\
Examples:
  hyperspector status
  hyperspector status --json | jq -r '.servers[] | select(.reason) | .name'
                                                servers that are down")]
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a command inside a portspace or a server space
    Exec(Exec),
    /// Print what the command of a portspace or a server space printed
    #[command(after_help = "\
Examples:
  hyperspector logs alpha/nids -n 20
  hyperspector logs shop -f                     a server space's, as they come")]
    Logs {
        /// HYPERSPECTOR/PORTSPACE, or a server's name
        name: String,
        /// Go on as more comes
        #[arg(short, long)]
        follow: bool,
        /// Print only the last lines
        #[arg(short = 'n', long, value_name = "COUNT")]
        lines: Option<usize>,
        /// Print JSON lines
        #[arg(long)]
        json: bool,
    },
    /// Take everything down
    #[command(after_help = "\
Examples:
  hyperspector down                             keeps upper layers, logs and keys
  hyperspector down --purge                     leaves nothing")]
    Down {
        /// Remove what lasts too: what portspaces and server spaces wrote, logs, keys
        #[arg(long)]
        purge: bool,
    },
    /// Run one portspace without a spec, until it ends
    Run(Run),
    /// The agent itself, started by `up`
    #[command(
        hide = true,
        after_help = "\
Example:
  hyperspector agent                            in the foreground; makes nothing until `up` asks"
    )]
    Agent,
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum Rotate {
    /// Begin to change this host's keys: make the next ones, and print lines with both
    ///
    /// Nothing is interrupted: whoever has the line takes either key of this host, and this host uses
    /// the next one with everybody who takes it. When all do, the old one is wiped.
    Rotate {
        /// The HyperSpectors
        #[arg(required = true, value_name = "HYPERSPECTOR")]
        hyperspectors: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hyperspector exec alpha/nids -- suricatasc -c uptime
  hyperspector exec alpha/nids                  a shell, with a terminal
  hyperspector exec shop -- nginx -t            inside a server space")]
pub struct Exec {
    /// HYPERSPECTOR/PORTSPACE, or a server's name
    pub name: String,
    /// Give it a terminal [default: when standard input and output are one]
    #[arg(short, long)]
    pub tty: bool,
    /// Take no terminal and no input
    #[arg(short = 'T', long, conflicts_with = "tty")]
    pub no_tty: bool,
    /// The user inside, by name, number or UID:GID
    #[arg(short, long, default_value = "root")]
    pub user: String,
    /// The working directory inside
    #[arg(short, long, default_value = "/", value_name = "DIR")]
    pub directory: PathBuf,
    /// The command [default: /bin/sh]
    #[arg(last = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hyperspector run --packets eth0 -- tcpdump -ni eth0
  hyperspector run --files / -- find /.serverfs/base/etc -newer /.serverfs/base/etc/passwd
  hyperspector run --files unit:nginx.service --changes unit:nginx.service -- sh
  hyperspector run --processes container:shop -- ls /.serverproc/shop
  hyperspector run --socket /dev/log --root /srv/roots/rsyslog -- rsyslogd -n
  hyperspector run --root /srv/roots/trixie --packets eth0 -- suricata --af-packet=eth0 -v

A SERVER is `base` or `/` (the whole machine), a directory, unit:NAME, container:NAME,
cgroup:PATH or pid-file:PATH. It is called `base`, or by the last part of its path or name:
nginx for unit:nginx.service.")]
pub struct Run {
    /// Show the packets of an interface
    #[arg(long, value_name = "IF")]
    pub packets: Vec<String>,
    /// Show a server's files at /.serverfs/NAME
    #[arg(long, value_name = "SERVER")]
    pub files: Vec<String>,
    /// Show what changes of a server's files at /.dserverfs/NAME
    #[arg(long, value_name = "SERVER")]
    pub changes: Vec<String>,
    /// Show a server's processes at /.serverproc/NAME
    #[arg(long, value_name = "SERVER")]
    pub processes: Vec<String>,
    /// Get copies of what is sent to a Unix socket, at the same path or at TO
    #[arg(long = "socket", value_name = "[SERVER:]PATH[=TO]")]
    pub sockets: Vec<String>,
    /// The root file system [default: an overlay over this system's own]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Let ids be the host's, without any capability outside
    #[arg(long)]
    pub host_ids: bool,
    /// Memory that it may take, such as 512MiB
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// A protection that this kernel may lack: landlock, unix-guard or limits
    #[arg(long, value_name = "WHAT")]
    pub allow_missing: Vec<String>,
    /// The command
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// The examples in the help of a command, without what is said of them.
    fn examples(command: &clap::Command) -> Vec<String> {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let lines = help.lines().filter_map(|line| line.strip_prefix("  "));
        let lines = lines.filter(|line| line.starts_with("hyperspector"));
        lines.map(|line| line.split("  ").next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn every_command_has_examples_and_they_are_right() {
        let cli = Cli::command();
        for command in std::iter::once(&cli).chain(cli.get_subcommands()) {
            let examples = examples(command);
            assert!(!examples.is_empty(), "{} has no example", command.get_name());
            for example in examples {
                let words = example.split_ascii_whitespace().take_while(|word| *word != "|");
                let parsed = Cli::try_parse_from(words).map(drop);
                parsed.unwrap_or_else(|error| panic!("{example}: {error}"));
            }
        }
    }
}
