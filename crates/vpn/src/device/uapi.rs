//! WireGuard's cross-platform interface for operators: what `wg show` and `wg set` say to a process,
//! as lines of `key=value`.
//!
//! Reading it is pure. The socket is root's alone, made by whoever started this process.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::engine::Engine;
use super::outbox::Outbox;
use super::outbox::Wire;
use super::table::Refused;
use crate::keys::PublicKey;
use crate::peer::Peer;
use crate::preshared::PresharedKey;

/// How long an operator's program may be silent.
const PATIENCE: Duration = Duration::from_secs(5);

/// The bytes of a request at most, and of one line.
const LONGEST: u64 = 4 << 20;

/// Why a request is refused, as the number that it is answered with (errno(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// It is not in the protocol's language, or contradicts itself.
const INVALID: Errno = Errno(libc::EINVAL);
/// It would change what only the spec can.
const NOT_HERE: Errno = Errno(libc::EPERM);

impl From<Refused> for Errno {
    fn from(_: Refused) -> Self {
        INVALID
    }
}

/// Answers operators, one after the other, for as long as the process lives.
pub fn serve(
    listener: &UnixListener,
    engine: &Engine,
    wire: &dyn Wire,
    port: u16,
) -> io::Result<()> {
    loop {
        match listener.accept() {
            // What goes wrong with one is that one's.
            Ok((stream, _)) => drop(converse(&stream, engine, wire, port)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn converse(stream: &UnixStream, engine: &Engine, wire: &dyn Wire, port: u16) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(io::Read::take(stream, LONGEST));
    while let Some(request) = request(&mut lines)? {
        let answer = answer(&request, engine, wire, port);
        (&*stream).write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// The lines until an empty one; `None` at the end. They may hold keys.
fn request(lines: &mut impl BufRead) -> io::Result<Option<Zeroizing<String>>> {
    let mut request = Zeroizing::new(String::with_capacity(4096));
    while lines.read_line(&mut request)? > 0 {
        if *request == "\n" {
            request.clear();
        } else if request.ends_with("\n\n") {
            return Ok(Some(request));
        }
    }
    Ok(None)
}

/// The answer to one request.
pub fn answer(request: &str, engine: &Engine, wire: &dyn Wire, port: u16) -> Zeroizing<String> {
    let (text, number) = match request.lines().next() {
        Some("get=1") => (show(engine, port), 0),
        Some("set=1") => {
            let lines = request.split_once('\n').map_or("", |(_, lines)| lines);
            let done = set(lines, engine, port);
            engine.greet(&mut Outbox::new(wire, engine.drops()));
            (Zeroizing::default(), done.err().map_or(0, |errno| errno.0))
        }
        _ => (Zeroizing::default(), INVALID.0),
    };
    // Negative, as `wg` and wireguard-go have it.
    Zeroizing::new(format!("{}errno={}\n\n", *text, -number))
}

/// Everything, keys included: the one who asks is root.
fn show(engine: &Engine, port: u16) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(1 << 16));
    let mut line = |key: &str, value: &str| {
        for part in [key, "=", value, "\n"] {
            text.push_str(part);
        }
    };
    line("private_key", &hex(engine.secret().secret().as_bytes()));
    line("listen_port", &port.to_string());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let table = engine.table();
    for peer in table.wanted() {
        let Some(live) = table.host(&peer.public_key).map(|host| host.status()) else {
            continue;
        };
        line("public_key", &hex(peer.public_key.as_bytes()));
        if let Some(key) = &peer.preshared {
            line("preshared_key", &hex(key.as_bytes()));
        }
        line("protocol_version", "1");
        if let Some(endpoint) = live.endpoint {
            line("endpoint", &endpoint.to_string());
        }
        let shaken = live.last_handshake.map(|age| now.as_secs().saturating_sub(age));
        line("last_handshake_time_sec", &shaken.unwrap_or(0).to_string());
        line("last_handshake_time_nsec", "0");
        line("tx_bytes", &live.tx_bytes.to_string());
        line("rx_bytes", &live.rx_bytes.to_string());
        line("persistent_keepalive_interval", &peer.keepalive.unwrap_or(0).to_string());
        peer.allowed.iter().for_each(|network| line("allowed_ip", &network.to_string()));
    }
    text
}

/// Does what is asked for, all or nothing.
fn set(request: &str, engine: &Engine, port: u16) -> Result<(), Errno> {
    let mut moved = Vec::new();
    engine.change_peers(|list| -> Result<_, Errno> {
        let mut change = Change { list, at: At::Device, made: false, moved: Vec::new() };
        for line in request.lines().filter(|line| !line.is_empty()) {
            let (key, value) = line.split_once('=').ok_or(INVALID)?;
            match change.at {
                At::Device if key != "public_key" => device(&mut change, engine, port, key, value)?,
                _ => change.peer(key, value)?,
            }
        }
        moved = change.moved;
        Ok(change.list)
    })?;
    // An endpoint that is said again counts too, where the peer has gone elsewhere meanwhile.
    engine.place(&moved);
    Ok(())
}

/// A line about the device itself. Key and port are the spec's.
fn device(
    change: &mut Change,
    engine: &Engine,
    port: u16,
    key: &str,
    value: &str,
) -> Result<(), Errno> {
    let same = match key {
        "replace_peers" if value == "true" => {
            change.list.clear();
            true
        }
        "private_key" => unhex(value)? == *engine.secret().secret().as_bytes(),
        "listen_port" => value.parse() == Ok(port),
        "fwmark" => matches!(value, "" | "0"),
        _ => return Err(INVALID),
    };
    if same { Ok(()) } else { Err(NOT_HERE) }
}

/// A list of peers that is being changed.
struct Change {
    list: Vec<Peer>,
    at: At,
    /// Whether the peer was not in the list before.
    made: bool,
    /// Where peers were said to be.
    moved: Vec<(PublicKey, SocketAddr)>,
}

/// What the next line is about.
#[derive(Clone, Copy)]
enum At {
    Device,
    /// The peer of this key, which is in the list unless it was removed.
    Peer(PublicKey),
}

impl Change {
    fn peer(&mut self, key: &str, value: &str) -> Result<(), Errno> {
        if key == "public_key" {
            return self.begin(value);
        }
        let At::Peer(public) = self.at else { return Err(INVALID) };
        match (key, value) {
            ("remove", "true") => self.list.retain(|peer| peer.public_key != public),
            ("update_only", "true") => {
                let made = self.made;
                self.list.retain(|peer| peer.public_key != public || !made);
            }
            ("protocol_version", "1") => {}
            ("allowed_ip", network) => return self.allow(public, network),
            _ => return self.change(public, key, value),
        }
        Ok(())
    }

    fn begin(&mut self, value: &str) -> Result<(), Errno> {
        let bytes = unhex(value)?;
        // By way of text, which is where weak keys are refused.
        let public: PublicKey =
            PublicKey::from_bytes(bytes).to_string().parse().map_err(|_| INVALID)?;
        self.at = At::Peer(public);
        self.made = self.list.iter().all(|peer| peer.public_key != public);
        if self.made {
            self.list.push(Peer::new(public));
        }
        Ok(())
    }

    /// A network belongs to one peer: it is taken from the other. A sign before it takes it away.
    fn allow(&mut self, public: PublicKey, value: &str) -> Result<(), Errno> {
        let (add, text) = match value.strip_prefix('-') {
            Some(text) => (false, text),
            None => (true, value.strip_prefix('+').unwrap_or(value)),
        };
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let network = network.map_err(|_| INVALID)?.trunc();
        if self.list.iter().all(|peer| peer.public_key != public) {
            return Ok(());
        }
        for peer in &mut self.list {
            let own = peer.public_key == public;
            if add || own {
                peer.allowed.retain(|known| known.trunc() != network);
            }
            if add && own {
                peer.allowed.push(network);
            }
        }
        Ok(())
    }

    fn change(&mut self, public: PublicKey, key: &str, value: &str) -> Result<(), Errno> {
        let Some(peer) = self.list.iter_mut().find(|peer| peer.public_key == public) else {
            return Ok(());
        };
        match key {
            "replace_allowed_ips" if value == "true" => peer.allowed.clear(),
            "preshared_key" => {
                let bytes = unhex(value)?;
                peer.preshared = (bytes != [0; 32]).then(|| PresharedKey::from_bytes(bytes));
            }
            "endpoint" => {
                let address = value.parse().map_err(|_| INVALID)?;
                peer.endpoint = Some(address);
                self.moved.push((public, address));
            }
            "persistent_keepalive_interval" => {
                let seconds: u16 = value.parse().map_err(|_| INVALID)?;
                peer.keepalive = (seconds > 0).then_some(seconds);
            }
            _ => return Err(INVALID),
        }
        Ok(())
    }
}

fn hex(bytes: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64));
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
        }
    }
    text
}

fn unhex(text: &str) -> Result<[u8; 32], Errno> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(INVALID);
    }
    for (place, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *place = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| INVALID)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
