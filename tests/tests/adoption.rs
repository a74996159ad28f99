//! What the agent finds and puts right: after another agent, beside another command, when the host
//! changes under it.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use hyperspector_tests::{Fleet, Frames, Running, TestHost, kill, wait_for, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

fn watching(name: &str, interface: &str) -> String {
    format!(
        "[hyperspector.alpha.portspace.{name}]\non = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n\
         watch.packets = [\"{interface}\"]\n\n"
    )
}

fn start_up(host: &TestHost, spec: &std::path::Path) -> Running {
    Running::start(host.command().arg("up").arg(spec).arg("-d"))
}

#[test]
fn what_one_hyperspector_lacks_does_not_keep_the_others_down() {
    let fleet = Fleet::new(&["web1", "web2"]);
    let host = fleet.host("web1");
    let mut text = String::new();
    for name in ["web1", "web2"] {
        let host = fleet.host(name);
        let (address, key) = (host.address(), host.key("alpha"));
        text += &format!("[host.{name}]\nendpoint = \"{address}\"\nkey.alpha = \"{key}\"\n");
    }
    for (name, port, on) in [("alpha", 51820, "\"web1\", \"web2\""), ("beta", 51821, "\"web1\"")] {
        text += &format!(
            "[hyperspector.{name}]\nnetwork = \"10.66.0.0/16\"\nvpn = \"embedded\"\nport = {port}\n\
             [hyperspector.{name}.portspace.ids]\non = [{on}]\ncommand = [\"sleep\", \"1000\"]\n"
        );
    }
    let taken = host.net.within(|| UdpSocket::bind("0.0.0.0:51820").unwrap());
    let up = host.try_up(&host.spec(&text));
    assert_eq!(up.code, Some(3), "{}", up.all());
    assert!(up.stderr.contains("alpha/ids: it runs, but is cut off"), "{}", up.all());
    assert!(up.stderr.contains("51820"), "{}", up.all());
    host.pid("beta/ids");
    let pid = host.pid("alpha/ids");
    let backend = || host.status().hyperspector("alpha").unwrap().vpn.clone().unwrap().backend;
    assert_eq!(backend(), "down");
    drop(taken);
    wait_until("the vpn runs as soon as it can", || backend() == "embedded");
    assert_eq!(host.pid("alpha/ids"), pid);
}

#[test]
fn what_could_not_be_made_is_made_as_soon_as_it_can_be() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let sleeps = "on = [\"web1\"]\ncommand = [\"sleep\", \"1000\"]\n";
    let spec = host.spec(&format!(
        "[host.web1]\n\
         [hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n\
         [hyperspector.alpha.portspace.ids]\n{sleeps}\
         [hyperspector.beta]\nnetwork = \"10.66.0.0/16\"\nport = 51821\n\
         [hyperspector.beta.portspace.nids]\n{sleeps}watch.packets = [\"eth0\"]\n\
         [hyperspector.beta.portspace.tools]\n{sleeps}"
    ));
    // In the way of alpha's hub, and of the guard that packet windows need.
    let in_the_way = [host.run_dir().join("hs/alpha"), host.run_dir().join("bpf")];
    fs::create_dir_all(host.run_dir().join("hs")).unwrap();
    in_the_way.iter().for_each(|path| fs::write(path, "").unwrap());
    let up = host.try_up(&spec);
    assert_eq!(up.code, Some(3), "{}", up.all());
    for failed in ["alpha/ids", "beta/nids"] {
        assert!(up.stderr.contains(&format!("✗ {failed}: ")), "{}", up.all());
        let portspace = host.portspace(failed);
        assert_eq!((portspace.state.as_str(), portspace.pid), ("failed", None));
        assert!(portspace.reason.is_some());
    }
    let pid = host.pid("beta/tools");
    in_the_way.iter().for_each(|path| fs::remove_file(path).unwrap());
    host.pid("alpha/ids");
    host.pid("beta/nids");
    assert_eq!(host.pid("beta/tools"), pid);
}

#[test]
fn a_portspace_whose_broker_died_with_the_agent_is_made_again() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_alpha(&watching("ids", "eth0"));
    let (init, broker) = {
        let portspace = host.wait_state("alpha/ids", "running");
        (portspace.init_pid, portspace.broker().unwrap())
    };
    kill(host.agent());
    kill(broker);
    host.try_up(&host.alpha(&watching("ids", "eth0")));
    wait_until("another broker serves another init", || {
        let portspace = host.portspace("alpha/ids");
        portspace.state == "running" && portspace.init_pid != init && portspace.broker().is_some()
    });
    let capture = ["tcpdump", "-Z", "root", "-i", "eth0", "-c", "1", "-l", "-n", "-A"];
    let capture = host.start("alpha/ids", &capture);
    let sender = Frames::on(fleet.switch(), "web1");
    wait_until("it sees packets", || {
        sender.send(b"seen-again");
        capture.output().contains("seen-again")
    });
}

