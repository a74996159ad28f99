//! What this machine has: the facts that a spec is held against.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hyperspector_space::init::child::PATH;
use hyperspector_spec::Facts;
use hyperspector_spec::plan::Root;
use hyperspector_sys::netlink::Connection;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

/// This machine, as the calling process sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

impl Facts for Machine {
    fn is_command(&self, root: &Root, command: &str) -> bool {
        let root = match root {
            Root::Base => Path::new("/"),
            Root::Directory(path) => path,
        };
        let candidates: Vec<PathBuf> = if command.contains('/') {
            vec![command.into()]
        } else {
            PATH.split(':').map(|directory| Path::new(directory).join(command)).collect()
        };
        candidates.iter().any(|path| is_program(root, path))
    }

    fn has_interface(&self, name: &str) -> bool {
        self.interfaces().iter().any(|known| known == name)
    }

    fn interfaces(&self) -> Vec<String> {
        let links = Connection::open().and_then(|mut netlink| netlink.links());
        links.unwrap_or_default().into_iter().map(|link| link.name).collect()
    }

    fn is_directory(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }
}

/// Whether `path`, seen from `root`, is a file that may be executed.
fn is_program(root: &Path, path: &Path) -> bool {
    let Ok(file) = beneath(root, path) else { return false };
    let found = fs::File::from(file).metadata();
    found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Opens `path` as it would be found by a process whose root is `root`.
fn beneath(root: &Path, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
    let below = path.strip_prefix("/").unwrap_or(path);
    openat2(directory, below, flags, Mode::empty(), ResolveFlags::IN_ROOT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn commands_are_looked_up_in_the_root_and_links_stay_there() {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("usr/bin");
        fs::create_dir_all(&bin).unwrap();
        symlink("usr/bin", root.path().join("bin")).unwrap();
        fs::write(bin.join("ids"), "").unwrap();
        symlink("/usr/bin/ids", bin.join("link")).unwrap();
        let root = Root::Directory(root.path().to_owned());
        assert!(!Machine.is_command(&root, "ids"), "not executable yet");
        fs::set_permissions(bin.join("ids"), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Machine.is_command(&root, "ids"));
        assert!(Machine.is_command(&root, "/bin/ids"));
        assert!(Machine.is_command(&root, "link"));
        assert!(!Machine.is_command(&root, "sh"));
    }
}
