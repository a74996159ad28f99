//! Two hosts on one cable, and what runs tests on them. The test program is its own worker: see
//! [`main`].

pub mod shapes;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use hyperspector_spec::plan::VpnBackend;
use hyperspector_sys::netlink::{Connection, End, Kind};
use hyperspector_sys::{netns, worker};
use hyperspector_vpn::backend::{self, Handle, Running, Start};
use hyperspector_vpn::device;
use hyperspector_vpn::keys::SecretKey;
use hyperspector_vpn::peer::Peer;
use hyperspector_vpn::status::{Reason, Status};

pub const PORT: u16 = 51820;
pub const MTU: u32 = 1420;

/// One namespace, at a path whose last part begins with `hs-`; removed when dropped.
pub struct Namespace {
    pub path: PathBuf,
    pub fd: OwnedFd,
}

impl Namespace {
    pub fn new(folder: &Path, name: &str) -> Self {
        let path = folder.join(format!("hs-{name}"));
        let fd = netns::create(&path).unwrap();
        Connection::open_in(fd.as_fd()).unwrap().set_up("lo", true).unwrap();
        Self { path, fd }
    }

    pub fn links(&self) -> Connection {
        Connection::open_in(self.fd.as_fd()).unwrap()
    }

    pub fn within<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        netns::within(self.fd.as_fd(), work).unwrap()
    }

    /// A program inside.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path.display())).arg("--");
        command.args(line.split_whitespace());
        command
    }

    pub fn run(&self, line: &str) {
        let output = self.command(line).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn pings(&self, to: &str, more: &str) -> bool {
        let line = format!("ping -q -c 3 -i 0.2 -W 2 {more} {to}");
        let status = self.command(&line).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.unwrap().success()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = netns::remove(&self.path);
    }
}

/// One host: the namespace of its network, of its hub, its key, and its VPN.
pub struct Host {
    pub outer: Namespace,
    pub hub: Namespace,
    pub key: SecretKey,
    pub number: u8,
    pub control: PathBuf,
    /// Where `wg` is to find it.
    pub operators: Option<PathBuf>,
    pub queues: usize,
    pub running: Option<Running>,
}

impl Host {
    pub fn new(folder: &Path, number: u8) -> Self {
        Self {
            outer: Namespace::new(folder, &format!("host{number}")),
            hub: Namespace::new(folder, &format!("hub{number}")),
            key: SecretKey::generate().unwrap(),
            number,
            control: folder.join(format!("control{number}")),
            operators: None,
            queues: 1,
            running: None,
        }
    }

    pub fn as_peer(&self, endpoint: IpAddr) -> Peer {
        let address = IpAddr::from([10, 66, 0, self.number]);
        Peer {
            public_key: self.key.public(),
            endpoint: Some(SocketAddr::new(endpoint, PORT)),
            allowed: vec![address.into()],
            keepalive: None,
            preshared: None,
            next_key: None,
        }
    }

    pub fn start(&mut self, peers: &[Peer], offload: bool) {
        self.start_with(VpnBackend::Embedded, peers, offload);
    }

    pub fn start_with(&mut self, backend: VpnBackend, peers: &[Peer], offload: bool) {
        let id = 4_200_000 + u32::from(self.number);
        let start = Start {
            name: "alpha",
            backend,
            key: &self.key,
            listen_port: PORT,
            mtu: MTU,
            peers,
            control: &self.control,
            operators: self.operators.as_deref(),
            uid: id,
            gid: id,
            offload,
            queues: self.queues,
        };
        let mut running = self.outer.within(|| backend::start(&start)).unwrap();
        let mut links = self.outer.links();
        links.move_to(running.index, self.hub.fd.as_fd(), Some("vpn0")).unwrap();
        self.hub.run(&format!("ip address add 10.66.0.{}/24 dev vpn0", self.number));
        self.hub.run("ip link set vpn0 up");
        running.handle.moved(&self.hub.path, "vpn0");
        self.running = Some(running);
    }

    pub fn handle(&self) -> &Handle {
        &self.running.as_ref().unwrap().handle
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().child.as_ref().unwrap().id()
    }

    pub fn status(&self) -> Status {
        backend::status(self.handle()).unwrap()
    }

    pub fn drops(&self, reason: Reason) -> u64 {
        self.status().drops.get(&reason).copied().unwrap_or(0)
    }

    pub fn has_vpn0(&self) -> bool {
        self.hub.links().link("vpn0").is_ok()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = backend::stop(&running.handle);
            if let Some(child) = &mut running.child {
                let _ = child.wait();
            }
        }
    }
}

/// Two hosts with a cable between them.
pub struct Pair {
    pub a: Host,
    pub b: Host,
    pub folder: tempfile::TempDir,
}

