//! Whether a record is wanted.

use std::collections::HashSet;

use super::{CallSet, Filter, Status};
use crate::named::Named;
use crate::numbers::Abi;
use crate::record::{Call, Head, Item, Part, item_mark, mark};
use crate::stream::Known;
use crate::table::{self, Kind};

/// How many children are followed.
const CHILDREN: usize = 65_536;

/// A filter whose words have been looked up.
#[derive(Clone, Debug)]
pub struct Matcher {
    calls: CallSet,
    pids: HashSet<u32>,
    server_pids: HashSet<u32>,
    children: Option<HashSet<u32>>,
    uids: HashSet<u32>,
    paths: Vec<Vec<u8>>,
    status: Status,
}

impl Matcher {
    pub(super) fn new(filter: &Filter, calls: CallSet) -> Self {
        let paths = filter.paths.iter().map(|path| tidy(path.as_bytes())).collect();
        Self {
            calls,
            pids: filter.pids.iter().copied().collect(),
            server_pids: filter.server_pids.iter().copied().collect(),
            children: filter.children.then(HashSet::new),
            uids: filter.uids.iter().copied().collect(),
            paths,
            status: filter.status,
        }
    }

    /// The calls that are wanted, for merging with those of others.
    pub fn calls(&self) -> &CallSet {
        &self.calls
    }

    /// Whether only calls that failed are wanted: the kernel side can leave out the others.
    pub fn is_failed_only(&self) -> bool {
        self.status == Status::Failed
    }

    /// The processes and threads that alone are wanted; `None` where others may be.
    pub fn pids(&self) -> Option<Vec<u32>> {
        let is_all = !self.names_processes() || self.children.is_some();
        (!is_all).then(|| self.pids.iter().chain(&self.server_pids).copied().collect())
    }

    fn names_processes(&self) -> bool {
        !self.pids.is_empty() || !self.server_pids.is_empty()
    }

    /// The users that alone are wanted; `None` where others may be.
    pub fn uids(&self) -> Option<Vec<u32>> {
        (!self.uids.is_empty()).then(|| self.uids.iter().copied().collect())
    }

    /// Takes note of who has made a thread, before its records are asked about.
    /// `own` is the parent's number in the server's PID namespace.
    pub fn heed(&mut self, pid: u32, parent: u32, own: u32) {
        let Some(children) = &mut self.children else { return };
        let is_named = self.pids.contains(&parent) || self.server_pids.contains(&own);
        if (is_named || children.contains(&parent)) && children.len() < CHILDREN {
            children.insert(pid);
        }
    }

    /// Takes note that a thread has ended.
    pub fn forget(&mut self, tid: u32) {
        if let Some(children) = &mut self.children {
            children.remove(&tid);
        }
    }

    /// Whether a call is wanted; `entry` is the data of its entry that came before it.
    pub fn matches(
        &self,
        head: &Head,
        call: &Call<'_>,
        entry: Option<&Call<'_>>,
        known: &Known,
    ) -> bool {
        self.calls.has(head.abi, call.number)
            && self.is_status(head, call.result)
            && (!self.names_processes() || self.is_of_process(head, known.own(head)))
            && (self.uids.is_empty() || self.is_of_user(known.users(head.tid)))
            && (self.paths.is_empty() || self.is_path(head, call, entry, known))
    }

    /// Whether records of that process are wanted, whose numbers in the server's PID namespace are `own`.
    /// A server can have more threads than are remembered: of one that is not known any more, they are.
    pub(crate) fn is_of_process(&self, head: &Head, own: Option<[u32; 2]>) -> bool {
        let is_named = |own: [u32; 2]| own.iter().any(|number| self.server_pids.contains(number));
        let is_child = |children: &HashSet<u32>| children.contains(&head.pid);
        !self.names_processes()
            || !self.server_pids.is_empty() && own.is_none_or(is_named)
            || self.pids.contains(&head.pid)
            || self.pids.contains(&head.tid)
            || self.children.as_ref().is_some_and(is_child)
    }

    /// Whether records of a thread of these users are wanted; as above where they are not known any more.
    pub(crate) fn is_of_user(&self, users: Option<[u32; 2]>) -> bool {
        let is_wanted = |users: [u32; 2]| users.iter().any(|id| self.uids.contains(id));
        self.uids.is_empty() || users.is_none_or(is_wanted)
    }

    fn is_status(&self, head: &Head, result: i64) -> bool {
        let is_error = (-4095..0).contains(&result);
        let has_returned = head.marks & mark::NO_RETURN == 0;
        match self.status {
            Status::Any => true,
            Status::Failed => has_returned && is_error,
            Status::Successful => has_returned && !is_error,
        }
    }

