//! Everything that a queue has in Redis, read in three round trips without the help of the engine.

use std::collections::BTreeMap;

use super::super::resp::{Connection, Value};

/// Every key of a queue at one moment, by the last part of its name.
pub(crate) struct Stored {
    /// Redis's clock when the reading began, unix ms.
    pub(crate) now_ms: i64,
    pub(crate) keys: BTreeMap<String, StoredKey>,
}

/// One key with all that it holds, in an order that does not depend on how Redis keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum StoredKey {
    Text {
        value: Vec<u8>,
        /// A point in time and not a rest, so that it stands still; -1 for never.
        expires_ms: i64,
    },
    /// Field or member, and value or score.
    Pairs(BTreeMap<Vec<u8>, Vec<u8>>),
    Stream {
        last_id: String,
        entries: Vec<(String, Vec<Vec<u8>>)>,
        groups: Vec<Group>,
    },
    /// A type that no queue uses.
    Strange(String, Vec<u8>),
}

/// A consumer group of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Group {
    pub(crate) name: String,
    /// The entry that it was last given.
    pub(crate) last_id: String,
    /// Entry id -> the consumer that holds it, and how often it was delivered.
    pub(crate) pending: BTreeMap<String, (String, i64)>,
    /// Consumer -> how many entries it holds.
    pub(crate) consumers: BTreeMap<String, i64>,
}

impl Stored {
    /// Reads every key that begins with `prefix`, at a moment when nobody moves jobs.
    pub(crate) fn read(connection: &mut Connection, prefix: &str) -> Self {
        let pattern = format!("{prefix}*");
        let found = connection.send_all(&[vec!["TIME"], vec!["KEYS", &pattern]]);
        let (time, names) = (&found[0], found[1].list());
        let names: Vec<&str> = names.iter().map(Value::text).collect();
        let ask = |command: fn(&str) -> Vec<&str>| names.iter().map(|name| command(name)).collect();
        let types: Vec<Vec<&str>> = ask(|name| vec!["TYPE", name]);
        let types = connection.send_all(&types);

        let mut reads = Vec::new();
        for (name, kind) in names.iter().zip(&types) {
            let read = match kind.text() {
                // The key has run out meanwhile.
                "none" => continue,
                "string" => {
                    reads.push((*name, "expiry", vec!["PEXPIRETIME", name]));
                    vec!["GET", name]
                }
                "hash" => vec!["HGETALL", name],
                "zset" => vec!["ZRANGE", name, "0", "-1", "WITHSCORES"],
                "stream" => vec!["XINFO", "STREAM", name, "FULL", "COUNT", "0"],
                _ => vec!["DUMP", name],
            };
            reads.push((*name, kind.text(), read));
        }
        let commands: Vec<_> = reads.iter().map(|(_, _, read)| read.clone()).collect();
        let replies = connection.send_all(&commands);

        let (mut keys, mut expiry) = (BTreeMap::new(), -1);
        for ((name, kind, _), reply) in reads.iter().zip(replies) {
            let stored = match (*kind, reply) {
                ("expiry", at) => {
                    expiry = at.int();
                    continue;
                }
                (_, Value::Nil) => continue,
                ("string", text) => StoredKey::Text {
                    value: text.bytes().to_vec(),
                    expires_ms: expiry,
                },
                ("hash" | "zset", reply) => pairs(&reply),
                ("stream", info) => stream(&info),
                (other, dump) => StoredKey::Strange(other.to_owned(), dump.bytes().to_vec()),
            };
            keys.insert(name[prefix.len()..].to_owned(), stored);
        }
        let time = time.list();
        let now_ms = time[0].int() * 1000 + time[1].int() / 1000;
        Self { now_ms, keys }
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

fn stream(info: &Value) -> StoredKey {
    let text = |value: &Value| value.text().to_owned();
    let entries = info.field("entries").list().iter().map(|entry| {
        let fields = entry.list()[1].list().iter();
        let fields = fields.map(|field| field.bytes().to_vec()).collect();
        (text(&entry.list()[0]), fields)
    });
    let groups = info.field("groups").list().iter().map(|group| {
        let pending = group.field("pending").list().iter().map(|row| {
            let row = row.list();
            (text(&row[0]), (text(&row[1]), row[3].int()))
        });
        let consumers = group.field("consumers").list().iter();
        let consumers = consumers.map(|consumer| {
            let holds = consumer.field("pel-count").int();
            (text(consumer.field("name")), holds)
        });
        Group {
            name: text(group.field("name")),
            last_id: text(group.field("last-delivered-id")),
            pending: pending.collect(),
            consumers: consumers.collect(),
        }
    });
    StoredKey::Stream {
        last_id: text(info.field("last-generated-id")),
        entries: entries.collect(),
        groups: groups.collect(),
    }
}
