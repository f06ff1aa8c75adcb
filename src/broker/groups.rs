//! What limits the queue and its groups, and the jobs that wait for their turn.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::upkeep::wait_of;
use super::{Broker, Caller};
use crate::error::{Error, Result};
use crate::job::JobId;
use crate::keys::{GROUP, Lane};
use crate::redis::Patience;
use crate::redis::reply::{Reply, number_of};
use crate::redis::script::{self, Call};

/// What becomes of the order of a group's jobs when one of them has to be tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupOrder {
    /// The next job of the group runs while the failed one waits for its retry. The default.
    #[default]
    Free,
    /// A job that waits for its retry, or was snoozed, keeps its place: at a concurrency of 1 no job of the group overtakes it.
    Block,
}

impl GroupOrder {
    /// The word in settings and in the `limits` key.
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Block => "block",
        }
    }
}

impl Broker {
    /// Sets limits of the queue, or of one group. A value of `""` takes a setting away. Returns how many were not as they should be.
    pub async fn limit(
        &self,
        group: Option<&str>,
        settings: &[(&str, String)],
        patience: Patience,
    ) -> Result<u64> {
        let mut call = Call::new(&script::LIMIT)
            .key("limits", &self.keys.limits)
            .key("events", &self.keys.events)
            .text("group", group.unwrap_or_default())
            .bytes("wake", self.keys.wake.clone());
        for (name, value) in settings {
            call = call.text("settings", name).text("settings", value);
        }
        self.redis.call(call, patience).await?.count(1)
    }

    /// Held -> ready, as far as groups have room: one step of a walk over the groups, from `from` or the first one on. Returns how
    /// many were admitted, and where to go on; `None` at the end.
    pub async fn admit(
        &self,
        from: Option<&str>,
        limit: usize,
        patience: Patience,
    ) -> Result<(u64, Option<String>)> {
        let reply = self.admit_call(from, limit, false, patience).await?;
        let next = Some(reply.text(2)?).filter(|next| !next.is_empty());
        Ok((reply.count(1)?, next.map(str::to_owned)))
    }

    /// Held -> ready in groups with a rate whose time has come, up to about `limit` groups and jobs. Returns how many were admitted,
    /// and the wait until there is more to do; `None` when there is nothing more.
    pub async fn admit_due(
        &self,
        limit: usize,
        patience: Patience,
    ) -> Result<(u64, Option<Duration>)> {
        let reply = self.admit_call(None, limit, true, patience).await?;
        Ok((reply.count(1)?, wait_of(reply.number(3)?)))
    }

    async fn admit_call(
        &self,
        from: Option<&str>,
        limit: usize,
        due: bool,
        patience: Patience,
    ) -> Result<Reply> {
        let keys = &self.keys;
        let call = Call::new(&script::ADMIT)
            .keys(keys.of_groups())
            .key("lane", &keys.ready)
            .key("suspects", &keys.suspects)
            .key("dead", &keys.dead)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("events", &keys.events)
            .keys(keys.of_priorities())
            .text("from", from.unwrap_or_default())
            .number("limit", limit as i64)
            .number("due", due.into());
        self.redis.call(call, patience).await
    }

    /// How many jobs of each group are held, up to 1,000 groups.
    pub async fn backlog(&self, groups: &[String], patience: Patience) -> Result<Vec<u64>> {
        let mut call = Call::new(&script::BACKLOG).key("held", &self.keys.held);
        for group in groups {
            call = call.text("names", group);
        }
        let reply = self.redis.call(call, patience).await?;
        let counts = reply.list(1)?.iter().filter_map(number_of);
        Ok(counts.map(i64::unsigned_abs).collect())
    }

    /// Scheduled, held, ready, running or dead -> gone, as many of up to 1,000 ids as one call takes; those of other groups are passed
    /// over. `total`: more than 0 tells in an event that so many were purged in all.
    pub async fn group_purge(
        &self,
        caller: &mut Caller,
        group: &str,
        ids: &[JobId],
        total: u64,
        patience: Patience,
    ) -> Result<GroupPurged> {
        let keys = &self.keys;
        let call = Call::new(&script::GROUP_PURGE)
            .key("scheduled", &keys.scheduled)
            .key("dead", &keys.dead)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("events", &keys.events)
            .key("producers", &keys.producers)
            .key("lane", keys.lane(Lane::Ready))
            .key("next", &keys.next)
            .key("suspects", &keys.suspects)
            .keys(keys.of_groups())
            .keys(keys.of_priorities())
            .key("progress", &keys.progress);
        let mut call = caller
            .sign(call.text("group", GROUP))
            .text("of_group", group)
            .number("total", total.cast_signed())
            .bytes("wake", keys.wake.clone());
        for id in ids {
            call = call.text("ids", id.as_str());
        }
        let reply = self.redis.call(call, patience).await?;
        let answer = reply.done()?.text(1)?;
        let answer: Purged = serde_json::from_str(answer).map_err(|error| Error::Protocol {
            operation: "group_purge",
            reason: format!("{answer:?}: {error}"),
        })?;
        let pairs = answer.unlock.chunks_exact(2);
        let pairs = pairs.map(|pair| (pair[0].clone(), pair[1].as_str().into()));
        Ok(GroupPurged {
            purged: answer.purged,
            looked: answer.looked,
            unlock: pairs.collect(),
        })
    }
}

/// What one call of a group's purge did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPurged {
    pub purged: u64,
    /// So many of the first ids were dealt with, at least one if there was one.
    pub looked: usize,
    /// Unique keys that the jobs held and that may be released, with the jobs.
    pub unlock: Vec<(String, JobId)>,
}

/// What `lua/group_purge.lua` answers.
#[derive(Deserialize)]
struct Purged {
    purged: u64,
    looked: usize,
    /// Unique key, job, and so on.
    #[serde(default)]
    unlock: Vec<String>,
}
