//! The operator's door: counts, looking at jobs, moving and removing them, and what lives under which key.

use std::time::Duration;

use serde::Serialize;

use crate::error::Result;
use crate::job::JobId;
use crate::job::state::State;

/// One queue as an operator sees it. Made by [`crate::Millstream::inspect`]; cheap to clone.
#[derive(Clone, Debug)]
pub struct Inspector {
    broker: crate::broker::Broker,
}

/// A queue's counts at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// The queue.
    pub queue: String,
    /// Jobs that may run and are not running.
    pub ready: u64,
    /// Jobs that are due later.
    pub scheduled: u64,
    /// Jobs that wait for their group.
    pub held: u64,
    /// Jobs delivered to a worker and not settled.
    pub running: u64,
    /// Jobs in the dead letter.
    pub dead: u64,
    /// Jobs completed since the queue began.
    pub completed_total: u64,
    /// Attempts that failed.
    pub failed_total: u64,
    /// Failed attempts after which the job was scheduled again.
    pub retried_total: u64,
    /// Jobs that went to the dead letter.
    pub dead_total: u64,
    /// Times that a job was taken from a silent worker.
    pub stalled_total: u64,
    /// Jobs enqueued.
    pub enqueued_total: u64,
    /// Age of the ready job that waits longest, ms; `None` when none waits.
    pub oldest_ready_ms: Option<u64>,
    /// No worker claims from a paused queue.
    pub paused: bool,
}

/// One job as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JobView {
    /// The job's id.
    pub id: JobId,
    /// The job's name.
    pub name: String,
    /// Where it stands.
    pub state: State,
    /// The attempt that runs or comes next, from 1; for a dead job the last one.
    pub attempt: u32,
    /// The job's own limit, if it has one.
    pub max_attempts: Option<u32>,
    /// Times that it was taken from a silent worker.
    pub stalls: u32,
    /// Size of the payload, bytes.
    pub payload_bytes: u64,
    /// When it is due, unix ms on Redis's clock (scheduled jobs).
    pub due_ms: Option<u64>,
    /// When it died, unix ms on Redis's clock (dead jobs).
    pub died_ms: Option<u64>,
    /// Why it died: `attempts`, `refused`, `crash_loop`, `expired`.
    pub reason: Option<String>,
    /// The worker that holds it (running jobs).
    pub worker: Option<String>,
    /// Time since the lease was last renewed, ms (running jobs).
    pub idle_ms: Option<u64>,
    /// Kept headers.
    pub headers: std::collections::BTreeMap<String, String>,
    /// What went wrong, oldest first; the newest few are kept.
    pub errors: Vec<ErrorView>,
    /// The payload. Only [`Inspector::show`] fills it in.
    #[serde(skip)]
    pub payload: Option<bytes::Bytes>,
    /// How the payload is written: `msgpack`, `json` or `raw`.
    pub codec: String,
}

/// One failed attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct ErrorView {
    /// When, unix ms on Redis's clock.
    pub at_ms: u64,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// What the handler said, at most 4 KiB.
    pub error: String,
}

/// A page of dead jobs and where the next one begins.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadPage {
    /// Jobs in the order in which they died.
    pub jobs: Vec<JobView>,
    /// Pass to the next call; `None` at the end.
    pub next: Option<u64>,
}

/// What [`Inspector::prune`] removed, or with `dry_run` would remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Pruned {
    /// Entries of the completed history.
    pub completed: u64,
    /// Dead jobs.
    pub dead: u64,
    /// Producers that no longer call.
    pub producers: u64,
}

/// One of a queue's keys, explained.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct KeyView {
    /// The key.
    pub key: String,
    /// Redis's type for it, or `none` while it does not exist.
    pub kind: String,
    /// What it holds.
    pub holds: &'static str,
    /// Entries, members or fields.
    pub size: u64,
    /// Memory, bytes, where the server tells.
    pub memory_bytes: Option<u64>,
    /// The redis-cli arguments that look inside.
    pub look: String,
}

impl Inspector {
    pub(crate) fn new(broker: crate::broker::Broker) -> Self {
        Self { broker }
    }

    /// The queue's counts.
    ///
    /// # Errors
    /// [`crate::Error::Ambiguous`] or [`crate::Error::Refused`] when Redis cannot be asked.
    pub async fn stats(&self) -> Result<Stats> {
        unreachable!()
    }

    /// Up to `limit` jobs in `state` (all unfinished and dead ones for `None`), oldest first.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn list(&self, _state: Option<State>, _limit: usize) -> Result<Vec<JobView>> {
        unreachable!()
    }

    /// One job with its payload.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`].
    pub async fn show(&self, _id: &JobId) -> Result<JobView> {
        unreachable!()
    }

    /// Calls a job off; its handler, if it runs, is cancelled. Returns the state it was in.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`], [`crate::Error::WrongState`] for a dead job.
    pub async fn cancel(&self, _id: &JobId) -> Result<State> {
        unreachable!()
    }

    /// Makes a scheduled job ready at once, ahead of the others.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`], [`crate::Error::WrongState`] unless the job is scheduled.
    pub async fn run_now(&self, _id: &JobId) -> Result<()> {
        unreachable!()
    }

    /// Up to `limit` dead jobs from `cursor` on (`None`: from the oldest).
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn dead(&self, _cursor: Option<u64>, _limit: usize) -> Result<DeadPage> {
        unreachable!()
    }

    /// Makes dead jobs ready again, with all their attempts. Returns how many were dead. Up to 1,000 ids a call.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn redrive(&self, _ids: &[JobId]) -> Result<u64> {
        unreachable!()
    }

    /// Removes dead jobs for good. Returns how many there were. Up to 1,000 ids a call.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn purge(&self, _ids: &[JobId]) -> Result<u64> {
        unreachable!()
    }

    /// Lets no worker claim from this queue; running jobs run on. Workers see it within a second.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn pause(&self) -> Result<()> {
        unreachable!()
    }

    /// Ends [`Inspector::pause`].
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn resume(&self) -> Result<()> {
        unreachable!()
    }

    /// Removes completed and dead jobs that are older than given (`None`: leave that kind alone), in bounded steps.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn prune(
        &self,
        _completed_older_than: Option<Duration>,
        _dead_older_than: Option<Duration>,
        _dry_run: bool,
    ) -> Result<Pruned> {
        unreachable!()
    }

    /// Every key of the queue with its meaning, size and how to look inside.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn keys(&self) -> Result<Vec<KeyView>> {
        unreachable!()
    }
}
