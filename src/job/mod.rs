//! Jobs as plain data: what a producer hands in, what a handler gets, what is stored beside a payload.
//! The states are in [`state`], the payload codecs in [`codec`]. Nothing here does I/O.

pub mod codec;
pub mod durability;
pub mod state;
pub(crate) mod trace;
mod update;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::config;
use crate::error::{Error, Result};
use codec::Codec;
use durability::Durability;
pub use update::JobUpdate;

/// The name of a job for its whole life. Opaque: the entry id of its first delivery, or a UUIDv7 for a job that began as scheduled, or with a priority
/// of its own.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct JobId(Arc<str>);

impl JobId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for JobId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl From<String> for JobId {
    fn from(id: String) -> Self {
        Self(id.into())
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({})", self.0)
    }
}

/// A queue's name, checked: 1 to 200 bytes, no braces, slash, white space, control or glob characters.
///
/// Braces would break the cluster hash tag, a slash is kept for partitions, and the rest keeps `redis-cli --scan` usable.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct QueueName(Arc<str>);

impl QueueName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`Error::Setting`] names the character that is not allowed.
    pub fn new(name: &str) -> Result<Self> {
        let refuse = |reason: String| Err(Error::setting("queue", name.escape_debug(), reason));
        if name.is_empty() || name.len() > config::QUEUE_NAME_BYTES_MAX {
            return refuse(format!(
                "a queue name has 1 to {} bytes",
                config::QUEUE_NAME_BYTES_MAX
            ));
        }
        if let Some(bad) = name
            .chars()
            .find(|c| c.is_control() || c.is_whitespace() || "{}/*?[]\\^\"'".contains(*c))
        {
            return refuse(format!(
                "{bad:?} is not allowed in a queue name; use letters, digits, '-', '_', '.' and ':'"
            ));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

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

/// Which of two waiting jobs runs first; see [`NewJob::priority`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Priority {
    /// Before all others.
    High,
    /// As it comes.
    #[default]
    Normal,
    /// When nothing else waits; but one of ten jobs that a worker takes is a low one, if there is any.
    Low,
}

impl Priority {
    /// The word in flags, JSON and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Priority {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::High, Self::Normal, Self::Low];
        let found = all.into_iter().find(|priority| priority.name() == text);
        found.ok_or_else(|| Error::setting("priority", text.escape_debug(), "high, normal or low"))
    }
}

/// A unique key and how long it is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unique {
    pub(crate) key: String,
    pub(crate) hold: Hold,
}

/// How long a unique key stands in the way of other jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// While its job waits, before the first attempt or the next.
    Waiting,
    /// Until its job is finished.
    Unfinished,
    /// For this long from the enqueue, whatever becomes of the job.
    For(Duration),
}

impl Unique {
    pub(crate) fn window(&self) -> Option<Duration> {
        match self.hold {
            Hold::For(window) => Some(window),
            Hold::Waiting | Hold::Unfinished => None,
        }
    }
}

/// What an enqueue does when another job holds its unique key; see [`NewJob::on_conflict`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnConflict {
    /// Makes no job and answers with the holder's id.
    #[default]
    Refuse,
    /// Gives the holder this job's name, payload, delay and options, as long as it waits. It keeps its id and begins again with
    /// its first attempt. One that runs, or is finished and holds the key for a time, refuses.
    Replace,
    /// Lets one job start per time: what comes while the key is held becomes one job that is due when the time is over, with the
    /// newest payload. Needs [`NewJob::unique_for`].
    Throttle,
}

impl OnConflict {
    /// The word in flags, JSON and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Replace => "replace",
            Self::Throttle => "throttle",
        }
    }
}

impl std::str::FromStr for OnConflict {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Refuse, Self::Replace, Self::Throttle];
        let found = all.into_iter().find(|conflict| conflict.name() == text);
        found.ok_or_else(|| Error::setting("on_conflict", text, "refuse, replace or throttle"))
    }
}

impl NewJob {
    /// A job whose payload is `value` in MessagePack (fields by name, so they may be added later).
    ///
    /// # Errors
    /// [`Error::Encode`] when `value` cannot be written in MessagePack.
    pub fn new<T: Serialize + ?Sized>(name: impl Into<String>, value: &T) -> Result<Self> {
        Self::encoded(name.into(), Codec::MsgPack, value)
    }

