//! What operators do: move and remove jobs, pause, count.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::{Broker, Caller};
use crate::error::{Error, Result};
use crate::job::state::State;
use crate::job::{JobId, JobUpdate, NewJob, Priority, millis};
use crate::keys::{GROUP, Lane};
use crate::redis::Patience;
use crate::redis::reply::{Reply, Status, Value, number_of, text_of};
use crate::redis::script::{self, Call};

/// A queue's counts as the script gives them.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub ready: u64,
    /// The same, lane by lane, in the order of [`Lane::ALL`].
    pub ready_by_lane: Vec<(Lane, u64)>,
    pub running: u64,
    pub scheduled: u64,
    pub dead: u64,
    pub held: u64,
    pub paused: bool,
    pub oldest_ready: Option<Duration>,
    pub counters: HashMap<String, u64>,
    /// Workers that claim nothing, and the targets that are down.
    pub open_circuits: Vec<(String, String)>,
    /// How long the most overdue scheduled job has been due.
    pub overdue: Duration,
    /// Since when no worker has looked for silent ones; `None` when none ever did.
    pub swept_ago: Option<Duration>,
}

/// What the update script is told; see `lua/update.lua`.
#[derive(Default, Serialize)]
struct Changes<'a> {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    payload: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
}

/// What keeps workers from reading the lanes as they come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gates {
    /// Nothing is claimed.
    pub paused: bool,
    /// The queue's concurrency or rate is limited.
    pub limited: bool,
}

/// What [`Broker::look`] sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    pub gates: Gates,
    /// Jobs with a priority of their own wait or run.
    pub prioritised: bool,
    /// A suspect waits.
    pub suspected: bool,
}

impl Broker {
    /// Scheduled or held -> ready, ahead of the others; or held, ahead of the others of its group, when that has no room.
    pub async fn run_now(&self, caller: &mut Caller, id: &JobId, patience: Patience) -> Result<()> {
        let keys = &self.keys;
        let call = Call::new(&script::RUN_NOW)
            .key("scheduled", &keys.scheduled)
            .key("next", &keys.next)
            .key("suspects", &keys.suspects)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("producers", &keys.producers)
            .keys(keys.of_groups())
            .key("stats", &keys.stats)
            .key("lane", &keys.ready)
            .keys(keys.of_priorities());
        let call = caller
            .sign(call)
            .text("job_id", id.as_str())
            .bytes("wake", keys.wake.clone());
        self.moved(&self.redis.call(call, patience).await?, id, "run now")
    }

    /// Any unfinished state -> cancelled. `unique`: the key that the job holds, if it holds one. Returns the state before.
    pub async fn cancel(
        &self,
        caller: &mut Caller,
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
            .key("producers", &keys.producers)
            .key("lane", &keys.ready)
            .key("next", &keys.next)
            .key("suspects", &keys.suspects)
            .keys(keys.of_groups())
            .keys(keys.of_priorities())
            .key("progress", &keys.progress);
        if let Some(unique) = unique {
            call.push_key("unique", &keys.unique(unique));
        }
        let call = caller
            .sign(call.text("group", GROUP))
            .text("job_id", id.as_str())
            .bytes("wake", keys.wake.clone());
        let reply = self.redis.call(call, patience).await?;
        self.moved(&reply, id, "cancelled")?;
        Ok(match reply.text(1)? {
            "scheduled" => State::Scheduled,
            "held" => State::Held,
            "running" => State::Running,
            _ => State::Ready,
        })
    }

