//! The decoder of rollups: whatever the bytes, it refuses or decodes.
#![no_main]

use denyut_store::history::rollup::{self, Level};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for level in [Level::Minute, Level::Hour, Level::Day] {
        rollup::decode(bytes, 0, level).ok();
    }
});
