//! Sockets, deadlines, routes and answers. One task per connection; everything a client can make us hold has a bound.

mod access;
mod alarm;
mod body;
mod connection;
mod plain;
mod quick;
mod reply;
mod socket;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, Version, header};
use tracing::{Instrument as _, warn};

use super::api::tokens::Tokens;
use super::api::{self, Api, Batch};
use super::health::{Health, Pool};
use super::source::{Source, trace};
use super::sources::Sources;
use super::{GatewaySettings, MetricsPage, Store};
use crate::error::Error;
use crate::job::QueueName;
use crate::metrics::handles::Receiving;
use access::{Access, REQUEST_ID};
use alarm::Alarm;
use body::{Arriving, Intake};
use reply::Reply;

/// Longest wait for a job to be stored. Shorter than the queue's own patience, and far below the 5 s of the shortest-tempered
/// senders: who is told to come again in time does not count it as a failure of ours. A job that is stored after all is found by
/// its delivery id then.
const STORE_TIMEOUT: Duration = Duration::from_millis(3_500);

/// Room for headers that a connection keeps from one request to the next. Providers send about 20.
const HEADERS_KEPT: usize = 32;

/// What the routes need, shared by all connections.
pub(crate) struct Server<S> {
    inner: Arc<Inner<S>>,
    #[cfg(feature = "tls")]
    certificate: Option<super::tls::Certificate>,
}

impl<S> std::fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

struct Inner<S> {
    store: Arc<S>,
    health: Health<S>,
    sources: Sources,
    api: Api,
    counted: Counted,
    metrics: Option<MetricsPage>,
    limits: Limits,
    intake: Intake,
    troubles: Seldom,
}

/// The settings that a connection lives by; see [`GatewaySettings`].
struct Limits {
    header_timeout: Duration,
    write_timeout: Duration,
    connections_max: usize,
    shutdown_timeout: Duration,
    drain_delay: Duration,
}

/// What is counted, in the order of the sources.
struct Counted {
    known: Vec<Receiving>,
    unknown: Receiving,
}

impl Counted {
    fn new(sources: &[Source]) -> Self {
        let names = sources.iter().map(Source::name);
        Self {
            known: names.map(Receiving::new).collect(),
            unknown: Receiving::new(""),
        }
    }
}

/// Who is asking: decides what is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// Everything.
    Main,
    /// Beyond the connection limit: health, and 503 for the rest.
    Spare,
}

impl<S: Store> Server<S> {
    pub(crate) fn new(
        settings: &GatewaySettings,
        sources: Sources,
        tokens: Tokens,
        store: S,
        pools: Vec<Pool>,
    ) -> Self {
        let store = Arc::new(store);
        let inner = Inner {
            health: Health::new(store.clone(), pools),
            store,
            counted: Counted::new(sources.known()),
            metrics: settings.metrics.clone(),
            sources,
            api: Api::new(tokens),
            limits: Limits {
                header_timeout: settings.header_timeout,
                write_timeout: settings.write_timeout,
                connections_max: settings.connections_max,
                shutdown_timeout: settings.shutdown_timeout,
                drain_delay: settings.drain_delay,
            },
            intake: Intake::new(settings),
            troubles: Seldom::default(),
        };
        Self {
            inner: Arc::new(inner),
            #[cfg(feature = "tls")]
            certificate: None,
        }
    }

    /// Speaks TLS with it, if there is one.
    #[cfg(feature = "tls")]
    pub(crate) fn with_certificate(self, certificate: Option<super::tls::Certificate>) -> Self {
        Self {
            certificate,
            ..self
        }
    }
}

