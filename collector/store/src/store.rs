//! The store of one data folder: log, history and state, and what keeps them in step.

use crate::engine::Engine;
use crate::history::{EmbeddedHistory, History, Retention};
use crate::log::{EmbeddedLog, Log, Position};
use crate::state::{Change, EmbeddedState, State, get_json};
use anyhow::{Context, bail};
use denyut_proto::UnixMillis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::{error, info};

/// Key of the store's [`Place`].
pub(crate) const PLACE: &str = "place";
/// Folder of what the collector certifies its agents with, if it made that itself: beside the store, and a part of its backups.
pub const AUTHORITY: &str = "authority";
/// File that holds the serial of the last checkpoint, beside the state: a state that went back cannot say so itself.
pub(crate) const SERIAL: &str = "checkpoint";

/// A file of this size is given back when others have filled the disk: what must still be written, or the next start could not be. (The database writes
/// at most a few MB at a time.)
const BALLAST: &str = "ballast";
const BALLAST_BYTES: u64 = 8 << 20;

/// How far the state is.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Place {
    /// The last position that the state was made of.
    pub(crate) processed: Position,
    /// Counts checkpoints.
    pub(crate) serial: u64,
}

/// One for a data folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    pub(crate) engine: Arc<Engine>,
    /// What arrived.
    pub log: Arc<EmbeddedLog>,
    /// Every sample.
    pub history: Arc<EmbeddedHistory>,
    /// Everything small.
    pub state: Arc<EmbeddedState>,
    /// Records from here on must be appended to the history again before anything else is.
    pub replay_from: Position,
    /// The last place, and the file that holds its serial.
    checkpoints: Mutex<(Place, File)>,
    /// From where on the log is kept for others, by their names.
    held: Mutex<BTreeMap<String, Position>>,
    /// This file system cannot keep a ballast.
    no_ballast: AtomicBool,
    /// What was found to be missing at the start.
    lacking: u64,
}

impl Store {
    /// Opens the store in `folder`, making it if needed. `now` is for what is made new.
    pub fn open(folder: &Path, now: UnixMillis) -> anyhow::Result<Self> {
        crate::migrate::bring_up(folder, now).with_context(|| {
            format!(
                "`data_dir`: cannot bring {} up to this version",
                folder.display()
            )
        })?;
        refuse_half(folder)?;
        fs::create_dir_all(folder)
            .with_context(|| format!("`data_dir`: cannot make {}", folder.display()))?;
        if room(folder)? < BALLAST_BYTES {
            release_ballast(folder)?;
        }
        let engine = Arc::new(Engine::open(&folder.join("state"))?);
        let state = Arc::new(EmbeddedState::open(&engine)?);
        crate::migrate::check(&state)?;
        let log = Arc::new(EmbeddedLog::open(&folder.join("log"))?);
        let place: Place = get_json(&*state, PLACE)?.unwrap_or_default();
        let went_back = read_serial(folder)?.saturating_sub(place.serial);
        if went_back > 0 {
            error!(
                checkpoints = went_back,
                "the state is older than it was (damage, or an older copy); it is made again from the log, as far as that reaches back"
            );
        }
        let opened = EmbeddedHistory::open(folder, Arc::clone(&engine), log.begin(), now)?;
        let begin = log.begin();
        let missing = begin.saturating_sub(opened.replay_from);
        if missing > 0 {
            error!(
                from = opened.replay_from,
                begin,
                "the log does not reach back to what the history must be told again; restore a backup for the rest"
            );
        }
        let serial = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(folder.join(SERIAL))
            .with_context(|| format!("cannot write {}", folder.join(SERIAL).display()))?;
        Ok(Self {
            folder: folder.to_owned(),
            engine,
            log,
            history: Arc::new(opened.history),
            state,
            replay_from: opened.replay_from,
            checkpoints: Mutex::new((
                Place {
                    serial: place.serial + went_back,
                    ..place
                },
                serial,
            )),
            held: Mutex::default(),
            no_ballast: AtomicBool::new(false),
            lacking: u64::from(went_back > 0) + u64::from(missing > 0),
        })
    }

    /// Makes durable what was done up to the record `processed`, and deletes what of the log is not needed any more.
    pub fn checkpoint(&self, processed: Position) -> anyhow::Result<()> {
        // Before the sync: what is noted of those who read is durable then.
        let held = {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.values().min().copied().unwrap_or(Position::MAX)
        };
        let safe = self.history.checkpoint()?;
        let mut checkpoints = self
            .checkpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let place = Place {
            processed: processed.max(checkpoints.0.processed),
            serial: checkpoints.0.serial + 1,
        };
        let mut change = Change::default();
        change.put_json(PLACE.to_owned(), &place)?;
        self.state.apply(change)?;
        self.engine.check_present()?;
        self.engine.sync()?;
        write_serial(&checkpoints.1, place.serial)
            .with_context(|| format!("cannot write {}", self.folder.join(SERIAL).display()))?;
        checkpoints.0 = place;
        drop(checkpoints);
        let keep = self.history.keep_log_from();
        self.log.cut(safe.min(processed + 1).min(keep).min(held))
    }

