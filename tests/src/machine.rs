//! A systemd of the test's own: PID 1 of its own PID, mount, cgroup, IPC and UTS namespaces, with this
//! machine's root under an overlay. HyperSpector runs beside it, as on a host that it has booted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::fleet::TestHost;
use crate::leftovers;
use crate::process::{Output, Running, program, run};
use crate::wait::wait_for;

const LIMIT: Duration = Duration::from_secs(60);

/// Makes the root, and becomes systemd, which starts nothing by itself.
const START: &str = r#"
dir=$1
mkdir -p "$dir/upper" "$dir/work" "$dir/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
cd "$dir/root"
mkdir -p .old
mount -t proc proc proc
# What systemd raises as it starts is this machine's, or its network's.
for setting in net/unix/max_dgram_qlen fs/file-max fs/nr_open; do
    mount --bind "proc/sys/$setting" "proc/sys/$setting"
    mount -o remount,bind,ro "proc/sys/$setting"
done
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mount --rbind /dev dev
mkdir -p "./$2"
mount --bind "$2" "./$2"
mkdir -p "./$3"
mount --bind "$3" "./$3"
mount -t cgroup2 cgroup2 sys/fs/cgroup
pivot_root . .old
umount -l .old
mkdir -p /run/systemd/system
printf '[Unit]\nDefaultDependencies=no\n' > /run/systemd/system/test.target
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --unit=test.target --log-target=console
"#;

/// A systemd that runs. Dropping it ends it, and all that it has started.
#[derive(Debug)]
pub struct Machine {
    running: Running,
    /// PID 1, as the host sees it.
    init: i32,
    cgroup: PathBuf,
}

impl Machine {
    /// Starts one in the network of `host`, which shares the directory `shared` with this machine.
    #[track_caller]
    pub fn start(host: &TestHost, shared: &Path) -> Self {
        let unified = Path::new("/sys/fs/cgroup/unified");
        let root = if unified.is_dir() { unified } else { Path::new("/sys/fs/cgroup") };
        let name = shared.file_name().unwrap().to_string_lossy().into_owned();
        let cgroup = root.join(format!("{name}.machine"));
        fs::create_dir(&cgroup).unwrap();
        let programs = program("hyperspector");
        let programs = programs.parent().unwrap();
        let enter = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", cgroup.display());
        let mut command = host.net.command("sh");
        command.args(["-c", &enter, "sh", "unshare", "--pid", "--fork", "--kill-child"]);
        command.args(["--mount", "--propagation", "private", "--uts", "--ipc", "--cgroup"]);
        command.args(["sh", "-ec", START, "sh"]);
        command.arg(shared.join("machine")).arg(shared).arg(programs);
        let running = Running::start(&mut command);
        let children = format!("/proc/{0}/task/{0}/children", running.pid());
        let init = wait_for("systemd runs", || {
            let init = fs::read_to_string(&children).ok()?.trim().parse().ok()?;
            let name = fs::read_to_string(format!("/proc/{init}/comm")).ok()?;
            (name.trim() == "systemd" && cgroup.join("init.scope").is_dir()).then_some(init)
        });
        let machine = Self { running, init, cgroup };
        wait_for("systemd answers", || {
            let answer = machine.shell(host, "systemctl daemon-reload");
            (answer.code == Some(0)).then_some(())
        });
        machine
    }

    /// A program in it.
    pub fn command(&self, host: &TestHost, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = host.net.command("nsenter");
        command.args(["--target", &self.init.to_string()]);
        command.args(["--mount", "--pid", "--ipc", "--uts", "--cgroup", "--"]).arg(program);
        command
    }

    /// Runs a line of shell in it.
    #[track_caller]
    pub fn shell(&self, host: &TestHost, line: &str) -> Output {
        run(self.command(host, "sh").args(["-ec", line]), b"", LIMIT)
    }

    /// The product in it, with the host's options.
    #[track_caller]
    pub fn hyperspector(&self, host: &TestHost, arguments: &[&str]) -> Output {
        let mut command = self.command(host, program("hyperspector"));
        command.arg("--host").arg(host.name());
        command.arg("--state-dir").arg(host.state_dir()).arg("--run-dir").arg(host.run_dir());
        run(command.args(arguments), b"", LIMIT)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        leftovers::kill(self.init);
        leftovers::kill(self.running.pid());
        // The kernel lets go of groups a moment after the last process.
        for _ in 0..200 {
            remove_below(&self.cgroup);
            if !self.cgroup.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("{} stays", self.cgroup.display());
    }
}

fn remove_below(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
