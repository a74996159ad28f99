//! Telling the keeper of readers, and of what is not wanted any more.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;

use hyperspector_sys::netns;
use hyperspector_window::sockets::{self, Request};

use super::Tee;
use crate::error::Error;
use crate::layout::Layout;
use crate::process::ProcessId;
use crate::sockets::{Wanted, source_name};

/// How many datagrams a socket holds where nobody has said otherwise.
const QUEUE: u32 = 10;

impl Tee {
    pub(super) fn leave_unwanted(
        &mut self,
        layout: &Layout,
        name: &str,
        wanted: &Wanted,
    ) -> Result<(), Error> {
        let names: BTreeSet<String> = wanted.paths.keys().map(|path| source_name(path)).collect();
        let gone: Vec<String> =
            self.told.keys().filter(|name| !wanted.readers.contains_key(*name)).cloned().collect();
        for reader in gone {
            self.tell(layout, name, &Request::NoReader(reader.clone()), &[])?;
            self.told.remove(&reader);
        }
        let gone: Vec<String> = self.open.difference(&names).cloned().collect();
        for source in gone {
            self.tell(layout, name, &Request::NoSource(source.clone()), &[])?;
            self.places.leave(Path::new(&source));
            self.open.remove(&source);
            self.save(layout, name)?;
        }
        Ok(())
    }

    pub(super) fn tell_readers(
        &mut self,
        layout: &Layout,
        name: &str,
        wanted: &Wanted,
    ) -> Result<(), Error> {
        for (reader, (setup, init)) in &wanted.readers {
            let known = self.told.get(reader);
            let is_known = known.is_some_and(|known| (&known.0, known.1) == (setup, *init));
            if is_known || !self.open.contains(&setup.source) {
                continue;
            }
            let seat = init.map(seat);
            self.tell(layout, name, &Request::Reader(setup.clone(), seat), &[])?;
            self.told.insert(reader.clone(), (setup.clone(), *init));
        }
        Ok(())
    }
}

/// Where the readers of a portspace listen.
fn seat(init: ProcessId) -> sockets::Seat {
    let pid = init.pid.cast_unsigned();
    let queue = netns::of_process(pid)
        .and_then(|network| netns::read_sysctl(network.as_fd(), "net/unix/max_dgram_qlen"))
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let process = sockets::Process { pid, start: init.start };
    sockets::Seat { process, queue: queue.unwrap_or(QUEUE) }
}
