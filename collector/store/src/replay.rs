//! Telling the history again what the log holds.

use crate::history::History;
use crate::log::{Body, Log, Position};
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

/// Records read at once.
const PART: usize = 1_024;

/// Appends what these records of the log tell to the history; returns how many heartbeats they were. With more than one of `threads` not in the order of
/// the log: nobody may make a checkpoint meanwhile.
pub fn replay(
    log: &dyn Log,
    history: &dyn History,
    records: RangeInclusive<Position>,
    threads: usize,
) -> anyhow::Result<u64> {
    let (first, end) = records.into_inner();
    let next = Mutex::new(first);
    let read = || {
        let mut from = next.lock().unwrap_or_else(PoisonError::into_inner);
        if *from > end {
            return Ok(Vec::new());
        }
        let records = log.read(*from, PART)?;
        *from = records.last().map_or(Position::MAX, |(last, _)| last + 1);
        anyhow::Ok(records)
    };
    let work = || {
        let mut count = 0;
        loop {
            let records = read()?;
            if records.is_empty() {
                return anyhow::Ok(count);
            }
            for (position, record) in &records {
                // What cannot be read is named by the worker when its turn comes.
                if let Body::Heartbeat(entry) = &record.body
                    && *position <= end
                    && let Ok(heartbeat) = entry.heartbeat()
                {
                    history.append(*position, &entry.agent, &heartbeat.samples)?;
                    count += 1;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut count = work()?;
        for other in others {
            match other.join() {
                Ok(done) => count += done?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(count)
    })
}

/// As many threads as a start may use.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(4))
}
