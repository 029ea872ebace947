//! The load, and what must be true of it afterwards.

use denyut_proto::{
    AgentId, BootId, Heartbeat, Outcome, Reason, Sample, TargetSamples, UnixMillis, wire,
};
use denyut_store::Store;
use denyut_store::history::{History, LinkId, Retention};
use denyut_store::log::{Appended, Body, Entry, Log, Position};
use denyut_store::state::{Change, State, get_json};
use prost::Message;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Names the child's data folder.
pub(crate) const FOLDER: &str = "DENYUT_CRASH_FOLDER";

/// Names what the checker must find.
const TOLD: &str = "DENYUT_CRASH_TOLD";
/// A key of the state.
const NOTED: &str = "noted";

/// How often it is done: `DENYUT_KILLS`, or as often as is said here.
pub(crate) fn times(usual: u32) -> u32 {
    std::env::var("DENYUT_KILLS")
        .ok()
        .and_then(|times| times.parse().ok())
        .unwrap_or(usual)
}

const START: i64 = 20_400 * 86_400_000;
/// From heartbeat to heartbeat: a day is 1,440 of them, so that days pass while we look.
const STEP_MS: i64 = 60_000;
const TARGETS: [&str; 3] = ["gateway", "server", "uplink"];
const KEEP: Retention = Retention {
    raw: Duration::from_secs(4_000 * 86_400),
    minute: Duration::from_secs(4_000 * 86_400),
    hour: None,
    day: None,
    bytes: None,
};

/// Numbers that are the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }
}

fn agent() -> AgentId {
    "a-1".parse().expect("an id")
}

/// The two samples of a target in heartbeat `seq`; every seventh is late by half a day.
fn samples(seq: u64, target: usize) -> Vec<Sample> {
    let late = if seq.is_multiple_of(7) { 43_200_000 } else { 0 };
    let at = START + seq.cast_signed() * STEP_MS - late + i64::try_from(target).expect("small");
    let outcome = |n: u64| {
        if (seq + n).is_multiple_of(11) {
            Outcome::Failed(Reason::Timeout.into())
        } else {
            Outcome::Ok {
                rtt_us: 500 + u32::try_from((seq * 31 + n) % 1_000).expect("small"),
            }
        }
    };
    vec![
        Sample {
            at: UnixMillis(at),
            outcome: outcome(0),
        },
        Sample {
            at: UnixMillis(at + 20_000),
            outcome: outcome(1),
        },
    ]
}

fn entry(seq: u64) -> Entry {
    let heartbeat = Heartbeat {
        at: UnixMillis(START + seq.cast_signed() * STEP_MS + 30_000),
        uptime: Duration::from_secs(100_000_000),
        started: Duration::ZERO,
        interval: Duration::from_secs(60),
        samples: TARGETS
            .iter()
            .enumerate()
            .map(|(i, target)| TargetSamples {
                target: target.parse().expect("a name"),
                samples: samples(seq, i),
            })
            .collect(),
        targets: None,
        goodbye: None,
        gateway: None,
        shown: Vec::new(),
        path: None,
    };
    Entry {
        office: "36.73.02".parse().expect("a code"),
        agent: agent(),
        boot: BootId([1; 16]),
        seq,
        heartbeat: wire::Heartbeat::from(&heartbeat).encode_to_vec().into(),
        shift_ms: 0,
        decoded: OnceLock::new(),
    }
}

/// What the children have told.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Told {
    /// The highest sequence that was acknowledged.
    pub(crate) acknowledged: u64,
    /// The highest number that was in the state when it was made durable.
    pub(crate) noted: u64,
}

impl Told {
    fn parse(line: &str) -> Option<Self> {
        let (acknowledged, noted) = line.trim().split_once(' ')?;
        Some(Self {
            acknowledged: acknowledged.parse().ok()?,
            noted: noted.parse().ok()?,
        })
    }