    /// A job whose payload is `value` as JSON, for handlers in other languages.
    ///
    /// # Errors
    /// [`Error::Encode`] when `value` cannot be written as JSON.
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
    /// the second enqueue answers with this job's id and [`Enqueued::duplicate`]. [`NewJob::on_conflict`] changes the answer.
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
    fn window(&self) -> Option<Duration> {
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

    /// Checks everything that can be known before Redis is asked; [`crate::Queue::enqueue`] does so by itself.
    ///
    /// # Errors
    /// [`Error::InvalidJob`] names the option, its value and its range; [`Error::PayloadTooLarge`].
    pub fn check(&self, payload_bytes_max: usize) -> Result<()> {
        let invalid = |field, value: String, reason: String| {
            Err(Error::InvalidJob {
                field,
                value,
                reason,
            })
        };
        check_name("name", &self.name, config::JOB_NAME_BYTES_MAX)?;
        if self.payload.len() > payload_bytes_max {
            return Err(Error::PayloadTooLarge {
                name: self.name.clone(),
                bytes: self.payload.len(),
                limit: payload_bytes_max,
            });
        }
        if let Some(unique) = &self.unique {
            check_name("unique", &unique.key, config::JOB_NAME_BYTES_MAX)?;
        }
        let needs = match self.on_conflict {
            OnConflict::Replace if self.unique.is_none() => Some("a unique key"),
            OnConflict::Throttle if self.window().is_none() => Some("a unique key held for a time"),
            _ => None,
        };
        if let Some(needs) = needs {
            let (field, value) = ("on_conflict", self.on_conflict.name().to_owned());
            return invalid(field, value, format!("it needs {needs}"));
        }
        if let Some(group) = &self.meta.group {
            check_name("group", group, config::GROUP_BYTES_MAX)?;
        }
        if let Some(cost) = self.meta.cost
            && !(1..=config::COST_MAX).contains(&cost)
        {
            let reason = format!("1 to {}", config::COST_MAX);
            return invalid("cost", cost.to_string(), reason);
        }
        let shown = |text: &str| text.chars().take(64).collect::<String>();
        if let Some(traceparent) = &self.meta.traceparent
            && trace::trace_id(traceparent).is_none()
        {
            let reason = "write it as W3C Trace Context does: 00-<32 hex>-<16 hex>-<2 hex>";
            return invalid("traceparent", shown(traceparent), reason.to_owned());
        }
        if let Some(tracestate) = &self.meta.tracestate
            && !trace::is_tracestate(tracestate)
        {
            let reason = format!("1 to {} bytes of ASCII", trace::TRACESTATE_BYTES_MAX);
            return invalid("tracestate", shown(tracestate), reason);
        }
        let horizon = config::HORIZON_MAX;
        let unique_window = self.window();
        for (field, value) in [
            ("delay", self.delay),
            ("unique_for", unique_window),
            ("expires", self.expires),
            ("deadline", self.deadline),
        ] {
            if let Some(value) = value
                && value > horizon
            {
                let reason = format!("at most {}", humantime::format_duration(horizon));
                return invalid(field, humantime::format_duration(value).to_string(), reason);
            }
        }
        for (field, value) in [
            ("unique_for", unique_window),
            ("expires", self.expires),
            ("deadline", self.deadline),
        ] {
            if value.is_some_and(|value| millis(value) == 0) {
                return invalid(field, "0".into(), "at least 1ms".into());
            }
        }
        if let Some(attempts) = self.meta.max_attempts
            && !(1..=config::MAX_ATTEMPTS_MAX).contains(&attempts)
        {
            return invalid(
                "max_attempts",
                attempts.to_string(),
                format!("1 to {}", config::MAX_ATTEMPTS_MAX),
            );
        }
        if let Some(ttl) = self.meta.result_ms
            && !(1..=millis(config::HORIZON_MAX)).contains(&ttl)
        {
            let reason = format!("1ms to {}", humantime::format_duration(config::HORIZON_MAX));
            return invalid("keep_result", format!("{ttl}ms"), reason);
        }
        if let Some(timeout) = self.meta.timeout_ms
            && !(1..=millis(config::TIMEOUT_MAX)).contains(&timeout)
        {
            let reason = format!("1ms to {}", humantime::format_duration(config::TIMEOUT_MAX));
            return invalid("timeout", format!("{timeout}ms"), reason);
        }
        Ok(())
    }
}

pub(crate) fn check_name(field: &'static str, name: &str, max: usize) -> Result<()> {
    if name.is_empty() || name.len() > max || name.chars().any(char::is_control) {
        let reason = format!("1 to {max} bytes, no control characters");
        return Err(Error::InvalidJob {
            field,
            value: name.chars().take(64).collect::<String>(),
            reason,
        });
    }
    Ok(())
}

/// What an enqueue answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Enqueued {
    /// The new job, or with `duplicate` the one that holds the unique key.
    pub id: JobId,
    /// True when the unique key was held and no job was made.
    pub duplicate: bool,
    /// True when the holder took this job's place, payload and all; see [`OnConflict`]. Then `duplicate` is true as well.
    pub replaced: bool,
    /// The level that was reached: the one that was asked for, or less when Redis could not confirm it in time.
    pub durability: Durability,
}

/// What is stored beside a payload: only what differs from the defaults, as small JSON; empty when nothing does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Meta {
    /// The job id, once it is no longer the entry id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<JobId>,
    /// The unique key that is released when the job finishes. Absent for keys held for a window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unique: Option<String>,
    /// The key counts only while the job waits: another may hold it once this one has run.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) unique_waiting: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    /// Chooses the lane.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) priority: Priority,
    /// The job counts among those of its group that are ready or running; written by the scripts.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) slot: bool,
    /// Points that the job takes from the bucket of its group, unless it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cost: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_ms: Option<u64>,
    /// Redis's clock, unix ms; written by the enqueue script.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at_ms: Option<u64>,
    /// The same, for the end of all attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deadline_at_ms: Option<u64>,
    /// How often the job was taken from a worker that stopped renewing; written by the reclaim script.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) stalls: u32,
    /// For how long what the handler gives back is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) result_ms: Option<u64>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) codec: Codec,
    /// The id of the key that sealed the payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sealed: Option<String>,
    /// The trace that the job belongs to (W3C Trace Context), well-formed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tracestate: Option<String>,
    /// Kept headers, lower-case names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) headers: BTreeMap<String, String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What most jobs store that say nothing but their codec, known without a parser.
