//! From what the user typed to what is asked for and how it is printed.

use hyperspector_syscalls::filter::{Filter, GROUPS, MOST_DATA, Refused, Request, Status};
use hyperspector_syscalls::text::strace::{Files, Style, Threads, Times};

use crate::cli::Cli;
use crate::output::Rotation;

/// What is wrong with the command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error(transparent)]
    Filter(#[from] Refused),
    #[error(
        "-e {0}: no such expression; known are trace=CALLS (or CALLS alone), status=failed, \
         status=successful, decode-fds=path, decode-fds=all, signal=none"
    )]
    Expression(String),
    #[error("-e {expression}: {why}")]
    Unsupported { expression: String, why: &'static str },
    #[error(
        "-e trace={0}: regular expressions are not known here; name the calls, or a group: {GROUPS}"
    )]
    Pattern(String),
    #[error("status={0}: not known; known are failed, successful, all")]
    Status(String),
    #[error("decode-fds={0}: not known; known are none, path, all")]
    DecodeFds(String),
    #[error("-o {0}: commands are not run; write to a FIFO or a pipe instead")]
    Command(String),
    #[error(
        "--rotate {0}: not SIZExCOUNT, such as 64Mx5 (at least 4K, and at most 1000 old files)"
    )]
    Rotate(String),
    #[error("-s {0}: at most {MOST_DATA} bytes are recorded")]
    String(u32),
}

/// What is asked for.
#[derive(Debug)]
pub struct Wanted {
    pub request: Request,
    pub style: Style,
    pub rotation: Option<Rotation>,
}

/// What expressions have said.
#[derive(Default)]
struct Said {
    calls: Vec<String>,
    status: Status,
    files: Option<Files>,
}

impl Wanted {
    pub fn new(cli: &Cli) -> Result<Self, Wrong> {
        let said = Said::new(cli)?;
        if cli.string > MOST_DATA {
            return Err(Wrong::String(cli.string));
        }
        let output = cli.output.as_ref().map(|path| path.to_string_lossy());
        if let Some(command) = output.filter(|path| path.starts_with(['|', '!'])) {
            return Err(Wrong::Command(command.into_owned()));
        }
        let filter = Filter {
            calls: said.calls.clone(),
            server_pids: cli.pids.clone(),
            children: cli.follow && !cli.pids.is_empty(),
            pids: Vec::new(),
            uids: cli.uid.clone(),
            paths: cli.paths.clone(),
            status: said.status,
        };
        filter.check()?;
        // All of a string, and one more byte, so that it can be said that there is more.
        let data = Some((cli.string + 1).min(MOST_DATA));
        // Whoever watches leaves room for those that write.
        let queue = cli.output.is_none().then_some(2 << 20);
        let request = Request { filter, queue, data, ..Request::default() };
        let rotation = cli.rotate.as_deref().map(rotation).transpose()?;
        Ok(Self { request, style: style(cli, &said), rotation })
    }
}

fn style(cli: &Cli, said: &Said) -> Style {
    let is_one = cli.pids.len() == 1 && !cli.follow;
    Style {
        threads: match (is_one, &cli.output) {
            (true, _) => Threads::None,
            (false, Some(_)) => Threads::Number,
            (false, None) => Threads::Brackets,
        },
        times: match cli.times {
            0 => Times::None,
            1 => Times::Seconds,
            2 => Times::Micros,
            _ => Times::Epoch,
        },
        durations: cli.durations,
        files: said.files.unwrap_or(match cli.files {
            0 => Files::None,
            1 => Files::Paths,
            _ => Files::Addresses,
        }),
        string: cli.string as usize,
        verbose: cli.verbose,
        epoch: 0,
        zone: 0,
    }
}

impl Said {
    fn new(cli: &Cli) -> Result<Self, Wrong> {
        let mut said = Self::default();
        if let Some(calls) = &cli.trace {
            said.calls = words(calls)?;
        }
        if let Some(status) = &cli.status {
            said.status = self::status(status)?;
        }
        if cli.failed_only {
            said.status = Status::Failed;
        } else if cli.successful_only {
            said.status = Status::Successful;
        }
        for expression in &cli.expressions {
            said.hear(expression)?;
        }
        if said.calls.is_empty() {
            said.calls.push("all".to_owned());
        }
        Ok(said)
    }

    fn hear(&mut self, expression: &str) -> Result<(), Wrong> {
        let (name, value) = expression.split_once('=').unwrap_or(("trace", expression));
        let unsupported = |why| Err(Wrong::Unsupported { expression: expression.to_owned(), why });
        match name {
            "trace" | "t" => self.calls = words(value)?,
            "status" => self.status = status(value)?,
            "decode-fds" | "decode-fd" | "fds" => self.files = Some(files(value)?),
            "signal" | "signals" | "s" if matches!(value, "none" | "!all") => {}
            "signal" | "signals" | "s" => {
                return unsupported("signals are not recorded; signal=none is");
            }
            "abbrev" | "a" | "verbose" | "v" => {
                return unsupported("structures are told whole with -v, else shortened");
            }
            "raw" | "x" => return unsupported("numbers are in --json, as args and result"),
            "read" | "reads" | "r" | "write" | "writes" | "w" => {
                return unsupported("dumps are not made; -s N shows more of each buffer");
            }
            "inject" | "fault" => return unsupported("a server cannot be changed from here"),
            "quiet" | "silent" | "silence" | "q" => {
                return unsupported("-q leaves out the lines for threads that end");
            }
            _ => return Err(Wrong::Expression(expression.to_owned())),
        }
        Ok(())
    }
}

