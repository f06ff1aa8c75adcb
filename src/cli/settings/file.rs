//! The config file as it is written: its sections and keys, each value checked where it stands.
//! What depends on more than one value is checked by [`super`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use millstream::gateway::field::Field;
use millstream::gateway::signature::{Algorithm, Encoding};
use millstream::schedule::{Missed, Overlap};
use millstream::{Backoff, GroupOrder, Priority, QueueName};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::cli::parse;

/// `millstream.toml`. An unknown key is an error: it would be a setting that silently does nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Sections {
    pub(crate) redis: RedisSection,
    pub(crate) gateway: GatewaySection,
    pub(crate) sources: BTreeMap<String, SourceSection>,
    pub(crate) tokens: BTreeMap<String, TokenSection>,
    pub(crate) queues: BTreeMap<String, QueueSection>,
    /// Also empty it says something: that there are none.
    pub(crate) schedules: Option<BTreeMap<String, ScheduleSection>>,
}

/// `[redis]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RedisSection {
    pub(crate) url: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) allow_eviction: bool,
}

/// `[gateway]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GatewaySection {
    pub(crate) listen: Option<String>,
    #[serde(deserialize_with = "max_body")]
    pub(crate) max_body: Option<usize>,
    /// From here on as in [`millstream::gateway::GatewaySettings`], which knows their bounds.
    #[serde(deserialize_with = "duration")]
    pub(crate) header_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(crate) body_timeout: Option<Duration>,
    #[serde(deserialize_with = "size")]
    pub(crate) min_body_rate: Option<usize>,
    #[serde(deserialize_with = "duration")]
    pub(crate) write_timeout: Option<Duration>,
    pub(crate) max_connections: Option<usize>,
    #[serde(deserialize_with = "duration")]
    pub(crate) drain: Option<Duration>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
}

/// `[sources.NAME]`: one sender of webhooks, at `POST /webhooks/NAME`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceSection {
    pub(crate) scheme: String,
    pub(crate) secrets: SecretTexts,
    #[serde(deserialize_with = "queue")]
    pub(crate) queue: QueueName,
    #[serde(default, deserialize_with = "retention")]
    pub(crate) dedupe: Option<Duration>,
    /// Where the delivery id, the topic and the tenant stand: `header:NAME`, `json:/POINTER` or `none`.
    #[serde(default, deserialize_with = "field")]
    pub(crate) id: Option<Field>,
    #[serde(default, deserialize_with = "field")]
    pub(crate) topic: Option<Field>,
    #[serde(default, deserialize_with = "field")]
    pub(crate) group: Option<Field>,
    /// The header that carries the delivery id; `id` in another way. With `scheme = "hmac"` it can be part of what is signed.
    pub(crate) id_header: Option<String>,
    /// The headers that are stored with the job, in place of the usual ones.
    pub(crate) keep_headers: Option<Vec<String>>,
    /// How many webhooks are taken in a time, by each gateway process.
    #[serde(default, deserialize_with = "rate")]
    pub(crate) rate: Option<parse::Rate>,
    pub(crate) burst: Option<u32>,
    pub(crate) priority: Option<Priority>,
    /// From here on for `scheme = "hmac"` alone, as in [`millstream::gateway::signature::HmacSettings`].
    pub(crate) header: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) encoding: Option<Encoding>,
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) topic_header: Option<String>,
    pub(crate) timestamp_header: Option<String>,
    pub(crate) timestamp_prefix: Option<String>,
    pub(crate) separator: Option<char>,
    #[serde(default, deserialize_with = "duration")]
    pub(crate) tolerance: Option<Duration>,
    pub(crate) signed: Option<String>,
}

/// `[tokens.NAME]`: who may put jobs into queues, at `POST /queues/{queue}/jobs`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenSection {
    pub(crate) secrets: SecretTexts,
    /// The queues that they are good for; `*` is all.
    pub(crate) queues: Vec<String>,
}

