//! The chunk decoder past its checksum: whatever the bytes, it refuses or decodes within its limits; and what it decodes, encodes and decodes the same.
#![no_main]

use denyut_proto::UnixMillis;
use denyut_store::history::codec::{self, COUNT_MAX};
use denyut_store::history::column::Effort;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u32, &[u8])| {
    let (first, body) = input;
    let mut samples = Vec::new();
    if codec::decode_body(UnixMillis(i64::from(first) * 1_000), body, &mut samples).is_err() {
        assert!(samples.is_empty());
        return;
    }
    assert!(!samples.is_empty() && samples.len() <= COUNT_MAX && samples.is_sorted());
    for effort in [Effort::Fast, Effort::Small] {
        let (mut bytes, mut again) = (Vec::new(), Vec::new());
        codec::encode(7, &samples, effort, &mut bytes);
        codec::decode(&bytes, &mut again).expect("what was encoded can be decoded");
        assert_eq!(samples, again);
    }
});
