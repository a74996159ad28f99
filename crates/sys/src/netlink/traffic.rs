//! Traffic control: an HTB scheduler on a link (tc-htb(8)), its classes and their queues.

use std::fmt;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage};
use rustix::io::Errno;

use super::{Cause, Connection, Error, LinkRef};

const RTM_NEWTCLASS: u16 = 40;
const TCA_OPTIONS: u16 = 2;
const TCA_STATS2: u16 = 7;
const TCA_STATS_QUEUE: u16 = 3;
const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
/// `TC_LINKLAYER_ETHERNET`: the kernel reckons by itself and wants no table.
const ETHERNET: u8 = 1;
/// One tick of the scheduler's clock is so many nanoseconds (`PSCHED_SHIFT`).
const TICK: u64 = 64;

/// For how long a class may send at once after it was silent, in nanoseconds.
const BURST: u64 = 10_000_000;

/// A class of an HTB scheduler. Its number's upper half is the scheduler's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Its number.
    pub number: u32,
    /// The class that it borrows from; the scheduler itself for one that borrows nowhere.
    pub parent: u32,
    /// What it has for itself, in bytes per second; less than 4 GiB.
    pub rate: u32,
    /// What it gets at most, likewise.
    pub ceiling: u32,
    /// Which classes go first: those with the lowest number, 0 to 7.
    pub order: u32,
    /// How many bytes wait in it at most; `None` for a class that has classes below.
    pub queue: Option<u32>,
}

impl Connection {
    /// Makes an HTB scheduler a link's root, where it is not that already. What is in no class goes
    /// to the class `default`, its number without the scheduler's.
    pub fn add_scheduler<'a>(
        &mut self,
        link: impl Into<LinkRef<'a>>,
        number: u32,
        default: u32,
    ) -> Result<(), Error> {
        let index = self.index(link.into())?;
        // struct tc_htb_glob: version, rate to quantum, default, debug, direct packets.
        let global: Vec<u8> = [3, 10, default, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
        let options = attribute(TCA_HTB_INIT, &global);
        let message = message(index, number, u32::MAX, "htb", options);
        let request = RouteNetlinkMessage::NewQueueDiscipline(message);
        match self.change(request, NLM_F_CREATE | NLM_F_EXCL) {
            Err(Cause::Kernel { errno: Errno::EXIST, .. }) => Ok(()),
            other => other.map_err(|cause| Error::new("add scheduler", Number(number), cause)),
        }
    }

    /// Takes a link's scheduler away with all its classes; not an error where there is none.
    pub fn delete_scheduler<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Result<(), Error> {
        let index = self.index(link.into())?;
        let message = TcMessage::from_parts(header(index, 0, u32::MAX), Vec::new());
        match self.change(RouteNetlinkMessage::DelQueueDiscipline(message), 0) {
            Err(Cause::Kernel { errno: Errno::NOENT | Errno::INVAL, .. }) => Ok(()),
            other => other.map_err(|cause| Error::new("delete", "scheduler", cause)),
        }
    }

    /// Makes a class, or changes it: what waits in it goes on waiting.
    pub fn set_class<'a>(
        &mut self,
        link: impl Into<LinkRef<'a>>,
        class: &Class,
    ) -> Result<(), Error> {
        let index = self.index(link.into())?;
        let options = attribute(TCA_HTB_PARMS, &class.parameters());
        let message = message(index, class.number, class.parent, "htb", options);
        self.change(RouteNetlinkMessage::NewTrafficClass(message), NLM_F_CREATE)
            .and_then(|()| self.set_queue(index, class))
            .map_err(|cause| Error::new("set class", Number(class.number), cause))
    }

    /// A class without classes below has a queue, whose number is the class's in the upper half.
    fn set_queue(&mut self, index: u32, class: &Class) -> Result<(), Cause> {
        let Some(limit) = class.queue else { return Ok(()) };
        let options = limit.to_ne_bytes().to_vec();
        let message = message(index, class.number << 16, class.number, "bfifo", options);
        self.change(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE)
    }

    /// Removes a class.
    pub fn delete_class<'a>(
        &mut self,
        link: impl Into<LinkRef<'a>>,
        number: u32,
    ) -> Result<(), Error> {
        let index = self.index(link.into())?;
        let message = TcMessage::from_parts(header(index, number, 0), Vec::new());
        self.change(RouteNetlinkMessage::DelTrafficClass(message), 0)
            .map_err(|cause| Error::new("delete class", Number(number), cause))
    }

    /// The classes of a link's scheduler, each with how many packets it has dropped.
    pub fn classes<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Result<Vec<(u32, u64)>, Error> {
        let index = self.index(link.into())?;
        let message = TcMessage::from_parts(header(index, 0, 0), Vec::new());
        let request = RouteNetlinkMessage::GetTrafficClass(message);
        self.dump(&request, RTM_NEWTCLASS, |body| Ok(class(body)))
            .map_err(|cause| Error::new("list", "classes", cause))
    }
}