/// The words of `trace=`; `!` before the first holds for all of them, as in strace.
fn words(value: &str) -> Result<Vec<String>, Wrong> {
    let (is_taken_out, rest) = match value.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut words = Vec::new();
    for word in rest.split(',').filter(|word| !word.is_empty()) {
        if word.starts_with('/') {
            return Err(Wrong::Pattern(value.to_owned()));
        }
        let (name, may_be_unknown) = match word.strip_prefix('?') {
            Some(name) => (name, true),
            None => (word, false),
        };
        let is_known = || {
            let one = Filter { calls: vec![name.to_owned()], ..Filter::default() };
            one.calls().is_ok()
        };
        if may_be_unknown && !is_known() {
            continue;
        }
        words.push(if is_taken_out { format!("!{name}") } else { name.to_owned() });
    }
    if words.is_empty() {
        words.push(if is_taken_out { "all" } else { "none" }.to_owned());
    }
    Ok(words)
}

fn status(value: &str) -> Result<Status, Wrong> {
    match value {
        "failed" | "!successful" => Ok(Status::Failed),
        "successful" | "!failed" => Ok(Status::Successful),
        "all" | "any" => Ok(Status::Any),
        _ => Err(Wrong::Status(value.to_owned())),
    }
}

fn files(value: &str) -> Result<Files, Wrong> {
    let mut files = Files::None;
    for word in value.split(',') {
        files = match word {
            "none" => Files::None,
            "path" if files == Files::None => Files::Paths,
            "path" => files,
            "all" | "socket" => Files::Addresses,
            _ => return Err(Wrong::DecodeFds(value.to_owned())),
        };
    }
    Ok(files)
}

fn rotation(text: &str) -> Result<Rotation, Wrong> {
    let parse = || {
        let (size, count) = text.split_once('x')?;
        let digits = size.trim_end_matches(['K', 'M', 'G']);
        let unit: u64 = match size.strip_prefix(digits)? {
            "" => 1,
            "K" => 1 << 10,
            "M" => 1 << 20,
            "G" => 1 << 30,
            _ => return None,
        };
        let size = digits.parse::<u64>().ok()?.checked_mul(unit)?;
        let count = count.parse::<u32>().ok()?;
        (size >= 4096 && count <= 1000).then_some(Rotation { size, count })
    };
    parse().ok_or_else(|| Wrong::Rotate(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn wanted(args: &[&str]) -> Result<Wanted, Wrong> {
        let args = ["hyperspector-strace"].iter().chain(args);
        Wanted::new(&Cli::try_parse_from(args).unwrap())
    }

    fn calls(args: &[&str]) -> Vec<String> {
        wanted(args).unwrap().request.filter.calls
    }

    #[test]
    fn strace_s_expressions_mean_what_they_do_there() {
        assert_eq!(calls(&[]), ["all"]);
        assert_eq!(calls(&["-e", "trace=open,%network"]), ["open", "%network"]);
        assert_eq!(calls(&["-e", "execve"]), ["execve"]);
        assert_eq!(calls(&["-e", "!read,write"]), ["!read", "!write"]);
        assert_eq!(calls(&["-e", "trace=?nonesuch,read"]), ["read"]);
        assert_eq!(calls(&["-e", "trace=none"]), ["none"]);
        assert_eq!(wanted(&["-Z"]).unwrap().request.filter.status, Status::Failed);
        assert_eq!(wanted(&["-yy"]).unwrap().style.files, Files::Addresses);
        assert_eq!(
            wanted(&["-p", "1,2", "-p", "3"]).unwrap().request.filter.server_pids,
            [1, 2, 3]
        );
        assert!(!wanted(&["-f"]).unwrap().request.filter.children);
        assert_eq!(wanted(&["-p", "1"]).unwrap().style.threads, Threads::None);
    }

    #[test]
    fn what_is_not_understood_says_what_would_be_right() {
        for (args, told) in [
            (&["-e", "trace=opnat"][..], "did you mean openat?"),
            (&["-e", "trace=/^open"], "name the calls, or a group"),
            (&["-e", "bogus=1"], "known are trace=CALLS"),
            (&["-e", "inject=open:error=EPERM"], "cannot be changed from here"),
            (&["-e", "status=unfinished"], "known are failed, successful"),
            (&["-o", "|cat"], "commands are not run"),
            (&["-o", "x", "--rotate", "1x1"], "such as 64Mx5"),
            (&["-s", "5000"], "at most 4096"),
            (&["-P", "etc"], "no absolute path"),
        ] {
            let error = wanted(args).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(told), "{args:?}: {error}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(rotation("64Mx5"), Ok(Rotation { size: 64 << 20, count: 5 }));
        assert!(rotation("x5").is_err() && rotation("5MMx5").is_err() && rotation("64M").is_err());
    }
}
