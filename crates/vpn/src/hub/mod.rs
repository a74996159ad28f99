//! The hub: the network namespace on a host in which the links of one HyperSpector meet.
//!
//! It holds the VPN's interface and one end of a veth for each portspace, routes between them, and
//! has neither another interface nor a route anywhere else. Portspaces hold the other ends, but no
//! capability over their own network namespaces, let alone over this one: a portspace that is taken
//! cannot change a route, an address or a rule.

mod plan;
mod rules;
mod shape;
mod status;

pub use plan::{GATEWAY, PORT, PORT_INDEX, VPN, port_name};
pub use status::{PortStatus, Refused, Status, VpnStatus};

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use hyperspector_spec::plan::Policy;
use hyperspector_sys::errno::text;
use hyperspector_sys::netlink::{self, Connection, End, Kind, LinkRef};
use hyperspector_sys::{netns, nft};
use ipnet::Ipv4Net;

/// Why a hub could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a change to links, addresses or routes.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// A namespace or a setting.
    #[error("{operation}: {}", text(cause))]
    Namespace {
        /// What was tried.
        operation: String,
        /// What came of it.
        cause: io::Error,
    },
}

/// Adds what was tried to an [`io::Error`].
fn failed(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    |cause| Error::Namespace { operation: operation.into(), cause }
}

/// What a hub has to know of a portspace that is to be connected.
#[derive(Clone, Copy, Debug)]
pub struct Port<'a> {
    /// The portspace's name within its HyperSpector.
    pub name: &'a str,
    /// Its network namespace.
    pub namespace: BorrowedFd<'a>,
    /// Its address.
    pub address: Ipv4Addr,
    /// The greatest packet inside the VPN, in bytes.
    pub mtu: u32,
    /// The networks of its HyperSpector.
    pub networks: &'a [Ipv4Net],
}

/// One HyperSpector's hub on this host.
#[derive(Debug)]
pub struct Hub {
    namespace: OwnedFd,
}

