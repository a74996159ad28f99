//! Network namespaces of the tests' own.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::process::run;

/// A named network namespace, removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, with `lo` up and without IPv6, which would send frames of its own.
    #[track_caller]
    pub fn new(name: &str) -> Self {
        ip(&["netns", "add", name]);
        let namespace = Self { name: name.into() };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace.within(|| {
            for which in ["all", "default"] {
                let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
                // A kernel without IPv6 has no such file.
                let _ = std::fs::write(path, "1");
            }
        });
        namespace
    }

    /// Its name, as `ip netns` has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip -n NAME ARGUMENTS`, and gives its output.
    #[track_caller]
    pub fn ip(&self, arguments: &[&str]) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend_from_slice(arguments);
        ip(&all)
    }

    /// What `ip -j -n NAME ARGUMENTS` prints.
    #[track_caller]
    pub fn ip_json(&self, arguments: &[&str]) -> serde_json::Value {
        let mut all = vec!["-j", "-s"];
        all.extend_from_slice(arguments);
        serde_json::from_str(&self.ip(&all)).unwrap()
    }

    /// How many frames an interface has received.
    #[track_caller]
    pub fn received(&self, interface: &str) -> u64 {
        let answer = self.ip_json(&["link", "show", interface]);
        answer[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
    }

    /// A command that runs in the namespace.
    #[track_caller]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let namespace = File::open(self.path()).unwrap();
        let mut command = Command::new(program);
        // SAFETY: between fork and exec the closure makes one system call on a descriptor that the
        // closure owns.
        unsafe { command.pre_exec(move || enter(&namespace)) };
        command
    }

    /// For a thread of its own that is to be in the namespace.
    #[track_caller]
    pub(crate) fn handle(&self) -> Handle {
        Handle(File::open(self.path()).unwrap())
    }

    /// Runs a closure in the namespace, on a thread of its own.
    #[track_caller]
    pub fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.path()).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                enter(&namespace).unwrap();
                act()
            });
            thread.join().unwrap()
        })
    }

    /// Processes that are in the namespace.
    pub fn processes(&self) -> Vec<i32> {
        let command = &mut Command::new("ip");
        let listed = run(command.args(["netns", "pids", &self.name]), b"", Duration::from_secs(10));
        listed.stdout.lines().filter_map(|line| line.trim().parse().ok()).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let command = &mut Command::new("ip");
        run(command.args(["netns", "delete", &self.name]), b"", Duration::from_secs(10));
    }
}

/// A namespace that a thread can join.
pub(crate) struct Handle(File);

impl Handle {
    /// Joins it with the calling thread.
    #[track_caller]
    pub(crate) fn enter(&self) {
        enter(&self.0).unwrap();
    }
}

/// Joins the namespace with the calling thread (setns(2)).
fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: setns takes two integers; it changes the calling thread alone.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs `ip` and gives its output.
#[track_caller]
fn ip(arguments: &[&str]) -> String {
    run(Command::new("ip").args(arguments), b"", Duration::from_secs(10)).text()
}
