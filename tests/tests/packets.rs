//! The packet window.
//!
//! ```text
//!   portspaces             hs-t….web1                      hs-t….switch
//!   eth0 (shadow) ......... eth0 (watched) --------------- web1 [br0]
//!                           eth1 (not watched) --- eth1-peer
//! ```

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyperspector_tests::attacker::{Line, Outcome};
use hyperspector_tests::{Fleet, Frames, Running, TestHost, expect_refused, run, wait_until};

/// What the attacker writes into its frames (`tests/src/attacker/packets.rs`).
const MAGIC: &[u8] = b"hyperspector-attack-frame";

fn watcher(name: &str, command: &str) -> String {
    format!(
        "[hyperspector.alpha.portspace.{name}]\non = [\"web1\"]\ncommand = {command}\n\
         watch.packets = {{ interfaces = [\"eth0\", \"lo\"], ring = \"16MiB\" }}\n\n"
    )
}

const SLEEP: &str = r#"["sleep", "1000"]"#;
const TCPDUMP: &str =
    r#"["tcpdump", "-Z", "root", "-i", "eth0", "-n", "-l", "-A", "ether", "proto", "0x88b5"]"#;

/// Sends frames from the switch until the condition holds.
fn send_until(fleet: &Fleet, text: &str, mut done: impl FnMut() -> bool) {
    let sender = Frames::on(fleet.switch(), "web1");
    wait_until("frames are seen", || {
        sender.send(text.as_bytes());
        done()
    });
}

#[test]
fn tcpdump_sees_what_comes_in() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_alpha(&watcher("nids", TCPDUMP));
    send_until(&fleet, "seen-by-tcpdump", || host.logs("alpha/nids").contains("seen-by-tcpdump"));
}

#[test]
fn two_portspaces_see_the_same_frames() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_alpha(&(watcher("one", TCPDUMP) + &watcher("two", TCPDUMP)));
    host.wait_log("alpha/one", "listening on");
    host.wait_log("alpha/two", "listening on");
    send_until(&fleet, "seen-by-both", || {
        ["alpha/one", "alpha/two"].iter().all(|name| host.logs(name).contains("seen-by-both"))
    });
}

#[test]
fn the_shadow_has_the_interface_s_index_and_address() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_alpha(&watcher("nids", SLEEP));
    host.pid("alpha/nids");
    let real = host.net.ip_json(&["link", "show", "eth0"])[0].clone();
    let read = |file: &str| host.shell("alpha/nids", &format!("cat /sys/class/net/eth0/{file}"));
    let shown = host.exec("alpha/nids", &["ip", "-j", "link", "show", "eth0"]).text();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    for field in ["ifindex", "address", "mtu"] {
        assert_eq!(shown[0][field], real[field], "{field}");
    }
    if host.exec("alpha/nids", &["test", "-e", "/sys/class/net/eth0"]).code == Some(0) {
        assert_eq!(read("address"), real["address"].as_str().unwrap());
    }
}

/// A host with an interface that is not watched, and frames on it all the time.
fn with_unwatched(fleet: &Fleet) -> (&TestHost, String) {
    let host = fleet.host("web1");
    host.net.ip(&["link", "add", "eth1", "type", "veth", "peer", "name", "eth1-peer"]);
    host.net.ip(&["link", "set", "eth1", "up"]);
    host.net.ip(&["link", "set", "eth1-peer", "up"]);
    let index = host.net.ip_json(&["link", "show", "eth1"])[0]["ifindex"].to_string();
    (host, index)
}

/// Runs the attacks on packets, with frames on the interface that is not watched meanwhile.
fn attack(host: &TestHost, arguments: &[&str]) -> Vec<Line> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let sender = Frames::on(&host.net, "eth1-peer");
            while !done.load(Ordering::Relaxed) {
                sender.send(b"not-for-you");
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let lines = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            host.attack("alpha/nids", arguments)
        }));
        done.store(true, Ordering::Relaxed);
        lines.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn nothing_can_be_sent_or_changed() {
    let fleet = Fleet::new(&["web1"]);
    let (host, unwatched) = with_unwatched(&fleet);
    host.up_alpha(&watcher("nids", SLEEP));
    host.pid("alpha/nids");
    let owner = Running::start(host.net.command("tcpdump").args(["-i", "eth0", "-n", "-l"]));
    wait_until("tcpdump listens", || owner.output().contains("listening on"));
    let peer = Frames::on(fleet.switch(), "web1");
    let unwatched_peer = Frames::on(&host.net, "eth1-peer");
    let loopback = Frames::on(&host.net, "lo");
    let _group = Frames::on(&host.net, "eth0").in_fanout_group(77);
    let before = fleet.switch().received("web1");
    let links = host.net.ip(&["-d", "link"]);

    let lines = attack(
        host,
        &[
            "packets",
            "seccomp-listener",
            "--unwatched",
            &unwatched,
            "--fanout",
            "77",
            "--ring-limit",
            "16777216",
        ],
    );

    for (name, frames) in [("eth0", peer), ("eth1", unwatched_peer), ("lo", loopback)] {
        assert_eq!(frames.count(MAGIC, Duration::from_millis(50)), 0, "frames on {name}");
    }
    assert_eq!(fleet.switch().received("web1"), before, "the switch received nothing");
    assert_eq!(host.net.ip(&["-d", "link"]), links, "the links are as they were");
    expect_refused(&lines, &[], &[]);
}

