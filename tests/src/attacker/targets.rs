//! What the attempts are aimed at, from the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

/// What the attempts are aimed at. Whatever is not given is looked for, or the attempt says that
/// it needs it.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// Directories of file windows; all of `/.serverfs` where none is given.
    pub files: Vec<PathBuf>,
    /// Paths that should not show.
    pub hidden: Vec<PathBuf>,
    /// A process outside: its id there, and a text that its command line holds.
    pub victim: Option<(i32, String)>,
    /// TCP listeners that should be out of reach.
    pub tcp: Vec<SocketAddr>,
    /// UDP sockets that should be out of reach, and that answer.
    pub udp: Vec<SocketAddr>,
    /// Ports that should be refused.
    pub ports: Vec<u16>,
    /// A listener outside that tries the ports that it is told, and answers whether it got through.
    pub witness: Option<SocketAddr>,
    /// Interfaces of the host that are not watched, by index there.
    pub unwatched: Vec<i32>,
    /// A fanout group of someone else's.
    pub fanout: Option<u16>,
    /// The ring memory that is allowed, in bytes.
    pub ring_limit: Option<u64>,
    /// How many processes to try for.
    pub processes: Option<usize>,
    /// How much memory to try for, in MiB.
    pub memory: Option<usize>,
    /// How much to write below `/tmp`, in MiB.
    pub fill: Option<usize>,
}

/// One line of help for each option.
pub const OPTIONS: &str = "\
  --files DIR          a file window (default: each directory of /.serverfs)
  --hidden PATH        a path that should not show
  --victim PID:TEXT    a process outside, and a text in its command line
  --tcp ADDR:PORT      a TCP listener that should be out of reach
  --udp ADDR:PORT      a UDP socket that answers and should be out of reach
  --port NUMBER        a port that should be refused
  --witness ADDR:PORT  a listener outside that tries the ports that it is told
  --unwatched INDEX    an interface of the host that is not watched
  --fanout ID          a fanout group of someone else's
  --ring-limit BYTES   the ring memory that is allowed
  --processes N        how many processes to try for, at most 10000
  --memory MIB         how much memory to try for
  --fill MIB           how much to write below /tmp";

impl Targets {
    /// Takes the options out of `arguments`; what is left are names of groups and attempts.
    pub fn parse(arguments: &[String]) -> Result<(Self, Vec<String>), String> {
        let mut targets = Self::default();
        let mut names = Vec::new();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if !argument.starts_with("--") {
                names.push(argument.clone());
                continue;
            }
            let value = rest.next().ok_or_else(|| format!("{argument} needs a value"))?;
            targets.set(argument, value).map_err(|why| format!("{argument} {value}: {why}"))?;
        }
        targets.look_for_windows();
        Ok((targets, names))
    }

    fn set(&mut self, option: &str, value: &str) -> Result<(), String> {
        match option {
            "--files" => self.files.push(value.into()),
            "--hidden" => self.hidden.push(value.into()),
            "--victim" => self.victim = Some(victim(value)?),
            "--tcp" => self.tcp.push(number(value)?),
            "--udp" => self.udp.push(number(value)?),
            "--port" => self.ports.push(number(value)?),
            "--witness" => self.witness = Some(number(value)?),
            "--unwatched" => self.unwatched.push(number(value)?),
            "--fanout" => self.fanout = Some(number(value)?),
            "--ring-limit" => self.ring_limit = Some(number(value)?),
            "--processes" => self.processes = Some(number::<usize>(value)?.min(10_000)),
            "--memory" => self.memory = Some(number(value)?),
            "--fill" => self.fill = Some(number(value)?),
            _ => return Err("no such option".into()),
        }
        Ok(())
    }

    fn look_for_windows(&mut self) {
        if self.files.is_empty() {
            let entries = std::fs::read_dir("/.serverfs").into_iter().flatten().flatten();
            self.files = entries.map(|entry| entry.path()).collect();
        }
    }
}

fn victim(value: &str) -> Result<(i32, String), String> {
    let (pid, text) = value.split_once(':').ok_or("is not PID:TEXT")?;
    Ok((number(pid)?, text.to_owned()))
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|error: T::Err| error.to_string())
}