/// `[queues.NAME]`: what this process does with a queue's jobs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueueSection {
    pub(crate) handler: Option<HandlerSection>,
    #[serde(default, deserialize_with = "concurrency")]
    pub(crate) concurrency: Option<usize>,
    #[serde(default, deserialize_with = "prefetch")]
    pub(crate) prefetch: Option<usize>,
    #[serde(default, deserialize_with = "max_attempts")]
    pub(crate) max_attempts: Option<u32>,
    #[serde(default, deserialize_with = "backoff")]
    pub(crate) backoff: Option<Backoff>,
    #[serde(default, deserialize_with = "timeout")]
    pub(crate) timeout: Option<Duration>,
    #[serde(default, deserialize_with = "lease")]
    pub(crate) lease: Option<Duration>,
    #[serde(default)]
    pub(crate) strict_lease: bool,
    #[serde(default, deserialize_with = "retention")]
    pub(crate) retain_completed: Option<Duration>,
    #[serde(default, deserialize_with = "retention")]
    pub(crate) retain_dead: Option<Duration>,
    /// Keys that seal the payloads, the newest first.
    pub(crate) encrypt_with: Option<SecretTexts>,
    #[serde(default, deserialize_with = "group_concurrency")]
    pub(crate) group_concurrency: Option<usize>,
    pub(crate) group_order: Option<GroupOrder>,
    #[serde(default, deserialize_with = "queue_concurrency")]
    pub(crate) queue_concurrency: Option<usize>,
    #[serde(default, deserialize_with = "group_rate")]
    pub(crate) queue_rate: Option<parse::RateLimit>,
    #[serde(default, deserialize_with = "burst")]
    pub(crate) queue_burst: Option<u32>,
    #[serde(default, deserialize_with = "max_backlog")]
    pub(crate) group_max_backlog: Option<u64>,
    #[serde(default, deserialize_with = "group_rate")]
    pub(crate) group_rate: Option<parse::RateLimit>,
    #[serde(default, deserialize_with = "burst")]
    pub(crate) group_burst: Option<u32>,
}

/// `[schedules.ID]`: a job that is due again and again.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScheduleSection {
    #[serde(deserialize_with = "queue")]
    pub(crate) queue: QueueName,
    /// Exactly one of `cron` and `every`.
    pub(crate) cron: Option<String>,
    /// With `cron`: the time zone that it means.
    pub(crate) zone: Option<String>,
    #[serde(default, deserialize_with = "duration")]
    pub(crate) every: Option<Duration>,
    /// The name of its jobs.
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) payload: String,
    #[serde(default, deserialize_with = "missed")]
    pub(crate) missed: Option<Missed>,
    #[serde(default, deserialize_with = "overlap")]
    pub(crate) overlap: Option<Overlap>,
    #[serde(default)]
    pub(crate) paused: bool,
    pub(crate) priority: Option<Priority>,
    pub(crate) group: Option<String>,
    #[serde(default, deserialize_with = "cost")]
    pub(crate) cost: Option<u32>,
    #[serde(default, deserialize_with = "window")]
    pub(crate) keep_result: Option<Duration>,
    #[serde(default, deserialize_with = "max_attempts")]
    pub(crate) max_attempts: Option<u32>,
    #[serde(default, deserialize_with = "timeout")]
    pub(crate) timeout: Option<Duration>,
    #[serde(default, deserialize_with = "window")]
    pub(crate) expires: Option<Duration>,
    #[serde(default, deserialize_with = "window")]
    pub(crate) deadline: Option<Duration>,
}

