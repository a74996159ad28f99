//! Looking who has the sockets at a server's paths, and what is done there.

use std::path::Path;
use std::time::{Duration, Instant};

use hyperspector_window::sockets::place::worker::Answer;
use hyperspector_window::sockets::{self, Request};

use super::{Answering, FIRST, Tee};
use crate::error::Error;
use crate::helper::Errands;
use crate::layout::Layout;
use crate::process::ProcessId;
use crate::sockets::places::{Errand, News, Seat};
use crate::sockets::{Wanted, source_name};

/// How often is looked who has a socket.
const LOOK: Duration = Duration::from_millis(500);
/// How long after a look that had no answer the next is tried.
const REST: Duration = Duration::from_secs(10);
/// How long anything may take there before it is given up.
const LONGEST: Duration = Duration::from_secs(60);

impl Tee {
    /// Has it looked who has the sockets, and gives the tee what it is to read. What is not done after
    /// `patience` goes on while the agent does something else.
    pub(super) fn look(
        &mut self,
        layout: &Layout,
        name: &str,
        at: (&Wanted, &Seat<'_>),
        errands: &mut Errands,
        patience: Duration,
    ) -> Result<(), Error> {
        let end = Instant::now() + patience;
        self.begin_to_look(&at);
        self.take_all(layout, name, at, errands, end)
    }

    /// Has it looked who has the sockets, where that is due.
    pub(super) fn begin_to_look(&mut self, at: &(&Wanted, &Seat<'_>)) {
        self.drop_stale(at.1);
        if self.errand.is_none() && self.places.errands.is_empty() && self.is_due(at.0, at.1) {
            self.looked = Some((Instant::now(), at.1.by));
            self.places.ask(at.1, at.0.paths.keys().cloned());
        }
    }

    /// Takes in what has been done until `end`.
    pub(super) fn take_all(
        &mut self,
        layout: &Layout,
        name: &str,
        at: (&Wanted, &Seat<'_>),
        errands: &mut Errands,
        end: Instant,
    ) -> Result<(), Error> {
        while let Some((errand, reply)) = self.answered(layout, errands, end)? {
            self.take(layout, name, at, (errand, reply))?;
        }
        Ok(())
    }

    /// Gives up what is under way elsewhere, since a server that has started anew is looked at at once,
    /// and what is never done.
    fn drop_stale(&mut self, seat: &Seat<'_>) {
        let is_elsewhere = |errand: &Errand| !errand.is_undoing() && !seat.is_of(errand);
        self.places.errands.retain(|errand| !is_elsewhere(errand));
        let is_stale = |(errand, _, since): &mut (Errand, Answering, Instant)| {
            is_elsewhere(errand) || since.elapsed() > LONGEST
        };
        if self.errand.take_if(is_stale).is_some() {
            (self.looked, self.is_slow) = (None, false);
        }
    }

    /// Does what is left to be undone, also of a server that is not there any more.
    pub(super) fn settle(
        &mut self,
        layout: &Layout,
        errands: &mut Errands,
        patience: Duration,
    ) -> Result<(), Error> {
        let end = Instant::now() + patience;
        let next = |tee: &Self| {
            let waiting = || tee.places.errands.front();
            tee.errand.as_ref().map(|(errand, ..)| errand).or_else(waiting).cloned()
        };
        while next(self).is_some_and(|errand| errand.is_undoing()) {
            let Some((errand, reply)) = self.answered(layout, errands, end)? else { break };
            self.is_slow = false;
            told_undone(&errand, reply);
        }
        Ok(())
    }

    fn is_due(&self, wanted: &Wanted, seat: &Seat<'_>) -> bool {
        let pause = if self.is_slow { REST } else { LOOK };
        let is_recent = |(at, by): (Instant, ProcessId)| at.elapsed() < pause && by == seat.by;
        let is_known = wanted.paths.keys().all(|path| self.open.contains(&source_name(path)));
        !(is_known || self.is_slow) || !self.looked.is_some_and(is_recent)
    }

    /// The next errand that is done, with its answer, if that comes in time.
    fn answered(
        &mut self,
        layout: &Layout,
        errands: &mut Errands,
        end: Instant,
    ) -> Result<Option<(Errand, Answering)>, Error> {
        if self.errand.is_none() {
            let Some(errand) = self.places.errands.pop_front() else { return Ok(None) };
            let reply = errands.ask(layout, &errand.request(), &[])?;
            self.errand = Some((errand, reply, Instant::now()));
        }
        let left = end.saturating_duration_since(Instant::now());
        let is_there = |one: &mut (Errand, Answering, Instant)| one.1.is_there_within(left);
        if let Some((errand, reply, _)) = self.errand.take_if(is_there) {
            return Ok(Some((errand, reply)));
        }
        self.is_slow = true;
        let late = self.errand.iter().filter(|(_, _, since)| since.elapsed() >= FIRST);
        for path in late.flat_map(|(errand, ..)| errand.paths()) {
            self.places.failed(path, "the server's file system does not answer".to_owned());
        }
        Ok(None)
    }

    /// Takes in what an errand has come to.
    fn take(
        &mut self,
        layout: &Layout,
        name: &str,
        (wanted, seat): (&Wanted, &Seat<'_>),
        (errand, reply): (Errand, Answering),
    ) -> Result<(), Error> {
        if errand.is_undoing() {
            told_undone(&errand, reply);
            return Ok(());
        }
        let Some((answer, fds)) = reply.take() else {
            for path in errand.paths() {
                self.places.failed(path, "the server's file system does not answer".to_owned());
            }
            return Ok(());
        };
        self.is_slow = false;
        match (answer, errand.paths()) {
            (Answer::Looked(found), paths) => {
                let seen = paths.iter().cloned().zip(found).collect();
                for (path, kind) in &wanted.paths {
                    let is_open = self.open.contains(&source_name(path));
                    let news = self.places.follow(seat, path, *kind, is_open, &seen);
                    self.pass_on(layout, name, wanted, path, news)?;
                }
            }
            (Answer::Made { file, kind, real }, [path]) => {
                let Some(socket) = fds.into_iter().next() else { return Ok(()) };
                let news = self.places.made(&errand, path, (file, kind, real), socket);
                self.pass_on(layout, name, wanted, path, Some(news))?;
            }
            (Answer::Failed(why), paths) => {
                paths.iter().for_each(|path| self.places.failed(path, why.clone()));
            }
            _ => {}
        }
        Ok(())
    }

    /// Tells the tee what is new at a path.
    fn pass_on(
        &mut self,
        layout: &Layout,
        name: &str,
        wanted: &Wanted,
        path: &Path,
        news: Option<News>,
    ) -> Result<(), Error> {
        let Some(news) = news else { return Ok(()) };
        // Written down before the tee has it: whatever comes, it is taken away at the end.
        self.save(layout, name)?;
        match news {
            News::Source(source, fd) => {
                let source = sockets::Source { shift: wanted.shift, ..source };
                let open = source.name.clone();
                self.tell(layout, name, &Request::Source(source), &[&fd])?;
                self.open.insert(open);
            }
            News::Gone => {
                let gone = source_name(path);
                self.tell(layout, name, &Request::NoSource(gone.clone()), &[])?;
                self.open.remove(&gone);
            }
        }
        Ok(())
    }
}

/// Tells why something was not undone. A server that is gone took its tree along.
pub(super) fn told_undone(errand: &Errand, reply: Answering) {
    if let Some((Answer::Failed(why), _)) = reply.take() {
        for path in errand.paths() {
            eprintln!("leave {} as it was: {why}", path.display());
        }
    }
}
