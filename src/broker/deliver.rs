//! What workers do with a delivery: take it, renew it, hand it back, settle it where its handler failed.

use std::time::Duration;

use serde::Serialize;

use super::{Broker, Caller, Delivery, EntryId, cut, entry_ids};
use crate::config;
use crate::error::{Error, Result};
use crate::job::millis;
use crate::keys::{GROUP, Lane};
use crate::redis::Patience;
use crate::redis::reader::{RawEntry, raw_entry};
use crate::redis::reply::{Reply, Status, Value, number_of, text_of};
use crate::redis::script::{self, Call};

/// Why a job was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeathReason {
    Attempts,
    Refused,
    Expired,
}

impl DeathReason {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Refused => "refused",
            Self::Expired => "expired",
        }
    }
}

/// Whether a job was out of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It was, and is dead.
    Expired,
    /// Not yet. How long it has until its deadline, if it has one.
    In(Option<Duration>),
}

/// What is in the way of claiming more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InTheWay {
    /// As many jobs run as may run at once.
    Running,
    /// The rate, for so long.
    Rate(Duration),
    /// There are no more jobs. The last entry of each lane, if the queue is limited and none was claimed.
    Nothing(Vec<(Lane, String)>),
}

/// Of ten jobs that a worker takes, one is taken from the lane `low` first and one from `ready`: so neither starves, however many
/// jobs of high priority come.
const ROUND: usize = 10;
/// Their places in the ten, from 1.
const READY_COMES: usize = 5;
const LOW_COMES: usize = 10;

/// From which lanes the jobs `turn + 1` to `turn + limit` of a worker are taken, and how many at most from each. What was handed
/// back comes first of all; then low and normal ones as far as it is their turn, and what is left is taken in the order of the
/// priorities.
fn shares_by_priority(turn: usize, limit: usize) -> Vec<(Lane, usize)> {
    // How many of those places are among these jobs.
    let turns =
        |place: usize| (turn + limit + ROUND - place) / ROUND - (turn + ROUND - place) / ROUND;
    let mut shares = vec![(Lane::Next, limit)];
    for (lane, share) in [
        (Lane::Low, turns(LOW_COMES)),
        (Lane::Ready, turns(READY_COMES)),
    ] {
        if share > 0 {
            shares.push((lane, share));
        }
    }
    shares.extend([Lane::High, Lane::Ready, Lane::Low].map(|lane| (lane, limit)));
    shares
}

impl Broker {
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

    /// Ready -> running, exactly `limit` at most over the lanes of [`Lane::READ`]. Nothing from a paused queue.
    pub async fn claim(
        &self,
        consumer: &str,
        limit: usize,
        patience: Patience,
    ) -> Result<Vec<Delivery>> {
        let shares = Lane::READ.map(|lane| (lane, limit));
        self.claim_from(&shares, consumer, limit, patience).await
    }

    /// Ready -> running, exactly `limit` at most over the lanes of [`Lane::BY_PRIORITY`], for a worker that has taken `turn` jobs by
    /// priority before: see [`shares_by_priority`]. Nothing from a paused queue.
    pub async fn claim_by_priority(
        &self,
        consumer: &str,
        turn: usize,
        limit: usize,
        patience: Patience,
    ) -> Result<Vec<Delivery>> {
        let shares = shares_by_priority(turn, limit);
        self.claim_from(&shares, consumer, limit, patience).await
    }

    /// Ready -> running: one suspect, if there is one.
    pub async fn claim_suspect(
        &self,
        consumer: &str,
        patience: Patience,
    ) -> Result<Option<Delivery>> {
        let claimed = self.claim_from(&[(Lane::Suspect, 1)], consumer, 1, patience);
        Ok(claimed.await?.pop())
    }

    /// [`Broker::claim_by_priority`], for a queue whose concurrency or rate is limited: says as well what is in the way of more.
    pub async fn claim_limited(
        &self,
        consumer: &str,
        turn: usize,
        limit: usize,
        patience: Patience,
    ) -> Result<(Vec<Delivery>, InTheWay)> {
        let shares = shares_by_priority(turn, limit);
        self.claim_with(&shares, consumer, limit, patience).await
    }

