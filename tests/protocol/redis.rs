//! What Redis holds of one queue, and what each script makes of it in one step.
//!
//! A job is a number. What no decision hangs on is left out: payloads, names, counters, the order of the lanes. Entry
//! ids count up over both lanes, so an id here stands for a lane and an id.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub(crate) type Job = u8;
pub(crate) type EntryId = u8;

/// At this number of stalls a job is dead. Three in the engine; two make the same decisions in fewer steps.
pub(crate) const STALLS_MAX: u8 = 2;

/// One start of one worker process: new at every start, as the engine's consumer names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Consumer {
    pub(crate) worker: u8,
    pub(crate) start: u8,
}

/// Who numbers its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Caller {
    Producer,
    Worker(Consumer),
}

/// What a worker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Delivery {
    pub(crate) entry: EntryId,
    pub(crate) job: Job,
}

/// The script that is called, with what it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Script {
    Enqueue(Job),
    Complete(Vec<Delivery>),
    Retry(Delivery),
    Release(Delivery),
}

/// A numbered call on its way to Redis.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Call {
    pub(crate) caller: Caller,
    pub(crate) number: u8,
    pub(crate) script: Script,
}

impl Call {
    /// The deliveries that it would end.
    pub(crate) fn deliveries(&self) -> &[Delivery] {
        match &self.script {
            Script::Enqueue(_) => &[],
            Script::Complete(deliveries) => deliveries,
            Script::Retry(delivery) | Script::Release(delivery) => std::slice::from_ref(delivery),
        }
    }
}

impl fmt::Display for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {}", self.worker)?;
        match self.start {
            0 => Ok(()),
            again => write!(f, " (started again: {again})"),
        }
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} (job {})", self.entry, self.job)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.script {
            Script::Enqueue(job) => write!(f, "enqueue of job {job}")?,
            Script::Complete(_) => write!(f, "complete of ")?,
            Script::Retry(_) => write!(f, "retry of ")?,
            Script::Release(_) => write!(f, "release of ")?,
        }
        for (place, delivery) in self.deliveries().iter().enumerate() {
            let and = if place > 0 { " and " } else { "" };
            write!(f, "{and}{delivery}")?;
        }
        match self.caller {
            Caller::Producer => write!(f, ", the producer's call {}", self.number),
            Caller::Worker(by) => write!(f, ", call {} of {by}", self.number),
        }
    }
}

/// The reply to a call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Answer {
    /// Carried out, but for these deliveries, which were not live.
    Ok { lost: Vec<EntryId> },
    /// A later call of this caller was carried out already.
    Old,
}

/// What an entry or a record says of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Fields {
    pub(crate) job: Job,
    pub(crate) stalls: u8,
}

/// A pending entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pending {
    pub(crate) consumer: Consumer,
    /// Not renewed for longer than the lease.
    pub(crate) silent: bool,
}

/// Which of the protocol's rules hold. Without any of them it must be found wanting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// A delivery is ended by its entry id, and not by its job's id.
    pub(crate) fence: bool,
    /// Ending a delivery and writing what follows are one step.
    pub(crate) one_step: bool,
    /// A call that is sent again is recognised by its number.
    pub(crate) numbers: bool,
}

/// One queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Redis {
    /// The streams `ready` and `ready:next`.
    pub(crate) entries: BTreeMap<EntryId, Fields>,
    /// The pending entries list of the consumer group.
    pub(crate) pending: BTreeMap<EntryId, Pending>,
    pub(crate) scheduled: BTreeMap<Job, Fields>,
    pub(crate) dead: BTreeMap<Job, Fields>,
    /// The last number and answer of each caller.
    pub(crate) producers: BTreeMap<Caller, (u8, Answer)>,
    last_id: EntryId,
}

/// A delivery that a script ended: how it came about, and what has become of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ended {
    pub(crate) delivery: Delivery,
    /// What was taken out of the stream.
    pub(crate) taken: Fields,
    /// The entry that was named in the call was pending when the call came.
    pub(crate) was_live: bool,
}

impl Redis {
    /// `XADD *`.
    fn add(&mut self, fields: Fields) {
        self.last_id += 1;
        self.entries.insert(self.last_id, fields);
    }

    /// `take` of `lua/lib/settle.lua`: XRANGE, XACK, XDEL; `None` when this delivery is no longer the live one.
    fn take(&mut self, rules: Rules, delivery: Delivery) -> Option<Ended> {
        let was_live = self.pending.contains_key(&delivery.entry);
        let entry = if rules.fence {
            delivery.entry
        } else {
            let of_job = |entry: &&EntryId| self.entries[*entry].job == delivery.job;
            *self.pending.keys().find(of_job)?
        };
        self.pending.remove(&entry)?;
        let taken = self.entries.remove(&entry)?;
        Some(Ended {
            delivery,
            taken,
            was_live,
        })
    }