#[test]
fn interfaces_that_appear_later_are_guarded_too() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_alpha(&watcher("nids", SLEEP));
    host.pid("alpha/nids");
    let (host, _) = with_unwatched(&fleet);
    // A frame for it by index does not leave.
    let peer = Frames::on(&host.net, "eth1-peer");
    let lines = host.attack("alpha/nids", &["packet-sendto", "packet-send-bound"]);
    assert_eq!(peer.count(MAGIC, Duration::from_millis(100)), 0);
    assert!(lines.iter().all(|line| line.verdict.outcome != Outcome::Possible), "{lines:?}");
}

#[test]
fn an_interface_is_guarded_from_its_first_moment() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    // The default depends on how old the host's nft is; see docs/threat-model.md.
    let spec = host.alpha(&watcher("nids", SLEEP));
    let mut up = host.command();
    up.env("HYPERSPECTOR_NEW_INTERFACES", "always").arg("up").arg(spec).arg("-d");
    run(&mut up, b"", Duration::from_secs(30)).expect(0);
    host.pid("alpha/nids");
    let done = AtomicBool::new(false);
    let everything = Frames::everywhere(&host.net);
    let lines = std::thread::scope(|scope| {
        let making = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // A bridge is up, and takes frames, from the moment in which it is there.
                host.net.ip(&["link", "add", "new0", "up", "type", "bridge"]);
                host.net.ip(&["link", "delete", "new0"]);
            }
        });
        let lines = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            host.attack("alpha/nids", &["packet-new-interfaces"])
        }));
        done.store(true, Ordering::Relaxed);
        making.join().unwrap();
        lines.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    assert_eq!(everything.count(MAGIC, Duration::from_millis(50)), 0, "frames that left");
    expect_refused(&lines, &[], &[]);
}

#[test]
fn a_capture_is_not_lost_when_another_portspace_attacks_it() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_alpha(&(watcher("one", TCPDUMP) + &watcher("nids", SLEEP)));
    host.wait_log("alpha/one", "listening on");
    host.attack("alpha/nids", &["packets", "--ring-limit", "16777216", "--fanout", "1"]);
    send_until(&fleet, "still-captured", || host.logs("alpha/one").contains("still-captured"));
}

#[test]
fn a_fanout_group_of_the_host_keeps_all_its_frames() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_alpha(&watcher("nids", SLEEP));
    host.pid("alpha/nids");
    let owner = Frames::on(&host.net, "eth0").in_fanout_group(77);
    let sender = Frames::on(fleet.switch(), "web1");
    let done = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) && sent < 2000 {
                sender.send(b"fanout-probe");
                sent += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            sent
        });
        let lines = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            host.attack("alpha/nids", &["fanout-foreign-group", "--fanout", "77"])
        }));
        done.store(true, Ordering::Relaxed);
        let sent = sending.join().unwrap();
        if let Err(panic) = lines {
            std::panic::resume_unwind(panic);
        }
        sent
    });
    assert_eq!(owner.count(b"fanout-probe", Duration::from_millis(200)), sent);
}

#[test]
fn a_portspace_without_a_packet_window_has_no_packet_sockets() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_alpha(&format!(
        "[hyperspector.alpha.portspace.ids]\non = [\"web1\"]\ncommand = {SLEEP}\n"
    ));
    let lines =
        host.attack("alpha/ids", &["packet-sendto", "packet-old-socket", "socket-namespace"]);
    for line in &lines {
        assert_eq!(line.verdict.outcome, Outcome::Refused, "{line:?}");
        assert!(line.verdict.detail.starts_with("socket"), "{line:?}");
    }
}

#[test]
fn transmit_programs_are_gone_after_down() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let links = host.net.ip(&["-d", "link"]);
    host.up_alpha(&watcher("nids", SLEEP));
    host.pid("alpha/nids");
    host.hyperspector(&["down", "--purge"]).expect(0);
    assert_eq!(host.net.ip(&["-d", "link"]), links);
    let mut tc = host.net.command("tc");
    let shown = hyperspector_tests::run(tc.args(["qdisc", "show"]), b"", Duration::from_secs(5));
    assert!(!shown.stdout.contains("clsact"), "{}", shown.stdout);
    // And sending works again for the host itself.
    let peer = Frames::on(fleet.switch(), "web1");
    Frames::on(&host.net, "eth0").send(b"free-again");
    assert_eq!(peer.count(b"free-again", Duration::from_millis(200)), 1);
    assert!(fs::exists("/proc/self").unwrap());
}
