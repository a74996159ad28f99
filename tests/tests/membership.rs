//! Hosts that come, go, move and fall silent.
//!
//! ```text
//!   web1: alpha/tools, alpha/ship ---+
//!   web2: alpha/tools ---------------[switch]--- mon1: alpha/collect
//! ```

use std::fs;
use std::time::{Duration, Instant};

use hyperspector_tests::{Fleet, LIMIT, Running, TestHost, wait_until, wait_within};

/// A spec of these hosts, each with its endpoint as TOML.
fn spec(fleet: &Fleet, hosts: &[(&str, String)], more: &str) -> String {
    let mut text = String::new();
    for (name, endpoint) in hosts {
        let key = fleet.host(name).key("alpha");
        text += &format!("[host.{name}]\nendpoint = {endpoint}\nkey.alpha = \"{key}\"\n");
    }
    let on = |name: &&str| hosts.iter().any(|(host, _)| host == name);
    let webs: Vec<_> = ["web1", "web2"].into_iter().filter(on).collect();
    text + &format!(
        "[hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\ncollectors = [\"collect\"]\n{more}\n\
         [hyperspector.alpha.portspace.tools]\non = {webs:?}\ncommand = [\"sleep\", \"1000\"]\n\
         [hyperspector.alpha.portspace.collect]\non = [\"mon1\"]\ncommand = [\"sleep\", \"1000\"]\n"
    )
}

/// These hosts at their own addresses.
fn at_home<'a>(fleet: &Fleet, names: &[&'a str]) -> Vec<(&'a str, String)> {
    names.iter().map(|name| (*name, format!("\"{}\"", fleet.host(name).address()))).collect()
}

fn up(host: &TestHost, text: &str) -> String {
    host.up(&host.spec(text)).all()
}

fn pings(host: &TestHost) -> bool {
    host.exec("alpha/tools", &["ping", "-n", "-c", "1", "-W", "1", "collect"]).code == Some(0)
}

/// A ping every 20 ms, to be waited for.
fn flood(host: &TestHost, count: &str) -> Running {
    host.start(
        "alpha/tools",
        &["ping", "-n", "-q", "-i", "0.02", "-c", count, "-W", "2", "collect"],
    )
}

#[test]
fn a_host_that_is_taken_out_is_cut_off_and_the_others_lose_nothing() {
    let fleet = Fleet::new(&["web1", "web2", "mon1"]);
    let all = spec(&fleet, &at_home(&fleet, &["web1", "web2", "mon1"]), "");
    let [web1, web2, mon1] = ["web1", "web2", "mon1"].map(|name| fleet.host(name));
    for host in [web1, web2, mon1] {
        up(host, &all);
    }
    wait_until("both reach the collector", || pings(web1) && pings(web2));

    let ping = flood(web1, "400");
    let fewer = spec(&fleet, &at_home(&fleet, &["web1", "mon1"]), "");
    let told = up(mon1, &fewer);
    assert!(told.contains("alpha: web2 is cut off"), "{told}");
    assert!(!pings(web2), "cut off by the first peer that knows");
    assert!(up(web1, &fewer).contains("alpha: web2 is cut off"));
    let told = up(mon1, &all);
    assert!(told.contains("alpha: web2 joins"), "{told}");
    let (code, output) = ping.finish(Duration::from_secs(30));
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("400 packets transmitted, 400 received"), "{output}");
    wait_until("web2 is back", || pings(web2));
    assert_eq!(fleet.host("mon1").status().agent.map(|agent| agent.pid), Some(mon1.agent()));
}

#[test]
fn with_the_topology_of_collectors_the_others_do_not_know_each_other() {
    let fleet = Fleet::new(&["web1", "web2", "mon1"]);
    let hosts = at_home(&fleet, &["web1", "web2", "mon1"]);
    let text = spec(&fleet, &hosts, "topology = \"collectors\"");
    let peers = |host: &TestHost| {
        let status = host.status();
        let vpn = status.hyperspector("alpha").unwrap().vpn.clone().unwrap();
        vpn.peers.into_iter().map(|peer| peer.host).collect::<Vec<_>>()
    };
    for name in ["web1", "web2", "mon1"] {
        up(fleet.host(name), &text);
    }
    assert_eq!(peers(fleet.host("web1")), ["mon1"]);
    assert_eq!(peers(fleet.host("mon1")), ["web1", "web2"]);
    wait_until("both reach the collector", || {
        pings(fleet.host("web1")) && pings(fleet.host("web2"))
    });
}

#[test]
fn the_next_endpoint_is_tried_and_a_move_is_followed() {
    let fleet = Fleet::new(&["web1", "mon1"]);
    let (web1, mon1) = (fleet.host("web1"), fleet.host("mon1"));
    // web1 is behind NAT for all that mon1 knows; the first endpoint of mon1 is nobody's.
    let endpoints = "[\"192.0.2.99\", \"192.0.2.12\"]".to_owned();
    let mut text = spec(&fleet, &[("mon1", endpoints)], "keepalive = \"1s\"");
    text = text.replace("on = []", "on = [\"web1\"]");
    text += &format!("[host.web1]\nkey.alpha = \"{}\"\n", web1.key("alpha"));
    up(mon1, &text);
    up(web1, &text);
    let endpoint = |host: &TestHost| {
        let status = host.status();
        status.hyperspector("alpha").unwrap().vpn.clone().unwrap().peers[0].endpoint.clone()
    };
    // Something must want to go there; the first is tried for some seconds.
    wait_until("the second endpoint", || pings(web1));
    assert_eq!(endpoint(web1).as_deref(), Some("192.0.2.12:51820"));

    // Each gets another address: with its next packet the other knows.
    move_to(mon1, "192.0.2.77");
    wait_until("web1 follows", || {
        pings(web1) && endpoint(web1).as_deref() == Some("192.0.2.77:51820")
    });
    move_to(web1, "192.0.2.88");
    wait_until("mon1 follows", || {
        pings(web1) && endpoint(mon1).as_deref() == Some("192.0.2.88:51820")
    });
}