impl<S: Store> Inner<S> {
    /// Answers one request and writes its line to the log, also when the client goes away before the answer. Says in `unread` if
    /// the rest of the request may still be on its way.
    fn answer<'a>(
        &'a self,
        request: Request<Incoming>,
        lane: Lane,
        unread: &'a AtomicBool,
    ) -> impl Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'a {
        let without_body = request.body().is_end_stream();
        // From here on in one place: what is handed on by value has room in each future on the way.
        let (mut head, body) = request.into_parts();
        let mut access = Access::new(&head);
        async move {
            let (body, mut alarm) = (Arriving::Coming(body), Alarm::default());
            let mut reply = self
                .route(&mut head, body, lane, &mut access, &mut alarm)
                .await;
            reply.request_read |= without_body && !reply.distrust;
            if !reply.request_read {
                unread.store(true, Ordering::Relaxed);
            }
            access.answered(&mut reply);
            Ok(reply.into_response(room_of(&mut head)))
        }
    }

    async fn route<'a>(
        &'a self,
        head: &mut Parts,
        body: Arriving,
        lane: Lane,
        access: &mut Access<'a>,
        alarm: &mut Alarm,
    ) -> Reply {
        if !names_its_host(head) {
            return Reply::bad_request();
        }
        let mut segments = head.uri.path().split('/').skip(1);
        let path = [segments.next(), segments.next(), segments.next()];
        match (&head.method, path) {
            (method, [Some("health"), Some("live"), None]) => {
                access.route = "/health/live";
                match *method {
                    Method::GET | Method::HEAD => Reply::alive(),
                    _ => Reply::method_not_allowed("GET, HEAD"),
                }
            }
            (method, [Some("health"), Some("ready"), None]) => {
                access.route = "/health/ready";
                match *method {
                    Method::GET | Method::HEAD => Reply::readiness(self.health.ready().await),
                    _ => Reply::method_not_allowed("GET, HEAD"),
                }
            }
            (method, [Some("metrics"), None, None]) if self.metrics.is_some() => {
                access.route = "/metrics";
                match (method, &self.metrics) {
                    (&Method::GET | &Method::HEAD, Some(page)) => Reply::metrics(page.read().await),
                    _ => Reply::method_not_allowed("GET, HEAD"),
                }
            }
            _ if lane == Lane::Spare => Reply::busy(),
            (method, [Some("webhooks"), Some(source), None]) => {
                access.serve("/webhooks/{source}");
                access.counted = Some(&self.counted.unknown);
                if let Some(number) = self.sources.number(source) {
                    access.source = Some(self.sources.known()[number].name());
                    access.counted = self.counted.known.get(number);
                }
                if *method != Method::POST {
                    return Reply::method_not_allowed("POST");
                }
                self.webhook(head, body, access, alarm)
                    .await
                    .unwrap_or_else(|refusal| refusal)
            }
            (method, [Some("queues"), Some(queue), Some("jobs")]) if segments.next().is_none() => {
                access.serve("/queues/{queue}/jobs");
                if *method != Method::POST {
                    return Reply::method_not_allowed("POST");
                }
                // Before the body is asked for: strangers cannot make us hold one.
                match self.api.admit(queue, &head.headers) {
                    // On the heap, as it is larger than what webhooks need.
                    Ok(queue) => Box::pin(self.enqueue(&queue, head, body, access, alarm))
                        .await
                        .unwrap_or_else(|refusal| refusal),
                    Err(refusal) => Reply::refused_unread(&refusal),
                }
            }
            (method, [Some("openapi.json"), None, None]) => {
                access.route = "/openapi.json";
                match *method {
                    Method::GET | Method::HEAD => Reply::json(self.api.description.clone()),
                    _ => Reply::method_not_allowed("GET, HEAD"),
                }
            }
            _ => Reply::not_found(),
        }
    }

    /// Takes the jobs of a program in: read, make jobs, store all of them, and only then say yes.
    async fn enqueue(
        &self,
        queue: &QueueName,
        head: &Parts,
        body: Arriving,
        access: &mut Access<'_>,
        alarm: &mut Alarm,
    ) -> Result<Reply, Reply> {
        let context = access.serving.follow(trace(&head.headers));
        let body = self.intake.read(body).await?;
        access.bytes = body.bytes.len();
        let batch = Batch::read(&body.bytes, jiff::Timestamp::now());
        let mut batch = batch.map_err(|refusal| Reply::refused(&refusal))?;
        if let Some(context) = context {
            let untold = batch
                .jobs
                .iter_mut()
                .filter(|job| job.meta.traceparent.is_none());
            untold.for_each(|job| job.set_trace(context.clone()));
        }
        let list = batch.is_list();
        let stored = pin!(self.store.store_in(queue, batch.jobs, batch.durability));
        match in_time(alarm, stored.instrument(access.serving.span())).await {
            Ok(enqueued) => {
                if let [one] = enqueued.as_slice() {
                    access.job = Some(one.id.clone());
                }
                Ok(Reply::created(Batch::answer(list, &enqueued)))
            }
            Err(error) => {
                if self.troubles.now() {
                    warn!(%error, "jobs of a program could not be stored");
                }
                Err(Reply::refused(&api::not_stored(&error)))
            }
        }
    }

    /// Takes one webhook in: read, verify, make a job, store it, and only then say yes.
    async fn webhook(
        &self,
        head: &mut Parts,
        body: Arriving,
        access: &mut Access<'_>,
        alarm: &mut Alarm,
    ) -> Result<Reply, Reply> {
        let body = self.intake.read(body).await?;
        access.bytes = body.bytes.len();
        let name = head.uri.path().rsplit('/').next().unwrap_or_default();
        let now = unix_seconds();
        let number = self.sources.verified(name, &head.headers, &body.bytes, now);
        let number = number.ok_or_else(Reply::unauthorized)?;
        let source = &self.sources.known()[number];
        match source.challenge(&body.bytes) {
            Ok(None) => {}
            Ok(Some((member, text))) => return Ok(Reply::challenge(member, &text)),
            Err(malformed) => return Err(Reply::malformed(&malformed)),
        }
        source.within_rate().map_err(Reply::too_many)?;
        if source.keeps(&REQUEST_ID) {
            head.headers.insert(REQUEST_ID, access.request_id.clone());
        }
        let job = source.job(&head.headers, body.bytes.clone());
        let mut job = job.map_err(|malformed| Reply::malformed(&malformed))?;
        if let Some(context) = access.serving.follow(trace(&head.headers)) {
            job.set_trace(context);
        }
        // Handed over by reference: a future that is an argument takes its room twice.
        let submitted = access.serving.span();
        let stored = pin!(submitted.in_scope(|| self.store.store(number, job)));
        match in_time(alarm, stored.instrument(access.serving.span())).await {
            Ok(enqueued) => {
                let reply = Reply::stored(&enqueued);
                access.job = Some(enqueued.id);
                Ok(reply)
            }
            Err(error) => Err(self.not_stored(&error)),
        }
    }

    /// The sender is told to come again unless that could not help.
    fn not_stored(&self, error: &Error) -> Reply {
        if self.troubles.now() {
            warn!(%error, "a webhook could not be stored");
        }
        match error {
            Error::PayloadTooLarge { .. } => Reply::too_large(),
            Error::QueueFull { .. } => Reply::full(),
            Error::GroupFull { .. } => Reply::group_full(),
            Error::InvalidJob { .. } => Reply::bad_request(),
            _ => Reply::unavailable(),
        }
    }
}

