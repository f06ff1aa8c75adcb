//! One async method per transition: the keys and arguments of each script, and its reply as a type.
//!
//! Public for the tests and for tools that take an engine apart; programs use [`crate::Queue`], [`crate::Worker`] and
//! [`crate::inspect`]. It may change in any release.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::config;
use crate::error::{Error, Result};
use crate::job::durability::Durability;
use crate::job::state::State;
use crate::job::{Enqueued, JobId, Meta, NewJob, QueueName, millis};
pub use crate::keys::Lane;
use crate::keys::{GROUP, Key, Keys};
pub use crate::redis::Patience;
use crate::redis::Redis;
use crate::redis::reader::{RawEntry, raw_entry};
use crate::redis::reply::{Reply, Status, Value, number_of, text_of};
use crate::redis::script::{self, Call};

/// A stream entry's id. For a delivery it is the lease: whoever takes the job away adds it again under a new one.
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

/// A job in the hands of a worker.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub lane: Lane,
    pub entry: EntryId,
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
        let fields: [Bytes; 8] = match raw.fields.try_into() {
            Ok(fields) => fields,
            Err(fields) if Vec::is_empty(&fields) => return None,
            Err(_) => return Some(Self::foreign(lane, entry)),
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
        let ours = [&name_key[..], &payload_key, &attempt_key, &meta_key]
            == [&b"name"[..], b"payload", b"attempt", b"meta"];
        let attempt = std::str::from_utf8(&attempt)
            .ok()
            .and_then(|attempt| attempt.parse().ok());
        let (true, Ok(name), Some(attempt), Ok(meta)) = (
            ours,
            std::str::from_utf8(&name),
            attempt,
            Meta::from_stored(&meta),
        ) else {
            return Some(Self::foreign(lane, entry));
        };
        let id = meta.id.clone().unwrap_or_else(|| entry.to_string().into());
        Some(Self {
            lane,
            entry,
            id,
            name: name.to_owned(),
            payload,
            attempt,
            meta,
            foreign: false,
        })
    }

    fn foreign(lane: Lane, entry: EntryId) -> Self {
        let (id, name) = (entry.to_string().into(), "foreign entry".to_owned());
        Self {
            lane,
            entry,
            id,
            name,
            payload: Bytes::new(),
            attempt: 1,
            meta: Meta::default(),
            foreign: true,
        }
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
    number: i64,
}

impl Caller {
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: Bytes::from(id.into()),
            number: 0,
        }
    }

    fn sign(&mut self, call: Call) -> Call {
        self.number += 1;
        call.bytes("caller", self.id.clone())
            .number("number", self.number)
    }
}

/// What the history keeps of a completed job.
#[derive(Clone, Copy, Debug)]
pub struct Done<'a> {
    pub delivery: &'a Delivery,
    pub took: Duration,
}

/// Why a job was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeathReason {
    Attempts,
    Refused,
    Expired,
}

impl DeathReason {
    fn name(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Refused => "refused",
            Self::Expired => "expired",
        }
    }
}

/// Who does the upkeep, and for how long it is theirs.
#[derive(Clone, Debug)]
pub struct Upkeeper {
    pub worker: String,
    pub lock: Duration,
}

/// What a promotion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotion {
    /// Another worker does the upkeep.
    Standby,
    /// `next_due`: the wait until the next job is due, `None` when none is scheduled.
    Promoted {
        count: u64,
        next_due: Option<Duration>,
    },
}

/// What a reclaim did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Another worker does the upkeep.
    Standby,
    /// `cursor` is `None` at the end of the lane. `unlock`: unique keys of jobs that died, with their jobs.
    Swept {
        cursor: Option<String>,
        reclaimed: u64,
        dead: u64,
        unlock: Vec<(String, JobId)>,
    },
}

/// A queue's counts as the script gives them.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub ready: u64,
    pub running: u64,
    pub scheduled: u64,
    pub dead: u64,
    pub held: u64,
    pub paused: bool,
    pub oldest_ready: Option<Duration>,
    pub counters: HashMap<String, u64>,
}

/// What a prune removed in one step.
#[derive(Clone, Debug)]
pub struct PruneStep {
    pub completed: u64,
    pub dead: u64,
    pub producers: u64,
    /// Where to go on among the producers; `None` at the end.
    pub cursor: Option<String>,
    /// More finished jobs are old enough.
    pub more: bool,
}

