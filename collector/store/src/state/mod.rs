//! The state: small things by key, changed atomically.

mod embedded;

pub use embedded::EmbeddedState;

use serde::{Serialize, de::DeserializeOwned};

/// Several keys that change together or not at all.
#[derive(Debug, Default)]
pub struct Change {
    /// The change happens only if each of these keys holds this now (`None`: nothing).
    pub expect: Vec<(String, Option<Vec<u8>>)>,
    /// What each of these keys holds afterwards.
    pub put: Vec<(String, Vec<u8>)>,
    /// Keys that hold nothing afterwards.
    pub delete: Vec<String>,
}

impl Change {
    /// Puts a value as JSON.
    pub fn put_json(&mut self, key: String, value: &impl Serialize) -> anyhow::Result<()> {
        self.put.push((key, serde_json::to_vec(value)?));
        Ok(())
    }
}

/// Why a change did not happen.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A key does not hold what the change expects; read again and decide anew.
    #[error("`{key}` was changed by somebody else")]
    Conflict {
        /// The key.
        key: String,
    },
    /// Writing failed.
    #[error(transparent)]
    Store(#[from] anyhow::Error),
}

/// The promise: a change is seen whole or not at all, also after a crash. It is durable after the engine's
/// next sync; until then a crash may undo the last changes, newest first. Methods block.
pub trait State: Send + Sync {
    /// What a key holds.
    fn get(&self, key: &str) -> anyhow::Result<Option<Vec<u8>>>;

    /// All keys that begin with `prefix`, ascending.
    fn scan(&self, prefix: &str) -> anyhow::Result<Vec<(String, Vec<u8>)>>;

    /// The first key that begins with `prefix`.
    fn first(&self, prefix: &str) -> anyhow::Result<Option<(String, Vec<u8>)>>;

    /// How many keys begin with `prefix`.
    fn count(&self, prefix: &str) -> anyhow::Result<usize>;

    /// The values of all keys that begin with `prefix` and come before `below` (which begins with it, too), descending, each
    /// given to `visit` until it returns `false`.
    fn visit_back(
        &self,
        prefix: &str,
        below: Option<&str>,
        visit: &mut dyn FnMut(&str, &[u8]) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()>;

    /// Changes all of it, or nothing.
    fn apply(&self, change: Change) -> Result<(), StateError>;

    /// Returns when everything that was changed before the call is durable.
    fn sync(&self) -> anyhow::Result<()>;
}

/// Reads a JSON value.
pub fn get_json<T: DeserializeOwned>(state: &dyn State, key: &str) -> anyhow::Result<Option<T>> {
    state.get(key)?.map(|value| parse(key, &value)).transpose()
}

/// Reads all JSON values whose keys begin with `prefix`.
pub fn scan_json<T: DeserializeOwned>(
    state: &dyn State,
    prefix: &str,
) -> anyhow::Result<Vec<(String, T)>> {
    state
        .scan(prefix)?
        .into_iter()
        .map(|(key, value)| {
            let value = parse(&key, &value)?;
            Ok((key, value))
        })
        .collect()
}

/// Reads a value that [`Change::put_json`] wrote.
pub fn parse<T: DeserializeOwned>(key: &str, value: &[u8]) -> anyhow::Result<T> {
    use anyhow::Context;
    serde_json::from_slice(value)
        .with_context(|| format!("the state is damaged, or of a newer version: `{key}`"))
}