    /// Keeps the log from a place on for somebody of this name who reads it, until they say another; no longer with none.
    pub fn hold_log(&self, name: &str, from: Option<Position>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match from {
            Some(from) => held.insert(name.to_owned(), from),
            None => held.remove(name),
        };
    }

    /// How often something damaged was met since the start.
    pub fn damaged(&self) -> u64 {
        self.history.damaged() + self.log.damaged() + self.lacking
    }

    /// Tells the history again what damage took from it, puts finished days into blocks and deletes what is past its retention. It may take
    /// minutes. Half of `reserve`, in bytes, is left free for those who must go on writing meanwhile.
    pub fn upkeep(
        &self,
        now: UnixMillis,
        retention: &Retention,
        reserve: u64,
    ) -> anyhow::Result<()> {
        self.mend(now)?;
        let room = self.room(reserve)?.saturating_sub(reserve / 2);
        self.history
            .upkeep(now, retention, self.log.bytes() + self.engine.bytes(), room)
    }

    /// The log keeps what generations were made of for as long as they live.
    fn mend(&self, now: UnixMillis) -> anyhow::Result<()> {
        let Some((from, numbers)) = self.history.hurt() else {
            return Ok(());
        };
        self.history.tell_again(from, now)?;
        let to = self.log.end();
        // In order, as checkpoints are made meanwhile.
        crate::replay(&*self.log, &*self.history, from..=to, 1)?;
        self.history.told_again(&numbers)?;
        info!(
            from,
            to, "what a damaged generation lost was told again from the log"
        );
        Ok(())
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.log.bytes() + self.history.bytes() + self.engine.bytes()
    }

    /// Bytes of the state on disk.
    pub fn state_bytes(&self) -> u64 {
        self.engine.bytes()
    }

    /// Bytes that the folder's disk has left for us. Where that is little, the ballast is given back, and taken again when there is more than `reserve`.
    pub fn room(&self, reserve: u64) -> anyhow::Result<u64> {
        let free = room(&self.folder)?;
        if free < BALLAST_BYTES / 2 {
            release_ballast(&self.folder)?;
            return room(&self.folder);
        }
        if free > reserve.saturating_add(2 * BALLAST_BYTES)
            && !self.no_ballast.load(Ordering::Relaxed)
        {
            let kept = keep_ballast(&self.folder)?;
            self.no_ballast.store(!kept, Ordering::Relaxed);
        }
        Ok(free)
    }

    /// The folder's files are there, and `state` is where it was.
    pub fn check_present(&self) -> anyhow::Result<()> {
        fs::metadata(self.folder.join("log"))
            .with_context(|| format!("{} is gone", self.folder.display()))?;
        self.engine.check_present()
    }
}

fn room(folder: &Path) -> anyhow::Result<u64> {
    let disk = rustix::fs::statvfs(folder).context("cannot ask the disk for its free space")?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Whether there is one now.
fn keep_ballast(folder: &Path) -> anyhow::Result<bool> {
    let path = folder.join(BALLAST);
    if fs::metadata(&path).is_ok_and(|meta| meta.len() == BALLAST_BYTES) {
        return Ok(true);
    }
    let kept = File::create(&path).and_then(|file| {
        // Not a hole: its blocks are there to be given back.
        let none = rustix::fs::FallocateFlags::empty();
        Ok(rustix::fs::fallocate(&file, none, 0, BALLAST_BYTES)?)
    });
    // A file system that cannot do it has none; a disk that filled up meanwhile neither.
    if kept.is_err() {
        release_ballast(folder)?;
    }
    Ok(kept.is_ok())
}

fn release_ballast(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_file(folder.join(BALLAST)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("cannot remove the ballast")
        }
        _ => Ok(()),
    }
}