const RAW: &str = r#"{"codec":"raw"}"#;
const JSON: &str = r#"{"codec":"json"}"#;

impl Meta {
    /// The id of the trace that the job belongs to.
    pub(crate) fn trace_id(&self) -> Option<&str> {
        trace::trace_id(self.traceparent.as_deref()?)
    }

    /// The stored form: `""` when nothing differs from the defaults.
    pub(crate) fn to_stored(&self) -> Cow<'static, str> {
        let plain = Self {
            codec: self.codec,
            ..Self::default()
        };
        if *self == plain {
            return match self.codec {
                Codec::MsgPack => "",
                Codec::Raw => RAW,
                Codec::Json => JSON,
            }
            .into();
        }
        let stored = serde_json::to_string(self);
        stored.expect("plain strings and numbers").into()
    }

    /// Reads the stored form. Unknown fields of newer versions are passed over.
    pub(crate) fn from_stored(stored: &[u8]) -> std::result::Result<Self, serde_json::Error> {
        let codec = match stored {
            b"" => Codec::MsgPack,
            plain if plain == RAW.as_bytes() => Codec::Raw,
            plain if plain == JSON.as_bytes() => Codec::Json,
            other => return serde_json::from_slice(other),
        };
        Ok(Self {
            codec,
            ..Self::default()
        })
    }
}

/// Whole milliseconds, rounded up so that a wait is never cut short.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_job_stores_no_meta() {
        assert_eq!(NewJob::new("welcome", &1).unwrap().meta.to_stored(), "");
    }

    #[test]
    fn a_job_that_says_nothing_but_its_codec_stores_what_a_parser_would_read() {
        for codec in [Codec::MsgPack, Codec::Json, Codec::Raw] {
            let meta = Meta {
                codec,
                ..Meta::default()
            };
            let stored = meta.to_stored();
            assert_eq!(Meta::from_stored(stored.as_bytes()).unwrap(), meta);
            if !stored.is_empty() {
                assert_eq!(serde_json::to_string(&meta).unwrap(), stored);
            }
        }
    }

    #[test]
    fn meta_survives_its_stored_form() {
        let meta = NewJob::raw("a", "x")
            .group("shop-1.example")
            .max_attempts(3)
            .timeout(Duration::from_secs(1))
            .header("h", "ü\u{1}")
            .meta;
        assert_eq!(
            Meta::from_stored(meta.to_stored().as_bytes()).unwrap(),
            meta
        );
    }

    #[test]
    fn a_queue_name_with_braces_slash_or_control_characters_is_refused() {
        for bad in [
            "",
            "a{b",
            "a}b",
            "a/b",
            "a b",
            "a\nb",
            "a*",
            &"x".repeat(201),
        ] {
            assert!(
                matches!(QueueName::new(bad), Err(Error::Setting { .. })),
                "{bad:?} was accepted"
            );
        }
        assert!(QueueName::new("shop-42:orders.v2_ü").is_ok());
    }

    #[test]
    fn a_job_out_of_range_is_refused_with_its_field() {
        let year = Duration::from_secs(400 * 24 * 3600);
        let job = || NewJob::raw("a", "x");
        for (field, job) in [
            ("name", NewJob::raw("", "x")),
            ("name", NewJob::raw("a\nb", "x")),
            ("unique", job().unique("")),
            ("group", job().group("")),
            ("group", job().group("a\u{1f}b")),
            ("group", job().group("x".repeat(257))),
            ("delay", job().delay(year * 100)),
            ("unique_for", job().unique_for("k", Duration::ZERO)),
            ("expires", job().expires(Duration::ZERO)),
            ("deadline", job().deadline(Duration::ZERO)),
            ("deadline", job().deadline(year * 100)),
            ("on_conflict", job().on_conflict(OnConflict::Replace)),
            (
                "on_conflict",
                job().unique("k").on_conflict(OnConflict::Throttle),
            ),
            ("max_attempts", job().max_attempts(0)),
            ("timeout", job().timeout(Duration::ZERO)),
            ("traceparent", job().traceparent("00-0-0-0")),
            ("tracestate", job().tracestate("a\n")),
            ("keep_result", job().keep_result(Duration::ZERO)),
        ] {
            match job.check(10) {
                Err(Error::InvalidJob { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{field}: {other:?}"),
            }
        }
        assert!(matches!(
            NewJob::raw("a", vec![0; 11]).check(10),
            Err(Error::PayloadTooLarge {
                bytes: 11,
                limit: 10,
                ..
            })
        ));
        assert!(job().delay(year).check(10).is_ok());
    }
}
