//! Owners that can be shifted, and overlays.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hyperspector_space::userns;
use hyperspector_sys::mount::{attr, clone_tree, set_attributes};
use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, mount, mount_change, move_mount,
};
use rustix::thread::UnshareFlags;

use super::kernel::TRIED_IDS;
use super::{Part, Row, Want, in_thread, text};

/// File systems that an overlay does not take as its upper layer.
const NO_UPPER: &[&str] = &["overlay", "nfs", "nfs4", "cifs", "smb3", "vfat", "exfat", "squashfs"];

/// A directory that every system has; a private mount covers it for the time of a trial.
const PLACE: &str = "/tmp";

pub(super) fn rows(state: &Path) -> Vec<Row> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let state = existing(state);
    let root_shifts = shifts(Path::new("/"));
    let overlay = overlay(root_shifts.is_ok());
    vec![
        owners(Part::Portspaces, "owners on /", Path::new("/"), &table, &root_shifts),
        owners(Part::Portspaces, "owners on the state", state, &table, &shifts(state)),
        Row::tried(
            Part::Portspaces,
            "overlay",
            overlay,
            Want::essential("CONFIG_OVERLAY_FS=y or =m"),
        ),
        layers(state, &table),
        view(&root_shifts),
        view_of_run(&table),
    ]
}

fn owners(
    part: Part,
    what: &'static str,
    path: &Path,
    table: &str,
    tried: &Result<(), String>,
) -> Row {
    let kind = kind_of(path, table);
    let result = match tried {
        Ok(()) => Ok(format!("{kind} at {}: shifted by an idmapped mount", path.display())),
        Err(why) => Err(format!("{kind} at {}: {why}", path.display())),
    };
    Row::tried(
        part,
        what,
        result,
        Want::degraded(
            "portspaces over it, or that watch its files, need ids = \"host\"",
            "ext4, xfs, btrfs or tmpfs, and Linux 5.12 to 6.3 or later, by file system; \
         on an overlay no kernel can",
        ),
    )
}

/// Shifts the owners of a detached clone of the mount that `path` is on.
fn shifts(path: &Path) -> Result<(), String> {
    let users = userns::create(TRIED_IDS, &[], TRIED_IDS.root()).map_err(text)?;
    let tree = clone_tree(path, false).map_err(text)?;
    set_attributes(tree.as_fd(), false, attr::IDMAP, 0, Some(users.as_fd())).map_err(text)
}

/// Mounts an overlay with `/` below, its owners shifted where they can be, and writes to it; all in
/// a mount namespace of its own, and with its upper layer in memory.
fn overlay(shifted: bool) -> Result<&'static str, String> {
    let users = userns::create(TRIED_IDS, &[], TRIED_IDS.root()).map_err(text)?;
    in_thread(|| {
        let flags = UnshareFlags::NEWNS | UnshareFlags::FS;
        // SAFETY: descriptors stay shared, and the thread ends with this closure.
        unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(text)?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).map_err(text)?;

        let lower = clone_tree("/", false).map_err(text)?;
        if shifted {
            let users = Some(users.as_fd());
            set_attributes(lower.as_fd(), false, attr::IDMAP, 0, users).map_err(text)?;
        }
        mount("hyperspector", PLACE, "tmpfs", MountFlags::empty(), c"mode=700").map_err(text)?;
        let place = Path::new(PLACE);
        for name in ["lower", "upper", "work", "root"] {
            fs::create_dir(place.join(name)).map_err(text)?;
        }
        let to = place.join("lower");
        move_mount(&lower, "", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(text)?;
        let options = c"lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work";
        let root = place.join("root");
        mount("overlay", &root, "overlay", MountFlags::empty(), options).map_err(text)?;
        fs::create_dir(root.join("hyperspector-doctor")).map_err(text)?;
        seen(&root.join("etc"), shifted)
    })
}

