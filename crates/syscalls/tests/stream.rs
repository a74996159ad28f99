//! What each reader gets of the records.

mod made;

use hyperspector_syscalls::decode::{Decoder, Event};
use hyperspector_syscalls::filter::{Filter, Matcher, Status};
use hyperspector_syscalls::record::{self, Record};
use hyperspector_syscalls::stream::{Known, Sent};
use hyperspector_syscalls::text::strace;
use made::{SECOND, call, file, item, opened, record, task};

/// A reader's side: its records, by what they are.
struct Side {
    matcher: Matcher,
    sent: Sent,
    got: Vec<Vec<u8>>,
}

impl Side {
    fn new(filter: &Filter) -> Self {
        Self { matcher: filter.check().unwrap(), sent: Sent::default(), got: Vec::new() }
    }

    fn take(&mut self, known: &mut Known, records: &[Vec<u8>], has_room: bool) {
        for bytes in records {
            let Some(offer) = known.take(bytes).unwrap() else { continue };
            offer.to(&mut self.matcher, &mut self.sent, known, |records| {
                if has_room {
                    self.got.extend(records.iter().map(|record| record.to_vec()));
                }
                has_room
            });
        }
    }

    fn kinds(&self) -> String {
        let kind = |bytes: &Vec<u8>| match record::read(bytes).unwrap().0 {
            Record::Call(..) => 'c',
            Record::Entry(..) => 'e',
            Record::Task(..) => 't',
            Record::File(..) => 'f',
            Record::End(..) => '.',
            _ => '!',
        };
        self.got.iter().map(kind).collect()
    }

    fn lines(&self) -> String {
        let mut decoder = Decoder::new();
        let mut text = String::new();
        for event in self.got.iter().filter_map(|bytes| decoder.feed(bytes).unwrap()) {
            strace::write(&mut text, &event, &strace::Style::default());
        }
        text
    }
}

fn calls(words: &[&str]) -> Filter {
    Filter { calls: words.iter().map(|word| (*word).to_owned()).collect(), ..Filter::default() }
}

#[test]
fn who_comes_late_is_told_what_was_said_before_and_once() {
    let mut known = Known::new();
    let [task, directory, name, open] = opened();
    let mut early = Side::new(&calls(&["all"]));
    early.take(&mut known, &[task, directory, name, open.clone()], true);
    let mut late = Side::new(&calls(&["all"]));
    late.take(&mut known, &[open.clone(), open], true);
    assert_eq!((early.kinds().as_str(), late.kinds().as_str()), ("fftc", "fftcc"));
    assert!(late.lines().starts_with(&early.lines()));
    assert!(early.lines().contains("openat(AT_FDCWD</srv>"));
}

#[test]
fn what_a_full_queue_did_not_take_is_told_again() {
    let mut known = Known::new();
    let mut side = Side::new(&calls(&["all"]));
    side.take(&mut known, &opened(), false);
    side.take(&mut known, &opened()[3..], true);
    assert_eq!(side.kinds(), "fftc");
}

#[test]
fn an_entry_comes_with_its_call_if_that_is_wanted() {
    let mut known = Known::new();
    let name = item(1, 0, 0, b"/etc/shadow");
    let mut entry = call("openat", 0, 0, &[], &[name]);
    entry[4] = 2;
    let failed = call("openat", 16, -13, &[], &[]);
    let done = call("openat", 16, 3, &[], &[]);
    let filter = Filter { status: Status::Failed, paths: vec!["/etc".into()], ..Filter::default() };
    let mut side = Side::new(&filter);
    let other = call("openat", 0, -13, &[], &[item(1, 0, 0, b"/srv")]);
    side.take(&mut known, &[entry.clone(), done, other], true);
    assert_eq!(side.kinds(), "");
    side.take(&mut known, &[entry, failed, call("close", 0, -9, &[], &[])], true);
    assert_eq!(side.kinds(), "ec");
}

