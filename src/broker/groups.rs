//! What limits the queue and its groups, and the jobs that wait for their turn.

use serde::{Deserialize, Serialize};

use super::Broker;
use crate::error::Result;
use crate::redis::Patience;
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
            .text("from", from.unwrap_or_default())
            .number("limit", limit as i64);
        let reply = self.redis.call(call, patience).await?;
        let next = Some(reply.text(2)?).filter(|next| !next.is_empty());
        Ok((reply.count(1)?, next.map(str::to_owned)))
    }
}
