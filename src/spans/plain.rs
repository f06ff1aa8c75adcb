//! Nobody follows traces: contexts pass through.

use tracing::Span;

#[cfg(feature = "gateway")]
use crate::job::trace::TraceContext;
use crate::job::{Enqueued, JobId, Meta, NewJob, QueueName};

/// The span of an attempt, for log lines.
pub(crate) fn attempt(
    queue: &QueueName,
    id: &JobId,
    _name: &str,
    attempt: u32,
    meta: &Meta,
) -> Span {
    tracing::info_span!(
        target: super::ATTEMPT_TARGET,
        "job",
        %queue,
        job = %id,
        attempt,
        trace_id = meta.trace_id(),
    )
}

pub(crate) fn attempted(_span: &Span, _outcome: &'static str, _fault: Option<&'static str>) {}

/// The span of a handler that has several jobs at a time.
pub(crate) fn batch<'a>(
    _queue: &QueueName,
    _jobs: usize,
    _metas: impl Iterator<Item = &'a Meta>,
) -> Span {
    Span::none()
}

/// The context of the work at hand.
#[cfg(feature = "webhooks")]
pub(crate) fn current() -> Option<TraceContext> {
    None
}

/// Jobs on their way into a queue.
pub(crate) struct Sending;

impl Sending {
    pub(crate) fn start(_queue: &QueueName, _jobs: &mut [NewJob]) -> Self {
        Self
    }

    pub(crate) fn stored(self, _enqueued: &[Enqueued]) {}

    pub(crate) fn failed(self, _fault: &'static str) {}
}

/// A request that came in.
#[cfg(feature = "gateway")]
#[derive(Default)]
pub(crate) struct Serving;

#[cfg(feature = "gateway")]
impl Serving {
    pub(crate) fn start(_method: &'static str, _route: &'static str) -> Self {
        Self
    }

    /// Gives the context back: nobody follows it.
    pub(crate) fn follow(&self, context: Option<TraceContext>) -> Option<TraceContext> {
        context
    }

    pub(crate) fn span(&self) -> Span {
        Span::none()
    }

    pub(crate) fn ended(&self, _status: u16) {}
}

/// A request that goes out.
#[cfg(feature = "webhooks")]
pub(crate) struct Calling;

#[cfg(feature = "webhooks")]
impl Calling {
    pub(crate) fn start(_host: &str, _port: u16) -> Self {
        Self
    }

    pub(crate) fn context(&self) -> Option<TraceContext> {
        None
    }

    pub(crate) fn answered(&self, _status: u16) {}

    pub(crate) fn failed(&self, _fault: &'static str) {}
}
