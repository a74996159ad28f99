//! Who may talk to whom inside a HyperSpector, from inside portspaces and on both ends.
//!
//! ```text
//!   web1: alpha/ids, alpha/other ---[switch]--- mon1: alpha/ids, alpha/collect
//! ```

use hyperspector_tests::attacker::Outcome;
use hyperspector_tests::{Fleet, TestHost, expect_refused, wait_until};
use serde_json::Value;

/// Servers in every portspace that say who they are.
const COMMAND: &str = "(sleep 1000 | nc -l -p 7779 >/tmp/got) & for p in 7777 7778; do (while true; do echo this is $HOSTNAME | nc -l -p $p; \
                       done) & done; wait";

/// A spec with `allow` in it.
fn spec(fleet: &Fleet, allow: &str) -> String {
    let mut text = String::new();
    for name in ["web1", "mon1"] {
        let host = fleet.host(name);
        let (address, key) = (host.address(), host.key("alpha"));
        text += &format!("[host.{name}]\nendpoint = \"{address}\"\nkey.alpha = \"{key}\"\n");
    }
    text += &format!("[hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n{allow}\n");
    let root = fleet.dir().join("root");
    for (name, on) in
        [("ids", r#"["web1", "mon1"]"#), ("other", r#"["web1"]"#), ("collect", r#"["mon1"]"#)]
    {
        text += &format!(
            "[hyperspector.alpha.portspace.{name}]\non = {on}\nroot = \"{}\"\n\
             command = [\"sh\", \"-c\", \"HOSTNAME=$(hostname); {COMMAND}\"]\n",
            root.display()
        );
    }
    text
}

fn up(fleet: &Fleet, host: &str, allow: &str) {
    let host = fleet.host(host);
    host.up(&host.spec(&spec(fleet, allow)));
}

/// Whether a portspace gets a line from a port of another.
fn reaches(host: &TestHost, from: &str, to: &str, port: &str) -> bool {
    let got = host.exec(from, &["nc", "-w", "2", to, port]).stdout;
    assert!(got.is_empty() || got.contains("this is"), "{got}");
    !got.is_empty()
}

/// What a hub refused of a portspace.
fn refused(host: &TestHost, portspace: &str, what: &str) -> u64 {
    let text = host.hyperspector(&["status", "--json"]).stdout;
    let status: Value = serde_json::from_str(&text).unwrap();
    let portspaces = status["hyperspectors"][0]["portspaces"].as_array().unwrap().clone();
    let one = portspaces.into_iter().find(|one| one["name"] == portspace).unwrap();
    one["refused"][what].as_u64().unwrap_or_else(|| panic!("no count in {one}"))
}

const RULE: &str =
    r#"allow = [{ from = "ids", to = "collect", ports = ["tcp/7777", "tcp/7779"] }]"#;

#[test]
fn what_is_allowed_is_reached_and_nothing_else_is() {
    let fleet = Fleet::new(&["web1", "mon1"]);
    fleet.root();
    up(&fleet, "web1", RULE);
    up(&fleet, "mon1", RULE);
    let (web1, mon1) = (fleet.host("web1"), fleet.host("mon1"));
    wait_until("ids reaches collect", || reaches(web1, "alpha/ids", "collect", "7777"));
    assert!(reaches(mon1, "alpha/ids", "collect", "7777"), "on the same host");
    for (host, from, to, port) in [
        (web1, "alpha/ids", "collect", "7778"),
        (web1, "alpha/ids", "ids.mon1", "7777"),
        (web1, "alpha/ids", "other", "7777"),
        (web1, "alpha/other", "collect", "7777"),
        (mon1, "alpha/collect", "ids.web1", "7777"),
        (mon1, "alpha/collect", "ids.mon1", "7777"),
    ] {
        assert!(!reaches(host, from, to, port), "{from} reaches {to} on {port}");
    }
    assert!(refused(web1, "alpha/ids", "from") >= 3 && refused(web1, "alpha/other", "from") > 0);
    assert!(refused(mon1, "alpha/collect", "from") >= 2);
    let at = |host: &TestHost, name: &str, port: u16| {
        ["--tcp".to_owned(), format!("{}:{port}", host.portspace(name).address)]
    };
    let shut = [at(mon1, "alpha/ids", 7777), at(web1, "alpha/other", 7777)].concat();
    let attack = |targets: &[String]| {
        let targets = targets.iter().map(String::as_str);
        web1.attack("alpha/ids", &["tcp-connect"].into_iter().chain(targets).collect::<Vec<_>>())
    };
    expect_refused(&attack(&shut), &[], &[]);
    let open = attack(&at(mon1, "alpha/collect", 7777));
    assert!(open.iter().all(|line| line.verdict.outcome == Outcome::Possible), "{open:?}");
    let shown = web1.hyperspector(&["status"]).text();
    assert!(shown.contains("packets to what it may not reach"), "{shown}");
}

#[test]
fn the_receiver_s_hub_refuses_by_itself_and_an_edit_cuts_off_without_a_restart() {
    let fleet = Fleet::new(&["web1", "mon1"]);
    fleet.root();
    // A host whose hub was taken, or has an older file, lets everything out.
    up(&fleet, "web1", "allow = \"all\"");
    up(&fleet, "mon1", RULE);
    let (web1, mon1) = (fleet.host("web1"), fleet.host("mon1"));
    wait_until("ids reaches collect", || reaches(web1, "alpha/ids", "collect", "7777"));
    assert!(!reaches(web1, "alpha/ids", "collect", "7778"));
    assert!(!reaches(web1, "alpha/other", "collect", "7777"));
    assert_eq!(refused(web1, "alpha/ids", "from"), 0);
    assert!(refused(mon1, "alpha/collect", "to") >= 2);
    // Nothing that mon1 begins is answered by web1's rules alone.
    assert!(!reaches(mon1, "alpha/collect", "other", "7777"));

    let line = "(while true; do echo x; sleep 0.1; done) | nc collect 7779";
    let _stream = web1.start("alpha/ids", &["sh", "-c", line]);
    let pid = mon1.pid("alpha/collect");
    let got = || mon1.shell("alpha/collect", "cat /tmp/got").len();
    wait_until("something comes", || got() > 10);
    let before = refused(mon1, "alpha/collect", "to");
    up(&fleet, "mon1", "allow = []");
    wait_until("the connection is cut off", || refused(mon1, "alpha/collect", "to") > before + 2);
    let last = got();
    assert!(!reaches(web1, "alpha/ids", "collect", "7777"));
    assert_eq!(got(), last);
    up(&fleet, "mon1", "collectors = [\"collect\"]");
    assert!(reaches(web1, "alpha/other", "collect", "7778"));
    assert!(!reaches(web1, "alpha/other", "ids.mon1", "7778"));
    assert_eq!(mon1.pid("alpha/collect"), pid, "nothing was restarted");
}
