//! What a doctor does: look for what does not fit together, and mend it.

use std::collections::BTreeSet;

use super::Broker;
use crate::error::Result;
use crate::keys::{GROUP, Lane};
use crate::redis::Patience;
use crate::redis::reply::{Value, number_of, text_of};
use crate::redis::script::{self, Call};

/// A part of a queue that is looked through in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Records of jobs.
    Jobs,
    /// Payloads of jobs that are off the streams.
    Payloads,
    /// Members of `scheduled`.
    Scheduled,
    /// Members of `dead`.
    Dead,
    /// Buckets and times of groups with a rate.
    Rates,
    /// Groups with held jobs.
    Waiting,
    /// What handlers have told of jobs.
    Progress,
    /// Entries of a lane.
    Entries(Lane),
    /// Pending entries of a lane.
    Pending(Lane),
    /// Slots of the jobs on a lane, and nothing else about them.
    Slots(Lane),
    /// Slots of scheduled jobs, and nothing else about them.
    Kept,
}

impl Part {
    /// Every part of a queue. Slots are told with the entries and with what is scheduled.
    pub fn all() -> Vec<Self> {
        let mut parts = vec![Self::Jobs, Self::Payloads, Self::Scheduled, Self::Dead];
        for lane in Lane::ALL {
            parts.extend([Self::Entries(lane), Self::Pending(lane)]);
        }
        // Last: what was mended before may have taken jobs away.
        parts.extend([Self::Rates, Self::Waiting, Self::Progress]);
        parts
    }

    fn name(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Payloads => "payloads",
            Self::Scheduled => "scheduled",
            Self::Dead => "dead",
            Self::Rates => "rates",
            Self::Waiting => "waiting",
            Self::Progress => "progress",
            Self::Entries(_) => "entries",
            Self::Pending(_) => "pending",
            Self::Slots(_) => "slots",
            Self::Kept => "kept",
        }
    }

    /// The number of its lane for the scripts, from 1.
    pub(crate) fn lane(self) -> i64 {
        match self {
            Self::Entries(lane) | Self::Pending(lane) | Self::Slots(lane) => {
                lane.index() as i64 + 1
            }
            _ => 1,
        }
    }
}

/// What one step of an audit found.
#[derive(Clone, Debug)]
pub struct AuditStep {
    /// Where to go on; `None` at the end of the part.
    pub cursor: Option<String>,
    pub looked: u64,
    pub bytes: u64,
    /// A word for what is wrong, and the id of what it is wrong with.
    pub wrong: Vec<(String, String)>,
    /// Groups, and the ids of their jobs on a lane or scheduled that have a slot.
    pub slots: Vec<(String, String)>,
}

/// Where a job with a slot was found: its lane and its entry, or `None` and its id for a scheduled one.
pub type SlotHolder = (Option<Lane>, String);

/// How many slots a group has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recounted {
    /// What is stored; `None` for nothing.
    pub told: Option<String>,
    /// What is right; `None` when it is in doubt.
    pub counted: Option<u64>,
}

impl Broker {
    /// Looks at about `limit` things of `part` and changes nothing.
    pub async fn audit(
        &self,
        part: Part,
        cursor: Option<&str>,
        limit: usize,
        patience: Patience,
    ) -> Result<AuditStep> {
        let keys = &self.keys;
        let mut call = Call::new(&script::AUDIT)
            .key("scheduled", &keys.scheduled)
            .key("dead", &keys.dead)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("held", &keys.held)
            .key("groups", &keys.groups)
            .key("limits", &keys.limits)
            .key("rates", &keys.rates)
            .key("progress", &keys.progress);
        for lane in Lane::ALL {
            call.push_key("lanes", keys.lane(lane));
        }
        let call = call
            .text("group", GROUP)
            .text("part", part.name())
            .number("lane", part.lane())
            .text("cursor", cursor.unwrap_or("0"))
            .number("limit", limit as i64);
        let reply = self.redis.call(call, patience).await?;
        let pairs = |list: &[Value]| {
            let pairs = list.chunks_exact(2).filter_map(|pair| {
                let (first, second) = (text_of(&pair[0])?, text_of(&pair[1])?);
                Some((first.to_owned(), second.to_owned()))
            });
            pairs.collect::<Vec<_>>()
        };
        Ok(AuditStep {
            cursor: Some(reply.text(1)?)
                .filter(|cursor| *cursor != "0")
                .map(str::to_owned),
            looked: reply.count(2)?,
            bytes: reply.count(3)?,
            wrong: pairs(reply.list(4)?),
            slots: pairs(reply.list(5)?),
        })
    }

