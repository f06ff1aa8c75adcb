//! The spans that wait for the exporter: so many and no more, and what finds no room is counted. The SDK's own queue, which is
//! behind this one and never full, tells nobody how many it drops.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};

use super::loss::Losses;

/// How many spans wait. Shared with the exporter, which takes them away.
#[derive(Clone, Default)]
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// One more, if there are fewer than `most`.
    fn add(&self, most: usize) -> bool {
        let more = |spans: usize| (spans < most).then_some(spans + 1);
        let added = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        added.is_ok()
    }

    /// The exporter has taken these. Told after it took them out of its queue, so that one never holds more than wait.
    pub(super) fn taken(&self, spans: usize) {
        self.0.fetch_sub(spans, Ordering::Relaxed);
    }
}

/// A batch processor behind a queue of `most` spans.
pub(super) struct Bounded<P> {
    pub(super) processor: P,
    pub(super) waiting: Waiting,
    pub(super) most: usize,
    pub(super) losses: Arc<Losses>,
}

impl<P> fmt::Debug for Bounded<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounded").finish_non_exhaustive()
    }
}

impl<P: SpanProcessor> SpanProcessor for Bounded<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.processor.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.add(self.most) {
            self.processor.on_end(span);
        } else {
            self.losses.full();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let waiting = Waiting::default();
        assert!(waiting.add(2) && waiting.add(2));
        assert!(!waiting.add(2));
        waiting.taken(2);
        assert!(waiting.add(2));
    }
}