#[test]
fn paths_are_found_by_descriptors_and_by_names_from_the_directory() {
    let relative = |name: &[u8]| {
        let directory = item(6, 7, 0, &1_u64.to_ne_bytes());
        call("openat", 0, -2, &[0xffff_ff9c], &[directory, item(1, 0, 0, name)])
    };
    let filter = Filter { paths: vec!["/srv/a".into()], ..calls(&["all"]) };
    let wanted = |records: &[Vec<u8>]| {
        let mut known = Known::new();
        let mut side = Side::new(&filter);
        side.take(&mut known, &[file(1, &["srv"]), file(2, &["srv", "a", "b"])], true);
        side.take(&mut known, records, true);
        side.kinds().contains('c')
    };
    assert!(wanted(&[relative(b"a/x")]) && wanted(&[relative(b"./q/../a")]));
    assert!(!wanted(&[relative(b"b")]) && !wanted(&[relative(b"/a")]));
    assert!(wanted(&[call("read", 0, 0, &[3], &[item(0, 6, 0, &2_u64.to_ne_bytes())])]));
    assert!(!wanted(&[call("read", 0, 0, &[3], &[item(0, 6, 0, &1_u64.to_ne_bytes())])]));
}

#[test]
fn processes_and_users_are_told_apart_to_their_end() {
    let end = record(5, 0, 6 * SECOND, &[0, 3, 0, 0, 1, 0, 0, 0]);
    let records = [task(), call("getpid", 0, 77, &[], &[]), end];
    let kinds = |filter: Filter| {
        let mut side = Side::new(&Filter { calls: vec!["all".into()], ..filter });
        side.take(&mut Known::new(), &records, true);
        side.kinds()
    };
    let of = |uids: &[u32], pids: &[u32]| Filter {
        uids: uids.to_vec(),
        pids: pids.to_vec(),
        ..Filter::default()
    };
    assert_eq!(kinds(of(&[1000], &[])), "tc.");
    assert_eq!(kinds(of(&[0], &[77])), "tc.");
    assert_eq!(kinds(of(&[5], &[])), "");
    assert_eq!(kinds(of(&[], &[76])), "");
    assert_eq!(kinds(of(&[], &[78])), "tc.");
    assert_eq!(kinds(Filter { children: true, ..of(&[], &[70]) }), "tc.");
    assert_eq!(kinds(of(&[], &[70])), "");
}

/// A server can have more threads and files than are remembered, and records of them can be lost.
#[test]
fn what_is_not_known_any_more_keeps_no_call_from_a_reader() {
    let read = call("read", 0, 0, &[3], &[item(0, 6, 0, &9_u64.to_ne_bytes())]);
    let kinds = |filter: Filter| {
        let mut side = Side::new(&Filter { calls: vec!["all".into()], ..filter });
        side.take(&mut Known::new(), std::slice::from_ref(&read), true);
        side.kinds()
    };
    assert_eq!(kinds(Filter { uids: vec![5], ..Filter::default() }), "c");
    assert_eq!(kinds(Filter { server_pids: vec![5], ..Filter::default() }), "c");
    assert_eq!(kinds(Filter { paths: vec!["/etc".into()], ..Filter::default() }), "c");
    assert_eq!(kinds(Filter { pids: vec![5], ..Filter::default() }), "");
}

#[test]
fn losses_are_told_apart() {
    let text: String = [
        record(6, 0, SECOND, &3_u64.to_ne_bytes()),
        hyperspector_syscalls::stream::missed(SECOND, 4),
        hyperspector_syscalls::stream::gap(2 * SECOND, SECOND),
    ]
    .iter()
    .filter_map(|bytes| Decoder::new().feed(bytes).unwrap())
    .map(|event: Event| {
        let mut text = String::new();
        strace::write(
            &mut text,
            &event,
            &strace::Style { threads: strace::Threads::None, ..Default::default() },
        );
        text
    })
    .collect();
    assert_eq!(
        text,
        "00:00:01.000000 +++ 3 records lost on processor 78 +++\n\
         00:00:01.000000 +++ 4 records missed: this reader was too slow +++\n\
         00:00:02.000000 +++ nothing was recorded for 1000 ms: there was no tracer +++\n"
    );
}
