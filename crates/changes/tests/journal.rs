//! What a writer writes, readers read: also while it is written, compacted and begun anew.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use hyperspector_changes::journal::{Journal, Limits};
use hyperspector_changes::mark::Mark;
use hyperspector_changes::reader::{Answer, Journal as Read};
use hyperspector_changes::record::{Kinds, Subject};

fn begin(path: &Path, id: &str, limits: Limits) -> Journal {
    let directory: OwnedFd = File::open(path).unwrap().into();
    Journal::begin(directory, id.into(), "for the first time".into(), limits).unwrap()
}

fn path(text: &str) -> Subject {
    Subject::Path(text.as_bytes().to_vec())
}

fn paths(answer: Answer) -> Vec<String> {
    match answer {
        Answer::All(reason) => vec![format!("all: {reason}")],
        Answer::Changed(changed) => changed
            .into_iter()
            .map(|(subject, _)| String::from_utf8(subject.encode()).unwrap())
            .collect(),
    }
}

#[test]
fn a_reader_learns_what_came_after_its_mark() {
    let home = tempfile::tempdir().unwrap();
    let mut journal = begin(home.path(), "one", Limits::default());
    let start = Read::read(home.path()).unwrap().mark();
    assert_eq!(start, Mark { journal: "one".into(), number: 0 });
    journal.add([(path("/a"), Kinds::CREATED), (path("/b"), Kinds::CREATED)]).unwrap();
    let middle = Read::read(home.path()).unwrap().mark();
    journal
        .add([(path("/a"), Kinds::DELETED), (Subject::Tree(b"/d".into()), Kinds::MOVED)])
        .unwrap();
    let now = Read::read(home.path()).unwrap();
    assert_eq!(paths(now.since(Some(&start))), ["/b", "/a", "/d/"]);
    assert_eq!(paths(now.since(Some(&middle))), ["/a", "/d/"]);
    assert_eq!(paths(now.since(Some(&now.mark()))), [""; 0]);
    let Answer::Changed(changed) = now.since(Some(&start)) else { panic!() };
    assert_eq!(changed[1].1, Kinds::CREATED | Kinds::DELETED);
}

#[test]
fn what_is_not_known_is_said() {
    let home = tempfile::tempdir().unwrap();
    let mut journal = begin(home.path(), "one", Limits::default());
    let start = Read::read(home.path()).unwrap().mark();
    journal.add([(path("/a"), Kinds::CREATED)]).unwrap();
    journal.gap("the queue was full").unwrap();
    journal.add([(path("/b"), Kinds::CREATED)]).unwrap();
    let now = Read::read(home.path()).unwrap();
    assert_eq!(paths(now.since(Some(&start))), ["all: the queue was full"]);
    assert_eq!(paths(now.since(None)), ["all: no scan has been completed yet"]);
    let after_gap = Mark { journal: "one".into(), number: 2 };
    assert_eq!(paths(now.since(Some(&after_gap))), ["/b"]);
    let last = now.mark();
    drop(begin(home.path(), "two", Limits::default()));
    let now = Read::read(home.path()).unwrap();
    assert_eq!(paths(now.since(Some(&last))), ["all: the journal began anew: for the first time"]);
    fs::write(home.path().join("unwatched"), "/mnt/nfs\nthe kernel cannot\0").unwrap();
    let now = Read::read(home.path()).unwrap();
    assert_eq!(paths(now.since(Some(&now.mark()))), ["/mnt/nfs/"]);
}

#[test]
fn more_paths_than_it_holds_mean_scan_all_and_it_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let limits = Limits { entries: 100, ..Limits::default() };
    let mut journal = begin(home.path(), "one", limits);
    let start = Read::read(home.path()).unwrap().mark();
    for number in 0..150 {
        journal.add([(path(&format!("/{number}")), Kinds::CREATED)]).unwrap();
    }
    let now = Read::read(home.path()).unwrap();
    assert!(paths(now.since(Some(&start)))[0].starts_with("all: more paths"));
    assert_eq!(journal.size().gaps, 1);
    let mark = Mark { journal: "one".into(), number: 140 };
    assert_eq!(paths(now.since(Some(&mark))).len(), 11);
}

#[test]
fn a_server_that_writes_for_ever_does_not_fill_the_disk() {
    let home = tempfile::tempdir().unwrap();
    let limits = Limits { segment: 20_000, ..Limits::default() };
    let mut journal = begin(home.path(), "one", limits);
    let start = Read::read(home.path()).unwrap().mark();
    let mut most = 0;
    for _ in 0..20_000 {
        journal.add((0..3).map(|n| (path(&format!("/var/log/{n}")), Kinds::MODIFIED))).unwrap();
        let sizes = fs::read_dir(home.path()).unwrap();
        most = most.max(sizes.map(|one| one.unwrap().metadata().map_or(0, |m| m.len())).sum());
    }
    assert!(most < 50_000, "{most}");
    let now = Read::read(home.path()).unwrap();
    assert_eq!(paths(now.since(Some(&start))).len(), 3);
    assert_eq!(now.mark().number, 60_000);
}

#[test]
fn readers_miss_nothing_while_it_is_compacted() {
    let home = tempfile::tempdir().unwrap();
    let place = home.path().to_owned();
    drop(begin(&place, "one", Limits::default()));
    let writer = std::thread::spawn(move || {
        let limits = Limits { segment: 3000, ..Limits::default() };
        let mut journal = begin(&place, "one", limits);
        for number in 0..6000_u32 {
            // Each of 50 paths again and again: compaction is all that happens.
            let name = format!("/{}", number % 50);
            journal.add([(path(&name), Kinds::MODIFIED)]).unwrap();
        }
    });
    let mut reads = 0;
    while !writer.is_finished() {
        let Ok(now) = Read::read(home.path()) else { continue };
        let head = now.mark().number;
        let since = Mark { journal: "one".into(), number: head.saturating_sub(40) };
        let found: BTreeSet<String> = paths(now.since(Some(&since))).into_iter().collect();
        // The last 40 changes are of 40 different paths.
        assert_eq!(found.len() as u64, head.min(40));
        reads += 1;
    }
    writer.join().unwrap();
    assert!(reads > 3);
}
