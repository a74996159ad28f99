//! Endpoints by name, with a DNS server that does not answer, and then does.
//!
//! ```text
//!   web1: alpha/tools ---[switch]--- mon1: alpha/tools
//! ```

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hyperspector_tests::{Fleet, TestHost, patience, wait_until, wait_within};

/// A DNS server in a host's namespace, at the address that this machine's resolv.conf(5) names.
struct Dns {
    answers: Arc<AtomicBool>,
    /// What it says, as a number.
    says: Arc<AtomicU32>,
    asked: Arc<AtomicU32>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    fn start(host: &TestHost, says: Ipv4Addr) -> Self {
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let mut servers: Vec<_> =
            text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")).collect();
        // What the C library asks where none is named (resolv.conf(5)).
        servers.truncate(1);
        let server = servers.first().map_or("127.0.0.1", |server| server.trim());
        assert!(text.lines().filter(|line| line.contains("nameserver")).count() < 2, "{text}");
        host.net.ip(&["link", "set", "lo", "up"]);
        if !server.starts_with("127.") {
            host.net.ip(&["address", "add", server, "dev", "lo"]);
        }
        let at: SocketAddr = (server.parse::<std::net::IpAddr>().unwrap(), 53).into();
        let socket = host.net.within(|| UdpSocket::bind(at).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (answers, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let ends = Arc::<AtomicBool>::default();
        let says = Arc::new(AtomicU32::new(says.to_bits()));
        let shared = (answers.clone(), says.clone(), asked.clone(), ends.clone());
        let thread = std::thread::spawn(move || {
            let (answers, says, asked, ends) = shared;
            let mut buffer = [0; 512];
            while !ends.load(Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                asked.fetch_add(1, Relaxed);
                if answers.load(Relaxed) {
                    let says = Ipv4Addr::from_bits(says.load(Relaxed));
                    let _ = socket.send_to(&answer(&buffer[..length], says), from);
                }
            }
        });
        Self { answers, says, asked, ends, thread: Some(thread) }
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.ends.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to a question (RFC 1035): one address of version 4, none of version 6.
fn answer(question: &[u8], says: Ipv4Addr) -> Vec<u8> {
    // The name's labels, their end, and the type.
    let end = question[12..].iter().position(|byte| *byte == 0).unwrap() + 13;
    let is_a = question[end..end + 2] == [0, 1];
    let mut answer = question[..end + 4].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(says.octets());
    }
    answer
}

fn spec(fleet: &Fleet) -> String {
    let (web1, mon1) = (fleet.host("web1"), fleet.host("mon1"));
    format!(
        "[host.web1]\nkey.alpha = \"{}\"\n\
         [host.mon1]\nendpoint = \"mon1.hyperspector.example\"\nkey.alpha = \"{}\"\n\
         [hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\nallow = \"all\"\n\
         [hyperspector.alpha.portspace.tools]\non = [\"web1\", \"mon1\"]\ncommand = [\"sleep\", \"1000\"]\n",
        web1.key("alpha"),
        mon1.key("alpha")
    )
}

fn pings(from: &TestHost, to: &str) -> bool {
    from.exec("alpha/tools", &["ping", "-n", "-c", "1", "-W", "1", to]).code == Some(0)
}

#[test]
fn a_resolver_that_does_not_answer_holds_up_nobody_and_is_told() {
    let fleet = Fleet::new(&["web1", "mon1"]);
    let (web1, mon1) = (fleet.host("web1"), fleet.host("mon1"));
    let dns = Dns::start(web1, mon1.address().parse().unwrap());
    let text = spec(&fleet);
    mon1.up(&mon1.spec(&text));
    let begun = Instant::now();
    web1.up(&web1.spec(&text));
    let failure = || {
        let status = web1.status();
        status.hyperspector("alpha").unwrap().vpn.clone().unwrap().failure
    };
    let mut slowest = begun.elapsed();
    wait_until("somebody asks for the name", || dns.asked.load(Relaxed) > 0);
    wait_until("the silence of DNS is told", || {
        let asked = Instant::now();
        let failure = failure();
        slowest = slowest.max(asked.elapsed());
        failure.is_some_and(|why| {
            why.contains(
                "the endpoint of mon1: look up mon1.hyperspector.example: DNS has not answered",
            )
        })
    });
    println!("told after {:?}; the agent answered within {slowest:?}", begun.elapsed());
    assert!(slowest < patience(Duration::from_secs(4)), "the agent was held up for {slowest:?}");
    let shown = web1.hyperspector(&["status"]).all();
    assert!(shown.contains("DNS has not answered within"), "{shown}");
    assert!(!pings(web1, "tools.mon1"));

    // A VPN that dies meanwhile is back at once all the same.
    let pid = || web1.status().hyperspector("alpha").unwrap().vpn.clone().unwrap().pid;
    if let Some(before) = pid() {
        // SAFETY: kill takes integers; the process is the one that the status names.
        assert_eq!(unsafe { libc::kill(before, libc::SIGKILL) }, 0);
        wait_until("another has begun", || pid().is_some_and(|pid| pid != before));
    }

    dns.answers.store(true, Relaxed);
    wait_until("the name is looked up again and mon1 is reached", || pings(web1, "tools.mon1"));
    assert_eq!(failure(), None);
    let peer = web1.status().hyperspector("alpha").unwrap().vpn.clone().unwrap().peers[0].clone();
    assert_eq!(peer.endpoint, Some(format!("{}:51820", mon1.address())));

    // It moves, says nothing, and is found by its name.
    let address = "192.0.2.77";
    mon1.net.ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"]);
    mon1.net.ip(&["address", "del", &format!("{}/24", mon1.address()), "dev", "eth0"]);
    mon1.net.ip(&["address", "replace", &format!("{address}/24"), "dev", "eth0"]);
    dns.says.store(address.parse::<Ipv4Addr>().unwrap().to_bits(), Relaxed);
    wait_within(Duration::from_secs(90), "mon1 is found where it has gone", || {
        pings(web1, "tools.mon1").then_some(())
    });
}
