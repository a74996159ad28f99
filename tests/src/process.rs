//! Running programs with a time limit, and finding the product.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::wait::{patience, wait_until};

/// What a program that ended left.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// Its exit code; `None` where it was killed, by a signal or by us after the limit.
    pub code: Option<i32>,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Output {
    /// Fails the test unless the exit code was `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert!(
            self.code == Some(code),
            "{}\n  exit code {:?} instead of {code}\n  stdout: {}\n  stderr: {}",
            self.command,
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Fails the test unless it ended well; gives its output, trimmed.
    #[track_caller]
    pub fn text(self) -> String {
        self.expect(0).stdout.trim_end().to_owned()
    }

    /// Both outputs, one after the other.
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a program to its end, with `input`; kills it after `limit`.
///
/// Its output goes to files and not to pipes, so that a process that it leaves behind cannot hold
/// the test up.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8], limit: Duration) -> Output {
    let text = format!("{command:?}");
    let (mut out, mut err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let mut stdin = tempfile::tempfile().unwrap();
    stdin.write_all(input).unwrap();
    stdin.rewind().unwrap();
    command.stdin(stdin).stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{text}: {error}"));
    let code = end(&mut child, limit);
    Output { command: text, code, stdout: content(&mut out), stderr: content(&mut err) }
}

/// The exit code of a child that ends within the limit; else it is killed.
fn end(child: &mut Child, limit: Duration) -> Option<i32> {
    let deadline = Instant::now() + patience(limit);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn content(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A program that runs beside the test and is killed with it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    out: File,
}

impl Running {
    /// Starts it; both of its outputs are collected.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let out = tempfile::tempfile().unwrap();
        let text = format!("{command:?}");
        command.stdin(Stdio::null());
        command.stdout(out.try_clone().unwrap()).stderr(out.try_clone().unwrap());
        let child = command.spawn().unwrap_or_else(|error| panic!("{text}: {error}"));
        Self { child, out }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What it wrote so far.
    pub fn output(&self) -> String {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; usize::try_from(self.out.metadata().unwrap().len()).unwrap()];
        let got = self.out.read_at(&mut bytes, 0).unwrap();
        String::from_utf8_lossy(&bytes[..got]).into_owned()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end within the limit; kills it after that.
    pub fn finish(mut self, limit: Duration) -> (Option<i32>, String) {
        let code = end(&mut self.child, limit);
        (code, self.output())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills a process of the test's own, and waits until it is gone.
#[track_caller]
pub fn kill(pid: i32) {
    // SAFETY: kill takes integers.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    wait_until("the process is gone", || has_ended(pid));
}

/// Whether a process has ended, also where nobody has waited for it.
pub fn has_ended(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// A field of a process's `status` (proc_pid_status(5)).
#[track_caller]
pub fn status_field(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_else(|| panic!("no {field} in {text}")).trim().to_owned()
}

/// Which namespace of a kind a process is in; it may be `self`.
#[track_caller]
pub fn namespace_of(pid: &str, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}

/// A program of this workspace: `hyperspector` (or what the variable `HYPERSPECTOR` names) or
/// `attacker`, in the directory that the test binary was built in, else in the release build's.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(name.to_uppercase()) {
        return path.into();
    }
    let own = std::env::current_exe().unwrap();
    let built = own.parent().and_then(|deps| deps.parent()).unwrap();
    let target = built.parent().unwrap();
    let places =
        [built.join(name), target.join("release").join(name), target.join("debug").join(name)];
    let found = places.iter().find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is in none of {places:?}: build it first")).clone()
}
