//! Records made by hand.

use hyperspector_syscalls::numbers::Abi;

pub const SECOND: u64 = 1_000_000_000;

/// A record of process 77's thread 78.
pub fn record(kind: u8, marks: u16, time: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(24 + body.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend([kind, 0]);
    bytes.extend(marks.to_ne_bytes());
    bytes.extend(time.to_ne_bytes());
    bytes.extend([77_u32, 78].map(u32::to_ne_bytes).concat());
    bytes.extend(body);
    bytes
}

pub fn item(arg: u8, part: u8, marks: u8, bytes: &[u8]) -> Vec<u8> {
    let mut item = vec![arg, part, marks, 0];
    item.extend(u32::try_from(bytes.len()).unwrap().to_ne_bytes());
    item.extend(bytes);
    item.resize(item.len().next_multiple_of(8), 0);
    item
}

pub fn call(name: &str, marks: u16, result: i64, args: &[u64], items: &[Vec<u8>]) -> Vec<u8> {
    let mut body = [Abi::NATIVE.number(name).unwrap(), 0].map(u32::to_ne_bytes).concat();
    body.extend(1_234_567_u64.to_ne_bytes());
    body.extend(result.to_ne_bytes());
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    body.extend(all.map(u64::to_ne_bytes).concat());
    body.extend(items.concat());
    record(1, marks, 5 * SECOND, &body)
}

pub fn file(id: u64, names: &[&str]) -> Vec<u8> {
    let mut body = [id, 99].map(u64::to_ne_bytes).concat();
    body.extend([8_u32 << 20 | 1, 0o100_644].map(u32::to_ne_bytes).concat());
    body.extend([0; 12]);
    body.extend(1_u32.to_ne_bytes());
    body.extend([0; 32]);
    body.extend([33_u32, 34, 0, 0].map(u32::to_ne_bytes).concat());
    for name in names.iter().rev() {
        body.push(u8::try_from(name.len()).unwrap());
        body.extend(name.as_bytes());
    }
    record(4, 0, 0, &body)
}

pub fn task() -> Vec<u8> {
    let ids = [70, 1000, 100, 0, 0, 0, 0, 0, 0, u32::MAX, u32::MAX, 0];
    let mut body = ids.map(u32::to_ne_bytes).concat();
    body.extend(b"my prog\0\0\0\0\0\0\0\0\0");
    body.extend(0_u64.to_ne_bytes());
    record(3, 0, 0, &body)
}

/// openat of a name with a newline in it, in /srv.
pub fn opened() -> [Vec<u8>; 4] {
    let directory = item(6, 7, 0, &1_u64.to_ne_bytes());
    let name = item(1, 0, 0, b"a\nb");
    let result = item(6, 6, 8, &2_u64.to_ne_bytes());
    let args = [0xffff_ff9c, 4096, 0o2_000_000];
    [
        task(),
        file(1, &["srv"]),
        file(2, &["srv", "a\nb"]),
        call("openat", 0, 3, &args, &[directory, name, result]),
    ]
}
