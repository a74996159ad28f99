//! Keys that change without a gap, one host after the other, whoever dies meanwhile.
//!
//! ```text
//!   web1: alpha/tools ---+
//!   web2: alpha/tools ---[switch]--- mon1: alpha/tools
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use hyperspector_tests::{Fleet, Running, TestHost, Vpn, patience, wait_until};

const HOSTS: [&str; 3] = ["web1", "web2", "mon1"];

/// The words of a text that are keys.
fn keys_in(text: &str) -> Vec<String> {
    let words = text.split(|c: char| c == '"' || c.is_whitespace());
    words.filter(|word| word.len() == 44 && word.ends_with('=')).map(str::to_owned).collect()
}

/// A fleet, and the keys of each host as its spec has them.
struct Rotation {
    fleet: Fleet,
    backend: &'static str,
    keys: BTreeMap<&'static str, Vec<String>>,
}

impl Rotation {
    fn new() -> Self {
        Self::with("embedded")
    }

    fn with(backend: &'static str) -> Self {
        let fleet = Fleet::new(&HOSTS);
        let keys = HOSTS.map(|name| (name, vec![fleet.host(name).key("alpha")])).into();
        let all = Self { fleet, backend, keys };
        HOSTS.iter().for_each(|name| drop(all.up(name)));
        let [web1, web2, mon1] = all.hosts();
        wait_until("all reach each other", || {
            pings(web1, mon1) && pings(web2, mon1) && pings(web1, web2)
        });
        all
    }

    fn hosts(&self) -> [&TestHost; 3] {
        HOSTS.map(|name| self.fleet.host(name))
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (name, keys) in &self.keys {
            let address = self.fleet.host(name).address();
            text += &format!("[host.{name}]\nendpoint = \"{address}\"\nkey.alpha = {keys:?}\n");
        }
        text + &format!(
            "[hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\nvpn = {:?}\nallow = \"all\"\n\
             [hyperspector.alpha.portspace.tools]\non = {HOSTS:?}\ncommand = [\"sleep\", \"1000\"]\n",
            self.backend
        )
    }

    fn up(&self, name: &str) -> String {
        let host = self.fleet.host(name);
        host.up(&host.spec(&self.text())).all()
    }

    fn vpn(&self, name: &str) -> Vpn {
        let status = self.fleet.host(name).status();
        status.hyperspector("alpha").unwrap().vpn.clone().unwrap()
    }

    /// `key rotate` on a host, and its line into the spec.
    fn begin(&mut self, name: &'static str) {
        let printed = self.fleet.host(name).hyperspector(&["key", "rotate", "alpha"]).text();
        let keys = keys_in(&printed);
        assert_eq!(keys.len(), 2, "{printed}");
        assert_eq!(keys[0], self.keys[name][0]);
        self.keys.insert(name, keys);
    }

    /// Waits until a host has its next key alone.
    fn wait_changed(&self, name: &str) {
        let next = &self.keys[name][1];
        wait_until(&format!("{name} has changed its key"), || {
            let vpn = self.vpn(name);
            vpn.public_key.as_ref() == Some(next) && vpn.key_was_changed
        });
    }
}

fn address(host: &TestHost) -> String {
    host.portspace("alpha/tools").address
}

fn pings(from: &TestHost, to: &TestHost) -> bool {
    let to = address(to);
    from.exec("alpha/tools", &["ping", "-n", "-c", "1", "-W", "1", &to]).code == Some(0)
}

/// 50 pings in a second until `stop`, which fails the test where one of them was lost.
struct Pings(Running);

impl Pings {
    fn start(from: &TestHost, to: &TestHost) -> Self {
        let limit = patience(Duration::from_secs(300)).as_secs();
        let line = format!("exec timeout -s INT {limit} ping -n -i 0.02 -W 2 {}", address(to));
        Self(from.start("alpha/tools", &["sh", "-c", &line]))
    }

