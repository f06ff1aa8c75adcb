//! What becomes of schedules: set, removed, paused, fired.

use bytes::Bytes;

use super::Broker;
use crate::error::{Error, Result};
use crate::job::JobId;
use crate::redis::Patience;
use crate::redis::reply::{Status, number_of, text_of};
use crate::redis::script::{self, Call};
use crate::schedule::Definition;

/// What a set did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CronSet {
    /// `created`, `changed` or `unchanged`.
    pub change: String,
    /// Unix ms; `None` while it is paused, or without a further slot.
    pub due: Option<i64>,
    pub paused: bool,
}

/// A schedule that is due.
#[derive(Clone, Debug)]
pub struct CronDue {
    pub schedule: String,
    /// The slot that is due, unix ms.
    pub due: i64,
    pub(crate) definition: String,
    pub version: String,
}

/// The schedules that are due at one moment.
#[derive(Clone, Debug)]
pub struct CronPage {
    /// Redis's clock, unix ms.
    pub now: i64,
    /// Milliseconds until the next one that is not due yet.
    pub wait_ms: Option<u64>,
    pub due: Vec<CronDue>,
}

/// What to make of a due schedule.
#[derive(Clone, Debug)]
pub(crate) struct Firing<'a> {
    pub(crate) due: &'a CronDue,
    pub(crate) definition: &'a Definition,
    pub(crate) next: Option<i64>,
    pub(crate) slots: &'a [i64],
    /// Whether each job leaves an event.
    pub(crate) tells: bool,
    pub(crate) missed: String,
}

/// What a firing did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fired {
    /// Somebody else has fired it, or it was changed meanwhile; nothing was done.
    Stale,
    /// `holder`: the unfinished job because of which slots got none.
    Fired {
        jobs: Vec<JobId>,
        holder: Option<JobId>,
    },
}

/// A due time as Redis takes it.
fn score(due: Option<i64>) -> String {
    due.map_or_else(|| "inf".to_owned(), |due| due.to_string())
}

/// A due time as Redis gives it.
pub(crate) fn due_of(score: &str) -> Option<i64> {
    score
        .parse::<f64>()
        .ok()
        .filter(|due| due.is_finite())
        .map(|due| due as i64)
}

impl Broker {
    /// Makes a schedule or changes one; `first` is its first slot from now on, unix ms.
    pub(crate) async fn cron_set(
        &self,
        schedule: &str,
        definition: &Definition,
        payload: Bytes,
        first: Option<i64>,
        paused: bool,
        patience: Patience,
    ) -> Result<CronSet> {
        let call = Call::new(&script::CRON_SET)
            .key("cron", &self.keys.cron)
            .key("due", &self.keys.cron_due)
            .text("schedule", schedule)
            .text("definition", &definition.to_stored())
            .bytes("payload", payload)
            .text("timing", &definition.when.to_text())
            .text("version", &uuid::Uuid::now_v7().simple().to_string())
            .text("due_ms", &score(first))
            .number("paused", paused.into())
            .bytes("wake", self.keys.wake.clone());
        let reply = self.redis.call(call, patience).await?;
        let reply = reply.done()?;
        Ok(CronSet {
            change: reply.text(1)?.to_owned(),
            due: due_of(reply.text(2)?),
            paused: reply.count(3)? > 0,
        })
    }

    /// Forgets a schedule. `false`: there was none.
    pub async fn cron_remove(&self, schedule: &str, patience: Patience) -> Result<bool> {
        let call = Call::new(&script::CRON_REMOVE)
            .key("cron", &self.keys.cron)
            .key("due", &self.keys.cron_due)
            .text("schedule", schedule);
        let reply = self.redis.call(call, patience).await?;
        match reply.status {
            Status::Missing => Ok(false),
            _ => reply.done().map(|_| true),
        }
    }