/// Gives a host another address in place of its own.
fn move_to(host: &TestHost, address: &str) {
    host.net.ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"]);
    // A second address of the same network goes with the first, unless it is promoted.
    host.net.ip(&["address", "del", &format!("{}/24", host.address()), "dev", "eth0"]);
    host.net.ip(&["address", "replace", &format!("{address}/24"), "dev", "eth0"]);
}

#[test]
fn silence_is_told_and_what_rsyslog_spooled_meanwhile_arrives() {
    let fleet = Fleet::new(&["web1", "mon1"]);
    let (web1, mon1) = (fleet.host("web1"), fleet.host("mon1"));
    let etc = fleet.dir().join("etc");
    fs::create_dir(&etc).unwrap();
    fs::write(etc.join("collect.conf"), COLLECT).unwrap();
    fs::write(etc.join("ship.conf"), SHIP).unwrap();
    let portspace = |name: &str, on: &str| {
        format!(
            "[hyperspector.alpha.portspace.{name}]\non = [\"{on}\"]\nmount = [{{ from = \"{}\", to = \
             \"/mnt\" }}]\ncommand = [\"sh\", \"-c\", \"mkdir -p /spool; exec rsyslogd -n -i NONE -f \
             /mnt/{name}.conf\"]\n",
            etc.display()
        )
    };
    let text = spec(&fleet, &at_home(&fleet, &["web1", "mon1"]), "");
    let (head, _) = text.split_once("[hyperspector.alpha.portspace.collect]").unwrap();
    let text = format!("{head}{}{}", portspace("collect", "mon1"), portspace("ship", "web1"));
    up(mon1, &text);
    up(web1, &text);
    let say = |what: &str, count: u32| {
        let line = format!("seq -f '<13>t {what} %.0f' {count} >>/in.log");
        web1.shell("alpha/ship", &line);
    };
    let kept = |what: &str| {
        let got = mon1.exec("alpha/collect", &["cat", "/got.log"]).stdout;
        got.lines().filter(|line| line.contains(what)).count()
    };
    say("before", 10);
    wait_until("the first lines come", || kept("before") == 10);
    let peer = || {
        let status = web1.status();
        status.hyperspector("alpha").unwrap().vpn.clone().unwrap().peers[0].clone()
    };
    assert!(peer().silent_seconds.is_none());

    let cut = Instant::now();
    fleet.switch().ip(&["link", "set", "mon1", "down"]);
    say("meanwhile", 20_000);
    let silent = wait_within(Duration::from_secs(60), "the silence is noticed", || {
        // The IDS goes on finding things.
        say("later", 10);
        std::thread::sleep(Duration::from_millis(500));
        peer().silent_seconds
    });
    assert!(silent >= 10, "{silent} s");
    let shown = web1.hyperspector(&["status"]).all();
    assert!(shown.contains("does not answer for"), "{shown}");
    // Its reader reads once in a second, and writes out what its memory has no room for.
    wait_until("most is in files", || {
        let spooled = web1.shell("alpha/ship", "du -s /spool | cut -f 1");
        spooled.trim().parse::<u32>().unwrap() > 500
    });
    assert_eq!(kept("meanwhile"), 0);

    fleet.switch().ip(&["link", "set", "mon1", "up"]);
    // TCP tries again after a time that has doubled for as long as nobody answered.
    let limit = LIMIT + 2 * cut.elapsed();
    let all = |what: &str, count: usize| (kept(what) >= count).then_some(());
    wait_within(limit, "all of it arrives", || all("meanwhile", 20_000));
    wait_within(limit, "and what came later", || all("later", 10));
    assert_eq!(kept("meanwhile"), 20_000);
    wait_within(limit, "it is heard again", || peer().silent_seconds.is_none().then_some(()));
    let log = fs::read_to_string(web1.state_dir().join("agent.log")).unwrap_or_default();
    for line in ["mon1 (collect.mon1) does not answer", "mon1 answers again after"] {
        assert!(log.contains(&format!("the vpn of alpha: {line}")), "{line:?} is not in {log:?}");
    }
    assert!(peer().handshakes >= 1, "{:?}", peer());
}

const COLLECT: &str = r#"
module(load="imptcp")
input(type="imptcp" port="6514")
template(name="line" type="string" string="%rawmsg%\n")
action(type="omfile" file="/got.log" template="line")
"#;

/// The queue keeps a few lines in memory, and the rest in files.
const SHIP: &str = r#"
global(workDirectory="/spool")
module(load="imfile" mode="polling" pollingInterval="1")
input(type="imfile" file="/in.log" tag="t" ruleset="ship" readMode="0")
template(name="raw" type="string" string="%msg%\n")
ruleset(name="ship") {
  action(type="omfwd" target="collect" port="6514" protocol="tcp" template="raw"
         action.resumeRetryCount="-1" action.resumeInterval="1" action.resumeIntervalMax="2"
         queue.type="LinkedList" queue.size="1000" queue.filename="ship"
         queue.highWatermark="200" queue.lowWatermark="100" queue.maxDiskSpace="64m"
         queue.saveOnShutdown="on")
}
"#;
