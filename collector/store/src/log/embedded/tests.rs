use super::*;
use crate::log::Entry;
use crate::log::seen::BOOTS_KEPT;
use bytes::Bytes;
use proptest::prelude::*;
use std::sync::OnceLock;

fn open(folder: &Path) -> EmbeddedLog {
    EmbeddedLog::open(folder).expect("opens")
}

fn entry(boot: u8, seq: u64) -> Body {
    Body::Heartbeat(Entry {
        office: "36.73.02".parse().expect("a code"),
        agent: "a-1".parse().expect("an id"),
        boot: BootId([boot; 16]),
        seq,
        heartbeat: Bytes::from(format!("heartbeat {boot}/{seq}")),
        shift_ms: -7,
        decoded: OnceLock::new(),
    })
}

fn at(ms: i64) -> UnixMillis {
    UnixMillis(ms)
}

/// Every record, read in small pieces.
fn all(log: &EmbeddedLog) -> Vec<(Position, Record)> {
    let (mut from, mut out) = (0, Vec::new());
    loop {
        let part = log.read(from, 3).expect("reads");
        let Some((last, _)) = part.last() else {
            return out;
        };
        from = last + 1;
        out.extend(
            part.into_iter()
                .map(|(position, record)| (position, (*record).clone())),
        );
    }
}

fn last_segment(folder: &Path) -> PathBuf {
    list(folder)
        .expect("lists")
        .pop_last()
        .expect("a segment")
        .1
}

#[test]
fn each_entry_is_in_the_log_once_over_restarts() {
    use Appended::{Duplicate, New};
    let dir = tempfile::tempdir().expect("tempdir");
    let log = open(dir.path());
    let first = log.append(
        at(5),
        vec![entry(1, 1), entry(1, 2), Body::Tick, entry(1, 1)],
    );
    assert_eq!(first.expect("appends"), [New, New, New, Duplicate]);
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.end(), 3);
    let again = log.append(at(6), vec![entry(1, 2), entry(2, 2), entry(1, 4)]);
    assert_eq!(again.expect("appends"), [Duplicate, New, New]);
    for log in [log, open(dir.path())] {
        let all = all(&log);
        assert_eq!(
            all.iter().map(|(p, _)| *p).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5]
        );
        assert_eq!(all[1].1.body, entry(1, 2));
        assert_eq!(
            all[2].1,
            Record {
                arrival: at(5),
                body: Body::Tick
            }
        );
        assert_eq!(log.read(4, 1).expect("reads")[0].1.body, entry(2, 2));
        let held = |agent: &str, boot| log.held(&agent.parse().expect("an id"), BootId([boot; 16]));
        assert_eq!(
            held("a-1", 1),
            Held {
                any: true,
                of_boot: Some(4)
            }
        );
        assert_eq!(
            held("a-1", 9),
            Held {
                any: true,
                of_boot: None
            }
        );
        assert_eq!(
            held("a-2", 1),
            Held {
                any: false,
                of_boot: None
            }
        );
    }
}

#[test]
fn an_agent_that_moves_keeps_its_sequences() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = open(dir.path());
    log.append(at(1), vec![entry(1, 1)]).expect("appends");
    let moved = |seq| match entry(1, seq) {
        Body::Heartbeat(entry) => Body::Heartbeat(Entry {
            office: "36.73.03".parse().expect("a code"),
            ..entry
        }),
        other => other,
    };
    assert_eq!(
        log.append(at(2), vec![moved(1), moved(2)])
            .expect("appends"),
        [Appended::Duplicate, Appended::New]
    );
    drop(log);
    let log = open(dir.path());
    assert_eq!(
        all(&log)
            .into_iter()
            .map(|(_, r)| r.body)
            .collect::<Vec<_>>(),
        [entry(1, 1), moved(2)]
    );
}

#[test]
fn a_cut_log_keeps_its_positions_and_its_memory() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = EmbeddedLog::open_sized(dir.path(), 2_000).expect("opens");
    for seq in 1..=300 {
        assert_eq!(
            log.append(at(1), vec![entry(1, seq)]).expect("appends"),
            [Appended::New]
        );
    }
    let before = log.bytes();
    log.cut(u64::MAX).expect("cuts");
    assert!(log.bytes() < before / 5);
    assert!(log.begin() > 200);
    for log in [
        log,
        EmbeddedLog::open_sized(dir.path(), 2_000).expect("opens"),
    ] {
        assert_eq!(
            log.append(at(2), vec![entry(1, 7)]).expect("appends"),
            [Appended::Duplicate]
        );
        assert_eq!(all(&log).last().expect("a record").1.body, entry(1, 300));
    }
    let log = open(dir.path());
    assert_eq!(
        log.append(at(2), vec![Body::Tick]).expect("appends"),
        [Appended::New]
    );
    assert_eq!(log.end(), 301);
}