/// `handler = { … }`: exactly one of `forward` and `command`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HandlerSection {
    pub(crate) forward: Option<String>,
    /// With `forward`: the secret that signs what is sent.
    pub(crate) sign_with: Option<SecretTexts>,
    /// With `forward`: statuses that dead-letter a job at once.
    pub(crate) dead_on: Option<Vec<u16>>,
    /// With `forward`: requests to that host and port at once, from all queues of this process.
    #[serde(deserialize_with = "target_concurrency")]
    pub(crate) target_concurrency: Option<usize>,
    /// With `forward`: connect to addresses of the public internet alone.
    pub(crate) refuse_private: Option<bool>,
    /// With `forward`: failures in a row after which nothing is claimed; 0 for never.
    #[serde(deserialize_with = "circuit_failures")]
    pub(crate) circuit_failures: Option<u32>,
    /// With `forward`: the wait before one job tries again.
    #[serde(deserialize_with = "backoff")]
    pub(crate) circuit_pause: Option<Backoff>,
    pub(crate) command: Option<Vec<String>>,
    /// With `command`: the time between SIGTERM and SIGKILL.
    #[serde(deserialize_with = "duration")]
    pub(crate) kill_grace: Option<Duration>,
}

/// One secret or a list of them, unresolved: `env:NAME`, `file:/path`, or in `dev` the secret itself. Shows nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretTexts(pub(crate) Vec<String>);

impl fmt::Debug for SecretTexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretTexts({} hidden)", self.0.len())
    }
}

impl<'de> Deserialize<'de> for SecretTexts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By way of a value, since serde's own messages for a wrong type quote what they found.
        let refuse = || D::Error::custom("write a list of strings, like [\"env:SHOP_SECRET\"]");
        let one = |value| match value {
            toml::Value::String(text) => Ok(text),
            _ => Err(refuse()),
        };
        match toml::Value::deserialize(deserializer)? {
            toml::Value::Array(list) => list.into_iter().map(one).collect(),
            value => one(value).map(|text| vec![text]),
        }
        .map(Self)
    }
}

/// Reads text by `parse`; the error carries the text.
fn text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(|reason| D::Error::custom(format!("{text:?}: {reason}")))
}

/// Checks a whole number by `check`; the error carries the number.
fn number<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    check: fn(u64) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let number = i64::deserialize(deserializer)?;
    // A negative number is out of every range, like the largest one.
    check(number.try_into().unwrap_or(u64::MAX))
        .map(Some)
        .map_err(|reason| D::Error::custom(format!("{number}: {reason}")))
}

/// `deserialize_with` for one kind of setting.
macro_rules! read {
    ($($name:ident -> $type:ty = $reader:ident($check:path);)+) => {$(
        fn $name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<$type>, D::Error> {
            $reader(deserializer, $check)
        }
    )+};
}

fn optional<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    text(deserializer, parse).map(Some)
}

read! {
    field -> Field = optional(parse::field);
    duration -> Duration = optional(parse::duration);
    lease -> Duration = optional(parse::lease);
    timeout -> Duration = optional(parse::timeout);
    retention -> Duration = optional(parse::retention);
    window -> Duration = optional(parse::window);
    missed -> Missed = optional(parse::missed);
    overlap -> Overlap = optional(parse::overlap);
    backoff -> Backoff = optional(parse::backoff);
    max_body -> usize = optional(parse::max_body);
    size -> usize = optional(parse::size);
    rate -> parse::Rate = optional(parse::rate);
    concurrency -> usize = number(parse::concurrency);
    prefetch -> usize = number(parse::prefetch);
    group_concurrency -> usize = number(parse::group_concurrency);
    queue_concurrency -> usize = number(parse::queue_concurrency);
    max_backlog -> u64 = number(parse::max_backlog);
    group_rate -> parse::RateLimit = optional(parse::group_rate);
    burst -> u32 = number(parse::burst);
    cost -> u32 = number(parse::cost);
    max_attempts -> u32 = number(parse::max_attempts);
    target_concurrency -> usize = number(parse::target_concurrency);
    circuit_failures -> u32 = number(parse::circuit_failures);
}

fn queue<'de, D: Deserializer<'de>>(deserializer: D) -> Result<QueueName, D::Error> {
    text(deserializer, parse::queue)
}