    /// Counts the slots of groups at one moment, from what a walk over the queue has found of them and what has come to the lanes since,
    /// up to `limit` entries; `None`: more has come. `kept`: how many retries and snoozes there had been before the walk, in a queue
    /// whose groups keep their order. With `mend` what is wrong is put right.
    pub async fn recount(
        &self,
        kept: Option<u64>,
        mend: bool,
        limit: usize,
        tails: &[String],
        found: &[(&String, &BTreeSet<SlotHolder>)],
        patience: Patience,
    ) -> Result<Option<Vec<Recounted>>> {
        let keys = &self.keys;
        let mut call = Call::new(&script::RECOUNT)
            .key("scheduled", &keys.scheduled)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("events", &keys.events)
            .keys(keys.of_groups())
            .key("ready", &keys.ready)
            .key("suspects", &keys.suspects)
            .keys(keys.of_priorities());
        for lane in Lane::ALL {
            call.push_key("lanes", keys.lane(lane));
        }
        let mut call = call
            .text("kept", &kept.map_or(String::new(), |kept| kept.to_string()))
            .number("mend", mend.into())
            .number("limit", limit as i64);
        for tail in tails {
            call = call.text("found", tail);
        }
        for (group, holders) in found {
            call = call
                .text("found", group)
                .number("found", holders.len() as i64);
            for (lane, id) in *holders {
                let lane = lane.map_or(0, |lane| lane.index() as i64 + 1);
                call = call.number("found", lane).text("found", id);
            }
        }
        let reply = self.redis.call(call, patience).await?;
        reply.done()?;
        if reply.number(1)? == 1 {
            return Ok(None);
        }
        let judged = reply.list(2)?.chunks_exact(2).map(|pair| Recounted {
            told: text_of(&pair[0])
                .filter(|told| !told.is_empty())
                .map(str::to_owned),
            counted: number_of(&pair[1]).and_then(|count| u64::try_from(count).ok()),
        });
        Ok(Some(judged.collect()))
    }

    /// Mends those of `ids` that still ail from `kind`. Returns how many.
    pub async fn mend(
        &self,
        part: Part,
        kind: &str,
        ids: &[String],
        patience: Patience,
    ) -> Result<u64> {
        let keys = &self.keys;
        let mut call = Call::new(&script::MEND)
            .key("scheduled", &keys.scheduled)
            .key("dead", &keys.dead)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("held", &keys.held)
            .key("groups", &keys.groups)
            .key("limits", &keys.limits)
            .key("rates", &keys.rates)
            .key("stats", &keys.stats)
            .key("events", &keys.events)
            .key("next", &keys.next)
            .key("ready", &keys.ready)
            .key("suspects", &keys.suspects)
            .keys(keys.of_priorities())
            .key("progress", &keys.progress);
        for lane in Lane::ALL {
            call.push_key("lanes", keys.lane(lane));
        }
        let mut call = call
            .text("group", GROUP)
            .bytes("wake", keys.wake.clone())
            .text("kind", kind)
            .number("lane", part.lane());
        for id in ids {
            call = call.text("ids", id);
        }
        self.redis.call(call, patience).await?.done()?.count(1)
    }
}
