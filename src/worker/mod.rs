//! The worker.

pub mod handler;

use std::future::Future;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::error::Result;
use handler::{Context, Handler, JobError};

/// How a running worker pool is doing; cheap to clone, for health checks.
#[derive(Clone, Debug)]
pub struct WorkerHealth {}

impl WorkerHealth {
    /// The queue that the pool works on.
    pub fn queue(&self) -> &str {
        unreachable!()
    }

    /// What is wrong, or `None` while the pool makes progress.
    pub fn problem(&self) -> Option<String> {
        None
    }
}

/// A worker's settings; see [`crate::Millstream::worker`].
pub struct WorkerBuilder {}

/// A running worker pool. Dropping it stops claiming and releases its jobs in the background; prefer [`Worker::stop`].
#[derive(Debug)]
pub struct Worker {}

impl WorkerBuilder {
    /// Jobs at once. Default 10.
    #[must_use]
    pub fn concurrency(self, _jobs: usize) -> Self {
        self
    }

    /// Jobs fetched ahead of free slots. Default: as many as the concurrency, at most 100.
    #[must_use]
    pub fn prefetch(self, _jobs: usize) -> Self {
        self
    }

    /// Attempts of a failing job that does not say itself. Default 10.
    #[must_use]
    pub fn max_attempts(self, _attempts: u32) -> Self {
        self
    }

    /// The wait after a failed attempt. Default `exponential(1s, 5m)`.
    #[must_use]
    pub fn backoff(self, _backoff: Backoff) -> Self {
        self
    }

    /// One attempt's time limit. Default 30 s.
    #[must_use]
    pub fn timeout(self, _timeout: Duration) -> Self {
        self
    }

    /// How long this worker may be silent before its jobs are taken away. Default 30 s.
    #[must_use]
    pub fn lease(self, _lease: Duration) -> Self {
        self
    }

    /// How often silent workers are looked for. Default 5 s, at most a third of the lease.
    #[must_use]
    pub fn sweep(self, _sweep: Duration) -> Self {
        self
    }

    /// How long running jobs may go on once the worker is told to stop. Default 15 s.
    #[must_use]
    pub fn shutdown_timeout(self, _timeout: Duration) -> Self {
        self
    }

    /// Keeps completed jobs in the history for this long. Default: not at all.
    #[must_use]
    pub fn retain_completed(self, _age: Duration) -> Self {
        self
    }

    /// Keeps dead jobs for this long. Default 30 days.
    #[must_use]
    pub fn retain_dead(self, _age: Duration) -> Self {
        self
    }

    /// Runs `handler` for jobs called `name`, with the payload decoded.
    #[must_use]
    pub fn handle<T, F, Fut>(self, _name: impl Into<String>, _handler: F) -> Self
    where
        T: serde::de::DeserializeOwned + Send + 'static,
        F: Fn(T, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        self
    }

    /// Runs `handler` for jobs called `name`; it reads the payload itself.
    #[must_use]
    pub fn handle_raw(self, _name: impl Into<String>, _handler: impl Handler) -> Self {
        self
    }

    /// Runs `handler` for every job that no other handler is named for.
    #[must_use]
    pub fn fallback(self, _handler: impl Handler) -> Self {
        self
    }

    /// Checks the settings, connects, and starts claiming.
    ///
    /// # Errors
    /// [`crate::Error::Setting`], [`crate::Error::Unreachable`].
    pub async fn start(self) -> Result<Worker> {
        unreachable!()
    }
}

impl Worker {
    /// How the pool is doing, for health checks.
    pub fn health(&self) -> WorkerHealth {
        unreachable!()
    }

    /// Stops claiming, hands back what has not started, lets running jobs finish until the shutdown timeout, releases the rest.
    pub async fn stop(self) -> Drained {
        unreachable!()
    }
}

/// What a stopping worker did with the jobs that it held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Jobs that finished after the stop was asked for.
    pub finished: usize,
    /// Jobs handed back, to run elsewhere without having used an attempt.
    pub released: usize,
}
