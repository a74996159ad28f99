//! Servers and portspaces of these tests.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A process that is killed at the end.
pub struct Running(Child);

impl Running {
    pub fn start(command: &[&str]) -> Self {
        let child = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).spawn();
        Self(child.unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn end(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server: a shell that is process 1 of a PID and a user namespace, with `sleep 7001` below it.
pub struct Server {
    _unshare: Running,
    pub leader: u32,
}

impl Server {
    pub fn start() -> Self {
        Self::running(&[], "sleep 7001 & wait")
    }

    /// One that runs a line of shell which starts something, with more namespaces.
    pub fn running(namespaces: &[&str], line: &str) -> Self {
        let isolated = ["unshare", "--pid", "--fork", "--kill-child", "--user", "--map-root-user"];
        let unshare = Running::start(&[&isolated, namespaces, &["sh", "-c", line]].concat());
        let leader = wait_for(|| children(unshare.pid()).first().copied());
        // Until it has executed something, a child is still the shell.
        let line = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let is_other = |child: &u32| ![line(leader), Vec::new()].contains(&line(*child));
        wait_for(|| children(leader).first().copied().filter(is_other));
        Self { _unshare: unshare, leader }
    }

    pub fn pid_namespace(&self) -> File {
        File::open(format!("/proc/{}/ns/pid", self.leader)).unwrap()
    }
}

/// A mount namespace with a root of its own, like a portspace's.
pub struct Portspace {
    init: Running,
    mounts: File,
}

const ROOT: &str = "
    mount -t tmpfs tmpfs /mnt && cd /mnt && mkdir -p .serverproc usr etc dev proc old
    for name in bin sbin lib lib64; do ln -s usr/$name $name; done
    for name in usr etc dev; do mount --rbind /$name $name; done
    mount -t proc proc proc && touch ready
    pivot_root . old && umount -l old && exec sleep 7002";

impl Portspace {
    pub fn start() -> Self {
        let init =
            Running::start(&["unshare", "--mount", "--propagation", "private", "sh", "-c", ROOT]);
        let pid = init.pid();
        wait_for(|| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.starts_with(b"sleep").then_some(())
        });
        let mounts = File::open(format!("/proc/{pid}/ns/mnt")).unwrap();
        Self { init, mounts }
    }

    pub fn mounts(&self) -> BorrowedFd<'_> {
        self.mounts.as_fd()
    }

    pub fn run(&self, line: &str) -> Output {
        let pid = self.init.pid().to_string();
        Command::new("nsenter")
            .args(["-t", &pid, "-m", "-r", "-w", "sh", "-c", line])
            .output()
            .unwrap()
    }

    /// What a line of shell prints; it must succeed.
    pub fn shell(&self, line: &str) -> String {
        let output = self.run(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {error}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

pub fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[track_caller]
pub fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "it takes too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}
