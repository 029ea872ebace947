use super::*;
use crate::engine::open_again;
use crate::history::Retention;
use denyut_proto::{Failure, Outcome, Reason};
use proptest::prelude::*;
use std::fs;
use std::time::Duration;

const DAY: i64 = 20_400;
const START: i64 = DAY * DAY_MS;
const KEEP: Retention = Retention {
    raw: Duration::from_secs(35 * 86_400),
    minute: Duration::from_secs(400 * 86_400),
    hour: None,
    day: None,
    bytes: None,
};

fn agent() -> AgentId {
    "a-1".parse().expect("an id")
}

fn link(target: &str) -> LinkId {
    LinkId {
        agent: agent(),
        target: target.parse().expect("a name"),
    }
}

fn of(target: &str, samples: &[Sample]) -> TargetSamples {
    TargetSamples {
        target: target.parse().expect("a name"),
        samples: samples.to_vec(),
    }
}

fn ok(at: i64, rtt_us: u32) -> Sample {
    Sample {
        at: UnixMillis(START + at),
        outcome: Outcome::Ok { rtt_us },
    }
}

fn at_day(day: i64) -> UnixMillis {
    UnixMillis((DAY + day) * DAY_MS)
}

/// A history on its own, closed so that it can be opened again.
struct Store {
    folder: tempfile::TempDir,
    history: Option<EmbeddedHistory>,
    /// Where a replay begins, if that is before what was asked for.
    again_from: Option<Position>,
    now: UnixMillis,
}

impl Store {
    fn new() -> Self {
        let mut store = Self {
            folder: tempfile::tempdir().expect("tempdir"),
            history: None,
            again_from: None,
            now: at_day(0),
        };
        store.reopen(1);
        store
    }

    fn reopen(&mut self, from: Position) {
        self.history = None;
        let engine = open_again(&self.folder.path().join("state"));
        let give_up = Instant::now() + Duration::from_secs(20);
        // sled gives its lock up a little after it is closed.
        let opened = loop {
            match EmbeddedHistory::open(self.folder.path(), Arc::clone(&engine), from, self.now) {
                Ok(opened) => break opened,
                Err(error) => assert!(
                    Instant::now() < give_up && format!("{error:#}").contains("lock"),
                    "{error:#}"
                ),
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        self.history = Some(opened.history);
        self.again_from = (opened.replay_from < from).then_some(opened.replay_from);
    }

    /// One that is closed, once more.
    fn copy(&self) -> Self {
        let folder = tempfile::tempdir().expect("tempdir");
        copy(self.folder.path(), folder.path());
        Self {
            folder,
            history: None,
            again_from: None,
            now: self.now,
        }
    }

    fn samples(&self, target: &str) -> Vec<Sample> {
        let mut out = Vec::new();
        self.visit(
            &link(target),
            UnixMillis(0)..UnixMillis(i64::MAX),
            &mut |sample| {
                out.push(sample);
                true
            },
        )
        .expect("reads");
        out
    }

    fn files(&self, folder: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.folder.path().join(folder))
            .expect("reads")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        files.sort();
        files
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).expect("makes");
    for entry in fs::read_dir(from).expect("reads") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, to).expect("copies");
        }
    }
}

impl std::ops::Deref for Store {
    type Target = EmbeddedHistory;
    fn deref(&self) -> &EmbeddedHistory {
        self.history.as_ref().expect("open")
    }
}

fn sample() -> impl Strategy<Value = Sample> {
    let outcome = prop_oneof![
        (1u32..).prop_map(|rtt_us| Outcome::Ok { rtt_us }),
        (prop::sample::select(Reason::ALL), any::<u32>())
            .prop_map(|(reason, detail)| Outcome::Failed(Failure { reason, detail })),
    ];
    // Three days, few enough times that some meet.
    (0i64..3 * 86_400, outcome).prop_map(|(second, outcome)| Sample {
        at: UnixMillis(START + second / 50 * 50_000),
        outcome,
    })
}

