//! Servers that are not HyperSpector's: plain services and containers, started as their own managers
//! start them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::leftovers;
use crate::namespace::Namespace;
use crate::process::{Output, Running, run};
use crate::root::Root;
use crate::wait::wait_for;
use crate::watched::unique;

const LIMIT: Duration = Duration::from_secs(60);

/// A cgroup of the test's own, in the v2 hierarchy. Dropping it ends what is in it.
#[derive(Debug)]
pub struct ControlGroup {
    name: String,
    directory: PathBuf,
}

impl ControlGroup {
    /// Makes one.
    #[track_caller]
    pub fn make(name: &str) -> Self {
        let unified = Path::new("/sys/fs/cgroup/unified");
        let root = if unified.is_dir() { unified } else { Path::new("/sys/fs/cgroup") };
        let directory = root.join(name);
        fs::create_dir(&directory).unwrap();
        Self { name: name.to_owned(), directory }
    }

    /// One below it.
    #[track_caller]
    pub fn sub(&self, name: &str) -> Self {
        Self::make(&format!("{}/{name}", self.name))
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its path from the root of the hierarchy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Puts a process into it.
    #[track_caller]
    pub fn add(&self, pid: i32) {
        fs::write(self.directory.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let pids = || fs::read_to_string(self.directory.join("cgroup.procs")).unwrap_or_default();
        for _ in 0..100 {
            for pid in pids().lines().filter_map(|pid| pid.parse().ok()) {
                leftovers::kill(pid);
            }
            if fs::remove_dir(&self.directory).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A plain service: a shell in a mount namespace of its own.
#[derive(Debug)]
pub struct Service(Running);

impl Service {
    /// Starts it with this line, after which it stays.
    #[track_caller]
    pub fn start(line: &str) -> Self {
        let line = format!("{line}\necho ready; exec sleep 1000");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", &line]);
        let service = Self(Running::start(&mut command));
        wait_for("the service is up", || service.0.output().contains("ready").then_some(()));
        service
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// Runs a line of shell in its mount namespace.
    #[track_caller]
    pub fn shell(&self, line: &str) -> Output {
        let target = self.pid().to_string();
        let mut command = Command::new("nsenter");
        run(command.args(["--target", &target, "--mount", "sh", "-ec", line]), b"", LIMIT)
    }
}

/// What starts containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// runc alone.
    Runc,
    /// crun alone.
    Crun,
    /// Podman, with runc below it.
    Podman,
}

/// A container of busybox. Dropping it removes it.
#[derive(Debug)]
pub struct Container {
    runtime: Runtime,
    name: String,
    bundle: PathBuf,
    /// What is run in a mount namespace of the runtime's own, before it.
    before: Option<String>,
}

impl Container {
    /// Makes the root of a container in `directory`; Podman makes an image of it. It has a name that no
    /// other test has.
    #[track_caller]
    pub fn prepare(runtime: Runtime, directory: &Path) -> Self {
        let name = unique("shop");
        let bundle = directory.join(&name);
        Root::make(&bundle.join("rootfs"));
        fs::create_dir_all(bundle.join("rootfs/srv")).unwrap();
        let container = Self { runtime, name, bundle, before: None };
        match runtime {
            Runtime::Runc | Runtime::Crun => container.configure(),
            Runtime::Podman => container.import(),
        }
        container
    }

    /// What a spec says to adopt it.
    pub fn adopt(&self) -> String {
        format!("{{ container = {:?} }}", self.name)
    }

    /// Makes a container of runc one in a user namespace of its own, with `volume`, and what is
    /// mounted below it, at `/volume`. `before` is run first, in a mount namespace of the runtime's
    /// own: the container gets what it mounts, and cannot take it apart.
    #[track_caller]
    pub fn with_users(mut self, volume: &Path, before: &str) -> Self {
        assert_eq!(self.runtime, Runtime::Runc);
        let path = self.bundle.join("config.json");
        let mut config: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let ids = serde_json::json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
        for set in config["process"]["capabilities"].as_object_mut().unwrap().values_mut() {
            set.as_array_mut().unwrap().push("CAP_SYS_RESOURCE".into());
        }
        let linux = &mut config["linux"];
        linux["namespaces"].as_array_mut().unwrap().push(serde_json::json!({ "type": "user" }));
        (linux["uidMappings"], linux["gidMappings"]) = (ids.clone(), ids);
        config["mounts"].as_array_mut().unwrap().push(serde_json::json!({
            "destination": "/volume", "type": "bind", "source": volume, "options": ["rbind", "rw"],
        }));
        fs::write(path, config.to_string()).unwrap();
        self.before = Some(before.to_owned());
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of the host that its root is, but for Podman's.
    pub fn root(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    /// Starts it: `line` is run first, and it stays.
    #[track_caller]
    pub fn start(&self, net: &Namespace, line: &str) {
        let line = format!("{line}\nexec sleep 1000");
        match self.runtime {
            Runtime::Runc | Runtime::Crun => {
                fs::write(self.root().join("start"), line).unwrap();
                self.command(net, &["run", "--detach", &self.name]).expect(0);
            }
            Runtime::Podman => {
                // The limits of a container are lower than those that it may not raise here.
                let options =
                    ["--network=none", "--ulimit=nofile=1024:1024", "--ulimit=nproc=64:64"];
                let run = ["run", "--detach", "--replace", "--name", &self.name];
                let image = [&self.image()[..], "sh", "-ec", &line];
                self.command(net, &[&run[..], &options, &image].concat()).expect(0);
            }
        }
    }

    /// Ends it; what it was remains to be started again.
    #[track_caller]
    pub fn stop(&self, net: &Namespace) {
        let arguments: &[&str] = match self.runtime {
            Runtime::Runc | Runtime::Crun => &["delete", "--force", &self.name],
            Runtime::Podman => &["rm", "--force", "--time", "0", &self.name],
        };
        self.command(net, arguments).expect(0);
    }

    /// Ends one of Podman's, and leaves all that it was in place under another name.
    #[track_caller]
    pub fn set_aside(&self, net: &Namespace) {
        assert_eq!(self.runtime, Runtime::Podman);
        self.command(net, &["stop", "--time", "0", &self.name]).expect(0);
        self.command(net, &["rename", &self.name, &self.aside()]).expect(0);
    }

    fn aside(&self) -> String {
        format!("{}-aside", self.name)
    }

    /// Runs a line of shell in it.
    #[track_caller]
    pub fn shell(&self, net: &Namespace, line: &str) -> Output {
        self.command(net, &["exec", &self.name, "sh", "-ec", line])
    }

    fn command(&self, net: &Namespace, arguments: &[&str]) -> Output {
        let mut command = match self.runtime {
            Runtime::Runc => match &self.before {
                Some(before) => after(net, before, "runc"),
                None => net.command("runc"),
            },
            Runtime::Crun => crun(net),
            Runtime::Podman => {
                let mut command = net.command("podman");
                command.args(["--cgroup-manager=cgroupfs", "--runtime=runc"]);
                command
            }
        };
        // In the bundle: what is a container's must not be asked for by a path.
        run(command.current_dir(&self.bundle).args(arguments), b"", LIMIT)
    }

    fn image(&self) -> String {
        format!("localhost/{}", self.name)
    }

    #[track_caller]
    fn import(&self) {
        let archive = self.bundle.join("root.tar");
        let mut tar = Command::new("tar");
        run(tar.arg("-C").arg(self.root()).arg("-cf").arg(&archive).arg("."), b"", LIMIT).expect(0);
        let mut import = Command::new("podman");
        run(import.arg("import").arg(&archive).arg(self.image()), b"", LIMIT).expect(0);
    }

    #[track_caller]
    fn configure(&self) {
        let namespaces =
            ["pid", "ipc", "uts", "mount"].map(|kind| serde_json::json!({ "type": kind }));
        let capabilities = ["CAP_SYS_ADMIN", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_MKNOD"];
        let config = serde_json::json!({
            "ociVersion": "1.0.0",
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "args": ["sh", "-e", "/start"],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
            },
            "root": { "path": "rootfs", "readonly": false },
            "hostname": "shop",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/run", "type": "tmpfs", "source": "tmpfs" },
            ],
            "linux": {
                "namespaces": namespaces,
            },
        });
        fs::write(self.bundle.join("config.json"), config.to_string()).unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let own = Command::new;
        let name = &self.name;
        let mut commands = match self.runtime {
            Runtime::Runc => vec![own("runc")],
            Runtime::Crun => vec![own("crun")],
            Runtime::Podman => vec![own("podman"), own("podman")],
        };
        for (number, command) in commands.iter_mut().enumerate() {
            match (self.runtime, number) {
                (Runtime::Podman, 0) => command
                    .args(["rm", "--force", "--ignore", "--time", "0", name])
                    .arg(self.aside()),
                (Runtime::Podman, _) => command.args(["rmi", "--force", &self.image()]),
                _ => command.args(["delete", "--force", name]),
            };
            let ended = run(command.current_dir("/"), b"", LIMIT);
            if ended.code != Some(0) && !ended.all().contains("does not exist") {
                eprintln!("remove the container {name}: {}", ended.all());
            }
        }
        remove_parents();
    }
}

/// The groups that Podman leaves above those of its containers, where they are empty.
fn remove_parents() {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    for hierarchy in hierarchies.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]) {
        for group in ["libpod_parent/conmon", "libpod_parent", "conmon"] {
            let _ = fs::remove_dir(hierarchy.join(group));
        }
    }
}

/// crun refuses hosts with cgroups of both kinds: it gets to see the v1 ones alone.
fn crun(net: &Namespace) -> Command {
    if !Path::new("/sys/fs/cgroup/unified").is_dir() {
        return net.command("crun");
    }
    after(net, "umount /sys/fs/cgroup/unified", "crun")
}

/// A program in a mount namespace of its own, after a line of shell there.
fn after(net: &Namespace, line: &str, program: &str) -> Command {
    let mut command = net.command("unshare");
    let line = format!("{line}\nexec {program} \"$@\"");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", &line, program]);
    command
}