/// What came of storing, within the time that a sender waits.
async fn in_time<T>(
    alarm: &mut Alarm,
    stored: impl Future<Output = crate::Result<T>>,
) -> crate::Result<T> {
    alarm
        .within(STORE_TIMEOUT, stored)
        .await
        .unwrap_or_else(|| {
            Err(Error::Ambiguous {
                operation: "enqueue",
                waited: STORE_TIMEOUT,
                reason: "no answer".to_owned(),
            })
        })
}

/// The room of a request's headers, which serves those of the answer and then those of the connection's next request.
fn room_of(head: &mut Parts) -> HeaderMap {
    let mut headers = std::mem::take(&mut head.headers);
    if headers.capacity() > HEADERS_KEPT {
        headers = HeaderMap::new();
    }
    headers.clear();
    headers
}

/// HTTP/1.1 asks for exactly one Host header. With two, a proxy in front and the gateway could each believe another.
fn names_its_host(head: &Parts) -> bool {
    let hosts = head.headers.get_all(header::HOST).iter().count();
    hosts == 1 || (hosts == 0 && head.version == Version::HTTP_10)
}

/// Lets one in a second through: a trouble that every request meets is one trouble.
#[derive(Debug, Default)]
struct Seldom {
    /// Unix seconds of the last one.
    last: AtomicU64,
}

impl Seldom {
    fn now(&self) -> bool {
        let now = unix_seconds().unsigned_abs();
        self.last.swap(now, Ordering::Relaxed) != now
    }
}

/// Senders sign their own clock's time, so it is this machine's clock that it is compared with.
fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests;
