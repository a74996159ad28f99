//! A container of Podman's without root: of a user who has no other ids than his own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::leftovers;
use crate::process::{Output, run};
use crate::root::Root;

const LIMIT: Duration = Duration::from_secs(60);

/// Whose it is: a user that every Debian has, and who has nothing.
const USER: (u32, u32) = (5, 60);

/// A container of a user's. Dropping it removes it.
#[derive(Debug)]
pub struct Rootless {
    name: String,
    home: PathBuf,
}

impl Rootless {
    /// Makes the user a home in `directory`, and an image there.
    #[track_caller]
    pub fn prepare(name: &str, directory: &Path) -> Self {
        let home = directory.join(name);
        let root = Root::make(&home.join("rootfs"));
        fs::create_dir_all(root.path().join("srv")).unwrap();
        fs::create_dir(home.join("run")).unwrap();
        let mut tar = Command::new("tar");
        let archive = home.join("root.tar");
        run(tar.arg("-C").arg(root.path()).arg("-cf").arg(&archive).arg("."), b"", LIMIT).expect(0);
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        for own in [&home, &home.join("run"), &archive] {
            chown(own, Some(USER.0), Some(USER.1)).unwrap();
        }
        let container = Self { name: name.to_owned(), home };
        container.podman(&["import", archive.to_str().unwrap(), &container.image()]).expect(0);
        container
    }

    /// Starts it: `line` is run first, and it stays. Returns its id, and its first process as the host
    /// sees it.
    #[track_caller]
    pub fn start(&self, line: &str) -> (String, i32) {
        let line = format!("{line}\nexec sleep 1000");
        let options = ["run", "--detach", "--replace", "--network=none", "--name", &self.name];
        let image = [&self.image()[..], "sh", "-ec", &line];
        let id = self.podman(&[&options[..], &image].concat()).text();
        let pid = self.podman(&["inspect", "--format", "{{.State.Pid}}", &self.name]).text();
        (id, pid.parse().unwrap())
    }

    /// Runs a line of shell in it.
    #[track_caller]
    pub fn shell(&self, line: &str) -> Output {
        self.podman(&["exec", &self.name, "sh", "-ec", line])
    }

    fn image(&self) -> String {
        format!("localhost/{}", self.name)
    }

    fn podman(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("setpriv");
        let (user, group) = (USER.0.to_string(), USER.1.to_string());
        command.args(["--reuid", &user, "--regid", &group, "--clear-groups", "podman"]);
        command.args(["--cgroup-manager=cgroupfs", "--runtime=runc"]).args(arguments);
        command.env("HOME", &self.home).env("XDG_RUNTIME_DIR", self.home.join("run"));
        run(command.env_remove("XDG_CONFIG_HOME").current_dir(&self.home), b"", LIMIT)
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        let ended = self.podman(&["rm", "--force", "--time", "0", &self.name]);
        if ended.code != Some(0) {
            eprintln!("remove the container {}: {}", self.name, ended.all());
        }
        // The process that keeps the user's namespaces.
        let keeper = fs::read_to_string(self.home.join("run/libpod/tmp/pause.pid"));
        if let Some(pid) = keeper.ok().and_then(|pid| pid.trim().parse().ok()) {
            leftovers::kill(pid);
        }
    }
}