/// Whether a directory that was root's has the owner that it should.
fn seen(path: &Path, shifted: bool) -> Result<&'static str, String> {
    let owner = fs::metadata(path).map_err(text)?.uid();
    let wanted = if shifted { TRIED_IDS.root() } else { 0 };
    match (owner == wanted, shifted) {
        (true, true) => Ok("mounted over an idmapped layer, and written to"),
        (true, false) => Ok("mounted and written to; its lower layer cannot be idmapped"),
        (false, _) => Err(format!("a file of root's has owner {owner} in it, not {wanted}")),
    }
}

/// Where portspaces' layers would be.
fn layers(state: &Path, table: &str) -> Row {
    let kind = kind_of(state, table);
    let detail = format!("{} is on {kind}", state.display());
    let result = match kind.as_str() {
        kind if NO_UPPER.contains(&kind) || kind.starts_with("fuse") => Err(detail),
        "tmpfs" => Ok(format!("{detail}: gone with the next start of the machine")),
        _ => Ok(detail),
    };
    Row::tried(
        Part::Portspaces,
        "upper layers",
        result,
        Want::essential(
            "--state-dir on a file system that an overlay can write to: ext4, xfs, btrfs",
        ),
    )
}

/// File windows: clones of mounts, read-only.
fn view(root_shifts: &Result<(), String>) -> Row {
    let tried = clone_tree("/", false).and_then(|tree| {
        let set = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        set_attributes(tree.as_fd(), false, set, 0, None)
    });
    let result = match (tried, root_shifts) {
        (Ok(()), Ok(())) => Ok("a read-only clone of /, owners shifted"),
        (Ok(()), Err(_)) => Ok("a read-only clone of /, with ids = \"host\" alone"),
        (Err(error), _) => Err(text(error)),
    };
    Row::tried(
        Part::Files,
        "view of /",
        result,
        Want::missing(
            "no portspace can see a server's files",
            "Linux 5.12 or later (mount_setattr)",
        ),
    )
}

/// What of the base system is on a tmpfs, which is left out of its window where it cannot be shown.
fn view_of_run(table: &str) -> Row {
    let run = Path::new("/run");
    let kind = kind_of(run, table);
    let result = shifts(run).map(|()| format!("{kind}, owners shifted"));
    Row::tried(
        Part::Files,
        "view of /run",
        result.map_err(|why| format!("{kind}: {why}")),
        Want::degraded(
            "/run is left out of a window on the base system, unless ids = \"host\"",
            "Linux 6.3 or later (idmapped tmpfs)",
        ),
    )
}

/// The path, or the nearest above it that is there.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

/// The kind of file system that `path` is on, from the text of a mount table.
fn kind_of(path: &Path, table: &str) -> String {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mounts = table.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        Some((Path::new(mount.split(' ').nth(4)?), source.split(' ').next()?))
    });
    // Of several at one place the last counts, which `max_by_key` takes.
    mounts
        .filter(|(mount, _)| path.starts_with(mount))
        .max_by_key(|(mount, _)| mount.as_os_str().len())
        .map_or_else(|| "an unknown file system".to_owned(), |(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
27 1 254:0 / / rw - rootfs none rw
28 27 254:0 / / rw - ext4 /dev/vda rw
29 28 0:7 / /proc rw - proc proc rw
";

    #[test]
    fn the_kind_is_that_of_the_last_and_longest_mount() {
        assert_eq!(kind_of(Path::new("/no/such/path"), TABLE), "ext4");
        assert_eq!(kind_of(Path::new("/proc"), TABLE), "proc");
        assert_eq!(kind_of(Path::new("/"), ""), "an unknown file system");
    }

    #[test]
    fn the_nearest_directory_that_is_there_is_looked_at() {
        assert_eq!(existing(Path::new("/proc/no/such/path")), Path::new("/proc"));
    }

    #[test]
    fn layers_do_not_go_on_an_overlay() {
        let table = "27 1 0:30 / / rw - overlay overlay rw\n";
        assert!(layers(Path::new("/"), table).prevents_portspaces());
        assert!(!layers(Path::new("/"), TABLE).prevents_portspaces());
    }
}