    fn max(self, other: Self) -> Self {
        Self {
            acknowledged: self.acknowledged.max(other.acknowledged),
            noted: self.noted.max(other.noted),
        }
    }

    /// As [`check_in_child`] passed it on.
    #[allow(dead_code, reason = "not every test needs it")]
    pub(crate) fn from_environment() -> Self {
        Self::parse(&std::env::var(TOLD).expect("is set")).expect("two numbers")
    }
}

/// A store and the worker's part of it.
pub(crate) struct Load {
    store: Arc<Store>,
    processed: Position,
}

/// What a check found.
#[derive(Debug)]
#[allow(dead_code, reason = "printed")]
pub(crate) struct Found {
    pub(crate) samples: u64,
    pub(crate) blocks: usize,
}

impl Load {
    pub(crate) fn open(folder: &Path) -> Self {
        let store = Store::open(folder, UnixMillis(START)).expect("every start succeeds");
        let mut load = Self {
            processed: store.replay_from - 1,
            store: Arc::new(store),
        };
        load.work();
        load
    }

    /// What the worker does: the log into the history.
    fn work(&mut self) {
        loop {
            let records = self.store.log.read(self.processed + 1, 100).expect("reads");
            let Some((last, _)) = records.last() else {
                return;
            };
            self.processed = *last;
            for (position, record) in &records {
                if let Body::Heartbeat(entry) = &record.body {
                    let heartbeat =
                        wire::Heartbeat::decode(entry.heartbeat.clone()).expect("decodes");
                    let heartbeat = Heartbeat::try_from(heartbeat).expect("is sound");
                    self.store
                        .history
                        .append(*position, &entry.agent, &heartbeat.samples)
                        .expect("appends");
                }
            }
        }
    }

    /// Works until it is killed; says each acknowledged sequence on stdout.
    pub(crate) fn run(mut self) {
        let upkeep = {
            let store = Arc::clone(&self.store);
            move || {
                loop {
                    let seq = store
                        .log
                        .held(&agent(), BootId([1; 16]))
                        .of_boot
                        .unwrap_or(0);
                    let now = UnixMillis(START + seq.cast_signed() * STEP_MS);
                    store.upkeep(now, &KEEP, 0).expect("keeps up");
                    std::thread::sleep(Duration::from_millis(7));
                }
            }
        };
        std::thread::spawn(upkeep);
        let mut random = Random(u64::from(std::process::id()) << 1 | 1);
        let mut next = self
            .store
            .log
            .held(&agent(), BootId([1; 16]))
            .of_boot
            .unwrap_or(0)
            + 1;
        let mut noted = 0;
        loop {
            let count = 1 + random.below(40);
            // As an agent that did not hear the last acknowledgement.
            let again = next.saturating_sub(3).max(1)..next;
            let group: Vec<Body> = again
                .clone()
                .chain(next..next + count)
                .map(|seq| Body::Heartbeat(entry(seq)))
                .collect();
            let appended = self
                .store
                .log
                .append(UnixMillis(START), group)
                .expect("appends");
            let new = appended
                .iter()
                .filter(|appended| **appended == Appended::New)
                .count() as u64;
            assert_eq!(new, count, "only what is new is new");
            next += count;
            println!("{} {noted}", next - 1);
            std::io::stdout().flush().expect("writes");
            self.work();
            if random.below(8) == 0 {
                let mut change = Change::default();
                change
                    .put_json(NOTED.to_owned(), &self.processed)
                    .expect("is JSON");
                // Enough that the database fills segment after segment, and frees those that are old.
                for part in 0..8 {
                    let key = format!("filler/{}", (self.processed + part) % 40);
                    change
                        .put
                        .push((key, self.processed.to_be_bytes().repeat(256)));
                }
                self.store.state.apply(change).expect("applies");
                self.store.checkpoint(self.processed).expect("checkpoints");
                noted = self.processed;
            }
            if random.below(16) == 0 {
                self.store.history.seal_all().expect("seals");
            }
        }
    }