    /// Changes a job that waits: scheduled -> scheduled, ready -> ready or scheduled, held -> held or scheduled. Returns the state after. `job`: the name that
    /// it had when it was looked at, and what seals its payload.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongState`]: nothing was changed. `None`: it has another name meanwhile; look again.
    pub async fn update(
        &self,
        caller: &mut Caller,
        id: &JobId,
        name: &str,
        update: &JobUpdate,
        patience: Patience,
    ) -> Result<Option<State>> {
        let keys = &self.keys;
        let mut changes = Changes {
            priority: update.priority.map(Priority::name),
            delay_ms: update.delay.map(millis),
            ..Changes::default()
        };
        let mut payload = Bytes::new();
        if let Some(plain) = &update.payload {
            let job = NewJob::raw(name, plain.clone());
            let sealed = self.seal.close(&self.queue, &job)?;
            payload = sealed.payload.clone();
            changes.payload = true;
            changes.name = Some(name);
            changes.sealed = sealed.meta.sealed.clone();
        }
        let call = Call::new(&script::UPDATE)
            .key("scheduled", &keys.scheduled)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("events", &keys.events)
            .key("producers", &keys.producers)
            .key("lane", &keys.ready)
            .key("next", &keys.next)
            .key("suspects", &keys.suspects)
            .keys(keys.of_groups())
            .keys(keys.of_priorities())
            .text("group", GROUP);
        let changes = serde_json::to_string(&changes).expect("plain strings and numbers");
        let call = caller
            .sign(call)
            .text("job_id", id.as_str())
            .bytes("wake", keys.wake.clone())
            .text("changes", &changes)
            .bytes("payload", payload);
        let reply = self.redis.call(call, patience).await?;
        if reply.status == Status::Stale {
            return Ok(None);
        }
        self.moved(&reply, id, "changed")?;
        Ok(Some(match reply.text(1)? {
            "scheduled" => State::Scheduled,
            "held" => State::Held,
            _ => State::Ready,
        }))
    }

    /// Dead -> ready or held, up to 1,000 ids. Returns how many were dead.
    pub async fn redrive(
        &self,
        caller: &mut Caller,
        ids: &[JobId],
        patience: Patience,
    ) -> Result<u64> {
        let (mut redriven, mut rest) = (0, ids);
        while !rest.is_empty() {
            let (done, looked) = self.redrive_some(caller, rest, patience).await?;
            redriven += done;
            rest = rest.get(looked..).unwrap_or_default();
        }
        Ok(redriven)
    }

    /// As many of the first `ids` as one call takes: how many were dead, and how many were looked at, at least one.
    async fn redrive_some(
        &self,
        caller: &mut Caller,
        ids: &[JobId],
        patience: Patience,
    ) -> Result<(u64, usize)> {
        let keys = &self.keys;
        let call = Call::new(&script::REDRIVE)
            .key("dead", &keys.dead)
            .key("lane", &keys.ready)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("events", &keys.events)
            .key("producers", &keys.producers)
            .keys(keys.of_groups())
            .keys(keys.of_priorities());
        let call = caller.sign(call).bytes("wake", keys.wake.clone());
        self.done_and_looked("redrive", call, ids, patience).await
    }

    /// Dead -> gone, up to 1,000 ids. Returns how many were dead.
    pub async fn purge(
        &self,
        caller: &mut Caller,
        ids: &[JobId],
        patience: Patience,
    ) -> Result<u64> {
        let (mut purged, mut rest) = (0, ids);
        while !rest.is_empty() {
            let (done, looked) = self.purge_some(caller, rest, patience).await?;
            purged += done;
            rest = rest.get(looked..).unwrap_or_default();
        }
        Ok(purged)
    }

    /// As [`Broker::redrive_some`].
    async fn purge_some(
        &self,
        caller: &mut Caller,
        ids: &[JobId],
        patience: Patience,
    ) -> Result<(u64, usize)> {
        let keys = &self.keys;
        let call = Call::new(&script::PURGE)
            .key("dead", &keys.dead)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("events", &keys.events)
            .key("producers", &keys.producers)
            .key("progress", &keys.progress);
        let call = caller.sign(call);
        self.done_and_looked("purge", call, ids, patience).await
    }

