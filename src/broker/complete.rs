//! What workers do with deliveries whose handlers succeeded.

use std::time::Duration;

use bytes::Bytes;

use super::{Broker, Caller, Delivery, EntryId, entry_ids};
use crate::error::Result;
use crate::job::millis;
use crate::keys::{GROUP, Key, Lane};
use crate::redis::Patience;
use crate::redis::script::{self, Call};
use crate::results::Kept;

/// What the history keeps of a completed job.
#[derive(Clone, Copy, Debug)]
pub struct Done<'a> {
    pub delivery: &'a Delivery,
    pub took: Duration,
    /// What the handler gave back, where the job's producer wants it kept.
    pub result: Option<&'a Kept>,
    /// Its handler has told how far it was, or logged something.
    pub told: bool,
}

impl<'a> Done<'a> {
    /// A delivery whose handler gave nothing back.
    pub fn new(delivery: &'a Delivery, took: Duration) -> Self {
        Self {
            delivery,
            took,
            result: None,
            told: false,
        }
    }

    /// Neither a record nor anything that others may see.
    fn leaves_nothing(&self) -> bool {
        let delivery = self.delivery;
        delivery.slot_of().is_none()
            && delivery.meta.id.is_none()
            && delivery.unique().is_none()
            && self.result.is_none()
            && !self.told
    }

    fn leaves_only_a_slot(&self) -> bool {
        let delivery = self.delivery;
        delivery.slot_of().is_some()
            && delivery.unique().is_none()
            && self.result.is_none()
            && !self.told
    }
}

impl Broker {
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
        let call = match history == 0 && done.iter().all(Done::leaves_nothing) {
            true => self.plain_completion(caller, lane, done),
            false => self.full_completion(caller, lane, done, history),
        };
        let reply = self.redis.call(call, patience).await?;
        entry_ids(reply.done()?.text(1)?)
    }

    /// The short way, for deliveries that leave nothing; see `lua/complete_plain.lua`.
    fn plain_completion(&self, caller: &mut Caller, lane: Lane, done: &[Done<'_>]) -> Call {
        let keys = &self.keys;
        let call = Call::new(&script::COMPLETE_PLAIN)
            .reserve(done.len())
            .key("lane", keys.lane(lane))
            .key("stats", &keys.stats)
            .key("producers", &keys.producers)
            .text("group", GROUP);
        let mut call = caller.sign(call).number("count", done.len() as i64);
        for done in done {
            call.push("entries", done.delivery.entry_text.clone());
        }
        call
    }

    /// For whatever deliveries; see `lua/complete.lua`.
    fn full_completion(
        &self,
        caller: &mut Caller,
        lane: Lane,
        done: &[Done<'_>],
        history: usize,
    ) -> Call {
        let keys = &self.keys;
        let call = Call::new(&script::COMPLETE)
            .reserve(6 + done.len())
            .key("lane", keys.lane(lane))
            .key("jobs", &keys.jobs)
            .key("stats", &keys.stats)
            .key("producers", &keys.producers)
            .key("completed", &keys.completed)
            .key("progress", &keys.progress);
        let grouped = done.iter().any(|done| done.delivery.meta.slot);
        let call = match grouped {
            true => call
                .key("more", &keys.held)
                .key("more", &keys.groups)
                .key("more", &keys.limits)
                .key("more", &keys.rates)
                .key("more", &keys.payloads)
                .key("more", &keys.ready)
                .key("more", &keys.suspects)
                .key("more", &keys.high)
                .key("more", &keys.low),
            false => call,
        };
        let kept = done.iter().any(|done| done.result.is_some());
        let call = match kept {
            true => call.key("more", &keys.results),
            false => call,
        };
        // Those of one kind in front, which are told of in fewer words.
        let (slots, others): (Vec<&Done<'_>>, Vec<_>) = done
            .iter()
            .partition(|done| history == 0 && done.leaves_only_a_slot());
        let mut call = caller
            .sign(call.text("group", GROUP))
            .number("history", history as i64)
            .number("count", done.len() as i64)
            .number("grouped", grouped.into())
            .number("kept", kept.into())
            .number("slots", slots.len() as i64);
        for done in slots.iter().chain(&others) {
            call.push("entries", done.delivery.entry_text.clone());
        }
        for done in &slots {
            let record = done.delivery.meta.id.as_ref().map_or("", |id| id.as_str());
            call = call
                .text("entries", done.delivery.slot_of().unwrap_or_default())
                .text("entries", record);
        }
        let mut strings = 0;
        for (index, done) in (slots.len()..).zip(others) {
            let Done {
                delivery,
                took,
                result,
                ..
            } = done;
            if history == 0 && done.leaves_nothing() {
                continue;
            }
            let slot_of = delivery.slot_of();
            let mut string = |key: &Key| {
                strings += 1;
                call.push_key("more", key);
                strings
            };
            let unique = delivery
                .unique()
                .map_or(0, |unique| string(&keys.unique(unique)));
            let place = result.map_or(0, |_| {
                let place = string(&keys.result(&delivery.id));
                string(&keys.told(&delivery.id));
                place
            });
            let group_of = match delivery.meta.group.as_deref() {
                Some(group) if slot_of.is_some() => format!("+{group}"),
                Some(group) => format!("-{group}"),
                None => String::new(),
            };
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
                group_of.into(),
                numbers(place),
                numbers(result.map_or(0, |result| result.ttl_ms)),
                result.map_or_else(Bytes::new, |result| result.stored.clone()),
            ];
            row.into_iter().for_each(|item| call.push("entries", item));
        }
        call
    }
}
