//! Whether a worker's loops make progress: what `/health/ready` tells.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::circuit::{CircuitState, Gate};
use crate::job::QueueName;

/// One loop's sign of life. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Pulse(Arc<Mutex<Beat>>);

#[derive(Debug)]
struct Beat {
    /// Said in front of a problem.
    what: &'static str,
    last: Instant,
    /// Silence after which something is wrong.
    limit: Duration,
    failure: Option<String>,
}

impl Pulse {
    pub(crate) fn new(what: &'static str, limit: Duration) -> Self {
        Self(Arc::new(Mutex::new(Beat {
            what,
            last: Instant::now(),
            limit,
            failure: None,
        })))
    }

    /// The loop did what it is for.
    pub(crate) fn beat(&self) {
        let mut beat = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        beat.last = Instant::now();
        beat.failure = None;
    }

    /// The loop tried and could not.
    pub(crate) fn failed(&self, reason: String) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .failure = Some(reason);
    }

    fn problem(&self) -> Option<String> {
        let beat = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (beat.last.elapsed() > beat.limit).then(|| match &beat.failure {
            Some(_) => format!("{} fails", beat.what),
            None => format!("{} makes no progress", beat.what),
        })
    }
}

/// How a worker pool is doing; cheap to clone, for health checks.
#[derive(Clone, Debug)]
pub struct WorkerHealth {
    queue: QueueName,
    pulses: Arc<[Pulse]>,
    stopped: Arc<AtomicBool>,
    gate: Gate,
}

impl WorkerHealth {
    pub(crate) fn new(queue: QueueName, pulses: impl Into<Arc<[Pulse]>>, gate: Gate) -> Self {
        Self {
            queue,
            pulses: pulses.into(),
            stopped: Arc::default(),
            gate,
        }
    }

    pub(crate) fn set_stopped(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// The queue that the pool works on.
    pub fn queue(&self) -> &str {
        self.queue.as_str()
    }

    /// What is wrong, or `None` while the pool makes progress. No addresses and no secrets.
    pub fn problem(&self) -> Option<String> {
        if self.stopped.load(Ordering::Acquire) {
            return Some("stopped".to_owned());
        }
        self.pulses.iter().find_map(Pulse::problem)
    }

    /// How the pool's circuit stands; `None` when it has none. An open one is no [problem][Self::problem] of the pool: its
    /// target is down, and its jobs wait in Redis.
    pub fn circuit(&self) -> Option<CircuitState> {
        self.gate.state()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_stopping_are_problems() {
        let (quick, slow) = (
            Pulse::new("reading", Duration::ZERO),
            Pulse::new("renewing", Duration::from_secs(60)),
        );
        let queue = QueueName::new("q").unwrap();
        let health = WorkerHealth::new(queue.clone(), [slow.clone()], Gate::default());
        assert_eq!(health.problem(), None);

        std::thread::yield_now();
        let silent = WorkerHealth::new(queue, [slow, quick.clone()], Gate::default());
        assert_eq!(
            silent.problem().as_deref(),
            Some("reading makes no progress")
        );
        quick.failed("secret".into());
        assert_eq!(silent.problem().as_deref(), Some("reading fails"));

        health.set_stopped();
        assert_eq!(health.problem().as_deref(), Some("stopped"));
    }
}