    /// Whether it names a path that is wanted, or has a descriptor of one, or of a file whose name is
    /// not known any more.
    fn is_path(
        &self,
        head: &Head,
        call: &Call<'_>,
        entry: Option<&Call<'_>>,
        known: &Known,
    ) -> bool {
        let items: Vec<_> = entry.into_iter().flat_map(Call::items).chain(call.items()).collect();
        let files = items.iter().filter(|item| item.part == Part::File);
        let is_wanted = |id| known.name(id).is_none_or(|name| self.is_below(&name.text));
        if files.filter_map(id).any(|id| id != 0 && is_wanted(id)) {
            return true;
        }
        let abi = Abi::of_record(head.abi);
        let found = abi.name(call.number).and_then(|name| table::of(abi, name));
        let Some(syscall) = found else { return false };
        (0_u8..).zip(syscall.args).any(|(index, arg)| {
            let is_it = |item: &&Item<'_>| {
                item.arg == index
                    && item.part == Part::Bytes
                    && item.marks & (item_mark::FAULT | item_mark::OUT) == 0
            };
            arg.kind == Kind::Path
                && items.iter().find(is_it).is_some_and(|item| {
                    let base = base(syscall, index, &items, known);
                    self.is_below(&join(base.as_deref(), item.bytes))
                })
        })
    }

    fn is_below(&self, path: &[u8]) -> bool {
        self.paths.iter().any(|wanted| {
            path.strip_prefix(wanted.as_slice())
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'/')) || wanted == b"/")
        })
    }
}

fn id(item: &Item<'_>) -> Option<u64> {
    item.bytes.try_into().ok().map(u64::from_ne_bytes)
}

/// The directory that a path begins at: that of the descriptor before it, or the working directory.
fn base(
    syscall: &table::Syscall,
    index: u8,
    items: &[Item<'_>],
    known: &Known,
) -> Option<std::sync::Arc<Named>> {
    let before = index.checked_sub(1);
    let is_directory = |place: &u8| {
        syscall.args.get(usize::from(*place)).is_some_and(|arg| arg.kind == Kind::DirFd)
    };
    let of_descriptor = before
        .filter(is_directory)
        .and_then(|place| items.iter().find(|item| item.arg == place && item.part == Part::File));
    let of_call = || items.iter().find(|item| item.part == Part::WorkingDirectory);
    known.name(id(of_descriptor.or_else(of_call)?)?)
}

/// A path from where it begins, without what only looks like another: as far as that can be said
/// without looking at links.
fn join(base: Option<&Named>, path: &[u8]) -> Vec<u8> {
    match base {
        Some(base) if path.first() != Some(&b'/') => tidy(&[&base.text, &b"/"[..], path].concat()),
        _ => tidy(path),
    }
}

/// Without empty and single-dot names, and with those taken back that `..` takes back.
fn tidy(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    let mut tidied = Vec::with_capacity(path.len() + 1);
    for name in &names {
        tidied.push(b'/');
        tidied.extend_from_slice(name);
    }
    if tidied.is_empty() {
        tidied.push(b'/');
    }
    tidied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_tidied() {
        for (path, tidied) in [
            ("/", "/"),
            ("//etc/./cron.d/../passwd", "/etc/passwd"),
            ("/../..", "/"),
            ("/a/", "/a"),
        ] {
            assert_eq!(tidy(path.as_bytes()), tidied.as_bytes(), "{path}");
        }
    }

    #[test]
    fn processes_are_told_by_the_server_s_own_numbers() {
        let filter = Filter { server_pids: vec![7], children: true, ..Filter::default() };
        let mut matcher = filter.check().unwrap();
        let head = Head { abi: 0, marks: 0, time: 0, pid: 1007, tid: 1008 };
        assert!(
            matcher.is_of_process(&head, Some([7, 8]))
                && matcher.is_of_process(&head, Some([1, 7]))
        );
        assert!(!matcher.is_of_process(&head, Some([8, 8])));
        matcher.heed(1009, 1007, 7);
        let child = Head { pid: 1009, ..head };
        assert!(matcher.is_of_process(&child, Some([9, 9])));
    }

    #[test]
    fn below_is_by_whole_names() {
        let filter = Filter { paths: vec!["/etc/cron.d/".into()], ..Filter::default() };
        let matcher = filter.check().unwrap();
        assert!(matcher.is_below(b"/etc/cron.d") && matcher.is_below(b"/etc/cron.d/x"));
        assert!(!matcher.is_below(b"/etc/cron.daily") && !matcher.is_below(b"/etc"));
        let all = Filter { paths: vec!["/".into()], ..Filter::default() }.check().unwrap();
        assert!(all.is_below(b"/x"));
    }

    #[test]
    fn children_are_followed_until_they_end() {
        let filter = Filter { pids: vec![7], children: true, ..Filter::default() };
        let mut matcher = filter.check().unwrap();
        let head = |pid| Head { abi: 0, marks: 0, time: 0, pid, tid: pid };
        matcher.heed(8, 7, 7);
        matcher.heed(9, 8, 8);
        matcher.heed(20, 19, 19);
        for (pid, is_wanted) in [(7, true), (8, true), (9, true), (20, false)] {
            assert_eq!(matcher.is_of_process(&head(pid), Some([pid; 2])), is_wanted, "{pid}");
        }
        matcher.forget(9);
        assert!(!matcher.is_of_process(&head(9), Some([9; 2])));
    }
}
