//! Network namespaces of the bench's own, with a cable between them.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The interface that is watched.
pub const WATCHED: &str = "hsb0";
/// The other end of its cable.
pub const PEER: &str = "hsb1";

/// A host, whose interface [`WATCHED`] is joined with [`PEER`] elsewhere. Dropping it removes both.
#[derive(Debug)]
pub struct Lab {
    /// Where HyperSpector runs, and the base side of everything.
    pub host: Namespace,
    /// Where packets come from.
    pub outside: Namespace,
    group: Group,
}

impl Lab {
    /// Makes both namespaces and the cable.
    pub fn new() -> Result<Self> {
        let id = std::process::id();
        let lab = Self {
            host: Namespace::new(format!("hs-bench-{id}"))?,
            outside: Namespace::new(format!("hs-bench-{id}-out"))?,
            group: Group::new(format!("hs-bench-{id}"))?,
        };
        let outside = lab.outside.name.clone();
        let peer = ["peer", "name", PEER, "netns", &outside];
        lab.host.ip(&[&["link", "add", WATCHED, "type", "veth"], &peer[..]].concat())?;
        lab.host.ip(&["link", "set", "lo", "up"])?;
        lab.host.ip(&["link", "set", WATCHED, "up"])?;
        lab.outside.ip(&["link", "set", PEER, "up"])?;
        Ok(lab)
    }

    /// Gives both ends of the cable an address.
    pub fn connect(&self, host: &str, outside: &str) -> Result<()> {
        let ends = [(&self.host, host, WATCHED), (&self.outside, outside, PEER)];
        for (namespace, address, interface) in ends {
            namespace.ip(&["address", "add", &format!("{address}/24"), "dev", interface])?;
        }
        Ok(())
    }

    /// The base side in a control group beside the one at `path`, relative to the hierarchies' roots:
    /// both have the same share of the machine then, whatever else runs.
    pub fn beside(&self, path: &Path) -> Result<Side<'_>> {
        let beside = path.parent().context("a group in no other")?.join("base");
        Ok(Side { host: &self.host, group: Group::new(beside)? })
    }

    /// A command of the base side: in the host's network, and in a control group of its own, as
    /// portspaces are. Otherwise it would share its processor time with whatever else runs, and a
    /// portspace would not.
    pub fn base(&self, program: impl Into<PathBuf>) -> Result<Command> {
        self.group.command(&self.host, program)
    }
}

/// A base side in another control group. Dropping it removes that.
#[derive(Debug)]
pub struct Side<'a> {
    host: &'a Namespace,
    group: Group,
}

impl Side<'_> {
    /// A command of the base side.
    pub fn base(&self, program: impl Into<PathBuf>) -> Result<Command> {
        self.group.command(self.host, program)
    }
}

/// A control group for processor time and memory, in each hierarchy that has one of them. Dropping
/// it removes it.
#[derive(Debug)]
struct Group(Vec<PathBuf>);

impl Group {
    fn new(name: impl AsRef<Path>) -> Result<Self> {
        let v1 = ["cpu", "memory"].map(|controller| Path::new("/sys/fs/cgroup").join(controller));
        let mut roots: Vec<PathBuf> = v1.into_iter().filter(|root| root.is_dir()).collect();
        if roots.is_empty() {
            roots.push("/sys/fs/cgroup".into());
        }
        let mut made = Self(Vec::new());
        for root in roots {
            let path = root.join(&name);
            fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
            made.0.push(path);
        }
        Ok(made)
    }

    /// A command in this group, and in the host's network.
    fn command(&self, host: &Namespace, program: impl Into<PathBuf>) -> Result<Command> {
        let mut command = host.command(program)?;
        let open = |directory: &PathBuf| {
            let path = directory.join("cgroup.procs");
            let processes = File::options().write(true).open(&path);
            processes.with_context(|| format!("open {}", path.display()))
        };
        let groups = self.0.iter().map(open).collect::<Result<Vec<_>>>()?;
        // 0 is whoever writes it.
        let enter = move || groups.iter().try_for_each(|mut processes| processes.write_all(b"0"));
        // SAFETY: the closure makes async-signal-safe system calls and allocates nothing.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = fs::remove_dir(path) {
                eprintln!("remove {}: {error}", path.display());
            }
        }
    }
}

/// A network namespace with a name, as ip(8) makes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    fn new(name: String) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", &name]))?;
        Ok(Self { name })
    }

    /// Where it is kept open.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// `ip`, about what is inside.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments))
    }

    /// A command that will run inside. Only its network is another: `ip netns exec` would mount
    /// /sys anew, and the control groups would be gone.
    pub fn command(&self, program: impl Into<PathBuf>) -> Result<Command> {
        let path = self.path();
        let namespace = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let mut command = Command::new(program.into());
        let enter = move || {
            // SAFETY: setns takes two integers; the descriptor is owned by this closure.
            match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: the closure makes one async-signal-safe system call and allocates nothing.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("ip").args(["netns", "del", &self.name])) {
            eprintln!("{error:#}");
        }
    }
}

/// Runs a command to its end; fails with what it said.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a command to its end, and returns what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
