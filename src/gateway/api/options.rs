//! What can be said of a job in JSON: one row per option, with its description for people and programs. Another option is another row.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hyper::header::HeaderName;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::gateway::source::NEVER_KEPT;
use crate::job::codec::Codec;
use crate::job::{NewJob, OnConflict, Priority};

/// Headers of one job.
const HEADERS_MAX: usize = 64;
/// Their names and values together, bytes. They travel with every delivery of the job.
const HEADERS_BYTES_MAX: usize = 16 << 10;

/// One option.
pub(super) struct JobOption {
    pub(super) name: &'static str,
    /// The JSON schema of its value: the type, and what it means.
    pub(super) schema: &'static str,
    /// An example, as JSON.
    pub(super) example: &'static str,
    /// Writes it into the job; an error says what would be accepted.
    pub(super) apply: fn(&mut Draft, &RawValue) -> Result<(), String>,
}

impl JobOption {
    /// True where null is a value, and not an option that was left out.
    pub(super) fn takes_null(&self) -> bool {
        self.name == "payload"
    }
}

const fn option(
    name: &'static str,
    schema: &'static str,
    example: &'static str,
    apply: fn(&mut Draft, &RawValue) -> Result<(), String>,
) -> JobOption {
    JobOption {
        name,
        schema,
        example,
        apply,
    }
}

