//! The tunnels that are measured, each with both its ends.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hyperspector_spec::plan::VpnBackend;
use hyperspector_sys::netns;
use hyperspector_vpn::backend::{self, Running, Start};
use hyperspector_vpn::keys::SecretKey;
use hyperspector_vpn::peer::Peer;

use super::ENDS;
use crate::lab::{Lab, Namespace, output, run};
use crate::server::network::patiently;

/// The names of the sides.
pub const CABLE: &str = "the cable";
pub const OURS: &str = "ours";
pub const BORINGTUN: &str = "boringtun";

/// The greatest packet inside, of every side.
const MTU: u32 = 1420;
/// The port of the first side; each has its own.
const PORT: u16 = 51_820;
/// The user that the first end of ours becomes.
const USER: u32 = 4_300_000;

/// Other WireGuards: name, program, arguments before the interface's name, where it comes from.
const OTHERS: [(&str, &str, &[&str], Origin); 3] = [
    ("wireguard-go", "wireguard-go", &["-f"], Origin::Debian),
    (
        BORINGTUN,
        "boringtun-cli",
        &["-f", "--disable-drop-privileges"],
        Origin::Crate("boringtun-cli", "0.7.1"),
    ),
    (
        "gotatun",
        "gotatun",
        &["-f", "--disable-drop-privileges"],
        Origin::Crate("gotatun-cli", "0.10.2"),
    ),
];

/// Where a program comes from.
#[derive(Clone, Copy, Debug)]
enum Origin {
    /// A package in `tools/install-packages`.
    Debian,
    /// Built from crates.io: name, version.
    Crate(&'static str, &'static str),
}

/// One tunnel, or none.
pub struct Side<'a> {
    /// What it is called.
    pub name: &'static str,
    /// The address of the host's end inside.
    pub host: String,
    /// The address of the other end inside.
    pub outside: String,
    /// The UDP port of both ends.
    pub port: u16,
    /// The public key of the host's end, where it is ours.
    pub key: Option<hyperspector_vpn::keys::PublicKey>,
    peer: Option<Peer>,
    ends: Vec<End>,
    _lab: std::marker::PhantomData<&'a Lab>,
}

impl Side<'_> {
    /// The processes of both ends.
    pub fn processes(&self) -> impl Iterator<Item = u32> + '_ {
        self.ends.iter().map(End::process)
    }

    /// How to talk to the host's end, where it is ours.
    pub fn handle(&self) -> Result<&backend::Handle> {
        match self.ends.first() {
            Some(End::Ours(running, _)) => Ok(&running.handle),
            _ => bail!("not ours"),
        }
    }

    /// The other end as a peer of the host's, where it is ours.
    pub fn real_peer(&self) -> Result<Peer> {
        self.peer.clone().context("not ours")
    }

    /// The memory of the host's end, in MiB.
    pub fn memory(&self) -> Result<f64> {
        let process = self.processes().next().context("a process")?;
        let text = fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }
}

/// One end of a tunnel. Dropping it ends it.
enum End {
    Ours(Box<Running>, #[allow(dead_code, reason = "removed when dropped")] tempfile::TempDir),
    /// With the socket that it leaves when it is killed.
    Other(Child, PathBuf),
}

impl End {
    fn process(&self) -> u32 {
        match self {
            Self::Ours(running, _) => running.child.as_ref().map_or(0, Child::id),
            Self::Other(child, _) => child.id(),
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let child = match self {
            Self::Ours(running, _) => {
                let _ = backend::stop(&running.handle);
                running.child.as_mut()
            }
            Self::Other(child, socket) => {
                let _ = child.kill();
                let _ = fs::remove_file(socket);
                Some(child)
            }
        };
        let _ = child.map(Child::wait);
    }
}

/// Every side that this machine can have.
pub fn all(lab: &Lab) -> Result<Vec<Side<'_>>> {
    let mut sides = vec![
        Side {
            name: CABLE,
            host: ENDS[0].into(),
            outside: ENDS[1].into(),
            port: 0,
            key: None,
            peer: None,
            ends: Vec::new(),
            _lab: std::marker::PhantomData,
        },
        ours(lab, 1)?,
    ];
    for (number, (name, program, arguments, origin)) in (2_u16..).zip(OTHERS) {
        let found =
            find(program, origin).and_then(|program| other(lab, number, name, &program, arguments));
        match found {
            Ok(side) => sides.push(side),
            Err(error) => println!("not measured: {name}: {error:#}"),
        }
    }
    Ok(sides)
}

/// The embedded VPN.
pub fn ours(lab: &Lab, number: u16) -> Result<Side<'_>> {
    let keys = [SecretKey::generate()?, SecretKey::generate()?];
    let public = keys.each_ref().map(SecretKey::public);
    let mut side = empty(number, OURS);
    side.key = Some(public[0]);
    for (end, namespace) in [&lab.host, &lab.outside].into_iter().enumerate() {
        let (peer, number) = (1 - end, u32::from(number));
        let inside = if peer == 0 { &side.host } else { &side.outside };
        let peers = [Peer {
            public_key: public[peer],
            endpoint: Some(SocketAddr::new(ENDS[peer].parse()?, side.port)),
            allowed: vec![inside.parse::<std::net::IpAddr>()?.into()],
            keepalive: None,
            preshared: None,
            next_key: None,
        }];
        if end == 0 {
            side.peer = peers.first().cloned();
        }
        let user = USER + 2 * number + end as u32;
        let (running, directory) = start(namespace, &keys[end], side.port, &peers, user)?;
        set_up(namespace, &running.interface, &side, end)?;
        side.ends.push(End::Ours(Box::new(running), directory));
    }
    reach(lab, &side)?;
    Ok(side)
}

