//! Kills at random moments under load: nothing that was acknowledged is lost, nothing is there twice, and every start succeeds.
//!
//! A child process (this program again) appends, checkpoints, seals, and puts days into blocks as fast as it can, and tells what is acknowledged;
//! it is killed, and the next one goes on from what lies on the disk. `DENYUT_KILLS` sets how often; 200 when it is not set.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod load;

use load::{Child, Load};
use std::time::Duration;

/// The child: not a test of its own.
#[test]
#[ignore = "started by the other tests"]
fn child() {
    if let Some(folder) = std::env::var_os(load::FOLDER) {
        Load::open(folder.as_ref()).run();
    }
}

#[test]
fn kills_at_random_moments_lose_and_double_nothing() {
    let mut folder = tempfile::tempdir().expect("tempdir");
    let mut told = load::Told::default();
    let mut random = load::Random(0x9e37_79b9_7f4a_7c15);
    let mut blocks = 0;
    for kill in 0..load::times(200) {
        // What there is to check grows with each.
        if kill > 0 && kill % 200 == 0 {
            Load::open(folder.path()).check(told);
            folder = tempfile::tempdir().expect("tempdir");
            told = load::Told::default();
        }
        let mut child = Child::start(folder.path());
        told = child.run_for(Duration::from_millis(random.below(120)), told);
        child.kill();
        if kill % 20 == 19 {
            blocks = Load::open(folder.path()).check(told).blocks;
        }
    }
    let found = Load::open(folder.path()).check(told);
    assert!(
        told.acknowledged > 1_000 && blocks.max(found.blocks) > 1,
        "too little was done: {told:?}, {found:?}"
    );
    eprintln!("{told:?}, {found:?}");
}