/// Every option, in the order of the description.
pub(super) const OPTIONS: &[JobOption] = &[
    option(
        "name",
        r#"{"type": "string", "minLength": 1, "description": "The job's name; workers choose the handler by it. At most 512 bytes."}"#,
        r#""invoice/send""#,
        |draft, value| read(value, "write text").map(|name| draft.name = Some(name)),
    ),
    option(
        "payload",
        r#"{"description": "The payload as JSON, stored exactly as it is written here. At most one of the three payloads; none is an empty one."}"#,
        r#"{"invoice": 42, "amount": 19.90}"#,
        |draft, value| {
            let json = Bytes::copy_from_slice(value.get().as_bytes());
            draft.payload("payload", Codec::Json, json)
        },
    ),
    option(
        "payload_text",
        r#"{"type": "string", "description": "The payload as text, stored in UTF-8."}"#,
        r#""Grüße""#,
        |draft, value| {
            let text: String = read(value, "write text")?;
            draft.payload("payload_text", Codec::Raw, text.into())
        },
    ),
    option(
        "payload_base64",
        r#"{"type": "string", "contentEncoding": "base64", "description": "The payload as bytes, in standard base64 with padding."}"#,
        r#""AP/+""#,
        |draft, value| {
            const FORM: &str = "write standard base64 with padding, like AP/+";
            let text: String = read(value, FORM)?;
            let bytes = BASE64.decode(text).map_err(|_| FORM.to_owned())?;
            draft.payload("payload_base64", Codec::Raw, bytes.into())
        },
    ),
    option(
        "delay",
        r#"{"type": "string", "description": "Run the job no earlier than this from now: 250ms, 5s, 2m, 1h30m. Not together with at."}"#,
        r#""5s""#,
        |draft, value| draft.due("delay", duration(value)?),
    ),
    option(
        "at",
        r#"{"type": "string", "format": "date-time", "description": "Run the job no earlier than this moment; a past one is now. Not together with delay."}"#,
        r#""2027-01-31T10:00:00+01:00""#,
        |draft, value| {
            let form = "write a date, time and offset, like 2027-01-31T10:00:00+01:00";
            let at: Timestamp = parsed(value, form)?;
            let delay = Duration::try_from(draft.now.duration_until(at));
            draft.due("at", delay.unwrap_or_default())
        },
    ),
    option(
        "group",
        r#"{"type": "string", "minLength": 1, "description": "Whom the job is for: a tenant, a shop. At most 256 bytes."}"#,
        r#""shop-1.example""#,
        |draft, value| read(value, "write text").map(|group| draft.job.meta.group = Some(group)),
    ),
    option(
        "priority",
        r#"{"type": "string", "enum": ["high", "normal", "low"], "description": "Which of the waiting jobs runs first. Left out: normal."}"#,
        r#""high""#,
        |draft, value| {
            let priority: Priority = parsed(value, "write high, normal or low")?;
            draft.change(|job| job.priority(priority))
        },
    ),
    option(
        "cost",
        r#"{"type": "integer", "minimum": 1, "maximum": 100000, "default": 1, "description": "Points that the job takes from the bucket of its group, where that has a rate."}"#,
        "10",
        |draft, value| {
            let cost = read(value, "write a whole number from 1 to 100000")?;
            draft.change(|job| job.cost(cost))
        },
    ),
    option(
        "unique",
        r#"{"type": "string", "minLength": 1, "description": "Refuse a second job with this key until this one is finished: the answer is then the id of the job that holds the key, and duplicate is true."}"#,
        r#""invoice-42""#,
        |draft, value| read(value, "write text").map(|key| draft.unique = Some(key)),
    ),
    option(
        "unique_for",
        r#"{"type": "string", "description": "With unique: hold the key for this long from now instead, even after the job has finished."}"#,
        r#""24h""#,
        |draft, value| duration(value).map(|window| draft.unique_for = Some(window)),
    ),
    option(
        "unique_while_waiting",
        r#"{"type": "boolean", "description": "With unique: let the key stand in the way only while its job waits. Not together with unique_for."}"#,
        "true",
        |draft, value| {
            read(value, "write true or false").map(|waiting| draft.while_waiting = waiting)
        },
    ),
    option(
        "on_conflict",
        r#"{"type": "string", "enum": ["refuse", "replace", "throttle"], "description": "When another job holds the unique key. refuse: no job is made; replace: the holder becomes what this job is, as long as it waits; throttle: what comes within unique_for becomes one job that is due at its end."}"#,
        r#""replace""#,
        |draft, value| {
            let how: OnConflict = parsed(value, "write refuse, replace or throttle")?;
            draft.change(|job| job.on_conflict(how))
        },
    ),
    option(
        "max_attempts",
        r#"{"type": "integer", "minimum": 1, "maximum": 1000000, "description": "How often a failing handler is tried in all. Left out: the worker's setting."}"#,
        "5",
        |draft, value| {
            let form = "write a whole number from 1 to 1000000";
            read(value, form).map(|attempts| draft.job.meta.max_attempts = Some(attempts))
        },
    ),
    option(
        "timeout",
        r#"{"type": "string", "description": "How long one attempt may run: 30s, 5m. Left out: the worker's setting."}"#,
        r#""30s""#,
        |draft, value| {
            let timeout = duration(value)?;
            draft.change(|job| job.timeout(timeout))
        },
    ),
    option(
        "expires",
        r#"{"type": "string", "description": "If no worker has started the job this long from now, it goes to the dead letter instead."}"#,
        r#""1h""#,
        |draft, value| {
            let expires = duration(value)?;
            draft.change(|job| job.expires(expires))
        },
    ),
    option(
        "deadline",
        r#"{"type": "string", "description": "If the job is not completed this long from now, all waits and attempts together, it goes to the dead letter."}"#,
        r#""6h""#,
        |draft, value| {
            let deadline = duration(value)?;
            draft.change(|job| job.deadline(deadline))
        },
    ),
    option(
        "keep_result",
        r#"{"type": "string", "description": "Keep what the handler gives back for this long, for whoever waits for it."}"#,
        r#""1h""#,
        |draft, value| {
            let kept = duration(value)?;
            draft.change(|job| job.keep_result(kept))
        },
    ),
    option(
        "headers",
        r#"{"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 64, "description": "Kept with the job: handlers see them, and a forwarded request carries them. At most 16 KiB together."}"#,
        r#"{"x-request-id": "7f3a"}"#,
        headers,
    ),
    option(
        "traceparent",
        r#"{"type": "string", "description": "The trace that the job belongs to, as W3C Trace Context writes it. Left out: that of the request's own header."}"#,
        r#""00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01""#,
        |draft, value| {
            let parent = read(value, "write text")?;
            draft.job.meta.traceparent = Some(parent);
            Ok(())
        },
    ),
    option(
        "tracestate",
        r#"{"type": "string", "maxLength": 512, "description": "With traceparent: what belongs to it, passed on with it."}"#,
        r#""vendor=1""#,
        |draft, value| {
            let state = read(value, "write text")?;
            draft.job.meta.tracestate = Some(state);
            Ok(())
        },
    ),
];

pub(super) fn find(name: &str) -> Option<&'static JobOption> {
    OPTIONS.iter().find(|option| option.name == name)
}