/// Starts an embedded VPN in a namespace; its interface stays there.
pub fn start(
    namespace: &Namespace,
    key: &SecretKey,
    port: u16,
    peers: &[Peer],
    user: u32,
) -> Result<(Running, tempfile::TempDir)> {
    let directory = tempfile::Builder::new().prefix("hs-bench-vpn-").tempdir()?;
    let control = directory.path().join("control");
    let wanted = Start {
        name: "bench",
        backend: VpnBackend::Embedded,
        key,
        listen_port: port,
        mtu: MTU,
        peers,
        control: &control,
        operators: None,
        uid: user,
        gid: user,
        offload: true,
        queues: backend::queues(),
    };
    let inside = netns::open(namespace.path())?;
    let running = netns::within(inside.as_fd(), || backend::start(&wanted))??;
    Ok((running, directory))
}

fn empty<'a>(number: u16, name: &'static str) -> Side<'a> {
    Side {
        name,
        host: format!("10.66.{number}.1"),
        outside: format!("10.66.{number}.2"),
        port: PORT + number,
        key: None,
        peer: None,
        ends: Vec::new(),
        _lab: std::marker::PhantomData,
    }
}

/// A WireGuard that is told by `wg`.
fn other<'a>(
    lab: &'a Lab,
    number: u16,
    name: &'static str,
    program: &Path,
    arguments: &[&str],
) -> Result<Side<'a>> {
    let mut side = empty(number, name);
    let work = tempfile::Builder::new().prefix("hs-bench-wg-").tempdir()?;
    let keys = [SecretKey::generate()?, SecretKey::generate()?];
    for (end, namespace) in [&lab.host, &lab.outside].into_iter().enumerate() {
        // The socket of its name is in a directory that all namespaces share.
        let interface = format!("hsb{}{number}{end}", std::process::id() % 100_000);
        let mut command = namespace.command(program)?;
        command.args(arguments).arg(&interface);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        let socket = Path::new(backend::UAPI).join(format!("{interface}.sock"));
        side.ends.push(End::Other(child, socket));
        let file = work.path().join("key");
        fs::write(&file, serde_json::from_str::<String>(&serde_json::to_string(&keys[end])?)?)?;
        let peer = 1 - end;
        let inside = if peer == 0 { &side.host } else { &side.outside };
        let (port, endpoint) = (side.port.to_string(), format!("{}:{}", ENDS[peer], side.port));
        let (file, public) = (file.display().to_string(), keys[peer].public().to_string());
        let told = ["set", &interface, "private-key", &file, "listen-port", &port, "peer", &public];
        let more = ["allowed-ips", inside, "endpoint", &endpoint];
        patiently(|| run(namespace.command("wg")?.args(told).args(more)))?;
        set_up(namespace, &interface, &side, end)?;
    }
    reach(lab, &side)?;
    Ok(side)
}

fn set_up(namespace: &Namespace, interface: &str, side: &Side<'_>, end: usize) -> Result<()> {
    let own = if end == 0 { &side.host } else { &side.outside };
    namespace.ip(&["address", "add", &format!("{own}/24"), "dev", interface])?;
    namespace.ip(&["link", "set", interface, "mtu", &MTU.to_string(), "up"])
}

/// Waits until packets pass.
fn reach(lab: &Lab, side: &Side<'_>) -> Result<()> {
    let ping = || run(lab.host.command("ping")?.args(["-q", "-c", "1", "-W", "1", &side.outside]));
    patiently(ping).with_context(|| format!("no packet passes {}", side.name))
}

/// A program, built where it is not there.
fn find(program: &str, origin: Origin) -> Result<PathBuf> {
    let Origin::Crate(name, version) = origin else {
        let path = output(Command::new("which").arg(program)).context("not installed")?;
        return Ok(path.trim().into());
    };
    let root = crate::target()?.join("bench/others");
    let path = root.join("bin").join(program);
    if !path.exists() {
        println!("building {name} {version} from crates.io");
        let mut cargo = Command::new("cargo");
        cargo.args(["install", "--locked", "--quiet", name, "--version", version, "--root"]);
        cargo.arg(&root).arg("--target-dir").arg(root.join("target"));
        run(&mut cargo).with_context(|| format!("build {name}"))?;
    }
    ensure!(path.exists(), "{} is not there", path.display());
    // What is built may be started at once; what is linked late may not.
    std::thread::sleep(Duration::from_millis(10));
    Ok(path)
}