impl Class {
    /// `struct tc_htb_opt`.
    fn parameters(&self) -> Vec<u8> {
        let rate = |rate: u32| {
            // struct tc_ratespec: cell log, link layer, overhead, alignment, least packet, rate.
            [&[0, ETHERNET, 0, 0, 0, 0, 0, 0][..], &rate.to_ne_bytes()].concat()
        };
        // quantum: how much at a time where several have something; level: the kernel's.
        let quantum = 64_u32 << 10;
        let burst = u32::try_from(BURST / TICK).unwrap_or(u32::MAX);
        let rest = [burst, burst, quantum, 0, self.order];
        let rest = rest.iter().flat_map(|number| number.to_ne_bytes()).collect();
        [rate(self.rate), rate(self.ceiling), rest].concat()
    }
}

fn header(index: u32, handle: u32, parent: u32) -> TcHeader {
    TcHeader {
        index: index.cast_signed(),
        handle: TcHandle::from(handle),
        parent: TcHandle::from(parent),
        ..TcHeader::default()
    }
}

fn message(index: u32, handle: u32, parent: u32, kind: &str, options: Vec<u8>) -> TcMessage {
    let attributes = vec![
        TcAttribute::Kind(kind.to_owned()),
        TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options)),
    ];
    TcMessage::from_parts(header(index, handle, parent), attributes)
}

/// An attribute (netlink(7)); all values here are multiples of four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
}

/// A class's number and drops, out of `struct tcmsg` and what follows.
fn class(body: &[u8]) -> Option<(u32, u64)> {
    let number = u32::from_ne_bytes(*body.get(8..)?.first_chunk()?);
    // struct gnet_stats_queue: length, bytes waiting, drops.
    let queue = find(find(body.get(20..)?, TCA_STATS2)?, TCA_STATS_QUEUE)?;
    let drops = u32::from_ne_bytes(*queue.get(8..)?.first_chunk()?);
    Some((number, drops.into()))
}

fn find(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

/// A number as tc(8) writes it.
struct Number(u32);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}:{:x}", self.0 >> 16, self.0 & 0xffff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_told_in_44_bytes() {
        let class =
            Class { number: 0x10002, parent: 0x10001, rate: 5, ceiling: 7, order: 1, queue: None };
        let told = class.parameters();
        assert_eq!(told.len(), 44);
        assert_eq!(told[8..12], 5_u32.to_ne_bytes());
        assert_eq!(told[20..24], 7_u32.to_ne_bytes());
        assert_eq!(told[40..44], 1_u32.to_ne_bytes());
        assert_eq!(Number(class.number).to_string(), "1:2");
    }

    #[test]
    fn a_class_that_is_cut_off_is_none() {
        let queue = attribute(TCA_STATS_QUEUE, &[0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0]);
        let mut body = vec![0; 20];
        body[8..12].copy_from_slice(&0x10002_u32.to_ne_bytes());
        body.extend(attribute(TCA_STATS2, &queue));
        assert_eq!(class(&body), Some((0x10002, u64::from(9_u32.to_le()))));
        assert!((0..body.len()).all(|end| class(&body[..end]).is_none()));
    }
}