#[derive(Debug, Clone)]
enum Step {
    Append(u8, Vec<Sample>),
    Seal,
    Checkpoint,
    Compact,
    Upkeep,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..2, prop::collection::vec(sample(), 1..60)).prop_map(|(which, samples)| Step::Append(which, samples)),
        1 => Just(Step::Seal),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Compact),
        1 => Just(Step::Upkeep),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Against a set: any order, any doubling, sealed, put into blocks, merged, and cut off at any time with a replay from the checkpoint.
    #[test]
    fn it_is_a_set_of_samples(steps in prop::collection::vec(step(), 1..40)) {
        let mut store = Store::new();
        let mut model = [BTreeSet::new(), BTreeSet::new()];
        let names = ["server", "gateway"];
        let mut told: Vec<(u8, Vec<Sample>)> = Vec::new();
        let mut safe = 1;
        for step in steps {
            match step {
                Step::Append(which, samples) => {
                    let position = told.len() as u64 + 1;
                    store.append(position, &agent(), &[of(names[usize::from(which)], &samples)]).expect("appends");
                    model[usize::from(which)].extend(samples.iter().copied());
                    told.push((which, samples));
                }
                Step::Seal => store.seal_all().expect("seals"),
                Step::Checkpoint => safe = store.checkpoint().expect("checkpoints"),
                Step::Compact => store.compact_all(at_day(3)).expect("compacts"),
                Step::Upkeep => store.upkeep(at_day(40), &Retention { raw: Duration::from_secs(400 * 86_400), ..KEEP }, 0, u64::MAX).expect("keeps up"),
                Step::Crash => {
                    // A clean end here keeps more than a crash would: what is told again is there already.
                    store.reopen(safe);
                    prop_assert_eq!(store.again_from, None);
                    for (position, (which, samples)) in (1..).zip(&told).filter(|(position, _)| *position >= safe) {
                        store.append(position, &agent(), &[of(names[usize::from(*which)], samples)]).expect("appends");
                    }
                }
            }
        }
        for (name, model) in names.iter().zip(&model) {
            let expected: Vec<Sample> = model.iter().copied().collect();
            prop_assert_eq!(&store.samples(name), &expected);
            let mut samples = expected.iter().copied().peekable();
            let mut rows = rollup::Rows::new(3_600_000);
            while let Some(first) = samples.peek() {
                let day = first.at.0 / DAY_MS;
                let mut of_day = Vec::new();
                while let Some(sample) = samples.next_if(|sample| sample.at.0 / DAY_MS == day) {
                    of_day.push(sample);
                }
                rows.add_day(&of_day);
            }
            let got = store.rows(&link(name), UnixMillis(START)..at_day(3), 3_600_000).expect("reads");
            prop_assert_eq!(got.level, Level::Hour);
            prop_assert_eq!(got.rows, rows.into_vec());
        }
    }
}

#[test]
fn a_range_is_a_range_and_a_visitor_may_stop() {
    let store = Store::new();
    let samples: Vec<Sample> = (0..1_000).map(|i| ok(i * 10_000, 7)).collect();
    store
        .append(1, &agent(), &[of("a", &samples)])
        .expect("appends");
    let mut seen = Vec::new();
    let range = samples[100].at..samples[200].at;
    store
        .visit(&link("a"), range, &mut |sample| {
            seen.push(sample);
            seen.len() < 50
        })
        .expect("reads");
    assert_eq!(seen, samples[100..150]);
    assert!(store.samples("b").is_empty());
    store
        .visit(&link("a"), UnixMillis(9)..UnixMillis(3), &mut |_| {
            panic!("nothing")
        })
        .expect("reads");
}

