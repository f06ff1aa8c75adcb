//! Spans that know where they come from.

use std::str::FromStr as _;

use opentelemetry::Context;
use opentelemetry::trace::{
    SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use tracing::{Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::TARGET;
use crate::job::trace::{TRACESTATE_BYTES_MAX, TraceContext, trace_id};
use crate::job::{Enqueued, JobId, Meta, NewJob, QueueName};

/// What messages are carried by, for whoever looks at spans of several systems.
const SYSTEM: &str = "millstream";

/// The span of an attempt: for log lines, and for a tracer the one of a consumer.
pub(crate) fn attempt(
    queue: &QueueName,
    id: &JobId,
    name: &str,
    attempt: u32,
    meta: &Meta,
) -> Span {
    let traced = tracing::span_enabled!(target: TARGET, Level::INFO);
    let named = traced.then(|| format!("process {queue}"));
    let span = tracing::info_span!(
        target: super::ATTEMPT_TARGET,
        "job",
        %queue,
        job = %id,
        attempt,
        trace_id = meta.trace_id(),
        otel.kind = traced.then_some("consumer"),
        otel.name = named,
    );
    if traced {
        if let Some(cause) = cause(meta) {
            // Its link is what the conventions ask for; its parent keeps a webhook and all that follows in one trace.
            let _ = span.set_parent(Context::new().with_remote_span_context(cause.clone()));
            span.add_link(cause);
        }
        process(&span, queue);
        span.set_attribute("messaging.message.id", id.as_str().to_owned());
        span.set_attribute("millstream.job.name", name.to_owned());
        span.set_attribute("millstream.attempt", i64::from(attempt));
    }
    span
}

/// How the attempt of `span` ended; `fault` if that was no success.
pub(crate) fn attempted(span: &Span, outcome: &'static str, fault: Option<&'static str>) {
    span.set_attribute("millstream.outcome", outcome);
    if let Some(fault) = fault {
        failed(span, fault);
    }
}

/// The span of a handler that has several jobs at a time: linked to all who caused them, and nobody's child.
pub(crate) fn batch<'a>(
    queue: &QueueName,
    jobs: usize,
    metas: impl Iterator<Item = &'a Meta>,
) -> Span {
    let span = tracing::info_span!(
        target: TARGET,
        parent: None,
        "batch",
        otel.kind = "consumer",
        otel.name = format!("process {queue}"),
    );
    if !span.is_disabled() {
        process(&span, queue);
        span.set_attribute("messaging.batch.message_count", count(jobs));
        for cause in metas.filter_map(cause) {
            span.add_link(cause);
        }
    }
    span
}

fn process(span: &Span, queue: &QueueName) {
    messaging(span, queue, "process");
}

fn messaging(span: &Span, queue: &QueueName, operation: &'static str) {
    span.set_attribute("messaging.system", SYSTEM);
    span.set_attribute("messaging.destination.name", queue.as_str().to_owned());
    span.set_attribute("messaging.operation.name", operation);
    span.set_attribute("messaging.operation.type", operation);
}

fn failed(span: &Span, fault: impl Into<opentelemetry::Value>) {
    span.set_attribute("error.type", fault);
    // No description: that would be somebody's text.
    span.set_status(Status::error(""));
}

fn count(jobs: usize) -> i64 {
    i64::try_from(jobs).unwrap_or(i64::MAX)
}

/// The context of the work at hand.
#[cfg(feature = "webhooks")]
pub(crate) fn current() -> Option<TraceContext> {
    write(&Span::current())
}

/// Jobs on their way into a queue.
pub(crate) struct Sending {
    span: Span,
    jobs: usize,
}

impl Sending {
    /// Jobs that belong to no trace yet belong to this span's from here on; one that was told its own is linked.
    pub(crate) fn start(queue: &QueueName, jobs: &mut [NewJob]) -> Self {
        if !tracing::span_enabled!(target: TARGET, Level::INFO) {
            let (span, jobs) = (Span::none(), 0);
            return Self { span, jobs };
        }
        // Who creates none of the messages that it sends is no producer, say the conventions.
        let creates = jobs.iter().any(|job| job.meta.traceparent.is_none());
        let span = tracing::info_span!(
            target: TARGET,
            "send",
            otel.kind = if creates { "producer" } else { "client" },
            otel.name = format!("send {queue}"),
        );
        messaging(&span, queue, "send");
        if jobs.len() > 1 {
            span.set_attribute("messaging.batch.message_count", count(jobs.len()));
        }
        for cause in jobs.iter().filter_map(|job| cause(&job.meta)) {
            span.add_link(cause);
        }
        if let Some(context) = write(&span) {
            for job in jobs.iter_mut() {
                if job.meta.traceparent.is_none() {
                    job.meta.traceparent = Some(context.parent.clone());
                    job.meta.tracestate.clone_from(&context.state);
                }
            }
        }
        let jobs = jobs.len();
        Self { span, jobs }
    }

    pub(crate) fn stored(self, enqueued: &[Enqueued]) {
        if let (false, [one], 1) = (self.span.is_disabled(), enqueued, self.jobs) {
            let id = one.id.as_str().to_owned();
            self.span.set_attribute("messaging.message.id", id);
            if one.duplicate {
                self.span.set_attribute("millstream.duplicate", true);
            }
        }
    }

    pub(crate) fn failed(self, fault: &'static str) {
        failed(&self.span, fault);
    }
}

/// A request that came in.
#[cfg(feature = "gateway")]
pub(crate) struct Serving(Span);

#[cfg(feature = "gateway")]
impl Default for Serving {
    fn default() -> Self {
        Self(Span::none())
    }
}

#[cfg(feature = "gateway")]
impl Serving {
    pub(crate) fn start(method: &'static str, route: &'static str) -> Self {
        Self(tracing::info_span!(
            target: TARGET,
            parent: None,
            "request",
            otel.kind = "server",
            otel.name = format!("{method} {route}"),
            http.request.method = method,
            http.route = route,
        ))
    }

    /// Continues the trace of `context`, for a sender who is known by now. Gives it back if nobody follows traces.
    pub(crate) fn follow(&self, context: Option<TraceContext>) -> Option<TraceContext> {
        if self.0.is_disabled() {
            return context;
        }
        if let Some(parent) = context.as_ref().and_then(read) {
            let parent = Context::new().with_remote_span_context(parent);
            let _ = self.0.set_parent(parent);
        }
        None
    }

    /// To be entered only after [`Serving::follow`]: that begins it for good.
    pub(crate) fn span(&self) -> Span {
        self.0.clone()
    }

    pub(crate) fn ended(&self, status: u16) {
        if self.0.is_disabled() {
            return;
        }
        // The client was gone before there was one.
        if status != 499 {
            let status = i64::from(status);
            self.0.set_attribute("http.response.status_code", status);
        }
        if status >= 500 {
            failed(&self.0, status.to_string());
        }
    }
}

/// A request that goes out.
#[cfg(feature = "webhooks")]
pub(crate) struct Calling(Span);

#[cfg(feature = "webhooks")]
impl Calling {
    /// To `host`; the rest of a URL may hold secrets.
    pub(crate) fn start(host: &str, port: u16) -> Self {
        let span = tracing::info_span!(
            target: TARGET,
            "call",
            otel.kind = "client",
            otel.name = "POST",
            http.request.method = "POST",
            server.address = host,
            server.port = i64::from(port),
        );
        Self(span)
    }

    pub(crate) fn context(&self) -> Option<TraceContext> {
        write(&self.0)
    }

    pub(crate) fn answered(&self, status: u16) {
        if self.0.is_disabled() {
            return;
        }
        let code = i64::from(status);
        self.0.set_attribute("http.response.status_code", code);
        if status >= 400 {
            failed(&self.0, status.to_string());
        }
    }

    pub(crate) fn failed(&self, fault: &'static str) {
        failed(&self.0, fault);
    }
}

/// The span that caused a job.
fn cause(meta: &Meta) -> Option<SpanContext> {
    read(&TraceContext {
        parent: meta.traceparent.clone()?,
        state: meta.tracestate.clone(),
    })
}

fn read(context: &TraceContext) -> Option<SpanContext> {
    // What comes from a job's record may have been edited.
    trace_id(&context.parent)?;
    let mut parts = context.parent.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    // Flags of later versions mean nothing to this one.
    let flags = TraceFlags::new(flags) & TraceFlags::SAMPLED;
    let state = context.state.as_deref().map(TraceState::from_str);
    // A list that its own vendor would not know is dropped, as the recommendation asks.
    let state = state.and_then(Result::ok).unwrap_or_default();
    let read = SpanContext::new(trace, span, flags, true, state);
    read.is_valid().then_some(read)
}

fn write(span: &Span) -> Option<TraceContext> {
    let context = span.context();
    let span = context.span();
    let written = span.span_context();
    let state = Some(written.trace_state().header());
    written.is_valid().then(|| TraceContext {
        parent: format!(
            "00-{}-{}-{:02x}",
            written.trace_id(),
            written.span_id(),
            written.trace_flags() & TraceFlags::SAMPLED
        ),
        state: state.filter(|state| (1..=TRACESTATE_BYTES_MAX).contains(&state.len())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_read_and_written_the_same_and_a_broken_one_is_none() {
        let read_of = |parent: &str, state: Option<&str>| {
            read(&TraceContext {
                parent: parent.to_owned(),
                state: state.map(str::to_owned),
            })
        };
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let read = read_of(parent, Some("vendor=1,other=2")).unwrap();
        assert!(read.is_remote() && read.is_sampled());
        assert_eq!(
            read.trace_id().to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert_eq!(read.trace_state().header(), "vendor=1,other=2");
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-fe-more";
        assert!(!read_of(later, None).unwrap().is_sampled());
        let unlisted = read_of(parent, Some("no list")).unwrap();
        assert_eq!(unlisted.trace_state().header(), "");
        for broken in ["", "00-1-2-3", "00-x-y-z"] {
            assert_eq!(read_of(broken, None), None, "{broken}");
        }
    }
}
