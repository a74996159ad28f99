//! Addresses, routes and neighbours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NlaBuffer, NlasIterator};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::model::{LinkRef, Mac};
use super::socket::{Connection, number};
use super::{Cause, Error};

// Message types and lengths of their fixed parts (include/uapi/linux/rtnetlink.h).
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;

// Attributes of addresses and routes (include/uapi/linux/if_addr.h, rtnetlink.h).
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends it on.
    #[default]
    Unicast,
    /// Drops it and tells the sender that the destination is unreachable.
    Unreachable,
    /// Drops it in silence.
    Blackhole,
    /// Something else: the RTN_* number.
    Other(u8),
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where the packets are going.
    pub destination: IpNet,
    /// What is done with them.
    pub kind: RouteKind,
    /// The next hop; `None` where the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The index of the link that they leave by.
    pub device: Option<u32>,
    /// Take the gateway to be on the link although no address says so.
    pub onlink: bool,
    /// The source address of packets that start here and have none yet.
    pub source: Option<IpAddr>,
    /// The metric: the lowest wins. `None` is the kernel's default.
    pub metric: Option<u32>,
}

impl Route {
    /// A route to what is on the link itself (scope link).
    pub fn direct(destination: IpNet, device: u32) -> Self {
        Self { device: Some(device), ..Self::refusing(destination, RouteKind::Unicast) }
    }

    /// A route by a gateway.
    pub fn via(destination: IpNet, gateway: IpAddr, device: u32) -> Self {
        Self { gateway: Some(gateway), ..Self::direct(destination, device) }
    }

    /// A route by a gateway that is taken to be on the link.
    ///
    /// The kernel takes no IPv4 gateway as long as its namespace has no IPv4 address at all.
    pub fn onlink(destination: IpNet, gateway: IpAddr, device: u32) -> Self {
        Self { onlink: true, ..Self::via(destination, gateway, device) }
    }

    /// A route that says that there is no way.
    pub fn unreachable(destination: IpNet) -> Self {
        Self::refusing(destination, RouteKind::Unreachable)
    }

    fn refusing(destination: IpNet, kind: RouteKind) -> Self {
        Self {
            destination,
            kind,
            gateway: None,
            device: None,
            onlink: false,
            source: None,
            metric: None,
        }
    }
}

impl Connection {
    /// Gives a link an address; an IPv6 address is usable at once, without a search for duplicates.
    pub fn add_address<'a>(
        &mut self,
        link: impl Into<LinkRef<'a>>,
        address: IpNet,
    ) -> Result<(), Error> {
        let index = self.index(link.into())?;
        let request = RouteNetlinkMessage::NewAddress(address_message(index, address));
        self.change(request, NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|cause| Error::new("add address", address, cause))
    }

    /// Takes an address from a link.
    pub fn delete_address<'a>(
        &mut self,
        link: impl Into<LinkRef<'a>>,
        address: IpNet,
    ) -> Result<(), Error> {
        let index = self.index(link.into())?;
        let request = RouteNetlinkMessage::DelAddress(address_message(index, address));
        self.change(request, 0).map_err(|cause| Error::new("delete address", address, cause))
    }

    /// The addresses of a link, of both families.
    pub fn addresses<'a>(&mut self, link: impl Into<LinkRef<'a>>) -> Result<Vec<IpNet>, Error> {
        let index = self.index(link.into())?;
        // The header's index is a filter in the kernel; ask for both families at once.
        let mut request = AddressMessage::default();
        request.header.index = index;
        self.dump(&RouteNetlinkMessage::GetAddress(request), RTM_NEWADDR, parse_address)
            .map_err(|cause| Error::new("list", "addresses", cause))
    }

    /// Adds a route; an error where the destination has one with the same metric.
    pub fn add_route(&mut self, route: &Route) -> Result<(), Error> {
        let request = RouteNetlinkMessage::NewRoute(route_message(route));
        self.change(request, NLM_F_CREATE | NLM_F_EXCL)
            .map_err(|cause| Error::new("add route to", route.destination, cause))
    }

    /// Adds a route, in the place of another to the same destination if need be.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), Error> {
        let request = RouteNetlinkMessage::NewRoute(route_message(route));
        self.change(request, NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|cause| Error::new("replace route to", route.destination, cause))
    }

    /// Deletes a route.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), Error> {
        let request = RouteNetlinkMessage::DelRoute(route_message(route));
        self.change(request, 0)
            .map_err(|cause| Error::new("delete route to", route.destination, cause))
    }

    /// The routes of the main table, of both families; with `device`, only those that leave by it.
    pub fn routes(&mut self, device: Option<u32>) -> Result<Vec<Route>, Error> {
        let mut routes = self.family_routes(AddressFamily::Inet, device)?;
        routes.extend(self.family_routes(AddressFamily::Inet6, device)?);
        Ok(routes)
    }

    fn family_routes(
        &mut self,
        family: AddressFamily,
        device: Option<u32>,
    ) -> Result<Vec<Route>, Error> {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.attributes.push(RouteAttribute::Table(RouteHeader::RT_TABLE_MAIN.into()));
        request.attributes.extend(device.map(RouteAttribute::Oif));
        let take = |body: &[u8]| {
            // A dump of all families, where this one is unknown, holds others.
            let route = parse_route(body)?;
            Ok(route.filter(|route| device.is_none() || route.device == device))
        };
        match self.dump(&RouteNetlinkMessage::GetRoute(request), RTM_NEWROUTE, take) {
            // No route was ever added to the main table of this namespace.
            Err(Cause::Kernel { errno: Errno::NOENT, .. }) => Ok(Vec::new()),
            other => other.map_err(|cause| Error::new("list", "routes", cause)),
        }
    }

    /// Fixes the Ethernet address of a neighbour, so that nothing is asked for or learnt.
    pub fn add_neighbour<'a>(
        &mut self,
        link: impl Into<LinkRef<'a>>,
        address: IpAddr,
        mac: Mac,
    ) -> Result<(), Error> {
        let index = self.index(link.into())?;
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(address.into()),
            NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        ];
        let request = RouteNetlinkMessage::NewNeighbour(message);
        self.change(request, NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|cause| Error::new("add neighbour", address, cause))
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    if address.addr().is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    message.attributes =
        vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    message
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.destination.addr());
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Other(number) => number.into(),
    };
    // What has a device and no gateway is on the link; everything else may be anywhere.
    let direct = route.gateway.is_none() && route.device.is_some();
    message.header.scope = if direct { RouteScope::Link } else { RouteScope::Universe };
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    if route.destination.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(route.destination.network().into()));
    }
    attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    attributes.extend(route.device.map(RouteAttribute::Oif));
    attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(source.into())));
    attributes.extend(route.metric.map(RouteAttribute::Priority));
    message
}

