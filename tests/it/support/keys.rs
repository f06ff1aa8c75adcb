//! Everything that a queue has in Redis, key by key, without the help of the engine.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use super::Fixture;
use super::resp::Value;

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

/// One key with all that it holds, in an order that does not depend on how Redis keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum StoredKey {
    Text {
        value: Vec<u8>,
        expires_ms: i64,
    },
    /// Field or member, and value or score.
    Pairs(BTreeMap<Vec<u8>, Vec<u8>>),
    Stream {
        last_id: String,
        entries: Vec<(String, Vec<Vec<u8>>)>,
        /// Per group: its name, the entry it was last given, and its pending entries with consumer and delivery count.
        groups: Vec<(String, String, Pending)>,
    },
    /// A type that no queue uses.
    Strange(String, Vec<u8>),
}

/// Entry id -> the consumer that holds it, and how often it was delivered.
pub(crate) type Pending = BTreeMap<String, (String, i64)>;

impl Fixture {
    /// Every key of the queue, by the last part of its name. Key by key, so only while nobody moves jobs.
    pub(crate) fn stored(&self) -> BTreeMap<String, StoredKey> {
        let prefix = self.key("");
        let keys = self.redis(&["KEYS", &format!("{prefix}*")]);
        let keys = keys.list().iter().map(Value::text);
        keys.filter_map(|key| Some((key[prefix.len()..].to_owned(), self.read(key)?)))
            .collect()
    }

    /// See [`StateHash`].
    pub(crate) fn state_hash(&self) -> StateHash {
        let digest = |stored: StoredKey| {
            let mut hasher = DefaultHasher::new();
            stored.hash(&mut hasher);
            hasher.finish()
        };
        let stored = self.stored().into_iter();
        StateHash(stored.map(|(key, stored)| (key, digest(stored))).collect())
    }

    /// `None` when the key has run out meanwhile.
    fn read(&self, key: &str) -> Option<StoredKey> {
        Some(match self.redis(&["TYPE", key]).text() {
            "none" => return None,
            "string" => StoredKey::Text {
                // A point in time and not a rest, so that it stands still.
                expires_ms: self.redis(&["PEXPIRETIME", key]).int(),
                value: match self.redis(&["GET", key]) {
                    Value::Nil => return None,
                    value => value.bytes().to_vec(),
                },
            },
            "hash" => pairs(&self.redis(&["HGETALL", key])),
            "zset" => pairs(&self.redis(&["ZRANGE", key, "0", "-1", "WITHSCORES"])),
            "stream" => self.read_stream(key),
            other => StoredKey::Strange(
                other.to_owned(),
                self.redis(&["DUMP", key]).bytes().to_vec(),
            ),
        })
    }

    fn read_stream(&self, key: &str) -> StoredKey {
        let entries = self.redis(&["XRANGE", key, "-", "+"]);
        let entries = entries.list().iter().map(|entry| {
            let fields = entry.list()[1].list().iter();
            (
                entry.list()[0].text().to_owned(),
                fields.map(|field| field.bytes().to_vec()).collect(),
            )
        });
        let info = self.redis(&["XINFO", "STREAM", key]);
        let groups = self.redis(&["XINFO", "GROUPS", key]);
        let groups = groups.list().iter().map(|group| {
            let name = group.field("name").text();
            let last = group.field("last-delivered-id").text().to_owned();
            (name.to_owned(), last, self.pending(key, name))
        });
        StoredKey::Stream {
            last_id: info.field("last-generated-id").text().to_owned(),
            entries: entries.collect(),
            groups: groups.collect(),
        }
    }

    fn pending(&self, key: &str, group: &str) -> Pending {
        let pending = self.redis(&["XPENDING", key, group, "-", "+", "1000000"]);
        let pending = pending.list().iter().map(Value::list);
        pending
            .map(|row| {
                (
                    row[0].text().to_owned(),
                    (row[1].text().to_owned(), row[3].int()),
                )
            })
            .collect()
    }
}

fn pairs(reply: &Value) -> StoredKey {
    let pairs = reply.list().chunks_exact(2);
    StoredKey::Pairs(
        pairs
            .map(|pair| (pair[0].bytes().to_vec(), pair[1].bytes().to_vec()))
            .collect(),
    )
}
