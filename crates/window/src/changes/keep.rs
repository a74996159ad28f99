//! Keeping the journal: events come in, and every now and then they are written; the agent asks.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use hyperspector_changes::journal::Journal;
use hyperspector_changes::list::REDIRECTS;
use hyperspector_changes::reader::UNWATCHED;
use hyperspector_changes::record::{Kinds, Subject};
use hyperspector_changes::state::BEAT;
use hyperspector_sys::channel::Channel;
use libc as l;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat};

use super::deleted::{self, Overlay};
use super::fanotify::{self, Event};
use super::names::Pending;
use super::places::{Held, Places, Role};
use super::quiet::Quiet;
use super::{Place, Reply, Request, Status};

/// How long a change waits for others before it is written.
const GATHER: Duration = Duration::from_millis(100);
/// How many changes wait at most.
const MOST_PENDING: usize = 20_000;
/// How many buffers of events are read before anything else is looked at.
const TURN: usize = 64;
/// How long half a request may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long between two lists of what is deleted, at least, and how many times as long as making the
/// last one took: five per cent of a processor.
const LIST_PERIOD: Duration = Duration::from_secs(1);
const LIST_SHARE: u32 = 20;
/// The list of what is deleted.
const DELETED: &str = "deleted";

/// The worker, once it is confined.
pub(super) struct Keeper {
    group: OwnedFd,
    listener: UnixListener,
    directory: OwnedFd,
    places: Places,
    journal: Journal,
    pending: Pending,
    quiet: Quiet,
    status: Status,
    written: Instant,
    list_due: Option<Instant>,
    list_pause: Duration,
}

impl Keeper {
    pub(super) fn new(
        group: OwnedFd,
        listener: UnixListener,
        directory: OwnedFd,
        places: Places,
        journal: Journal,
    ) -> Self {
        Self {
            group,
            listener,
            directory,
            places,
            journal,
            pending: Pending::default(),
            quiet: Quiet::default(),
            status: Status::default(),
            written: Instant::now(),
            list_due: None,
            list_pause: LIST_PERIOD,
        }
    }

    /// Keeps the journal for ever; returns what is in the way.
    pub(super) fn keep(&mut self) -> io::Error {
        let mut buffer = vec![0; 1 << 16];
        loop {
            if let Err(error) = self.step(&mut buffer) {
                return error;
            }
        }
    }

    fn step(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let (has_events, is_asked) = self.wait()?;
        if has_events {
            self.read(buffer)?;
        }
        if is_asked {
            self.answer();
        }
        if self.quiet.due().is_some_and(|left| left.is_zero()) {
            self.end_quiet()?;
        }
        let since = self.written.elapsed();
        let is_due = self.pending.len() > 0 && since >= GATHER;
        if is_due || self.pending.len() >= MOST_PENDING {
            self.journal.add(self.pending.take())?;
            self.written = Instant::now();
        } else if since >= Duration::from_millis(BEAT) {
            self.journal.beat()?;
            self.written = Instant::now();
        }
        if self.pending.is_upper_changed {
            self.pending.is_upper_changed = false;
            let due = Instant::now() + self.list_pause;
            self.list_due.get_or_insert(due);
        }
        if self.list_due.is_some_and(|due| due <= Instant::now()) {
            self.list_due = None;
            self.list_deleted()?;
        }
        Ok(())
    }

