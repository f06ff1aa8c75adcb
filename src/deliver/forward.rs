//! Hands a job to a program that listens on HTTP: one POST per attempt, over pooled connections.
//!
//! The answer decides: 2xx completes; 429 and 503 with `Retry-After` say when to come again; 410, and what `dead_on` lists,
//! dead-letter; everything else is a failed attempt. Redirects are not followed: where jobs go is for the settings to say.
//! No connection, no answer and a 5xx count as a target that is down, for the [circuit](crate::WorkerBuilder::circuit).
//! The time limit of an attempt is the worker's; dropping the future closes the connection.

use std::error::Error as StdError;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use once_cell::sync::OnceCell;

use super::escape_controls;
use super::private::is_private;
use super::sender::{SendError, Sender};
use crate::error::{Error, Result};
use crate::gateway::signature::{Secret, sign_standard};
use crate::job::QueueName;
use crate::job::codec::Codec;
use crate::job::trace::TraceContext;
use crate::metrics::handles::Forwarding;
use crate::spans::Calling;
use crate::worker::handler::{Context, Handler, HandlerFuture, JobError};

/// Bytes of an answer's body that are read, so that the connection can be used again; a longer one costs the connection.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Bytes of an answer's body that are kept in the error of a failed attempt.
const ANSWER_BYTES_KEPT: usize = 1 << 10;
/// Longest wait for an answer's body. Its status has already decided.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// Longest wait that an answer may ask for. Beyond a day it is a mistake, or a way to lose jobs.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// Headers that belong to one connection or are computed anew (RFC 9110, section 7.6.1), and so are not passed on.
const NOT_PASSED_ON: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What [`Forward::new`] checks.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct ForwardSettings {
    /// Where jobs are posted: absolute, `http://` or `https://`. A user and password in it are sent as basic authorization.
    pub url: String,
    /// Signs every request by [Standard Webhooks](https://www.standardwebhooks.com): the secret, base64, with or without `whsec_`.
    pub sign_with: Option<String>,
    /// Statuses, besides 410, that dead-letter a job at once. 300 to 599.
    pub dead_on: Vec<u16>,
    /// Connects only to addresses of the public internet: not to this machine, its network, or a cloud's metadata, whatever
    /// the name in the URL leads to. For URLs that others may choose. Default `false`.
    pub refuse_private: bool,
}

impl ForwardSettings {
    /// Posts to `url`, unsigned; only 410 dead-letters.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ..Self::default()
        }
    }

    /// Signs every request with `secret`.
    #[must_use]
    pub fn sign_with(mut self, secret: impl Into<String>) -> Self {
        self.sign_with = Some(secret.into());
        self
    }

    /// Dead-letters a job at once when the answer has one of `statuses`.
    #[must_use]
    pub fn dead_on(mut self, statuses: impl IntoIterator<Item = u16>) -> Self {
        self.dead_on.extend(statuses);
        self
    }

    /// Connects only to addresses of the public internet.
    #[must_use]
    pub fn refuse_private(mut self, refuse: bool) -> Self {
        self.refuse_private = refuse;
        self
    }
}

impl fmt::Debug for ForwardSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardSettings")
            .field("url", &without_secrets(&self.url))
            .field("signed", &self.sign_with.is_some())
            .field("dead_on", &self.dead_on)
            .field("refuse_private", &self.refuse_private)
            .finish()
    }
}

/// The handler that posts jobs to a URL. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Forward {
    target: Arc<Target>,
}