    async fn claim_from(
        &self,
        lanes: &[(Lane, usize)],
        consumer: &str,
        limit: usize,
        patience: Patience,
    ) -> Result<Vec<Delivery>> {
        let claimed = self.claim_with(lanes, consumer, limit, patience).await;
        claimed.map(|(deliveries, _)| deliveries)
    }

    async fn claim_with(
        &self,
        shares: &[(Lane, usize)],
        consumer: &str,
        limit: usize,
        patience: Patience,
    ) -> Result<(Vec<Delivery>, InTheWay)> {
        // What runs is counted on all lanes.
        let named = |lane: &Lane| shares.iter().any(|(of, _)| of == lane);
        let rest = Lane::ALL.into_iter().filter(|lane| !named(lane));
        let rest = rest.map(|lane| (lane, 0));
        let lanes: Vec<(Lane, usize)> = shares.iter().copied().chain(rest).collect();
        let mut call = Call::new(&script::CLAIM)
            .key("limits", &self.keys.limits)
            .key("rates", &self.keys.rates);
        for (lane, _) in &lanes {
            call.push_key("lanes", self.keys.lane(*lane));
        }
        let mut call = call
            .text("group", GROUP)
            .text("consumer", consumer)
            .number("limit", limit as i64);
        for (_, share) in &lanes {
            call = call.number("shares", *share as i64);
        }
        let mut reply = self.redis.call(call, patience).await?;
        let in_the_way = match reply.number(2)? {
            0 => InTheWay::Running,
            us if us > 0 => InTheWay::Rate(Duration::from_micros(us.unsigned_abs())),
            _ => {
                let last = reply.list(3)?.iter().filter_map(text_of);
                let last = lanes.iter().map(|(lane, _)| *lane).zip(last);
                InTheWay::Nothing(last.map(|(lane, id)| (lane, id.to_owned())).collect())
            }
        };
        let entries = reply.take_list(1)?;
        let deliveries = entries.into_iter().filter_map(|entry| {
            let Value::Array(mut parts) = entry else {
                return None;
            };
            let lane = number_of(parts.first()?)?;
            let (lane, _) = *lanes.get(usize::try_from(lane - 1).ok()?)?;
            parts.remove(0);
            Delivery::read(lane, raw_entry(lane.index(), Value::Array(parts))?)
        });
        Ok((deliveries.collect(), in_the_way))
    }

    /// What was delivered to `consumer` and not settled, whether or not anybody saw it.
    pub async fn own(&self, consumer: &str, patience: Patience) -> Result<Vec<Delivery>> {
        let streams = self.lane_keys(Lane::ALL);
        let entries = self
            .redis
            .read_own(&streams, GROUP, consumer, config::BATCH_JOBS_MAX, patience)
            .await?;
        let read = |raw: RawEntry| Delivery::read(Lane::ALL[raw.stream], raw);
        Ok(entries.into_iter().filter_map(read).collect())
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
            .keys(keys.of_groups())
            .key("ready", &keys.ready)
            .key("suspects", &keys.suspects)
            .keys(keys.of_priorities())
            .text("group", GROUP);
        let call = caller
            .sign(call)
            .bytes("entry_id", delivery.entry_text.clone())
            .number(
                "delay_ms",
                millis(after.min(config::HORIZON_MAX)).cast_signed(),
            )
            .number("charged", i64::from(error.is_some()))
            .text("error", cut(error.unwrap_or_default()))
            .bytes("wake", keys.wake.clone());
        self.settled(&self.redis.call(call, patience).await?, delivery)
    }

