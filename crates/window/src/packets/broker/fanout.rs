//! Fanout groups (packet(7)): ids belong to a whole network namespace, so what a portspace calls
//! group 7 is a group of its own, under whatever id the kernel had free.

use std::collections::BTreeMap;

use rustix::io::Errno;

use crate::packets::diag::Live;
use crate::packets::netlink::word;

const ROLLOVER_FLAG: u16 = 0x1000;
const UNIQUE: u16 = 0x2000;
const IGNORE_OUTGOING: u16 = 0x4000;
const DEFRAG: u16 = 0x8000;
const FLAGS: u16 = ROLLOVER_FLAG | UNIQUE | IGNORE_OUTGOING | DEFRAG;

/// The highest type that is let through: hash, lb, cpu, rollover, rnd, qm and cbpf. The next,
/// ebpf, would need a program's descriptor.
const LAST_TYPE: u16 = 6;

/// The most members a group may ask for. The kernel allots the table at once, charged to nobody;
/// this is sixteen times its own default.
const MOST_MEMBERS: u32 = 4096;

/// What PACKET_FANOUT is given: an int, or a `struct fanout_args`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fanout {
    pub(super) id: u16,
    /// Type in the low byte, flags in the high one.
    pub(super) mode: u16,
    members: Option<u32>,
}

impl Fanout {
    /// Reads it, and refuses what no portspace may have.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Errno> {
        let first = word(bytes, 0).ok_or(Errno::INVAL)?;
        let members = match bytes.len() {
            4 => None,
            8 => word(bytes, 4),
            _ => return Err(Errno::INVAL),
        };
        let id = u16::try_from(first & 0xffff).map_err(|_| Errno::INVAL)?;
        let mode = u16::try_from(first >> 16).map_err(|_| Errno::INVAL)?;
        if mode & !FLAGS > LAST_TYPE {
            return Err(Errno::PERM);
        }
        if members.is_some_and(|members| members > MOST_MEMBERS) {
            return Err(Errno::NOMEM);
        }
        Ok(Self { id, mode, members })
    }

    /// As the kernel wants it.
    pub(super) fn encode(self) -> Vec<u8> {
        let first = u32::from(self.id) | (u32::from(self.mode) << 16);
        let mut bytes = first.to_ne_bytes().to_vec();
        bytes.extend(self.members.map(u32::to_ne_bytes).into_iter().flatten());
        bytes
    }

    /// Whether the kernel is asked for a free id.
    pub(super) fn is_unique(self) -> bool {
        self.mode & UNIQUE != 0
    }
}

/// The groups of one portspace: its own id to the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups(pub(super) BTreeMap<u16, u16>);

impl Groups {
    /// What to ask the kernel for: to join the host's group that `asked` stands for, if sockets of
    /// this portspace are in it now, else for a new one. A group ends with its last socket, and
    /// its id may then be given to somebody else: one must never join on the strength of memory.
    pub(super) fn translate(
        &self,
        asked: Fanout,
        live: &[Live],
        is_ours: impl Fn(u64) -> bool,
    ) -> Fanout {
        if asked.is_unique() {
            return asked;
        }
        let known = self.0.get(&asked.id).copied().filter(|host| {
            live.iter().any(|socket| socket.group == Some(*host) && is_ours(socket.cookie))
        });
        match known {
            Some(host) => Fanout { id: host, ..asked },
            None => Fanout { id: 0, mode: asked.mode | UNIQUE, ..asked },
        }
    }

    /// Remembers the id that the kernel gave. Who asked for a free id learns the host's, and will
    /// use that.
    pub(super) fn remember(&mut self, asked: Fanout, host: u16) {
        let own = if asked.is_unique() { host } else { asked.id };
        self.0.insert(own, host);
    }
}

/// Whether somebody else's socket is in the host's group.
pub(super) fn is_shared(host: u16, live: &[Live], is_ours: impl Fn(u64) -> bool) -> bool {
    live.iter().any(|socket| socket.group == Some(host) && !is_ours(socket.cookie))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(id: u16, mode: u16) -> Fanout {
        Fanout::decode(&(u32::from(id) | (u32::from(mode) << 16)).to_ne_bytes()).unwrap()
    }

    fn member(cookie: u64, group: u16) -> Live {
        Live { cookie, group: Some(group), ..Live::default() }
    }

    #[test]
    fn both_forms_are_read_and_written() {
        let short = (99_u32 | (0x8001 << 16)).to_ne_bytes();
        assert_eq!(Fanout::decode(&short).unwrap().encode(), short);
        let mut long = short.to_vec();
        long.extend_from_slice(&64_u32.to_ne_bytes());
        assert_eq!(Fanout::decode(&long).unwrap().encode(), long);
    }

    #[test]
    fn other_lengths_ebpf_and_huge_groups_are_refused() {
        assert_eq!(Fanout::decode(&[0; 3]), Err(Errno::INVAL));
        assert_eq!(Fanout::decode(&[0; 6]), Err(Errno::INVAL));
        assert_eq!(Fanout::decode(&(7_u32 << 16).to_ne_bytes()), Err(Errno::PERM));
        assert_eq!(Fanout::decode(&(0x0100_u32 << 16).to_ne_bytes()), Err(Errno::PERM));
        let mut huge = vec![0; 4];
        huge.extend_from_slice(&65536_u32.to_ne_bytes());
        assert_eq!(Fanout::decode(&huge), Err(Errno::NOMEM));
    }

    #[test]
    fn the_first_use_asks_for_a_new_group_and_the_second_joins_it() {
        let mut groups = Groups::default();
        let first = groups.translate(int(7, 0), &[], |_| true);
        assert_eq!((first.id, first.mode), (0, UNIQUE));
        groups.remember(int(7, 0), 1234);
        let second = groups.translate(int(7, 0), &[member(1, 1234)], |_| true);
        assert_eq!((second.id, second.mode), (1234, 0));
    }

    #[test]
    fn a_group_that_has_ended_is_made_anew_even_if_its_id_is_in_use_by_others() {
        let mut groups = Groups::default();
        groups.remember(int(7, 0), 1234);
        let again = groups.translate(int(7, 0), &[member(50, 1234)], |cookie| cookie == 1);
        assert!(again.is_unique());
    }

    #[test]
    fn who_asks_for_a_free_id_can_join_by_what_the_kernel_gave() {
        let mut groups = Groups::default();
        let asked = int(0, UNIQUE | 1);
        assert_eq!(groups.translate(asked, &[], |_| true), asked);
        groups.remember(asked, 5);
        assert_eq!(groups.translate(int(5, 1), &[member(1, 5)], |_| true).id, 5);
    }

    #[test]
    fn strangers_in_a_group_are_noticed() {
        let live = [member(1, 5), member(2, 5), member(3, 6)];
        assert!(!is_shared(5, &live, |cookie| cookie < 3));
        assert!(is_shared(5, &live, |cookie| cookie == 1));
    }
}