impl Forward {
    /// Checks `settings`. Nothing is connected before the first job.
    ///
    /// # Errors
    /// [`Error::Setting`] names the setting at fault, and never shows a secret. [`Error::Io`] when `https` finds no trusted
    /// certificates on this machine.
    pub fn new(settings: ForwardSettings) -> Result<Self> {
        let refuse = |reason| {
            Err(Error::setting(
                "forward",
                without_secrets(&settings.url),
                reason,
            ))
        };
        let absolute = "an absolute URL such as http://127.0.0.1:3000/hooks";
        let Ok(given) = settings.url.parse::<Uri>() else {
            return refuse(format!("not a URL; give {absolute}"));
        };
        let (Some(scheme), Some(authority)) = (given.scheme_str(), given.authority()) else {
            return refuse(format!("give {absolute}"));
        };
        let port_default = match scheme {
            "http" => 80,
            "https" if cfg!(feature = "tls") => 443,
            "https" => {
                return refuse("https is not in this build; build with the feature `tls`".into());
            }
            _ => return refuse("only http:// and https:// can be posted to".into()),
        };
        let (user, host_port) = match authority.as_str().rsplit_once('@') {
            Some((user, host_port)) => (Some(user), host_port),
            None => (None, authority.as_str()),
        };
        if authority.host().is_empty() {
            return refuse(format!("the host is missing; give {absolute}"));
        }
        let port = match authority.port_u16() {
            None if host_port == authority.host() => port_default,
            None | Some(0) => return refuse("a port is 1 to 65535".into()),
            Some(port) => port,
        };
        // The client does not look up what is an address already.
        let literal = authority.host().trim_matches(['[', ']']);
        if settings.refuse_private && literal.parse().is_ok_and(is_private) {
            return refuse(format!(
                "{literal} is a private address, which refuse_private forbids"
            ));
        }
        for status in &settings.dead_on {
            if !(300..=599).contains(status) {
                return Err(Error::setting(
                    "dead_on",
                    status,
                    "a status from 300 to 599",
                ));
            }
        }

        let secret = settings.sign_with.as_deref();
        let secret = secret.map(|text| Secret::standard("sign_with", text));
        let mut parts = given.clone().into_parts();
        parts.authority = Some(host_port.parse().expect("a part of a parsed authority"));
        let url = Uri::from_parts(parts).expect("a parsed URL, without its user");
        Ok(Self {
            target: Arc::new(Target {
                peer: format!("{}:{port}", authority.host()),
                host: authority.host().to_owned(),
                port,
                authorization: user.map(basic_authorization),
                secret: secret.transpose()?,
                dead_on: settings.dead_on,
                sender: Sender::new(scheme == "https", settings.refuse_private)?,
                counted: OnceCell::new(),
                url,
            }),
        })
    }
}

impl Forward {
    /// Where jobs go, as `host:port`.
    pub fn target(&self) -> &str {
        &self.target.peer
    }
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward")
            .field("peer", &self.target.peer)
            .finish_non_exhaustive()
    }
}

impl Handler for Forward {
    fn run(&self, job: Context) -> HandlerFuture {
        let target = Arc::clone(&self.target);
        Box::pin(async move {
            tokio::select! {
                biased;
                () = job.cancelled().cancelled() => {
                    Err(JobError::failed(format!("given up before {} had answered", target.peer)))
                }
                outcome = target.deliver(&job) => outcome,
            }
        })
    }
}

/// Where jobs go, and how.
struct Target {
    /// Without user and password, which some servers would log and hyper does not send as such.
    url: Uri,
    /// `host:port`, for messages. Not the path or query: webhook URLs carry tokens there.
    peer: String,
    host: String,
    port: u16,
    authorization: Option<HeaderValue>,
    secret: Option<Secret>,
    dead_on: Vec<u16>,
    sender: Sender,
    counted: OnceCell<Arc<Forwarding>>,
}

impl Target {
    async fn deliver(&self, job: &Context) -> Result<(), JobError> {
        let calling = Calling::start(&self.host, self.port);
        let request = self.request(job, calling.context())?;
        // Dropped without a word: the attempt's time was up, or the job was given up.
        let mut watch = Watch::start(self.counted(job.queue()));
        let answer = self.sender.send(request).await.map_err(|error| {
            watch.outcome = match error.is_connect() {
                true => "unconnected",
                false => "unanswered",
            };
            calling.failed(watch.outcome);
            self.unanswered(&error)
        })?;
        let status = answer.status();
        watch.outcome = outcome(status, &self.dead_on);
        calling.answered(status.as_u16());
        let verdict = judge(status, answer.headers(), &self.dead_on, SystemTime::now());
        // Half of the time left at most: an answer that came in time must not be lost to its own slow body.
        let left = job.deadline().saturating_duration_since(Instant::now());
        let body = read_bounded(answer.into_body(), ANSWER_WAIT.min(left / 2)).await;

        let said = || match excerpt(&body) {
            words if words.is_empty() => format!("{} answered {status}", self.peer),
            words => format!("{} answered {status}: {words}", self.peer),
        };
        match verdict {
            Verdict::Done => Ok(()),
            Verdict::Refused => Err(JobError::refuse(said())),
            Verdict::RetryAfter(wait) => Err(JobError {
                unavailable: status.is_server_error(),
                ..JobError::retry_after(wait, said())
            }),
            Verdict::Failed if status.is_server_error() => Err(JobError::unavailable(said())),
            Verdict::Failed => Err(JobError::failed(said())),
        }
    }

