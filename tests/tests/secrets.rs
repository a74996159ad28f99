//! Secrets that hosts share beside their keys: one that is gone opens nothing.
//!
//! ```text
//!   web1: alpha/tools ---[switch]--- mon1: alpha/tools
//! ```

use std::fs;
use std::os::unix::fs::PermissionsExt;

use hyperspector_tests::{Fleet, TestHost, wait_until};

const SECRET: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n";

/// Writes, or removes, the secret of a host with another.
fn share(host: &TestHost, other: &str, secret: Option<&str>) {
    let path = host.state_dir().join(format!("keys/alpha.{other}.psk"));
    let Some(secret) = secret else { return fs::remove_file(path).unwrap() };
    // Whole at any moment.
    let beside = path.with_extension("test");
    fs::write(&beside, secret).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(beside, path).unwrap();
}

fn pings(from: &TestHost) -> bool {
    from.exec("alpha/tools", &["ping", "-n", "-c", "1", "-W", "1", "tools.mon1"]).code == Some(0)
}

fn failure(host: &TestHost) -> Option<String> {
    let status = host.status();
    status.hyperspector("alpha").unwrap().vpn.clone().unwrap().failure
}

#[test]
fn a_secret_that_is_gone_cuts_off_until_it_is_back_or_not_wanted() {
    let fleet = Fleet::new(&["web1", "mon1"]);
    let mut text = String::new();
    for name in ["web1", "mon1"] {
        let host = fleet.host(name);
        let (address, key) = (host.address(), host.key("alpha"));
        text += &format!("[host.{name}]\nendpoint = \"{address}\"\nkey.alpha = \"{key}\"\n");
    }
    text += "[hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\nallow = \"all\"\n\
             [hyperspector.alpha.portspace.tools]\non = [\"web1\", \"mon1\"]\ncommand = [\"sleep\", \"1000\"]\n";
    let (web1, mon1) = (fleet.host("web1"), fleet.host("mon1"));
    share(web1, "mon1", Some(SECRET));
    share(mon1, "web1", Some(SECRET));
    let spec = mon1.spec(&text);
    mon1.up(&spec);
    web1.up(&spec);
    wait_until("mon1 is reached", || pings(web1));

    // Nobody runs `up`: the agent sees it by itself.
    share(web1, "mon1", None);
    wait_until("it is told", || {
        failure(web1).is_some_and(|why| why.contains("mon1 is cut off: the secret shared with it"))
    });
    assert!(!pings(web1));
    let told = web1.try_up(&spec);
    assert_eq!(told.code, Some(3), "{}", told.all());
    assert!(told.all().contains("alpha.mon1.psk is gone; put it back"), "{}", told.all());
    // The other side without its own would be two hosts without a secret, if this one gave in.
    share(mon1, "web1", Some("none"));
    mon1.up(&spec);
    assert!(!pings(web1));
    share(mon1, "web1", Some(SECRET));

    // An agent that starts anew does not give in either.
    web1.down();
    assert_eq!(web1.try_up(&spec).code, Some(3));
    assert!(failure(web1).is_some() && !pings(web1));

    share(web1, "mon1", Some(SECRET));
    wait_until("mon1 is reached again", || failure(web1).is_none() && pings(web1));

    for (host, other) in [(web1, "mon1"), (mon1, "web1")] {
        share(host, other, Some("none\n"));
        host.up(&spec);
        share(host, other, None);
        host.up(&spec);
    }
    wait_until("mon1 is reached without a secret", || failure(web1).is_none() && pings(web1));
}
