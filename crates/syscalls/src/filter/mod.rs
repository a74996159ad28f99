//! What a reader asks for: one line of JSON, and what it means for each record.
//!
//! The line comes from a portspace, which may be taken: everything in it is bounded, and what is not
//! understood is refused with what would be right.

mod calls;
mod matcher;

use serde::{Deserialize, Serialize};

pub use calls::{Bits, CallSet, GROUPS};
pub use matcher::Matcher;

/// The version of the request and of the stream that answers it.
pub const VERSION: u32 = crate::stream::VERSION;

/// How long the line may be, in bytes, with its end.
pub const LONGEST: usize = 64 << 10;

/// How many words for calls, processes, and users there may be, and how many paths.
const MOST: usize = 1024;
const MOST_PATHS: usize = 64;

/// How long a path may be.
const LONGEST_PATH: usize = 4096;

/// How many bytes of data of one argument can be asked for.
pub const MOST_DATA: u32 = 4096;

/// The least that a queue may be asked to hold, in bytes: a few of the longest records.
pub const LEAST_QUEUE: u32 = 256 << 10;

/// What a reader sends, as one line, before it gets anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// What is wanted.
    #[serde(default)]
    pub filter: Filter,
    /// How many bytes may wait for the reader; the tracer may allow less, and says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    /// How many bytes of buffers and strings that are no paths; at most [`MOST_DATA`]. The tracer may
    /// give more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<u32>,
}

impl Default for Request {
    fn default() -> Self {
        Self { version: VERSION, filter: Filter::default(), queue: None, data: None }
    }
}

/// Which records are wanted: those to which everything that is said applies. What is left empty
/// applies to all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Names of calls, groups ([`GROUPS`]), each put in, or with `!` before it taken out, in this
    /// order; where the first is taken out, it is from all. Nothing stands for the default set.
    pub calls: Vec<String>,
    /// Processes and threads, by their numbers in the initial PID namespace.
    pub pids: Vec<u32>,
    /// Likewise, by their numbers in the server's own PID namespace, as `/.serverproc/NAME` has them; those
    /// of a server without one are the initial one's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub server_pids: Vec<u32>,
    /// Whether the children that those make later are wanted too.
    pub children: bool,
    /// Users, real or effective, by their numbers in the initial user namespace.
    pub uids: Vec<u32>,
    /// Calls that name, or whose descriptors stand for, one of these paths or what is below it.
    pub paths: Vec<String>,
    /// Calls that ended so.
    pub status: Status,
}

/// How a call has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// However.
    #[default]
    Any,
    /// With an error.
    Failed,
    /// With a result that is none.
    Successful,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no request.
    #[error("the request is not one line of JSON as docs/syscalls.md says: {0}")]
    Form(String),
    /// It is too long.
    #[error("the request is longer than {LONGEST} bytes")]
    Long,
    /// Another version.
    #[error("the request is of version {0}; this is version {VERSION}")]
    Version(u32),
    /// A word for no calls.
    #[error("there is no system call or group {word:?}{hint}; groups are {GROUPS}")]
    Call {
        /// The word.
        word: String,
        /// What it may have meant.
        hint: String,
    },
    /// Too many of something.
    #[error("more than {most} {what}")]
    Many {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        most: usize,
    },
    /// A path that can be none.
    #[error("{0:?} is no absolute path of at most {LONGEST_PATH} bytes")]
    Path(String),
}

impl Request {
    /// From the line, with or without its end.
    ///
    /// # Errors
    /// As [`Refused`] says; [`Filter::check`] finds what is wrong with the filter.
    pub fn parse(line: &[u8]) -> Result<Self, Refused> {
        if line.len() > LONGEST {
            return Err(Refused::Long);
        }
        let request: Self = serde_json::from_slice(line).map_err(|error| {
            Refused::Form(error.to_string().escape_default().take(300).collect())
        })?;
        if request.version != VERSION {
            return Err(Refused::Version(request.version));
        }
        Ok(request)
    }

    /// As the line that is sent, with its end.
    pub fn line(&self) -> String {
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}

impl Filter {
    /// What it means.
    ///
    /// # Errors
    /// Where it means nothing, or is too long.
    pub fn check(&self) -> Result<Matcher, Refused> {
        let counts = [
            ("words for calls", self.calls.len(), MOST),
            ("processes", self.pids.len(), MOST),
            ("processes", self.server_pids.len(), MOST),
            ("users", self.uids.len(), MOST),
            ("paths", self.paths.len(), MOST_PATHS),
        ];
        if let Some((what, _, most)) = counts.into_iter().find(|(_, count, most)| count > most) {
            return Err(Refused::Many { what, most });
        }
        let is_path = |path: &&String| path.starts_with('/') && path.len() <= LONGEST_PATH;
        if let Some(path) = self.paths.iter().find(|path| !is_path(path)) {
            return Err(Refused::Path(path.chars().take(200).collect()));
        }
        Ok(Matcher::new(self, self.calls()?))
    }

