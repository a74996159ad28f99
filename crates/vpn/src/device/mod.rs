//! The embedded VPN: a process of its own that holds one key, one TUN device and one UDP socket, and
//! nothing else. It parses what strangers send, so it has no privilege and can open no file.
//!
//! It outlives the agent that started it: the next agent finds it by its control socket.

pub(crate) mod confine;
mod engine;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod handshakes;
mod host;
mod identity;
mod io;
mod outbox;
mod path;
mod policy;
mod run;
mod scout;
mod table;
mod trie;
mod uapi;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread;

use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};

use crate::control::{self, Reply, Request};
use crate::keys::SecretKey;
use crate::offload::Join;
use crate::peer::Peer;
use crate::status::{Backend, Enforced, Offload, Status};
use engine::Engine;

pub(crate) use io::{bind_scout, bind_several};

/// The worker's kind on the command line.
pub const KIND: &str = "vpn";

/// The stack of each data thread, in bytes.
const STACK: usize = 256 << 10;

/// What a worker is told, along with its descriptors: the TUN device and the UDP socket, each once
/// for each queue, the scout's socket, the listening control socket, and a listening socket for operators where there is
/// one.
///
/// The private key comes as a field. Here it is wiped when it is dropped, and so is the text that it
/// is parsed from inside [`SecretKey`]; but the frame that carried it is a plain buffer of the
/// channel's, in the agent and here, and is freed without being wiped. Both processes hold the key
/// anyway; memory is locked and undumpable here before the frame is read.
#[derive(Debug, Serialize, Deserialize)]
pub struct Config {
    /// The HyperSpector's name, for messages.
    pub name: String,
    /// This host's key in it.
    pub key: SecretKey,
    /// The peers to begin with.
    pub peers: Vec<Peer>,
    /// What the TUN device was made for.
    pub offload: Offload,
    /// Its queues, and the sockets: each pair has threads of its own.
    pub queues: usize,
    /// The greatest packet inside, in bytes.
    pub mtu: u32,
    /// The user to become; no other process should have it.
    pub uid: u32,
    /// The group to become.
    pub gid: u32,
}

/// What a worker says once: it runs, or why not.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ready {
    /// It runs, confined.
    Running(Enforced),
    /// It does not.
    Failed(String),
}

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
enum WorkerError {
    #[error("receive the configuration: {0}")]
    Configuration(std::io::Error),
    #[error("set up descriptors: {0}")]
    Descriptors(std::io::Error),
    #[error(transparent)]
    Confine(#[from] confine::ConfineError),
    #[error("take the peers: {0}")]
    Peers(#[from] table::Refused),
    #[error("start a thread: {0}")]
    Thread(std::io::Error),
    #[error("wait for the agent: {0}")]
    Control(std::io::Error),
}

/// The whole life of the worker process; what `__worker vpn` calls.
pub fn worker_main() -> ExitCode {
    abort_on_panic();
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vpn: {error}");
            ExitCode::FAILURE
        }
    }
}

fn work() -> Result<(), WorkerError> {
    let locked = confine::protect_memory()?;
    let (config, fds, agent) =
        hyperspector_sys::worker::receive::<Config>().map_err(WorkerError::Configuration)?;
    let name = config.name.clone();
    match start(config, fds, locked) {
        Ok((device, enforced)) => {
            // The agent may have died meanwhile; the next one will ask.
            let _ = agent.send(&Ready::Running(enforced), &[]);
            drop(agent);
            let ended = device.serve();
            eprintln!("vpn {name}: ended");
            ended
        }
        Err(error) => {
            // Who started it reads it there; stderr has it too.
            let _ = agent.send(&Ready::Failed(error.to_string()), &[]);
            Err(error)
        }
    }
}

/// The running data path, as the control thread sees it.
struct Device {
    engine: Arc<Engine>,
    udp: Arc<io::Udp>,
    listener: UnixListener,
    /// Where operators' programs ask.
    operators: Option<UnixListener>,
    /// Readable when a data thread has ended.
    ended: Arc<OwnedFd>,
    offload: Offload,
    enforced: Enforced,
}

/// One queue of the TUN device and one socket. The kernel keeps each flow to one queue and each peer's
/// address to one socket, so that packets stay in order.
struct Line {
    tun: Arc<io::Tun>,
    udp: Arc<io::Udp>,
}

impl Line {
    fn new((tun, udp): (OwnedFd, OwnedFd)) -> std::io::Result<Self> {
        Ok(Self { tun: Arc::new(io::Tun::new(tun)?), udp: Arc::new(io::Udp::new(udp)?) })
    }

    fn ends(&self) -> (Arc<io::Tun>, Arc<io::Udp>) {
        (Arc::clone(&self.tun), Arc::clone(&self.udp))
    }
}