    /// Everything up to the acknowledged sequence is there, and the state as it was noted; all of a heartbeat or nothing, each sample once, and the rollups agree.
    pub(crate) fn check(&self, told: Told) -> Found {
        let acknowledged = told.acknowledged;
        let noted: Option<u64> = get_json(&*self.store.state, NOTED).expect("reads");
        assert!(
            noted.unwrap_or(0) >= told.noted,
            "{} was noted in the state, {noted:?} is there",
            told.noted
        );
        let held = self
            .store
            .log
            .held(&agent(), BootId([1; 16]))
            .of_boot
            .unwrap_or(0);
        assert!(
            held >= acknowledged,
            "{acknowledged} were acknowledged, {held} are known"
        );
        let mut count = 0;
        for (i, target) in TARGETS.iter().enumerate() {
            let mut expected: Vec<Sample> = (1..=held).flat_map(|seq| samples(seq, i)).collect();
            expected.sort_unstable();
            let link = LinkId {
                agent: agent(),
                target: target.parse().expect("a name"),
            };
            let mut found = Vec::new();
            let all = UnixMillis(0)..UnixMillis(i64::MAX);
            self.store
                .history
                .visit(&link, all, &mut |sample| {
                    found.push(sample);
                    true
                })
                .expect("reads");
            let first_wrong = found.iter().zip(&expected).position(|(a, b)| a != b);
            assert!(
                found == expected,
                "{target}: {} of {} samples, the first difference at {first_wrong:?}",
                found.len(),
                expected.len()
            );
            let range = UnixMillis(START - 86_400_000)
                ..UnixMillis(START + (held.cast_signed() + 1_440) * STEP_MS);
            let rows = self
                .store
                .history
                .rows(&link, range, 86_400_000)
                .expect("reads")
                .rows;
            let counted: u64 = rows
                .iter()
                .map(|row| {
                    u64::from(row.ok) + row.failed.values().map(|n| u64::from(*n)).sum::<u64>()
                })
                .sum();
            assert_eq!(
                counted,
                expected.len() as u64,
                "{target}: the rollups count otherwise"
            );
            count += found.len() as u64;
        }
        assert_eq!(self.store.history.damaged(), 0);
        let (levels, _) = self.store.history.bytes_by_level();
        Found {
            samples: count,
            blocks: levels.values().filter(|bytes| **bytes > 0).count(),
        }
    }
}

/// Checks in a process of its own, so that nothing of it stays open.
#[allow(dead_code, reason = "not every test needs it")]
pub(crate) fn check_in_child(folder: &Path, told: Told) -> bool {
    let status = Command::new(std::env::current_exe().expect("it runs from a file"))
        .args(["checker", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(TOLD, format!("{} {}", told.acknowledged, told.noted))
        .stdout(Stdio::null())
        .status();
    status.expect("runs").success()
}

/// A child process under load.
pub(crate) struct Child {
    process: std::process::Child,
    told: Receiver<Told>,
}

impl Child {
    pub(crate) fn start(folder: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("it runs from a file"))
            .args(["child", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let stdout = process.stdout.take().expect("piped");
        let (send, told) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(told) = Told::parse(&line) {
                    send.send(told).ok();
                }
            }
        });
        Self { process, told }
    }

    /// Waits for its first word and then for `time`; what was told by then.
    pub(crate) fn run_for(&mut self, time: Duration, mut told: Told) -> Told {
        let first = self.told.recv_timeout(Duration::from_secs(60));
        told = told.max(first.expect("the child starts and works"));
        let until = Instant::now() + time;
        loop {
            match self
                .told
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(more) => told = told.max(more),
                Err(RecvTimeoutError::Timeout) => return told,
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the child ended by itself: {:?}", self.process.wait())
                }
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("can be killed");
        self.process.wait().expect("ends");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