/// The serial of the last checkpoint; 0 when nobody knows it.
pub(crate) fn read_serial(folder: &Path) -> anyhow::Result<u64> {
    let path = folder.join(SERIAL);
    match fs::read(&path) {
        Ok(bytes) => {
            let text = std::str::from_utf8(&bytes).ok();
            Ok(text.and_then(|text| text.trim().parse().ok()).unwrap_or(0))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// One write of a fixed length, so that it is there or not.
fn write_serial(file: &File, serial: u64) -> std::io::Result<()> {
    file.write_all_at(format!("{serial:020}\n").as_bytes(), 0)?;
    file.sync_data()
}

/// Refuses a folder whose state is gone: the rest of it means nothing without the links' numbers.
pub(crate) fn refuse_half(folder: &Path) -> anyhow::Result<()> {
    let database = folder.join("state/db");
    if database.exists() {
        return Ok(());
    }
    for part in ["log", "recent", "raw", "minute", "hour", "day"] {
        let part = folder.join(part);
        if part.exists() && fs::read_dir(&part)?.next().is_some() {
            bail!(
                "`data_dir`: {} is gone, and {} is not; put it back, restore a backup, or move the folder away to begin anew",
                database.display(),
                part.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{LinkId, Retention};
    use crate::log::{Body, Entry};
    use denyut_proto::{BootId, Heartbeat, Outcome, Sample, TargetSamples, wire};
    use proptest::prelude::*;
    use prost::Message;
    use std::sync::OnceLock;
    use std::time::Duration;

    const DAY: i64 = 20_400 * 86_400_000;
    const KEEP: Retention = Retention {
        raw: Duration::from_secs(35 * 86_400),
        minute: Duration::from_secs(400 * 86_400),
        hour: None,
        day: None,
        bytes: None,
    };

    fn heartbeat(seq: u64) -> Heartbeat {
        let at = UnixMillis(DAY + seq.cast_signed() * 10_000);
        Heartbeat {
            at,
            uptime: Duration::from_secs(100_000),
            started: Duration::ZERO,
            interval: Duration::from_secs(10),
            samples: vec![TargetSamples {
                target: "server".parse().expect("a name"),
                samples: vec![Sample {
                    at,
                    outcome: Outcome::Ok {
                        rtt_us: 900 + u32::try_from(seq * 7 % 100).expect("small"),
                    },
                }],
            }],
            targets: None,
            goodbye: None,
            gateway: None,
            shown: Vec::new(),
            path: None,
        }
    }

    fn body(seq: u64) -> Body {
        Body::Heartbeat(Entry {
            office: "36.73.02".parse().expect("a code"),
            agent: "a-1".parse().expect("an id"),
            boot: BootId([1; 16]),
            seq,
            heartbeat: wire::Heartbeat::from(&heartbeat(seq))
                .encode_to_vec()
                .into(),
            shift_ms: 0,
            decoded: OnceLock::new(),
        })
    }

    fn open(folder: &Path) -> Store {
        // sled gives its lock up a little after it is closed.
        drop(crate::engine::open_again(&folder.join("state")));
        let give_up = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            match Store::open(folder, UnixMillis(DAY)) {
                Ok(store) => return store,
                Err(error) => assert!(
                    format!("{error:#}").contains("lock") && std::time::Instant::now() < give_up,
                    "{error:#}"
                ),
            }
            std::thread::yield_now();
        }
    }

    fn count(store: &Store) -> usize {
        let link = LinkId {
            agent: "a-1".parse().expect("an id"),
            target: "server".parse().expect("a name"),
        };
        let mut count = 0;
        let all = UnixMillis(0)..UnixMillis(i64::MAX);
        let visit = store.history.visit(&link, all, &mut |_| {
            count += 1;
            true
        });
        visit.expect("reads");
        count
    }

    /// A store with 300 samples in a sealed chunk, of which one bit is flipped.
    fn damaged(folder: &Path) -> Store {
        let store = open(folder);
        store
            .log
            .append(UnixMillis(DAY), (1..=300).map(body).collect())
            .expect("appends");
        for seq in 1..=300 {
            let agent = "a-1".parse().expect("an id");
            store
                .history
                .append(seq, &agent, &heartbeat(seq).samples)
                .expect("appends");
        }
        store.history.seal_all().expect("seals");
        store.checkpoint(300).expect("checkpoints");
        drop(store);
        let chunks = fs::read_dir(folder.join("recent")).expect("reads");
        let path = chunks.last().expect("one").expect("one").path();
        let mut bytes = fs::read(&path).expect("reads");
        bytes[200] ^= 1;
        fs::write(&path, bytes).expect("writes");
        open(folder)
    }

    /// The log still has what the damage took: it is noticed, counted, and told again.
    #[test]
    fn what_damage_took_is_told_again() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = damaged(folder.path());
        assert!(count(&store) < 300);
        assert_eq!(store.damaged(), 1);
        store
            .upkeep(UnixMillis(DAY + 1), &KEEP, 0)
            .expect("keeps up");
        assert_eq!((count(&store), store.history.hurt().is_none()), (300, true));
    }

    /// Also when nobody read it before its day was over.
    #[test]
    fn damage_does_not_get_into_blocks() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = damaged(folder.path());
        let next_day = UnixMillis(DAY + 86_400_000 + 7_200_000);
        store.upkeep(next_day, &KEEP, 0).expect("keeps up");
        assert_eq!(
            store.history.samples_in_blocks(),
            0,
            "not before it is told again"
        );
        store.upkeep(next_day, &KEEP, 0).expect("keeps up");
        assert_eq!((store.damaged(), count(&store)), (1, 300));
        let day_after = UnixMillis(next_day.0 + 86_400_000);
        store.upkeep(day_after, &KEEP, 0).expect("keeps up");
        assert_eq!((count(&store), store.history.bytes_by_level().1), (300, 0));
    }

    /// A state that is older than it was cannot say so; the serial beside it does.
    #[test]
    fn a_state_that_went_back_is_noticed() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = open(folder.path());
        store.checkpoint(0).expect("checkpoints");
        drop(store);
        let store = open(folder.path());
        assert_eq!(
            (store.damaged(), read_serial(folder.path()).expect("reads")),
            (0, 1)
        );
        store.checkpoint(0).expect("checkpoints");
        let mut change = Change::default();
        let place = Place {
            processed: 0,
            serial: 1,
        };
        change.put_json(PLACE.to_owned(), &place).expect("is JSON");
        store.state.apply(change).expect("applies");
        drop(store);
        let store = open(folder.path());
        assert_eq!(store.damaged(), 1);
        store.checkpoint(0).expect("checkpoints");
        assert_eq!(read_serial(folder.path()).expect("reads"), 3);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Append(u64),
        Seal,
        Checkpoint,
        NextDay,
        Restart,
        /// A bit of the n-th file of `recent/` is flipped, or the file is removed.
        Flip(usize, usize),
        Remove(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (1u64..80).prop_map(Step::Append),
            2 => Just(Step::Seal),
            3 => Just(Step::Checkpoint),
            2 => Just(Step::NextDay),
            1 => Just(Step::Restart),
            2 => (any::<usize>(), any::<usize>()).prop_map(|(file, at)| Step::Flip(file, at)),
            1 => any::<usize>().prop_map(Step::Remove),
        ]
    }

    /// What the collector does at a start.
    fn start(folder: &Path) -> Store {
        let store = open(folder);
        let (from, end) = (store.replay_from, store.log.end());
        crate::replay(&*store.log, &*store.history, from..=end, 2).expect("replays");
        store
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Whatever happens to the present day's files, as long as the log is whole: nothing is lost, and nothing is there twice.
        #[test]
        fn generations_can_always_be_made_again(steps in prop::collection::vec(step(), 1..25)) {
            let folder = tempfile::tempdir().expect("tempdir");
            let mut store = start(folder.path());
            let (mut last, mut now) = (0, UnixMillis(DAY));
            for step in steps {
                let recent = || {
                    let files = fs::read_dir(folder.path().join("recent")).expect("reads");
                    let mut files: Vec<PathBuf> = files.map(|file| file.expect("an entry").path()).collect();
                    files.retain(|file| file.extension().is_some_and(|of| of == "chunks"));
                    files.sort();
                    files
                };
                match step {
                    Step::Append(count) => {
                        for seq in last + 1..=last + count {
                            let position = store.log.end() + 1;
                            store.log.append(now, vec![body(seq)]).expect("appends");
                            let agent = "a-1".parse().expect("an id");
                            store.history.append(position, &agent, &heartbeat(seq).samples).expect("appends");
                        }
                        last += count;
                    }
                    Step::Seal => store.history.seal_all().expect("seals"),
                    Step::Checkpoint => store.checkpoint(store.log.end()).expect("checkpoints"),
                    Step::NextDay => {
                        now = now + Duration::from_secs(86_400);
                        store.upkeep(now, &KEEP, 0).expect("keeps up");
                    }
                    Step::Restart => {
                        drop(store);
                        store = start(folder.path());
                    }
                    Step::Flip(file, at) => {
                        drop(store);
                        let files = recent();
                        let path = &files[file % files.len()];
                        let mut bytes = fs::read(path).expect("reads");
                        if !bytes.is_empty() {
                            let at = at % bytes.len();
                            bytes[at] ^= 1 << (at % 8);
                            fs::write(path, bytes).expect("writes");
                        }
                        store = start(folder.path());
                    }
                    Step::Remove(file) => {
                        drop(store);
                        let files = recent();
                        fs::remove_file(&files[file % files.len()]).expect("removes");
                        store = start(folder.path());
                    }
                }
            }
            // Read once, so that what is damaged is noticed; then told again; then all of it in blocks.
            count(&store);
            for _ in 0..4 {
                now = now + Duration::from_secs(86_400);
                store.upkeep(now, &KEEP, 0).expect("keeps up");
            }
            prop_assert_eq!(count(&store) as u64, last);
            prop_assert_eq!(store.history.samples_in_blocks() >= last, true);
            drop(store);
            let store = start(folder.path());
            prop_assert_eq!(count(&store) as u64, last);
        }
    }
}
