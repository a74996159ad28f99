//! Requests about links, and reading what the kernel says of them.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NlaBuffer, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkHeader, LinkInfo, LinkMessage,
};

use super::model::{End, Kind, Link, LinkRef, Mac};
use super::socket::{Connection, number, string};
use super::{Cause, Error};

/// The type of the messages that describe a link (include/uapi/linux/rtnetlink.h).
const RTM_NEWLINK: u16 = 16;

/// The length of a link message's fixed part.
const HEADER: usize = 16;

// Attributes of a link (include/uapi/linux/if_link.h).
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_INFO_KIND: u16 = 1;

/// The longest name of an interface, in bytes.
const MAX_NAME: usize = 15;

impl Connection {
    /// All links of the namespace, in the kernel's order.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.dump(&request, RTM_NEWLINK, |body| parse(body).map(Some))
            .map_err(|cause| Error::new("list", "links", cause))
    }

    /// One link; an error for which [`Error::is_not_found`] holds where it is not there.
    pub fn link<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Result<Link, Error> {
        let link = link.into();
        select(link)
            .and_then(|message| self.get(RouteNetlinkMessage::GetLink(message), RTM_NEWLINK))
            .and_then(|body| parse(&body))
            .map_err(|cause| Error::new("look up link", link, cause))
    }

    /// Makes a link; it is down and has no addresses.
    pub fn create(&mut self, kind: Kind<'_>, end: &End<'_>) -> Result<(), Error> {
        new_link(kind, end)
            .and_then(|message| {
                self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
            })
            .map_err(|cause| Error::new("create link", end.name, cause))
    }

    /// Deletes a link, and with it its peer where it is one of a pair.
    pub fn delete<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Result<(), Error> {
        let link = link.into();
        select(link)
            .and_then(|message| self.change(RouteNetlinkMessage::DelLink(message), 0))
            .map_err(|cause| Error::new("delete link", link, cause))
    }

    /// Sets a link up or down.
    pub fn set_up<'a>(&mut self, link: impl Into<LinkRef<'a>>, up: bool) -> Result<(), Error> {
        let operation = if up { "set up link" } else { "set down link" };
        self.set(operation, link.into(), |message| {
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
            message.header.change_mask = LinkFlags::Up;
        })
    }

    /// Sets a link's MTU in bytes.
    pub fn set_mtu<'a>(&mut self, link: impl Into<LinkRef<'a>>, mtu: u32) -> Result<(), Error> {
        self.set("set the mtu of link", link.into(), |message| {
            message.attributes.push(LinkAttribute::Mtu(mtu));
        })
    }

    /// Sets a link's Ethernet address.
    pub fn set_mac<'a>(&mut self, link: impl Into<LinkRef<'a>>, mac: Mac) -> Result<(), Error> {
        self.set("set the address of link", link.into(), |message| {
            message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        })
    }

    /// Notes a text at a link, at most 255 bytes long; for people and for [`Link::alias`].
    pub fn set_alias<'a>(&mut self, link: impl Into<LinkRef<'a>>, text: &str) -> Result<(), Error> {
        self.set("set the alias of link", link.into(), |message| {
            message.attributes.push(LinkAttribute::IfAlias(text.to_owned()));
        })
    }

    /// Renames a link. The kernel may refuse that for one that is up.
    pub fn rename<'a>(&mut self, link: impl Into<LinkRef<'a>>, name: &str) -> Result<(), Error> {
        let link = link.into();
        let index = self.index(link)?;
        check_name(name).map_err(|cause| Error::new("rename link", link, cause))?;
        self.set("rename link", index.into(), |message| {
            message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        })
    }

    /// Moves a link to another network namespace, where it is down, without addresses, and called
    /// `name` where that is given. Its index stays unless it is taken there.
    pub fn move_to<'a>(
        &mut self,
        link: impl Into<LinkRef<'a>>,
        namespace: BorrowedFd<'_>,
        name: Option<&str>,
    ) -> Result<(), Error> {
        let link = link.into();
        let index = self.index(link)?;
        name.map_or(Ok(()), check_name).map_err(|cause| Error::new("move link", link, cause))?;
        self.set("move link", index.into(), |message| {
            message.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
            message.attributes.extend(name.map(|name| LinkAttribute::IfName(name.to_owned())));
        })
    }

    /// The index of a link, asked for where only the name is known.
    pub(super) fn index(&mut self, link: LinkRef<'_>) -> Result<u32, Error> {
        match link {
            LinkRef::Index(index) => Ok(index),
            LinkRef::Name(_) => Ok(self.link(link)?.index),
        }
    }

    fn set(
        &mut self,
        operation: &'static str,
        link: LinkRef<'_>,
        change: impl FnOnce(&mut LinkMessage),
    ) -> Result<(), Error> {
        select(link)
            .and_then(|mut message| {
                change(&mut message);
                self.change(RouteNetlinkMessage::SetLink(message), 0)
            })
            .map_err(|cause| Error::new(operation, link, cause))
    }
}

/// A message about one link.
fn select(link: LinkRef<'_>) -> Result<LinkMessage, Cause> {
    let mut message = LinkMessage::default();
    match link {
        LinkRef::Index(0) => return Err(Cause::Request("links are numbered from 1")),
        LinkRef::Index(index) => message.header.index = index,
        LinkRef::Name(name) => {
            check_name(name)?;
            message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        }
    }
    Ok(message)
}