    /// Sends a call that deals with some of the first `ids`, and says with how many: how many it did it to, and how many it looked
    /// at.
    async fn done_and_looked(
        &self,
        operation: &'static str,
        mut call: Call,
        ids: &[JobId],
        patience: Patience,
    ) -> Result<(u64, usize)> {
        for id in ids {
            call = call.text("ids", id.as_str());
        }
        let reply = self.redis.call(call, patience).await?;
        let told = reply.done()?.text(1)?;
        let read = told.split_once(' ').and_then(|(done, looked)| {
            let looked = looked.parse().ok().filter(|looked| *looked > 0)?;
            Some((done.parse().ok()?, looked))
        });
        read.ok_or_else(|| Error::Protocol {
            operation,
            reason: format!("{told:?} is no number done and looked at"),
        })
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

    /// Lets the queue have at most `max_depth` unfinished jobs, or as many as come.
    pub async fn set_max_depth(&self, max_depth: Option<u64>, patience: Patience) -> Result<()> {
        let value = max_depth.map(|jobs| jobs.to_string()).unwrap_or_default();
        self.limit(None, &[("max_depth", value)], patience)
            .await
            .map(drop)
    }

    pub async fn max_depth(&self, patience: Patience) -> Result<Option<u64>> {
        let args = vec![self.keys.limits.as_str().into(), "max_depth".into()];
        let set = self.redis.command("HGET", args, patience).await?;
        Ok(number_of(&set).and_then(|jobs| u64::try_from(jobs).ok()))
    }

    /// What a worker has to know before it reads the lanes, and of what is there more than it reads.
    pub async fn look(&self, patience: Patience) -> Result<Look> {
        let keys = &self.keys;
        let call = Call::new(&script::LOOK)
            .key("limits", &keys.limits)
            .key("suspects", &keys.suspects)
            .key("high", &keys.high)
            .key("low", &keys.low)
            .text("group", GROUP);
        let reply = self.redis.call(call, patience).await?;
        let is = |nth| Ok::<_, Error>(reply.number(nth)? != 0);
        Ok(Look {
            gates: Gates {
                paused: is(1)?,
                limited: is(2)?,
            },
            prioritised: is(3)?,
            suspected: is(4)?,
        })
    }

    pub async fn is_paused(&self, patience: Patience) -> Result<bool> {
        self.look(patience).await.map(|look| look.gates.paused)
    }

    /// What is set for the queue: the fields of `limits` that are asked for.
    pub async fn limits_set<const N: usize>(
        &self,
        fields: [&str; N],
        patience: Patience,
    ) -> Result<[Option<String>; N]> {
        let fields = fields.map(Value::from);
        let args = [self.keys.limits.as_str().into()].into_iter().chain(fields);
        let set = self
            .redis
            .command("HMGET", args.collect(), patience)
            .await?;
        let set = match set {
            Value::Array(set) => set,
            _ => Vec::new(),
        };
        Ok(std::array::from_fn(|nth| {
            set.get(nth).and_then(text_of).map(str::to_owned)
        }))
    }

    /// The queue's counts at one moment.
    pub async fn stats(&self, patience: Patience) -> Result<Counts> {
        let keys = &self.keys;
        let mut call = Call::new(&script::STATS)
            .key("scheduled", &keys.scheduled)
            .key("dead", &keys.dead)
            .key("held", &keys.held)
            .key("limits", &keys.limits)
            .key("stats", &keys.stats)
            .key("circuits", &keys.circuits);
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
            ready_by_lane: Lane::ALL
                .into_iter()
                .zip(reply.list(12)?)
                .filter_map(|(lane, ready)| Some((lane, u64::try_from(number_of(ready)?).ok()?)))
                .collect(),
            running: reply.count(2)?,
            scheduled: reply.count(3)?,
            dead: reply.count(4)?,
            held: reply.count(5)?,
            paused: reply.count(6)? > 0,
            oldest_ready: u64::try_from(reply.number(7)?)
                .ok()
                .map(Duration::from_millis),
            counters: counters.collect(),
            open_circuits: reply
                .list(9)?
                .iter()
                .filter_map(|circuit| {
                    let (worker, target) = text_of(circuit)?.split_once(' ')?;
                    Some((worker.to_owned(), target.to_owned()))
                })
                .collect(),
            overdue: Duration::from_millis(reply.count(10)?),
            swept_ago: u64::try_from(reply.number(11)?)
                .ok()
                .map(Duration::from_millis),
        })
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
}