    fn stop(self, from: &TestHost) {
        let came = self.answered(from);
        // Of the last nobody knows whether there was time for it.
        let lost: Vec<_> = (1..came.len()).filter(|n| came[n - 1] != *n).take(10).collect();
        assert!(lost.is_empty(), "lost or twice from {lost:?} on: {came:?}");
    }

    /// Ends them, and returns the numbers of those that were answered.
    fn answered(self, from: &TestHost) -> Vec<usize> {
        from.shell("alpha/tools", "pkill -INT -x ping");
        let (_, output) = self.0.finish(Duration::from_secs(20));
        let number = |line: &str| line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse().ok();
        let came: Vec<usize> = output.lines().filter_map(number).collect();
        println!("{} pings answered", came.len());
        assert!(came.len() > 100, "{output}");
        came
    }
}

#[test]
fn the_keys_of_all_hosts_change_and_no_packet_is_lost() {
    let mut all = Rotation::new();
    let first = all.keys.clone();
    let ping = Pings::start(all.fleet.host("web1"), all.fleet.host("mon1"));
    let other = Pings::start(all.fleet.host("web2"), all.fleet.host("web1"));
    let python = ["/usr/bin/python3", "-c"];
    let mon1 = all.fleet.host("mon1");
    let receiver = mon1.start("alpha/tools", &[&python[..], &[RECEIVE]].concat());
    wait_until("somebody listens", || receiver.output().contains("ready"));
    let sender = all
        .fleet
        .host("web1")
        .start("alpha/tools", &[&python[..], &[SEND, &address(mon1)]].concat());

    for name in HOSTS {
        let agents = HOSTS.map(|host| all.fleet.host(host).agent());
        all.begin(name);
        // The others in any order, and the host itself not last.
        for host in ["mon1", "web1", "web2"] {
            assert!(all.vpn(name).next_key.is_none() || host != name);
            let told = all.up(host);
            assert!(host == name || told.contains(&format!("{name} has a next key")), "{told}");
        }
        all.wait_changed(name);
        let next = all.keys[name][1].clone();
        all.keys.insert(name, vec![next]);
        for host in ["web2", "web1", "mon1"] {
            let told = all.up(host);
            let refused = format!("the old key of {name} is not taken any more");
            assert!(host == name || told.contains(&refused), "{told}");
            assert!(!told.contains("cut off"), "{told}");
        }
        assert_eq!(agents, HOSTS.map(|host| all.fleet.host(host).agent()));
        let folder = all.fleet.host(name).state_dir().join("keys");
        let names: Vec<_> =
            fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["alpha.key"], "the old one is gone");
    }
    ping.stop(all.fleet.host("web1"));
    other.stop(all.fleet.host("web2"));
    all.fleet.host("web1").shell("alpha/tools", "touch /tmp/end");
    let (_, sent) = sender.finish(Duration::from_secs(60));
    let (_, got) = receiver.finish(Duration::from_secs(60));
    println!("{}; {}", sent.trim(), got.trim());
    let number = |text: &str| text.split_whitespace().last().unwrap().parse::<u32>().unwrap();
    assert_eq!(number(&sent), number(&got), "lines of the stream");
    assert!(number(&sent) > 300 && got.contains("longest pause"), "{sent} {got}");

    assert!(HOSTS.iter().all(|name| first[name] != all.keys[name]));
    // Who has the old spec is not let in any more.
    let mut stale = all.text();
    stale = stale.replace(&all.keys["mon1"][0], &first["mon1"][0]);
    let mon1 = all.fleet.host("mon1");
    let refused = mon1.try_up(&mon1.spec(&stale)).all();
    assert!(refused.contains("not this host's own key"), "{refused}");
}

/// Numbered lines until there is `/tmp/end`.
const SEND: &str = r#"
import os, socket, struct, sys, time
stream, count = socket.create_connection((sys.argv[1], 7000)), 0
while not os.path.exists("/tmp/end"):
    count += 1
    stream.sendall(b"%d\n" % count)
    time.sleep(0.01)
