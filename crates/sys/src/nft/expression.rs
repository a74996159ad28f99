//! The expressions that rules are made of: each works on registers of 32 bits, numbered from 0.

use super::attribute::{attribute, nested, number, string};

/// The first register of 32 bits (`NFT_REG32_00`).
const FIRST: u32 = 8;
const VERDICT: u32 = 0;

/// One expression of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression(Vec<u8>);

/// What is known of a packet besides its bytes (`enum nft_meta_keys`).
#[derive(Clone, Copy, Debug)]
pub enum Meta {
    /// Which traffic class it is in.
    Priority = 2,
    /// The name of the interface that it came by: four registers.
    InputName = 6,
    /// The name of the interface that it goes out by: four registers.
    OutputName = 7,
    /// Its protocol's number.
    Protocol = 16,
}

/// What connection tracking knows (`enum nft_ct_keys`).
#[derive(Clone, Copy, Debug)]
pub enum Ct {
    /// One of the bits of [`state`].
    State = 0,
    /// 0 from whoever began, 1 from whoever answers.
    Direction = 1,
}

/// Bits of [`Ct::State`] (`NF_CT_STATE_BIT`, nf_conntrack_common.h).
pub mod state {
    /// Answered, or an answer.
    pub const ESTABLISHED: u32 = 2;
    /// An ICMP error about a connection.
    pub const RELATED: u32 = 4;
    /// The first packet of a connection.
    pub const NEW: u32 = 8;
}

/// Which header bytes are counted from (`enum nft_payload_bases`).
#[derive(Clone, Copy, Debug)]
pub enum Base {
    /// IP's.
    Network = 1,
    /// TCP's, UDP's, ICMP's.
    Transport = 2,
}

impl Expression {
    fn new(name: &str, data: &[Vec<u8>]) -> Self {
        Self([attribute(1, &string(name)), nested(2, data)].concat())
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.clone()
    }
}

fn register(kind: u16, number_of: u32) -> Vec<u8> {
    number(kind, FIRST + number_of)
}

fn data(kind: u16, value: &[u8]) -> Vec<u8> {
    nested(kind, &[attribute(1, value)])
}

/// Loads what is known of the packet.
pub fn meta(key: Meta, to: u32) -> Expression {
    Expression::new("meta", &[register(1, to), number(2, key as u32)])
}

/// Sets the packet's traffic class.
pub fn set_priority(from: u32) -> Expression {
    Expression::new("meta", &[number(2, Meta::Priority as u32), register(3, from)])
}

/// Loads what connection tracking knows.
pub fn ct(key: Ct, to: u32) -> Expression {
    Expression::new("ct", &[register(1, to), number(2, key as u32)])
}

/// Loads bytes of the packet.
pub fn payload(base: Base, offset: u32, length: u32, to: u32) -> Expression {
    let place = [number(2, base as u32), number(3, offset), number(4, length)];
    Expression::new("payload", &[&[register(1, to)][..], &place].concat())
}

/// Puts a value into registers.
pub fn load(value: &[u8], to: u32) -> Expression {
    Expression::new("immediate", &[register(1, to), data(2, value)])
}

/// Goes on where the registers hold `value`.
pub fn is(from: u32, value: &[u8]) -> Expression {
    Expression::new("cmp", &[register(1, from), number(2, 0), data(3, value)])
}

/// Goes on where they hold something else.
pub fn is_not(from: u32, value: &[u8]) -> Expression {
    Expression::new("cmp", &[register(1, from), number(2, 1), data(3, value)])
}

/// `register = register & mask ^ flip`, in the machine's order.
pub fn bits(at: u32, mask: u32, flip: u32) -> Expression {
    let (mask, flip) = (data(4, &mask.to_ne_bytes()), data(5, &flip.to_ne_bytes()));
    let parts = [register(1, at), register(2, at), number(3, 4), mask, flip];
    Expression::new("bitwise", &parts)
}

/// Goes on where the set has the key that begins at that register.
pub fn lookup(set: &str, from: u32) -> Expression {
    Expression::new("lookup", &[attribute(1, &string(set)), register(2, from)])
}

/// Counts with a counter of the table's.
pub fn count(counter: &str) -> Expression {
    Expression::new("objref", &[number(1, 1), attribute(2, &string(counter))])
}

/// Goes on where there are more than `most` connections of the key at that register, which is noted
/// in a dynamic set.
pub fn more_connections_than(most: u32, set: &str, from: u32) -> Expression {
    let limit = Expression::new("connlimit", &[number(1, most), number(2, 1)]);
    let parts =
        [attribute(1, &string(set)), number(3, 0), register(4, from), nested(7, &[limit.0])];
    Expression::new("dynset", &parts)
}

/// Lets the packet through this hook.
pub fn accept() -> Expression {
    verdict(1)
}

/// Drops the packet.
pub fn drop() -> Expression {
    verdict(0)
}

fn verdict(code: u32) -> Expression {
    let verdict = nested(2, &[nested(2, &[number(1, code)])]);
    Expression::new("immediate", &[number(1, VERDICT), verdict])
}

/// Drops the packet and tells its sender, by ICMP, that it is forbidden (code 13, RFC 1812).
pub fn reject() -> Expression {
    Expression::new("reject", &[number(1, 0), attribute(2, &[13])])
}
