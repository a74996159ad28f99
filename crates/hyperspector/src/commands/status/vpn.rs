//! The VPN and the hub, in words.

use std::time::Duration;

use hyperspector_agent::status::{PeerStatus, VpnStatus};
use hyperspector_vpn::hub;

use crate::terminal::{BAD, BUSY, FAINT, GOOD, bytes, duration, escape, styled};

pub(super) fn vpn_line(vpn: &VpnStatus) -> String {
    if let Some(failure) = &vpn.failure {
        return styled(BAD, format!("vpn: {}", escape(failure)));
    }
    if vpn.backend == "none" {
        return styled(FAINT, "on this host alone");
    }
    let mut text = format!("vpn {}", vpn.backend);
    if let Some(port) = vpn.listen_port {
        text.push_str(&format!(", UDP port {port}"));
    }
    if vpn.next_key.is_some() {
        text.push_str(", changing its key");
    } else if vpn.key_was_changed {
        text.push_str(", key changed: the spec needs the new one alone");
    }
    let dropped: u64 = vpn.dropped.values().sum();
    if dropped > 0 {
        let reasons: Vec<_> = vpn
            .dropped
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(reason, count)| format!("{count} {}", reason.replace('_', " ")))
            .collect();
        text.push_str(&format!(", dropped {}", reasons.join(", ")));
    }
    styled(FAINT, text)
}

pub(super) fn peer_line(peer: &PeerStatus) -> String {
    let (style, state) = match peer.last_handshake_seconds {
        _ if peer.silent_seconds.is_some() => {
            let time = Duration::from_secs(peer.silent_seconds.unwrap_or_default());
            (BAD, format!("does not answer for {}", duration(time)))
        }
        Some(seconds) if seconds < 180 => (GOOD, format!("heard {seconds} s ago")),
        Some(seconds) => (BUSY, format!("silent for {}", duration(Duration::from_secs(seconds)))),
        None => (BUSY, "not heard yet".to_owned()),
    };
    let endpoint = peer.endpoint.as_deref().unwrap_or("calls by itself");
    let mut traffic = format!("↓ {} ↑ {}", bytes(peer.received_bytes), bytes(peer.sent_bytes));
    if let Some(time) = peer.round_trip_ms {
        traffic.push_str(&format!(", {time} ms"));
    }
    if let Some(mtu) = peer.mtu {
        traffic.push_str(&format!(", narrow: mtu {mtu}"));
    }
    if let Some(uses) = peer.uses_next_key {
        traffic.push_str(if uses { ", uses its next key" } else { ", has a next key" });
    }
    if let Some(knows) = peer.knows_next_key {
        traffic.push_str(if knows { ", has our next key" } else { ", has not got our next key" });
    }
    format!(
        "{} {} {}",
        styled(FAINT, format!("↔ {}", peer.host)),
        styled(style, state),
        styled(FAINT, format!("{endpoint}, {traffic}"))
    )
}

/// What the hub has refused of a portspace, a line for each kind.
pub(super) fn kept_in(refused: &hub::Refused) -> Vec<String> {
    let kinds = [
        (refused.from, "packets to what it may not reach"),
        (refused.to, "packets from who may not reach it"),
        (refused.forged, "packets from an address that is not its own, or with IP options"),
        (refused.over_rate, "packets over its rate"),
    ];
    let line = |(count, what)| format!("refused: {count} {what}");
    kinds.into_iter().filter(|(count, _)| *count > 0).map(line).collect()
}