/// Seven months of an agent, a sample a minute: what is past its retention becomes coarser, and the rest is one.
#[test]
fn what_is_old_becomes_coarser_and_then_goes() {
    let store = Store::new();
    let keep = Retention {
        raw: Duration::from_secs(35 * 86_400),
        minute: Duration::from_secs(100 * 86_400),
        hour: Some(Duration::from_secs(200 * 86_400)),
        ..KEEP
    };
    for day in 0..215i64 {
        let minutes = (0..1_440).map(|minute| {
            ok(
                (day * 1_440 + minute) * 60_000,
                1_000 + 7 * u32::try_from(day).expect("small"),
            )
        });
        store
            .append(
                day.cast_unsigned() + 1,
                &agent(),
                &[of("a", &minutes.collect::<Vec<_>>())],
            )
            .expect("appends");
        store.checkpoint().expect("checkpoints");
        store
            .upkeep(
                UnixMillis(at_day(day + 1).0 + 7_200_000),
                &keep,
                0,
                u64::MAX,
            )
            .expect("keeps up");
    }
    assert_eq!(store.samples("a").len(), 35 * 1_440);
    assert_eq!(
        (
            store.files("raw").len(),
            store.files("minute").len(),
            store.files("recent").len()
        ),
        (35, 65, 1)
    );
    // Finished months are one block each.
    assert!(store.files("day").len() < 45, "{:?}", store.files("day"));
    let rows =
        |from: i64, to: i64, step: i64| store.rows(&link("a"), at_day(from)..at_day(to), step);
    let year = rows(0, 215, DAY_MS).expect("reads");
    assert_eq!((year.level, year.rows.len()), (Level::Day, 215));
    for (day, row) in (0u32..).zip(&year.rows) {
        let rtt = row.rtt.as_ref().expect("answers");
        assert_eq!(
            (row.ok, row.up_ms, rtt.min, rtt.max),
            (1_440, 86_400_000, 1_000 + 7 * day, 1_000 + 7 * day),
            "day {day}"
        );
    }
    // 150 days ago: minutes are gone, hours are there. 80 days ago: minutes. 10 days ago: anything.
    assert!(matches!(
        rows(60, 61, 60_000),
        Err(RowsError::TooFine { level: Level::Hour })
    ));
    assert_eq!(rows(60, 61, 3_600_000).expect("reads").rows.len(), 24);
    assert_eq!(rows(140, 141, 60_000).expect("reads").rows.len(), 1_440);
    assert!(matches!(
        rows(140, 141, 30_000),
        Err(RowsError::TooFine {
            level: Level::Minute
        })
    ));
    assert_eq!(rows(205, 206, 30_000).expect("reads").rows.len(), 2_880);
}

#[test]
fn above_its_size_the_oldest_goes() {
    let store = Store::new();
    let samples = |day: i64| {
        (0..8_640).map(move |i| {
            ok(
                day * DAY_MS + i * 10_000,
                1 + u32::try_from(i * 7_919 % 4_000).expect("small"),
            )
        })
    };
    for day in 0..10i64 {
        store
            .append(
                day.cast_unsigned() + 1,
                &agent(),
                &[of("a", &samples(day).collect::<Vec<_>>())],
            )
            .expect("appends");
    }
    store.compact_all(at_day(10)).expect("compacts");
    let (before, keep) = (store.bytes(), |bytes| Retention {
        bytes: Some(bytes),
        ..KEEP
    });
    store
        .upkeep(at_day(10), &keep(before), 0, u64::MAX)
        .expect("keeps up");
    assert_eq!(store.samples("a").len(), 86_400);
    store
        .upkeep(at_day(10), &keep(before), 30_000, u64::MAX)
        .expect("keeps up");
    let left = store.samples("a");
    assert!(
        left.len() < 86_400 && left.len().is_multiple_of(8_640),
        "{}",
        left.len()
    );
    assert_eq!(
        left.last().map(|sample| sample.at),
        Some(UnixMillis(at_day(10).0 - 10_000))
    );
}