    /// The calls that are wanted, by number.
    ///
    /// # Errors
    /// Where a word stands for none.
    pub fn calls(&self) -> Result<CallSet, Refused> {
        let is_taken_out = self.calls.first().is_some_and(|word| word.starts_with('!'));
        let mut set = if is_taken_out { CallSet::ALL } else { CallSet::NONE };
        if self.calls.is_empty() {
            set.apply("default", true);
        }
        for word in &self.calls {
            let (name, is_in) = match word.strip_prefix('!') {
                Some(name) => (name, false),
                None => (word.as_str(), true),
            };
            if !set.apply(name, is_in) {
                return Err(unknown(name));
            }
        }
        Ok(set)
    }
}

fn unknown(word: &str) -> Refused {
    let word: String = word.chars().take(64).collect();
    let names = crate::table::all().map(|call| call.name);
    let groups = GROUPS.split(", ");
    let nearest = names
        .chain(groups)
        .map(|name| (distance(&word, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min();
    let hint = nearest.map(|(_, name)| format!(" (did you mean {name}?)")).unwrap_or_default();
    Refused::Call { word, hint }
}

/// How many letters are to be put in, taken out or changed to come from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut before = i;
        let mut left = i + 1;
        for (slot, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let here = (before + usize::from(x != y)).min(left + 1).min(*slot + 1);
            before = std::mem::replace(slot, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(calls: &[&str]) -> Filter {
        Filter { calls: calls.iter().map(|word| (*word).to_owned()).collect(), ..Filter::default() }
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let filter = Filter { pids: vec![7], status: Status::Failed, ..filter(&["%file"]) };
        let request = Request { filter, queue: Some(1 << 20), ..Request::default() };
        assert_eq!(Request::parse(request.line().as_bytes()), Ok(request));
        assert_eq!(Request::parse(br#"{"version":1}"#), Ok(Request::default()));
    }

    #[test]
    fn what_is_refused_says_what_would_be_right() {
        let told = |calls: &[&str]| filter(calls).check().unwrap_err().to_string();
        assert!(
            told(&["opnat"]).contains("\"opnat\" (did you mean openat?)"),
            "{}",
            told(&["opnat"])
        );
        assert!(told(&["%fil"]).contains("(did you mean %file?)"));
        assert!(told(&["zzzzzzzzzz"]).contains("\"zzzzzzzzzz\"; groups are all"));
        assert_eq!(Request::parse(br#"{"version":2}"#), Err(Refused::Version(2)));
        assert!(matches!(Request::parse(br#"{"version":1,"x":1}"#), Err(Refused::Form(_))));
        assert_eq!(Request::parse(&[b' '; LONGEST + 1]), Err(Refused::Long));
        let many = Filter { pids: vec![1; 1025], ..Filter::default() };
        assert_eq!(many.check().unwrap_err().to_string(), "more than 1024 processes");
        let path = Filter { paths: vec!["etc".into()], ..Filter::default() };
        assert!(matches!(path.check(), Err(Refused::Path(_))));
    }

    #[test]
    fn nothing_is_the_default_set_and_taking_out_is_from_all() {
        assert_eq!(filter(&[]).calls(), filter(&["default"]).calls());
        assert_eq!(filter(&["!read"]).calls(), filter(&["all", "!read"]).calls());
    }

    #[test]
    fn the_default_set_is_the_documented_one() {
        let text = include_str!("../../../../docs/syscalls.md");
        for call in crate::table::all() {
            let is_told = text.contains(&format!("`{}`", call.name));
            let is_default = call.class.contains(&crate::table::Class::Default);
            assert!(is_told || !is_default, "{} is not in docs/syscalls.md", call.name);
        }
    }

    proptest! {
        #[test]
        fn any_line_is_a_request_or_refused(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::parse(&line).map(|request| request.filter.check());
        }

        #[test]
        fn any_words_are_a_filter_or_refused(calls in prop::collection::vec("!{0,2}%{0,2}[a-z]{0,9}|\\PC{0,12}", 0..6), pids in prop::collection::vec(any::<u32>(), 0..9)) {
            let filter = Filter { calls, pids, ..Filter::default() };
            let line = Request { filter: filter.clone(), ..Request::default() }.line();
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert_eq!(&Request::parse(line.as_bytes()).unwrap().filter, &filter);
            if let Err(refused) = filter.check() {
                prop_assert!(!refused.to_string().contains(char::is_control));
            }
        }
    }
}
