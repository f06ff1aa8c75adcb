//! The door to a queue's schedules: set, list, pause and remove them, at run time and from any process.

use std::time::Duration;

use serde::Serialize;

use crate::broker::{Broker, due_of};
use crate::error::{Error, Result};
use crate::job::{JobId, Priority};
use crate::redis::Patience;
use crate::redis::reply::{Value, bytes_of, text_of};
use crate::schedule::{Definition, Schedule, When, next_slots};

/// How long an answer is waited for.
const PATIENCE: Patience = Patience::brief(Duration::from_secs(5));
/// Schedules that are read in one go.
const PAGE: usize = 200;

/// A queue's schedules. Made by [`crate::Millstream::schedules`]; cheap to clone.
///
/// They are stored in Redis, and every worker of the queue fires them: one job per slot, whoever is alive, and queued before
/// its handler runs.
#[derive(Clone, Debug)]
pub struct Schedules {
    broker: Broker,
    payload_bytes_max: usize,
}

/// What [`Schedules::set`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Change {
    /// There was no schedule of this id.
    Created,
    /// It was another one before.
    Changed,
    /// It was there as it is.
    Unchanged,
}

/// A schedule as it stands after [`Schedules::set`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SetSchedule {
    /// What was done.
    pub change: Change,
    /// Its next slot, unix ms; `None` while it is paused.
    pub next_due_ms: Option<u64>,
    /// It fires nothing until it is resumed.
    pub paused: bool,
}

/// What [`Schedules::sync`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Synced {
    /// Schedules that were created or changed.
    pub set: usize,
    /// Schedules of the same origin that were removed, as they are no longer among those that were given.
    pub removed: Vec<String>,
    /// Such ones that were left alone.
    pub left: Vec<String>,
}

/// A schedule as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ScheduleView {
    /// Its id, of which the queue has one.
    pub id: String,
    /// The queue of its jobs.
    pub queue: String,
    /// The cron expression, unless it is an interval.
    pub cron: Option<String>,
    /// The time zone of the expression.
    pub zone: Option<String>,
    /// The interval, ms, unless it is a cron expression.
    pub every_ms: Option<u64>,
    /// The name of its jobs.
    pub name: String,
    /// What becomes of missed slots: `skip`, `once`, `all:N`.
    pub missed: String,
    /// What becomes of a slot while the last job is unfinished: `allow`, `skip`.
    pub overlap: String,
    /// It fires nothing until it is resumed.
    pub paused: bool,
    /// Who keeps it: `config` for the config file.
    pub origin: Option<String>,
    /// Its next slot, unix ms; `None` while it is paused.
    pub next_due_ms: Option<u64>,
    /// The slots from then on, unix ms, as many as were asked for.
    pub next_runs_ms: Vec<u64>,
    /// The slot of its last job, unix ms.
    pub last_slot_ms: Option<u64>,
    /// Its last job.
    pub last_job: Option<JobId>,
    /// The jobs that it has made.
    pub fired_total: u64,
    /// The size of its payload.
    pub payload_bytes: usize,
    /// Whom its jobs are for.
    pub group: Option<String>,
    /// As [`crate::NewJob::priority`].
    pub priority: Priority,
    /// As [`crate::NewJob::max_attempts`].
    pub max_attempts: Option<u32>,
    /// As [`crate::NewJob::timeout`], ms.
    pub timeout_ms: Option<u64>,
    /// As [`crate::NewJob::expires`], ms.
    pub expires_ms: Option<u64>,
    /// As [`crate::NewJob::deadline`], ms.
    pub deadline_ms: Option<u64>,
    /// Why this program cannot read it: it is of a newer version, or its zone is unknown here.
    pub problem: Option<String>,
}

/// What the scripts keep of a schedule; see `lua/lib/cron.lua`.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct State {
    version: String,
    paused: bool,
    fired: f64,
    last_slot_ms: Option<f64>,
    last_job: Option<JobId>,
}

