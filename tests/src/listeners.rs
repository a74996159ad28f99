//! What attacks are to reach, or not: listeners, and a witness outside.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::namespace::Namespace;

/// How often threads look whether they are to end.
const PAUSE: Duration = Duration::from_millis(5);

/// A TCP listener and a UDP socket on port 7070 of every address.
#[derive(Debug)]
pub struct Listeners {
    tcp: TcpListener,
    udp: UdpSocket,
    /// The port.
    pub port: u16,
}

impl Listeners {
    /// Makes them in a namespace.
    #[track_caller]
    pub fn on(namespace: &Namespace) -> Self {
        let (tcp, udp) = namespace.within(|| {
            (TcpListener::bind("0.0.0.0:7070").unwrap(), UdpSocket::bind("0.0.0.0:7070").unwrap())
        });
        tcp.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        Self { tcp, udp, port: 7070 }
    }

    /// Answers datagrams until told to stop; how many came.
    pub fn answer(&self, done: &AtomicBool) -> usize {
        let (mut buffer, mut answered) = ([0; 64], 0);
        while !done.load(Ordering::Relaxed) {
            match self.udp.recv_from(&mut buffer) {
                Ok((got, from)) => {
                    answered += 1;
                    drop(self.udp.send_to(&buffer[..got], from));
                }
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
        answered
    }

    /// Whether a connection came, or a datagram that was not answered.
    pub fn was_reached(&self) -> bool {
        self.tcp.accept().is_ok() || self.udp.recv(&mut [0; 64]).is_ok()
    }
}

/// A listener outside that is told a port by whoever connects, tries to connect back to it, and
/// answers 1 or 0. It ends when it is dropped.
#[derive(Debug)]
pub struct Witness {
    address: SocketAddr,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Witness {
    /// Starts one at an address of the namespace.
    #[track_caller]
    pub fn on(namespace: &Namespace, address: &str) -> Self {
        let address = SocketAddr::new(address.parse().unwrap(), 7171);
        let listener = namespace.within(|| TcpListener::bind(address).unwrap());
        listener.set_nonblocking(true).unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let (ended, place) = (done.clone(), namespace.handle());
        let serve = move || {
            place.enter();
            while !ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((line, from)) => drop(answer(line, from.ip())),
                    Err(_) => std::thread::sleep(PAUSE),
                }
            }
        };
        Self { address, done, thread: Some(std::thread::spawn(serve)) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut line: TcpStream, from: IpAddr) -> std::io::Result<()> {
    line.set_nonblocking(false)?;
    line.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut port = [0; 2];
    line.read_exact(&mut port)?;
    let back = SocketAddr::new(from, u16::from_be_bytes(port));
    let reached = TcpStream::connect_timeout(&back, Duration::from_millis(500)).is_ok();
    line.write_all(&[u8::from(reached)])
}
