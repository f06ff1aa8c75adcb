//! What a handler is given and what it can say: [`Context`], [`Handler`], [`JobError`].

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use once_cell::sync::OnceCell;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::journal::{Journal, Scribe};
use crate::broker::{Author, Delivery};
use crate::error::Result;
use crate::job::codec::Codec;
use crate::job::{JobId, Priority, QueueName};
use crate::progress::HowFar;

/// What a [`Handler`] returns.
pub type HandlerFuture = Pin<Box<dyn Future<Output = Result<(), JobError>> + Send>>;

/// Code that does a job. Closures from [`Context`] to a future of `Result<(), JobError>` are handlers.
///
/// A handler may run more than once for the same job (a crash, a lost lease), so it must be idempotent;
/// [`Context::id`] is the same every time.
pub trait Handler: Send + Sync + 'static {
    /// Does the job. Dropped at its first `await` after the timeout, and when a stopping worker's patience ends.
    fn run(&self, job: Context) -> HandlerFuture;
}

impl<F, Fut> Handler for F
where
    F: Fn(Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), JobError>> + Send + 'static,
{
    fn run(&self, job: Context) -> HandlerFuture {
        Box::pin(self(job))
    }
}

/// One attempt at a job, as its handler sees it. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub(crate) inner: Arc<Attempt>,
}

/// The data behind a [`Context`].
pub(crate) struct Attempt {
    pub(crate) delivery: Arc<Delivery>,
    pub(crate) queue: QueueName,
    /// As the producer gave it, where that of the delivery is sealed.
    pub(crate) payload: Bytes,
    pub(crate) max_attempts: u32,
    pub(crate) deadline: Instant,
    /// What the handler has given back, if it is to be kept.
    pub(crate) result: Mutex<Option<(Codec, Bytes)>>,
    pub(crate) cancel: CancellationToken,
    /// How far it is and what it logs, once it has said something; and what that takes.
    pub(crate) journal: OnceCell<Arc<Journal>>,
    pub(crate) scribe: Scribe,
    /// What the handler is given of it, once it asks: cancelling that must not look like the engine's word.
    pub(crate) handed_out: OnceCell<CancellationToken>,
}

impl Context {
    /// The job's id, the same at every attempt.
    pub fn id(&self) -> &JobId {
        &self.inner.delivery.id
    }

    /// The job's name.
    pub fn name(&self) -> &str {
        &self.inner.delivery.name
    }

    /// The queue that the job came from.
    pub fn queue(&self) -> &QueueName {
        &self.inner.queue
    }

    /// Whom the job is for, as its producer said: a tenant, a shop.
    pub fn group(&self) -> Option<&str> {
        self.inner.delivery.meta.group.as_deref()
    }

    /// The job's priority.
    pub fn priority(&self) -> Priority {
        self.inner.delivery.meta.priority
    }

    /// The number of this attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.inner.delivery.attempt
    }

    /// The attempt after which a failure is final.
    pub fn max_attempts(&self) -> u32 {
        self.inner.max_attempts
    }

    /// How often the job was taken from a worker that crashed or froze.
    pub fn stalls(&self) -> u32 {
        self.inner.delivery.meta.stalls
    }

    /// The schedule that made the job, if one did.
    pub fn schedule(&self) -> Option<&str> {
        self.header(crate::schedule::SCHEDULE_HEADER)
    }

    /// The slot of its schedule that the job is for, RFC 3339 in UTC: the time at which it was due, however late it runs.
    pub fn slot(&self) -> Option<&str> {
        self.header(crate::schedule::SLOT_HEADER)
    }

    /// When this attempt is cut off.
    pub fn deadline(&self) -> Instant {
        self.inner.deadline
    }

    /// The payload as it was stored.
    pub fn payload(&self) -> &Bytes {
        &self.inner.payload
    }

    /// How the payload is written.
    pub fn codec(&self) -> Codec {
        self.inner.delivery.meta.codec
    }

    /// The payload as `T`.
    ///
    /// # Errors
    /// [`crate::Error::Decode`]. Returned from a handler it dead-letters the job at once: another try would read the same bytes.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        self.codec().decode(self.name(), self.payload())
    }

    /// The kept header `name` (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner
            .delivery
            .meta
            .headers
            .get(name)
            .map(String::as_str)
    }

    /// All kept headers, lower-case names in order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.inner
            .delivery
            .meta
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The trace that the job belongs to, as a W3C `traceparent`.
    pub fn traceparent(&self) -> Option<&str> {
        self.inner.delivery.meta.traceparent.as_deref()
    }

    /// What belongs to the [`Context::traceparent`].
    pub fn tracestate(&self) -> Option<&str> {
        self.inner.delivery.meta.tracestate.as_deref()
    }

    /// Gives `value` back, in MessagePack, if the producer of the job wants it kept; else it costs nothing. It is stored when the
    /// handler returns `Ok`. Called again, it takes the place of the former value. [`crate::WorkerBuilder::handle_with_result`]
    /// does so by itself.
    ///
    /// # Errors
    /// [`crate::Error::Encode`], [`crate::Error::PayloadTooLarge`] above 1 MiB.
    pub fn set_result<T: Serialize + ?Sized>(&self, value: &T) -> Result<()> {
        if !self.keeps_result() {
            return Ok(());
        }
        self.put_result(Codec::MsgPack, Codec::MsgPack.encode(self.name(), value)?)
    }

    /// [`Context::set_result`] with bytes that are passed through.
    ///
    /// # Errors
    /// [`crate::Error::PayloadTooLarge`] above 1 MiB.
    pub fn set_result_raw(&self, value: impl Into<Bytes>) -> Result<()> {
        match self.keeps_result() {
            true => self.put_result(Codec::Raw, value.into()),
            false => Ok(()),
        }
    }

    /// Tells how far the job is: percent (`40`) or some of a total (`(3, 12)`), with a few words or none. It is seen by
    /// [`crate::Queue::progress`], `jobs show` and, in quarters, in the events. Never waits and never fails: the newest word goes to
    /// Redis at most twice a second and once more before the job is settled. At most 1 KiB of the words is kept.
    ///
    /// ```
    /// # fn at_work(job: &millstream::Context) {
    /// job.progress(40, "resizing");
    /// job.progress((3, 12), "");
    /// # }
    /// ```
    pub fn progress(&self, how_far: impl Into<HowFar>, note: impl AsRef<str>) {
        self.journal().tell(how_far.into(), note.as_ref());
    }

    /// Keeps lines with the job for whoever looks at it: the newest 100 of all its attempts, at most 1 KiB each. They travel with
    /// [`Context::progress`], and are gone when the job is completed unless its result is kept.
    pub fn log(&self, text: impl AsRef<str>) {
        self.journal().log(text.as_ref());
    }

    fn journal(&self) -> &Arc<Journal> {
        let attempt = &self.inner;
        attempt.journal.get_or_init(|| {
            let delivery = &attempt.delivery;
            let author = Author {
                lane: delivery.lane,
                entry: delivery.entry,
                id: delivery.id.clone(),
                name: delivery.name.clone(),
                attempt: delivery.attempt,
            };
            Journal::new(author, attempt.scribe.clone())
        })
    }

    /// Whether the producer of the job wants what the handler gives back.
    pub fn keeps_result(&self) -> bool {
        self.inner.delivery.meta.result_ms.is_some()
    }

    fn put_result(&self, codec: Codec, value: Bytes) -> Result<()> {
        crate::results::check_size(self.name(), &value)?;
        let result = self.inner.result.lock();
        *result.unwrap_or_else(PoisonError::into_inner) = Some((codec, value));
        Ok(())
    }

    /// Fires when this attempt's work is no longer wanted: the job was cancelled, its lease was lost,
    /// its time is up, or the worker's shutdown deadline has come.
    pub fn cancelled(&self) -> &CancellationToken {
        let attempt = &self.inner;
        attempt
            .handed_out
            .get_or_init(|| attempt.cancel.child_token())
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("id", &self.inner.delivery.id)
            .field("name", &self.inner.delivery.name)
            .field("queue", &self.inner.queue)
            .field("attempt", &self.inner.delivery.attempt)
            .field("payload_bytes", &self.inner.payload.len())
            .finish_non_exhaustive()
    }
}