    /// The counters of `queue`, kept: a handler works for one queue, as a rule.
    fn counted(&self, queue: &QueueName) -> Arc<Forwarding> {
        let kept = self.counted.get_or_init(|| Forwarding::new(queue).into());
        match kept.queue == *queue {
            true => Arc::clone(kept),
            false => Arc::new(Forwarding::new(queue)),
        }
    }

    /// `context`: where the request stands in the trace, if somebody follows that; else what the job was given goes along.
    fn request(
        &self,
        job: &Context,
        context: Option<TraceContext>,
    ) -> Result<Request<Full<Bytes>>, JobError> {
        let mut headers = HeaderMap::new();
        let options = job.header("connection").unwrap_or_default();
        let connection_options: Vec<&str> = options.split(',').map(str::trim).collect();
        for (name, value) in job.headers() {
            let of_the_connection = |listed: &&str| listed.eq_ignore_ascii_case(name);
            if NOT_PASSED_ON.iter().any(of_the_connection)
                || connection_options.iter().any(of_the_connection)
            {
                continue;
            }
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| unsendable(name, "not a header name"))?;
            headers.insert(name.clone(), header_value(name.as_str(), value)?);
        }
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        headers
            .entry(header::CONTENT_TYPE)
            .or_insert(HeaderValue::from_static(match job.codec() {
                Codec::Raw => "application/octet-stream",
                Codec::Json => "application/json",
                Codec::MsgPack => "application/msgpack",
            }));
        headers
            .entry(header::USER_AGENT)
            .or_insert(HeaderValue::from_static(concat!(
                "millstream/",
                env!("CARGO_PKG_VERSION")
            )));
        for (name, value) in [
            ("millstream-job-id", job.id().as_str()),
            ("millstream-job-name", job.name()),
            ("millstream-queue", job.queue().as_str()),
            ("millstream-attempt", &job.attempt().to_string()),
        ] {
            headers.insert(name, header_value(name, value)?);
        }
        let (parent, state) = match &context {
            Some(context) => (Some(context.parent.as_str()), context.state.as_deref()),
            None => (job.traceparent(), job.tracestate()),
        };
        for (name, value) in [("traceparent", parent), ("tracestate", state)] {
            if let Some(value) = value {
                headers.insert(name, header_value(name, value)?);
            }
        }
        if let Some(secret) = &self.secret {
            let id = job.id().as_str();
            // The receiver's window is five minutes, so every attempt is stamped and signed anew.
            let timestamp = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| {
                    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
                });
            let signature = sign_standard(secret, id, timestamp, job.payload());
            headers.insert("webhook-id", header_value("webhook-id", id)?);
            headers.insert("webhook-timestamp", HeaderValue::from(timestamp));
            headers.insert(
                "webhook-signature",
                header_value("webhook-signature", &signature)?,
            );
        }

        let mut request = Request::new(Full::new(job.payload().clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = headers;
        Ok(request)
    }

    fn unanswered(&self, error: &SendError) -> JobError {
        let mut message = if error.is_connect() {
            format!("cannot connect to {}", self.peer)
        } else {
            format!("no answer from {}", self.peer)
        };
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        JobError::unavailable(message)
    }
}

/// Counts one request when it is over, however that comes.
struct Watch {
    counted: Arc<Forwarding>,
    began: Instant,
    outcome: &'static str,
}

