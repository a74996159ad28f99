//! The embedded VPN as `wg` sees it, with Debian's wireguard-go at the other end, and in the shapes
//! of networks that break tunnels: two hosts as in `embedded.rs`, and one with a router between.
//!
//! ```text
//!  hub a     host a                    router                     host b        hub b
//!  vpn0      10.9.0.2 ---- 10.9.0.1 (translated) 192.0.2.1 ---- 192.0.2.2       vpn0
//! ```
//!
//! Needs what `embedded.rs` needs, nft, wg and wireguard-go.

#[allow(dead_code, reason = "each test program uses its part")]
mod hosts;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use hosts::shapes::{Ends, behind_a_router, peer_drops};
use hosts::{Host, Killed, Namespace, PORT, Pair, Test, v4, wait_until};
use hyperspector_spec::plan::VpnBackend;
use hyperspector_vpn::backend::{self, UAPI};
use hyperspector_vpn::keys::SecretKey;
use hyperspector_vpn::peer::Peer;
use hyperspector_vpn::preshared::PresharedKey;
use hyperspector_vpn::status::Reason;

/// Ours at both ends.
const EMBEDDED: Ends = [VpnBackend::Embedded; 2];

/// A name that `wg` shall use, of this process alone.
fn name(number: u8) -> String {
    format!("hs-t{}-{number}", std::process::id())
}

fn socket(name: &str) -> PathBuf {
    Path::new(UAPI).join(format!("{name}.sock"))
}

/// What `wg` prints; an error is what it says.
fn wg(line: &str) -> Result<String, String> {
    let output = Command::new("wg").args(line.split_whitespace()).output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A file with a key as `wg` reads it.
fn key_file(folder: &Path, name: &str, key: &SecretKey) -> PathBuf {
    let path = folder.join(name);
    let json = serde_json::to_string(key).unwrap();
    std::fs::write(&path, json.trim_matches('"')).unwrap();
    path
}

/// A pair of which `wg` sees the first.
fn shown() -> (Pair, String) {
    let mut pair = Pair::new();
    let name = name(1);
    pair.a.operators = Some(socket(&name));
    let (a, b) = (pair.a.as_peer(v4(1)), pair.b.as_peer(v4(2)));
    pair.a.start(&[b], true);
    pair.b.start(&[a], true);
    (pair, name)
}

fn wg_shows_it() {
    let (pair, name) = shown();
    assert!(pair.a.hub.pings("10.66.0.2", ""));
    let peer = pair.b.key.public().to_string();
    let show = |what: &str| wg(&format!("show {name} {what}")).unwrap().trim().to_owned();
    assert_eq!(show("public-key"), pair.a.key.public().to_string());
    assert_eq!(show("listen-port"), PORT.to_string());
    assert_eq!(show("peers"), peer);
    assert_eq!(show("allowed-ips"), format!("{peer}\t10.66.0.2/32"));
    assert_eq!(show("endpoints"), format!("{peer}\t192.0.2.2:{PORT}"));
    let shaken: u64 = show("latest-handshakes").split('\t').nth(1).unwrap().parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!(now.as_secs() - shaken < 30);
    assert!(wg("show interfaces").unwrap().split_whitespace().any(|one| one == name));
    // Nobody but root gets at it, and it goes with the VPN.
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&socket(&name)), 0o600);
    let nobody = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "wg", "show", &name])
        .output();
    assert!(!nobody.unwrap().status.success(), "a stranger was shown the keys");
    backend::stop(pair.a.handle()).unwrap();
    assert!(!socket(&name).exists());
}

fn wg_sets_peers_and_not_what_the_spec_says() {
    let (pair, name) = shown();
    assert!(pair.a.hub.pings("10.66.0.2", ""));
    let peer = pair.b.key.public();
    let other = SecretKey::generate().unwrap().public();
    let set = |line: &str| wg(&format!("set {name} {line}"));
    set(&format!("peer {other} allowed-ips 10.66.0.9/32 persistent-keepalive 25")).unwrap();
    assert_eq!(pair.a.status().peers.len(), 2);
    assert!(pair.a.hub.pings("10.66.0.2", ""), "the other peer's session went on");
    set(&format!("peer {peer} remove")).unwrap();
    assert!(!pair.a.hub.pings("10.66.0.2", ""));
    let back = format!("peer {peer} allowed-ips 10.66.0.2/32 endpoint 192.0.2.2:{PORT}");
    set(&back).unwrap();
    assert!((0..4).any(|_| pair.a.hub.pings("10.66.0.2", "")));
    let refused = set("listen-port 1").unwrap_err();
    assert!(refused.contains("not permitted"), "{refused}");
    assert_eq!(wg(&format!("show {name} listen-port")).unwrap().trim(), PORT.to_string());
}

/// wireguard-go in a host's place; ended when dropped.
struct Go {
    interface: String,
    process: Killed,
}

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.process.0.kill();
        let _ = std::fs::remove_file(socket(&self.interface));
    }
}

