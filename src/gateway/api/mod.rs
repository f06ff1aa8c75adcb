//! Enqueueing for programs in any language: `POST /queues/{queue}/jobs`, with a bearer token.
//!
//! [`tokens`] says who may, `options` what can be said of a job, `openapi` describes all routes. Here a body becomes jobs, and what
//! came of them an answer. Sockets are the server's.

mod openapi;
mod options;
pub mod tokens;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap};
use jiff::Timestamp;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::config;
use crate::error::Error;
use crate::job::durability::Durability;
use crate::job::{Enqueued, NewJob, QueueName};
use options::Draft;
use tokens::{Denied, Tokens};

/// What the route needs, shared by all connections.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) tokens: Tokens,
    /// What `GET /openapi.json` answers.
    pub(crate) description: Bytes,
}

/// Why a request makes no job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// What a program tells refusals apart by.
    pub(crate) code: &'static str,
    /// What a person does about it.
    pub(crate) message: String,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(crate) fn body(&self) -> Bytes {
        let body = json!({"code": self.code, "message": self.message});
        body.to_string().into()
    }
}

impl Api {
    pub(crate) fn new(tokens: Tokens) -> Self {
        Self {
            tokens,
            description: openapi::description(),
        }
    }

    /// Decides by the head alone whether a body is worth reading. `queue` is as it stands in the path.
    pub(crate) fn admit(&self, queue: &str, headers: &HeaderMap) -> Result<QueueName, Refusal> {
        // What is no UTF-8 is the name of no queue, as an empty one is.
        let decoded = percent_encoding::percent_decode_str(queue);
        let decoded = decoded.decode_utf8().unwrap_or_default();
        match self.tokens.permit(headers, &decoded) {
            Ok(()) => {}
            Err(Denied::Unknown) => {
                return Err(Refusal::new(
                    StatusCode::UNAUTHORIZED,
                    "unauthorized",
                    "send authorization: Bearer TOKEN with a token that this gateway knows",
                ));
            }
            Err(Denied::OtherQueues) => {
                return Err(Refusal::new(
                    StatusCode::FORBIDDEN,
                    "forbidden",
                    "this token is for other queues",
                ));
            }
        }
        let queue = QueueName::new(&decoded).map_err(|error| match error {
            Error::Setting { reason, .. } => Refusal::bad("invalid_queue", reason),
            other => Refusal::bad("invalid_queue", other.to_string()),
        })?;
        if !is_json(headers) {
            return Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "send content-type: application/json, without content-encoding",
            ));
        }
        Ok(queue)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
        && !headers.contains_key(header::CONTENT_ENCODING)
}

/// The jobs of one request, stored whole or not at all.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) jobs: Vec<NewJob>,
    pub(crate) durability: Durability,
    /// False for a job that came by itself, and is answered by itself.
    list: bool,
}

impl Batch {
    /// Reads a body: a job, a list of jobs, or `{"jobs": […]}`. `now` is this machine's clock, for `at`.
    pub(crate) fn read(body: &[u8], now: Timestamp) -> Result<Self, Refusal> {
        let bad_json = |error: serde_json::Error| {
            Refusal::bad(
                "bad_json",
                format!("the body cannot be read as JSON: {error}"),
            )
        };
        if body.trim_ascii_start().first() == Some(&b'[') {
            let items: Vec<&RawValue> = serde_json::from_slice(body).map_err(bad_json)?;
            return Self::of_list(&items, Durability::default(), now);
        }
        let Members(mut members) = serde_json::from_slice(body).map_err(bad_json)?;
        let durability = take(&mut members, "durability")?;
        let durability = durability.map_or(Ok(Durability::default()), |value| {
            options::parsed(
                value,
                "write memory, replicas:N with N from 1 to 100, or fsync",
            )
            .map_err(|reason| invalid("durability", &reason))
        })?;
        if let Some(jobs) = take(&mut members, "jobs")? {
            if let Some((name, _)) = members.first() {
                return Err(unknown(name, "beside jobs there is only durability"));
            }
            let items: Vec<&RawValue> = serde_json::from_str(jobs.get())
                .map_err(|_| invalid("jobs", "write a list of jobs"))?;
            return Self::of_list(&items, durability, now);
        }
        let job = job(members, now).map_err(|(field, reason)| invalid(&field, &reason))?;
        Ok(Self {
            jobs: vec![job],
            durability,
            list: false,
        })
    }