/// Whatever bit of a generation is flipped, nothing wrong is read; and what its directory lost is asked for again.
#[test]
fn a_damaged_generation_is_noticed() {
    let samples: Vec<Sample> = (0..600)
        .map(|i| ok(i * 10_000, 7 + u32::try_from(i * 37 % 100).expect("small")))
        .collect();
    let mut store = Store::new();
    for (position, part) in (1..).zip(samples.chunks(100)) {
        store
            .append(position, &agent(), &[of("a", part)])
            .expect("appends");
        store.seal_all().expect("seals");
        assert_eq!(store.checkpoint().expect("checkpoints"), position + 1);
    }
    store.engine.sync().expect("syncs");
    store.history = None;
    let generation = store.files("recent").remove(0);
    let whole = fs::read(&generation).expect("reads");
    for at in (0..whole.len()).step_by(17) {
        let mut store = store.copy();
        let mut wrong = whole.clone();
        wrong[at] ^= 1 << (at % 8);
        fs::write(store.files("recent").remove(0), wrong).expect("writes");
        store.reopen(7);
        let found = store.samples("a");
        assert!(
            found.iter().all(|sample| samples.contains(sample)),
            "byte {at}"
        );
        assert!(found.len() < samples.len(), "byte {at}: nobody noticed");
        if found.len() + 100 < samples.len() {
            // More than the chunk that was hit: then it must be told again.
            assert_eq!(store.again_from, Some(1), "byte {at}");
        }
        if store.again_from.is_some() {
            // Also if the first start comes to nothing.
            store.reopen(7);
            assert_eq!(store.ledger.from().expect("reads"), Some(1));
            for (position, part) in (1..).zip(samples.chunks(100)) {
                store
                    .append(position, &agent(), &[of("a", part)])
                    .expect("appends");
            }
            assert_eq!(store.samples("a"), samples);
            assert_eq!(store.keep_log_from(), 1);
        }
    }
}

/// The newest frames gone, marks and all, as if an older copy had been put back.
#[test]
fn a_generation_that_lost_its_end_is_made_again() {
    let mut store = Store::new();
    let samples: Vec<Sample> = (0..5_000).map(|i| ok(i * 10_000, 7)).collect();
    for (position, part) in (1..).zip(samples.chunks(2_500)) {
        store
            .append(position, &agent(), &[of("a", part)])
            .expect("appends");
        store.seal_all().expect("seals");
        assert_eq!(store.checkpoint().expect("checkpoints"), position + 1);
    }
    let generation = store.catalog().active.path.clone();
    store.history = None;
    let bytes = fs::read(&generation).expect("reads");
    fs::write(&generation, &bytes[..bytes.len() * 2 / 3]).expect("writes");
    store.reopen(3);
    assert_eq!(store.again_from, Some(1));
    store
        .append(1, &agent(), &[of("a", &samples)])
        .expect("appends");
    assert_eq!(store.samples("a"), samples);
}

/// What follows the last mark may be anything after a power cut.
#[test]
fn what_was_not_synced_is_cut_off() {
    let mut store = Store::new();
    let samples: Vec<Sample> = (0..500).map(|i| ok(i * 10_000, 7)).collect();
    store
        .append(1, &agent(), &[of("a", &samples[..200])])
        .expect("appends");
    store.seal_all().expect("seals");
    assert_eq!(store.checkpoint().expect("checkpoints"), 2);
    let generation = store.catalog().active.path.clone();
    let synced = fs::metadata(&generation).expect("is there").len();
    store
        .append(2, &agent(), &[of("a", &samples[200..])])
        .expect("appends");
    store.seal_all().expect("seals");
    let bytes = fs::read(&generation).expect("reads");
    for cut in (usize::try_from(synced).expect("small")..bytes.len()).step_by(11) {
        for rest in [0, 300] {
            store.history = None;
            fs::write(&generation, [&bytes[..cut], &vec![0; rest]].concat()).expect("writes");
            store.reopen(2);
            assert_eq!((store.again_from, store.samples("a").len()), (None, 200));
        }
    }
    store
        .append(2, &agent(), &[of("a", &samples[200..])])
        .expect("appends");
    assert_eq!(store.samples("a"), samples);
}

