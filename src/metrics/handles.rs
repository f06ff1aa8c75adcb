//! The handles, made once per queue, source or connection and kept: to count is one call, and nothing is looked up.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use metrics::{Counter, Gauge, Histogram};

use super::{Kind, Metric};
use crate::broker::{DeathReason, EntryId};
use crate::error::Error;
use crate::job::{Enqueued, QueueName};

type Labels<'a> = &'a [(&'static str, &'a str)];

fn owned(metric: &Metric, labels: Labels<'_>) -> Vec<metrics::Label> {
    debug_assert!(
        labels
            .iter()
            .map(|(name, _)| *name)
            .eq(metric.labels.iter().copied()),
        "{}: {labels:?}",
        metric.name
    );
    let label =
        |(name, value): &(&'static str, &str)| metrics::Label::new(*name, (*value).to_owned());
    labels.iter().map(label).collect()
}

fn counter(metric: &Metric, labels: Labels<'_>) -> Counter {
    debug_assert_eq!(metric.kind, Kind::Counter);
    metrics::counter!(metric.name, owned(metric, labels))
}

fn gauge(metric: &Metric, labels: Labels<'_>) -> Gauge {
    debug_assert_eq!(metric.kind, Kind::Gauge);
    metrics::gauge!(metric.name, owned(metric, labels))
}

fn histogram(metric: &Metric, labels: Labels<'_>) -> Histogram {
    debug_assert_eq!(metric.kind, Kind::Histogram);
    metrics::histogram!(metric.name, owned(metric, labels))
}

/// One counter per value of `outcome`.
struct Outcomes {
    values: &'static [&'static str],
    counters: Vec<Counter>,
}

impl Outcomes {
    fn new(metric: &'static Metric, labels: Labels<'_>) -> Self {
        let of = |value: &&'static str| {
            let mut labels = labels.to_vec();
            labels.push(("outcome", value));
            counter(metric, &labels)
        };
        Self {
            values: metric.values,
            counters: metric.values.iter().map(of).collect(),
        }
    }

    /// There are fewer than ten, so looking is as quick as anything.
    fn count(&self, outcome: &str, by: usize) {
        let found = self.values.iter().position(|value| *value == outcome);
        debug_assert!(found.is_some(), "{outcome} is none of {:?}", self.values);
        if let Some(counter) = found.and_then(|index| self.counters.get(index)) {
            counter.increment(by as u64);
        }
    }
}

/// What a producer counts.
pub(crate) struct Producing {
    enqueued: Counter,
    duplicates: Counter,
    failed: Outcomes,
}

impl std::fmt::Debug for Producing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producing").finish_non_exhaustive()
    }
}

impl Producing {
    pub(crate) fn new(queue: &QueueName) -> Self {
        let queue: Labels<'_> = &[("queue", queue.as_str())];
        Self {
            enqueued: counter(&super::ENQUEUED, queue),
            duplicates: counter(&super::DUPLICATES, queue),
            failed: Outcomes::new(&super::NOT_ENQUEUED, queue),
        }
    }

    pub(crate) fn sent(&self, answer: &Result<Vec<Enqueued>, Error>) {
        match answer {
            Ok(enqueued) => {
                let duplicates = enqueued.iter().filter(|job| job.duplicate).count();
                self.enqueued
                    .increment((enqueued.len() - duplicates) as u64);
                if duplicates > 0 {
                    self.duplicates.increment(duplicates as u64);
                }
            }
            Err(error) => self.failed.count(error.kind(), 1),
        }
    }
}

/// What a worker counts. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Working(Arc<OfWorker>);

struct OfWorker {
    started: Counter,
    settled: Outcomes,
    dead: Outcomes,
    stalled: Counter,
    leases_lost: Counter,
    promoted: Counter,
    handler_time: Histogram,
    queue_time: Histogram,
    lateness: Histogram,
    running: Gauge,
    slots: Gauge,
    /// How far Redis's clock is ahead of this machine's, ms.
    ahead_ms: AtomicI64,
}

impl Working {
    pub(crate) fn new(queue: &QueueName) -> Self {
        let queue: Labels<'_> = &[("queue", queue.as_str())];
        Self(Arc::new(OfWorker {
            started: counter(&super::STARTED, queue),
            settled: Outcomes::new(&super::SETTLED, queue),
            dead: Outcomes::new(&super::DEAD, queue),
            stalled: counter(&super::STALLED, queue),
            leases_lost: counter(&super::LEASES_LOST, queue),
            promoted: counter(&super::PROMOTED, queue),
            handler_time: histogram(&super::HANDLER_TIME, queue),
            queue_time: histogram(&super::QUEUE_TIME, queue),
            lateness: histogram(&super::LATENESS, queue),
            running: gauge(&super::RUNNING, queue),
            slots: gauge(&super::SLOTS, queue),
            ahead_ms: AtomicI64::new(0),
        }))
    }

    /// What Redis's clock has just said.
    pub(crate) fn redis_says(&self, now_ms: u64) {
        let ahead = now_ms.cast_signed().saturating_sub(unix_ms());
        self.0.ahead_ms.store(ahead, Ordering::Relaxed);
    }

    /// A worker has come, with so many slots.
    pub(crate) fn opened(&self, slots: usize) {
        self.0.slots.increment(slots as f64);
    }

    /// It has gone.
    pub(crate) fn closed(&self, slots: usize) {
        self.0.slots.decrement(slots as f64);
    }

