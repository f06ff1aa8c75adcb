//! What an operator is shown, as plain data with stable JSON names.

use bytes::Bytes;
use serde::Serialize;

use crate::job::state::State;
use crate::job::{JobId, Priority};
use crate::progress::Progress;

/// A queue's counts at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// The queue.
    pub queue: String,
    /// Jobs that may run and are not running.
    pub ready: u64,
    /// The same, lane by lane: `next` (handed back, read first), `high`, `normal`, `low`, and `suspect` (run one at a time).
    pub ready_by_lane: std::collections::BTreeMap<&'static str, u64>,
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
    /// Workers that claim nothing because what their jobs need is down; up to 100 of them.
    pub open_circuits: Vec<OpenCircuit>,
}

/// A worker whose circuit is open; see [`crate::WorkerBuilder::circuit`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OpenCircuit {
    /// The worker, as [`super::WorkerView`] names it.
    pub worker: String,
    /// What is down.
    pub target: String,
}

/// One job as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JobView {
    /// The job's id.
    pub id: JobId,
    /// The job's name.
    pub name: String,
    /// Whom it is for: a tenant, a shop.
    pub group: Option<String>,
    /// Which of the waiting jobs runs first.
    pub priority: Priority,
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
    /// When it must have started, unix ms on Redis's clock.
    pub expires_at_ms: Option<u64>,
    /// When it must be done, unix ms on Redis's clock.
    pub deadline_at_ms: Option<u64>,
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
    /// What its handlers have told, if anything. Only [`super::Inspector::show`] fills it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The id of the key that sealed the payload, for one that Redis keeps sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sealed_with: Option<String>,
    /// The payload, opened. Only [`super::Inspector::show`] fills it in; `None` also when its key is not at hand.
    #[serde(skip)]
    pub payload: Option<Bytes>,
    /// How the payload is written: `msgpack`, `json` or `raw`.
    pub codec: String,
    /// Where a listing goes on behind this job: `after` of [`super::Inspector::page`]. Only in listings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
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

/// A page of a listing, and where the next one begins.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<JobView>,
    /// Pass to the next call; `None` at the end.
    pub next: Option<String>,
}

/// What [`super::Inspector::prune`] removed, or with `dry_run` would remove.
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

impl std::ops::AddAssign for Pruned {
    fn add_assign(&mut self, more: Self) {
        self.completed += more.completed;
        self.dead += more.dead;
        self.producers += more.producers;
    }
}

/// One completed job of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CompletedView {
    /// The entry of the history, `<unix ms>-<sequence>`: when it completed, by Redis's clock.
    pub entry: String,
    /// The job's id.
    pub id: JobId,
    /// The job's name.
    pub name: String,
    /// The attempt that succeeded, from 1.
    pub attempt: u32,
    /// How long that attempt took, ms.
    pub took_ms: u64,
    /// Whom it was for.
    pub group: Option<String>,
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
