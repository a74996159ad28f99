//! The file window, and what can be done through it.

use std::fs;

use hyperspector_tests::{Fleet, ServerFiles, TestHost, expect_refused};

/// A server `site` with its files, watched by `alpha/fim`.
fn site(fleet: &Fleet, watch: &str, more: &str) -> (ServerFiles, String) {
    let files = ServerFiles::make(&fleet.dir().join("site"));
    let spec = format!(
        "[host.web1]\n\n[server.site]\non = [\"web1\"]\nadopt = {{ directory = \"{}\" }}\n\n\
         [hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n\n\
         [hyperspector.alpha.portspace.fim]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\
         watch.files = {watch}\n{more}\n",
        files.path().display()
    );
    (files, spec)
}

fn up<'a>(fleet: &'a Fleet, watch: &str, more: &str) -> (&'a TestHost, ServerFiles) {
    let (files, spec) = site(fleet, watch, more);
    let host = fleet.host("web1");
    let spec = host.spec(&spec);
    host.up(&spec);
    (host, files)
}

const TARGET: &str = "/.serverfs/site/hs-target";

#[test]
fn content_owners_and_modes_show_as_they_are() {
    for ids in ["private", "host"] {
        let fleet = Fleet::new(&["web1"]);
        let (host, _files) = up(&fleet, "[\"site\"]", &format!("ids = \"{ids}\""));
        let inside = |line: &str| host.shell("alpha/fim", &format!("cd {TARGET}; {line}"));
        assert_eq!(inside("cat plain.txt"), "plain", "{ids}");
        assert_eq!(inside("cat root-only.txt"), "root only", "{ids}");
        assert_eq!(inside("stat -c %u:%g plain.txt"), "0:0", "{ids}");
        assert_eq!(inside("stat -c %u:%g owned.txt"), "1234:1234", "{ids}");
        assert_eq!(inside("stat -c %a root-only.txt program"), "600\n4755", "{ids}");
    }
}

#[test]
fn changes_show_at_once() {
    let fleet = Fleet::new(&["web1"]);
    let (host, files) = up(&fleet, "[\"site\"]", "");
    let inside = |line: &str| host.shell("alpha/fim", &format!("cd {TARGET}; {line}"));
    assert_eq!(inside("ls plain.txt new.txt 2>/dev/null; cat plain.txt"), "plain.txt\nplain");
    fs::write(files.target().join("plain.txt"), "changed\n").unwrap();
    fs::write(files.target().join("new.txt"), "new\n").unwrap();
    assert_eq!(inside("cat plain.txt new.txt"), "changed\nnew");
    fs::rename(files.target().join("new.txt"), files.target().join("plain.txt")).unwrap();
    assert_eq!(inside("cat plain.txt; ls new.txt 2>/dev/null || true"), "new");
}

#[test]
fn masked_paths_do_not_show() {
    let fleet = Fleet::new(&["web1"]);
    let watch = r#"[{ server = "site", mask = ["hs-target/private", "hs-target/root-only.txt"] }]"#;
    let (host, files) = up(&fleet, watch, "");
    let lines = host.attack(
        "alpha/fim",
        &[
            "hidden-paths",
            "--hidden",
            &format!("{TARGET}/private"),
            "--hidden",
            &format!("{TARGET}/private/key"),
            "--hidden",
            &format!("{TARGET}/root-only.txt"),
            "--hidden",
            &format!("{TARGET}/../hs-target/private/key"),
        ],
    );
    expect_refused(&lines, &[], &[]);
    assert_eq!(host.shell("alpha/fim", &format!("cat {TARGET}/plain.txt")), "plain");
    assert_eq!(fs::read_to_string(files.target().join("private/key")).unwrap(), "a private key\n");
}