/// Why a handler did not finish a job, and what should follow. Any error turns into a failed attempt by `?`.
pub struct JobError {
    pub(crate) kind: JobErrorKind,
    pub(crate) message: String,
    /// What the job needs is down: counts towards the worker's circuit.
    pub(crate) unavailable: bool,
}

/// What should follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobErrorKind {
    /// A failed attempt; the wait may be given by the handler (`Retry-After`), else the backoff says.
    Failed { after: Option<Duration> },
    /// Straight to the dead letter.
    Refused,
    /// Not a failure: again later, no attempt used.
    Snoozed { after: Duration },
}

impl JobError {
    /// A failed attempt: the job is retried after its backoff, until its attempts are used up.
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            kind: JobErrorKind::Failed { after: None },
            message: message.into(),
            unavailable: false,
        }
    }

    /// A failed attempt that found what the job needs down, so that other jobs would fail as well. After enough of them in a
    /// row a worker with a [circuit](crate::WorkerBuilder::circuit) claims nothing for a while.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self {
            unavailable: true,
            ..Self::failed(message)
        }
    }

    /// A failed attempt whose next try is `after` from now, instead of what the backoff says.
    pub fn retry_after(after: Duration, message: impl Into<String>) -> Self {
        Self {
            kind: JobErrorKind::Failed { after: Some(after) },
            ..Self::failed(message)
        }
    }

    /// The job can never succeed: to the dead letter at once.
    pub fn refuse(message: impl Into<String>) -> Self {
        Self {
            kind: JobErrorKind::Refused,
            ..Self::failed(message)
        }
    }

    /// Not now: the job runs again `after` from now, and no attempt is used.
    pub fn snooze(after: Duration) -> Self {
        Self {
            kind: JobErrorKind::Snoozed { after },
            ..Self::failed("")
        }
    }

    /// The same for another job.
    pub(crate) fn again(&self) -> Self {
        Self {
            message: self.message.clone(),
            ..*self
        }
    }

    /// The message that is kept with the job.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Debug for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobError({:?}: {})", self.kind, self.message)
    }
}

// `JobError` is not a `std::error::Error` itself, so that every such error converts into it.
impl<E: std::error::Error + 'static> From<E> for JobError {
    fn from(error: E) -> Self {
        let any: &dyn std::error::Error = &error;
        if let Some(undecodable @ crate::Error::Decode { .. }) = any.downcast_ref() {
            return Self::refuse(undecodable.to_string());
        }
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Self::failed(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_is_a_failed_attempt_with_its_causes() {
        let error: JobError = crate::Error::Io {
            what: "reading x".into(),
            source: std::io::Error::other("disk on fire"),
        }
        .into();
        assert_eq!(error.kind, JobErrorKind::Failed { after: None });
        assert_eq!(error.message, "reading x: disk on fire");
    }

    #[test]
    fn an_undecodable_payload_is_refused() {
        let error: JobError = Codec::Json.decode::<u8>("a", b"x").unwrap_err().into();
        assert_eq!(error.kind, JobErrorKind::Refused);
    }
}
