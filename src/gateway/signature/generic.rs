//! The scheme for senders that have none of their own: settings in, a checked [`Scheme`] out.

use std::time::Duration;

use super::{
    Algorithm, Encoding, Field, Part, Scheme, SecretForm, Stamp, TOLERANCE_DEFAULT, header_name,
};
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
    /// What stands before that time where it is an entry of the signature header, `t=` in `t=1700000000,v1=5f3a…`.
    /// Goes with [`HmacSettings::separator`] and without [`HmacSettings::timestamp_header`]. Default: it is not there.
    pub timestamp_prefix: Option<String>,
    /// What stands between the entries of a signature header that may have several, `,` or a space; any match passes.
    /// Default: the header is one signature.
    pub separator: Option<char>,
    /// How far that time may be off, in either direction. Default 5 min.
    pub tolerance: Duration,
    /// What is signed, with `{id}`, `{timestamp}` and `{body}`. Default `{body}`, with a timestamp `{timestamp}.{body}`.
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
            timestamp_prefix: None,
            separator: None,
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
        let separator = settings.separator.map(|separator| {
            let refuse = || {
                Error::setting(
                    format!("{setting}.separator"),
                    separator.escape_debug(),
                    "one of , ; | and space",
                )
            };
            let byte = u8::try_from(separator).ok();
            byte.filter(|byte| b",;| ".contains(byte))
                .ok_or_else(refuse)
        });
        let separator = separator.transpose()?;
        let timestamp = match (&settings.timestamp_header, &settings.timestamp_prefix) {
            (None, None) => None,
            (Some(name), None) => Some(Stamp::Header(header("timestamp_header", name)?)),
            (None, Some(prefix)) if !prefix.is_empty() && separator.is_some() => {
                Some(Stamp::Entry(prefix.clone()))
            }
            (_, Some(prefix)) => {
                return Err(Error::setting(
                    format!("{setting}.timestamp_prefix"),
                    prefix.escape_debug(),
                    "like \"t=\", together with separator and without timestamp_header",
                ));
            }
        };
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
                "{timestamp} goes together with timestamp_header or timestamp_prefix: a time that is not signed proves nothing",
            ));
        }
        if signed.contains(&Part::Id) && id.is_none() {
            return Err(refuse("{id} needs id_header"));
        }
        let field = |header: Option<_>| header.map_or_else(Field::none, Field::from_header);
        Ok(Self {
            secret: SecretForm::Text,
            mistaken: &[],
            algorithm: settings.algorithm,
            encoding: settings.encoding,
            signature: header("header", &settings.header)?,
            prefix: settings.prefix.clone(),
            separator,
            timestamp: timestamp.map(|stamp| (stamp, settings.tolerance)),
            signed,
            id: field(id),
            topic: field(optional("topic_header", &settings.topic_header)?),
            further: &[],
            challenge: None,
        })
    }
}

/// Splits `{timestamp}.{body}` into its parts.
pub(super) fn parts(template: &str) -> Vec<Part> {
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