#[test]
fn mount_flags_are_read_only_nosuid_nodev_noexec() {
    let fleet = Fleet::new(&["web1"]);
    let (host, _files) = up(&fleet, "[\"site\", \"base\"]", "");
    let table = host.shell("alpha/fim", "cat /proc/self/mountinfo");
    let points: Vec<&str> = table
        .lines()
        .filter(|line| line.split(' ').nth(4).unwrap().starts_with("/.serverfs/"))
        .collect();
    assert!(points.len() >= 2, "{table}");
    for line in points {
        let flags: Vec<&str> = line.split(' ').nth(5).unwrap().split(',').collect();
        for flag in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(flags.contains(&flag), "{flag} is missing: {line}");
        }
    }
}

#[test]
fn nothing_in_a_directory_s_window_can_be_touched() {
    for ids in ["private", "host"] {
        let fleet = Fleet::new(&["web1"]);
        let (host, files) = up(&fleet, "[\"site\"]", &format!("ids = \"{ids}\""));
        let (state, run) = (host.state_dir(), host.run_dir());
        let hidden = [state.display().to_string(), run.display().to_string()];
        let arguments = ["files", "namespaces", "--hidden", &hidden[0], "--hidden", &hidden[1]];
        files.attack((host, "alpha/fim"), &arguments, &[], &[]);
    }
}

#[test]
fn nothing_in_a_mounted_directory_can_be_touched() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let files = ServerFiles::make(&fleet.dir().join("site"));
    host.up_alpha(&format!(
        "[hyperspector.alpha.portspace.fim]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\
         mount = [{{ from = \"{}\", to = \"/etc/site\" }}]\n",
        files.path().display()
    ));
    // What is mounted for a portspace to use may hold programs, and pipes to the host.
    let to_use = ["file-execute", "file-mmap-exec", "fifo-open-write", "fifo-open-readwrite"];
    let arguments = ["files", "--files", "/etc/site"];
    files.attack((host, "alpha/fim"), &arguments, &to_use, &["hidden-paths"]);
}

#[test]
fn the_base_system_shows_without_pseudo_file_systems_and_ourselves() {
    let fleet = Fleet::new(&["web1"]);
    let (host, _files) = up(&fleet, "[\"base\"]", "");
    let release = fs::read_to_string("/etc/os-release").unwrap();
    let base = "/.serverfs/base";
    assert_eq!(host.shell("alpha/fim", &format!("cat {base}/etc/os-release")), release.trim_end());
    for dir in ["proc", "sys"] {
        assert_eq!(host.shell("alpha/fim", &format!("ls -A {base}/{dir} | wc -l")), "0", "{dir}");
    }
    // Below /dev there may be files of the root file system itself, but none of the host's devtmpfs.
    let kind = |path: &str| host.shell("alpha/fim", &format!("stat -f -c %T {path}"));
    assert_eq!(kind(&format!("{base}/dev")), kind(&format!("{base}/etc")));
    for dir in [host.state_dir(), host.run_dir()] {
        let line = format!("ls -A {base}{} 2>/dev/null | wc -l", dir.display());
        assert_eq!(host.shell("alpha/fim", &line), "0", "{}", dir.display());
    }
    // What another portspace, or this one itself, wrote does not show either.
    host.shell("alpha/fim", "echo x > /root/hs-test-written");
    let line =
        format!("find {base}{} -name hs-test-written 2>/dev/null | wc -l", host.dir().display());
    assert_eq!(host.shell("alpha/fim", &line), "0");
    assert_eq!(
        host.shell("alpha/fim", &format!("ls {base}/etc/shadow; stat -c %u {base}/etc/passwd"))
            .lines()
            .last(),
        Some("0")
    );
}

#[test]
fn nothing_in_the_base_system_s_window_can_be_touched() {
    let fleet = Fleet::new(&["web1"]);
    let (host, files) = up(&fleet, "[\"base\"]", "ids = \"host\"");
    let window = format!("/.serverfs/base{}", files.path().display());
    files.attack((host, "alpha/fim"), &["files", "--files", &window], &[], &["hidden-paths"]);
}
