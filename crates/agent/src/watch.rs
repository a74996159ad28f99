//! The host's interfaces that portspaces watch: shadows follow them, and a portspace is made again
//! when one of them has come back as another.

use std::collections::BTreeMap;

use hyperspector_space::control::State;
use hyperspector_space::init::report;
use hyperspector_spec::plan::PortspaceName;
use hyperspector_sys::netlink::{Connection, Link};
use hyperspector_sys::netns;
use hyperspector_window::shadow;
use serde::{Deserialize, Serialize};

use crate::apply::Agent;
use crate::build::Portspace;
use crate::error::{Doing, Error, on};
use crate::layout::{Layout, SpaceDir};
use crate::{files, supervise};

/// An interface of the host that a portspace watches, as its shadow is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// Its name.
    pub name: String,
    /// Its index, which the portspace's packet sockets are bound to.
    pub index: u32,
    /// Its Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// The greatest packet that it sends, in bytes.
    pub mtu: u32,
}

impl From<&Link> for Watched {
    fn from(link: &Link) -> Self {
        let mac = link.mac.map(|mac| mac.0);
        Self { name: link.name.clone(), index: link.index, mac, mtu: link.mtu }
    }
}

/// Watched interfaces that a portspace does not see any more: by name, what became of them.
pub(crate) type Lost = BTreeMap<String, &'static str>;

/// What became of a watched interface.
#[derive(Debug, PartialEq, Eq)]
enum Change<'a> {
    None,
    /// Another address or MTU.
    Altered(&'a Link),
    /// It is not there.
    Gone,
    /// Its name is another interface's, or it was gone: sockets bound to it receive nothing more.
    Other,
}

fn change<'a>(watched: &Watched, links: &'a [Link], was_lost: bool) -> Change<'a> {
    match links.iter().find(|link| link.name == watched.name) {
        None => Change::Gone,
        Some(link) if was_lost || link.index != watched.index => Change::Other,
        Some(link) if Watched::from(link) != *watched => Change::Altered(link),
        Some(_) => Change::None,
    }
}

impl Agent {
    /// Has shadows follow the interfaces that are watched. Returns the portspaces that are blind,
    /// and would see again if they were made again.
    pub(crate) fn follow_interfaces(&mut self) -> Vec<PortspaceName> {
        let all = self.hyperspectors.values_mut().flat_map(|one| one.portspaces.values_mut());
        let mut watching = all
            .filter(|portspace| !portspace.record.watched.is_empty() && portspace.init.is_alive())
            .peekable();
        if watching.peek().is_none() {
            return Vec::new();
        }
        // Next time, where the kernel is too busy now.
        let Ok(links) = Connection::open().and_then(|mut netlink| netlink.links()) else {
            return Vec::new();
        };
        watching
            .filter_map(|portspace| {
                follow(&self.layout, portspace, &links).then(|| portspace.record.plan.name.clone())
            })
            .collect()
    }
}

/// Follows the interfaces of one portspace; returns whether it is to be made again.
fn follow(layout: &Layout, portspace: &mut Portspace, links: &[Link]) -> bool {
    let Portspace { record, lost, .. } = portspace;
    let (name, dir) = (&record.plan.name, layout.portspace(&record.plan.name));
    let (mut is_altered, mut is_back) = (false, false);
    for watched in &mut record.watched {
        let change = change(watched, links, lost.contains_key(&watched.name));
        let mut lose = |how| {
            if lost.insert(watched.name.clone(), how) != Some(how) {
                eprintln!("{name}: interface {} {how}", watched.name);
            }
        };
        match change {
            Change::None => {}
            Change::Gone => lose("is gone"),
            Change::Other => {
                lose("is another one now");
                is_back = true;
            }
            Change::Altered(link) => {
                if let Err(error) = follow_shadow(&dir, link) {
                    eprintln!("{name}: {error}");
                }
                *watched = link.into();
                is_altered = true;
            }
        }
    }
    if is_altered {
        let _ = files::save(&dir.record(), record);
    }
    is_back && supervise::is_renewed(record.plan.space.run) && !has_stopped(&dir)
}

fn follow_shadow(dir: &SpaceDir, link: &Link) -> Result<(), Error> {
    if link.is_loopback() {
        return Ok(());
    }
    let network = netns::open(dir.network()).doing(on("open", &dir.network()))?;
    let followed = shadow::follow(std::os::fd::AsFd::as_fd(&network), link);
    followed.doing(|| format!("have the shadow follow {}", link.name))
}

/// Whether its command has ended for good: there is nothing to see with.
fn has_stopped(dir: &SpaceDir) -> bool {
    report::read(&dir.report()).is_ok_and(|report| report.state == State::Stopped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, index: u32, mtu: u32) -> Link {
        let name = name.to_owned();
        Link { index, name, mac: None, mtu, flags: 0, layer: 1, kind: None, alias: None }
    }

    #[test]
    fn an_interface_is_known_by_name_and_index() {
        let watched = Watched::from(&link("d0", 3, 1500));
        let of = |links: &[Link], was_lost| match change(&watched, links, was_lost) {
            Change::None => "none",
            Change::Altered(_) => "altered",
            Change::Gone => "gone",
            Change::Other => "other",
        };
        assert_eq!(of(&[link("d0", 3, 1500)], false), "none");
        assert_eq!(of(&[link("d0", 3, 9000)], false), "altered");
        assert_eq!(of(&[link("d1", 3, 1500)], false), "gone");
        assert_eq!(of(&[link("d0", 5, 1500)], false), "other");
        // Back with its old index: sockets that were bound to it have lost it all the same.
        assert_eq!(of(&[link("d0", 3, 1500)], true), "other");
    }
}
