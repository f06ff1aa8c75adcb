//! Every answer that the gateway gives, in one place: people script against them.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};

use super::access::REQUEST_ID;
use crate::gateway::api::Refusal;
use crate::gateway::health::Readiness;
use crate::gateway::source::Malformed;
use crate::job::Enqueued;

/// When to come again after a 503, seconds. Senders wait longer by themselves as failures go on.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");
/// When the sender of a group that is full should come again, seconds: its backlog is no outage, and takes longer.
const GROUP_RETRY_AFTER: u64 = 30;
/// What Prometheus asks for, and what it is.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// An answer before it is HTTP.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    kind: HeaderValue,
    body: Bytes,
    /// The methods that the route has, with 405.
    allow: Option<&'static str>,
    /// False while the rest of the request may still be on its way: the connection is closed after such an answer.
    pub(super) request_read: bool,
    /// The connection is closed after it for another reason.
    pub(super) last: bool,
    /// What comes next on this connection cannot be believed, even if this request seemed complete.
    pub(super) distrust: bool,
    /// One word for the log and for those who count.
    pub(super) outcome: &'static str,
    /// Seconds until it is worth coming again, with 429.
    retry_after: Option<u64>,
    /// Goes back to the client, so that both sides speak of the same request.
    pub(super) request_id: Option<HeaderValue>,
    /// Asks for a bearer token, with 401.
    challenge: bool,
}