impl Hub {
    /// Makes a hub without VPN and portspaces, kept at `path`, that lets nothing through.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let namespace =
            netns::create(path).map_err(failed(format!("create hub {}", path.display())))?;
        let hub = Self { namespace };
        let closed = hub.set_up().and_then(|()| hub.enforce(&Policy::default(), &[]));
        closed.inspect_err(|_| {
            // The first error is the one to tell.
            let _ = netns::remove(path);
        })?;
        Ok(hub)
    }

    /// The hub at `path`: the one that is there, with its settings made again, or else a new one.
    pub fn ensure(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let Ok(hub) = Self::open(path) else {
            // What is there in part is not a hub: whoever made it did not get far.
            Self::remove(path)?;
            return Self::create(path);
        };
        hub.set_up()?;
        for link in hub.netlink()?.links()? {
            hub.harden(&link.name)?;
        }
        Ok(hub)
    }

    /// Opens the hub that is kept at `path`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let namespace =
            netns::open(path).map_err(failed(format!("open hub {}", path.display())))?;
        Ok(Self { namespace })
    }

    /// Removes the hub at `path` with all its links, also where it is there in part or not at all.
    pub fn remove(path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        // The links at once, and not whenever the last holder of the namespace lets go of it.
        let emptied = match netns::open(path) {
            Ok(namespace) => Self { namespace }.delete_links(),
            Err(_) => Ok(()),
        };
        netns::remove(path).map_err(failed(format!("remove hub {}", path.display())))?;
        emptied
    }

    /// Its network namespace.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Takes the VPN's interface out of the caller's network namespace, and routes `networks` over
    /// it. It is called [`VPN`] from then on.
    pub fn take_vpn<'a>(
        &self,
        link: impl Into<LinkRef<'a>>,
        mtu: u32,
        networks: &[Ipv4Net],
    ) -> Result<(), Error> {
        let mut outside = Connection::open()?;
        let index = outside.link(link)?.index;
        outside.set_mtu(index, mtu)?;
        outside.move_to(index, self.namespace(), Some(VPN))?;
        let mut inside = self.netlink()?;
        self.harden(VPN)?;
        inside.set_up(VPN, true)?;
        self.route_vpn(networks)
    }

    /// Makes the routes over the VPN those of `networks` and no others.
    pub fn route_vpn(&self, networks: &[Ipv4Net]) -> Result<(), Error> {
        let mut netlink = self.netlink()?;
        let index = netlink.link(VPN)?.index;
        let wanted = plan::vpn_routes(index, networks);
        let actual = netlink.routes(Some(index))?;
        for route in actual.iter().filter(|route| !wanted.contains(route)) {
            netlink.delete_route(route)?;
        }
        for route in wanted.iter().filter(|route| !actual.contains(route)) {
            netlink.add_route(route)?;
        }
        Ok(())
    }

    /// Connects a portspace: gives it its interface, address and routes, and the hub the way to it.
    /// On an error nothing stays.
    pub fn add_portspace(&self, port: &Port<'_>) -> Result<(), Error> {
        prepare(port.namespace)?;
        let name = plan::port_name(port.name);
        let end = End {
            index: Some(PORT_INDEX),
            mac: Some(plan::port_mac(port.address)),
            mtu: Some(port.mtu),
            ..End::named(PORT)
        };
        let peer = End {
            mac: Some(plan::GATEWAY_MAC),
            mtu: Some(port.mtu),
            namespace: Some(self.namespace()),
            ..End::named(&name)
        };
        // The portspace's end is the one to make: the kernel honours an explicit index only there.
        Connection::open_in(port.namespace)?.create(Kind::Veth(peer), &end)?;
        self.connect(port, &name).inspect_err(|_| {
            // The first error is the one to tell.
            let _ = self.remove_portspace(port.name);
        })
    }

    /// Lets through what `policy` allows between these portspaces and others, and nothing else, from
    /// the next packet on. Ports are named with their addresses.
    pub fn enforce(&self, policy: &Policy, ports: &[(&str, Ipv4Addr)]) -> Result<(), Error> {
        let counters = self.counters()?;
        let batch = rules::batch(policy, ports, &counters);
        self.nft()?.commit(&batch).map_err(failed("set the rules of the hub"))?;
        self.track_kindly()?;
        self.shape(policy, ports)
    }

    /// Limits what goes out over the interfaces that there are; [`Self::take_vpn`] is to be followed by
    /// this.
    pub fn shape(&self, policy: &Policy, ports: &[(&str, Ipv4Addr)]) -> Result<(), Error> {
        Ok(shape::apply(&mut self.netlink()?, policy, ports, None)?)
    }

    /// Limits what goes to one portspace; [`Self::add_portspace`] is to be followed by this.
    pub fn shape_port(
        &self,
        name: &str,
        policy: &Policy,
        ports: &[(&str, Ipv4Addr)],
    ) -> Result<(), Error> {
        Ok(shape::apply(&mut self.netlink()?, policy, ports, Some(name))?)
    }

    /// What was refused, by portspace; `ports` are those of the last [`Self::enforce`].
    pub fn refused(&self, ports: &[(&str, Ipv4Addr)]) -> Result<BTreeMap<String, Refused>, Error> {
        let mut refused = status::refused(&self.counters()?);
        let dropped = shape::dropped(&mut self.netlink()?, ports);
        for ((name, _), dropped) in ports.iter().zip(dropped) {
            refused.entry((*name).to_owned()).or_default().over_rate = dropped;
        }
        Ok(refused)
    }

    fn counters(&self) -> Result<Vec<(String, u64)>, Error> {
        self.nft()?.counters(rules::TABLE).map_err(failed("read the counters of the hub"))
    }

    fn nft(&self) -> Result<nft::Connection, Error> {
        nft::Connection::open_in(self.namespace()).map_err(failed("open nf_tables"))
    }

    /// Sets what the kernel has only now that something tracks connections: their windows are not
    /// judged, since who sends what is known without, and no protocol opens ports for another.
    fn track_kindly(&self) -> Result<(), Error> {
        for (name, value) in [("nf_conntrack_tcp_be_liberal", "1"), ("nf_conntrack_helper", "0")] {
            let name = format!("net/netfilter/{name}");
            match netns::sysctl(self.namespace(), &name, value) {
                // Later kernels have no helpers by themselves, and no setting.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(failed(format!("set {name}")))?,
            }
        }
        Ok(())
    }

    /// Disconnects a portspace; not an error where it is not connected.
    pub fn remove_portspace(&self, name: &str) -> Result<(), Error> {
        match self.netlink()?.delete(plan::port_name(name).as_str()) {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// What the hub holds, as the kernel says.
    pub fn status(&self) -> Result<Status, Error> {
        Ok(status::read(&mut self.netlink()?)?)
    }

    fn set_up(&self) -> Result<(), Error> {
        set(self.namespace(), plan::HUB_SYSCTLS)?;
        self.harden("all")?;
        self.harden("default")?;
        disable_ipv6(self.namespace())?;
        Ok(self.netlink()?.replace_route(&plan::nowhere())?)
    }

    /// Gives both ends of a new link their addresses, neighbours and routes.
    fn connect(&self, port: &Port<'_>, name: &str) -> Result<(), Error> {
        let mut hub = self.netlink()?;
        self.harden(name)?;
        hub.set_alias(name, port.name)?;
        hub.add_address(name, plan::host(GATEWAY))?;
        hub.set_up(name, true)?;
        hub.add_neighbour(name, port.address.into(), plan::port_mac(port.address))?;
        let index = hub.link(name)?.index;
        hub.add_route(&netlink::Route::direct(plan::host(port.address), index))?;

        let mut portspace = Connection::open_in(port.namespace)?;
        portspace.add_address(PORT, plan::host(port.address))?;
        portspace.set_up(PORT, true)?;
        portspace.add_neighbour(PORT, GATEWAY.into(), plan::GATEWAY_MAC)?;
        for route in plan::portspace_routes(port.address, port.networks) {
            portspace.add_route(&route)?;
        }
        Ok(())
    }

    fn harden(&self, interface: &str) -> Result<(), Error> {
        harden(self.namespace(), interface)
    }

    /// Deletes every link but `lo`; goes on to the end, and tells the first error.
    fn delete_links(&self) -> Result<(), Error> {
        let mut netlink = self.netlink()?;
        let links = netlink.links()?;
        let mut result = Ok(());
        for link in links.iter().filter(|link| !link.is_loopback()) {
            match netlink.delete(link) {
                Err(error) if !error.is_not_found() => result = result.and(Err(error.into())),
                _ => {}
            }
        }
        result
    }

    fn netlink(&self) -> Result<Connection, Error> {
        Ok(Connection::open_in(self.namespace())?)
    }
}

/// Tries whether the kernel takes a hub's rules, in a namespace that is not needed afterwards.
///
/// # Errors
/// What it lacks.
pub fn try_rules(namespace: BorrowedFd<'_>) -> Result<(), Error> {
    let batch = rules::batch(&Policy::default(), &[("try", GATEWAY)], &[]);
    let commit = nft::Connection::open_in(namespace).and_then(|mut nft| nft.commit(&batch));
    commit.map_err(failed("set the rules of a hub"))
}

/// Makes a network namespace fit for a portspace: `lo` up, ports below 1024 and ping for everybody
/// inside, no IPv6, no redirects. [`Hub::add_portspace`] does this too.
pub fn prepare(namespace: BorrowedFd<'_>) -> Result<(), Error> {
    set(namespace, plan::PORTSPACE_SYSCTLS)?;
    harden(namespace, "all")?;
    harden(namespace, "default")?;
    disable_ipv6(namespace)?;
    Ok(Connection::open_in(namespace)?.set_up("lo", true)?)
}

fn harden(namespace: BorrowedFd<'_>, interface: &str) -> Result<(), Error> {
    let settings = plan::interface_sysctls(interface);
    let settings: Vec<_> = settings.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    set(namespace, &settings)
}

/// Turns IPv6 off, where the kernel has it at all.
fn disable_ipv6(namespace: BorrowedFd<'_>) -> Result<(), Error> {
    let names = ["net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/default/disable_ipv6"];
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return Ok(());
    }
    set(namespace, &names.map(|name| (name, "1")))
}

fn set(namespace: BorrowedFd<'_>, settings: &[(&str, &str)]) -> Result<(), Error> {
    netns::sysctls(namespace, settings).map_err(failed("configure network namespace"))
}