/// One flipped bit in a block loses one link's day, or names a page; never anybody else's, never in silence.
#[test]
fn a_damaged_entry_loses_one_link() {
    let mut store = Store::new();
    let samples: Vec<Sample> = (0..800).map(|i| ok(i * 10_000, 900)).collect();
    store
        .append(1, &agent(), &[of("a", &samples), of("b", &samples)])
        .expect("appends");
    store.compact_all(at_day(1)).expect("compacts");
    let block = store.files("raw").remove(0);
    let mut bytes = fs::read(&block).expect("reads");
    bytes[40] ^= 4;
    fs::write(&block, bytes).expect("writes");
    store.reopen(2);
    assert!(store.samples("a").is_empty());
    assert_eq!(store.samples("b"), samples);
    assert_eq!(store.damaged(), 1);
}

#[test]
fn the_latest_is_the_newest() {
    let store = Store::new();
    store
        .append(
            1,
            &agent(),
            &[of("a", &[ok(5_000, 1)]), of("b", &[ok(1_000, 1)])],
        )
        .expect("appends");
    store
        .append(2, &agent(), &[of("a", &[ok(1_000, 2)])])
        .expect("appends");
    store.note_latest(&link("b"), ok(9_000, 3)).expect("notes");
    let mut all = Vec::new();
    store.latest(&mut |link, sample| {
        all.push((link.target.to_string(), sample));
        true
    });
    assert_eq!(
        all,
        [("a".into(), ok(5_000, 1)), ("b".into(), ok(9_000, 3))]
    );
}

/// A day's rows are made of all its samples. Those that come when the day's are gone cannot be put to them any more, and must not take
/// their place; those that came before wait for nobody.
#[test]
fn what_comes_too_late_does_not_spoil_the_rows() {
    let mut store = Store::new();
    let of_day = |day: i64| -> Vec<Sample> {
        (0..1_440)
            .map(|minute| ok(day * DAY_MS + minute * 60_000, 900))
            .collect()
    };
    let answers = |store: &Store, step: i64| -> u32 {
        let rows = store
            .rows(&link("a"), at_day(0)..at_day(1), step)
            .expect("reads");
        rows.rows.iter().map(|row| row.ok).sum()
    };
    store
        .append(1, &agent(), &[of("a", &of_day(0))])
        .expect("appends");
    store
        .append(2, &agent(), &[of("a", &of_day(30))])
        .expect("appends");
    store.compact_all(at_day(31)).expect("compacts");
    // Just in time, and compacted only when its day is past the retention.
    store
        .append(3, &agent(), &[of("a", &[ok(7, 900)])])
        .expect("appends");
    store.checkpoint().expect("checkpoints");
    let later = UnixMillis(at_day(37).0 + 7_200_000);
    for _ in 0..2 {
        store.upkeep(later, &KEEP, 0, u64::MAX).expect("keeps up");
    }
    assert_eq!(store.samples("a").len(), 1_440, "day 0 is gone");
    for step in [60_000, 3_600_000, DAY_MS] {
        assert_eq!(answers(&store, step), 1_441, "rows of {step} ms");
    }
    // Too late, before and after a restart; also what is told again by a replay.
    store.now = later;
    for _ in 0..2 {
        store
            .append(4, &agent(), &[of("a", &[ok(7, 900), ok(8, 900)])])
            .expect("appends");
        assert_eq!(store.too_late(), 2);
        assert_eq!(store.kept_from(), at_day(1));
        store.compact_all(at_day(38)).expect("compacts");
        for step in [60_000, 3_600_000, DAY_MS] {
            assert_eq!(answers(&store, step), 1_441, "rows of {step} ms");
        }
        store.reopen(5);
    }
}

