//! The threads of the data path. Each one loops until its descriptor is no good any more, which
//! ends the process: an interface that was removed does not come back.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::time::Duration;

use quinn_udp::{BATCH_SIZE, RecvMeta};

use super::engine::{Arrival, Engine};
use super::handshakes::{Handshakes, Offer};
use super::io::{Tun, Udp, sender};
use super::outbox::Outbox;
use super::scout::Scout;
use super::table::Table;
use crate::offload::{Bundle, HEADER_LENGTH, Header, Join, MAX_FRAME, ecn};
use crate::status::Reason;

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
        let table = engine.table();
        for _ in 0..PACKETS_IN_A_ROW {
            match tun.read(&mut frame) {
                Ok(length) => one_outbound(engine, &table, &mut frame[..length], &mut outbox, tun),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        outbox.flush();
    }
}

fn one_outbound(
    engine: &Engine,
    table: &Table,
    frame: &mut [u8],
    outbox: &mut Outbox<'_>,
    tun: &Tun,
) {
    let Some((header, packet)) = frame.split_first_chunk_mut::<HEADER_LENGTH>() else { return };
    if let Some(error) = engine.outbound(table, &Header::read(header), packet, outbox) {
        // One that is not taken comes again with the next packet.
        let _ = tun.write(&[&Header::default().bytes(), &error[..]].map(IoSlice::new));
    }
}

/// From the wire to the inside, and to those who wait.
pub fn inbound(
    engine: &Engine,
    (tun, udp): (&Tun, &Udp),
    join: Join,
    waiting: &Handshakes,
) -> io::Result<()> {
    let mut outbox = Outbox::new(udp, engine.drops());
    let mut bundle = Bundle::new(join);
    let mut storage = vec![0; RECEIVE_BUFFERS * RECEIVE_BUFFER];
    let mut buffers: Vec<_> =
        storage.chunks_exact_mut(RECEIVE_BUFFER).map(IoSliceMut::new).collect();
    let mut metas = [RecvMeta::default(); RECEIVE_BUFFERS];
    loop {
        match udp.receive(&mut buffers, &mut metas) {
            Ok(count) => {
                let table = engine.table();
                for (buffer, meta) in buffers.iter().zip(&metas).take(count) {
                    let came = arrival(meta);
                    let stays = |datagram: &&[u8]| match waiting.offer(datagram, came) {
                        Offer::Other => true,
                        Offer::Taken => false,
                        Offer::Full => {
                            engine.drops().count(Reason::UnderLoad);
                            false
                        }
                    };
                    let datagrams = several(buffer, meta).filter(stays);
                    engine.inbound(&table, datagrams, came, &mut outbox, &mut bundle);
                    let lost = bundle.deliver(|parts| tun.write(parts));
                    engine.drops().add(Reason::InsideFailed, lost);
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

/// The datagrams of one buffer; an empty one is one too, and counts.
fn several<'b>(buffer: &'b [u8], meta: &RecvMeta) -> impl Iterator<Item = &'b [u8]> {
    let bytes = &buffer[..meta.len.min(buffer.len())];
    let empty = bytes.is_empty().then_some(bytes);
    empty.into_iter().chain(bytes.chunks(meta.stride.max(1)))
}

fn arrival(meta: &RecvMeta) -> Arrival {
    let congested = meta.ecn.is_some_and(|bits| bits as u8 == ecn::CONGESTED);
    Arrival { from: sender(meta), congested }
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

/// Handshake messages.
pub fn handshakes(engine: &Engine, udp: &Udp, waiting: &Handshakes) -> io::Result<()> {
    let mut outbox = Outbox::new(udp, engine.drops());
    // Stays empty: nothing for the inside is in them.
    let mut bundle = Bundle::new(Join::default());
    let mut batch = VecDeque::new();
    loop {
        waiting.next(&mut batch);
        for one in batch.drain(..) {
            let message = std::iter::once(one.message());
            engine.inbound(&engine.table(), message, one.came, &mut outbox, &mut bundle);
            outbox.flush();
        }
    }
}

/// Time.
pub fn ticks(
    engine: &Engine,
    udp: &Udp,
    scout: &mut Scout,
    waiting: &Handshakes,
) -> io::Result<()> {
    let mut outbox = Outbox::new(udp, engine.drops());
    engine.greet(&mut outbox);
    loop {
        std::thread::sleep(TICK);
        engine.tick(&mut outbox);
        waiting.tick(|| engine.places());
        scout.look(engine);
    }
}
