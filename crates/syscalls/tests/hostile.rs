//! Whatever records say, they can be decoded and written, each event in lines of its own.

mod properties;

use hyperspector_syscalls::decode::Decoder;
use hyperspector_syscalls::record::{self, Start, machine, mark};
use hyperspector_syscalls::stream;
use proptest::prelude::*;

fn record(kind: u8, abi: u8, marks: u16, tid: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(24 + body.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend([kind, abi]);
    bytes.extend(marks.to_ne_bytes());
    bytes.extend(7_u64.to_ne_bytes());
    bytes.extend([1, tid].map(u32::to_ne_bytes).concat());
    bytes.extend(body);
    bytes
}

/// One of an item's bytes.
fn item() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        prop::collection::vec(prop_oneof![Just(0), Just(1), Just(255)], 0..150),
        Just(b"a\nb\" = 0\n1 type=EOE msg=".to_vec()),
        (0_u64..3).prop_map(|id| id.to_ne_bytes().to_vec()),
    ];
    (0_u8..8, 0_u8..11, 0_u8..16, 0_u8..70, bytes, 0_u32..3).prop_map(
        |(arg, part, marks, index, bytes, lie)| {
            let mut item = vec![arg, part, marks, index];
            let length = u32::try_from(bytes.len()).unwrap();
            item.extend((length + lie / 2 * 1000).to_ne_bytes());
            item.extend(&bytes);
            item.resize(item.len().next_multiple_of(8), 0);
            item
        },
    )
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX), 0_u64..600, any::<u64>(), Just(0xffff_ff9c)]
}

fn call() -> impl Strategy<Value = Vec<u8>> {
    let head = (1_u8..3, prop_oneof![4 => Just(0_u8), 1 => 1_u8..4], 0_u16..32, 1_u32..3);
    let result = prop_oneof![Just(0_i64), -600_i64..100, any::<i64>()];
    let items = prop::collection::vec(item(), 0..8);
    (head, 0_u32..480, result, prop::array::uniform6(number()), items).prop_map(
        |((kind, abi, marks, tid), number, result, args, items)| {
            let mut body = [number, 0].map(u32::to_ne_bytes).concat();
            body.extend(u64::from(number).to_ne_bytes());
            body.extend(result.to_ne_bytes());
            body.extend(args.map(u64::to_ne_bytes).concat());
            body.extend(items.concat());
            record(kind, abi, marks | mark::HAS_ENTRY, tid, &body)
        },
    )
}

fn other() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::collection::vec(prop_oneof![Just(0_u8), Just(47), any::<u8>()], 0..300);
    (3_u8..13, 0_u32..3, body).prop_map(|(kind, tid, body)| record(kind, 0, 0, tid, &body))
}

/// Few in the ordinary suite; `PROPTEST_CASES` makes more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(500)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn any_records_are_written(records in prop::collection::vec(prop_oneof![3 => call(), 1 => other()], 1..12)) {
        properties::records(records.iter().map(Vec::as_slice));
    }

    #[test]
    fn any_records_are_a_stream(records in prop::collection::vec(prop_oneof![3 => call(), 1 => other()], 0..12), rest in prop::collection::vec(any::<u8>(), 0..40)) {
        let start = Start { version: 1, machine: machine::NATIVE, epoch: 0, tracer: 1, queue: 0, server: b"s" };
        let mut bytes = stream::start(1, &start);
        for mut record in records {
            record.resize(record.len().next_multiple_of(8), 0);
            let length = u32::try_from(record.len()).unwrap();
            record[..4].copy_from_slice(&length.to_ne_bytes());
            bytes.extend(record);
        }
        bytes.extend(rest);
        properties::stream(&bytes);
    }

    #[test]
    fn any_line_is_a_request_or_refused(calls in "\\PC{0,20}", pids in prop::collection::vec(any::<u32>(), 0..5), junk in prop::collection::vec(any::<u8>(), 0..60)) {
        properties::request(&junk);
        let calls = serde_json::to_string(&calls).unwrap();
        let line = format!("{{\"version\":1,\"filter\":{{\"calls\":[{calls}],\"pids\":{pids:?}}}}}");
        properties::request(line.as_bytes());
        properties::request(&[line.as_bytes(), &junk].concat());
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0_usize..200) {
        let mut decoder = Decoder::new();
        let _ = decoder.feed(&bytes);
        let whole = record(1, 0, 0, 1, &bytes);
        let _ = decoder.feed(whole.get(..cut).unwrap_or(&whole));
        let _ = record::read(&bytes);
    }
}
