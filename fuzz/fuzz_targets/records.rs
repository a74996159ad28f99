//! Records of any content, decoded and written in all forms.
#![no_main]

#[path = "../../crates/syscalls/tests/properties/mod.rs"]
#[allow(dead_code, reason = "each target checks one of them")]
mod properties;

use libfuzzer_sys::fuzz_target;

/// Gives bytes the heads of records: each says how long its body is, so that it is rarely refused.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<6>() {
        let [kind, abi, marks, tid, low, high] = *head;
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len()).min(4096);
        let (body, rest) = rest.split_at(length);
        let mut record = ((24 + length) as u32).to_ne_bytes().to_vec();
        record.extend([kind % 12, abi % 3, marks, 0]);
        record.extend([0; 8]);
        record.extend([1, 0, 0, 0, tid % 3, 0, 0, 0]);
        record.extend(body);
        records.push(record);
        bytes = rest;
    }
    records
}

fuzz_target!(|bytes: &[u8]| {
    let records = records(bytes);
    properties::records(records.iter().map(Vec::as_slice));
});