    /// Running -> ready, read first, no attempt used. Returns the deliveries that were no longer live.
    pub async fn release(
        &self,
        caller: &mut Caller,
        lane: Lane,
        entries: &[EntryId],
        patience: Patience,
    ) -> Result<Vec<EntryId>> {
        let keys = &self.keys;
        let mut call = Call::new(&script::RELEASE)
            .key("lane", keys.lane(lane))
            .key("next", &keys.next)
            .key("suspects", &keys.suspects)
            .key("jobs", &keys.jobs)
            .key("stats", &keys.stats)
            .key("producers", &keys.producers)
            .text("group", GROUP);
        call = caller.sign(call).bytes("wake", keys.wake.clone());
        entries
            .iter()
            .for_each(|entry| call.push("entries", entry.bytes()));
        let reply = self.redis.call(call, patience).await?;
        entry_ids(reply.done()?.text(1)?)
    }

    /// Running -> dead if the job's time to start or its deadline has passed, by Redis's clock, which alone decides.
    ///
    /// # Errors
    /// As [`Broker::dead_letter`].
    pub async fn expire(
        &self,
        caller: &mut Caller,
        delivery: &Delivery,
        patience: Patience,
    ) -> Result<Expiry> {
        let reason = DeathReason::Expired;
        let reply = self
            .ask_dead_letter(caller, delivery, reason, "", patience)
            .await?;
        if reply.status == Status::WrongState {
            let left = u64::try_from(reply.number(1)?).ok();
            return Ok(Expiry::In(left.map(Duration::from_millis)));
        }
        self.settled(&reply, delivery).map(|()| Expiry::Expired)
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
        let reply = self
            .ask_dead_letter(caller, delivery, reason, error, patience)
            .await?;
        if reply.status == Status::WrongState {
            return Ok(false);
        }
        self.settled(&reply, delivery).map(|()| true)
    }

    async fn ask_dead_letter(
        &self,
        caller: &mut Caller,
        delivery: &Delivery,
        reason: DeathReason,
        error: &str,
        patience: Patience,
    ) -> Result<Reply> {
        let keys = &self.keys;
        let mut call = Call::new(&script::DEAD_LETTER)
            .key("lane", keys.lane(delivery.lane))
            .key("dead", &keys.dead)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("events", &keys.events)
            .key("producers", &keys.producers)
            .keys(keys.of_groups())
            .key("ready", &keys.ready)
            .key("suspects", &keys.suspects)
            .keys(keys.of_priorities());
        if let Some(unique) = delivery.unique() {
            call.push_key("unique", &keys.unique(unique));
        }
        let call = caller
            .sign(call.text("group", GROUP))
            .bytes("entry_id", delivery.entry_text.clone())
            .text("reason", reason.name())
            .text("error", cut(error));
        self.redis.call(call, patience).await
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
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a worker takes one by one, when every lane but the one for handed-back jobs has more than enough.
    fn taken(count: usize) -> Vec<Lane> {
        let first = |turn| {
            let mut shares = shares_by_priority(turn, 1).into_iter();
            shares.find(|(lane, _)| *lane != Lane::Next)
        };
        (0..count).filter_map(first).map(|(lane, _)| lane).collect()
    }

    #[test]
    fn of_ten_jobs_one_is_a_low_one_and_one_a_normal_one() {
        let (high, ready, low) = (Lane::High, Lane::Ready, Lane::Low);
        let ten = [high, high, high, high, ready, high, high, high, high, low];
        assert_eq!(taken(20), [ten, ten].concat());
    }

    #[test]
    fn many_at_once_have_the_shares_that_they_would_have_one_by_one() {
        for turn in 0..25 {
            for limit in 1..45 {
                let one_by_one = &taken(turn + limit)[turn..];
                let shares = shares_by_priority(turn, limit);
                let (order, rest) = shares.split_at(shares.len() - 3);
                assert_eq!(order[0], (Lane::Next, limit));
                for lane in [Lane::Low, Lane::Ready] {
                    let of_lane = one_by_one.iter().filter(|of| **of == lane).count();
                    let share = order.iter().find(|(of, _)| *of == lane);
                    assert_eq!(share.map_or(0, |(_, share)| *share), of_lane);
                }
                let all = [Lane::High, Lane::Ready, Lane::Low].map(|lane| (lane, limit));
                assert_eq!(rest, all);
            }
        }
    }
}
