use super::*;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};

fn root() -> (tempfile::TempDir, OwnedFd) {
    let home = tempfile::tempdir().unwrap();
    let fd = fs::File::open(home.path()).unwrap().into();
    (home, fd)
}

const LOG: &str = "/log";

#[test]
fn what_is_at_a_path_is_told_apart() {
    let (home, root) = root();
    let path = home.path().join("log");
    let find = || look(root.as_fd(), Path::new(LOG)).unwrap();
    assert_eq!(find(), Found::Nothing);
    fs::write(&path, "").unwrap();
    assert_eq!(find(), Found::Other);
    fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    assert!(matches!(find(), Found::Connections(_)));
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
    drop(listener);
    assert!(matches!(find(), Found::Dead(_)));
    fs::remove_file(&path).unwrap();
    let socket = UnixDatagram::bind(&path).unwrap();
    let number = u32::try_from(fstat(&socket).unwrap().st_ino).unwrap();
    assert!(matches!(find(), Found::Datagrams(_, found) if found == number));
    let taken = take([std::process::id()], number).unwrap();
    assert_eq!(fstat(&taken).unwrap().st_ino, fstat(&socket).unwrap().st_ino);
    assert!(take([std::process::id()], 1).is_err());
}

#[test]
fn a_socket_is_placed_where_nobody_has_one() {
    let (home, root) = root();
    let path = home.path().join("log");
    let place = || bind(root.as_fd(), Path::new(LOG), SocketKind::Dgram);
    drop(UnixDatagram::bind(&path).unwrap());
    let (socket, id) = place().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    UnixDatagram::unbound().unwrap().send_to(b"x", &path).unwrap();
    assert_eq!(place().unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(socket);
    remove(root.as_fd(), Path::new(LOG), id).unwrap();
    remove(root.as_fd(), Path::new(LOG), id).unwrap();
    fs::write(&path, "").unwrap();
    assert!(place().is_err() && path.exists());
}

#[test]
fn what_is_renamed_over_a_socket_of_ours_is_not_taken_for_it() {
    let (home, root) = root();
    let [path, other] = ["log", "other"].map(|name| home.path().join(name));
    let place = |path: &Path| open(root.as_fd(), path, OFlags::PATH).unwrap();
    let socket: OwnedFd = UnixDatagram::bind(&path).unwrap().into();
    assert!(is_bound_to(&socket, &place(Path::new(LOG))).unwrap());
    let _other = UnixDatagram::bind(&other).unwrap();
    fs::rename(&other, &path).unwrap();
    assert!(!is_bound_to(&socket, &place(Path::new(LOG))).unwrap());
}

#[test]
fn a_race_for_the_path_changes_no_file_of_others() {
    let (home, root) = root();
    let [path, other] = ["log", "other"].map(|name| home.path().join(name));
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let racer = scope.spawn(|| {
            let mut changed = 0;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                drop(UnixDatagram::bind(&other).unwrap());
                fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
                let file = open(root.as_fd(), Path::new("/other"), OFlags::PATH).unwrap();
                fs::rename(&other, &path).unwrap();
                std::thread::yield_now();
                changed += u32::from(fstat(&file).unwrap().st_mode & 0o777 != 0o600);
                let _ = fs::remove_file(&path);
            }
            changed
        });
        for _ in 0..2000 {
            let _ = bind(root.as_fd(), Path::new(LOG), SocketKind::Dgram);
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(racer.join().unwrap(), 0, "files of others were opened for everybody");
    });
}

#[test]
fn a_link_to_nothing_yet_is_followed() {
    let (home, root) = root();
    fs::create_dir(home.path().join("run")).unwrap();
    std::os::unix::fs::symlink("/run/log.socket", home.path().join("log")).unwrap();
    let (_socket, id) = bind(root.as_fd(), Path::new(LOG), SocketKind::Stream).unwrap();
    assert!(home.path().join("run/log.socket").exists());
    assert_eq!(look(root.as_fd(), Path::new(LOG)).unwrap(), Found::Connections(id));
    remove(root.as_fd(), Path::new(LOG), id).unwrap();
    assert!(!home.path().join("run/log.socket").exists());
}

#[test]
fn links_of_others_are_not_followed() {
    let (home, root) = root();
    fs::create_dir(home.path().join("app")).unwrap();
    let link = home.path().join("app/log");
    std::os::unix::fs::symlink("/other", &link).unwrap();
    let path = Path::new("/app/log");
    // SAFETY: geteuid takes nothing and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        std::os::unix::fs::lchown(&link, Some(65534), Some(65534)).unwrap();
        let refused = Some(libc::ELOOP);
        assert_eq!(look(root.as_fd(), path).unwrap_err().raw_os_error(), refused);
        let placed = bind(root.as_fd(), path, SocketKind::Dgram);
        assert_eq!(placed.unwrap_err().raw_os_error(), refused);
        assert!(!home.path().join("other").exists());
        std::os::unix::fs::lchown(&link, Some(0), Some(0)).unwrap();
    }
    bind(root.as_fd(), path, SocketKind::Dgram).unwrap();
    assert!(home.path().join("other").exists());
}

#[test]
fn ours_is_exchanged_for_the_receiver_s_and_back() {
    let (home, root) = root();
    let path = home.path().join("log");
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let receiver = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
    let real = inode(&path);
    let ours = interpose(root.as_fd(), Path::new(LOG)).unwrap();
    assert_eq!((ours.kind, inode(&path)), (SocketKind::Stream, ours.file.inode));
    assert_eq!(ours.real, Path::new("/.log.hyperspector"));
    assert_eq!(inode(&home.path().join(".log.hyperspector")), real);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
    restore(root.as_fd(), Path::new(LOG), ours.file).unwrap();
    restore(root.as_fd(), Path::new(LOG), ours.file).unwrap();
    assert_eq!(inode(&path), real);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    // A receiver that restarts meanwhile takes its path itself.
    let ours = interpose(root.as_fd(), Path::new(LOG)).unwrap();
    drop(receiver);
    fs::remove_file(&path).unwrap();
    let _next = UnixListener::bind(&path).unwrap();
    let real = inode(&path);
    restore(root.as_fd(), Path::new(LOG), ours.file).unwrap();
    assert_eq!((inode(&path), fs::read_dir(home.path()).unwrap().count()), (real, 1));
}

#[test]
fn links_lead_nowhere_outside() {
    let (outside, _) = root();
    let (home, root) = root();
    std::os::unix::fs::symlink(outside.path(), home.path().join("run")).unwrap();
    let path = Path::new("/run/log");
    assert!(bind(root.as_fd(), path, SocketKind::Dgram).is_err());
    assert_eq!(look(root.as_fd(), path).unwrap(), Found::Nothing);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}