impl Schedules {
    /// One look of what every worker does by itself: fires whatever is due. Returns the wait until the next look is worth
    /// while, `None` without schedules. For tests, and for tools that take an engine apart.
    #[doc(hidden)]
    pub async fn fire_due(&self) -> Result<Option<Duration>> {
        crate::upkeep::cron::fire_due(&self.broker, &mut Default::default()).await
    }

    pub(crate) fn new(broker: Broker, payload_bytes_max: usize) -> Self {
        Self {
            broker,
            payload_bytes_max,
        }
    }

    /// Makes the schedule `id`, or changes it into this one. The same one again changes nothing, so every process may do so at
    /// its start. While its time stays as it was, its next slot stays as well, also one that has passed and is owed.
    ///
    /// Jobs that the former one has queued run as they were. A pause goes on; see [`Schedule::paused`].
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::InvalidJob`], [`Error::PayloadTooLarge`]: nothing was sent; mend the schedule.
    /// [`Error::Ambiguous`] or [`Error::Refused`] when Redis cannot be asked; do it again.
    pub async fn set(&self, id: &str, schedule: Schedule) -> Result<SetSchedule> {
        schedule.check_as(id, self.payload_bytes_max)?;
        let timing = schedule.when.timing()?;
        let now = self.now().await?;
        let schedule = self.sealed(id, schedule).await?;
        let definition = Definition::of(&schedule);
        let first = timing.next_after(now);
        let payload = schedule.job.payload.clone();
        let set = self
            .broker
            .cron_set(id, &definition, payload, first, schedule.paused, PATIENCE);
        let set = set.await?;
        Ok(SetSchedule {
            change: match set.change.as_str() {
                "created" => Change::Created,
                "changed" => Change::Changed,
                _ => Change::Unchanged,
            },
            next_due_ms: set.due.and_then(|due| u64::try_from(due).ok()),
            paused: set.paused,
        })
    }

    /// Forgets the schedule `id`. Jobs that it has queued stay. `false`: there was none.
    ///
    /// # Errors
    /// As [`Schedules::set`].
    pub async fn remove(&self, id: &str) -> Result<bool> {
        self.broker.cron_remove(id, PATIENCE).await
    }

    /// Lets the schedule `id` fire nothing until it is resumed.
    ///
    /// # Errors
    /// [`Error::NoSchedule`], and as [`Schedules::set`].
    pub async fn pause(&self, id: &str) -> Result<()> {
        self.set_paused(id, true).await
    }

    /// Ends [`Schedules::pause`]. Slots that have passed meanwhile are not owed.
    ///
    /// # Errors
    /// As [`Schedules::pause`].
    pub async fn resume(&self, id: &str) -> Result<()> {
        self.set_paused(id, false).await
    }

    async fn set_paused(&self, id: &str, paused: bool) -> Result<()> {
        loop {
            let now = self.now().await?;
            let [definition, state] = self.stored(id).await?;
            let definition = Definition::from_stored(id, &definition)?;
            let next = match paused {
                true => None,
                false => definition.when.timing()?.next_after(now),
            };
            let version = state_of(&state).version;
            let done = self.broker.cron_pause(id, &version, paused, next, PATIENCE);
            // It was changed in between: once more, with what it is now.
            if done.await?.is_some() {
                return Ok(());
            }
        }
    }

    /// Sets all of `schedules` as those of `origin`, and with `removes` removes every other schedule of that origin. Those of
    /// other origins, and of none, are left alone. For a program or a file that says what its schedules are, at its start.
    ///
    /// # Errors
    /// As [`Schedules::set`]; what came before the failure is done.
    pub async fn sync(
        &self,
        origin: &str,
        schedules: Vec<(String, Schedule)>,
        removes: bool,
    ) -> Result<Synced> {
        let mut synced = Synced::default();
        let others = self.list(usize::MAX, 0).await?.into_iter().filter(|view| {
            view.origin.as_deref() == Some(origin)
                && !schedules.iter().any(|(id, _)| *id == view.id)
        });
        for view in others.collect::<Vec<_>>() {
            match removes {
                true if self.remove(&view.id).await? => synced.removed.push(view.id),
                true => {}
                false => synced.left.push(view.id),
            }
        }
        if schedules.is_empty() {
            return Ok(synced);
        }
        for (id, schedule) in schedules {
            let set = self.set(&id, schedule.origin(origin)).await?;
            synced.set += usize::from(set.change != Change::Unchanged);
        }
        let args = vec![
            self.broker.keys.cron.as_str().into(),
            mark_of(origin).into(),
            "1".into(),
        ];
        self.ask("HSET", args).await?;
        Ok(synced)
    }

    /// Whether Redis still knows of a [`Schedules::sync`] of `origin`: not after it has lost its data.
    ///
    /// # Errors
    /// As [`Schedules::set`].
    pub async fn is_synced(&self, origin: &str) -> Result<bool> {
        Ok(self.fields(vec![mark_of(origin)]).await? != [None])
    }

    /// The schedule as it is stored. Sealing makes other bytes of the same payload each time, so one that is there already, and
    /// was sealed by the same key, stays: else no schedule of such a queue would ever be unchanged.
    async fn sealed(&self, id: &str, mut schedule: Schedule) -> Result<Schedule> {
        let (seal, queue) = (&self.broker.seal, &self.broker.queue);
        let job = seal.close(queue, &schedule.job)?.into_owned();
        if job.meta.sealed.is_none() {
            return Ok(schedule);
        }
        let plain = std::mem::replace(&mut schedule.job, job);
        let key = self.broker.keys.cron.as_str().into();
        let args = vec![key, format!("{id} payload").into()];
        let stored = bytes_of(self.ask("HGET", args).await?).unwrap_or_default();
        let opened = seal.open(queue, &plain.name, &schedule.job.meta, &stored);
        if opened.is_ok_and(|opened| opened == plain.payload) {
            schedule.job.payload = stored;
        }
        Ok(schedule)
    }

    /// Redis's clock, unix ms.
    async fn now(&self) -> Result<i64> {
        Ok(self.broker.cron_due(0, 0, PATIENCE).await?.now)
    }

    /// A plain command.
    async fn ask(&self, name: &'static str, args: Vec<Value>) -> Result<Value> {
        self.broker.redis.command(name, args, PATIENCE).await
    }

    async fn stored(&self, id: &str) -> Result<[String; 2]> {
        let fields = vec![id.to_owned(), format!("{id} state")];
        let found = self.fields(fields).await?;
        match <[Option<String>; 2]>::try_from(found) {
            Ok([Some(definition), state]) => Ok([definition, state.unwrap_or_default()]),
            _ => Err(Error::NoSchedule {
                queue: self.broker.queue.to_string(),
                schedule: id.to_owned(),
            }),
        }
    }

    async fn fields(&self, fields: Vec<String>) -> Result<Vec<Option<String>>> {
        let mut args: Vec<Value> = vec![self.broker.keys.cron.as_str().into()];
        args.extend(fields.into_iter().map(Value::from));
        let found = self.ask("HMGET", args).await?;
        let Value::Array(found) = found else {
            return Ok(Vec::new());
        };
        Ok(found
            .iter()
            .map(|value| text_of(value).map(str::to_owned))
            .collect())
    }

    /// The schedule `id`, with its next `runs` slots, at most 1,000.
    ///
    /// # Errors
    /// As [`Schedules::pause`].
    pub async fn get(&self, id: &str, runs: usize) -> Result<ScheduleView> {
        let [definition, state] = self.stored(id).await?;
        let args = vec![self.broker.keys.cron_due.as_str().into(), id.into()];
        let due = self.ask("ZSCORE", args).await?;
        Ok(self.view(
            id,
            text_of(&due).and_then(due_of),
            &definition,
            &state,
            runs,
        ))
    }

    /// Up to `limit` schedules, those that are due first in front and paused ones last, with the next `runs` slots of each.
    ///
    /// # Errors
    /// As [`Schedules::set`].
    pub async fn list(&self, limit: usize, runs: usize) -> Result<Vec<ScheduleView>> {
        let mut views: Vec<ScheduleView> = Vec::new();
        let mut rank = 0;
        while views.len() < limit {
            let count = PAGE.min(limit - views.len());
            let (first, last) = (rank.to_string(), (rank + count - 1).to_string());
            let key = self.broker.keys.cron_due.as_str().into();
            let args = vec![key, first.into(), last.into(), "WITHSCORES".into()];
            let page = self.ask("ZRANGE", args).await?;
            let Value::Array(page) = page else { break };
            let dues: Vec<(String, Option<i64>)> = page
                .chunks_exact(2)
                .filter_map(|pair| {
                    Some((
                        text_of(&pair[0])?.to_owned(),
                        text_of(&pair[1]).and_then(due_of),
                    ))
                })
                .collect();
            if dues.is_empty() {
                break;
            }
            rank += dues.len();
            let fields = dues
                .iter()
                .flat_map(|(id, _)| [id.clone(), format!("{id} state")]);
            let found = self.fields(fields.collect()).await?;
            for ((id, due), fields) in dues.iter().zip(found.chunks_exact(2)) {
                // One that was fired while the pages were read may come twice, and one that was removed is there no more.
                let Some(definition) = &fields[0] else {
                    continue;
                };
                if views.iter().any(|view| view.id == *id) {
                    continue;
                }
                let state = fields[1].as_deref().unwrap_or_default();
                views.push(self.view(id, *due, definition, state, runs));
            }
        }
        Ok(views)
    }

    fn view(
        &self,
        id: &str,
        due: Option<i64>,
        stored: &str,
        state: &str,
        runs: usize,
    ) -> ScheduleView {
        let state = state_of(state);
        let positive = |number: f64| number.max(0.0) as u64;
        let next_due_ms = due.and_then(|due| u64::try_from(due).ok());
        let mut view = ScheduleView {
            id: id.to_owned(),
            queue: self.broker.queue.to_string(),
            cron: None,
            zone: None,
            every_ms: None,
            name: String::new(),
            missed: String::new(),
            overlap: String::new(),
            paused: state.paused,
            origin: None,
            next_due_ms,
            next_runs_ms: Vec::new(),
            last_slot_ms: state.last_slot_ms.map(positive),
            last_job: state.last_job,
            fired_total: positive(state.fired),
            payload_bytes: 0,
            group: None,
            priority: Priority::Normal,
            max_attempts: None,
            timeout_ms: None,
            expires_ms: None,
            deadline_ms: None,
            problem: None,
        };
        let definition = match Definition::from_stored(id, stored) {
            Ok(definition) => definition,
            Err(error) => {
                view.problem = Some(error.to_string());
                return view;
            }
        };
        match definition.when.timing() {
            Ok(timing) => {
                let slots = due.map_or_else(Vec::new, |due| next_slots(&timing, due - 1, runs));
                view.next_runs_ms = slots
                    .into_iter()
                    .filter_map(|slot| u64::try_from(slot).ok())
                    .collect();
            }
            Err(error) => view.problem = Some(error.to_string()),
        }
        (view.missed, view.overlap) = (
            definition.missed().to_string(),
            definition.overlap().to_string(),
        );
        match definition.when {
            When::Cron { expression, zone } => {
                (view.cron, view.zone) = (Some(expression), Some(zone))
            }
            When::EveryMs(ms) => view.every_ms = Some(ms),
        }
        ScheduleView {
            name: definition.name,
            origin: definition.origin,
            payload_bytes: definition.payload_bytes,
            group: definition.meta.group,
            priority: definition.meta.priority,
            max_attempts: definition.meta.max_attempts,
            timeout_ms: definition.meta.timeout_ms,
            expires_ms: definition.expires_ms,
            deadline_ms: definition.deadline_ms,
            ..view
        }
    }
}

/// The field that remembers a sync. No id has a space in it.
fn mark_of(origin: &str) -> String {
    format!(" synced {origin}")
}

/// What somebody broke by hand counts as nothing.
fn state_of(stored: &str) -> State {
    serde_json::from_str(stored).unwrap_or_default()
}
