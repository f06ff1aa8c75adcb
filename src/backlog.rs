//! How much callers have handed over that Redis has not answered: bounded while Redis is silent, so that an outage does
//! not fill the memory of the programs that enqueue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::config;
use crate::error::{Error, Result};
use crate::job::NewJob;

/// Redis has been silent when it has answered nothing for this long. A busy one answers within milliseconds.
const SILENCE: Duration = Duration::from_secs(1);

/// The jobs of one queue that are on their way.
#[derive(Debug)]
pub(crate) struct Backlog {
    jobs: AtomicUsize,
    bytes: AtomicUsize,
    began: Instant,
    /// When Redis last answered, or when the first of the jobs came: ms from `began`.
    answered_ms: AtomicU64,
}

/// Jobs that count until this is dropped.
#[derive(Debug)]
pub(crate) struct Underway {
    backlog: Arc<Backlog>,
    jobs: usize,
    bytes: usize,
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.backlog.jobs.fetch_sub(self.jobs, Ordering::Relaxed);
        self.backlog.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Backlog {
    pub(crate) fn new() -> Self {
        Self {
            jobs: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            began: Instant::now(),
            answered_ms: AtomicU64::new(0),
        }
    }

    /// Redis gave an answer, good or bad.
    pub(crate) fn answered(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.answered_ms.store(now, Ordering::Relaxed);
    }

    /// Takes `jobs` in, or refuses them because too many wait for a Redis that is silent.
    pub(crate) fn admit(self: &Arc<Self>, jobs: &[NewJob]) -> Result<Underway> {
        let bytes = jobs.iter().map(|job| job.payload.len()).sum();
        let underway = Underway {
            backlog: Arc::clone(self),
            jobs: jobs.len(),
            bytes,
        };
        let waiting = self.jobs.fetch_add(underway.jobs, Ordering::Relaxed);
        let waiting_bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting == 0 {
            self.answered();
        }
        let is_long =
            waiting >= config::BACKLOG_JOBS_MAX || waiting_bytes >= config::BACKLOG_BYTES_MAX;
        if is_long && self.is_silent() {
            return Err(Error::Backpressure {
                waiting,
                bytes: waiting_bytes,
            });
        }
        Ok(underway)
    }

    fn is_silent(&self) -> bool {
        let answered = Duration::from_millis(self.answered_ms.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(answered) > SILENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(count: usize, bytes: usize) -> Vec<NewJob> {
        vec![NewJob::raw("a", vec![0; bytes]); count]
    }

    /// A backlog whose Redis was last heard `ago`.
    fn heard(ago: Duration) -> Arc<Backlog> {
        let mut backlog = Backlog::new();
        backlog.began = backlog.began.checked_sub(ago).expect("an uptime");
        backlog.into()
    }

    #[test]
    fn a_long_backlog_is_refused_only_while_redis_is_silent() {
        for many in [
            jobs(config::BACKLOG_JOBS_MAX, 1),
            jobs(1, config::BACKLOG_BYTES_MAX),
        ] {
            let backlog = heard(Duration::from_secs(60));
            // The first of them starts the clock: an idle queue is not a silent Redis.
            let held = backlog.admit(&many).unwrap();
            assert!(backlog.admit(&jobs(1, 1)).is_ok());

            backlog.answered_ms.store(0, Ordering::Relaxed);
            let refused = backlog.admit(&jobs(1, 1));
            assert!(
                matches!(refused, Err(Error::Backpressure { waiting, .. }) if waiting == many.len())
            );
            backlog.answered();
            assert!(backlog.admit(&jobs(1, 1)).is_ok());

            drop(held);
            backlog.answered_ms.store(0, Ordering::Relaxed);
            assert!(backlog.admit(&jobs(1, 1)).is_ok());
            assert_eq!(backlog.jobs.load(Ordering::Relaxed), 0);
            assert_eq!(backlog.bytes.load(Ordering::Relaxed), 0);
        }
    }
}