    /// Whether there are events, and whether somebody asks.
    fn wait(&self) -> io::Result<(bool, bool)> {
        let period = if self.pending.len() > 0 { GATHER } else { Duration::from_millis(BEAT) };
        let now = Instant::now();
        let list = self.list_due.map(|due| due.saturating_duration_since(now));
        let left = period.saturating_sub(self.written.elapsed());
        let left = [list, self.quiet.due()].into_iter().flatten().fold(left, Duration::min);
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds =
            [PollFd::new(&self.group, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => Ok((!fds[0].revents().is_empty(), !fds[1].revents().is_empty())),
            Err(rustix::io::Errno::INTR) => Ok((false, false)),
            Err(error) => Err(error.into()),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..TURN {
            let events = fanotify::read(&self.group, buffer)?;
            if events.is_empty() || self.pending.len() >= MOST_PENDING {
                break;
            }
            self.status.events += events.len() as u64;
            for event in &events {
                if event.is_any(l::FAN_Q_OVERFLOW) {
                    self.status.overflows += 1;
                    self.gap("more changed at once than the kernel's queue holds")?;
                } else {
                    let before = self.quiet.note(&self.group, event, &self.places)?;
                    before.iter().try_for_each(|event| self.record(event))?;
                    self.record(event)?;
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, event: &Event) -> io::Result<()> {
        match self.pending.add(event, &mut self.places) {
            Ok(()) => Ok(()),
            Err(error) => self.gap(&format!("where something changed could not be told: {error}")),
        }
    }

    fn end_quiet(&mut self) -> io::Result<()> {
        let events = self.quiet.end(&self.group)?;
        events.iter().try_for_each(|event| self.record(event))
    }

    /// What is pending changed before the gap, or may have.
    fn gap(&mut self, reason: &str) -> io::Result<()> {
        self.pending.take();
        self.places.forget();
        self.pending.is_upper_changed = true;
        self.status.last_gap = Some(reason.to_owned());
        self.written = Instant::now();
        self.journal.gap(reason)
    }

    /// Answers one request.
    fn answer(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        let limits = stream.set_write_timeout(Some(PATIENCE));
        let channel = Channel::new(stream);
        let Ok(()) = limits else { return };
        if let Ok(Some((request, fds))) = channel.receive_within::<Request>(PATIENCE) {
            let (reply, group) = self.reply(request, fds);
            let fds = if group { &[self.group.as_fd()][..] } else { &[] };
            let _ = channel.send(&reply, fds);
        }
    }

    fn reply(&mut self, request: Request, fds: Vec<OwnedFd>) -> (Reply, bool) {
        let done = match request {
            Request::Group => return (Reply::Group, true),
            Request::Status => return (Reply::Status(self.status()), false),
            Request::Add(places) => self.add(places, fds),
            Request::Remove(places) => self.remove(&places),
            Request::Unwatched(places) => self.set_unwatched(places),
            Request::Redirects(redirects) => self.set_redirects(redirects),
            Request::Hidden(paths) => {
                self.places.hide(paths);
                Ok(())
            }
        };
        let reply = match done {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Failed(error.to_string()),
        };
        (reply, false)
    }

    fn status(&self) -> Status {
        let places = self.places.held().iter().map(|held| held.place.clone()).collect();
        Status { size: self.journal.size(), places, ..self.status.clone() }
    }

    /// What is mounted somewhere takes the place of what was there.
    fn add(&mut self, places: Vec<Place>, fds: Vec<OwnedFd>) -> io::Result<()> {
        if places.len() != fds.len() {
            return Err(io::Error::other("a place came without its mount"));
        }
        for (place, fd) in places.into_iter().zip(fds) {
            self.places.add(place.clone(), fd)?;
            self.tell_of(&place)?;
        }
        self.pending.is_upper_changed = true;
        Ok(())
    }

    fn remove(&mut self, places: &[Place]) -> io::Result<()> {
        for place in places {
            if self.places.remove(place) {
                self.tell_of(place)?;
            }
        }
        self.pending.is_upper_changed = true;
        Ok(())
    }

    /// Records that a place has come or gone.
    fn tell_of(&mut self, place: &Place) -> io::Result<()> {
        if place.role != Role::Tree || self.places.is_hidden(&place.path) {
            return Ok(());
        }
        self.journal.add([(Subject::Tree(place.path.clone()), Kinds::MOUNTED)])
    }

    fn set_unwatched(&mut self, places: Vec<(Vec<u8>, String)>) -> io::Result<()> {
        let mut text = Vec::new();
        for (path, reason) in &places {
            text.extend_from_slice(path);
            text.push(b'\n');
            text.extend(reason.bytes().filter(|byte| !matches!(byte, b'\n' | 0)));
            text.push(0);
        }
        replace(&self.directory, UNWATCHED, &text)?;
        self.status.unwatched = places;
        Ok(())
    }

    fn set_redirects(&self, redirects: bool) -> io::Result<()> {
        if redirects {
            return replace(&self.directory, REDIRECTS, b"");
        }
        match unlinkat(&self.directory, REDIRECTS, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the list of what is deleted from the server's overlays. While the server is down, it stays
    /// what it was.
    fn list_deleted(&mut self) -> io::Result<()> {
        if overlays(self.places.held()).next().is_none() {
            return Ok(());
        }
        let start = Instant::now();
        let Some(text) = self.deleted()? else {
            return self.gap("more was deleted than can be listed");
        };
        replace(&self.directory, DELETED, &text)?;
        self.list_pause = LIST_PERIOD.max(start.elapsed() * LIST_SHARE);
        Ok(())
    }

    fn deleted(&self) -> io::Result<Option<Vec<u8>>> {
        let mut text = Vec::new();
        for overlay in overlays(self.places.held()) {
            let Some(paths) = deleted::list(&overlay)? else { return Ok(None) };
            for path in paths.iter().filter(|path| !self.places.is_hidden(path)) {
                text.extend_from_slice(path);
                text.push(0);
            }
        }
        Ok(Some(text))
    }
}

/// The overlays of which all three sides are held.
fn overlays(held: &[Held]) -> impl Iterator<Item = Overlay<'_>> {
    let uppers = held.iter().filter(|one| one.place.role == Role::Upper);
    uppers.filter_map(|upper| {
        let path = &upper.place.path;
        let side = |role| {
            let mut same = held.iter().filter(|one| one.place.path == *path);
            same.find(|one| one.place.role == role).map(|one| &one.root)
        };
        let (below, whole) = (side(Role::Below)?, side(Role::Whole)?);
        Some(Overlay { path, upper: &upper.root, below, whole })
    })
}

/// What an earlier journal has left in the directory.
pub(super) fn left_behind(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Writes a file that is whole at any moment.
fn replace(directory: &OwnedFd, name: &str, text: &[u8]) -> io::Result<()> {
    let new = format!("{name}.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let mut file: File = openat(directory, &new, flags, Mode::from_raw_mode(0o644))?.into();
    file.write_all(text)?;
    Ok(renameat(directory, &new, directory, name)?)
}
