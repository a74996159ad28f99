//! Network namespaces on the real kernel. Needs root.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use hyperspector_sys::netns;

/// What the mount table of this process says of a path.
fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

#[test]
fn a_namespace_is_kept_at_a_path_until_it_is_removed() {
    let directory = tempfile::Builder::new().prefix("hs-netns-").tempdir().unwrap();
    let path = directory.path().join("one");
    let made = netns::create(&path).unwrap();
    let opened = netns::open(&path).unwrap();
    assert!(netns::is_same(made.as_fd(), opened.as_fd()).unwrap());
    assert!(!netns::is_same(made.as_fd(), netns::current().unwrap().as_fd()).unwrap());
    assert!(is_mounted(&path));

    let again = netns::create(&path).unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
    assert!(netns::open(&path).is_ok(), "the failed attempt took nothing away");

    netns::remove(&path).unwrap();
    assert!(!is_mounted(&path) && !path.exists());
    netns::remove(&path).unwrap();
}

#[test]
fn a_file_left_without_its_mount_is_no_namespace_and_can_be_removed() {
    let directory = tempfile::Builder::new().prefix("hs-netns-").tempdir().unwrap();
    let path = directory.path().join("stale");
    std::fs::write(&path, "").unwrap();
    assert!(netns::open(&path).is_err());
    netns::remove(&path).unwrap();
    assert!(!path.exists());
}

#[test]
fn the_callers_thread_stays_where_it_was() {
    let before = netns::identity(netns::current().unwrap().as_fd()).unwrap();
    let other = netns::new().unwrap();
    let wanted = netns::identity(other.as_fd()).unwrap();
    let inside = netns::within(other.as_fd(), || {
        netns::identity(netns::current().unwrap().as_fd()).unwrap()
    });
    assert_eq!(inside.unwrap(), wanted);
    assert_eq!(netns::identity(netns::current().unwrap().as_fd()).unwrap(), before);
}

#[test]
fn a_program_started_within_sees_that_namespace() {
    let other = netns::new().unwrap();
    let wanted = format!("net:[{}]", netns::identity(other.as_fd()).unwrap().inode);
    let output = netns::within(other.as_fd(), || {
        Command::new("readlink").arg("/proc/self/ns/net").output().unwrap()
    });
    assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap().trim(), wanted);
}

#[test]
fn a_panic_within_goes_on_outside() {
    let other = netns::new().unwrap();
    let caught = std::panic::catch_unwind(|| netns::within(other.as_fd(), || panic!("inside")));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"inside"));
}

#[test]
fn sysctls_are_set_there_and_nowhere_else() {
    let name = "net/ipv4/ip_default_ttl";
    let (a, b) = (netns::new().unwrap(), netns::new().unwrap());
    netns::sysctl(a.as_fd(), name, "77").unwrap();
    assert_eq!(netns::read_sysctl(a.as_fd(), name).unwrap(), "77");
    assert_eq!(netns::read_sysctl(b.as_fd(), name).unwrap(), "64");
    assert_ne!(std::fs::read_to_string(format!("/proc/sys/{name}")).unwrap().trim(), "77");
}

#[test]
fn a_sysctl_that_is_refused_is_named() {
    let other = netns::new().unwrap();
    let settings = [("net/ipv4/ip_forward", "1"), ("net/ipv4/ip_default_ttl", "lots")];
    let error = netns::sysctls(other.as_fd(), &settings).unwrap_err().to_string();
    assert!(error.starts_with("set net/ipv4/ip_default_ttl to lots: "), "{error}");
    assert!(netns::sysctl(other.as_fd(), "net/ipv4/none", "1").is_err());
}
