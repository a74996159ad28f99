//! Receive rings (packet(7), Documentation/networking/packet_mmap.rst): their memory is pinned and
//! charged to nobody, so the sum over a portspace's sockets is limited here.

use rustix::io::Errno;

use crate::packets::diag::Live;
use crate::packets::netlink::word;

/// `sizeof(struct tpacket_req)` and `sizeof(struct tpacket_req3)`.
const REQUEST: usize = 16;
const REQUEST3: usize = 28;

/// How many bytes to read of a request that the caller says is `length` long.
pub(super) fn length(length: u64) -> Result<usize, Errno> {
    let length = (length & 0xffff_ffff) as usize;
    if length < REQUEST || length > i32::MAX as usize {
        Err(Errno::INVAL)
    } else {
        Ok(length.min(REQUEST3))
    }
}

/// The memory in bytes that a request asks for: blocks, and the kernel's table of them.
pub(super) fn wanted(request: &[u8]) -> Result<u64, Errno> {
    let field = |at| word(request, at).map(u64::from).ok_or(Errno::INVAL);
    let (size, number) = (field(0)?, field(4)?);
    // Both are below 2^32, so the product does not overflow.
    Ok((size * number).saturating_add(8 * number))
}

/// Whether a ring of `wanted` bytes on the socket `cookie` fits below `limit`.
pub(super) fn fits(
    wanted: u64,
    cookie: u64,
    limit: u64,
    live: &[Live],
    is_ours: impl Fn(u64) -> bool,
) -> bool {
    let others = live.iter().filter(|socket| is_ours(socket.cookie) && socket.cookie != cookie);
    let taken = others.fold(0_u64, |sum, socket| sum.saturating_add(socket.ring));
    taken.saturating_add(wanted) <= limit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(cookie: u64, ring: u64) -> Live {
        Live { cookie, ring, ..Live::default() }
    }

    #[test]
    fn memory_is_blocks_times_their_size_without_overflow() {
        let request = |size: u32, number: u32| [size.to_ne_bytes(), number.to_ne_bytes()].concat();
        assert_eq!(wanted(&request(4096, 4)), Ok(16384 + 32));
        assert_eq!(wanted(&request(0, 0)), Ok(0));
        assert!(wanted(&request(u32::MAX, u32::MAX)).unwrap() > 1 << 63);
        assert_eq!(wanted(&[0; 4]), Err(Errno::INVAL));
    }

    #[test]
    fn only_own_sockets_count_and_not_the_one_itself() {
        let live = [ring(1, 60), ring(2, 30), ring(9, 1000)];
        let ours = |cookie| cookie < 9;
        assert!(fits(10, 3, 100, &live, ours));
        assert!(!fits(11, 3, 100, &live, ours));
        assert!(fits(40, 2, 100, &live, ours));
        assert!(!fits(u64::MAX, 3, 100, &live, ours));
    }

    #[test]
    fn requests_of_all_versions_are_read_whole() {
        assert_eq!(length(16), Ok(16));
        assert_eq!(length(28), Ok(28));
        assert_eq!(length(100), Ok(28));
        assert_eq!(length(15), Err(Errno::INVAL));
        assert_eq!(length(u64::MAX), Err(Errno::INVAL));
    }
}
