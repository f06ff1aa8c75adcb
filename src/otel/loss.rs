//! Spans that never reach the collector: counted as they are lost, and mentioned in the log now and then.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::handles::Tracing;

/// How often spans lost for one cause are mentioned: a collector is down for longer than one batch.
const MENTIONED_EVERY: Duration = Duration::from_secs(60);

/// Everything that was lost, by cause.
#[derive(Default)]
pub(super) struct Losses {
    full: Loss,
    undelivered: Loss,
    counters: OnceLock<Tracing>,
}

#[derive(Default)]
struct Loss {
    /// Spans lost since they were last mentioned.
    untold: AtomicUsize,
    mentioned: Mutex<Option<Instant>>,
}

impl Loss {
    /// What to mention, if there is something and it is time.
    fn due(&self, now: Instant) -> Option<usize> {
        let is_due = |at: Instant| now.saturating_duration_since(at) >= MENTIONED_EVERY;
        let mut mentioned = self
            .mentioned
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !mentioned.is_none_or(is_due) || self.untold.load(Ordering::Relaxed) == 0 {
            return None;
        }
        *mentioned = Some(now);
        Some(self.untold.swap(0, Ordering::Relaxed))
    }
}

impl Losses {
    /// Counts from now on with the recorder that is installed.
    pub(super) fn count(&self) {
        self.counters.get_or_init(Tracing::new);
    }

    /// A span found no room among those that wait. No word in the log from here: it is said while a span ends.
    pub(super) fn full(&self) {
        self.full.untold.fetch_add(1, Ordering::Relaxed);
        if let Some(counters) = self.counters.get() {
            counters.lost("full", 1);
        }
    }

    /// The collector did not take these.
    pub(super) fn undelivered(&self, spans: usize) {
        self.undelivered.untold.fetch_add(spans, Ordering::Relaxed);
        if let Some(counters) = self.counters.get() {
            counters.lost("undelivered", spans);
        }
    }

    /// Says what was lost, if it is time. `reason`: why the collector took nothing.
    pub(super) fn mention(&self, reason: impl FnOnce() -> String) {
        let now = Instant::now();
        if let Some(spans) = self.undelivered.due(now) {
            let reason = reason();
            tracing::warn!(
                spans,
                reason,
                "spans are lost: the collector does not take them"
            );
        }
        if let Some(spans) = self.full.due(now) {
            tracing::warn!(
                spans,
                "spans are lost: more wait for the collector than OTEL_BSP_MAX_QUEUE_SIZE allows"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_mentioned_once_a_minute_and_none_is_forgotten() {
        let (losses, began) = (Losses::default(), Instant::now());
        let loss = &losses.undelivered;
        assert_eq!(loss.due(began), None);
        losses.undelivered(5);
        assert_eq!(loss.due(began), Some(5));
        losses.undelivered(2);
        assert_eq!(loss.due(began), None);
        losses.undelivered(3);
        assert_eq!(loss.due(began + Duration::from_secs(59)), None);
        losses.undelivered(1);
        assert_eq!(loss.due(began + MENTIONED_EVERY), Some(6));
        assert_eq!(loss.due(began + 2 * MENTIONED_EVERY), None);
    }

    #[test]
    fn each_cause_is_mentioned_for_itself() {
        let (losses, began) = (Losses::default(), Instant::now());
        losses.undelivered(5);
        assert_eq!(losses.undelivered.due(began), Some(5));
        losses.full();
        assert_eq!(losses.full.due(began), Some(1));
    }
}
