//! Names of endpoints, each looked up by a process of its own: a DNS server that does not answer
//! holds up nobody, and one that answers badly gets at nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use hyperspector_sys::channel::Channel;
use hyperspector_sys::worker;
use hyperspector_vpn::names::{Answer, KIND, MOST, Question};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::layout::Layout;
use crate::process::{Process, ProcessId};
use crate::workers;

/// How long an answer may take. The C library's own limit grows with the servers that it asks.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long what an answer has begun with may take to end.
const REST: Duration = Duration::from_millis(100);

/// How long after a failure a name is looked up again.
const PAUSE: Duration = Duration::from_secs(15);

/// How many names are looked up at a time.
const AT_A_TIME: usize = 8;

/// The names of one VPN's endpoints.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: BTreeMap<String, Name>,
    /// The user that looks them up.
    pub(crate) user: Option<u32>,
    has_news: bool,
}

/// What is known of a name.
#[derive(Debug, Default)]
struct Name {
    addresses: Vec<IpAddr>,
    /// Why the last lookup failed.
    trouble: Option<String>,
    lookup: Option<Lookup>,
    ended: Option<Instant>,
    /// Whether what is known may be wrong.
    is_stale: bool,
}

#[derive(Debug)]
struct Lookup {
    process: Process,
    channel: Channel,
    since: Instant,
}

impl Names {
    /// The addresses of a name, as far as they are known; from now on it is looked up.
    pub(crate) fn addresses(&mut self, name: &str) -> (&[IpAddr], Option<&str>) {
        let known = self.known.entry(name.to_owned()).or_default();
        (&known.addresses, known.trouble.as_deref())
    }

    /// Forgets the names that are not among `wanted`.
    pub(crate) fn keep(&mut self, wanted: &[&str]) {
        self.known.retain(|name, _| wanted.contains(&name.as_str()));
    }

    /// A name is to be looked up again.
    pub(crate) fn doubt(&mut self, name: &str) {
        if let Some(known) = self.known.get_mut(name) {
            known.is_stale = true;
        }
    }

    /// Takes answers, ends what takes too long, and looks up what is due. Returns whether something
    /// is known that was not.
    pub(crate) fn step(&mut self, layout: &Layout) -> bool {
        self.known.values_mut().for_each(|name| self.has_news |= name.take());
        let Some(user) = self.user else { return false };
        let running = self.known.values().filter(|name| name.lookup.is_some()).count();
        let due = self.known.iter_mut().filter(|(_, name)| name.is_due());
        for (text, name) in due.take(AT_A_TIME.saturating_sub(running)) {
            match look_up(layout, text, user) {
                Ok(lookup) => name.lookup = Some(lookup),
                Err(why) => self.has_news |= name.note(Err(why)),
            }
        }
        std::mem::take(&mut self.has_news)
    }
}

impl Name {
    fn is_due(&self) -> bool {
        let failed = self.trouble.is_some() && self.ended.is_none_or(|at| at.elapsed() >= PAUSE);
        self.lookup.is_none() && (self.ended.is_none() || self.is_stale || failed)
    }

    /// Takes the answer where it has come, or ends the lookup where it is late.
    fn take(&mut self) -> bool {
        let Some(lookup) = &self.lookup else { return false };
        let answer = match lookup.answer() {
            None if lookup.since.elapsed() < PATIENCE => return false,
            None => Err(format!("DNS has not answered within {} s", PATIENCE.as_secs())),
            Some(answer) => answer,
        };
        lookup.process.kill();
        self.note(answer)
    }

    /// Notes what came of a lookup; returns whether that is new. A failure leaves what was known.
    fn note(&mut self, answer: Answer) -> bool {
        (self.lookup, self.ended, self.is_stale) = (None, Some(Instant::now()), false);
        match answer {
            Ok(mut addresses) => {
                addresses.truncate(MOST);
                let is_new = self.trouble.take().is_some() || self.addresses != addresses;
                self.addresses = addresses;
                is_new
            }
            Err(why) => {
                let is_new = self.trouble.as_ref() != Some(&why);
                self.trouble = Some(why);
                is_new
            }
        }
    }
}

impl Lookup {
    /// What it says; `None` where it has said nothing yet.
    fn answer(&self) -> Option<Answer> {
        let now = Timespec::default();
        let mut fds = [PollFd::new(self.channel.stream(), PollFlags::IN)];
        if !poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0) {
            return None;
        }
        Some(match self.channel.receive_within::<Answer>(REST) {
            Ok(Some((answer, _))) => answer,
            Ok(None) => Err("the process that looks it up has ended".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }
}

fn look_up(layout: &Layout, name: &str, uid: u32) -> Result<Lookup, String> {
    let question = Question { name: name.to_owned(), uid };
    let place = workers::place(layout);
    let start = || -> std::io::Result<Lookup> {
        let (child, channel) = worker::spawn_placed(KIND, &question, &[], Stdio::inherit(), place)?;
        let id = ProcessId::of(child.id().cast_signed())?;
        let process = id.open().ok_or_else(|| std::io::Error::other("it ended"))?;
        Ok(Lookup { process, channel, since: Instant::now() })
    };
    start().map_err(|error| format!("start the process that looks it up: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_told_once_and_leaves_what_was_known() {
        let mut name = Name::default();
        assert!(name.is_due());
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(name.note(Ok(vec![address])));
        assert!(!name.is_due());
        name.is_stale = true;
        assert!(name.is_due());
        assert!(!name.note(Ok(vec![address])));
        assert!(name.note(Err("no".into())) && !name.note(Err("no".into())));
        assert_eq!(name.addresses, [address]);
        assert!(!name.is_due(), "at once");
        name.ended = Instant::now().checked_sub(PAUSE);
        assert!(name.is_due());
        assert!(name.note(Ok(vec![address])), "the trouble is over");
    }
}