/// Reads an address; `None` for a family other than IP.
fn parse_address(body: &[u8]) -> Result<Option<IpNet>, Cause> {
    let [family, prefix, ..] = *body else { return Err(MALFORMED) };
    let attributes = body.get(ADDRESS_HEADER..).ok_or(MALFORMED)?;
    if !is_ip(family) {
        return Ok(None);
    }
    let (mut local, mut other) = (None, None);
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.map_err(|_| MALFORMED)?;
        match attribute.kind() {
            IFA_LOCAL => local = Some(ip(&attribute)?),
            IFA_ADDRESS => other = Some(ip(&attribute)?),
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the other side's; IPv6 has no IFA_LOCAL otherwise.
    let address = local.or(other).ok_or(MALFORMED)?;
    IpNet::new(address, prefix).map(Some).map_err(|_| MALFORMED)
}

/// Reads a route; `None` for a family other than IP.
fn parse_route(body: &[u8]) -> Result<Option<Route>, Cause> {
    let header = RouteHeader::parse(body).map_err(|_| MALFORMED)?;
    if !is_ip(header.address_family.into()) {
        return Ok(None);
    }
    let v4 = header.address_family == AddressFamily::Inet;
    let mut target: IpAddr =
        if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::BlackHole => RouteKind::Blackhole,
        other => RouteKind::Other(other.into()),
    };
    let mut route = Route::refusing(IpNet::from(target), kind);
    route.onlink = header.flags.contains(RouteFlags::Onlink);
    for attribute in NlasIterator::new(&body[ROUTE_HEADER..]) {
        let attribute = attribute.map_err(|_| MALFORMED)?;
        match attribute.kind() {
            RTA_DST => target = ip(&attribute)?,
            RTA_GATEWAY => route.gateway = Some(ip(&attribute)?),
            RTA_OIF => route.device = Some(number(&attribute)?),
            RTA_PREFSRC => route.source = Some(ip(&attribute)?),
            RTA_PRIORITY => route.metric = Some(number(&attribute)?),
            _ => {}
        }
    }
    route.destination =
        IpNet::new(target, header.destination_prefix_length).map_err(|_| MALFORMED)?;
    Ok(Some(route))
}

const MALFORMED: Cause = Cause::Answer("malformed address or route");

fn is_ip(family: u8) -> bool {
    matches!(AddressFamily::from(family), AddressFamily::Inet | AddressFamily::Inet6)
}

fn ip(attribute: &NlaBuffer<&[u8]>) -> Result<IpAddr, Cause> {
    let bytes = attribute.value();
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    <[u8; 16]>::try_from(bytes).map(IpAddr::from).map_err(|_| MALFORMED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn read_back(route: &Route) -> Route {
        let message = route_message(route);
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        parse_route(&bytes).unwrap().unwrap()
    }

    #[test]
    fn routes_are_read_back_as_they_were_written() {
        let gateway = "169.254.0.1".parse().unwrap();
        let source = Some("10.0.0.7".parse().unwrap());
        for route in [
            Route::direct(net("10.1.0.0/16"), 3),
            Route::via(net("0.0.0.0/0"), gateway, 3),
            Route {
                source,
                metric: Some(5),
                ..Route::onlink(net("10.2.0.0/24"), gateway, 1 << 20)
            },
            Route::unreachable(net("0.0.0.0/0")),
            Route::direct(net("fd00::/64"), 9),
            Route::unreachable(net("::/0")),
        ] {
            assert_eq!(read_back(&route), route);
        }
    }

    #[test]
    fn the_scope_follows_from_the_gateway() {
        let direct = route_message(&Route::direct(net("10.0.0.1/32"), 1));
        assert_eq!(direct.header.scope, RouteScope::Link);
        let unreachable = route_message(&Route::unreachable(net("0.0.0.0/0")));
        assert_eq!(unreachable.header.scope, RouteScope::Universe);
    }

    #[test]
    fn addresses_are_read_back_as_they_were_written() {
        for address in ["10.66.0.3/32", "192.0.2.1/24", "fd00::1/128"] {
            let message = address_message(4, net(address));
            let mut bytes = vec![0; message.buffer_len()];
            message.emit(&mut bytes);
            assert_eq!(parse_address(&bytes).unwrap(), Some(net(address)));
            for length in 0..ADDRESS_HEADER {
                assert!(parse_address(&bytes[..length]).is_err());
            }
        }
    }
}