/// The request that makes a link.
fn new_link(kind: Kind<'_>, end: &End<'_>) -> Result<LinkMessage, Cause> {
    let mut message = describe(end)?;
    let mut info = vec![LinkInfo::Kind(match kind {
        Kind::Bridge => InfoKind::Bridge,
        Kind::Dummy => InfoKind::Dummy,
        Kind::Ifb => InfoKind::Ifb,
        Kind::Veth(_) => InfoKind::Veth,
        Kind::Wireguard => InfoKind::Wireguard,
    })];
    if let Kind::Veth(peer) = kind {
        info.push(LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(describe(&peer)?))));
    }
    message.attributes.push(LinkAttribute::LinkInfo(info));
    Ok(message)
}

fn describe(end: &End<'_>) -> Result<LinkMessage, Cause> {
    check_name(end.name)?;
    let mut message = LinkMessage::default();
    message.header.index = end.index.unwrap_or(0);
    let attributes = &mut message.attributes;
    attributes.push(LinkAttribute::IfName(end.name.to_owned()));
    attributes.extend(end.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    attributes.extend(end.mtu.map(LinkAttribute::Mtu));
    attributes.extend(end.namespace.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
    Ok(message)
}

/// The kernel's own rules (dev_valid_name), so that the error says which was broken. `%` is refused
/// as well: the kernel would take `a%d` for a pattern.
fn check_name(name: &str) -> Result<(), Cause> {
    match name {
        "" | "." | ".." => Err(Cause::Request("not a name for an interface")),
        _ if name.len() > MAX_NAME => Err(Cause::Request("name longer than 15 bytes")),
        _ if name.contains(|c: char| matches!(c, '/' | ':' | '%' | '\0') || c.is_whitespace()) => {
            Err(Cause::Request("name holds a character that interfaces cannot have"))
        }
        _ => Ok(()),
    }
}

/// Reads what is wanted of a link.
fn parse(body: &[u8]) -> Result<Link, Cause> {
    let malformed = |_| Cause::Answer("malformed link");
    let header = LinkHeader::parse(body).map_err(malformed)?;
    let mut link = Link {
        index: header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        flags: header.flags.bits(),
        layer: header.link_layer_type.into(),
        kind: None,
        alias: None,
    };
    for attribute in NlasIterator::new(&body[HEADER..]) {
        let attribute = attribute.map_err(malformed)?;
        match attribute.kind() {
            IFLA_IFNAME => link.name = string(&attribute),
            IFLA_MTU => link.mtu = number(&attribute)?,
            IFLA_ADDRESS => link.mac = attribute.value().try_into().ok().map(Mac),
            IFLA_IFALIAS => link.alias = Some(string(&attribute)),
            IFLA_LINKINFO => link.kind = parse_kind(&attribute)?,
            _ => {}
        }
    }
    if link.index == 0 || link.name.is_empty() {
        return Err(Cause::Answer("link without an index or a name"));
    }
    Ok(link)
}

fn parse_kind(info: &NlaBuffer<&[u8]>) -> Result<Option<String>, Cause> {
    for attribute in NlasIterator::new(info.value()) {
        let attribute = attribute.map_err(|_| Cause::Answer("malformed link"))?;
        if attribute.kind() == IFLA_INFO_KIND {
            return Ok(Some(string(&attribute)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{Emitable, Parseable};

    fn bytes(message: &LinkMessage) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn a_link_is_read_back_as_it_was_described() {
        let mac = Mac([2, 0, 0, 0, 0, 9]);
        let end = End { index: Some(12), mac: Some(mac), mtu: Some(1400), ..End::named("a0") };
        let link = parse(&bytes(&new_link(Kind::Ifb, &end).unwrap())).unwrap();
        assert_eq!((link.index, link.name.as_str(), link.mtu), (12, "a0", 1400));
        assert_eq!((link.mac, link.kind.as_deref()), (Some(mac), Some("ifb")));
        assert_eq!(link.mac.unwrap().to_string(), "02:00:00:00:00:09");
        assert!(!link.is_up());
    }

    #[test]
    fn a_veth_carries_its_peer() {
        let peer = End { index: Some(7), ..End::named("b0") };
        let message = new_link(Kind::Veth(peer), &End::named("a0")).unwrap();
        let written = bytes(&message);
        let read = LinkMessage::parse(&written).unwrap();
        let info = read.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(info) => Some(info),
            _ => None,
        });
        let [_, LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))] = &info.unwrap()[..] else {
            panic!("{info:?}")
        };
        assert_eq!(peer.header.index, 7);
        assert!(peer.attributes.contains(&LinkAttribute::IfName("b0".into())));
    }

    #[test]
    fn names_that_the_kernel_would_refuse_or_expand_are_refused() {
        for name in ["", ".", "..", "a/b", "a b", "a%d", "a:1", "0123456789abcdef"] {
            assert!(describe(&End::named(name)).is_err(), "{name}");
        }
        assert!(describe(&End::named("0123456789abcde")).is_ok());
    }

    #[test]
    fn a_cut_link_is_an_error() {
        let whole = bytes(&new_link(Kind::Bridge, &End::named("br0")).unwrap());
        for length in 0..HEADER {
            assert!(parse(&whole[..length]).is_err());
        }
        assert!(parse(&whole[..whole.len() - 1]).is_err());
    }
}
