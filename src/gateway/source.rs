//! One configured sender: what it must prove, and what job a request of it becomes. No I/O here.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{self, HeaderName};

use super::field::Field;
pub(crate) use super::field::Malformed;
use super::rate::{Bucket, RateLimit};
pub use super::signature::SchemeSettings;
use super::signature::{self, Scheme, Secret};
use crate::config;
use crate::error::{Error, Result};
use crate::job::trace::TraceContext;
use crate::job::{NewJob, Priority, QueueName};

/// Longest name of a source, bytes. It is part of the URL, of job names and of unique keys.
pub const SOURCE_NAME_BYTES_MAX: usize = 64;
/// Most secrets of a source. Each costs an HMAC per request; two are enough to rotate.
pub const SECRETS_MAX: usize = 16;
/// Longest topic, bytes. With a source's name before it, it fits a job's name.
pub const TOPIC_BYTES_MAX: usize = 256;
/// Longest delivery id, bytes. Providers send UUIDs; with a source's name before it, it fits a unique key.
pub const DELIVERY_ID_BYTES_MAX: usize = 256;

/// Longest challenge that is answered, bytes.
const CHALLENGE_BYTES_MAX: usize = 4 << 10;

/// Headers that must not be stored, because they are secrets or belong to one connection only.
pub(super) const NEVER_KEPT: &[HeaderName] = &[
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// A sender, as `[sources.NAME]` describes it.
#[derive(Clone)]
pub struct SourceSettings {
    /// How its requests are signed.
    pub scheme: SchemeSettings,
    /// The secrets themselves, 1 to [`SECRETS_MAX`]; any of them passes.
    pub secrets: Vec<String>,
    /// The queue that its jobs go to.
    pub queue: String,
    /// How long a delivery id is remembered; a second delivery within it makes no job. Default 72 h, zero: not at all.
    pub dedupe: Duration,
    /// Where the delivery id stands, in place of the scheme's. Default: the scheme's.
    pub id: Option<Field>,
    /// Where the topic stands, which becomes part of the job's name. Default: the scheme's.
    pub topic: Option<Field>,
    /// Where it says whose data it is: the group of the job. Default: nowhere, and jobs have no group.
    pub group: Field,
    /// Headers that are stored with the job, in place of the usual ones. Default: content type and encoding, those that id, topic
    /// and group are read from, and what the scheme says about tenant and delivery.
    pub keep_headers: Option<Vec<String>>,
    /// How many of its webhooks a gateway process takes in a time; those beyond are told to come again. Default: all.
    pub rate: Option<RateLimit>,
    /// The priority of its jobs. Default: normal.
    pub priority: Priority,
}

impl SourceSettings {
    /// The defaults for `scheme`, `secrets` and `queue`.
    pub fn new(
        scheme: SchemeSettings,
        secrets: impl IntoIterator<Item = impl Into<String>>,
        queue: impl Into<String>,
    ) -> Self {
        Self {
            scheme,
            secrets: secrets.into_iter().map(Into::into).collect(),
            queue: queue.into(),
            dedupe: config::DEDUPE_DEFAULT,
            id: None,
            topic: None,
            group: Field::none(),
            keep_headers: None,
            rate: None,
            priority: Priority::Normal,
        }
    }
}

impl fmt::Debug for SourceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceSettings")
            .field("scheme", &self.scheme)
            .field("secrets", &format_args!("{} hidden", self.secrets.len()))
            .field("queue", &self.queue)
            .field("dedupe", &self.dedupe)
            .field("id", &self.id)
            .field("topic", &self.topic)
            .field("group", &self.group)
            .field("keep_headers", &self.keep_headers)
            .field("rate", &self.rate)
            .field("priority", &self.priority)
            .finish()
    }
}

/// A sender whose settings were checked.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    name: String,
    queue: QueueName,
    scheme: Scheme,
    /// Shared by all clones, so that new secrets reach requests that are on their way.
    secrets: Arc<ArcSwap<Keyring>>,
    /// Verifies with keys that nobody has.
    decoy: bool,
    /// `None`: every delivery makes a job.
    dedupe: Option<Duration>,
    id: Field,
    topic: Field,
    group: Field,
    kept: Vec<HeaderName>,
    /// Shared by all clones.
    rate: Option<Arc<Bucket>>,
    priority: Priority,
}

/// A source's secrets, and as many keys of the same kind that nobody has.
#[derive(Debug)]
pub(crate) struct Keyring {
    genuine: Vec<Secret>,
    strangers: Vec<Secret>,
}

