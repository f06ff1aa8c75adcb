//! Everything that can go wrong, in one list.

use std::time::Duration;

use crate::job::JobId;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with the value that caused it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of range or malformed. Nothing was connected or changed; fix the setting.
    #[error("{name} = {value:?}: {reason}")]
    Setting {
        /// The setting as the user writes it, `lease` or `redis.url`.
        name: String,
        /// What was given, never a secret.
        value: String,
        /// Why it was refused, and what would be accepted.
        reason: String,
    },
    /// No server answered at the address. Start one, or correct the URL.
    #[error("cannot reach Redis at {server}: {reason}; start one there, or correct the URL")]
    Unreachable {
        /// Host and port or socket path, without credentials.
        server: String,
        /// What the connection attempt said.
        reason: String,
    },
    /// The server answered, but jobs would not be safe on it: too old, or it would evict keys.
    #[error("Redis at {server} is not fit for jobs: {reason}")]
    Unfit {
        /// Host and port or socket path, without credentials.
        server: String,
        /// What is wrong, and the command that mends it.
        reason: String,
    },
    /// Redis refused the command for a reason that waiting may cure (out of memory, read-only, loading, disk full), or until
    /// somebody lets us in (no permission). Nothing was changed; try again later.
    #[error("Redis refused {operation}: {reason}")]
    Refused {
        /// The transition or command that was refused.
        operation: &'static str,
        /// Redis's own words.
        reason: String,
    },
    /// Redis has been silent for a second, and enough jobs of this program wait for it already. Nothing was sent; tell your
    /// own caller to come back later.
    #[error(
        "{waiting} jobs with {bytes} bytes of payload wait for Redis, which does not answer: this one was not sent"
    )]
    Backpressure {
        /// Jobs of this queue that wait for an answer.
        waiting: usize,
        /// Their payloads together, bytes.
        bytes: usize,
    },
    /// No answer came in time. The call may or may not have been carried out.
    #[error(
        "no answer to {operation} within {waited:?}: it may or may not have been carried out ({reason})"
    )]
    Ambiguous {
        /// The transition or command that was not answered.
        operation: &'static str,
        /// How long the caller waited, all tries together.
        waited: Duration,
        /// The last thing that the connection said.
        reason: String,
    },
    /// Redis answered something that this version does not understand, or a key holds the wrong type.
    /// Nothing was changed. A key that is not ours stands where ours should be: look with `millstream keys`.
    #[error("{operation} failed: {reason}")]
    Protocol {
        /// The transition or command that failed.
        operation: &'static str,
        /// Redis's own words, or what was unexpected in the reply.
        reason: String,
    },
    /// The job has moved on: its lease ran out, or it was cancelled. Stop the handler; record nothing.
    #[error("lease lost on job {job}: it was reclaimed or cancelled meanwhile")]
    LeaseLost {
        /// The job whose delivery is no longer the live one.
        job: JobId,
    },
    /// No unfinished or dead job has this id. It may have completed: completed jobs are kept only when retention is asked for.
    #[error("no job {job} in queue {queue}")]
    NotFound {
        /// The queue that was searched.
        queue: String,
        /// The id as given.
        job: JobId,
    },
    /// The job was not finished when the time to wait for it was over. It goes on; wait again.
    #[error("job {job} is not finished after {waited:?}")]
    NotYet {
        /// The job that was waited for.
        job: JobId,
        /// How long.
        waited: Duration,
    },
    /// The job that was waited for is in the dead letter, whole. Redrive it once the cause is mended.
    #[error("job {job} is dead ({reason}): {error}")]
    JobDied {
        /// The job that was waited for.
        job: JobId,
        /// `attempts`, `refused`, `expired`, `crash_loop` …
        reason: String,
        /// The error of its last attempt.
        error: String,
    },
    /// The job has no result, and will have none.
    #[error("job {job} has no result: {why}")]
    NoResult {
        /// The job that was waited for.
        job: JobId,
        /// What may have become of it.
        why: &'static str,
    },
    /// The queue has no schedule of this id. `millstream cron list` shows those that there are.
    #[error("no schedule {schedule:?} in queue {queue}")]
    NoSchedule {
        /// The queue that was searched.
        queue: String,
        /// The id as given.
        schedule: String,
    },
    /// The job is in a state from which this transition does not start. Nothing was changed.
    #[error("job {job} is {state}: it cannot be {wanted}")]
    WrongState {
        /// The job that was asked about.
        job: JobId,
        /// Where it is.
        state: String,
        /// What was wanted, as a participle (`run now`, `cancelled`).
        wanted: &'static str,
    },
    /// The queue has as many unfinished jobs as it may have. Nothing was stored; come back later, or raise the limit
    /// (`millstream queue set`).
    #[error("queue {queue} is full: it has {depth} unfinished jobs and may have {max_depth}")]
    QueueFull {
        /// The queue.
        queue: String,
        /// Jobs that are ready, running, scheduled or held.
        depth: u64,
        /// The limit in force.
        max_depth: u64,
    },
    /// The group has as many held jobs as it may have. Nothing was stored, also none of the jobs of other groups that came with it;
    /// come back later, or raise the limit (`millstream groups set`).
    #[error(
        "group {group} of queue {queue} is full: {held} of its jobs wait for their turn, and {max_backlog} may"
    )]
    GroupFull {
        /// The queue.
        queue: String,
        /// The group.
        group: String,
        /// Its held jobs.
        held: u64,
        /// The limit in force.
        max_backlog: u64,
        /// How many more jobs of it there would have been room for.
        fitting: u64,
    },
    /// The payload is larger than the limit. Store the data elsewhere and enqueue a reference, or raise the limit.
    #[error("the payload of job {name:?} has {bytes} bytes, the limit is {limit} bytes")]
    PayloadTooLarge {
        /// The job's name.
        name: String,
        /// The size of the encoded payload.
        bytes: usize,
        /// The limit in force.
        limit: usize,
    },
    /// A value could not be written in the chosen codec.
    #[error("cannot encode the payload of job {name:?} as {codec}: {reason}")]
    Encode {
        /// The job's name.
        name: String,
        /// `msgpack` or `json`.
        codec: &'static str,
        /// What the encoder said.
        reason: String,
    },
    /// Stored bytes could not be read as the wanted type. The bytes are untouched.
    #[error("cannot decode the payload of job {name:?} as {codec}: {reason}")]
    Decode {
        /// The job's name.
        name: String,
        /// `msgpack` or `json`.
        codec: &'static str,
        /// What the decoder said; never the payload itself.
        reason: String,
    },
    /// A sealed payload could not be opened, or a payload not be sealed. The stored bytes are untouched.
    #[error("cannot open the payload of job {name:?}, sealed with key {key:?}: {reason}")]
    Unopenable {
        /// The job's name.
        name: String,
        /// The id of the key.
        key: String,
        /// Why not.
        reason: &'static str,
    },
    /// A job description is out of range or malformed. Nothing was stored.
    #[error("{field} = {value:?}: {reason}")]
    InvalidJob {
        /// The option at fault: `name`, `delay`, `max_attempts` …
        field: &'static str,
        /// What was given.
        value: String,
        /// Why it was refused, and what would be accepted.
        reason: String,
    },
    /// This client or worker was stopped; make a new one.
    #[error("{what} was stopped")]
    Stopped {
        /// What was stopped.
        what: &'static str,
    },
    /// A file, process or socket of this machine failed.
    #[error("{what}")]
    Io {
        /// What was attempted, with the path or address.
        what: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
}

impl Error {
    /// A refusal of the setting `name`.
    #[doc(hidden)]
    pub fn setting(
        name: impl Into<String>,
        value: impl std::fmt::Display,
        reason: impl Into<String>,
    ) -> Self {
        Self::Setting {
            name: name.into(),
            value: value.to_string(),
            reason: reason.into(),
        }
    }

    /// What became of a call, in a word for counters and spans.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::Unreachable { .. } => "unreachable",
            Self::Ambiguous { .. } => "ambiguous",
            _ => "failed",
        }
    }

    /// True when the fault lies in what was configured, here or at the server, rather than in the world: the binary exits 2.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Setting { .. }
                | Self::InvalidJob { .. }
                | Self::PayloadTooLarge { .. }
                | Self::Unfit { .. }
        )
    }
}
