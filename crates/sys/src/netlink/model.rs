//! Links: the interfaces of a network namespace, as they are and as they are asked for.

use std::fmt;
use std::os::fd::BorrowedFd;

use netlink_packet_route::link::{LinkFlags, LinkLayerType};

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index, unique in its network namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its link-layer address, where that is six bytes long.
    pub mac: Option<Mac>,
    /// The greatest packet that it sends, in bytes.
    pub mtu: u32,
    /// The IFF_* bits (netdevice(7)).
    pub flags: u32,
    /// The ARPHRD_* number of its link layer: 1 is Ethernet.
    pub layer: u16,
    /// Its kind: `veth`, `bridge`; `None` for a device without one, such as a network card or `lo`.
    pub kind: Option<String>,
    /// The text that somebody noted at it with [`Connection::set_alias`].
    pub alias: Option<String>,
}

impl Link {
    /// Whether it was set up (IFF_UP).
    pub fn is_up(&self) -> bool {
        self.has(LinkFlags::Up)
    }

    /// Whether it can carry packets (IFF_RUNNING).
    pub fn is_running(&self) -> bool {
        self.has(LinkFlags::Running)
    }

    /// Whether its lower layer has a carrier (IFF_LOWER_UP).
    pub fn has_carrier(&self) -> bool {
        self.has(LinkFlags::LowerUp)
    }

    /// Whether it is a loopback interface.
    pub fn is_loopback(&self) -> bool {
        self.has(LinkFlags::Loopback)
    }

    /// Whether its link layer is Ethernet.
    pub fn is_ethernet(&self) -> bool {
        LinkLayerType::from(self.layer) == LinkLayerType::Ether
    }

    fn has(&self, flag: LinkFlags) -> bool {
        self.flags & flag.bits() != 0
    }
}

/// A link by its name or its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRef<'a> {
    /// By name.
    Name(&'a str),
    /// By index.
    Index(u32),
}

impl fmt::Display for LinkRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Index(index) => write!(f, "number {index}"),
        }
    }
}

impl<'a> From<&'a str> for LinkRef<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

impl<'a> From<&'a String> for LinkRef<'a> {
    fn from(name: &'a String) -> Self {
        Self::Name(name)
    }
}

impl From<u32> for LinkRef<'_> {
    fn from(index: u32) -> Self {
        Self::Index(index)
    }
}

impl From<&Link> for LinkRef<'_> {
    fn from(link: &Link) -> Self {
        Self::Index(link.index)
    }
}

/// A link to be made, or one end of a pair; what is `None` the kernel chooses.
#[derive(Clone, Copy, Debug, Default)]
pub struct End<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its index.
    pub index: Option<u32>,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
    /// The network namespace that it is made in, if not the connection's.
    pub namespace: Option<BorrowedFd<'a>>,
}

impl<'a> End<'a> {
    /// An end with a name, and the rest for the kernel to choose.
    pub fn named(name: &'a str) -> Self {
        Self { name, ..Self::default() }
    }
}

/// What kind of link to make.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// A bridge without ports.
    Bridge,
    /// An interface that drops what is sent (dummy).
    Dummy,
    /// An intermediate functional block (ifb).
    Ifb,
    /// One end of a pair. The kernel honours the peer's `index` only where the link itself has an
    /// explicit index too.
    Veth(End<'a>),
    /// The kernel's WireGuard.
    Wireguard,
}
