//! Messages of netlink(7) for nf_tables, and batches of them.

/// `NFNL_SUBSYS_NFTABLES`; the upper half of a message's number.
pub const NFTABLES: u16 = 10;
/// What comes before a batch's steps.
pub const BATCH_BEGIN: u16 = 16;
/// What comes after them.
pub const BATCH_END: u16 = 17;

/// `NLM_F_REQUEST`
pub const REQUEST: u16 = 1;
/// `NLM_F_ACK`
pub const ACK: u16 = 4;
/// `NLM_F_CREATE`
pub const CREATE: u16 = 0x400;

/// `struct nlmsghdr` and what follows.
pub fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(body);
    bytes
}

/// `struct nfgenmsg`: family, version, subsystem.
pub fn header(family: u8, subsystem: u16) -> Vec<u8> {
    let [high, low] = subsystem.to_be_bytes();
    vec![family, 0, high, low]
}

/// The steps, to be done all or none. The last is answered, and so is each that fails.
pub fn batch(mut steps: Vec<Vec<u8>>) -> Vec<u8> {
    let bound = |kind| message(kind, REQUEST, &header(0, NFTABLES));
    // The flags, in struct nlmsghdr.
    if let Some(flags) = steps.last_mut().and_then(|last| last.get_mut(6..8)) {
        flags.iter_mut().zip(ACK.to_ne_bytes()).for_each(|(flags, ack)| *flags |= ack);
    }
    [bound(BATCH_BEGIN), steps.concat(), bound(BATCH_END)].concat()
}
