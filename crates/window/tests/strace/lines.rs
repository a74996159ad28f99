//! What strace(1) wrote, and what we write, as calls of each thread.

use std::collections::BTreeMap;

use hyperspector_syscalls::decode::{Decoder, Event};
use hyperspector_syscalls::record::mark;
use hyperspector_syscalls::text::strace::{Style, write_arguments, write_result};

/// A call as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub name: String,
    /// The name, the arguments, and their parentheses.
    pub call: String,
    pub result: String,
}

/// The calls of each thread, in order.
pub type Threads = BTreeMap<u32, Vec<Line>>;

/// What strace wrote to a file, of calls after the one that entered the cgroup.
pub fn of_strace(text: &str) -> Threads {
    let mut threads = Threads::new();
    let mut begun: BTreeMap<u32, String> = BTreeMap::new();
    let mut has_entered = false;
    for line in text.lines() {
        let Some((tid, rest)) = line.trim_start().split_once(' ') else { continue };
        let Ok(tid) = tid.parse::<u32>() else { continue };
        let Some((_, rest)) = rest.trim_start().split_once(' ') else { continue };
        if rest.starts_with("---") || rest.starts_with("+++") {
            continue;
        }
        let whole = if let Some(start) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(tid, start.to_owned());
            continue;
        } else if rest.starts_with("<... ") {
            let (_, end) = rest.split_once(" resumed>").unwrap_or_default();
            let start = begun.remove(&tid).unwrap_or_default();
            // A comma ends the first part where arguments follow; a space was cut off.
            let space = if start.ends_with(',') && !end.starts_with(' ') { " " } else { "" };
            format!("{start}{space}{end}")
        } else {
            rest.to_owned()
        };
        if !has_entered {
            has_entered = whole.starts_with("write(") && whole.contains("/cgroup.procs>");
            continue;
        }
        if let Some(line) = parse(&whole) {
            threads.entry(tid).or_default().push(line);
        }
    }
    threads
}

fn parse(whole: &str) -> Option<Line> {
    let whole = match whole.rsplit_once(" <") {
        Some((rest, time))
            if time.ends_with('>') && time.starts_with(|c: char| c.is_ascii_digit()) =>
        {
            rest
        }
        _ => whole,
    };
    // Strings may have such text too: the last one is the end of the arguments.
    let is_end = |place: &usize| whole[place + 2..].trim_start().starts_with("= ");
    let mut places = whole.rmatch_indices(") ").map(|(place, _)| place);
    let at = places.find(is_end)?;
    let name = whole.split_once('(')?.0.to_owned();
    let result = whole[at + 2..].trim_start().strip_prefix("= ")?.to_owned();
    Some(Line { name, call: whole[..=at].to_owned(), result })
}

/// What our records say.
#[allow(dead_code, reason = "a test of another crate has the records as text")]
pub fn of_records(records: &[Vec<u8>], string: usize) -> (Threads, u64) {
    let style = Style { string, ..Style::default() };
    let mut decoder = Decoder::new();
    let mut threads = Threads::new();
    let mut lost = 0;
    for record in records {
        match decoder.feed(record).unwrap() {
            Some(Event::Call(call)) if call.marks & mark::UNDER_WAY == 0 => {
                let (mut text, mut result) = (String::new(), String::new());
                write_arguments(&mut text, &call, &style);
                write_result(&mut result, &call, &style);
                let line = Line { name: call.name().into_owned(), call: text, result };
                threads.entry(call.tid).or_default().push(line);
            }
            Some(Event::Lost { count, .. }) => lost += count,
            _ => {}
        }
    }
    (threads, lost)
}