impl Go {
    fn start(host: &Host, folder: &Path, peer: &Host, extra: &str) -> Self {
        let interface = format!("hsg{}{}", std::process::id() % 100_000, host.number);
        let mut command = host.outer.command(&format!("wireguard-go -f {interface}"));
        let process = Killed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_until("wireguard-go answers", || wg(&format!("show {interface}")).is_ok());
        let key = key_file(folder, "go.key", &host.key);
        let line = format!(
            "set {interface} private-key {} listen-port {PORT} peer {} allowed-ips 10.66.0.{}/32 {extra}",
            key.display(),
            peer.key.public(),
            peer.number
        );
        wg(&line).unwrap();
        host.outer.run(&format!("ip address add 10.66.0.{}/24 dev {interface}", host.number));
        host.outer.run(&format!("ip link set {interface} mtu 1420 up"));
        Self { interface, process }
    }
}

fn wireguard_go_understands_us_in_both_roles() {
    for we_begin in [true, false] {
        let mut pair = Pair::new();
        // Who begins knows where the other is; the other learns it.
        let endpoint = if we_begin { "" } else { "endpoint 192.0.2.1:51820" };
        let go = Go::start(&pair.b, pair.folder.path(), &pair.a, endpoint);
        let at = we_begin.then(|| SocketAddr::new(v4(2), PORT));
        let peer = Peer { endpoint: at, ..pair.b.as_peer(v4(2)) };
        pair.a.start(&[peer], true);
        let begin = || {
            if we_begin {
                pair.a.hub.pings("10.66.0.2", "")
            } else {
                pair.b.outer.pings("10.66.0.1", "")
            }
        };
        assert!((0..4).any(|_| begin()), "we begin: {we_begin}");
        assert!(pair.a.hub.pings("10.66.0.2", "-s 9000"));
        assert!(pair.b.outer.pings("10.66.0.1", "-s 9000"));
        let status = pair.a.status();
        assert_eq!(status.peers[0].endpoint, Some(SocketAddr::new(v4(2), PORT)));
        assert!(status.peers[0].drops.is_empty(), "{:?}", status.peers[0].drops);
        assert!(wg(&format!("show {} latest-handshakes", go.interface)).is_ok());
    }
}

fn a_preshared_key_is_wireguards_own() {
    let mut pair = Pair::new();
    let shared = SecretKey::generate().unwrap();
    let file = key_file(pair.folder.path(), "psk", &shared);
    let extra = format!("preshared-key {}", file.display());
    let _go = Go::start(&pair.b, pair.folder.path(), &pair.a, &extra);
    let peer = pair.b.as_peer(v4(2));
    let wrong = PresharedKey::from_bytes([1; 32]);
    pair.a.start(&[Peer { preshared: Some(wrong), ..peer.clone() }], true);
    assert!(!pair.a.hub.pings("10.66.0.2", ""));
    let right = Peer { preshared: Some(PresharedKey::from(&shared)), ..peer };
    backend::set_peers(pair.a.handle(), vec![right]).unwrap();
    assert!((0..4).any(|_| pair.a.hub.pings("10.66.0.2", "")));
}

fn a_host_behind_a_router_is_found_and_followed() {
    let (pair, router) = behind_a_router(EMBEDDED, None);
    assert!(!pair.b.hub.pings("10.66.0.1", ""));
    assert!(peer_drops(&pair.b, Reason::NoEndpoint).is_some_and(|count| count > 0));
    assert!((0..4).any(|_| pair.a.hub.pings("10.66.0.2", "")));
    assert!(pair.b.hub.pings("10.66.0.1", ""));
    let first = pair.b.status().peers[0].endpoint.unwrap();
    assert_eq!(first.ip(), v4(1));
    // The router forgets, and gives another port.
    router.run("nft flush chain ip nat post");
    router
        .run("nft add rule ip nat post oifname hs-out udp dport 51820 masquerade to :40000-40010");
    router.run("ip link set hs-in down");
    router.run("ip link set hs-in up");
    forget_flows(&router);
    wait_until("the way is open again", || pair.a.hub.pings("10.66.0.2", ""));
    assert!(pair.b.hub.pings("10.66.0.1", ""));
}

/// Makes a router's table of flows anew, as a restart would.
fn forget_flows(router: &Namespace) {
    let _ = router.command("conntrack -F").stdout(Stdio::null()).stderr(Stdio::null()).status();
}

fn a_kept_up_path_lets_the_other_begin() {
    let (pair, _router) = behind_a_router(EMBEDDED, Some(1));
    // Nothing is sent inside, and an empty message counts 16 bytes: the keepalives alone open the way and keep it open.
    wait_until("b knows where a is", || pair.b.status().peers[0].endpoint.is_some());
    let before = pair.b.status().peers[0].rx_bytes;
    std::thread::sleep(Duration::from_secs(3));
    assert!(pair.b.status().peers[0].rx_bytes >= before + 32, "no keepalives came");
    assert!(pair.b.hub.pings("10.66.0.1", ""));
}

const TESTS: &[Test] = &[
    ("wg_shows_it", wg_shows_it),
    ("wg_sets_peers_and_not_what_the_spec_says", wg_sets_peers_and_not_what_the_spec_says),
    ("wireguard_go_understands_us_in_both_roles", wireguard_go_understands_us_in_both_roles),
    ("a_preshared_key_is_wireguards_own", a_preshared_key_is_wireguards_own),
    ("a_host_behind_a_router_is_found_and_followed", a_host_behind_a_router_is_found_and_followed),
    ("a_kept_up_path_lets_the_other_begin", a_kept_up_path_lets_the_other_begin),
];

fn main() -> ExitCode {
    hosts::main(TESTS, &[EMBEDDED], None)
}
