//! The operator's door: counts, looking at jobs, moving and removing them, and what lives under which key.
//!
//! Every call is bounded by a limit that the caller gives, so none holds Redis for more than a few milliseconds.

mod doctor;
mod events;
mod filter;
mod groups;
mod limits;
mod page;
mod read;
mod score;
mod spot;
mod view;
mod walk;
mod workers;

use std::time::Duration;

use crate::broker::Broker;
use crate::callers::Callers;
use crate::config;
use crate::error::Result;
use crate::job::state::State;
use crate::job::{JobId, JobUpdate};
use crate::redis::Patience;
pub use doctor::{Diagnosis, Doctor, Finding, Level};
pub use events::{EventDetail, EventFollower, EventKind, EventPage, EventView, Followed};
pub use filter::JobFilter;
pub use groups::{GroupLimits, GroupPage, GroupPurge, GroupPurged, GroupView};
pub use limits::{QueueLimits, QueueLimitsView};
pub use view::{CompletedView, ErrorView, JobPage, JobView, KeyView, OpenCircuit, Pruned, Stats};
pub use walk::{DeadStep, DeadWalk, PruneWalk};
pub use workers::WorkerView;

/// How long an operator waits for an answer.
const PATIENCE: Patience = Patience::brief(Duration::from_secs(5));

/// One queue as an operator sees it. Made by [`crate::Millstream::inspect`]; cheap to clone.
#[derive(Clone, Debug)]
pub struct Inspector {
    broker: Broker,
    /// Numbers the calls that move or remove something: one whose answer was lost is sent again and carried out once.
    callers: Callers,
    payload_bytes_max: usize,
}

impl Inspector {
    pub(crate) fn new(broker: Broker, payload_bytes_max: usize) -> Self {
        let name = format!("operator-{}", uuid::Uuid::now_v7().simple());
        Self {
            broker,
            callers: Callers::new(&name, 1),
            payload_bytes_max,
        }
    }

    /// The queue's counts, all of the same moment.
    ///
    /// # Errors
    /// [`crate::Error::Ambiguous`] or [`crate::Error::Refused`] when Redis cannot be asked.
    pub async fn stats(&self) -> Result<Stats> {
        let counts = self.broker.stats(PATIENCE).await?;
        let total = |name: &str| counts.counters.get(name).copied().unwrap_or_default();
        Ok(Stats {
            queue: self.broker.queue.to_string(),
            ready: counts.ready,
            ready_by_lane: counts
                .ready_by_lane
                .into_iter()
                .map(|(lane, jobs)| (lane.name(), jobs))
                .collect(),
            scheduled: counts.scheduled,
            held: counts.held,
            running: counts.running,
            dead: counts.dead,
            completed_total: total("completed"),
            failed_total: total("failed"),
            retried_total: total("retried"),
            dead_total: total("dead"),
            stalled_total: total("stalled"),
            enqueued_total: total("enqueued"),
            oldest_ready_ms: counts
                .oldest_ready
                .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            paused: counts.paused,
            open_circuits: counts
                .open_circuits
                .into_iter()
                .map(|(worker, target)| OpenCircuit { worker, target })
                .collect(),
        })
    }

    /// Up to `limit` jobs in `state` (all unfinished and dead ones for `None`), oldest first; held ones group by group.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn list(&self, state: Option<State>, limit: usize) -> Result<Vec<JobView>> {
        let filter = match state {
            Some(state) => JobFilter::new().state(state),
            None => JobFilter::new(),
        };
        let (mut jobs, mut after) = (Vec::new(), None);
        while jobs.len() < limit {
            let room = limit - jobs.len();
            let page = self.page(&filter, after.as_deref(), room).await?;
            jobs.extend(page.jobs);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok(jobs)
    }

    /// One job with its payload.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`]: it never was, or it is finished.
    pub async fn show(&self, id: &JobId) -> Result<JobView> {
        let found = self.find(id).await?;
        let mut job = found.ok_or_else(|| self.not_found(id))?;
        job.progress = crate::progress::read(&self.broker, id).await?;
        Ok(job)
    }

    /// Calls a job off; its handler, if it runs, is cancelled. Returns the state it was in.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`], [`crate::Error::WrongState`] for a dead job.
    pub async fn cancel(&self, id: &JobId) -> Result<State> {
        // The script may touch only keys that it is given: which unique key the job holds must be known before.
        let unique = self.unique_of(id).await?;
        let mut slot = self.callers.take().await;
        self.broker
            .cancel(slot.caller(), id, unique.as_deref(), PATIENCE)
            .await
    }

    /// Changes a job that waits. One that is scheduled stays where it is; one that is ready goes to the end of its lane when its
    /// payload or its priority changes, and is scheduled when it is given a delay. Returns the state after.
    ///
    /// # Errors
    /// [`crate::Error::InvalidJob`], [`crate::Error::PayloadTooLarge`]: mend the update. [`crate::Error::NotFound`].
    /// [`crate::Error::WrongState`] with its state: it runs or is dead, and nothing was changed. [`crate::Error::Unopenable`]: its
    /// payload is sealed, and its key is not at hand.
    pub async fn update(&self, id: &JobId, update: &JobUpdate) -> Result<State> {
        update.check(id, self.payload_bytes_max)?;
        loop {
            // A payload is sealed for the job's name, which a producer that replaces the job may change meanwhile.
            let name = match &update.payload {
                Some(_) => self.name_to_seal(id).await?,
                None => String::new(),
            };
            let mut slot = self.callers.take().await;
            let updated = self
                .broker
                .update(slot.caller(), id, &name, update, PATIENCE)
                .await?;
            if let Some(state) = updated {
                return Ok(state);
            }
        }
    }