#[test]
fn boots_are_remembered_up_to_a_bound() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = open(dir.path());
    for boot in 0..40 {
        log.append(at(1), vec![entry(boot, 1)]).expect("appends");
    }
    drop(log);
    let log = open(dir.path());
    assert_eq!(
        lock(&log.seen).agents.values().map(Vec::len).sum::<usize>(),
        BOOTS_KEPT
    );
    assert_eq!(
        log.append(at(1), vec![entry(39, 1)]).expect("appends"),
        [Appended::Duplicate]
    );
    // Forgotten boots' records are still there to read, wherever reading begins.
    assert_eq!(all(&log).len(), 40);
    drop(log);
    for from in [2, 20] {
        let read = open(dir.path()).read(from, 100).expect("reads");
        assert_eq!(read.len() as u64, 41 - from);
    }
    let log = open(dir.path());
    for boot in 40..50 {
        log.append(at(1), vec![entry(boot, 1)]).expect("appends");
        log.append(at(1), vec![entry(boot, 2)]).expect("appends");
    }
    drop(log);
    // The second record of a boot does not open its session; the first, which does, is passed over.
    let read = open(dir.path()).read(42, 100).expect("reads");
    assert_eq!((read[0].0, read.len()), (42, 19));
}

#[test]
fn lost_positions_are_not_used_again() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = open(dir.path());
    log.append(at(1), vec![entry(1, 1)]).expect("appends");
    log.skip_past(1).expect("nothing to do");
    log.skip_past(10).expect("skips");
    log.append(at(1), vec![entry(1, 2)]).expect("appends");
    for log in [log, open(dir.path())] {
        assert_eq!(
            all(&log).iter().map(|(p, _)| *p).collect::<Vec<_>>(),
            [1, 11]
        );
    }
}

/// A write that was cut off at any byte, or left garbage: what was acknowledged before it is there, and the log goes on.
#[test]
fn a_torn_tail_is_cut_off() {
    let whole = tempfile::tempdir().expect("tempdir");
    let log = open(whole.path());
    log.append(at(1), vec![entry(1, 1), entry(1, 2)])
        .expect("appends");
    let kept = fs::metadata(last_segment(whole.path()))
        .expect("is there")
        .len();
    log.append(at(2), vec![entry(1, 3)]).expect("appends");
    let bytes = fs::read(last_segment(whole.path())).expect("reads");
    let tails =
        (usize::try_from(kept).expect("small")..bytes.len()).map(|cut| bytes[..cut].to_vec());
    let garbage = [
        &bytes[..usize::try_from(kept).expect("small")],
        &[0; 4096][..],
    ]
    .concat();
    for torn in tails.chain([garbage]) {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::write(dir.path().join("0000000000000001.log"), torn).expect("writes");
        assert_eq!(
            EmbeddedLog::verify(dir.path()).expect("reads").damage,
            Vec::<String>::new()
        );
        let log = open(dir.path());
        assert_eq!(log.end(), 2);
        assert_eq!(
            log.append(at(3), vec![entry(1, 2), entry(1, 3)])
                .expect("appends"),
            [Appended::Duplicate, Appended::New]
        );
        assert_eq!(all(&log).len(), 3);
        assert_eq!(all(&open(dir.path())).len(), 3);
    }
}

/// A segment that was being made when the power went.
#[test]
fn a_segment_without_a_head_is_made_anew() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = open(dir.path());
    log.append(at(1), vec![entry(1, 1)]).expect("appends");
    drop(log);
    for rest in [&[][..], &b"dnF1"[..], &[0; 100][..]] {
        fs::write(dir.path().join("0000000000000002.log"), rest).expect("writes");
        let log = open(dir.path());
        assert_eq!((log.end(), all(&log).len()), (1, 1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// One flipped bit anywhere loses the group it hit, at most; the rest is read, and it is named.
    #[test]
    fn damage_loses_one_group_and_is_named(at_byte: prop::sample::Index, bit in 0u8..8) {
        let dir = tempfile::tempdir().expect("tempdir");
        let log = EmbeddedLog::open_sized(dir.path(), 600).expect("opens");
        for seq in 1..=12 {
            log.append(at(1), vec![entry(1, 2 * seq - 1), entry(1, 2 * seq)]).expect("appends");
        }
        let before = all(&log);
        drop(log);
        let files: Vec<PathBuf> = list(dir.path()).expect("lists").into_values().collect();
        prop_assert!(files.len() > 1);
        let mut bytes = fs::read(&files[0]).expect("reads");
        let at_byte = at_byte.index(bytes.len());
        bytes[at_byte] ^= 1 << bit;
        fs::write(&files[0], bytes).expect("writes");
        let report = EmbeddedLog::verify(dir.path()).expect("reads");
        prop_assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
        let log = open(dir.path());
        let after = all(&log);
        prop_assert!(after.len() + 2 >= before.len(), "{} of {}", after.len(), before.len());
        prop_assert!(after.iter().all(|record| before.contains(record)));
        prop_assert_eq!(log.end(), 24);
    }
}

#[test]
fn who_is_dismissed_is_read_again_and_opens_no_session() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = open(dir.path());
    let dismissed = || Body::Dismissed("a-1".parse().expect("an id"));
    let bodies = vec![entry(1, 1), dismissed(), entry(1, 2), dismissed()];
    log.append(at(1), bodies.clone()).expect("appends");
    for log in [log, open(dir.path())] {
        let read = log.read(1, 9).expect("reads");
        let read: Vec<Body> = read.iter().map(|(_, record)| record.body.clone()).collect();
        assert_eq!(read, bodies);
        assert_eq!(
            log.append(at(2), vec![entry(1, 2)]).expect("appends"),
            [Appended::Duplicate]
        );
    }
}