impl Watch {
    fn start(counted: Arc<Forwarding>) -> Self {
        Self {
            counted,
            began: Instant::now(),
            outcome: "given_up",
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.counted.ended(self.outcome, self.began.elapsed());
    }
}

/// An answer's word among the metrics.
fn outcome(status: StatusCode, dead_on: &[u16]) -> &'static str {
    match status.as_u16() {
        200..=299 => "completed",
        410 => "refused",
        listed if dead_on.contains(&listed) => "refused",
        429 => "rate_limited",
        300..=399 => "redirected",
        500..=599 => "server_error",
        _ => "rejected",
    }
}

/// What an answer means for the job.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    Refused,
    RetryAfter(Duration),
    Failed,
}

/// Reads the verdict off an answer's head. `now` is this machine's clock, for servers that send no `Date`.
fn judge(status: StatusCode, headers: &HeaderMap, dead_on: &[u16], now: SystemTime) -> Verdict {
    if status.is_success() {
        Verdict::Done
    } else if status == StatusCode::GONE || dead_on.contains(&status.as_u16()) {
        Verdict::Refused
    } else if matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    ) && let Some(wait) = retry_after(headers, now)
    {
        Verdict::RetryAfter(wait)
    } else {
        Verdict::Failed
    }
}

/// `Retry-After`, in seconds or as a date (RFC 9110, section 10.2.3). `None` when it is absent or unreadable.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| Some(headers.get(name)?.to_str().ok()?.trim());
    let value = text(header::RETRY_AFTER)?;
    let wait = if !value.is_empty() && value.bytes().all(|digit| digit.is_ascii_digit()) {
        // More digits than u64 has is longer than the bound in any case.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let until = httpdate::parse_http_date(value).ok()?;
        // The server's date is measured against the server's clock where it says what that shows.
        let now = text(header::DATE)
            .and_then(|date| httpdate::parse_http_date(date).ok())
            .unwrap_or(now);
        until.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// The first [`ANSWER_BYTES_KEPT`] of `body`. Reads on to its end, so that the connection can serve the next job, but no
/// further than [`ANSWER_BYTES_MAX`] and no longer than `patience`.
async fn read_bounded<B: Body<Data = Bytes>>(body: B, patience: Duration) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut read_bytes = 0;
    let mut body = pin!(body);
    let reading = async {
        while read_bytes < ANSWER_BYTES_MAX
            && let Some(Ok(frame)) = body.frame().await
        {
            if let Some(data) = frame.data_ref() {
                let room = ANSWER_BYTES_KEPT - kept.len();
                kept.extend_from_slice(&data[..data.len().min(room)]);
                read_bytes += data.len();
            }
        }
    };
    // The status has decided, so a body that stalls or breaks off is only less to show.
    let _ = tokio::time::timeout(patience, reading).await;
    kept
}

/// An answer's body as one line of text.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    escape_controls(text.trim_end_matches('\u{fffd}').trim(), &[])
}

fn header_value(name: &str, value: &str) -> Result<HeaderValue, JobError> {
    HeaderValue::from_bytes(value.as_bytes()).map_err(|_| unsendable(name, "not allowed in HTTP"))
}

/// The header would be the same at every attempt. Its value is not shown: it may be a secret.
fn unsendable(name: &str, reason: &str) -> JobError {
    JobError::refuse(format!(
        "the job's header {name:?} cannot be sent: {reason}"
    ))
}

/// `user:password` of a URL, percent-encoded there, as an `Authorization` header.
fn basic_authorization(user: &str) -> HeaderValue {
    let mut decoded = Vec::with_capacity(user.len());
    let mut rest = user.as_bytes();
    while let [first, after @ ..] = rest {
        let byte = (*first == b'%')
            .then(|| std::str::from_utf8(after.get(..2)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    if !decoded.contains(&b':') {
        decoded.push(b':');
    }
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64.encode(decoded)))
        .expect("base64 is made of header characters");
    value.set_sensitive(true);
    value
}

/// A URL as it may be shown: no user, no password, no query.
fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let shown = match url.split_once("://") {
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((_, rest)) => format!("{scheme}://{rest}"),
            None => url.to_owned(),
        },
        None => url.rsplit('@').next().unwrap_or_default().to_owned(),
    };
    escape_controls(&shown, &[])
}

#[cfg(test)]
mod tests;