    /// A handler is called. Its entry says since when the job was ready.
    pub(crate) fn started(&self, entry: EntryId) {
        let of = &self.0;
        of.started.increment(1);
        of.running.increment(1.0);
        let now_ms = unix_ms() + of.ahead_ms.load(Ordering::Relaxed);
        let waited_ms = now_ms.saturating_sub(entry.ms.cast_signed()).max(0);
        of.queue_time.record(waited_ms as f64 / 1e3);
    }

    /// The handler has ended.
    pub(crate) fn ended(&self, took: Duration) {
        self.0.running.decrement(1.0);
        self.0.handler_time.record(took);
    }

    /// `outcome` is one of those of the list.
    pub(crate) fn settled(&self, outcome: &str, count: usize) {
        self.0.settled.count(outcome, count);
        if outcome == "lost" {
            self.lease_lost(count);
        }
    }

    pub(crate) fn dead(&self, reason: DeathReason) {
        self.0.dead.count(reason.name(), 1);
    }

    pub(crate) fn lease_lost(&self, count: usize) {
        self.0.leases_lost.increment(count as u64);
    }

    /// What a sweep found: made ready again, and dead of it.
    pub(crate) fn swept(&self, reclaimed: u64, dead: u64) {
        self.0.stalled.increment(reclaimed + dead);
        self.0.dead.count("crash_loop", dead as usize);
    }

    /// What a promotion moved, or found out of time; the most overdue one was `late`.
    pub(crate) fn promoted(&self, count: u64, expired: u64, late: Duration) {
        self.0.promoted.increment(count);
        self.0.dead.count("expired", expired as usize);
        if count + expired > 0 {
            self.0.lateness.record(late);
        }
    }
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// What a circuit shows.
#[derive(Clone)]
pub(crate) struct OfCircuit {
    open: Gauge,
    openings: Counter,
}

impl std::fmt::Debug for OfCircuit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OfCircuit").finish_non_exhaustive()
    }
}

impl OfCircuit {
    pub(crate) fn new(queue: &QueueName) -> Self {
        let queue: Labels<'_> = &[("queue", queue.as_str())];
        let open = gauge(&super::CIRCUIT, queue);
        open.set(0.0);
        Self {
            open,
            openings: counter(&super::CIRCUIT_OPENINGS, queue),
        }
    }

    pub(crate) fn opened(&self) {
        self.open.set(1.0);
        self.openings.increment(1);
    }

    pub(crate) fn closed(&self) {
        self.open.set(0.0);
    }
}

/// What is counted of the calls to Redis.
#[derive(Clone)]
pub(crate) struct Calls(Arc<OfCalls>);

struct OfCalls {
    calls: Counter,
    errors: Outcomes,
    time: Histogram,
    reconnects: Counter,
}

impl Calls {
    pub(crate) fn new() -> Self {
        Self(Arc::new(OfCalls {
            calls: counter(&super::REDIS_CALLS, &[]),
            errors: Outcomes::new(&super::REDIS_ERRORS, &[]),
            time: histogram(&super::REDIS_TIME, &[]),
            reconnects: counter(&super::RECONNECTS, &[]),
        }))
    }

    pub(crate) fn sent(&self) {
        self.0.calls.increment(1);
    }

    pub(crate) fn answered(&self, took: Duration) {
        self.0.time.record(took);
    }

    /// `outcome` is one of those of the list.
    pub(crate) fn failed(&self, outcome: &str) {
        self.0.errors.count(outcome, 1);
    }

    pub(crate) fn reconnected(&self) {
        self.0.reconnects.increment(1);
    }
}

/// What is counted of the requests to the target of a queue.
#[cfg(feature = "webhooks")]
pub(crate) struct Forwarding {
    pub(crate) queue: QueueName,
    requests: Outcomes,
    time: Histogram,
}

#[cfg(feature = "webhooks")]
impl Forwarding {
    pub(crate) fn new(queue: &QueueName) -> Self {
        let labels: Labels<'_> = &[("queue", queue.as_str())];
        Self {
            queue: queue.clone(),
            requests: Outcomes::new(&super::FORWARDED, labels),
            time: histogram(&super::FORWARD_TIME, labels),
        }
    }

    /// `outcome` is one of those of the list.
    pub(crate) fn ended(&self, outcome: &str, took: Duration) {
        self.requests.count(outcome, 1);
        self.time.record(took);
    }
}

/// What is counted of the webhooks of one source.
#[cfg(feature = "gateway")]
pub(crate) struct Receiving {
    requests: Outcomes,
    time: Histogram,
}

#[cfg(feature = "gateway")]
impl Receiving {
    /// `source` is empty for all that are not configured.
    pub(crate) fn new(source: &str) -> Self {
        let labels: Labels<'_> = &[("source", source)];
        Self {
            requests: Outcomes::new(&super::GATEWAY_REQUESTS, labels),
            time: histogram(&super::GATEWAY_TIME, labels),
        }
    }

    /// `outcome` is a word of the access log; one that the list does not have counts as `other`.
    pub(crate) fn answered(&self, outcome: &str, took: Duration) {
        let listed = self.requests.values.contains(&outcome);
        self.requests
            .count(if listed { outcome } else { "other" }, 1);
        self.time.record(took);
    }
}

/// What is counted of the traces that this process exports.
#[cfg(feature = "otel")]
pub(crate) struct Tracing {
    lost: Outcomes,
}

#[cfg(feature = "otel")]
impl Tracing {
    pub(crate) fn new() -> Self {
        Self {
            lost: Outcomes::new(&super::SPANS_LOST, &[]),
        }
    }

    /// `outcome` is one of those of the list.
    pub(crate) fn lost(&self, outcome: &str, spans: usize) {
        self.lost.count(outcome, spans);
    }
}
