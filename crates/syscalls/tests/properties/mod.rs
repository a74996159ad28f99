//! What must hold whatever comes: for the tests here, and for the fuzzer's targets in fuzz/.

use hyperspector_syscalls::decode::{Decoder, Event};
use hyperspector_syscalls::filter::{Filter, Request, Status};
use hyperspector_syscalls::stream::{Known, Queue, Reader, Sent};
use hyperspector_syscalls::summary::Summary;
use hyperspector_syscalls::text::{audit::Audit, json, strace};

/// Records, each in all forms of text.
pub fn records<'a>(records: impl IntoIterator<Item = &'a [u8]>) {
    let mut decoder = Decoder::new();
    let mut audit = Audit { epoch: 0, serial: 1 };
    let mut summary = Summary::default();
    for record in records {
        let Ok(Some(event)) = decoder.feed(record) else { continue };
        forms(&event, &mut audit);
        if let Event::Call(call) = &event {
            summary.add(call);
        }
    }
    let mut text = String::new();
    summary.write(&mut text);
    assert!(text.lines().count() >= 4 && is_printable(&text.replace('\n', "")));
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// An event in all forms: each in lines of its own, without anything that a terminal would act on.
fn forms(event: &Event, audit: &mut Audit) {
    for files in [strace::Files::None, strace::Files::Paths, strace::Files::Addresses] {
        for verbose in [false, true] {
            let mut text = String::new();
            strace::write(
                &mut text,
                event,
                &strace::Style { files, verbose, ..Default::default() },
            );
            let line = text.strip_suffix('\n').unwrap_or_default();
            assert!(is_printable(line), "{line:?}");
        }
    }
    let mut text = String::new();
    json::write(&mut text, event, 0);
    let line = text.strip_suffix('\n').expect("a line");
    assert!(!line.chars().any(char::is_control), "{line:?}");
    let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(value["v"], json::VERSION);
    let mut text = String::new();
    let serial = audit.serial;
    audit.write(&mut text, event);
    text.lines().for_each(|line| audit_line(line, serial));
}

/// A record of audit: fields, each a name and a value without spaces, all under one serial.
fn audit_line(line: &str, serial: u64) {
    assert!(is_printable(line) && line.len() < 8900, "{line:?}");
    let (head, fields) = line.split_once("): ").expect("a head");
    let (kind, stamp) = head.split_once(" msg=audit(").expect("a stamp");
    assert!(kind.starts_with("type=") && stamp.ends_with(&format!(":{serial}")), "{line}");
    for field in fields.split(' ').filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once('=').unwrap_or_else(|| panic!("{field:?} of {line}"));
        let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '[' | ']');
        assert!(!name.is_empty() && name.chars().all(is_letter), "{field:?} of {line}");
        let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        assert!(!inner.unwrap_or(value).contains('"'), "{field:?} of {line}");
    }
}

/// Bytes as a stream: no more records than bytes, and every record goes through filters and queues.
pub fn stream(bytes: &[u8]) {
    let Ok(mut reader) = Reader::new(bytes) else { return };
    let (mut known, mut decoder) = (Known::new(), Decoder::new());
    let filters = [
        Filter { calls: vec!["all".into()], ..Filter::default() },
        Filter { paths: vec!["/etc".into()], status: Status::Failed, ..Filter::default() },
        Filter { pids: vec![1], uids: vec![0], children: true, ..Filter::default() },
    ];
    let mut readers = filters
        .map(|filter| (filter.check().expect("a filter"), Sent::default(), Queue::new(4096)));
    let mut given = 0;
    while let Ok(Some(record)) = reader.take() {
        given += record.len();
        let _ = decoder.feed(record);
        let Ok(Some(offer)) = known.take(record) else { continue };
        for (matcher, sent, queue) in &mut readers {
            offer.to(matcher, sent, &known, |records| queue.push(7, records));
            assert!(queue.len() <= 4096);
        }
    }
    assert!(given <= bytes.len());
}

/// Bytes as a request: refused in printing words, or read as it was meant.
pub fn request(bytes: &[u8]) {
    match Request::parse(bytes) {
        Err(refused) => assert!(!refused.to_string().contains(char::is_control)),
        Ok(request) => {
            let again = Request::parse(request.line().as_bytes());
            assert_eq!(again.as_ref(), Ok(&request));
            if let Err(refused) = request.filter.check() {
                assert!(!refused.to_string().contains(char::is_control), "{refused:?}");
            }
        }
    }
}
