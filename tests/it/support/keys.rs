//! What a queue has in Redis, read and compared.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use super::Fixture;
use super::scan::stored::{Stored, StoredKey};

/// A digest of every key of a queue: two that are equal mean that nothing happened in between.
/// It covers the pending entries, but not the clocks that Redis keeps beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateHash(BTreeMap<String, u64>);

impl StateHash {
    /// The same without the keys of these names.
    pub(crate) fn without(mut self, suffixes: &[&str]) -> Self {
        self.0
            .retain(|key, _| !suffixes.iter().any(|suffix| key.ends_with(suffix)));
        self
    }
}

impl Fixture {
    /// Every key of the queue, at a moment when nobody moves jobs.
    pub(crate) fn stored(&self) -> Stored {
        let mut connection = self.connection.lock().expect("no test panics within this");
        Stored::read(&mut connection, &self.key(""))
    }

    /// See [`StateHash`].
    pub(crate) fn state_hash(&self) -> StateHash {
        let digest = |stored: StoredKey| {
            let mut hasher = DefaultHasher::new();
            stored.hash(&mut hasher);
            hasher.finish()
        };
        let stored = self.stored().keys.into_iter();
        StateHash(stored.map(|(key, stored)| (key, digest(stored))).collect())
    }
}