#[test]
fn an_interface_that_goes_is_told_of_and_one_that_comes_back_is_seen() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let add = || {
        host.net.ip(&["link", "add", "d0", "type", "veth", "peer", "name", "d1"]);
        host.net.ip(&["link", "set", "d0", "up"]);
        host.net.ip(&["link", "set", "d1", "up"]);
    };
    add();
    host.up_alpha(&watching("ids", "d0"));
    let pid = host.pid("alpha/ids");

    let inside = |file: &str| {
        let text = host.exec("alpha/ids", &["cat", &format!("/sys/class/net/d0/{file}")]).stdout;
        text.trim().to_owned()
    };
    host.net.ip(&["link", "set", "d0", "mtu", "1400", "address", "02:00:00:00:00:07"]);
    wait_until("the shadow follows", || {
        inside("mtu") == "1400" && inside("address") == "02:00:00:00:00:07"
    });
    assert_eq!(host.pid("alpha/ids"), pid);

    host.net.ip(&["link", "delete", "d0"]);
    let blind = wait_for("status tells", || {
        let portspace = host.portspace("alpha/ids");
        portspace.reason.is_some().then_some(portspace)
    });
    assert_eq!(blind.reason.as_deref(), Some("interface d0 is gone"));
    assert_eq!((blind.state.as_str(), blind.pid), ("running", Some(pid)));

    add();
    wait_until("it is made again", || {
        let portspace = host.portspace("alpha/ids");
        portspace.pid.is_some_and(|now| now != pid) && portspace.reason.is_none()
    });
    let capture = ["tcpdump", "-Z", "root", "-i", "d0", "-c", "1", "-l", "-n", "-A"];
    let capture = host.start("alpha/ids", &capture);
    let sender = Frames::on(&host.net, "d1");
    wait_until("it sees packets", || {
        sender.send(b"seen-again");
        capture.output().contains("seen-again")
    });
    let log = fs::read_to_string(host.state_dir().join("agent.log")).unwrap();
    assert_eq!(log.matches("alpha/ids: interface d0 is gone").count(), 1, "{log}");
}

#[test]
fn no_worker_outlives_down_whenever_the_agent_was_killed() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let spec = host.alpha(&watching("ids", "eth0"));
    for after in [40, 55, 70, 85, 100, 120, 140, 170, 200] {
        let up = start_up(host, &spec);
        std::thread::sleep(Duration::from_millis(after));
        drop(up);
        for pid in hyperspector_tests::leftovers::processes_with(&host.run_dir().to_string_lossy())
        {
            kill(pid);
        }
        host.hyperspector(&["down", "--purge"]).expect(0);
        assert_eq!(host.net.processes(), [0; 0], "killed after {after} ms");
    }
}

#[test]
fn the_next_agent_ends_workers_that_nobody_knows() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let spec = host.alpha(&watching("ids", "eth0"));
    host.up(&spec);
    let status = host.status();
    let (guard, broker) = (status.guard.unwrap().pid, host.portspace("alpha/ids").broker());
    kill(host.agent());
    // As if it had been killed before it wrote that down.
    fs::remove_file(host.run_dir().join("guard.json")).unwrap();
    host.up(&spec);
    assert!(!host.net.processes().contains(&guard));
    assert_eq!(host.portspace("alpha/ids").broker(), broker, "this one was known");
}

#[test]
fn commands_at_the_same_moment_do_not_trip_over_each_other() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let spec = host.alpha(&watching("ids", "eth0"));
    let ups: Vec<Running> = (0..4).map(|_| start_up(host, &spec)).collect();
    for up in ups {
        let (code, output) = up.finish(LIMIT);
        assert_eq!(code, Some(0), "{output}");
    }
    host.pid("alpha/ids");
    host.down();
    for between in [0, 10, 30, 60, 100] {
        let up = start_up(host, &spec);
        std::thread::sleep(Duration::from_millis(between));
        let down = host.hyperspector(&["down", "--purge"]);
        assert_eq!(down.code, Some(0), "after {between} ms: {}", down.all());
        let (code, output) = up.finish(LIMIT);
        // It came first and was taken down, or it came after: nothing else.
        assert!(matches!(code, Some(0 | 1 | 3)), "after {between} ms: {code:?} {output}");
        host.hyperspector(&["down", "--purge"]).expect(0);
        assert_eq!(host.net.processes(), [0; 0], "after {between} ms");
        assert!(!host.run_dir().exists() && !host.state_dir().exists(), "after {between} ms");
    }
}

#[test]
fn two_downs_at_once_are_as_good_as_one() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_alpha(&watching("ids", "eth0"));
    let downs: Vec<Running> =
        (0..3).map(|_| Running::start(host.command().args(["down", "--purge"]))).collect();
    for down in downs {
        let (code, output) = down.finish(LIMIT);
        assert_eq!(code, Some(0), "{output}");
    }
    assert_eq!(host.net.processes(), [0; 0]);
}

#[test]
fn no_lasting_connection_tells_of_a_portspace() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_alpha(&watching("ids", "eth0"));
    let mut exec = host.start("alpha/ids", &["sh", "-c", "echo inside; sleep 1000"]);
    wait_until("the command runs", || exec.output().contains("inside"));
    let sockets = host.net.within(|| fs::read_to_string("/proc/thread-self/net/unix").unwrap());
    let run_dir = host.run_dir().display().to_string();
    assert!(!sockets.contains(&run_dir), "{sockets}");
    assert!(exec.runs());
}
