//! nf_tables over netlink: batches that the kernel does whole or not at all, and what counters say.
//!
//! Messages are made by hand, see include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h: no
//! program to run, no text to parse, and the kernel's own errors. Only what is used is here.

pub mod attribute;
pub mod expression;
pub mod message;
mod socket;

pub use expression::Expression;
pub use socket::Connection;

use attribute::{attribute, list, nested, number, string};
use message::{CREATE, NFTABLES, REQUEST, batch, header, message};

/// IPv4 alone (`NFPROTO_IPV4`).
const IPV4: u8 = 2;

/// Put after what is there.
const APPEND: u16 = 0x800;

/// How many elements go into one message: an attribute holds 64 KiB.
const MOST_ELEMENTS: usize = 400;

/// The numbers of messages (`enum nf_tables_msg_types`).
mod kind {
    pub(super) const NEW_TABLE: u16 = 0;
    pub(super) const DELETE_TABLE: u16 = 2;
    pub(super) const NEW_CHAIN: u16 = 3;
    pub(super) const NEW_RULE: u16 = 6;
    pub(super) const DELETE_RULE: u16 = 8;
    pub(super) const NEW_SET: u16 = 9;
    pub(super) const NEW_ELEMENT: u16 = 12;
    pub(super) const DELETE_ELEMENT: u16 = 14;
    pub(super) const NEW_OBJECT: u16 = 18;
    pub(super) const GET_OBJECT: u16 = 19;
    pub(super) const DELETE_OBJECT: u16 = 20;
}

/// Where a base chain stands (`enum nf_inet_hooks`), and what becomes of what no rule judges.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// The hook.
    pub at: At,
    /// Its place among the hook's chains; conntrack is at -200.
    pub priority: i32,
    /// Whether what reaches its end is let through.
    pub accept: bool,
}

/// A hook of the network stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Whatever comes in.
    Prerouting = 0,
    /// To the host itself.
    Input = 1,
    /// Through it.
    Forward = 2,
    /// From the host itself.
    Output = 3,
}

/// A part of a set's key, as nft(8) calls it; the kernel knows its size alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// An IPv4 address.
    Address,
    /// A protocol's number.
    Protocol,
    /// A port.
    Port,
}

impl Field {
    /// The type's number in nft's own list (libnftables, `enum datatypes`).
    fn datatype(self) -> u32 {
        match self {
            Self::Address => 7,
            Self::Protocol => 12,
            Self::Port => 13,
        }
    }

    fn length(self) -> u32 {
        match self {
            Self::Address => 4,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }
}

/// What a set is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// Keys that are in it or not.
    Keys,
    /// Ranges of keys.
    Ranges,
    /// Keys that rules add themselves, at most so many.
    Dynamic(u32),
}

/// Steps on one table, done together.
#[derive(Debug)]
pub struct Batch {
    table: String,
    steps: Vec<Vec<u8>>,
}

impl Batch {
    /// Steps on the table of that name, which is made where it is not there.
    pub fn new(table: &str) -> Self {
        let mut batch = Self { table: table.to_owned(), steps: Vec::new() };
        batch.step(kind::NEW_TABLE, CREATE, &[]);
        batch
    }

    /// Removes the table and whatever is in it, and makes it anew.
    pub fn anew(&mut self) -> &mut Self {
        self.step(kind::DELETE_TABLE, 0, &[]);
        self.step(kind::NEW_TABLE, CREATE, &[])
    }

    /// Makes a chain where it is not there, and takes its rules out.
    pub fn chain(&mut self, name: &str, hook: Hook) -> &mut Self {
        let at = [number(1, hook.at as u32), number(2, hook.priority.cast_unsigned())];
        let parts = [
            attribute(3, &string(name)),
            nested(4, &at),
            number(5, u32::from(hook.accept)),
            attribute(7, &string("filter")),
        ];
        self.step(kind::NEW_CHAIN, CREATE, &parts);
        self.step(kind::DELETE_RULE, 0, &[attribute(2, &string(name))])
    }

    /// Adds a rule at a chain's end.
    pub fn rule(&mut self, chain: &str, expressions: &[Expression]) -> &mut Self {
        let expressions: Vec<_> = expressions.iter().map(Expression::bytes).collect();
        let parts = [attribute(2, &string(chain)), list(4, expressions)];
        self.step(kind::NEW_RULE, CREATE | APPEND, &parts)
    }

    /// Makes a set where it is not there, and empties it.
    pub fn set(&mut self, name: &str, fields: &[Field], of: SetKind) -> &mut Self {
        let (mut flags, mut about) = (0, Vec::new());
        match of {
            SetKind::Keys => {}
            SetKind::Ranges => flags |= 0x4,
            SetKind::Dynamic(most) => {
                flags |= 0x20;
                about.push(number(1, most));
            }
        }
        if fields.len() > 1 {
            flags |= 0x80;
            let lengths = fields.iter().map(|field| number(1, field.length())).collect();
            about.push(list(2, lengths));
        }
        let datatype = fields.iter().fold(0, |all, field| all << 6 | field.datatype());
        let length: u32 = fields.iter().map(|field| field.length().next_multiple_of(4)).sum();
        // Sets of the same batch are told apart by their number.
        let id = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        let mut parts = vec![
            attribute(2, &string(name)),
            number(3, flags),
            number(4, datatype),
            number(5, length),
            number(10, id),
        ];
        if !about.is_empty() {
            parts.push(nested(9, &about));
        }
        self.step(kind::NEW_SET, CREATE, &parts);
        self.step(kind::DELETE_ELEMENT, 0, &[attribute(2, &string(name))])
    }

    /// Puts keys into a set, each with its end where the set is one of ranges.
    pub fn elements(&mut self, set: &str, keys: &[(Vec<u8>, Option<Vec<u8>>)]) -> &mut Self {
        let value = |kind, key: &[u8]| nested(kind, &[attribute(1, key)]);
        for keys in keys.chunks(MOST_ELEMENTS) {
            let element = |(key, end): &(Vec<u8>, Option<Vec<u8>>)| {
                let end = end.as_deref().map(|end| value(10, end)).unwrap_or_default();
                [value(1, key), end].concat()
            };
            let elements = keys.iter().map(element).collect();
            self.step(kind::NEW_ELEMENT, CREATE, &[attribute(2, &string(set)), list(3, elements)]);
        }
        self
    }

    /// Makes a counter where it is not there; one that is keeps its count.
    pub fn counter(&mut self, name: &str) -> &mut Self {
        let parts = [attribute(2, &string(name)), number(3, 1), nested(4, &[])];
        self.step(kind::NEW_OBJECT, CREATE, &parts)
    }

    /// Removes a counter that no rule names any more.
    pub fn delete_counter(&mut self, name: &str) -> &mut Self {
        self.step(kind::DELETE_OBJECT, 0, &[attribute(2, &string(name)), number(3, 1)])
    }

    fn step(&mut self, kind: u16, flags: u16, parts: &[Vec<u8>]) -> &mut Self {
        let table = attribute(1, &string(&self.table));
        let body = [header(IPV4, 0), table, parts.concat()].concat();
        self.steps.push(message(NFTABLES << 8 | kind, REQUEST | flags, &body));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        batch(self.steps.clone())
    }
}
