//! The threads of the data path. Each one loops until its descriptor is no good any more, which
//! ends the process: an interface that was removed does not come back.

use std::io::{self, IoSliceMut};
use std::time::Duration;

use quinn_udp::{BATCH_SIZE, RecvMeta};

use super::engine::Engine;
use super::io::{Tun, Udp, sender};
use super::outbox::Outbox;
use crate::offload::{Bundle, HEADER_LENGTH, Header, MAX_FRAME};

/// How often the timers are looked at; the protocol's are whole seconds.
const TICK: Duration = Duration::from_millis(250);

/// The bytes that one receive can bring for one buffer.
const RECEIVE_BUFFER: usize = 65_536;

/// The buffers of one receive. Fewer than possible: they are locked in memory.
const RECEIVE_BUFFERS: usize = if BATCH_SIZE < 8 { BATCH_SIZE } else { 8 };

/// Packets of the inside in one go before those collected are sent.
const PACKETS_IN_A_ROW: usize = 64;

/// From the inside to the wire.
pub fn outbound(engine: &Engine, tun: &Tun, udp: &Udp) -> io::Result<()> {
    let mut outbox = Outbox::new(udp, engine.drops());
    let mut frame = vec![0; MAX_FRAME];
    loop {
        tun.wait()?;
        for _ in 0..PACKETS_IN_A_ROW {
            match tun.read(&mut frame) {
                Ok(length) => one_outbound(engine, &mut frame[..length], &mut outbox),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        outbox.flush();
    }
}

fn one_outbound(engine: &Engine, frame: &mut [u8], outbox: &mut Outbox<'_>) {
    if let Some((header, packet)) = frame.split_first_chunk_mut::<HEADER_LENGTH>() {
        engine.outbound(&Header::read(header), packet, outbox);
    }
}

/// From the wire to the inside.
pub fn inbound(engine: &Engine, tun: &Tun, udp: &Udp, join: bool) -> io::Result<()> {
    let mut outbox = Outbox::new(udp, engine.drops());
    let mut bundle = Bundle::new(join);
    let mut storage = vec![0; RECEIVE_BUFFERS * RECEIVE_BUFFER];
    let mut buffers: Vec<_> =
        storage.chunks_exact_mut(RECEIVE_BUFFER).map(IoSliceMut::new).collect();
    let mut metas = [RecvMeta::default(); RECEIVE_BUFFERS];
    loop {
        match udp.receive(&mut buffers, &mut metas) {
            Ok(count) => {
                for (buffer, meta) in buffers.iter().zip(&metas).take(count) {
                    several_inbound(engine, buffer, meta, &mut outbox, &mut bundle);
                    let lost = bundle.deliver(|parts| tun.write(parts));
                    engine.drops().add(crate::status::Reason::InsideFailed, lost);
                }
                outbox.flush();
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => udp.wait()?,
            // What the network has to say about datagrams of ours is not the socket's end.
            Err(e) if is_passing(&e) => {}
            Err(e) => return Err(e),
        }
    }
}

/// The datagrams of one buffer.
fn several_inbound(
    engine: &Engine,
    buffer: &[u8],
    meta: &RecvMeta,
    outbox: &mut Outbox<'_>,
    bundle: &mut Bundle,
) {
    let from = sender(meta);
    if meta.len == 0 {
        // An empty datagram is one too, and counts.
        engine.inbound(&[], from, outbox, bundle);
    }
    for datagram in buffer[..meta.len.min(buffer.len())].chunks(meta.stride.max(1)) {
        engine.inbound(datagram, from, outbox, bundle);
    }
}

fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::INTR
                | Errno::CONNREFUSED
                | Errno::HOSTUNREACH
                | Errno::NETUNREACH
                | Errno::NETDOWN
                | Errno::NOBUFS
                | Errno::NOMEM
                | Errno::MSGSIZE
                | Errno::PERM
        )
    )
}

/// Time.
pub fn ticks(engine: &Engine, udp: &Udp) -> io::Result<()> {
    let mut outbox = Outbox::new(udp, engine.drops());
    engine.greet(&mut outbox);
    loop {
        std::thread::sleep(TICK);
        engine.tick(&mut outbox);
    }
}
