//! One request from its arrival to its outcome: the one place that knows how each of them ended, and its line in the log.
//!
//! Nothing of a line is taken from the request as it came, except a request id that is plain letters and digits: no query, no header,
//! no body, no path that is not a route of ours.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use hyper::header::{HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method};
use tracing::info;

use super::reply::Reply;
use crate::job::JobId;
use crate::metrics::handles::Receiving;
use crate::spans::Serving;

/// By which a sender, a proxy and our log speak of the same request.
pub(in crate::gateway) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken over, bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// What is known of a request so far. Dropped when the request is over, however that came: then its line is written.
pub(super) struct Access<'a> {
    started: Instant,
    method: &'static str,
    pub(super) route: &'static str,
    pub(super) source: Option<&'a str>,
    pub(super) job: Option<JobId>,
    /// Where the request is counted, if it is for a source.
    pub(super) counted: Option<&'a Receiving>,
    /// Bytes of the body, once it was read whole.
    pub(super) bytes: usize,
    pub(super) request_id: HeaderValue,
    /// What a tracer is told of it.
    pub(super) serving: Serving,
    status: u16,
    outcome: &'static str,
}

impl Access<'_> {
    pub(super) fn new(head: &Parts) -> Self {
        let method = match head.method {
            Method::POST => "POST",
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::PUT => "PUT",
            Method::DELETE => "DELETE",
            Method::OPTIONS => "OPTIONS",
            Method::PATCH => "PATCH",
            _ => "other",
        };
        Self {
            started: Instant::now(),
            method,
            route: "other",
            source: None,
            job: None,
            counted: None,
            bytes: 0,
            request_id: request_id(&head.headers),
            serving: Serving::default(),
            // The client goes away before it is answered; nginx's number for it.
            status: 499,
            outcome: "gone",
        }
    }

    /// The request is for a route that a tracer wants to hear of.
    pub(super) fn serve(&mut self, route: &'static str) {
        self.route = route;
        self.serving = Serving::start(self.method, route);
    }

    /// This is what the client is told, and by which id.
    pub(super) fn answered(&mut self, reply: &mut Reply) {
        self.status = reply.status.as_u16();
        self.outcome = reply.outcome;
        reply.request_id = Some(self.request_id.clone());
    }
}

impl Drop for Access<'_> {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        self.serving.ended(self.status);
        if let Some(counted) = self.counted {
            counted.answered(self.outcome, took);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        info!(
            target: "millstream::access",
            method = self.method,
            route = self.route,
            source = self.source,
            status = self.status,
            outcome = self.outcome,
            bytes = self.bytes,
            duration_us = micros,
            job = self.job.as_ref().map(JobId::as_str),
            request_id = self.request_id.to_str().unwrap_or_default(),
            "request"
        );
    }
}

/// The request's own id if it is one and harmless, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let mut given = headers.get_all(REQUEST_ID).iter();
    match (given.next(), given.next()) {
        (Some(id), None) if is_harmless(id.as_bytes()) => id.clone(),
        _ => new_request_id(),
    }
}

/// True for what proxies and senders make of UUIDs, counters and base64: it can stand in a log, a header and a shell.
fn is_harmless(id: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte);
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(allowed)
}

/// Random once per process, then counted: a UUID per request would cost more and say no more.
fn new_request_id() -> HeaderValue {
    static PROCESS: LazyLock<String> =
        LazyLock::new(|| uuid::Uuid::new_v4().simple().to_string()[..12].to_owned());
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let id = format!("{}-{:x}", *PROCESS, COUNT.fetch_add(1, Ordering::Relaxed));
    HeaderValue::try_from(id).expect("hexadecimal digits and a dash")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(given: &[&[u8]]) -> HeaderValue {
        let mut headers = HeaderMap::new();
        for value in given {
            headers.append(REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
        }
        request_id(&headers)
    }

    #[test]
    fn a_request_id_is_taken_over_when_it_is_harmless_and_made_when_it_is_not() {
        for sane in [
            "1",
            "0b36c1c4-7a1e-4b8e-9b1f-2f6f5d1c9f10",
            "Root=1-67891233/abc:1+2_3.4=",
            &"a".repeat(128),
        ] {
            assert_eq!(id_for(&[sane.as_bytes()]), sane);
        }
        let made = id_for(&[]);
        for odd in [
            &[b"".as_slice()][..],
            &[b"a b"],
            &[b"a\tb"],
            &[b"a\xff"],
            &[b"${jndi:x}"],
            &["a".repeat(129).as_bytes()],
            &[b"a", b"b"],
        ] {
            let id = id_for(odd);
            assert!(!odd.contains(&id.as_bytes()) && id != made, "{id:?}");
            assert!(is_harmless(id.as_bytes()));
        }
    }
}