/// Sets everything up, confines the process, and only then lets the threads go.
fn start(
    config: Config,
    fds: Vec<OwnedFd>,
    memory_locked: bool,
) -> Result<(Device, Enforced), WorkerError> {
    let Config { key, peers, offload, queues, mtu, uid, gid, .. } = config;
    let count = fds.len();
    let mut fds = fds.into_iter();
    let tuns: Vec<_> = fds.by_ref().take(queues).collect();
    let udps: Vec<_> = fds.by_ref().take(queues).collect();
    let (Some(scout), Some(listener), operators, None) =
        (fds.next(), fds.next(), fds.next(), fds.next())
    else {
        let text = format!("{count} came for {queues} queues");
        return Err(WorkerError::Descriptors(std::io::Error::other(text)));
    };
    let lines = tuns.into_iter().zip(udps).map(Line::new);
    let lines = lines.collect::<Result<Vec<_>, _>>().map_err(WorkerError::Descriptors)?;
    let Some(udp) = lines.first().map(|line| Arc::clone(&line.udp)) else {
        return Err(WorkerError::Descriptors(std::io::Error::other("no queue")));
    };
    let scout = scout::Scout::new(scout, mtu).map_err(WorkerError::Descriptors)?;
    let ended =
        eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| WorkerError::Descriptors(e.into()))?;

    confine::leave_root(uid, gid)?;

    let engine = Arc::new(Engine::new(key));
    engine.set_peers(peers)?;
    let enforced = Enforced { uid, gid, system_calls: policy::ALLOWED.len() as u32, memory_locked };
    let device = Device {
        engine,
        udp,
        listener: listener.into(),
        operators: operators.map(UnixListener::from),
        ended: Arc::new(ended),
        offload,
        enforced,
    };
    // This one, those of the queues, the handshakes', the timers', the operators'.
    let threads = 3 + 2 * lines.len() + usize::from(device.operators.is_some());
    let go = Arc::new(Barrier::new(threads));
    device.start_threads(&lines, scout, &go)?;
    // The threads' own beginnings need calls that are forbidden from here on.
    go.wait();
    confine::close_down()?;
    go.wait();
    Ok((device, enforced))
}

impl Device {
    /// Starts the data path's threads; they wait at `go` twice: when they have begun, and until they are confined.
    fn start_threads(
        &self,
        lines: &[Line],
        mut scout: scout::Scout,
        go: &Arc<Barrier>,
    ) -> Result<(), WorkerError> {
        let join = Join { tcp: self.offload.tcp, udp: self.offload.udp };
        let waiting = Arc::new(handshakes::Handshakes::default());
        for line in lines {
            let (engine, (tun, udp)) = (Arc::clone(&self.engine), line.ends());
            self.start_thread("outbound", go, move || run::outbound(&engine, &tun, &udp))?;
            let (engine, (tun, udp)) = (Arc::clone(&self.engine), line.ends());
            let queue = Arc::clone(&waiting);
            self.start_thread("inbound", go, move || {
                run::inbound(&engine, (&tun, &udp), join, &queue)
            })?;
        }
        let (engine, udp) = (Arc::clone(&self.engine), Arc::clone(&self.udp));
        let queue = Arc::clone(&waiting);
        self.start_thread("handshakes", go, move || run::handshakes(&engine, &udp, &queue))?;
        let (engine, udp) = (Arc::clone(&self.engine), Arc::clone(&self.udp));
        self.start_thread("ticks", go, move || run::ticks(&engine, &udp, &mut scout, &waiting))?;
        let Some(listener) = &self.operators else { return Ok(()) };
        let listener = listener.try_clone().map_err(WorkerError::Descriptors)?;
        let port = self.udp.port().map_err(WorkerError::Descriptors)?;
        let (engine, udp) = (Arc::clone(&self.engine), Arc::clone(&self.udp));
        let serve = move || uapi::serve(&listener, &engine, &*udp, port);
        self.start_thread("operators", go, serve)
    }

    fn start_thread(
        &self,
        name: &'static str,
        go: &Arc<Barrier>,
        body: impl FnOnce() -> std::io::Result<()> + Send + 'static,
    ) -> Result<(), WorkerError> {
        let (go, ended) = (Arc::clone(go), Arc::clone(&self.ended));
        let run = move || {
            go.wait();
            go.wait();
            if let Err(error) = body() {
                eprintln!("vpn: {name}: {error}");
            }
            let _ = rustix::io::write(&*ended, &1_u64.to_ne_bytes());
        };
        let builder = thread::Builder::new().name(name.into()).stack_size(STACK);
        builder.spawn(run).map(drop).map_err(WorkerError::Thread)
    }

    /// Answers agents until one says stop, or the data path has ended.
    fn serve(self) -> Result<(), WorkerError> {
        let answer = |request| self.answer(request);
        control::serve(&self.listener, &*self.ended, answer).map_err(WorkerError::Control)
    }

    fn answer(&self, request: Request) -> Reply {
        match request {
            Request::Status => Reply::Status(Box::new(self.status())),
            Request::SetPeers(peers) => self.changed(self.engine.set_peers(peers)),
            Request::SetKeys(keys) => self.changed(self.engine.set_keys(keys)),
            Request::Stop => Reply::Done,
        }
    }

    fn changed(&self, result: Result<(), table::Refused>) -> Reply {
        match result {
            Ok(()) => {
                self.greet();
                Reply::Done
            }
            Err(refused) => Reply::Refused(refused.to_string()),
        }
    }

    fn greet(&self) {
        let mut outbox = outbox::Outbox::new(&*self.udp, self.engine.drops());
        self.engine.greet(&mut outbox);
    }

    fn status(&self) -> Status {
        Status {
            backend: Backend::Embedded,
            public_key: self.engine.public_key(),
            next_key: self.engine.next_key(),
            offload: Offload {
                send: self.udp.sends_in_bulk(),
                receive: self.udp.receives_in_bulk(),
                ..self.offload
            },
            enforced: Some(self.enforced),
            drops: self.engine.drops().snapshot(),
            peers: self.engine.peers(),
        }
    }
}

/// A panic in any thread ends the process, in every build: a VPN without one of its threads would
/// look alive.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("vpn: {panic}");
        std::process::abort();
    }));
}