/// One queue's transitions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Broker {
    pub(crate) redis: Redis,
    pub(crate) keys: std::sync::Arc<Keys>,
    pub queue: QueueName,
}

impl Broker {
    pub(crate) fn new(redis: Redis, namespace: &str, queue: &QueueName) -> Self {
        Self {
            redis,
            keys: Keys::new(namespace, queue).into(),
            queue: queue.clone(),
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

    /// Makes the consumer group of every lane, where it is missing. From the first entry on, so that jobs which came
    /// before the first worker are not passed over.
    pub async fn create_groups(&self, patience: Patience) -> Result<()> {
        for lane in Lane::ALL {
            self.redis
                .create_group(self.keys.lane(lane), GROUP, patience)
                .await?;
        }
        Ok(())
    }

    /// New -> ready or scheduled. Up to 1,000 jobs, checked before; all or nothing.
    pub async fn enqueue(
        &self,
        caller: &mut Caller,
        jobs: &[NewJob],
        patience: Patience,
    ) -> Result<Vec<Enqueued>> {
        self.enqueue_durably(caller, jobs, Durability::Memory, patience)
            .await
    }

    /// [`Broker::enqueue`], and waits until the jobs are as safe as `durability` says, or for a second.
    pub async fn enqueue_durably(
        &self,
        caller: &mut Caller,
        jobs: &[NewJob],
        durability: Durability,
        patience: Patience,
    ) -> Result<Vec<Enqueued>> {
        let keys = &self.keys;
        let mut call = Call::new(&script::ENQUEUE)
            .reserve(3 + 4 * jobs.len())
            .key("lane", &keys.ready)
            .key("scheduled", &keys.scheduled)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("producers", &keys.producers);
        call = caller.sign(call).bytes("wake", keys.wake.clone());
        let mut uniques = 0;
        for job in jobs {
            call.push("jobs", Bytes::copy_from_slice(job.name.as_bytes()));
            call.push("jobs", job.payload.clone());
            let mut options = Options::default();
            let mut meta = std::borrow::Cow::Borrowed(&job.meta);
            if let Some(unique) = &job.unique {
                uniques += 1;
                call.push_key("unique", &keys.unique(&unique.key));
                options.unique = Some(uniques);
                options.window = unique.window.is_some();
                let hold = unique
                    .window
                    .unwrap_or(config::UNIQUE_BACKSTOP + job.delay.unwrap_or_default());
                options.unique_ms = Some(millis(hold));
                if unique.window.is_none() {
                    meta.to_mut().unique = Some(unique.key.clone());
                }
            }
            if let Some(delay) = job.delay.filter(|delay| !delay.is_zero()) {
                options.delay_ms = Some(millis(delay));
                options.id = Some(uuid::Uuid::now_v7().simple().to_string());
            }
            options.expires_ms = job.expires.map(millis);
            call.push("jobs", meta.to_stored().into());
            call.push("jobs", options.to_stored().into());
        }
        let (reply, durability) = self.redis.call_durably(call, durability, patience).await?;
        let ids = reply.done()?.text(1)?;
        let enqueued: Vec<Enqueued> = ids
            .split(' ')
            .map(|id| match id.strip_prefix('=') {
                Some(holder) => Enqueued {
                    id: holder.into(),
                    duplicate: true,
                    durability,
                },
                None => Enqueued {
                    id: id.into(),
                    duplicate: false,
                    durability,
                },
            })
            .collect();
        if enqueued.len() != jobs.len() {
            let reason = format!("{} ids for {} jobs", enqueued.len(), jobs.len());
            return Err(Error::Protocol {
                operation: "enqueue",
                reason,
            });
        }
        Ok(enqueued)
    }

    /// Ready -> running, exactly `limit` at most over all lanes. Nothing from a paused queue.
    pub async fn claim(
        &self,
        consumer: &str,
        limit: usize,
        patience: Patience,
    ) -> Result<Vec<Delivery>> {
        let mut call = Call::new(&script::CLAIM).key("limits", &self.keys.limits);
        for lane in Lane::ALL {
            call.push_key("lanes", self.keys.lane(lane));
        }
        let call = call
            .text("group", GROUP)
            .text("consumer", consumer)
            .number("limit", limit as i64);
        let mut reply = self.redis.call(call, patience).await?;
        let entries = reply.take_list(1)?;
        let deliveries = entries.into_iter().filter_map(|entry| {
            let Value::Array(mut parts) = entry else {
                return None;
            };
            let lane = number_of(parts.first()?)?;
            let lane = *Lane::ALL.get(usize::try_from(lane - 1).ok()?)?;
            parts.remove(0);
            Delivery::read(lane, raw_entry(lane.index(), Value::Array(parts))?)
        });
        Ok(deliveries.collect())
    }

    /// Running -> running: renews leases. Returns the deliveries that are no longer live.
    pub async fn extend(
        &self,
        lane: Lane,
        consumer: &str,
        entries: &[EntryId],
        patience: Patience,
    ) -> Result<Vec<EntryId>> {
        let mut call = Call::new(&script::EXTEND)
            .reserve(2 + entries.len())
            .key("lane", self.keys.lane(lane))
            .text("group", GROUP)
            .text("consumer", consumer);
        entries
            .iter()
            .for_each(|entry| call.push("entries", entry.bytes()));
        let reply = self.redis.call(call, patience).await?;
        entry_ids(reply.done()?.text(1)?)
    }

    /// Running -> completed, up to 1,000 deliveries of one lane. Returns those that were no longer live.
    /// `history`: how many completed jobs the queue keeps, about; 0 keeps none.
    pub async fn complete(
        &self,
        caller: &mut Caller,
        lane: Lane,
        done: &[Done<'_>],
        history: usize,
        patience: Patience,
    ) -> Result<Vec<EntryId>> {
        let keys = &self.keys;
        let call = Call::new(&script::COMPLETE)
            .reserve(5 + done.len())
            .key("lane", keys.lane(lane))
            .key("jobs", &keys.jobs)
            .key("stats", &keys.stats)
            .key("producers", &keys.producers)
            .key("completed", &keys.completed)
            .text("group", GROUP);
        let mut call = caller
            .sign(call)
            .number("history", history as i64)
            .number("count", done.len() as i64);
        done.iter()
            .for_each(|done| call.push("entries", done.delivery.entry.bytes()));
        let mut uniques = 0;
        for (index, Done { delivery, took }) in done.iter().enumerate() {
            if delivery.meta.id.is_none() && delivery.unique().is_none() && history == 0 {
                continue;
            }
            let unique = delivery.unique().map_or(0, |unique| {
                uniques += 1;
                call.push_key("unique", &keys.unique(unique));
                uniques
            });
            let id = Bytes::copy_from_slice(delivery.id.as_str().as_bytes());
            let name = Bytes::copy_from_slice(delivery.name.as_bytes());
            let numbers = |number: u64| Bytes::from(number.to_string());
            let row = [
                numbers(index as u64 + 1),
                id,
                numbers(unique),
                name,
                numbers(delivery.attempt.into()),
                numbers(millis(*took)),
            ];
            row.into_iter().for_each(|item| call.push("entries", item));
        }
        let reply = self.redis.call(call, patience).await?;
        entry_ids(reply.done()?.text(1)?)
    }

    /// Running -> scheduled, after a failed attempt, or with `error` `None` because the handler asked to be called later.
    ///
    /// # Errors
    /// [`Error::LeaseLost`]: the delivery is no longer the live one; nothing was changed.
    pub async fn retry(
        &self,
        caller: &mut Caller,
        delivery: &Delivery,
        after: Duration,
        error: Option<&str>,
        patience: Patience,
    ) -> Result<()> {
        let keys = &self.keys;
        let call = Call::new(&script::RETRY)
            .key("lane", keys.lane(delivery.lane))
            .key("scheduled", &keys.scheduled)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("events", &keys.events)
            .key("producers", &keys.producers)
            .text("group", GROUP);
        let call = caller
            .sign(call)
            .bytes("entry_id", delivery.entry.bytes())
            .number("delay_ms", millis(after).cast_signed())
            .number("charged", i64::from(error.is_some()))
            .text("error", cut(error.unwrap_or_default()))
            .bytes("wake", keys.wake.clone());
        self.settled(&self.redis.call(call, patience).await?, delivery)
    }

    /// Running -> ready, read first, no attempt used. Returns the deliveries that were no longer live.
    pub async fn release(
        &self,
        lane: Lane,
        entries: &[EntryId],
        patience: Patience,
    ) -> Result<Vec<EntryId>> {
        let keys = &self.keys;
        let mut call = Call::new(&script::RELEASE)
            .key("lane", keys.lane(lane))
            .key("next", &keys.next)
            .key("jobs", &keys.jobs)
            .key("stats", &keys.stats)
            .text("group", GROUP);
        entries
            .iter()
            .for_each(|entry| call.push("entries", entry.bytes()));
        let reply = self.redis.call(call, patience).await?;
        entry_ids(reply.done()?.text(1)?)
    }

    /// Running -> dead. For [`DeathReason::Expired`] Redis's clock has the last word: `false` means not yet.
    ///
    /// # Errors
    /// [`Error::LeaseLost`]: the delivery is no longer the live one; nothing was changed.
    pub async fn dead_letter(
        &self,
        caller: &mut Caller,
        delivery: &Delivery,
        reason: DeathReason,
        error: &str,
        patience: Patience,
    ) -> Result<bool> {
        let keys = &self.keys;
        let mut call = Call::new(&script::DEAD_LETTER)
            .key("lane", keys.lane(delivery.lane))
            .key("dead", &keys.dead)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("events", &keys.events)
            .key("producers", &keys.producers);
        if let Some(unique) = delivery.unique() {
            call.push_key("unique", &keys.unique(unique));
        }
        let call = caller
            .sign(call.text("group", GROUP))
            .bytes("entry_id", delivery.entry.bytes())
            .text("reason", reason.name())
            .text("error", cut(error));
        let reply = self.redis.call(call, patience).await?;
        if reply.status == Status::WrongState {
            return Ok(false);
        }
        self.settled(&reply, delivery).map(|()| true)
    }

    /// Running -> ready or dead: one step of a sweep over `lane` for deliveries that were not renewed for `lease`.
    pub async fn reclaim(
        &self,
        by: &Upkeeper,
        lane: Lane,
        lease: Duration,
        cursor: Option<&str>,
        patience: Patience,
    ) -> Result<Sweep> {
        let keys = &self.keys;
        let call = Call::new(&script::RECLAIM)
            .key("lane", keys.lane(lane))
            .key("next", &keys.next)
            .key("dead", &keys.dead)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("events", &keys.events)
            .key("lock", &keys.upkeep)
            .text("group", GROUP)
            .text("worker", &by.worker)
            .number("lock_ms", millis(by.lock).cast_signed())
            .number("lease_ms", millis(lease).cast_signed())
            .number("stalls", config::STALLS_MAX.into())
            .text("cursor", cursor.unwrap_or("0-0"))
            .number("limit", 100);
        let reply = self.redis.call(call, patience).await?;
        if reply.status == Status::Standby {
            return Ok(Sweep::Standby);
        }
        let cursor = Some(reply.text(1)?)
            .filter(|cursor| *cursor != "0-0")
            .map(str::to_owned);
        let unlock = reply
            .list(4)?
            .chunks_exact(2)
            .filter_map(|pair| Some((text_of(&pair[0])?.to_owned(), text_of(&pair[1])?.into())))
            .collect();
        Ok(Sweep::Swept {
            cursor,
            reclaimed: reply.count(2)?,
            dead: reply.count(3)?,
            unlock,
        })
    }

    /// Releases the unique keys of jobs that a sweep found dead.
    pub async fn unlock(&self, held: &[(String, JobId)], patience: Patience) -> Result<()> {
        let mut call = Call::new(&script::UNLOCK);
        for (unique, id) in held {
            call.push_key("unique", &self.keys.unique(unique));
            call = call.text("ids", id.as_str());
        }
        self.redis.call(call, patience).await.map(drop)
    }

    /// Scheduled -> ready, up to `limit` due jobs.
    pub async fn promote(
        &self,
        by: &Upkeeper,
        limit: usize,
        patience: Patience,
    ) -> Result<Promotion> {
        let keys = &self.keys;
        let call = Call::new(&script::PROMOTE)
            .key("scheduled", &keys.scheduled)
            .key("lane", &keys.ready)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("lock", &keys.upkeep)
            .text("worker", &by.worker)
            .number("lock_ms", millis(by.lock).cast_signed())
            .number("limit", limit as i64);
        let reply = self.redis.call(call, patience).await?;
        if reply.status == Status::Standby {
            return Ok(Promotion::Standby);
        }
        let next_due = u64::try_from(reply.number(2)?)
            .ok()
            .map(Duration::from_micros);
        Ok(Promotion::Promoted {
            count: reply.count(1)?,
            next_due,
        })
    }

    /// Scheduled -> ready, ahead of the others.
    pub async fn run_now(&self, id: &JobId, patience: Patience) -> Result<()> {
        let keys = &self.keys;
        let call = Call::new(&script::RUN_NOW)
            .key("scheduled", &keys.scheduled)
            .key("next", &keys.next)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .text("job_id", id.as_str());
        self.moved(&self.redis.call(call, patience).await?, id, "run now")
    }

    /// Any unfinished state -> cancelled. `unique`: the key that the job holds, if it holds one. Returns the state before.
    pub async fn cancel(
        &self,
        id: &JobId,
        unique: Option<&str>,
        patience: Patience,
    ) -> Result<State> {
        let keys = &self.keys;
        let mut call = Call::new(&script::CANCEL)
            .key("scheduled", &keys.scheduled)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("events", &keys.events)
            .key("next", &keys.next)
            .key("lane", &keys.ready);
        if let Some(unique) = unique {
            call.push_key("unique", &keys.unique(unique));
        }
        let call = call
            .text("group", GROUP)
            .text("job_id", id.as_str())
            .bytes("wake", keys.wake.clone());
        let reply = self.redis.call(call, patience).await?;
        self.moved(&reply, id, "cancelled")?;
        Ok(match reply.text(1)? {
            "scheduled" => State::Scheduled,
            "running" => State::Running,
            _ => State::Ready,
        })
    }

    /// Dead -> ready, up to 1,000 ids. Returns how many were dead.
    pub async fn redrive(&self, ids: &[JobId], patience: Patience) -> Result<u64> {
        let keys = &self.keys;
        let call = Call::new(&script::REDRIVE)
            .key("dead", &keys.dead)
            .key("lane", &keys.ready)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("events", &keys.events);
        self.counted(call, ids, patience).await
    }

    /// Dead -> gone, up to 1,000 ids. Returns how many were dead.
    pub async fn purge(&self, ids: &[JobId], patience: Patience) -> Result<u64> {
        let keys = &self.keys;
        let call = Call::new(&script::PURGE)
            .key("dead", &keys.dead)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("events", &keys.events);
        self.counted(call, ids, patience).await
    }

    async fn counted(&self, mut call: Call, ids: &[JobId], patience: Patience) -> Result<u64> {
        if ids.is_empty() {
            return Ok(0);
        }
        for id in ids {
            call = call.text("ids", id.as_str());
        }
        self.redis.call(call, patience).await?.count(1)
    }

    /// Completed or dead -> gone, one bounded step. An age of `None` leaves that kind alone.
    pub async fn prune(
        &self,
        completed: Option<Duration>,
        dead: Option<Duration>,
        producers: Option<Duration>,
        cursor: Option<&str>,
        patience: Patience,
    ) -> Result<PruneStep> {
        let age = |age: Option<Duration>| age.map_or(-1, |age| millis(age).cast_signed());
        let keys = &self.keys;
        let call = Call::new(&script::PRUNE)
            .key("dead", &keys.dead)
            .key("completed", &keys.completed)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("producers", &keys.producers)
            .number("completed_age_ms", age(completed))
            .number("dead_age_ms", age(dead))
            .number("producer_age_ms", age(producers))
            .text("cursor", cursor.unwrap_or("0"))
            .number("limit", 500);
        let reply = self.redis.call(call, patience).await?;
        Ok(PruneStep {
            completed: reply.count(1)?,
            dead: reply.count(2)?,
            producers: reply.count(3)?,
            cursor: Some(reply.text(4)?)
                .filter(|cursor| *cursor != "0")
                .map(str::to_owned),
            more: reply.count(5)? > 0,
        })
    }

    /// Forgets consumers that hold nothing: `leaving`, or with `None` all that were silent for `idle`.
    pub async fn retire(
        &self,
        leaving: Option<&str>,
        idle: Duration,
        patience: Patience,
    ) -> Result<u64> {
        let mut forgotten = 0;
        for lane in Lane::ALL {
            let call = Call::new(&script::RETIRE)
                .key("lane", self.keys.lane(lane))
                .text("group", GROUP)
                .text("consumer", leaving.unwrap_or_default())
                .number("idle_ms", millis(idle).cast_signed());
            forgotten += self.redis.call(call, patience).await?.count(1)?;
        }
        Ok(forgotten)
    }

    /// Lets no worker claim, or ends that.
    pub async fn pause(&self, paused: bool, patience: Patience) -> Result<()> {
        let call = Call::new(&script::PAUSE)
            .key("limits", &self.keys.limits)
            .key("events", &self.keys.events)
            .number("paused", paused.into())
            .bytes("wake", self.keys.wake.clone());
        self.redis.call(call, patience).await.map(drop)
    }

    pub async fn is_paused(&self, patience: Patience) -> Result<bool> {
        let args = vec![self.keys.limits.as_str().into(), "paused".into()];
        let paused = self.redis.command("HGET", args, patience).await?;
        Ok(text_of(&paused).is_some())
    }

    /// The queue's counts at one moment.
    pub async fn stats(&self, patience: Patience) -> Result<Counts> {
        let keys = &self.keys;
        let mut call = Call::new(&script::STATS)
            .key("scheduled", &keys.scheduled)
            .key("dead", &keys.dead)
            .key("held", &keys.held)
            .key("limits", &keys.limits)
            .key("stats", &keys.stats);
        for lane in Lane::ALL {
            call.push_key("lanes", keys.lane(lane));
        }
        let reply = self.redis.call(call.text("group", GROUP), patience).await?;
        let counters = reply.list(8)?.chunks_exact(2).filter_map(|pair| {
            Some((
                text_of(&pair[0])?.to_owned(),
                u64::try_from(number_of(&pair[1])?).ok()?,
            ))
        });
        Ok(Counts {
            ready: reply.count(1)?,
            running: reply.count(2)?,
            scheduled: reply.count(3)?,
            dead: reply.count(4)?,
            held: reply.count(5)?,
            paused: reply.count(6)? > 0,
            oldest_ready: u64::try_from(reply.number(7)?)
                .ok()
                .map(Duration::from_millis),
            counters: counters.collect(),
        })
    }

    fn settled(&self, reply: &Reply, delivery: &Delivery) -> Result<()> {
        match reply.status {
            Status::Ok => Ok(()),
            Status::Stale => Err(Error::LeaseLost {
                job: delivery.id.clone(),
            }),
            _ => Err(reply.unexpected_status()),
        }
    }

    fn moved(&self, reply: &Reply, id: &JobId, wanted: &'static str) -> Result<()> {
        match reply.status {
            Status::Ok => Ok(()),
            Status::Missing => Err(Error::NotFound {
                queue: self.queue.to_string(),
                job: id.clone(),
            }),
            Status::WrongState => {
                let state = reply.text(1)?.to_owned();
                Err(Error::WrongState {
                    job: id.clone(),
                    state,
                    wanted,
                })
            }
            _ => Err(reply.unexpected_status()),
        }
    }

    /// The lanes' keys, in the order of [`Lane::ALL`].
    pub(crate) fn lane_keys(&self) -> [&Key; 2] {
        Lane::ALL.map(|lane| self.keys.lane(lane))
    }
}

/// What the enqueue script is told of a job that is more than plain; see `lua/enqueue.lua`.
#[derive(Default, PartialEq, Serialize)]
struct Options {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique_ms: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    window: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
}

impl Options {
    fn to_stored(&self) -> String {
        if *self == Self::default() {
            String::new()
        } else {
            serde_json::to_string(self).expect("plain strings and numbers")
        }
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

    fn raw(fields: &[&str]) -> RawEntry {
        let fields = fields
            .iter()
            .map(|field| Bytes::copy_from_slice(field.as_bytes()))
            .collect();
        RawEntry {
            stream: 0,
            id: "5-1".into(),
            fields,
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
