//! One async method per transition: the keys and arguments of each script, and its reply as a type.
//!
//! Public for the tests and for tools that take an engine apart; programs use [`crate::Queue`], [`crate::Worker`] and
//! [`crate::inspect`]. It may change in any release.

mod circuit;
mod complete;
mod cron;
mod deliver;
pub mod doctor;
mod groups;
mod operate;
mod produce;
mod progress;
mod upkeep;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use crate::config;
use crate::error::{Error, Result};
use crate::job::{JobId, Meta, QueueName};
pub use crate::keys::Lane;
use crate::keys::{Key, Keys};
pub use crate::redis::Patience;
use crate::redis::reader::RawEntry;
use crate::redis::script::Call;
use crate::redis::{Node, Redis};
pub use crate::results::Kept;
use crate::seal::Seal;
pub use circuit::CircuitEvent;
pub use complete::Done;
pub use cron::{CronDue, CronPage, CronSet, Fired};
pub(crate) use cron::{Firing, due_of};
pub use deliver::{DeathReason, Expiry, InTheWay};
pub use groups::GroupOrder;
pub use operate::{Counts, Gates, Look};
use produce::ShortWay;
pub use progress::{Author, Note};
pub use upkeep::{Promotion, PruneStep, Sweep, SweepCursor, Upkeeper};

/// A stream entry's id. For a delivery it is the lease: whoever takes the job away adds it again under a new one.
/// Each lane counts for itself, so two lanes may give the same id: what names a delivery is lane and entry id together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct EntryId {
    pub ms: u64,
    pub seq: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for EntryId {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let (ms, seq) = text.split_once('-').ok_or(())?;
        Ok(Self {
            ms: ms.parse().map_err(drop)?,
            seq: seq.parse().map_err(drop)?,
        })
    }
}

impl EntryId {
    fn bytes(self) -> Bytes {
        self.to_string().into()
    }
}

/// What no two deliveries share.
pub(crate) type Place = (Lane, EntryId);

/// A job in the hands of a worker.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub lane: Lane,
    pub entry: EntryId,
    /// `entry` as Redis wrote it, for the calls that name it.
    entry_text: Bytes,
    pub id: JobId,
    pub name: String,
    pub payload: Bytes,
    pub attempt: u32,
    pub(crate) meta: Meta,
    /// The entry is not one that an enqueue wrote: there is nothing to run, and it belongs in the dead letter.
    pub foreign: bool,
}

impl Delivery {
    /// Reads an entry. `None` when it was deleted while it was pending.
    pub(crate) fn read(lane: Lane, raw: RawEntry) -> Option<Self> {
        let entry: EntryId = raw.id.parse().ok()?;
        let Some(fields) = raw.fields.exactly() else {
            return (!raw.fields.is_empty()).then(|| Self::foreign(lane, entry));
        };
        let [
            name_key,
            name,
            payload_key,
            payload,
            attempt_key,
            attempt,
            meta_key,
            meta,
        ] = fields;
        let ours = [name_key, payload_key, attempt_key, meta_key]
            == [&b"name"[..], b"payload", b"attempt", b"meta"];
        let attempt = std::str::from_utf8(attempt)
            .ok()
            .and_then(|attempt| attempt.parse().ok());
        let (true, Ok(name), Some(attempt), Ok(meta)) = (
            ours,
            std::str::from_utf8(name),
            attempt,
            Meta::from_stored(meta),
        ) else {
            return Some(Self::foreign(lane, entry));
        };
        let (name, payload) = (name.to_owned(), raw.fields.keep(payload));
        let entry_text = raw.id.into_inner();
        let id = meta.id.clone();
        let id = id.unwrap_or_else(|| String::from_utf8_lossy(&entry_text).as_ref().into());
        Some(Self {
            lane,
            entry,
            entry_text,
            id,
            name,
            payload,
            attempt,
            meta,
            foreign: false,
        })
    }

    pub(crate) fn foreign(lane: Lane, entry: EntryId) -> Self {
        let (id, name) = (entry.to_string().into(), "foreign entry".to_owned());
        Self {
            lane,
            entry,
            entry_text: entry.bytes(),
            id,
            name,
            payload: Bytes::new(),
            attempt: 1,
            meta: Meta::default(),
            foreign: true,
        }
    }

    pub(crate) fn place(&self) -> Place {
        (self.lane, self.entry)
    }

    /// The payload as the producer gave it.
    ///
    /// # Errors
    /// [`Error::Unopenable`].
    pub(crate) fn opened(&self, broker: &Broker) -> Result<Bytes> {
        let (seal, queue) = (&broker.seal, &broker.queue);
        seal.open(queue, &self.name, &self.meta, &self.payload)
    }

    /// The group of which the job has a slot.
    pub(crate) fn slot_of(&self) -> Option<&str> {
        self.meta.group.as_deref().filter(|_| self.meta.slot)
    }

    /// The unique key that is released when the job finishes.
    pub fn unique(&self) -> Option<&str> {
        self.meta.unique.as_deref()
    }
}

/// Who numbers calls, so that one that is sent twice is carried out once. One call at a time each.
#[derive(Debug)]
pub struct Caller {
    id: Bytes,
    /// Of the last call, from 1.
    number: i64,
}

