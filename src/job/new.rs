//! A job to be enqueued, and its options one by one. Their ranges are in `check`.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::codec::Codec;
use super::meta::Meta;
use super::millis;
use super::priority::Priority;
#[cfg(feature = "gateway")]
use super::trace;
use super::unique::{Hold, OnConflict, Unique};
use crate::error::Result;

/// A job to be enqueued: a name, a payload, and whatever differs from the defaults.
///
/// ```
/// # use millstream::NewJob;
/// # use std::time::Duration;
/// #[derive(serde::Serialize)]
/// struct Welcome { user: u64 }
///
/// let job = NewJob::new("welcome", &Welcome { user: 7 })?.delay(Duration::from_secs(60)).max_attempts(5);
/// # Ok::<(), millstream::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct NewJob {
    pub(crate) name: String,
    pub(crate) payload: Bytes,
    pub(crate) delay: Option<Duration>,
    pub(crate) unique: Option<Unique>,
    pub(crate) on_conflict: OnConflict,
    pub(crate) expires: Option<Duration>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) meta: Meta,
}

impl NewJob {
    /// A job whose payload is `value` in MessagePack (fields by name, so they may be added later).
    ///
    /// # Errors
    /// [`crate::Error::Encode`] when `value` cannot be written in MessagePack.
    pub fn new<T: Serialize + ?Sized>(name: impl Into<String>, value: &T) -> Result<Self> {
        Self::encoded(name.into(), Codec::MsgPack, value)
    }

    /// A job whose payload is `value` as JSON, for handlers in other languages.
    ///
    /// # Errors
    /// [`crate::Error::Encode`] when `value` cannot be written as JSON.
    pub fn json<T: Serialize + ?Sized>(name: impl Into<String>, value: &T) -> Result<Self> {
        Self::encoded(name.into(), Codec::Json, value)
    }

    /// A job whose payload is `bytes`, passed through untouched.
    pub fn raw(name: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        Self::of(name.into(), Codec::Raw, bytes.into())
    }

    fn encoded<T: Serialize + ?Sized>(name: String, codec: Codec, value: &T) -> Result<Self> {
        let payload = codec.encode(&name, value)?;
        Ok(Self::of(name, codec, payload))
    }

    fn of(name: String, codec: Codec, payload: Bytes) -> Self {
        let meta = Meta {
            codec,
            ..Meta::default()
        };
        Self {
            name,
            payload,
            delay: None,
            unique: None,
            on_conflict: OnConflict::Refuse,
            expires: None,
            deadline: None,
            meta,
        }
    }

    /// Runs the job no earlier than `delay` from now, on Redis's clock.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Refuses a second job with the same `key` (per queue) until this one is finished:
    /// the second enqueue answers with this job's id and [`crate::Enqueued::duplicate`]. [`NewJob::on_conflict`] changes the answer.
    #[must_use]
    pub fn unique(self, key: impl Into<String>) -> Self {
        self.holding(key.into(), Hold::Unfinished)
    }

    /// Like [`NewJob::unique`], but only while this job waits. Once it runs, the next one with the key is a job of its own: what
    /// changed after the handler began to look is not lost.
    #[must_use]
    pub fn unique_while_waiting(self, key: impl Into<String>) -> Self {
        self.holding(key.into(), Hold::Waiting)
    }

    /// Like [`NewJob::unique`], but for `window` from the enqueue, even after this job has finished. For deduplicating deliveries.
    #[must_use]
    pub fn unique_for(self, key: impl Into<String>, window: Duration) -> Self {
        self.holding(key.into(), Hold::For(window))
    }

    /// What is done when another job holds the unique key. Default: [`OnConflict::Refuse`].
    #[must_use]
    pub fn on_conflict(mut self, on_conflict: OnConflict) -> Self {
        self.on_conflict = on_conflict;
        self
    }

    /// Runs the job when there has been no other with the same `key` for `wait`, with the newest payload: each takes the place
    /// of the one that waits, and puts it off. Short for [`NewJob::unique_while_waiting`], [`NewJob::delay`] and
    /// [`OnConflict::Replace`].
    ///
    /// ```
    /// # use millstream::NewJob;
    /// # use std::time::Duration;
    /// let job = NewJob::json("reindex", &7)?.debounce("product-7", Duration::from_secs(2));
    /// # Ok::<(), millstream::Error>(())
    /// ```
    #[must_use]
    pub fn debounce(self, key: impl Into<String>, wait: Duration) -> Self {
        self.unique_while_waiting(key)
            .delay(wait)
            .on_conflict(OnConflict::Replace)
    }