retransmitted = struct.unpack_from("I", stream.getsockopt(6, 11, 104), 100)[0]
stream.close()
print("retransmitted: %d, lines: %d" % (retransmitted, count))
"#;

/// Counts them, and tells how long it waited for one at most.
const RECEIVE: &str = r#"
import socket, time
listener = socket.create_server(("", 7000))
print("ready", flush=True)
stream, count, longest, last = listener.accept()[0].makefile(), 0, 0, time.time()
for line in stream:
    count += 1
    assert int(line) == count, line
    longest, last = max(longest, time.time() - last), time.time()
print("longest pause: %.0f ms, lines: %d" % (longest * 1000, count))
"#;

/// With the kernel's WireGuard where there is one: that has one key at a time and forgets its sessions
/// with the old one, and the peers agree on new ones.
#[test]
fn a_key_changes_with_the_machines_own_backend() {
    let mut all = Rotation::with("auto");
    let backend = all.vpn("web1").backend;
    let is_kernel = backend == "kernel";
    // A ping every 20 ms.
    let most_lost = if is_kernel { patience(Duration::from_secs(1)).as_millis() / 20 } else { 1 };
    let out = Pings::start(all.fleet.host("web1"), all.fleet.host("mon1"));
    let back = Pings::start(all.fleet.host("mon1"), all.fleet.host("web1"));
    for name in ["web1", "mon1"] {
        all.begin(name);
        HOSTS.iter().for_each(|host| drop(all.up(host)));
        let next = all.keys[name][1].clone();
        if is_kernel {
            // It has the first alone.
            all.keys.get_mut(name).unwrap().reverse();
            HOSTS.iter().for_each(|host| drop(all.up(host)));
        }
        let has_changed = || all.vpn(name).public_key.as_ref() == Some(&next);
        wait_until(&format!("{name} has changed its key"), has_changed);
        all.keys.insert(name, vec![next.clone()]);
        HOSTS.iter().for_each(|host| drop(all.up(host)));
    }
    for (pings, name) in [(out, "web1"), (back, "mon1")] {
        let came = pings.answered(all.fleet.host(name));
        let lost = came.windows(2).map(|pair| pair[1].abs_diff(pair[0]).saturating_sub(1));
        let most = lost.max().unwrap_or_default();
        println!("{backend}: at most {most} of {:?} lost in a row", came.last());
        assert!((most as u128) < most_lost, "{came:?}");
    }
    let [web1, web2, mon1] = all.hosts();
    assert!(pings(web1, web2) && pings(web2, mon1) && pings(mon1, web1));
}