/// What is added to the number of a call for Redis: then all have the same length, and scripts compare them as they come. A double, which
/// is what Lua has for a number, is exact up to nine times this.
const NUMBERED_FROM: i64 = 1_000_000_000_000_000;

impl Caller {
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: Bytes::from(id.into()),
            number: 0,
        }
    }

    /// A caller whose last call was `number`: the next one is sent as the one after it, again if it was sent before.
    pub fn after(id: impl Into<String>, number: i64) -> Self {
        Self {
            number,
            ..Self::new(id)
        }
    }

    fn sign(&mut self, call: Call) -> Call {
        self.number += 1;
        call.bytes("caller", self.id.clone())
            .number("number", NUMBERED_FROM + self.number)
    }

    /// The last call was refused and changed nothing: the next one has its number.
    fn take_back(&mut self) {
        self.number -= 1;
    }
}

/// One queue's transitions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Broker {
    pub(crate) redis: Redis,
    pub(crate) keys: Arc<Keys>,
    pub queue: QueueName,
    pub(crate) seal: Seal,
    short_way: Arc<ShortWay>,
}

impl Broker {
    pub(crate) fn new(redis: Redis, namespace: &str, queue: &QueueName, seal: Seal) -> Self {
        Self {
            redis,
            keys: Keys::new(namespace, queue).into(),
            queue: queue.clone(),
            seal,
            short_way: Arc::new(ShortWay::open()),
        }
    }

    /// A queue on a connection of its own, for tests and tools that need the transitions one by one.
    ///
    /// # Errors
    /// As [`crate::client::Builder::connect`].
    pub async fn connect(url: &str, namespace: &str, queue: &str) -> Result<Self> {
        let client = crate::Millstream::builder(url)
            .namespace(namespace)
            .connect()
            .await?;
        client.broker(queue)
    }

    /// The same queue over another connection.
    pub(crate) fn over(&self, redis: Redis) -> Self {
        Self {
            redis,
            ..self.clone()
        }
    }

    /// Redis's clock, unix ms, where the queue is.
    pub(crate) async fn now_ms(&self, patience: Patience) -> Result<u64> {
        let node = Node::of(&self.keys.stats);
        self.redis.now_ms(&node, patience).await
    }

    /// The keys of `lanes`, in their order.
    pub(crate) fn lane_keys<const N: usize>(&self, lanes: [Lane; N]) -> [&Key; N] {
        lanes.map(|lane| self.keys.lane(lane))
    }
}

/// At most 4 KiB of a message, cut at a character.
fn cut(message: &str) -> &str {
    let mut end = message.len().min(config::ERROR_BYTES_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

/// Reads `"id id …"`.
fn entry_ids(text: &str) -> Result<Vec<EntryId>> {
    text.split_whitespace()
        .map(|id| {
            id.parse().map_err(|()| Error::Protocol {
                operation: "settle",
                reason: format!("{id:?} is no entry id"),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::reader::Fields;

    fn raw(fields: &[&str]) -> RawEntry {
        let fields = fields
            .iter()
            .map(|field| Bytes::copy_from_slice(field.as_bytes()))
            .collect();
        RawEntry {
            stream: 0,
            id: "5-1".into(),
            fields: Fields::Apart(fields),
        }
    }

    #[test]
    fn an_entry_that_no_enqueue_wrote_is_foreign_and_a_deleted_one_is_nothing() {
        for fields in [
            &["a", "b"][..],
            &["name", "x", "payload", "y", "attempt", "z", "meta", ""],
            &["name", "x", "payload", "y", "attempt", "1", "meta", "{"],
            &["nome", "x", "payload", "y", "attempt", "1", "meta", ""],
        ] {
            assert!(
                Delivery::read(Lane::Ready, raw(fields)).unwrap().foreign,
                "{fields:?}"
            );
        }
        assert!(Delivery::read(Lane::Ready, raw(&[])).is_none());
    }

    #[test]
    fn a_job_keeps_its_id_under_another_entry() {
        let plain = Delivery::read(
            Lane::Ready,
            raw(&["name", "x", "payload", "y", "attempt", "1", "meta", ""]),
        )
        .unwrap();
        assert_eq!((plain.id.as_str(), plain.foreign), ("5-1", false));
        let moved = raw(&[
            "name",
            "x",
            "payload",
            "y",
            "attempt",
            "2",
            "meta",
            r#"{"id":"1-0"}"#,
        ]);
        assert_eq!(
            Delivery::read(Lane::Next, moved).unwrap().id.as_str(),
            "1-0"
        );
    }

    #[test]
    fn errors_are_cut_at_a_character() {
        let long = "ü".repeat(config::ERROR_BYTES_MAX);
        assert_eq!(cut(&long).len(), config::ERROR_BYTES_MAX);
        assert_eq!(
            cut(&long[..config::ERROR_BYTES_MAX - 2]).len(),
            config::ERROR_BYTES_MAX - 2
        );
        assert_eq!(cut(&format!("a{long}")).len(), config::ERROR_BYTES_MAX - 1);
    }
}
