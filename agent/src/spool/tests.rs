use super::*;
use proptest::prelude::*;

const BOOT: BootId = BootId([7; 16]);

fn open(folder: &Path, max: u64) -> Spool {
    Spool::open(folder, max).expect("opens")
}

fn seqs(spool: &mut Spool, after: u64) -> Vec<u64> {
    let read = spool.read_after(after, usize::MAX).expect("reads");
    read.iter().map(|entry| entry.seq).collect()
}

fn only_segment(folder: &Path) -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .expect("lists")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .collect();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[test]
fn entries_come_back_in_order_over_restarts() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut spool = open(dir.path(), 1 << 20);
    let id = spool.id();
    for i in 1..=5u8 {
        assert_eq!(spool.append(BOOT, &[i; 40]).expect("appends"), u64::from(i));
    }
    spool.ack(2, Instant::now());
    drop(spool);
    let mut spool = open(dir.path(), 1 << 20);
    assert_eq!(spool.id(), id);
    assert_eq!(spool.range().acked, 2);
    assert_eq!(spool.append(BOOT, b"six").expect("appends"), 6);
    let read = spool.read_after(2, 3).expect("reads");
    assert_eq!(read.iter().map(|e| e.seq).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(read[0].payload, [3; 40]);
    assert_eq!(read[0].boot, BOOT);
    // Backwards again, as after a reconnect.
    assert_eq!(seqs(&mut spool, 0), [1, 2, 3, 4, 5, 6]);
    assert_eq!(seqs(&mut spool, 5), [6]);
}

#[test]
fn the_oldest_goes_first_and_is_counted() {
    let dir = tempfile::tempdir().expect("tempdir");
    let max = 64 << 10;
    let mut spool = open(dir.path(), max);
    for _ in 0..300 {
        spool.append(BOOT, &[1; 1000]).expect("appends");
    }
    let range = spool.range();
    assert!(range.bytes <= max, "{range:?}");
    let held = seqs(&mut spool, 0);
    assert_eq!(held.len() as u64 + range.dropped, 300);
    assert_eq!(held.last(), Some(&300));
    assert_eq!(held[0], range.first);
    drop(spool);
    assert_eq!(open(dir.path(), max).range(), range);
}

#[test]
fn acknowledged_segments_are_kept_a_while_and_then_deleted() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut spool = open(dir.path(), 256 << 10);
    for _ in 0..60 {
        spool.append(BOOT, &[1; 1000]).expect("appends");
    }
    let start = Instant::now();
    spool.ack(59, start);
    let before = spool.range();
    spool.ack(59, start + KEEP_ACKED.mul_f64(0.99));
    assert_eq!(spool.range(), before);
    spool.ack(59, start + KEEP_ACKED);
    let after = spool.range();
    assert!(after.first > before.first, "{after:?}");
    assert_eq!(after.dropped, 0);
    assert_eq!(seqs(&mut spool, 59), [60]);
}

/// A segment that was once acknowledged to its end and then written on: after weeks offline the first acknowledgement must
/// not take it away with what was never sent.
#[test]
fn a_segment_that_grew_after_its_acknowledgement_is_kept() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut spool = open(dir.path(), 256 << 10);
    let start = Instant::now();
    spool.append(BOOT, &[1; 1000]).expect("appends");
    spool.ack(1, start);
    for _ in 0..60 {
        spool.append(BOOT, &[1; 1000]).expect("appends");
    }
    assert!(spool.segments.len() > 2);
    let later = start + KEEP_ACKED * 100;
    spool.ack(2, later);
    assert_eq!(seqs(&mut spool, 2), (3..=61).collect::<Vec<_>>());
    assert_eq!(spool.range().dropped, 0);
    // Once all of it is acknowledged, its time begins then.
    spool.ack(61, later);
    assert_eq!(spool.range().first, 1);
    spool.ack(61, later + KEEP_ACKED);
    assert!(spool.range().first > 1);
}

#[test]
fn an_acknowledgement_of_what_was_never_written_is_ignored() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut spool = open(dir.path(), 1 << 20);
    spool.append(BOOT, b"one").expect("appends");
    spool.ack(999, Instant::now());
    assert_eq!(spool.range().acked, 0);
}

// On Windows a folder whose files are open cannot be deleted.
#[cfg(unix)]
#[test]
fn a_spool_that_is_deleted_under_our_feet_goes_on() {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = dir.path().join("spool");
    let mut spool = open(&folder, 1 << 20);
    for _ in 0..3 {
        spool.append(BOOT, b"lost").expect("appends");
    }
    fs::remove_dir_all(&folder).expect("removes");
    assert_eq!(seqs(&mut spool, 1), Vec::<u64>::new());
    assert_eq!(spool.range().dropped, 2, "one of the three had been read");
    fs::create_dir_all(&folder).expect("makes");
    assert_eq!(spool.append(BOOT, b"kept").expect("appends"), 4);
    fs::remove_dir_all(&folder).expect("removes");
    assert_eq!(spool.append(BOOT, b"kept").expect("appends"), 5);
    assert_eq!(spool.range().dropped, 3);
    assert_eq!(seqs(&mut spool, 0), [5]);
}

