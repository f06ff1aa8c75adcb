//! One configured sender: what it must prove, and what job a request of it becomes. No I/O here.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{self, HeaderName};

use super::signature::{self, HmacSettings, Scheme, Secret};
use crate::config;
use crate::error::{Error, Result};
use crate::job::{NewJob, QueueName};

/// Longest name of a source, bytes. It is part of the URL, of job names and of unique keys.
pub const SOURCE_NAME_BYTES_MAX: usize = 64;
/// Most secrets of a source. Each costs an HMAC per request; two are enough to rotate.
pub const SECRETS_MAX: usize = 16;
/// Longest topic, bytes. With a source's name before it, it fits a job's name.
pub const TOPIC_BYTES_MAX: usize = 256;
/// Longest delivery id, bytes. Providers send UUIDs; with a source's name before it, it fits a unique key.
pub const DELIVERY_ID_BYTES_MAX: usize = 256;

/// Headers that must not be stored, because they are secrets or belong to one connection only.
const NEVER_KEPT: &[HeaderName] = &[
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

/// How a source's requests are signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemeSettings {
    /// [`Scheme::shopify`].
    Shopify,
    /// [`Scheme::github`].
    Github,
    /// [`Scheme::standard`].
    Standard,
    /// [`Scheme::hmac`].
    Hmac(HmacSettings),
}

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
    /// Header with the delivery id, in place of the scheme's. Default: the scheme's.
    pub id_header: Option<String>,
    /// Headers that are stored with the job, in place of the usual ones. Default: content type and encoding, and what the
    /// scheme says about topic, tenant and delivery.
    pub keep_headers: Option<Vec<String>>,
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
            id_header: None,
            keep_headers: None,
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
            .field("id_header", &self.id_header)
            .field("keep_headers", &self.keep_headers)
            .finish()
    }
}

/// A sender whose settings were checked.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    name: String,
    queue: QueueName,
    scheme: Scheme,
    secrets: Vec<Secret>,
    /// `None`: every delivery makes a job.
    dedupe: Option<Duration>,
    id: Option<HeaderName>,
    kept: Vec<HeaderName>,
}

/// Why a request with a good signature makes no job: the header at fault and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) header: HeaderName,
    pub(crate) reason: &'static str,
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
        let scheme = match &settings.scheme {
            SchemeSettings::Shopify => Scheme::shopify(),
            SchemeSettings::Github => Scheme::github(),
            SchemeSettings::Standard => Scheme::standard(),
            SchemeSettings::Hmac(hmac) => Scheme::hmac(&format!("sources.{name}"), hmac)?,
        };
        if !(1..=SECRETS_MAX).contains(&settings.secrets.len()) {
            return Err(Error::setting(
                setting("secrets"),
                format!("{} secrets", settings.secrets.len()),
                format!("1 to {SECRETS_MAX}; without a secret anybody could send"),
            ));
        }
        let secrets = settings.secrets.iter().enumerate();
        let secrets = secrets
            .map(|(at, text)| scheme.secret(&setting(&format!("secrets[{at}]")), text))
            .collect::<Result<_>>()?;
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
        let id = match &settings.id_header {
            None => scheme.id.clone(),
            Some(header) if scheme.signs_id() => {
                return Err(Error::setting(
                    setting("id_header"),
                    header.escape_debug(),
                    "this scheme signs its own delivery id; leave id_header out",
                ));
            }
            Some(header) => Some(signature::header_name(&setting("id_header"), header)?),
        };
        let kept = match &settings.keep_headers {
            Some(names) => names
                .iter()
                .map(|name| kept_header(&setting("keep_headers"), name, &scheme))
                .collect::<Result<_>>()?,
            None => [header::CONTENT_TYPE, header::CONTENT_ENCODING]
                .into_iter()
                .chain(scheme.kept())
                .chain(id.clone().filter(|id| scheme.id.as_ref() != Some(id)))
                .collect(),
        };
        Ok(Self {
            name: name.to_owned(),
            queue,
            scheme,
            secrets,
            dedupe,
            id,
            kept,
        })
    }

    /// A source like this one whose secrets nobody has: answering for it takes as long as answering for this one.
    pub(crate) fn decoy(&self) -> Self {
        Self {
            secrets: self.secrets.iter().map(Secret::stranger).collect(),
            ..self.clone()
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// True when the sender signed exactly these bytes. `now` is in unix seconds.
    pub(crate) fn verify(&self, headers: &HeaderMap, body: &[u8], now: i64) -> bool {
        self.scheme.verify(&self.secrets, headers, body, now)
    }

    /// The job that a verified request becomes. The body is passed through untouched.
    pub(crate) fn job(&self, headers: &HeaderMap, body: Bytes) -> Result<NewJob, Malformed> {
        let topic = self.scheme.topic.as_ref();
        let topic = topic.and_then(|name| text(headers, name, TOPIC_BYTES_MAX).transpose());
        let name = match topic.transpose()? {
            Some(topic) => [&self.name, "/", topic].concat(),
            None => self.name.clone(),
        };
        let mut job = NewJob::raw(name, body);
        if let (Some(window), Some(id)) = (self.dedupe, &self.id)
            && let Some(id) = text(headers, id, DELIVERY_ID_BYTES_MAX)?
        {
            job = job.unique_for([&self.name, "/", id].concat(), window);
        }
        for name in &self.kept {
            if let Some(value) = joined(headers, name) {
                job = job.header(name.as_str(), value);
            }
        }
        Ok(job)
    }
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

/// The value of a header that goes into a name or a key; `None` when the header is not there.
fn text<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    bytes_max: usize,
) -> Result<Option<&'a str>, Malformed> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let malformed = |reason| Malformed {
        header: name.clone(),
        reason,
    };
    let value = signature::only(headers, name).ok_or_else(|| malformed("came more than once"))?;
    let value = std::str::from_utf8(value).map_err(|_| malformed("is not UTF-8"))?;
    if value.is_empty() {
        return Err(malformed("is empty"));
    }
    if value.len() > bytes_max {
        return Err(malformed("is too long"));
    }
    if value.chars().any(char::is_control) {
        return Err(malformed("has control characters"));
    }
    Ok(Some(value))
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
