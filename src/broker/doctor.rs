//! What a doctor does: look for what does not fit together, and mend it.

use super::Broker;
use crate::error::Result;
use crate::keys::{GROUP, Lane};
use crate::redis::Patience;
use crate::redis::reply::text_of;
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
    /// Slots of groups.
    Groups,
    /// What handlers have told of jobs.
    Progress,
    /// Entries of a lane.
    Entries(Lane),
    /// Pending entries of a lane.
    Pending(Lane),
}

impl Part {
    /// Every part of a queue.
    pub fn all() -> Vec<Self> {
        let mut parts = vec![Self::Jobs, Self::Payloads, Self::Scheduled, Self::Dead];
        for lane in Lane::ALL {
            parts.extend([Self::Entries(lane), Self::Pending(lane)]);
        }
        // Last: what was mended before has had to do with slots, and may have taken jobs away.
        parts.extend([Self::Groups, Self::Progress]);
        parts
    }

    fn name(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Payloads => "payloads",
            Self::Scheduled => "scheduled",
            Self::Dead => "dead",
            Self::Groups => "groups",
            Self::Progress => "progress",
            Self::Entries(_) => "entries",
            Self::Pending(_) => "pending",
        }
    }

    /// The number of its lane for the scripts, from 1.
    pub(crate) fn lane(self) -> i64 {
        match self {
            Self::Entries(lane) | Self::Pending(lane) => lane.index() as i64 + 1,
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
    /// A word for what is wrong, and a job's or an entry's id.
    pub wrong: Vec<(String, String)>,
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
        let wrong = reply.list(4)?.chunks_exact(2).filter_map(|pair| {
            let (kind, id) = (text_of(&pair[0])?, text_of(&pair[1])?);
            Some((kind.to_owned(), id.to_owned()))
        });
        Ok(AuditStep {
            cursor: Some(reply.text(1)?)
                .filter(|cursor| *cursor != "0")
                .map(str::to_owned),
            looked: reply.count(2)?,
            bytes: reply.count(3)?,
            wrong: wrong.collect(),
        })
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