impl Keyring {
    pub(super) fn genuine(&self) -> &[Secret] {
        &self.genuine
    }

    /// Reads `secrets` as `scheme` writes them; `setting` is where they stand, for messages.
    fn read(setting: &str, scheme: &Scheme, secrets: &[String]) -> Result<Self> {
        if !(1..=SECRETS_MAX).contains(&secrets.len()) {
            return Err(Error::setting(
                setting,
                format!("{} secrets", secrets.len()),
                format!("1 to {SECRETS_MAX}; without a secret anybody could send"),
            ));
        }
        let secrets = secrets.iter().enumerate();
        let genuine: Vec<Secret> = secrets
            .map(|(at, text)| scheme.secret(&format!("{setting}[{at}]"), text))
            .collect::<Result<_>>()?;
        Ok(Self {
            strangers: genuine.iter().map(Secret::stranger).collect(),
            genuine,
        })
    }
}

impl Source {
    /// Checks everything that can be known before a request comes.
    pub(crate) fn new(name: &str, settings: &SourceSettings) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > SOURCE_NAME_BYTES_MAX || !name.chars().all(allowed) {
            return Err(Error::setting(
                "sources",
                name.escape_debug(),
                format!(
                    "a source's name has 1 to {SOURCE_NAME_BYTES_MAX} letters, digits, '-', '_' and '.'"
                ),
            ));
        }
        let setting = |field: &str| format!("sources.{name}.{field}");
        let scheme = Scheme::new(&format!("sources.{name}"), &settings.scheme)?;
        let secrets = Keyring::read(&setting("secrets"), &scheme, &settings.secrets)?;
        let queue = QueueName::new(&settings.queue).map_err(|error| match error {
            Error::Setting { value, reason, .. } => Error::setting(setting("queue"), value, reason),
            other => other,
        })?;
        // Remembering an id for less time than its signature is good for would let a captured request in again.
        let dedupe_min = scheme.tolerance().unwrap_or_default() * 2;
        let dedupe = (!settings.dedupe.is_zero()).then_some(settings.dedupe);
        if dedupe.is_some_and(|dedupe| dedupe < dedupe_min || dedupe > config::HORIZON_MAX) {
            return Err(Error::setting(
                setting("dedupe"),
                humantime::format_duration(settings.dedupe),
                format!(
                    "{} to {}, or 0s for none",
                    humantime::format_duration(dedupe_min),
                    humantime::format_duration(config::HORIZON_MAX)
                ),
            ));
        }
        let id = match &settings.id {
            None => scheme.id.clone(),
            Some(id) if scheme.signs_id() => {
                return Err(Error::setting(
                    setting("id"),
                    id,
                    "this scheme signs its own delivery id; leave id out",
                ));
            }
            Some(id) => id.clone(),
        };
        let rate = settings.rate;
        let rate = rate.map(|rate| Bucket::new(&format!("sources.{name}"), rate));
        let topic = settings.topic.as_ref().unwrap_or(&scheme.topic).clone();
        let kept = match &settings.keep_headers {
            Some(names) => names
                .iter()
                .map(|name| kept_header(&setting("keep_headers"), name, &scheme))
                .collect::<Result<_>>()?,
            None => {
                let content = [header::CONTENT_TYPE, header::CONTENT_ENCODING].into_iter();
                let places = [&id, &topic, &settings.group].into_iter();
                let read = places.filter_map(Field::header).cloned();
                let mut kept: Vec<HeaderName> = content.chain(scheme.kept()).chain(read).collect();
                kept.retain(|name| !NEVER_KEPT.contains(name) && !scheme.is_signature(name));
                kept.sort_by(|a, b| a.as_str().cmp(b.as_str()));
                kept.dedup();
                kept
            }
        };
        Ok(Self {
            name: name.to_owned(),
            queue,
            scheme,
            secrets: Arc::new(ArcSwap::from_pointee(secrets)),
            decoy: false,
            dedupe,
            id,
            topic,
            group: settings.group.clone(),
            kept,
            rate: rate.transpose()?.map(Arc::new),
            priority: settings.priority,
        })
    }

    /// A source like this one whose secrets nobody has: answering for it takes as long as answering for this one, also once the
    /// secrets of this one were replaced.
    pub(crate) fn decoy(&self) -> Self {
        Self {
            decoy: true,
            ..self.clone()
        }
    }

    /// Reads new secrets as the source's scheme writes them. Nothing changes before [`Source::rekey`].
    pub(crate) fn read_secrets(&self, secrets: &[String]) -> Result<Keyring> {
        let setting = format!("sources.{}.secrets", self.name);
        Keyring::read(&setting, &self.scheme, secrets)
    }

    /// The secrets of now, in their order.
    pub(crate) fn keyring(&self) -> Arc<Keyring> {
        self.secrets.load_full()
    }

    /// From now on only these secrets pass.
    pub(crate) fn rekey(&self, keyring: Keyring) {
        self.secrets.store(Arc::new(keyring));
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// True when the sender signed exactly these bytes. `now` is in unix seconds.
    pub(crate) fn verify(&self, headers: &HeaderMap, body: &[u8], now: i64) -> bool {
        let keyring = self.secrets.load();
        let secrets = if self.decoy {
            &keyring.strangers
        } else {
            &keyring.genuine
        };
        self.scheme.verify(secrets, headers, body, now)
    }

    /// What a verified request wants to be answered with, if it is no delivery but a question whether somebody is there: the
    /// member of that name and its text.
    pub(crate) fn challenge(
        &self,
        body: &[u8],
    ) -> Result<Option<(&'static str, String)>, Malformed> {
        let Some(challenge) = self.scheme.challenge else {
            return Ok(None);
        };
        let no_headers = HeaderMap::new();
        let read =
            |member: &str| Field::member(member).read(&no_headers, body, CHALLENGE_BYTES_MAX);
        let (member, text) = challenge.when;
        // Whatever else stands there is no challenge.
        if read(member)
            .ok()
            .flatten()
            .is_none_or(|found| found != text)
        {
            return Ok(None);
        }
        let wanted = read(challenge.member)?;
        Ok(wanted.map(|text| (challenge.member, text.into_owned())))
    }

    /// Counts a verified request; if it is one too many, says when to come again.
    pub(crate) fn within_rate(&self) -> Result<(), Duration> {
        self.rate.as_ref().map_or(Ok(()), |bucket| bucket.take())
    }

    /// True when this header is stored with the jobs.
    pub(crate) fn keeps(&self, header: &HeaderName) -> bool {
        self.kept.contains(header)
    }

    /// The job that a verified request becomes. The body is passed through untouched.
    pub(crate) fn job(&self, headers: &HeaderMap, body: Bytes) -> Result<NewJob, Malformed> {
        let name = match self.topic.read(headers, &body, TOPIC_BYTES_MAX)? {
            Some(topic) => [&self.name, "/", &*topic].concat(),
            None => self.name.clone(),
        };
        let group = self.group.read(headers, &body, config::GROUP_BYTES_MAX)?;
        let id = match self.dedupe {
            Some(_) => self.id.read(headers, &body, DELIVERY_ID_BYTES_MAX)?,
            None => None,
        };
        let mut job = NewJob::raw(name, body).priority(self.priority);
        if let Some(group) = group {
            job = job.group(group);
        }
        if let (Some(window), Some(id)) = (self.dedupe, id) {
            job = job.unique_for([&self.name, "/", &*id].concat(), window);
        }
        for name in &self.kept {
            if let Some(value) = joined(headers, name) {
                job.meta.headers.insert(name.as_str().to_owned(), value);
            }
        }
        Ok(job)
    }
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The trace that a request belongs to. What is not well-formed is dropped, as the recommendation asks: it is no reason to refuse
/// a webhook.
pub(crate) fn trace(headers: &HeaderMap) -> Option<TraceContext> {
    TraceContext::new(joined(headers, &TRACEPARENT)?, joined(headers, &TRACESTATE))
}

/// A header that a user wants to keep.
fn kept_header(setting: &str, name: &str, scheme: &Scheme) -> Result<HeaderName> {
    let header = signature::header_name(setting, name)?;
    if NEVER_KEPT.contains(&header) || scheme.is_signature(&header) {
        return Err(Error::setting(
            setting,
            name.escape_debug(),
            "this header is a secret or belongs to the connection, and is never stored",
        ));
    }
    Ok(header)
}

/// The value of a header that is kept, several as one list. A value that is not text cannot travel in JSON and is left out.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| std::str::from_utf8(value.as_bytes()).ok())
        .map(str::to_owned)
        .reduce(|all, value| all + ", " + &value)
}

#[cfg(test)]
mod tests;
