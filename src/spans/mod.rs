//! What the engine tells a tracer of its work, by the conventions of OpenTelemetry for messaging and HTTP: a request that
//! comes in is a SERVER span, the jobs stored for it a PRODUCER span whose context travels with them, each attempt at one a
//! CONSUMER span below that and linked to it, a request that goes out a CLIENT span whose context goes along.
//!
//! With the feature `otel-spans` contexts are taken over from jobs and requests and given to them; the layer of
//! `tracing-opentelemetry` that the program installed does the rest. Without it, or without a layer, nothing here costs more
//! than a look, and a context that came in passes through as it is.
//!
//! Names, ids, numbers and outcomes stand in spans; no payload, header, URL or text of an error ever does.

#[cfg(feature = "otel-spans")]
mod linked;
#[cfg(not(feature = "otel-spans"))]
mod plain;

#[cfg(feature = "otel-spans")]
pub(crate) use linked::*;
#[cfg(not(feature = "otel-spans"))]
pub(crate) use plain::*;

/// The target of spans that only a tracer wants; a log leaves it out.
#[cfg(feature = "otel-spans")]
pub(crate) const TARGET: &str = "millstream::spans";

/// The target of the span of an attempt, which log lines stand in as well.
const ATTEMPT_TARGET: &str = "millstream::worker::attempt";

/// Whether a span is one of this module.
#[cfg(feature = "otel")]
pub(crate) fn is_for_tracers(metadata: &tracing::Metadata<'_>) -> bool {
    metadata.is_span() && [TARGET, ATTEMPT_TARGET].contains(&metadata.target())
}