    fn of_list(
        items: &[&RawValue],
        durability: Durability,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let most = config::BATCH_JOBS_MAX;
        if items.is_empty() || items.len() > most {
            let reason = format!("{} jobs; send 1 to {most} in one request", items.len());
            return Err(Refusal::bad("invalid_count", reason));
        }
        let mut jobs = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            let Members(members) = serde_json::from_str(item.get())
                .map_err(|_| invalid(&format!("jobs[{at}]"), "write a job as an object"))?;
            let job = job(members, now)
                .map_err(|(field, reason)| invalid(&format!("jobs[{at}].{field}"), &reason))?;
            jobs.push(job);
        }
        let bytes: usize = jobs.iter().map(|job| job.payload().len()).sum();
        if jobs.len() > 1 && bytes > config::BATCH_BYTES_MAX {
            // More would be stored in several steps, and so no longer whole or not at all.
            let reason = format!(
                "{bytes} bytes of payload; a list of jobs may have {} together, so send several",
                config::BATCH_BYTES_MAX
            );
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                reason,
            ));
        }
        Ok(Self {
            jobs,
            durability,
            list: true,
        })
    }

    /// The body of the answer; `enqueued` are in the order of the jobs.
    pub(crate) fn answer(list: bool, enqueued: &[Enqueued]) -> Bytes {
        #[derive(Serialize)]
        struct List<'a> {
            jobs: &'a [Enqueued],
        }
        let body = match enqueued {
            [one] if !list => serde_json::to_vec(one),
            jobs => serde_json::to_vec(&List { jobs }),
        };
        body.expect("plain strings and flags").into()
    }

    pub(crate) fn is_list(&self) -> bool {
        self.list
    }
}

/// One job of its members, or the option at fault and what is wrong with it.
fn job(
    members: Vec<(Cow<'_, str>, &RawValue)>,
    now: Timestamp,
) -> Result<NewJob, (String, String)> {
    let mut draft = Draft::new(now);
    for (at, (name, value)) in members.iter().enumerate() {
        let fault = |reason: String| (name.to_string(), reason);
        if members[..at].iter().any(|(earlier, _)| earlier == name) {
            return Err(fault("is given twice".to_owned()));
        }
        let Some(option) = options::find(name) else {
            return Err(fault(format!(
                "there is no such option; there are {}",
                options::names()
            )));
        };
        // What is null was left out, except where null is the payload.
        if value.get() != "null" || option.takes_null() {
            (option.apply)(&mut draft, value).map_err(fault)?;
        }
    }
    let job = draft
        .finish()
        .map_err(|(field, reason)| (field.to_owned(), reason))?;
    match job.check(usize::MAX) {
        Ok(()) => Ok(job),
        Err(Error::InvalidJob {
            field,
            value,
            reason,
        }) => Err((field.to_owned(), format!("{value:?}: {reason}"))),
        Err(other) => Err(("job".to_owned(), other.to_string())),
    }
}

fn invalid(field: &str, reason: &str) -> Refusal {
    Refusal::bad("invalid_job", format!("{field}: {reason}"))
}

fn unknown(name: &str, reason: &str) -> Refusal {
    invalid(&name.escape_debug().to_string(), reason)
}

/// Takes a member out; refuses one that is there twice. One that is null was left out.
fn take<'a>(
    members: &mut Vec<(Cow<'a, str>, &'a RawValue)>,
    name: &str,
) -> Result<Option<&'a RawValue>, Refusal> {
    let mut found = None;
    while let Some(at) = members.iter().position(|(other, _)| other == name) {
        let (_, value) = members.remove(at);
        if found.replace(value).is_some() {
            return Err(invalid(name, "is given twice"));
        }
    }
    Ok(found.filter(|value| value.get() != "null"))
}

/// What came of storing, as an answer; the words of Redis stay in the log.
pub(crate) fn not_stored(error: &Error) -> Refusal {
    match error {
        Error::InvalidJob { .. } => Refusal::bad("invalid_job", error.to_string()),
        Error::PayloadTooLarge { .. } => Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            error.to_string(),
        ),
        Error::QueueFull { .. } => {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "full", error.to_string())
        }
        Error::GroupFull { .. } => Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            "group_full",
            error.to_string(),
        ),
        Error::Unfit { .. } => Refusal::new(
            StatusCode::CONFLICT,
            "durability_unavailable",
            "this Redis cannot confirm the durability that was asked for; nothing was stored",
        ),
        Error::Ambiguous { .. } => Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ambiguous",
            "no answer in time: the jobs may or may not be stored; sending again is safe for jobs with unique_for",
        ),
        _ => Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "nothing could be stored; send it again",
        ),
    }
}

/// The members of an object in their order, with values as they were written: numbers keep all their digits.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Gather;
        impl<'de> Visitor<'de> for Gather {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a job or a list of jobs")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    members.push((Cow::Owned(name), value));
                }
                Ok(Members(members))
            }
        }
        json.deserialize_map(Gather)
    }
}

#[cfg(test)]
mod tests;
