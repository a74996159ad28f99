//! A VPN in words and numbers: its status, and who joins and leaves it.

use std::collections::BTreeMap;

use hyperspector_spec::plan::{HyperspectorPlan, PeerPlan, VpnPlan};
use hyperspector_vpn::backend;
use hyperspector_vpn::keys::PublicKey;
use hyperspector_vpn::status::{Backend, Reason, Status};

use super::Vpn;
use crate::keys::public_keys;
use crate::record::VpnRecord;
use crate::status::{PeerStatus, VpnStatus};

impl Vpn {
    /// How it is.
    pub(crate) fn status(&self, plan: Option<&HyperspectorPlan>) -> VpnStatus {
        let Some(record) = &self.record else {
            let has_peers = plan.is_some_and(|plan| !plan.vpn.peers.is_empty());
            let backend = if has_peers { "down" } else { "none" };
            return VpnStatus {
                backend: backend.to_owned(),
                failure: self.failure.clone(),
                public_key: plan.and_then(|plan| plan.vpn.public_key.clone()),
                ..VpnStatus::default()
            };
        };
        match backend::status(&record.handle) {
            Ok(status) => self.described(record, &status),
            Err(error) => VpnStatus {
                backend: "down".to_owned(),
                failure: Some(error.to_string()),
                ..VpnStatus::default()
            },
        }
    }

    fn described(&self, record: &VpnRecord, status: &Status) -> VpnStatus {
        let all = status.drops.iter().chain(status.peers.iter().flat_map(|peer| &peer.drops));
        let dropped = named(all);
        let peers = record.plan.peers.iter().map(|plan| self.peer(plan, status)).collect();
        VpnStatus {
            backend: match status.backend {
                Backend::Kernel => "kernel".to_owned(),
                Backend::Embedded => "embedded".to_owned(),
            },
            failure: self.failure.clone(),
            pid: self.pid(),
            public_key: Some(status.public_key.to_string()),
            next_key: status.next_key.map(|key| key.to_string()),
            key_was_changed: record.plan.next_key == Some(status.public_key.to_string()),
            listen_port: Some(record.plan.listen_port),
            peers,
            dropped,
            restarts: self.restarts,
        }
    }

    fn peer(&self, plan: &PeerPlan, status: &Status) -> PeerStatus {
        let live = status.peer(&public_keys(plan.keys()));
        let live = live.as_ref();
        let agreed = live.and_then(|peer| peer.keys);
        let uses = |next: PublicKey| agreed.is_some_and(|keys| keys.theirs == next);
        let planned = plan.endpoints.first().map(|(host, port)| format!("{host}:{port}"));
        PeerStatus {
            host: plan.host.clone(),
            endpoint: live.and_then(|peer| peer.endpoint).map(|at| at.to_string()).or(planned),
            last_handshake_seconds: live.and_then(|peer| peer.last_handshake),
            handshakes: self.peers.handshakes(&plan.host),
            silent_seconds: self.peers.silent(&plan.host).map(|time| time.as_secs()),
            round_trip_ms: live.and_then(|peer| peer.round_trip_ms),
            mtu: live.and_then(|peer| peer.mtu),
            received_bytes: live.map_or(0, |peer| peer.rx_bytes),
            sent_bytes: live.map_or(0, |peer| peer.tx_bytes),
            dropped: live.map(|peer| named(peer.drops.iter())).unwrap_or_default(),
            knows_next_key: status.next_key.map(|key| agreed.is_some_and(|keys| keys.ours == key)),
            uses_next_key: plan.next_key.as_deref().and_then(|key| key.parse().ok()).map(uses),
            allowed: plan.allowed.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Counts by the names of their reasons.
fn named<'a>(drops: impl Iterator<Item = (&'a Reason, &'a u64)>) -> BTreeMap<String, u64> {
    let mut dropped = BTreeMap::new();
    for (reason, count) in drops {
        // Reasons are unit variants: their JSON is their name.
        let name = serde_json::to_value(reason).unwrap_or_default();
        *dropped.entry(name.as_str().unwrap_or("unknown").to_owned()).or_default() += count;
    }
    dropped
}

/// Who joins, and who is cut off, in words.
pub(super) fn comings(before: &VpnPlan, after: &VpnPlan) -> Vec<String> {
    let same = |list: &'_ VpnPlan, host: &str| -> Option<Vec<String>> {
        let peer = list.peers.iter().find(|peer| peer.host == host)?;
        Some(peer.keys().map(str::to_owned).collect())
    };
    let gone = before.peers.iter().filter_map(|peer| match same(after, &peer.host) {
        None => Some(format!("{} is cut off", peer.host)),
        Some(keys) if peer.keys().all(|key| keys.iter().any(|other| other == key)) => None,
        Some(_) => Some(format!("the old key of {} is not taken any more", peer.host)),
    });
    let new = after.peers.iter().filter_map(|peer| match same(before, &peer.host) {
        None => Some(format!("{} joins", peer.host)),
        Some(keys) if peer.keys().all(|key| keys.iter().any(|other| other == key)) => None,
        Some(_) if peer.next_key.is_some() => Some(format!("{} has a next key", peer.host)),
        Some(_) => Some(format!("{} has another key", peer.host)),
    });
    gone.chain(new).collect()
}
