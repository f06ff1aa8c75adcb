//! The scheme for senders that have none of their own: settings in, a checked [`Scheme`] out.

use std::time::Duration;

use super::{Algorithm, Encoding, Part, Scheme, TOLERANCE_DEFAULT, header_name};
use crate::error::{Error, Result};

/// Furthest tolerance: a day. Beyond it a captured request could be sent again at leisure.
pub const TOLERANCE_MAX: Duration = Duration::from_secs(24 * 3600);

/// The generic scheme's settings, for senders that have no scheme of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HmacSettings {
    /// Header that carries the signature.
    pub header: String,
    /// What stands before the signature in its header, `sha256=`. Default: nothing.
    pub prefix: String,
    /// How the signature is written. Default: hex.
    pub encoding: Encoding,
    /// The hash. Default: SHA-256.
    pub algorithm: Algorithm,
    /// Header that carries the delivery id, by which duplicates are known. Default: none.
    pub id_header: Option<String>,
    /// Header that carries the topic; it becomes part of the job's name. Default: none.
    pub topic_header: Option<String>,
    /// Header that carries the time of signing, unix seconds. Default: none, and then replays are only caught by the delivery id.
    pub timestamp_header: Option<String>,
    /// How far that time may be off, in either direction. Default 5 min.
    pub tolerance: Duration,
    /// What is signed, with `{id}`, `{timestamp}` and `{body}`. Default `{body}`, with a timestamp header `{timestamp}.{body}`.
    pub signed: Option<String>,
}

impl HmacSettings {
    /// The defaults, with the signature in `header`.
    pub fn new(header: impl Into<String>) -> Self {
        Self {
            header: header.into(),
            prefix: String::new(),
            encoding: Encoding::default(),
            algorithm: Algorithm::default(),
            id_header: None,
            topic_header: None,
            timestamp_header: None,
            tolerance: TOLERANCE_DEFAULT,
            signed: None,
        }
    }
}

impl Scheme {
    /// A sender that none of the others fits. `setting` is where the settings stand, for messages: `sources.billing`.
    ///
    /// # Errors
    /// [`Error::Setting`] for a header that is none, a tolerance out of range, or a signed text that does not fit the headers.
    pub fn hmac(setting: &str, settings: &HmacSettings) -> Result<Self> {
        let header = |field: &str, name: &str| header_name(&format!("{setting}.{field}"), name);
        let optional = |field: &str, name: &Option<String>| {
            name.as_deref().map(|name| header(field, name)).transpose()
        };
        if settings.prefix.contains(char::is_control) {
            return Err(Error::setting(
                format!("{setting}.prefix"),
                settings.prefix.escape_debug(),
                "no control characters",
            ));
        }
        let timestamp = optional("timestamp_header", &settings.timestamp_header)?;
        if timestamp.is_some()
            && !(Duration::from_secs(1)..=TOLERANCE_MAX).contains(&settings.tolerance)
        {
            return Err(Error::setting(
                format!("{setting}.tolerance"),
                humantime::format_duration(settings.tolerance),
                format!("1s to {}", humantime::format_duration(TOLERANCE_MAX)),
            ));
        }
        let id = optional("id_header", &settings.id_header)?;
        let template = settings.signed.as_deref().unwrap_or(match timestamp {
            Some(_) => "{timestamp}.{body}",
            None => "{body}",
        });
        let signed = parts(template);
        let refuse =
            |reason: &str| Error::setting(format!("{setting}.signed"), template, reason.to_owned());
        if !signed.contains(&Part::Body) {
            return Err(refuse("{body} must be part of what is signed"));
        }
        if signed.contains(&Part::Timestamp) != timestamp.is_some() {
            return Err(refuse(
                "{timestamp} and timestamp_header go together: a time that is not signed proves nothing",
            ));
        }
        if signed.contains(&Part::Id) && id.is_none() {
            return Err(refuse("{id} needs id_header"));
        }
        Ok(Self {
            algorithm: settings.algorithm,
            encoding: settings.encoding,
            signature: header("header", &settings.header)?,
            prefix: settings.prefix.clone(),
            timestamp: timestamp.map(|name| (name, settings.tolerance)),
            signed,
            id,
            topic: optional("topic_header", &settings.topic_header)?,
            ..Self::body_only()
        })
    }
}

/// Splits `{timestamp}.{body}` into its parts.
fn parts(template: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = template;
    while !rest.is_empty() {
        let known = [
            ("{id}", Part::Id),
            ("{timestamp}", Part::Timestamp),
            ("{body}", Part::Body),
        ];
        let next = known
            .into_iter()
            .filter_map(|(text, part)| rest.find(text).map(|at| (at, text.len(), part)))
            .min_by_key(|(at, ..)| *at);
        let (literal, after) = match &next {
            Some((at, length, _)) => (&rest[..*at], &rest[at + length..]),
            None => (rest, ""),
        };
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.to_owned()));
        }
        parts.extend(next.map(|(_, _, part)| part));
        rest = after;
    }
    parts
}