#[test]
fn damage_under_a_running_spool_is_passed_over() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut spool = open(dir.path(), 1 << 20);
    for _ in 0..5 {
        spool.append(BOOT, &[1; 100]).expect("appends");
    }
    let path = only_segment(dir.path());
    let mut bytes = fs::read(&path).expect("reads");
    let third = MAGIC.len() + 2 * (HEADER + 100) + 50;
    bytes[third] ^= 1;
    fs::write(&path, bytes).expect("writes");
    assert_eq!(seqs(&mut spool, 0), [1, 2]);
    assert_eq!(spool.range().dropped, 3);
    assert_eq!(spool.append(BOOT, b"six").expect("appends"), 6);
    assert_eq!(seqs(&mut spool, 2), [6]);
    assert_eq!(seqs(&mut spool, 0), [1, 2, 6]);
    drop(spool);
    assert_eq!(seqs(&mut open(dir.path(), 1 << 20), 2), [6]);
}

#[test]
fn what_else_lies_in_the_folder_never_blocks_a_start() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut spool = open(dir.path(), 1 << 20);
    spool.append(BOOT, b"one").expect("appends");
    let id = spool.id();
    drop(spool);
    for name in [
        "00000000000000000000.seg",
        "18446744073709551615.seg",
        "5.seg",
        "x.seg",
    ] {
        fs::write(dir.path().join(name), b"junk").expect("writes");
    }
    fs::create_dir(dir.path().join("00000000000000000005.seg")).expect("makes");
    for mark in ["acked 18446744073709551615 dropped 0", "acked 5", "\u{0}"] {
        fs::write(dir.path().join("mark"), mark).expect("writes");
        let mut spool = open(dir.path(), 1 << 20);
        assert_eq!((spool.id(), seqs(&mut spool, 0)), (id, vec![1]), "{mark}");
    }
    fs::write(dir.path().join("id"), [0xff, 0xfe]).expect("writes");
    assert_ne!(open(dir.path(), 1 << 20).id(), id);
}

#[test]
fn sequences_that_start_anew_get_a_new_id() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut spool = open(dir.path(), 1 << 20);
    spool.append(BOOT, b"one").expect("appends");
    let id = spool.id();
    drop(spool);
    fs::remove_file(only_segment(dir.path())).expect("removes");
    assert_ne!(open(dir.path(), 1 << 20).id(), id);
}

#[test]
fn bad_sizes_are_refused_and_counted() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut spool = open(dir.path(), 1 << 20);
    assert!(spool.append(BOOT, &[]).is_err());
    assert!(
        spool
            .append(BOOT, &vec![0; MAX_HEARTBEAT_BYTES + 1])
            .is_err()
    );
    assert_eq!(spool.range().dropped, 2);
    assert_eq!(spool.append(BOOT, b"fine").expect("appends"), 1);
}

#[test]
fn a_lost_mark_never_reuses_an_acknowledged_sequence() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut spool = open(dir.path(), 1 << 20);
    for _ in 0..3 {
        spool.append(BOOT, b"x").expect("appends");
    }
    spool.ack(3, Instant::now());
    drop(spool);
    fs::remove_file(only_segment(dir.path())).expect("removes");
    assert_eq!(
        open(dir.path(), 1 << 20)
            .append(BOOT, b"y")
            .expect("appends"),
        4
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A cut at any byte: what was whole before it is there, nothing else, and appending goes on with a
    /// sequence that was never handed out.
    #[test]
    fn a_cut_at_any_byte_loses_only_the_tail(sizes in prop::collection::vec(1usize..300, 1..12), cut in 0.0f64..1.0) {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut spool = open(dir.path(), 1 << 20);
        let mut ends = vec![MAGIC.len() as u64];
        for size in &sizes {
            spool.append(BOOT, &vec![9; *size]).expect("appends");
            ends.push(spool.range().bytes);
        }
        drop(spool);
        let path = only_segment(dir.path());
        let at = (fs::metadata(&path).expect("stat").len() as f64 * cut).round();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a file size")]
        let at = at as u64;
        OpenOptions::new().write(true).open(&path).expect("opens").set_len(at).expect("cuts");
        let whole = ends.iter().filter(|end| **end <= at).count().saturating_sub(1) as u64;
        let mut spool = open(dir.path(), 1 << 20);
        prop_assert_eq!(seqs(&mut spool, 0), (1..=whole).collect::<Vec<_>>());
        let next = spool.append(BOOT, b"next").expect("appends");
        let torn = whole == 0 || !ends.contains(&at);
        prop_assert_eq!(next, whole + 1 + if torn { SKIP_AFTER_CUT } else { 0 });
        prop_assert_eq!(seqs(&mut spool, whole), vec![next]);
    }

    /// A flipped bit anywhere: the spool opens, hands out only what was written, and takes more.
    #[test]
    fn a_flipped_bit_is_found(byte in 0usize..2_000, bit in 0u8..8) {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut spool = open(dir.path(), 1 << 20);
        for i in 0..10u8 {
            spool.append(BOOT, &[i; 200]).expect("appends");
        }
        drop(spool);
        let path = only_segment(dir.path());
        let mut bytes = fs::read(&path).expect("reads");
        bytes[byte] ^= 1 << bit;
        fs::write(&path, bytes).expect("writes");
        let mut spool = open(dir.path(), 1 << 20);
        for entry in spool.read_after(0, usize::MAX).expect("reads") {
            let expected = u8::try_from(entry.seq - 1).expect("small");
            prop_assert_eq!(entry.payload, vec![expected; 200]);
        }
        let next = spool.append(BOOT, b"next").expect("appends");
        prop_assert!(next > 10);
    }
}