    /// Lets one job with the same `key` start per `window`: the first at once, and those that come meanwhile as one at its end,
    /// with the newest payload. Short for [`NewJob::unique_for`] and [`OnConflict::Throttle`].
    #[must_use]
    pub fn throttle(self, key: impl Into<String>, window: Duration) -> Self {
        self.unique_for(key, window)
            .on_conflict(OnConflict::Throttle)
    }

    fn holding(mut self, key: String, hold: Hold) -> Self {
        self.unique = Some(Unique { key, hold });
        self
    }

    /// Whom the job is for: a tenant, a shop. Handlers see it, operators find jobs by it, and where groups are limited (see
    /// [`crate::worker::WorkerBuilder::group_concurrency`]) the jobs of one group wait for each other and not for those of others.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.meta.group = Some(group.into());
        self
    }

    /// Which of the waiting jobs runs first: those of high priority before the others, those of low priority last. Of ten jobs that
    /// a worker takes, one is a low and one a normal one, if there are any, so that none waits for ever. A job that was handed back
    /// or taken from a silent worker comes before all of them. Default: [`Priority::Normal`].
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.meta.priority = priority;
        self
    }

    /// How many points the job takes from the bucket of its group each time it starts, where the group has a rate (see
    /// [`crate::worker::WorkerBuilder::group_rate`]): for budgets that count more than calls. 1 to 100,000, default 1. One that costs
    /// more than the bucket holds takes a full bucket.
    #[must_use]
    pub fn cost(mut self, points: u32) -> Self {
        self.meta.cost = Some(points).filter(|points| *points != 1);
        self
    }

    /// How often a failing handler is tried in all, at least 1. Default: the worker's setting.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.meta.max_attempts = Some(attempts);
        self
    }

    /// How long one attempt may run. Default: the worker's setting.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.meta.timeout_ms = Some(millis(timeout));
        self
    }

    /// If no worker has started the job this long after the enqueue, it goes to the dead letter as `expired` instead: a scheduled
    /// one at that moment, one that is ready or held when its turn comes.
    #[must_use]
    pub fn expires(mut self, after: Duration) -> Self {
        self.expires = Some(after);
        self
    }

    /// If the job is not completed this long after the enqueue, all waits, attempts and retries together, it goes to the dead
    /// letter as `expired`. An attempt that runs at that moment is cut off as by its timeout.
    #[must_use]
    pub fn deadline(mut self, after: Duration) -> Self {
        self.deadline = Some(after);
        self
    }

    /// Keeps what the handler gives back for `ttl` from the completion, for [`crate::Queue::wait`]. Without this it is dropped.
    #[must_use]
    pub fn keep_result(mut self, ttl: Duration) -> Self {
        self.meta.result_ms = Some(millis(ttl));
        self
    }

    /// Keeps a header with the job: handlers see it, and a forwarded request carries it.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.meta.headers.insert(name.into(), value.into());
        self
    }

    /// The trace that the job belongs to, as a W3C `traceparent`: handlers see it, and a forwarded request carries it.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.meta.traceparent = Some(traceparent.into());
        self
    }

    /// What belongs to the `traceparent`, at most 512 bytes: passed on with it.
    #[must_use]
    pub fn tracestate(mut self, tracestate: impl Into<String>) -> Self {
        self.meta.tracestate = Some(tracestate.into());
        self
    }

    /// [`NewJob::traceparent`] and [`NewJob::tracestate`] at once.
    #[cfg(feature = "gateway")]
    pub(crate) fn set_trace(&mut self, context: trace::TraceContext) {
        self.meta.traceparent = Some(context.parent);
        self.meta.tracestate = context.state;
    }

    /// How long the unique key is held, if that does not depend on the job.
    pub(super) fn window(&self) -> Option<Duration> {
        self.unique.as_ref().and_then(Unique::window)
    }

    /// The job's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The encoded payload.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }
}
