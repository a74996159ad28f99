//! A capture program as IDSs are built: a TPACKET_V3 ring that is read to the last byte
//! (Documentation/networking/packet_mmap.rst).

use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::generate::{bind, option, packet_socket, pin};

const BLOCK: usize = 256 << 10;
const BLOCKS: usize = 64;
/// After how long the kernel hands over a block that is not full, in milliseconds.
const TIMEOUT: libc::c_uint = 20;
/// What the program prints when it captures.
pub const READY: &str = "ready";

/// What was captured.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Captured {
    /// Packets that were read.
    pub read: u64,
    /// Packets that the kernel dropped for want of room in the ring (PACKET_STATISTICS).
    pub lost: u64,
}

/// `__capture INTERFACE SECONDS PASSES`: each packet is read as often as PASSES says.
pub fn main(arguments: &[String]) -> Result<()> {
    let [interface, seconds, passes] = arguments else { anyhow::bail!("wrong arguments") };
    pin(1)?;
    let ring = Ring::open(interface).with_context(|| format!("capture on {interface}"))?;
    println!("{READY}");
    io::stdout().flush()?;
    let read = ring.read_for(Duration::from_secs_f64(seconds.parse()?), passes.parse()?);
    let captured = Captured { read, lost: ring.lost()? };
    println!("{}", serde_json::to_string(&captured)?);
    Ok(())
}

struct Ring {
    socket: OwnedFd,
    memory: *mut u8,
}

impl Ring {
    fn open(interface: &str) -> io::Result<Self> {
        let socket = packet_socket()?;
        option(
            &socket,
            libc::PACKET_VERSION,
            &(libc::tpacket_versions::TPACKET_V3 as libc::c_int),
        )?;
        // SAFETY: tpacket_req3 is a plain C structure, for which all zeroes is a value.
        let mut request: libc::tpacket_req3 = unsafe { std::mem::zeroed() };
        request.tp_block_size = BLOCK as libc::c_uint;
        request.tp_block_nr = BLOCKS as libc::c_uint;
        request.tp_frame_size = 2048;
        request.tp_frame_nr = (BLOCK * BLOCKS / 2048) as libc::c_uint;
        request.tp_retire_blk_tov = TIMEOUT;
        option(&socket, libc::PACKET_RX_RING, &request)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (none, length, fd) = (std::ptr::null_mut(), BLOCK * BLOCKS, socket.as_raw_fd());
        // SAFETY: a new mapping of the socket's ring, at a place that the kernel chooses.
        let memory = unsafe { libc::mmap(none, length, protection, libc::MAP_SHARED, fd, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ring = Self { socket, memory: memory.cast() };
        bind(&ring.socket, interface, libc::ETH_P_ALL as u16)?;
        Ok(ring)
    }

    /// Reads packets for this long; returns how many.
    fn read_for(&self, time: Duration, passes: u32) -> u64 {
        let (end, mut packets, mut sum) = (Instant::now() + time, 0, 0);
        let mut block = 0;
        while Instant::now() < end {
            let header = self.header(block);
            if header.status().load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                self.wait();
                continue;
            }
            packets += u64::from(header.packets());
            sum = header.read(sum, passes);
            fence(Ordering::SeqCst);
            header.status().store(libc::TP_STATUS_KERNEL, Ordering::Release);
            block = (block + 1) % BLOCKS;
        }
        std::hint::black_box(sum);
        packets
    }

    fn header(&self, block: usize) -> Block {
        // SAFETY: the block is within the mapping, which is BLOCKS times BLOCK long.
        Block(unsafe { self.memory.add(block * BLOCK) })
    }

    fn wait(&self) {
        let mut one =
            libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which lives across the call. Whatever it returns, the ring is looked at.
        unsafe { libc::poll(&raw mut one, 1, 20) };
    }

    fn lost(&self) -> io::Result<u64> {
        // SAFETY: the structure is plain, and all zeroes is a value.
        let mut counts: libc::tpacket_stats_v3 = unsafe { std::mem::zeroed() };
        let mut size = size_of::<libc::tpacket_stats_v3>() as libc::socklen_t;
        let (fd, name) = (self.socket.as_raw_fd(), libc::PACKET_STATISTICS);
        let into = (&raw mut counts).cast();
        // SAFETY: the kernel writes at most `size` bytes to `counts`, which lives across the call.
        match unsafe { libc::getsockopt(fd, libc::SOL_PACKET, name, into, &raw mut size) } {
            0 => Ok(u64::from(counts.tp_drops)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// One block of the ring: a header and the packets in it.
struct Block(*mut u8);

/// Offsets into the block's header, after its version and the offset of its private part.
const HEADER: usize = 8;

impl Block {
    fn header(&self) -> *mut libc::tpacket_hdr_v1 {
        // SAFETY: every block begins with this header, at an offset that is within the block.
        unsafe { self.0.add(HEADER).cast() }
    }

    fn status(&self) -> &AtomicU32 {
        // SAFETY: the header is in the mapping, which lives as long as the program does.
        let status = unsafe { &raw mut (*self.header()).block_status };
        // SAFETY: the kernel and this program share the word, and both treat it as an atomic one.
        unsafe { AtomicU32::from_ptr(status) }
    }

    fn packets(&self) -> u32 {
        // SAFETY: the block is ours now: the kernel writes it no more until it is given back.
        unsafe { (*self.header()).num_pkts }
    }

    /// Adds up the bytes of all packets, eight at a time: each byte has been in the processor.
    fn read(&self, mut sum: u64, passes: u32) -> u64 {
        // SAFETY: as in `packets`.
        let mut offset = unsafe { (*self.header()).offset_to_first_pkt } as usize;
        for _ in 0..self.packets() {
            // SAFETY: the kernel put a packet's header there, within the block.
            let packet = unsafe { self.0.add(offset) };
            // SAFETY: as above; the block is aligned to pages, and headers in it to 16 bytes.
            let header = unsafe { packet.cast::<libc::tpacket3_hdr>().read() };
            // SAFETY: the packet's bytes begin there, within the block.
            let first = unsafe { packet.add(header.tp_mac.into()) };
            // SAFETY: the kernel wrote `tp_snaplen` bytes of the packet from there on.
            let bytes = unsafe { std::slice::from_raw_parts(first, header.tp_snaplen as usize) };
            for _ in 0..passes {
                let words = std::hint::black_box(bytes).chunks_exact(8);
                let words =
                    words.map(|word| word.iter().fold(0, |all, b| all << 8 | u64::from(*b)));
                sum = words.fold(sum, |sum, word| sum.rotate_left(5) ^ word);
            }
            offset += header.tp_next_offset as usize;
        }
        sum
    }
}
