//! Makes up bytes for one of the library's functions, by what of its code they reach: `DENYUT_FUZZ=<name> fuzz CORPUS…`.
#![no_main]

use denyut_fuzz::ALL;
use std::sync::LazyLock;

static TRIED: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("DENYUT_FUZZ").unwrap_or_default();
    let found = ALL.iter().find(|(known, _)| *known == name);
    let Some((_, tried)) = found else {
        let names: Vec<&str> = ALL.iter().map(|(known, _)| *known).collect();
        panic!("DENYUT_FUZZ must be one of {}", names.join(", "));
    };
    *tried
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TRIED(bytes));