    /// What `lua/complete.lua` does to the stream: one XACK for all; then XDEL, which tells the stale ones.
    fn complete(&mut self, deliveries: &[Delivery]) -> Vec<Ended> {
        let acked = deliveries.iter().map(|delivery| {
            let was_live = self.pending.remove(&delivery.entry).is_some();
            (*delivery, was_live)
        });
        let acked: Vec<_> = acked.collect();
        let deleted = acked.into_iter().filter_map(|(delivery, was_live)| {
            let taken = self.entries.remove(&delivery.entry)?;
            Some(Ended {
                delivery,
                taken,
                was_live,
            })
        });
        deleted.collect()
    }

    /// `replayed` of `lua/lib/replay.lua`.
    fn replayed(&self, rules: Rules, call: &Call) -> Option<Answer> {
        let (number, answer) = self.producers.get(&call.caller)?;
        match call.number.cmp(number) {
            _ if !rules.numbers => None,
            std::cmp::Ordering::Greater => None,
            std::cmp::Ordering::Equal => Some(answer.clone()),
            std::cmp::Ordering::Less => Some(Answer::Old),
        }
    }

    /// `lua/enqueue.lua`, `lua/complete.lua`, `lua/retry.lua` and `lua/release.lua` up to the point where deliveries have
    /// been ended; [`Redis::place`] does the rest. `Err`: the answer of a call that is not carried out again.
    pub(crate) fn settle(
        &mut self,
        rules: Rules,
        call: &Call,
    ) -> Result<(Vec<Ended>, Answer), Answer> {
        if let Some(answer) = self.replayed(rules, call) {
            return Err(answer);
        }
        let deliveries = call.deliveries();
        let ended: Vec<Ended> = match call.script {
            Script::Complete(_) if rules.fence => self.complete(deliveries),
            _ => {
                let each = deliveries.iter();
                each.filter_map(|delivery| self.take(rules, *delivery))
                    .collect()
            }
        };
        let is_lost = |delivery: &&Delivery| !ended.iter().any(|end| end.delivery == **delivery);
        let lost = deliveries.iter().filter(is_lost).map(|of| of.entry);
        let lost = lost.collect();
        if let Script::Enqueue(job) = call.script {
            self.add(Fields { job, stalls: 0 });
        }
        let answer = Answer::Ok { lost };
        // A retry or a release that comes too late changes nothing, and so is not remembered either.
        let may_be_nothing = matches!(call.script, Script::Retry(_) | Script::Release(_));
        if !may_be_nothing || !ended.is_empty() {
            self.producers
                .insert(call.caller, (call.number, answer.clone()));
        }
        Ok((ended, answer))
    }

    /// What becomes of a job whose delivery was ended: the second half of `retry` (`park`, `schedule`) and `release`
    /// (`place`). A completed job is gone.
    pub(crate) fn place(&mut self, script: &Script, fields: Fields) {
        match script {
            Script::Enqueue(_) | Script::Complete(_) => {}
            Script::Retry(_) => drop(self.scheduled.insert(fields.job, fields)),
            Script::Release(_) => self.add(fields),
        }
    }

    /// `XREADGROUP >`, or `lua/claim.lua`.
    pub(crate) fn claim(&mut self, entry: EntryId, consumer: Consumer) -> Delivery {
        let silent = false;
        self.pending.insert(entry, Pending { consumer, silent });
        let job = self.entries[&entry].job;
        Delivery { entry, job }
    }

    /// Entries that nobody has been given.
    pub(crate) fn ready(&self) -> impl Iterator<Item = EntryId> {
        let entries = self.entries.keys().copied();
        entries.filter(|entry| !self.pending.contains_key(entry))
    }

    /// `XCLAIM … JUSTID` of `lua/extend.lua`.
    pub(crate) fn extend(&mut self, entry: EntryId) {
        if let Some(pending) = self.pending.get_mut(&entry) {
            pending.silent = false;
        }
    }

    /// `lua/promote.lua`.
    pub(crate) fn promote(&mut self, job: Job) {
        if let Some(fields) = self.scheduled.remove(&job) {
            self.add(fields);
        }
    }

    /// `lua/reclaim.lua`: XAUTOCLAIM finds the entry silent; it is taken, charged, and placed anew or dead.
    pub(crate) fn reclaim(&mut self, rules: Rules, delivery: Delivery) -> Option<Fields> {
        let mut fields = self.take(rules, delivery)?.taken;
        fields.stalls += 1;
        if fields.stalls >= STALLS_MAX {
            self.dead.insert(fields.job, fields);
        } else {
            self.add(fields);
        }
        Some(fields)
    }

    /// Everything that is written down about `job`, one item for each home that it has.
    pub(crate) fn homes(&self, job: Job) -> impl Iterator<Item = &Fields> {
        let parked = self.scheduled.get(&job).into_iter();
        let on_streams = self.entries.values().filter(move |of| of.job == job);
        on_streams.chain(parked).chain(self.dead.get(&job))
    }

    /// Pending entries that do not exist.
    pub(crate) fn dangling(&self) -> BTreeSet<EntryId> {
        let pending = self.pending.keys().copied();
        pending
            .filter(|entry| !self.entries.contains_key(entry))
            .collect()
    }
}