impl Pair {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (Host::new(folder.path(), 1), Host::new(folder.path(), 2));
        let other = End { namespace: Some(b.outer.fd.as_fd()), ..End::named("hs-veth") };
        a.outer.links().create(Kind::Veth(other), &End::named("hs-veth")).unwrap();
        for host in [&a, &b] {
            host.outer.run(&format!("ip address add 192.0.2.{}/24 dev hs-veth", host.number));
            let v6 = format!("ip address add 2001:db8::{}/64 dev hs-veth nodad", host.number);
            host.outer.run(&v6);
            host.outer.run("ip link set hs-veth up");
        }
        Self { a, b, folder }
    }

    /// A router in the cable's place: a is 10.9.0.2 and 2001:db8:9::2 then, on the other side of it.
    pub fn with_router(&self) -> Namespace {
        let router = Namespace::new(self.folder.path(), "router");
        self.a.outer.run("ip link delete hs-veth");
        let ends = [
            (&self.a, "hs-in", "10.9.0.", "2001:db8:9::", "192.0.2.0/24"),
            (&self.b, "hs-out", "192.0.2.", "2001:db8::", "10.9.0.0/24"),
        ];
        for (host, far, v4, v6, _) in ends {
            let other = End { namespace: Some(router.fd.as_fd()), ..End::named(far) };
            host.outer.links().create(Kind::Veth(other), &End::named("hs-veth")).unwrap();
            for (at, link, number) in [(&host.outer, "hs-veth", 2), (&router, far, 1)] {
                at.run(&format!("ip address add {v4}{number}/24 dev {link}"));
                at.run(&format!("ip address add {v6}{number}/64 dev {link} nodad"));
                at.run(&format!("ip link set {link} up"));
            }
        }
        for (host, _, v4, v6, over) in ends {
            host.outer.run(&format!("ip route add {over} via {v4}1"));
            host.outer.run(&format!("ip route add default via {v6}1"));
        }
        let forward = [("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")];
        netns::sysctls(router.fd.as_fd(), &forward).unwrap();
        router
    }

    /// Both started, and friends.
    pub fn started(offload: bool) -> Self {
        let mut pair = Self::new();
        let (a, b) = (pair.a.as_peer(v4(1)), pair.b.as_peer(v4(2)));
        pair.a.start(&[b], offload);
        pair.b.start(&[a], offload);
        pair
    }
}

pub fn v4(number: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, number).into()
}

/// An iperf3 server for one client.
pub fn iperf_server(at: &Namespace) -> Killed {
    Killed(at.command("iperf3 -s -1").stdout(Stdio::null()).spawn().unwrap())
}

/// What TCP gets from there to 10.66.0.2 in three seconds, in Mbit/s.
pub fn wait_for_iperf(from: &Namespace, options: &str) -> f64 {
    let line = format!("iperf3 -c 10.66.0.2 -t 3 -J {options}");
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let output = from.command(&line).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        if let Some(bits) = report["end"]["sum_received"]["bits_per_second"].as_f64() {
            return bits / 1e6;
        }
        assert!(Instant::now() < end, "iperf3: {report}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A child that is killed when dropped.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A test and its name.
pub type Test = (&'static str, fn());

/// The tests, and each shape with each pair of implementations.
fn all(tests: &[Test], ends: &[shapes::Ends]) -> Vec<(String, Box<dyn Fn()>)> {
    let plain =
        tests.iter().map(|&(name, test)| (name.to_owned(), Box::new(test) as Box<dyn Fn()>));
    let shaped = ends.iter().flat_map(|&ends| {
        shapes::ALL.into_iter().map(move |(name, shape)| {
            let [a, b] = ends.map(|end| format!("{end:?}").to_lowercase());
            (format!("{name}_{a}_{b}"), Box::new(move || shape(ends)) as Box<dyn Fn()>)
        })
    });
    plain.chain(shaped).collect()
}

/// Runs the tests whose names hold the first argument, and the shapes for each of `ends`; or is the
/// worker.
///
/// Where `needs` says that they need something special, they run only when `--ignored` is given.
pub fn main(tests: &[Test], ends: &[shapes::Ends], needs: Option<&str>) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|a| a == worker::SUBCOMMAND) {
        return device::worker_main();
    }
    let given = |option: &str| arguments.iter().any(|a| a == option);
    let mut names = arguments.iter().filter(|a| !a.starts_with('-'));
    let filter = names.next().cloned().unwrap_or_default();
    let tests = all(tests, ends);
    let chosen = tests.iter().filter(|(name, _)| name.contains(&filter));
    if given("--list") {
        // As nextest wants it, which asks twice: for all, and for those that are ignored.
        let listed = needs.is_some() || !given("--ignored");
        chosen.filter(|_| listed).for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let run = given("--include-ignored") || given("--ignored") == needs.is_some();
    let mut failed = 0;
    for (name, test) in chosen {
        if !run {
            println!("test {name} ... ignored, {}", needs.unwrap_or("not one of those"));
            continue;
        }
        let passed = std::panic::catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += i32::from(!passed);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
