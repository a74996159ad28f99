/// The mark (SO_MARK, `skb->mark`) that every handed-over packet socket carries, and by which the
/// transmit guard knows what to drop. Nobody else should use it: "hspw" in ASCII.
pub const MARK: u32 = 0x6873_7077;