/// All names, for a message.
pub(super) fn names() -> String {
    let names: Vec<&str> = OPTIONS.iter().map(|option| option.name).collect();
    names.join(", ")
}

/// A job in the making. What depends on two options is settled at the end, since they come in any order.
pub(super) struct Draft {
    now: Timestamp,
    job: NewJob,
    name: Option<String>,
    /// The options that gave the payload and the due time.
    payload: Option<&'static str>,
    due: Option<&'static str>,
    unique: Option<String>,
    unique_for: Option<Duration>,
    while_waiting: bool,
}

impl Draft {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            now,
            job: NewJob::raw("", Bytes::new()),
            name: None,
            payload: None,
            due: None,
            unique: None,
            unique_for: None,
            while_waiting: false,
        }
    }

    fn payload(&mut self, by: &'static str, codec: Codec, payload: Bytes) -> Result<(), String> {
        if let Some(other) = self.payload.replace(by) {
            return Err(format!("{other} is given as well; a job has one payload"));
        }
        self.job.payload = payload;
        self.job.meta.codec = codec;
        Ok(())
    }

    fn due(&mut self, by: &'static str, delay: Duration) -> Result<(), String> {
        if let Some(other) = self.due.replace(by) {
            return Err(format!("{other} is given as well; give one of them"));
        }
        self.change(|job| job.delay(delay))
    }

    fn change(&mut self, change: impl FnOnce(NewJob) -> NewJob) -> Result<(), String> {
        let job = std::mem::replace(&mut self.job, NewJob::raw("", Bytes::new()));
        self.job = change(job);
        Ok(())
    }

    /// The job, or the option at fault and why.
    pub(super) fn finish(self) -> Result<NewJob, (&'static str, String)> {
        let mut job = self.job;
        let missing = || ("name", "is missing".to_owned());
        job.name = self.name.ok_or_else(missing)?;
        Ok(match (self.unique, self.unique_for, self.while_waiting) {
            (Some(key), None, false) => job.unique(key),
            (Some(key), Some(window), false) => job.unique_for(key, window),
            (Some(key), None, true) => job.unique_while_waiting(key),
            (None, None, false) => job,
            (None, Some(_), _) => return Err(("unique_for", "needs unique".to_owned())),
            (None, None, true) => {
                return Err(("unique_while_waiting", "needs unique".to_owned()));
            }
            (Some(_), Some(_), true) => {
                let reason = "unique_for is given as well; give one of them";
                return Err(("unique_while_waiting", reason.to_owned()));
            }
        })
    }
}

/// The value as `T`, or what would be one.
fn read<T: DeserializeOwned>(value: &RawValue, form: &str) -> Result<T, String> {
    serde_json::from_str(value.get()).map_err(|_| form.to_owned())
}

/// The value as text that reads as `T`, or what would be one.
pub(super) fn parsed<T: FromStr>(value: &RawValue, form: &str) -> Result<T, String> {
    let text: String = read(value, form)?;
    text.parse().map_err(|_| form.to_owned())
}

fn duration(value: &RawValue) -> Result<Duration, String> {
    const FORM: &str = "write a number with a unit, like \"250ms\", \"5s\", \"1h30m\" or \"30d\"";
    let text: String = read(value, FORM)?;
    humantime::parse_duration(&text).map_err(|_| FORM.to_owned())
}

fn headers(draft: &mut Draft, value: &RawValue) -> Result<(), String> {
    let headers: BTreeMap<String, String> = read(
        value,
        "write an object of text, like {\"x-request-id\": \"7f3a\"}",
    )?;
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if headers.len() > HEADERS_MAX || bytes > HEADERS_BYTES_MAX {
        return Err(format!(
            "{} headers of {bytes} bytes; at most {HEADERS_MAX} of {HEADERS_BYTES_MAX} bytes together",
            headers.len()
        ));
    }
    for (name, value) in headers {
        let shown = name.escape_debug();
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("{shown} is not the name of a header"))?;
        if NEVER_KEPT.contains(&header) {
            return Err(format!(
                "{shown} is a secret or belongs to the connection, and is never stored"
            ));
        }
        if value.chars().any(char::is_control) {
            return Err(format!("the value of {shown} has control characters"));
        }
        draft.change(|job| job.header(header.as_str(), value))?;
    }
    Ok(())
}