#[test]
fn a_rotation_that_is_interrupted_anywhere_keeps_working() {
    let mut all = Rotation::new();
    let kill = |all: &Rotation, name: &str| {
        // SAFETY: kill takes integers; the process is the agent of this test's host.
        assert_eq!(unsafe { libc::kill(all.fleet.host(name).agent(), libc::SIGKILL) }, 0);
    };
    let ping = Pings::start(all.fleet.host("web1"), all.fleet.host("mon1"));
    let old = all.keys["web1"][0].clone();
    all.begin("web1");
    let file = all.fleet.host("web1").state_dir().join("keys/alpha.next.key");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    kill(&all, "web1");
    all.up("web1");
    kill(&all, "web1");
    all.up("mon1");
    kill(&all, "mon1");
    all.up("mon1");
    // web2 has not had its `up` for long: the host goes on with both keys.
    all.up("web1");
    let knows = |host: &str| {
        let vpn = all.vpn("web1");
        vpn.peers.iter().find(|peer| peer.host == host).unwrap().knows_next_key
    };
    wait_until("mon1 has the next key", || knows("mon1") == Some(true));
    assert_eq!(knows("web2"), Some(false));
    let shown = all.fleet.host("web1").hyperspector(&["status"]).all();
    for part in ["changing its key", "has our next key", "has not got our next key"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    std::thread::sleep(Duration::from_secs(4));
    let [web1, web2, mon1] = all.hosts();
    assert!(pings(web1, web2) && pings(web2, web1) && pings(mon1, web1) && pings(web2, mon1));
    assert_eq!(all.vpn("web1").public_key.as_ref(), Some(&old));
    assert!(file.exists());

    // The VPN's process dies: the next one has both keys, too.
    ping.stop(web1);
    // SAFETY: kill takes integers; the process is the one that the status names.
    assert_eq!(unsafe { libc::kill(all.vpn("web1").pid.unwrap(), libc::SIGKILL) }, 0);
    wait_until("both are reached again", || pings(web1, web2) && pings(mon1, web1));
    let ping = Pings::start(all.fleet.host("web1"), all.fleet.host("web2"));
    all.up("web2");
    kill(&all, "web1");
    std::thread::sleep(Duration::from_secs(6));
    // As far as an agent may have come with it: the file is replaced, and nobody was told.
    fs::rename(&file, file.with_file_name("alpha.key")).unwrap();
    all.up("web1");
    all.wait_changed("web1");
    assert!(!file.exists());
    ping.stop(all.fleet.host("web1"));
    let shown = all.fleet.host("web1").hyperspector(&["status"]).all();
    assert!(shown.contains("the spec needs the new one alone"), "{shown}");
}

#[test]
fn the_spec_alone_may_drop_the_old_key_and_claims_are_refused() {
    let mut all = Rotation::new();
    all.begin("web1");
    // Nobody can take what another has announced.
    let next = all.keys["web1"][1].clone();
    let mon1 = all.keys["mon1"].clone();
    all.keys.get_mut("mon1").unwrap().push(next.clone());
    let host = all.fleet.host("mon1");
    let refused = host.hyperspector(&["check", host.spec(&all.text()).to_str().unwrap()]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.all().contains("this is also the key of host `mon1`"), "{}", refused.all());
    // Nor does a host take a key for its own that it has not made.
    let stranger = all.fleet.host("mon1").hyperspector(&["key", "other"]).text();
    let stranger = keys_in(&stranger).remove(0);
    all.keys.insert("mon1", vec![mon1[0].clone(), stranger]);
    let host = all.fleet.host("mon1");
    let refused = host.try_up(&host.spec(&all.text()));
    assert_ne!(refused.code, Some(0));
    assert!(refused.all().contains("a next key that is not this host's own"), "{}", refused.all());
    all.keys.insert("mon1", mon1);
    all.up("mon1");

    // web2 does not know the next key when the spec drops the old one.
    all.up("web1");
    all.keys.insert("web1", vec![next.clone()]);
    let told = all.up("web1");
    assert!(told.contains("web2 has not taken the next key yet: cut off until it has"), "{told}");
    let [web1, web2, _] = all.hosts();
    assert_eq!(all.vpn("web1").public_key.as_ref(), Some(&next));
    assert!(!pings(web1, web2));
    all.up("web2");
    wait_until("web2 is back", || pings(web1, web2) && pings(web2, web1));

    // The next key may be named first: then the old one stays until the spec has it no more.
    all.begin("mon1");
    let (old, next) = (all.keys["mon1"][0].clone(), all.keys["mon1"][1].clone());
    all.keys.get_mut("mon1").unwrap().reverse();
    HOSTS.iter().for_each(|host| drop(all.up(host)));
    wait_until("all have the next key", || {
        all.vpn("mon1").peers.iter().all(|peer| peer.knows_next_key == Some(true))
    });
    // Agents look every 3 s.
    std::thread::sleep(Duration::from_secs(4));
    let vpn = all.vpn("mon1");
    assert_eq!((vpn.public_key, vpn.next_key), (Some(old), Some(next.clone())));
    all.keys.insert("mon1", vec![next.clone()]);
    HOSTS.iter().for_each(|host| drop(all.up(host)));
    assert_eq!(all.vpn("mon1").public_key, Some(next));
    let [web1, web2, mon1] = all.hosts();
    assert!(pings(web1, mon1) && pings(mon1, web2));
}