/// A generation that is deleted cannot say so; the ledger does. Nothing below it is taken for whole before it is told again.
#[test]
fn a_generation_that_is_gone_is_told_again() {
    let mut store = Store::new();
    let samples: Vec<Sample> = (0..600).map(|i| ok(i * 10_000, 7)).collect();
    store
        .append(1, &agent(), &[of("a", &samples[..300])])
        .expect("appends");
    store.seal_all().expect("seals");
    store.rotate(at_day(0)).expect("rotates");
    store
        .append(2, &agent(), &[of("a", &samples[300..])])
        .expect("appends");
    store.seal_all().expect("seals");
    assert_eq!(store.checkpoint().expect("checkpoints"), 3);
    store.engine.sync().expect("syncs");
    store.history = None;
    for gone in 0..2usize {
        let mut store = store.copy();
        fs::remove_file(store.files("recent").remove(gone)).expect("removes");
        store.reopen(3);
        let from = gone as u64 + 1;
        assert_eq!(store.again_from, Some(from));
        // A start that does not tell it again says nothing of the kind.
        assert_eq!(store.checkpoint().expect("checkpoints"), from);
        store.reopen(3);
        assert_eq!(store.again_from, Some(from));
        for (position, part) in (1..).zip(samples.chunks(300)).skip(gone) {
            store
                .append(position, &agent(), &[of("a", part)])
                .expect("appends");
        }
        assert_eq!(store.samples("a"), samples);
        store.seal_all().expect("seals");
        assert_eq!(store.checkpoint().expect("checkpoints"), 3);
        store.reopen(3);
        assert_eq!(
            (store.again_from, store.samples("a")),
            (None, samples.clone())
        );
    }
}

#[test]
fn a_block_that_is_gone_is_noticed() {
    let mut store = Store::new();
    let samples: Vec<Sample> = (0..800).map(|i| ok(i * 10_000, 900)).collect();
    store
        .append(1, &agent(), &[of("a", &samples)])
        .expect("appends");
    store.compact_all(at_day(1)).expect("compacts");
    store.reopen(2);
    assert_eq!((store.damaged(), store.samples("a").len()), (0, 800));
    fs::remove_file(store.files("hour").remove(0)).expect("removes");
    store.reopen(2);
    assert_eq!((store.damaged(), store.samples("a").len()), (1, 800));
}

/// A state that is older than the files would give a link's number to another.
#[test]
fn links_that_nobody_knows_are_not_opened() {
    let mut store = Store::new();
    let samples: Vec<Sample> = (0..300).map(|i| ok(i * 10_000, 900)).collect();
    for target in (0..20).map(|i| format!("t{i}")) {
        store
            .append(1, &agent(), &[of(&target, &samples)])
            .expect("appends");
    }
    store.compact_all(at_day(1)).expect("compacts");
    let tree = store.engine.tree("links").expect("opens");
    tree.remove("a-1/t19").expect("removes").expect("was there");
    store.engine.sync().expect("syncs");
    drop(tree);
    store.history = None;
    let engine = open_again(&store.folder.path().join("state"));
    let opened = EmbeddedHistory::open(store.folder.path(), engine, 2, at_day(0));
    let error = format!("{:#}", opened.expect_err("is refused"));
    assert!(
        error.contains("knows 19 links") && error.contains("of link 19"),
        "{error}"
    );
}

/// The present day is never let go, however small the bound is; and a bound that said so once does not hold for ever.
#[test]
fn the_present_is_always_taken() {
    let mut store = Store::new();
    let samples: Vec<Sample> = (0..8_640).map(|i| ok(i * 10_000, 900)).collect();
    store
        .append(1, &agent(), &[of("a", &samples)])
        .expect("appends");
    store.compact_all(at_day(0)).expect("compacts");
    let keep = Retention {
        bytes: Some(1),
        ..KEEP
    };
    store
        .upkeep(at_day(1), &keep, 1 << 30, u64::MAX)
        .expect("keeps up");
    assert_eq!(
        (store.samples("a").len(), store.kept_from()),
        (8_640, UnixMillis(0))
    );
    store.ledger.set_kept_from(at_day(900)).expect("is set");
    store.reopen(2);
    assert_eq!(store.kept_from(), at_day(0));
}
