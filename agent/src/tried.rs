//! What reads bytes that a disk or the network gave back, for `tests/fuzz` to try: whatever they are, it refuses them or reads them.

use crate::budget::Budget;
use crate::config::Config;
use crate::identity::Identity;
use crate::probe::dns;
use crate::spool::Spool;
use crate::stream::kept_configuration;
use crate::update;
use denyut_proto::{BootId, UnixMillis};
use hickory_proto::op::Query;
use hickory_proto::rr::{Name, RecordType};
use std::path::Path;
use std::time::Instant;

/// The spool in a folder: it opens, gives what is whole, goes on, and is the same at the next start.
pub fn spool(folder: &Path) {
    const MAX: u64 = 1 << 20;
    let Ok(mut spool) = Spool::open(folder, MAX) else {
        return;
    };
    let before = spool.range();
    assert!(before.first <= before.next && before.acked < before.next);
    let held = spool
        .read_after(0, usize::MAX)
        .expect("a folder that reads");
    assert!(held.is_sorted_by(|one, next| one.seq < next.seq));
    assert!(
        held.iter()
            .all(|one| (before.first..before.next).contains(&one.seq))
    );
    let seq = spool
        .append(BootId([7; 16]), b"one more")
        .expect("a folder that takes");
    assert!(held.last().is_none_or(|last| last.seq < seq) && seq >= before.next);
    spool.ack(before.acked, Instant::now());
    let range = spool.range();
    drop(spool);
    let mut again = Spool::open(folder, MAX).expect("what was mended opens");
    assert_eq!(
        (again.range().next, again.range().acked),
        (range.next, range.acked)
    );
    let last = again.read_after(seq - 1, 2).expect("a folder that reads");
    assert!(last.len() == 1 && last[0].seq == seq && last[0].payload == b"one more");
}

/// The identity in a data folder.
pub fn identity(data_dir: &Path) {
    if let Ok(Some(identity)) = Identity::read(data_dir) {
        identity.request().expect("its key was checked");
        identity.uri().expect("it was checked");
        identity.renew_at();
        identity.is_over();
    }
}

/// What is kept in a data folder of the budget, and of the collector's configuration.
pub fn kept(data_dir: &Path) {
    let mut budget = Budget::open(Some(500_000), data_dir);
    let now = UnixMillis(1_800_000_000_000);
    budget.spend(1, now);
    assert!(budget.spent(now) > 0);
    kept_configuration(data_dir);
}

/// The text of a configuration.
pub fn config(text: &str) {
    Config::parse(text).ok();
}

/// A datagram from a name server.
pub fn name_server(bytes: &[u8]) {
    let Ok(name) = Name::from_ascii("disdukcapil.example.") else {
        return;
    };
    dns::read(bytes, 0x6464, &Query::query(name, RecordType::A));
}

/// A manifest of a newer version, past its signature; and a signature.
pub fn manifest(bytes: &[u8]) {
    update::try_manifest(bytes);
}
