//! What the port guard has refused.

use std::collections::BTreeMap;
use std::path::Path;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use serde::{Deserialize, Serialize};

use super::{Error, Protocol, REFUSED, TOTALS};

/// How many ports are named at most.
const NAMED: usize = 32;

/// What was refused since the guard was first attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Binds to ports that are not registered.
    pub binds: u64,
    /// Connections, datagrams and packets to denied ports of this host.
    pub connects: u64,
    /// Packets from other hosts to listeners on ports that are not registered.
    pub listens: u64,
    /// The ports concerned, the most refused first: of those that were refused last, since the guard
    /// remembers about a thousand, no more than 32.
    pub ports: Vec<Refused>,
}

/// One port that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What was tried.
    pub what: What,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// How many times.
    pub count: u64,
}

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Binding a port that is not registered.
    Bind,
    /// Reaching a denied port.
    Connect,
    /// Being reached from another host at a port that is not registered.
    Listen,
}

const WHATS: [What; 3] = [What::Bind, What::Connect, What::Listen];

/// Reads what the guard that is pinned in `pins` has counted.
///
/// # Errors
/// If nothing is pinned there.
pub fn counts(pins: &Path) -> Result<Counts, Error> {
    let totals = MapHandle::from_pinned_path(pins.join(TOTALS)).map_err(Error::Counts)?;
    let total = |what: usize| -> Result<u64, Error> {
        let key = u32::try_from(what).unwrap_or(u32::MAX).to_ne_bytes();
        let values = totals.lookup_percpu(&key, MapFlags::ANY).map_err(Error::Counts)?;
        Ok(values.iter().flatten().map(|bytes| number(bytes)).sum())
    };
    let refused = MapHandle::from_pinned_path(pins.join(REFUSED)).map_err(Error::Counts)?;
    Ok(Counts { binds: total(0)?, connects: total(1)?, listens: total(2)?, ports: ports(&refused) })
}

/// The ports by count. What makes room for others while this reads is left out.
fn ports(map: &MapHandle) -> Vec<Refused> {
    let mut known = BTreeMap::new();
    for key in map.keys() {
        if let Ok(Some(value)) = map.lookup(&key, MapFlags::ANY) {
            known.insert(key, number(&value));
        }
    }
    let mut ports: Vec<Refused> =
        known.iter().filter_map(|(key, count)| decode(key, *count)).collect();
    ports.sort_by_key(|port| (std::cmp::Reverse(port.count), port.what, port.protocol, port.port));
    ports.truncate(NAMED);
    ports
}

/// The program's `struct refusal`; `None` for other protocols, whose sockets no rule lets be made.
fn decode(key: &[u8], count: u64) -> Option<Refused> {
    let [what, protocol, low, high] = *key else { return None };
    let protocol = match i32::from(protocol) {
        libc::IPPROTO_TCP => Protocol::Tcp,
        libc::IPPROTO_UDP => Protocol::Udp,
        _ => return None,
    };
    let what = *WHATS.get(usize::from(what))?;
    Some(Refused { what, protocol, port: u16::from_ne_bytes([low, high]), count })
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_the_program_is_understood() {
        let [low, high] = 8080_u16.to_ne_bytes();
        let port = decode(&[2, 6, low, high], 7).unwrap();
        let expected =
            Refused { what: What::Listen, protocol: Protocol::Tcp, port: 8080, count: 7 };
        assert_eq!(port, expected);
        assert!(decode(&[3, 6, low, high], 1).is_none());
        assert!(decode(&[0, 132, low, high], 1).is_none());
        assert!(decode(&[], 1).is_none());
    }
}