impl Reply {
    /// The job is stored.
    pub(super) fn stored(enqueued: &Enqueued) -> Self {
        let Enqueued { id, duplicate, .. } = enqueued;
        // A job id is made of digits, letters and dashes: nothing that JSON would escape.
        let body = format!(r#"{{"id":"{id}","duplicate":{duplicate}}}"#);
        let outcome = if *duplicate { "duplicate" } else { "stored" };
        Self::of(StatusCode::OK, body.into()).called(outcome)
    }

    /// Somebody is there who knows the secret: what the sender wants back.
    pub(super) fn challenge(member: &str, text: &str) -> Self {
        let body = serde_json::json!({ member: text });
        Self::of(StatusCode::OK, body.to_string().into()).called("challenge")
    }

    /// All jobs of a request are stored.
    pub(super) fn created(body: Bytes) -> Self {
        Self::of(StatusCode::CREATED, body)
    }

    /// Why no job of a request is stored.
    pub(super) fn refused(refusal: &Refusal) -> Self {
        Self::of(refusal.status, refusal.body()).called(refusal.code)
    }

    /// The same, before the body was read.
    pub(super) fn refused_unread(refusal: &Refusal) -> Self {
        Self {
            challenge: refusal.status == StatusCode::UNAUTHORIZED,
            ..Self::refused(refusal).unread()
        }
    }

    /// What is asked for.
    pub(super) fn json(body: Bytes) -> Self {
        Self::of(StatusCode::OK, body)
    }

    pub(super) fn alive() -> Self {
        Self::of(StatusCode::OK, Bytes::from_static(br#"{"status":"ok"}"#))
    }

    /// In the text format of Prometheus.
    pub(super) fn metrics(page: Bytes) -> Self {
        Self {
            kind: TEXT,
            ..Self::of(StatusCode::OK, page)
        }
    }

    pub(super) fn readiness(readiness: Readiness) -> Self {
        let status = if readiness.ok {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let outcome = if readiness.ok { "ready" } else { "not_ready" };
        Self::of(status, readiness.body).called(outcome)
    }

    /// The body broke off, the request is framed wrongly, or its host is unclear.
    pub(super) fn bad_request() -> Self {
        let body = br#"{"code":"bad_request","message":"the request cannot be read"}"#;
        Self {
            distrust: true,
            ..Self::error(StatusCode::BAD_REQUEST, body).unread()
        }
    }

    /// Signed rightly, but what would go into a name or a key is no clean text.
    pub(super) fn malformed(malformed: &Malformed) -> Self {
        let message = malformed.to_string();
        let body = serde_json::json!({"code": "bad_request", "message": message});
        Self::of(StatusCode::BAD_REQUEST, body.to_string().into())
    }

    /// One answer for an unknown source, a bad signature and a stale one.
    pub(super) fn unauthorized() -> Self {
        Self::error(
            StatusCode::UNAUTHORIZED,
            br#"{"code":"unauthorized","message":"the signature is missing, wrong or too old"}"#,
        )
    }

    pub(super) fn not_found() -> Self {
        Self::error(
            StatusCode::NOT_FOUND,
            br#"{"code":"not_found","message":"there is no such route"}"#,
        )
        .unread()
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let body = br#"{"code":"method_not_allowed","message":"this route has other methods"}"#;
        Self {
            allow: Some(allow),
            ..Self::error(StatusCode::METHOD_NOT_ALLOWED, body).unread()
        }
    }

    pub(super) fn body_timeout() -> Self {
        Self::error(
            StatusCode::REQUEST_TIMEOUT,
            br#"{"code":"body_timeout","message":"the body took too long"}"#,
        )
        .unread()
    }

    pub(super) fn too_large() -> Self {
        Self::error(
            StatusCode::PAYLOAD_TOO_LARGE,
            br#"{"code":"too_large","message":"the body is too large"}"#,
        )
        .unread()
    }

    /// The job may not be stored. Sending again is safe: the delivery id tells duplicates.
    pub(super) fn unavailable() -> Self {
        Self::error(
            StatusCode::SERVICE_UNAVAILABLE,
            br#"{"code":"unavailable","message":"the job could not be stored; send it again"}"#,
        )
    }

    /// The queue has as many jobs as it may have.
    pub(super) fn full() -> Self {
        Self::error(
            StatusCode::SERVICE_UNAVAILABLE,
            br#"{"code":"full","message":"the queue is full; send it again later"}"#,
        )
    }

    /// The sender's group has as many held jobs as it may have: only he is too fast.
    pub(super) fn group_full() -> Self {
        let body = br#"{"code":"group_full","message":"too many jobs of this group wait already; send it again later"}"#;
        Self::error(StatusCode::TOO_MANY_REQUESTS, body).called("group_full")
    }

    /// Too many connections, or too much in memory.
    pub(super) fn busy() -> Self {
        Self::error(
            StatusCode::SERVICE_UNAVAILABLE,
            br#"{"code":"busy","message":"too many requests at once; send it again"}"#,
        )
        .called("busy")
        .unread()
    }

    /// More than the source's rate allows. Only those who signed are told so, and only theirs count.
    pub(super) fn too_many(wait: Duration) -> Self {
        let body = br#"{"code":"too_many","message":"more webhooks than this source may send; send it again later"}"#;
        Self {
            retry_after: Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)),
            ..Self::error(StatusCode::TOO_MANY_REQUESTS, body)
        }
    }

    fn error(status: StatusCode, body: &'static [u8]) -> Self {
        Self::of(status, Bytes::from_static(body))
    }

    fn of(status: StatusCode, body: Bytes) -> Self {
        Self {
            status,
            kind: JSON,
            body,
            allow: None,
            request_read: true,
            last: false,
            distrust: false,
            outcome: match status {
                StatusCode::OK => "ok",
                StatusCode::CREATED => "stored",
                StatusCode::BAD_REQUEST => "bad_request",
                StatusCode::UNAUTHORIZED => "unauthorized",
                StatusCode::NOT_FOUND => "not_found",
                StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
                StatusCode::REQUEST_TIMEOUT => "body_timeout",
                StatusCode::PAYLOAD_TOO_LARGE => "too_large",
                StatusCode::TOO_MANY_REQUESTS => "too_many",
                StatusCode::SERVICE_UNAVAILABLE => "unavailable",
                _ => "refused",
            },
            retry_after: None,
            request_id: None,
            challenge: false,
        }
    }

    fn called(mut self, outcome: &'static str) -> Self {
        self.outcome = outcome;
        self
    }

    fn unread(mut self) -> Self {
        self.request_read = false;
        self
    }

    /// As HTTP, with its headers in the room of `headers`, which is empty.
    pub(super) fn into_response(self, mut headers: HeaderMap) -> Response<Full<Bytes>> {
        let status = self.status;
        let body = self.into_body(&mut headers);
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    /// What follows the headers, which go into `headers`.
    pub(super) fn into_body(self, headers: &mut HeaderMap) -> Bytes {
        headers.insert(header::CONTENT_TYPE, self.kind);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        let of_group = (self.status == StatusCode::TOO_MANY_REQUESTS).then_some(GROUP_RETRY_AFTER);
        if let Some(seconds) = self.retry_after.or(of_group) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(id) = self.request_id {
            headers.insert(REQUEST_ID, id);
        }
        if self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, BEARER);
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if !self.request_read || self.last {
            // Or the client would send its next request into a connection that is about to end.
            headers.insert(header::CONNECTION, CLOSE);
        }
        self.body
    }
}
