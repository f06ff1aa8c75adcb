//! What somebody must do regularly: promote, reclaim, prune.

use std::time::Duration;

use super::Broker;
use crate::config;
use crate::error::Result;
use crate::job::{JobId, millis};
use crate::keys::{GROUP, Lane};
use crate::redis::Patience;
use crate::redis::reply::{Status, Value, text_of};
use crate::redis::script::{self, Call};

/// Who does the upkeep, and for how long it is theirs.
#[derive(Clone, Debug)]
pub struct Upkeeper {
    pub worker: String,
    pub lock: Duration,
}

/// What a promotion did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promotion {
    /// Another worker does the upkeep.
    Standby,
    /// `next_due`: the wait until the next job is due, `None` when none is scheduled. `unlock`: unique keys of jobs that were out
    /// of time and died, with their jobs.
    Promoted {
        count: u64,
        next_due: Option<Duration>,
        unlock: Vec<(String, JobId)>,
        /// How long the most overdue of them had been due.
        late: Duration,
        /// Due, and out of time: dead.
        expired: u64,
        /// The wait until [`Broker::admit_due`] has something to do, `None` when it has not.
        rated: Option<Duration>,
    },
}

/// What a reclaim did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Another worker does the upkeep.
    Standby,
    /// `next` is `None` at the end of the last lane. `unlock`: unique keys of jobs that died, with their jobs.
    Swept {
        next: Option<SweepCursor>,
        reclaimed: u64,
        dead: u64,
        unlock: Vec<(String, JobId)>,
    },
}

/// Where a sweep goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepCursor {
    /// The lane's number, from 1.
    lane: i64,
    entry: String,
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

/// A wait in microseconds; what is negative never comes.
pub(super) fn wait_of(us: i64) -> Option<Duration> {
    u64::try_from(us).ok().map(Duration::from_micros)
}

impl Broker {
    /// Scheduled -> ready or held, or dead if it is out of time, up to `limit` due jobs.
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
            .key("suspects", &keys.suspects)
            .key("dead", &keys.dead)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("events", &keys.events)
            .key("lock", &keys.upkeep)
            .keys(keys.of_groups())
            .keys(keys.of_priorities())
            .text("worker", &by.worker)
            .number("lock_ms", millis(by.lock).cast_signed())
            .number("limit", limit as i64)
            .bytes("wake", keys.wake.clone());
        let reply = self.redis.call(call, patience).await?;
        if reply.status == Status::Standby {
            return Ok(Promotion::Standby);
        }
        Ok(Promotion::Promoted {
            count: reply.count(1)?,
            next_due: wait_of(reply.number(2)?),
            unlock: names_and_ids(reply.list(3)?),
            late: Duration::from_micros(reply.count(4)?),
            expired: reply.count(5)?,
            rated: wait_of(reply.number(6)?),
        })
    }

    /// Running -> ready or dead: one step of a sweep over all lanes for deliveries that were not renewed for `lease`.
    pub async fn reclaim(
        &self,
        by: &Upkeeper,
        lease: Duration,
        from: Option<&SweepCursor>,
        patience: Patience,
    ) -> Result<Sweep> {
        let keys = &self.keys;
        let mut call = Call::new(&script::RECLAIM)
            .key("next", &keys.next)
            .key("suspects", &keys.suspects)
            .key("dead", &keys.dead)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("events", &keys.events)
            .key("lock", &keys.upkeep)
            .keys(keys.of_groups())
            .key("ready", &keys.ready)
            .keys(keys.of_priorities());
        for lane in Lane::ALL {
            call.push_key("lanes", keys.lane(lane));
        }
        let call = call
            .text("group", GROUP)
            .text("worker", &by.worker)
            .number("lock_ms", millis(by.lock).cast_signed())
            .number("lease_ms", millis(lease).cast_signed())
            .number("stalls", config::STALLS_MAX.into())
            .number("lane", from.map_or(1, |from| from.lane))
            .text("cursor", from.map_or("0-0", |from| &from.entry))
            .number("limit", 100)
            .bytes("wake", keys.wake.clone());
        let reply = self.redis.call(call, patience).await?;
        if reply.status == Status::Standby {
            return Ok(Sweep::Standby);
        }
        let lane = reply.number(1)?;
        let next = (lane > 0).then_some(SweepCursor {
            lane,
            entry: reply.text(2)?.to_owned(),
        });
        let unlock = names_and_ids(reply.list(5)?);
        Ok(Sweep::Swept {
            next,
            reclaimed: reply.count(3)?,
            dead: reply.count(4)?,
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

    /// Gives up the upkeep, if it is `worker`'s, so that the next one need not wait until the lock lapses.
    pub async fn resign(&self, worker: &str, patience: Patience) -> Result<()> {
        let call = Call::new(&script::UNLOCK)
            .key("unique", &self.keys.upkeep)
            .text("ids", worker);
        self.redis.call(call, patience).await.map(drop)
    }

    /// Completed or dead -> gone, up to `limit` of each. An age of `None` leaves that kind alone.
    pub async fn prune(
        &self,
        completed: Option<Duration>,
        dead: Option<Duration>,
        producers: Option<Duration>,
        cursor: Option<&str>,
        limit: usize,
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
            .key("progress", &keys.progress)
            .number("completed_age_ms", age(completed))
            .number("dead_age_ms", age(dead))
            .number("producer_age_ms", age(producers))
            .text("cursor", cursor.unwrap_or("0"))
            .number("limit", limit as i64);
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
}

/// Reads `{unique key, job id, …}`.
fn names_and_ids(pairs: &[Value]) -> Vec<(String, JobId)> {
    let pairs = pairs.chunks_exact(2);
    pairs
        .filter_map(|pair| Some((text_of(&pair[0])?.to_owned(), text_of(&pair[1])?.into())))
        .collect()
}
