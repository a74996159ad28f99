//! What must be true of the changes window.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use hyperspector_window::changes::{Place, Reply, Request, Role};
use rustix::process::Signal;

use crate::lab::{Lab, USER, private, root_of, tmpfs};

pub fn what_happens_to_files_is_told() {
    let mut lab = Lab::new(|tree| {
        fs::create_dir_all(tree.join("etc")).unwrap();
        for name in ["written", "mode", "gone", "from"] {
            fs::write(tree.join("etc").join(name), "1").unwrap();
        }
    });
    let etc = lab.tree().join("etc");
    fs::write(etc.join("new"), "").unwrap();
    let open = OpenOptions::new().append(true).open(etc.join("written")).unwrap();
    (&open).write_all(b"more").unwrap();
    fs::set_permissions(etc.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(etc.join("gone")).unwrap();
    fs::rename(etc.join("from"), etc.join("to")).unwrap();
    symlink("nowhere", etc.join("link")).unwrap();
    fs::create_dir(etc.join("dir")).unwrap();
    assert_eq!(
        lab.changed(),
        [
            "/etc/dir created",
            "/etc/from moved",
            "/etc/gone deleted",
            "/etc/link created",
            "/etc/mode attributes",
            "/etc/new created+modified",
            "/etc/to moved",
            // It is still open: what is written is told before it is closed.
            "/etc/written modified",
        ]
    );
    drop(open);
    assert_eq!(lab.changed(), ["/etc/written modified"]);
    assert_eq!(lab.changed(), [""; 0]);
}

pub fn paths_of_any_bytes() {
    let mut lab = Lab::new(|_| ());
    let odd = OsStr::from_bytes(b"a\nb\xff\x1b \\ (deleted)");
    fs::create_dir(lab.tree().join(odd)).unwrap();
    fs::write(lab.tree().join(odd).join(odd), "1").unwrap();
    fs::write(lab.tree().join("last"), "").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let list = lab.list().0;
    let path = [b"/", odd.as_bytes(), b"/", odd.as_bytes()].concat();
    assert!(list.changes.contains_key(&path), "{list:?}");
    lab.scan();
}

pub fn a_renamed_directory_stands_for_all_below() {
    let mut lab = Lab::new(|tree| {
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/x"), "1").unwrap();
        fs::create_dir_all(tree.join("gone/below")).unwrap();
    });
    let tree = lab.tree();
    fs::write(tree.join("a/b/before"), "1").unwrap();
    fs::rename(tree.join("a"), tree.join("z")).unwrap();
    fs::write(tree.join("z/b/after"), "1").unwrap();
    fs::remove_dir_all(tree.join("gone")).unwrap();
    let changed = lab.changed();
    for expected in ["/a/ moved", "/z/ moved", "/z/b/after created+modified", "/gone/ deleted"] {
        assert!(changed.iter().any(|one| one == expected), "{expected} is not in {changed:?}");
    }
    let before = ["/a/b/before created+modified", "/z/b/before created+modified"];
    assert!(changed.iter().any(|one| before.contains(&one.as_str())), "{changed:?}");
}

pub fn only_what_is_in_the_tree_is_told() {
    let mut lab = Lab::bare();
    let whole = lab.dir.path().join("whole");
    tmpfs(&whole, "16m");
    fs::create_dir_all(whole.join("srv/www/state")).unwrap();
    fs::create_dir_all(whole.join("other")).unwrap();
    fs::write(whole.join("other/one"), "1").unwrap();
    symlink(whole.join("srv/www"), lab.tree()).unwrap();
    lab.start(&["/state", "/one/masked"]);
    lab.watch(&whole.join("srv/www"), "/");
    lab.watch(&whole.join("other/one"), "/etc/one");
    lab.scan();
    fs::write(whole.join("other/x"), "1").unwrap();
    fs::write(whole.join("srv/y"), "1").unwrap();
    fs::write(whole.join("srv/www/state/z"), "1").unwrap();
    fs::create_dir(whole.join("srv/www/one")).unwrap();
    fs::write(whole.join("srv/www/one/masked"), "1").unwrap();
    fs::write(whole.join("srv/www/one/shown"), "1").unwrap();
    fs::write(whole.join("other/one"), "2").unwrap();
    fs::create_dir(whole.join("outside")).unwrap();
    fs::rename(whole.join("outside"), whole.join("srv/www/inside")).unwrap();
    assert_eq!(
        lab.changed(),
        ["/etc/one modified", "/inside/ moved", "/one created", "/one/shown created+modified"]
    );
}

pub fn every_name_of_a_file_is_found() {
    let mut lab = Lab::bare();
    let whole = lab.dir.path().join("whole");
    tmpfs(&whole, "16m");
    fs::create_dir_all(whole.join("srv/bin")).unwrap();
    fs::create_dir_all(whole.join("tmp")).unwrap();
    for name in ["two", "quick", "calm"] {
        fs::write(whole.join("srv/bin").join(name), "1").unwrap();
    }
    fs::hard_link(whole.join("srv/bin/two"), whole.join("tmp/two")).unwrap();
    symlink(whole.join("srv"), lab.tree()).unwrap();
    lab.start(&[]);
    lab.watch(&whole.join("srv"), "/");
    lab.scan();
    // By a name outside of the tree.
    fs::write(whole.join("tmp/two"), "2").unwrap();
    assert_eq!(lab.changed(), ["/bin/two modified"]);
    // By a name that is made for it and gone at once.
    fs::hard_link(whole.join("srv/bin/quick"), whole.join("tmp/quick")).unwrap();
    fs::write(whole.join("tmp/quick"), "2").unwrap();
    fs::remove_file(whole.join("tmp/quick")).unwrap();
    let changed = lab.changed();
    assert!(changed.len() == 1 && changed[0].starts_with("/bin/quick "), "{changed:?}");
    // What is written elsewhere with several names is nobody's.
    fs::write(whole.join("tmp/a"), "1").unwrap();
    fs::hard_link(whole.join("tmp/a"), whole.join("tmp/b")).unwrap();
    assert_eq!(lab.changed(), [""; 0]);
}

pub fn a_mapped_write_is_told_in_the_end() {
    let mut lab = Lab::new(|tree| fs::write(tree.join("mapped"), [0; 4096]).unwrap());
    let file = OpenOptions::new().read(true).write(true).open(lab.tree().join("mapped")).unwrap();
    use std::os::fd::AsRawFd;
    let (length, both) = (4096, libc::PROT_READ | libc::PROT_WRITE);
    let (null, fd) = (std::ptr::null_mut(), file.as_raw_fd());
    // SAFETY: a new mapping at a place of the kernel's choice.
    let map = unsafe { libc::mmap(null, length, both, libc::MAP_SHARED, fd, 0) };
    assert_ne!(map, libc::MAP_FAILED);
    drop(file);
    // SAFETY: the mapping is 4096 bytes that nothing else refers to.
    unsafe { map.cast::<u8>().write_volatile(1) };
    // SAFETY: nothing refers to it any more.
    assert_eq!(unsafe { libc::munmap(map, length) }, 0);
    assert_eq!(lab.changed(), ["/mapped modified"]);
}

pub fn a_path_too_long_is_told_by_a_directory_above() {
    let mut lab = Lab::new(|_| ());
    let name = "d".repeat(200);
    let mut directory = File::open(lab.tree()).unwrap();
    use rustix::fs::{Mode, OFlags, mkdirat, openat};
    for _ in 0..30 {
        mkdirat(&directory, &name, Mode::RWXU).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        directory = openat(&directory, &name, flags, Mode::empty()).unwrap().into();
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    drop(openat(&directory, "deep", flags, Mode::RWXU).unwrap());
    let changed = lab.changed();
    let trees: Vec<_> = changed.iter().filter(|one| one.contains("/ ")).collect();
    assert!(!trees.is_empty() && trees.iter().all(|one| one.len() > 3500), "{trees:?}");
}

/// Writes a byte so many times.
fn write(file: &mut File, count: usize) -> Duration {
    let start = Instant::now();
    for _ in 0..count {
        file.write_all(b"x").unwrap();
    }
    start.elapsed()
}

pub fn a_file_that_is_written_to_often() {
    let mut lab = Lab::new(|tree| fs::write(tree.join("log"), "").unwrap());
    let log = lab.tree().join("log");
    let mut file = OpenOptions::new().append(true).open(&log).unwrap();
    let mut is_seldom_told = || {
        let before = lab.status().events;
        let time = write(&mut file, 300_000);
        let events = lab.status().events - before;
        println!("{events} events of 300000 writes, {} ns each", time.as_nanos() / 300_000);
        events < 30_000
    };
    // The worker may have to wait for a processor before it sees how often that is.
    assert!((0..5).any(|_| is_seldom_told()));
    assert_eq!(lab.changed(), ["/log modified"]);
    // Unseen when it happens, and told soon after.
    for round in 0..5 {
        write(&mut file, 1000);
        std::thread::sleep(Duration::from_millis(100 + round * 20));
        lab.scan();
        write(&mut file, 1);
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(lab.changed(), ["/log modified"], "round {round}");
    }
    // Under another name, at once.
    write(&mut file, 1000);
    std::thread::sleep(Duration::from_millis(150));
    fs::rename(&log, lab.tree().join("log.1")).unwrap();
    lab.scan();
    write(&mut file, 1);
    std::thread::sleep(Duration::from_millis(1500));
    let changed = lab.changed();
    assert!(changed.iter().any(|one| one.starts_with("/log.1 modified")), "{changed:?}");
}

pub fn an_overflow_means_scan_all() {
    let mut lab = Lab::new(|_| ());
    let worker = i32::try_from(lab.worker.as_ref().unwrap().id()).unwrap();
    let worker = rustix::process::Pid::from_raw(worker).unwrap();
    rustix::process::kill_process(worker, Signal::STOP).unwrap();
    let most = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
    let most: usize = most.trim().parse().unwrap();
    for number in 0..most {
        File::create(lab.tree().join(format!("f{number}"))).unwrap();
    }
    rustix::process::kill_process(worker, Signal::CONT).unwrap();
    assert!(lab.wait_all().contains("queue"));
    assert_eq!(lab.status().overflows, 1);
    lab.scan();
    fs::write(lab.tree().join("f0"), "later").unwrap();
    assert_eq!(lab.changed(), ["/f0 modified"]);
}

pub fn a_killed_worker_means_scan_all() {
    let mut lab = Lab::new(|_| ());
    lab.kill();
    fs::write(lab.tree().join("meanwhile"), "1").unwrap();
    lab.start(&[]);
    lab.watch(&lab.tree(), "/");
    assert!(lab.wait_all().starts_with("the journal began anew: for the "));
    lab.scan();
    fs::write(lab.tree().join("later"), "1").unwrap();
    assert_eq!(lab.changed(), ["/later created+modified"]);
}

pub fn a_full_disk_means_scan_all() {
    let mut lab = Lab::bare();
    tmpfs(&lab.tree(), "16m");
    tmpfs(&lab.windows().journal, "64k");
    lab.start(&[]);
    lab.watch(&lab.tree(), "/");
    lab.scan();
    let filler = lab.windows().journal.join("filler");
    let file = File::create(&filler).unwrap();
    let mut at = 0;
    while file.write_at(&[1; 4096], at).is_ok() {
        at += 4096;
    }
    for number in 0..2000 {
        fs::write(lab.tree().join(format!("a-long-name-to-fill-a-page-{number}")), "").unwrap();
    }
    let reason = lab.wait_all();
    assert!(reason.contains("written"), "{reason}");
    fs::remove_file(&filler).unwrap();
    drop(file);
    std::thread::sleep(std::time::Duration::from_millis(1200));
    let reason = lab.list().0.all.unwrap();
    assert_eq!(reason, "the journal could not be written", "a gap, and it can be written again");
    lab.scan();
    fs::write(lab.tree().join("later"), "1").unwrap();
    assert_eq!(lab.changed(), ["/later created+modified"]);
}

pub fn deletions_in_an_overlay_are_listed() {
    let mut lab = Lab::bare();
    let layers = lab.dir.path().join("layers");
    tmpfs(&layers, "16m");
    for name in ["upper", "work", "below/etc/old", "below/usr/bin", "below/whole/x"] {
        fs::create_dir_all(layers.join(name)).unwrap();
    }
    for name in ["etc/passwd", "etc/shadow", "etc/old/a", "usr/bin/sh", "whole/x/y"] {
        fs::write(layers.join("below").join(name), "1").unwrap();
    }
    overlay(&lab.tree(), &layers);
    lab.start(&[]);
    let group = lab.ask(&Request::Group, &[]).1.remove(0);
    let upper = root_of(&layers.join("upper"));
    use std::os::fd::AsFd;
    hyperspector_window::changes::fanotify::mark(group.as_fd(), upper.as_fd()).unwrap();
    lab.add(upper, "/", Role::Upper);
    lab.add(root_of(&layers.join("below")), "/", Role::Below);
    lab.add(root_of(&lab.tree()), "/", Role::Whole);
    symlink(layers.join("upper"), lab.windows().upper).unwrap();
    lab.scan();

    let tree = lab.tree();
    fs::remove_file(tree.join("etc/shadow")).unwrap();
    fs::remove_dir_all(tree.join("whole")).unwrap();
    // Opaque: overlayfs marks what only CAP_SYS_ADMIN can read.
    fs::remove_dir_all(tree.join("etc/old")).unwrap();
    fs::create_dir(tree.join("etc/old")).unwrap();
    fs::write(tree.join("etc/passwd"), "2").unwrap();
    let deleted = || fs::read_to_string(lab.windows().deleted).unwrap_or_default();
    let expected = "/etc/old/a\0/etc/shadow\0/whole\0";
    for _ in 0..100 {
        if deleted() == expected {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(deleted(), expected);
    let changes = lab.list().0.changes;
    let paths: Vec<_> = changes.keys().map(|path| String::from_utf8_lossy(path)).collect();
    assert_eq!(paths, ["/etc", "/etc/old", "/etc/old/a", "/etc/passwd", "/etc/shadow", "/whole"]);
    lab.scan();
    fs::write(tree.join("etc/passwd"), "3").unwrap();
    let changes = lab.list().0.changes;
    assert_eq!(changes.keys().collect::<Vec<_>>(), [b"/etc/passwd"]);
}

fn overlay(place: &Path, layers: &Path) {
    fs::create_dir_all(place).unwrap();
    let [below, upper, work] = ["below", "upper", "work"].map(|name| layers.join(name));
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        below.display(),
        upper.display(),
        work.display()
    );
    let options = std::ffi::CString::new(options).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("overlay", place, "overlay", flags, options.as_c_str()).unwrap();
}

pub fn mounts_come_and_go() {
    let mut lab = Lab::new(|tree| fs::create_dir(tree.join("mnt")).unwrap());
    let mnt = lab.tree().join("mnt");
    tmpfs(&mnt, "1m");
    lab.watch(&mnt, "/mnt");
    assert_eq!(lab.changed(), ["/mnt/ mounted"]);
    fs::write(mnt.join("x"), "1").unwrap();
    assert_eq!(lab.changed(), ["/mnt/x created+modified"]);
    let place = Place { path: b"/mnt".into(), role: Role::Tree, key: String::new() };
    assert!(matches!(lab.ask(&Request::Remove(vec![place]), &[]).0, Reply::Done));
    fs::write(mnt.join("x"), "2").unwrap();
    assert_eq!(lab.changed(), ["/mnt/ mounted"]);
    let places = vec![(b"/mnt".to_vec(), "no handles\nthere".to_owned())];
    assert!(matches!(lab.ask(&Request::Unwatched(places), &[]).0, Reply::Done));
    assert_eq!(lab.changed(), ["/mnt/ mounted"], "to be scanned every time");
    assert_eq!(lab.changed(), ["/mnt/ mounted"]);
}

pub fn the_worker_holds_little() {
    let lab = Lab::new(|tree| private(&tree.join("private")));
    let pid = lab.worker.as_ref().unwrap().id();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let user = format!("{USER} {USER} {USER} {USER}");
    assert_eq!((field("Uid"), field("Gid"), field("Groups")), (user.clone(), user, String::new()));
    // CAP_DAC_READ_SEARCH, and nothing to get more from.
    let read = "0000000000000004".to_owned();
    assert_eq!((field("CapEff"), field("CapPrm")), (read.clone(), read));
    let none = "0000000000000000".to_owned();
    assert_eq!(
        (field("CapInh"), field("CapBnd"), field("CapAmb")),
        (none.clone(), none.clone(), none)
    );
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".into(), "2".into()));
    let root = fs::read_link(format!("/proc/{pid}/root")).unwrap();
    assert_eq!(root, lab.windows().journal);
}