    /// Pauses a schedule, or ends that with `next` as its next slot. `None`: it has another definition by now.
    ///
    /// # Errors
    /// [`Error::NoSchedule`].
    pub async fn cron_pause(
        &self,
        schedule: &str,
        version: &str,
        paused: bool,
        next: Option<i64>,
        patience: Patience,
    ) -> Result<Option<()>> {
        let call = Call::new(&script::CRON_PAUSE)
            .key("cron", &self.keys.cron)
            .key("due", &self.keys.cron_due)
            .text("schedule", schedule)
            .text("version", version)
            .number("paused", paused.into())
            .text("due_ms", &score(next))
            .bytes("wake", self.keys.wake.clone());
        let reply = self.redis.call(call, patience).await?;
        match reply.status {
            Status::Missing => Err(Error::NoSchedule {
                queue: self.queue.to_string(),
                schedule: schedule.to_owned(),
            }),
            Status::Stale => Ok(None),
            _ => reply.done().map(|_| Some(())),
        }
    }

    /// Redis's clock, and up to `limit` schedules that are due by it, but for the first `offset`.
    pub async fn cron_due(
        &self,
        offset: usize,
        limit: usize,
        patience: Patience,
    ) -> Result<CronPage> {
        let call = Call::new(&script::CRON_DUE)
            .key("cron", &self.keys.cron)
            .key("due", &self.keys.cron_due)
            .number("offset", offset as i64)
            .number("limit", limit as i64);
        let reply = self.redis.call(call, patience).await?;
        let rows = reply.done()?.list(3)?.chunks_exact(4);
        let due = rows.filter_map(|row| {
            let text = |index: usize| text_of(&row[index]).map(str::to_owned);
            Some(CronDue {
                schedule: text(0)?,
                due: due_of(text_of(&row[1])?)?,
                // What is no text was not written here, and cannot be read as a definition either.
                definition: text(2).unwrap_or_default(),
                version: text(3)
                    .or_else(|| number_of(&row[3]).map(|number| number.to_string()))
                    .unwrap_or_default(),
            })
        });
        Ok(CronPage {
            now: reply.number(1)?,
            wait_ms: u64::try_from(reply.number(2)?).ok(),
            due: due.collect(),
        })
    }

    /// New -> ready: the jobs of a schedule's slots, if it is still due as it was seen.
    pub(crate) async fn cron_fire(&self, firing: &Firing<'_>, patience: Patience) -> Result<Fired> {
        let Firing {
            due, definition, ..
        } = firing;
        let keys = &self.keys;
        let mut call = Call::new(&script::CRON_FIRE)
            .key("cron", &keys.cron)
            .key("due", &keys.cron_due)
            .key("lane", &keys.ready)
            .key("jobs", &keys.jobs)
            .key("stats", &keys.stats)
            .key("events", &keys.events)
            .key("payloads", &keys.payloads)
            .keys(keys.of_groups())
            .key("suspects", &keys.suspects)
            .keys(keys.of_priorities())
            .text("schedule", &due.schedule)
            .text("version", &due.version)
            .number("due_ms", due.due)
            .text("next_ms", &score(firing.next))
            .text("overlap", definition.overlap().name())
            .text("name", &definition.name)
            .number(
                "expires_ms",
                definition.expires_ms.unwrap_or_default().cast_signed(),
            )
            .number(
                "deadline_ms",
                definition.deadline_ms.unwrap_or_default().cast_signed(),
            )
            .number("tells", firing.tells.into())
            .text("missed", &firing.missed);
        for slot in firing.slots {
            call = call
                .number("slots", *slot)
                .text("slots", &definition.meta_for(&due.schedule, *slot));
        }
        let reply = self.redis.call(call, patience).await?;
        if reply.status == Status::Stale {
            return Ok(Fired::Stale);
        }
        let reply = reply.done()?;
        let holder = reply.text(2)?;
        Ok(Fired::Fired {
            jobs: reply.text(1)?.split_whitespace().map(Into::into).collect(),
            holder: (!holder.is_empty()).then(|| holder.into()),
        })
    }
}
