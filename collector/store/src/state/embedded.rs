//! The state over sled: one tree, one writer at a time.

use super::{Change, State, StateError};
use crate::engine::{BATCH_MAX, Engine, VALUE_MAX};
use anyhow::{Context, anyhow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The state in a database.
#[derive(Debug)]
pub struct EmbeddedState {
    engine: Arc<Engine>,
    tree: sled::Tree,
    /// Between checking what a change expects and writing it, nobody else writes.
    writing: Mutex<()>,
}

impl EmbeddedState {
    /// Opens the state's tree, making it if needed.
    pub fn open(engine: &Arc<Engine>) -> anyhow::Result<Self> {
        Ok(Self {
            engine: Arc::clone(engine),
            tree: engine.tree("state").context("cannot open the state")?,
            writing: Mutex::new(()),
        })
    }
}

impl EmbeddedState {
    /// While this is held, nothing changes.
    pub(crate) fn hold(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn item(item: sled::Result<(sled::IVec, sled::IVec)>) -> anyhow::Result<(String, Vec<u8>)> {
    let (key, value) = item.context("cannot read the state")?;
    let key = String::from_utf8(key.to_vec()).context("the state is damaged: a key is not text")?;
    Ok((key, value.to_vec()))
}

impl State for EmbeddedState {
    fn get(&self, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let value = self.tree.get(key).context("cannot read the state")?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &str) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        self.tree.scan_prefix(prefix).map(item).collect()
    }

    fn first(&self, prefix: &str) -> anyhow::Result<Option<(String, Vec<u8>)>> {
        self.tree.scan_prefix(prefix).next().map(item).transpose()
    }

    fn count(&self, prefix: &str) -> anyhow::Result<usize> {
        let mut count = 0;
        for key in self.tree.scan_prefix(prefix).keys() {
            key.context("cannot read the state")?;
            count += 1;
        }
        Ok(count)
    }

    fn visit_back(
        &self,
        prefix: &str,
        below: Option<&str>,
        visit: &mut dyn FnMut(&str, &[u8]) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let items = match below {
            None => self.tree.scan_prefix(prefix),
            // A range that ends before it begins is none to the database.
            Some(below) if below <= prefix => return Ok(()),
            Some(below) => self.tree.range(prefix..below),
        };
        for item in items.rev() {
            let (key, value) = item.context("cannot read the state")?;
            let key =
                std::str::from_utf8(&key).context("the state is damaged: a key is not text")?;
            if !visit(key, &value)? {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, change: Change) -> Result<(), StateError> {
        if change.put.len() + change.delete.len() > BATCH_MAX {
            return Err(StateError::Store(anyhow!(
                "a change of {} keys is more than {BATCH_MAX}",
                change.put.len() + change.delete.len()
            )));
        }
        if let Some((key, value)) = change.put.iter().find(|(_, value)| value.len() > VALUE_MAX) {
            return Err(StateError::Store(anyhow!(
                "the value of `{key}` has {} bytes, more than {VALUE_MAX}",
                value.len()
            )));
        }
        let _writing = self.hold();
        for (key, expected) in change.expect {
            if self.get(&key)? != expected {
                return Err(StateError::Conflict { key });
            }
        }
        let mut batch = sled::Batch::default();
        for (key, value) in change.put {
            batch.insert(key.into_bytes(), value);
        }
        for key in change.delete {
            batch.remove(key.into_bytes());
        }
        self.tree
            .apply_batch(batch)
            .context("cannot write the state")
            .map_err(StateError::Store)
    }

    fn sync(&self) -> anyhow::Result<()> {
        self.engine.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::open_again;

    fn open(path: &std::path::Path) -> EmbeddedState {
        EmbeddedState::open(&open_again(path)).expect("opens")
    }

    fn put(expect: &[(&str, Option<&str>)], put: &[(&str, &str)], delete: &[&str]) -> Change {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Change {
            expect: expect
                .iter()
                .map(|(k, v)| ((*k).into(), v.map(bytes)))
                .collect(),
            put: put.iter().map(|(k, v)| ((*k).into(), bytes(v))).collect(),
            delete: delete.iter().map(|k| (*k).into()).collect(),
        }
    }

    #[test]
    fn a_change_happens_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("tempdir");
        let state = open(dir.path());
        state
            .apply(put(&[("a", None)], &[("a", "1"), ("b", "1")], &[]))
            .expect("applies");
        let refused = state.apply(put(
            &[("b", Some("1")), ("a", Some("2"))],
            &[("b", "9")],
            &["a"],
        ));
        assert!(matches!(refused, Err(StateError::Conflict { key }) if key == "a"));
        assert_eq!(state.get("b").expect("reads"), Some(b"1".to_vec()));
        state
            .apply(put(&[("a", Some("1"))], &[("c", "3")], &["a"]))
            .expect("applies");
        drop(state);
        let state = open(dir.path());
        let all: Vec<String> = state
            .scan("")
            .expect("scans")
            .into_iter()
            .map(|(k, _)| k)
            .collect();
        assert_eq!(all, ["b", "c"]);
        let mut back = Vec::new();
        let mut visit = |key: &str, _: &[u8]| {
            back.push(key.to_owned());
            Ok(key != "b")
        };
        state.apply(put(&[], &[("a", "1")], &[])).expect("applies");
        state.visit_back("", None, &mut visit).expect("visits");
        assert_eq!(back, ["c", "b"]);
        let mut back = Vec::new();
        let mut visit = |key: &str, _: &[u8]| {
            back.push(key.to_owned());
            Ok(true)
        };
        state.visit_back("", Some("c"), &mut visit).expect("visits");
        state
            .visit_back("b", Some("b"), &mut visit)
            .expect("visits");
        assert_eq!(back, ["b", "a"]);
    }

    #[test]
    fn one_of_two_writers_with_one_expectation_wins() {
        let dir = tempfile::tempdir().expect("tempdir");
        let state = open(dir.path());
        let wins: usize = std::thread::scope(|scope| {
            let writers: Vec<_> = ["x", "y", "z"]
                .map(|value| {
                    scope.spawn(|| {
                        usize::from(
                            state
                                .apply(put(&[("k", None)], &[("k", value)], &[]))
                                .is_ok(),
                        )
                    })
                })
                .into_iter()
                .collect();
            writers
                .into_iter()
                .map(|writer| writer.join().expect("ends"))
                .sum()
        });
        assert_eq!(wins, 1);
    }

    #[test]
    fn a_change_too_large_for_one_batch_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let state = open(dir.path());
        let change = Change {
            delete: (0..=BATCH_MAX).map(|i| i.to_string()).collect(),
            ..Default::default()
        };
        assert!(matches!(state.apply(change), Err(StateError::Store(_))));
    }
}