    async fn name_to_seal(&self, id: &JobId) -> Result<String> {
        let job = self.show(id).await?;
        match (job.sealed_with, job.payload) {
            (Some(key), None) => Err(crate::Error::Unopenable {
                name: job.name,
                key,
                reason: "it is not at hand, so the new payload cannot be sealed",
            }),
            _ => Ok(job.name),
        }
    }

    /// Makes a scheduled or held job ready at once, ahead of the others. When its group has no room it comes next in its group.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`], [`crate::Error::WrongState`] unless the job is scheduled or held.
    pub async fn run_now(&self, id: &JobId) -> Result<()> {
        let mut slot = self.callers.take().await;
        match self.broker.run_now(slot.caller(), id, PATIENCE).await {
            // The script looks only at jobs that have a record: one that never left its stream has none.
            Err(crate::Error::NotFound { .. }) => {
                let state = self.show(id).await?.state;
                Err(crate::Error::WrongState {
                    job: id.clone(),
                    state: state.to_string(),
                    wanted: "run now",
                })
            }
            other => other,
        }
    }

    /// Makes dead jobs ready again, with all their attempts. Returns how many were dead.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn redrive(&self, ids: &[JobId]) -> Result<u64> {
        let mut redriven = 0;
        let mut slot = self.callers.take().await;
        for ids in ids.chunks(config::REDRIVE_BATCH) {
            redriven += self.broker.redrive(slot.caller(), ids, PATIENCE).await?;
        }
        Ok(redriven)
    }

    /// Removes dead jobs for good. Returns how many there were.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn purge(&self, ids: &[JobId]) -> Result<u64> {
        let mut purged = 0;
        let mut slot = self.callers.take().await;
        for ids in ids.chunks(config::OPERATOR_BATCH) {
            purged += self.broker.purge(slot.caller(), ids, PATIENCE).await?;
        }
        Ok(purged)
    }

    /// Lets no worker claim from this queue; running jobs run on. Workers see it within a second.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn pause(&self) -> Result<()> {
        self.broker.pause(true, PATIENCE).await
    }

    /// Lets the queue have at most `max_depth` unfinished jobs (ready, running, scheduled and held together; 1 to 10¹²), or with
    /// `None` as many as come. Enqueues beyond it are refused with [`crate::Error::QueueFull`]; jobs that are there stay, and
    /// retries, promotions and redrives are never refused.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] when it is out of range, else as [`Inspector::stats`].
    pub async fn set_max_depth(&self, max_depth: Option<u64>) -> Result<()> {
        if let Some(jobs) = max_depth.filter(|jobs| !(1..=config::DEPTH_MAX).contains(jobs)) {
            let reason = format!("1 to {} jobs", config::DEPTH_MAX);
            return Err(crate::Error::setting("max_depth", jobs, reason));
        }
        self.broker.set_max_depth(max_depth, PATIENCE).await
    }

    /// Sets what limits the queue over all workers: how many of its jobs run at once, and how many start in a time. Workers see it
    /// within a second; what runs then, runs on.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] when something is out of range, else as [`Inspector::stats`].
    pub async fn set_queue_limits(&self, limits: &QueueLimits) -> Result<()> {
        let settings = limits.settings()?;
        self.broker.limit(None, &settings, PATIENCE).await.map(drop)
    }

    /// What limits the queue as a whole.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn queue_limits(&self) -> Result<QueueLimitsView> {
        let fields = ["max_depth", "concurrency", "rate", "burst"];
        let [max_depth, concurrency, rate, burst] =
            self.broker.limits_set(fields, PATIENCE).await?;
        let rate: Option<crate::Rate> = rate.and_then(|rate| rate.parse().ok());
        let burst: Option<u32> = burst.and_then(|jobs| jobs.parse().ok());
        Ok(QueueLimitsView {
            max_depth: max_depth.and_then(|jobs| jobs.parse().ok()),
            concurrency: concurrency.and_then(|jobs| jobs.parse().ok()),
            rate,
            burst: rate.map(|rate| burst.unwrap_or_else(|| rate.burst_default())),
        })
    }

    /// How many unfinished jobs the queue may have; `None`: as many as come.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn max_depth(&self) -> Result<Option<u64>> {
        self.broker.max_depth(PATIENCE).await
    }

    /// Ends [`Inspector::pause`].
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn resume(&self) -> Result<()> {
        self.broker.pause(false, PATIENCE).await
    }

    /// Removes completed and dead jobs that are older than given (`None`: leave that kind alone), in bounded steps.
    /// With `dry_run` it only counts them.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn prune(
        &self,
        completed_older_than: Option<Duration>,
        dead_older_than: Option<Duration>,
        dry_run: bool,
    ) -> Result<Pruned> {
        if dry_run {
            return self.prunable(completed_older_than, dead_older_than).await;
        }
        let mut walk = self.walk_prune(completed_older_than, dead_older_than);
        let mut pruned = Pruned::default();
        while let Some(step) = walk.next(page::PAGE).await? {
            pruned += step;
        }
        Ok(pruned)
    }

    /// Up to `limit` completed jobs of the history after `entry` (`None`: from the oldest that is kept).
    /// Empty unless a worker retains completed jobs.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn completed(&self, after: Option<&str>, limit: usize) -> Result<Vec<CompletedView>> {
        self.history(after, limit).await
    }

    /// Every key of the queue with its meaning, size and how to look inside.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn keys(&self) -> Result<Vec<KeyView>> {
        self.key_views().await
    }
}
