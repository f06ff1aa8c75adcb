//! The front door: one connection to Redis, from which queues, workers and inspectors are made.

use std::time::Duration;

use crate::error::Result;
use crate::inspect::Inspector;
use crate::queue::Queue;
use crate::worker::WorkerBuilder;

/// A connection to Redis. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Millstream {}

/// How to connect; see [`Millstream::builder`].
#[derive(Clone, Debug)]
pub struct Builder {}

impl Builder {
    /// The first part of every key. Default `millstream`.
    #[must_use]
    pub fn namespace(self, _namespace: impl Into<String>) -> Self {
        self
    }

    /// Accept a server whose `maxmemory-policy` may drop jobs. Default: refuse it.
    #[must_use]
    pub fn allow_eviction(self, _allow: bool) -> Self {
        self
    }

    /// Largest payload, bytes. Default 1 MiB.
    #[must_use]
    pub fn payload_bytes_max(self, _bytes: usize) -> Self {
        self
    }

    /// Longest wait for an enqueue, all tries together. Default 4 s.
    #[must_use]
    pub fn enqueue_timeout(self, _timeout: Duration) -> Self {
        self
    }

    /// Connects and checks that the server is fit for jobs.
    ///
    /// # Errors
    /// [`crate::Error::Setting`], [`crate::Error::Unreachable`], [`crate::Error::Unfit`].
    pub async fn connect(self) -> Result<Millstream> {
        unreachable!()
    }
}

impl Millstream {
    /// Connects to `url` (`redis://`, `rediss://`, `unix:`, …) with the defaults.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub async fn connect(url: &str) -> Result<Self> {
        Self::builder(url).connect().await
    }

    /// Settings for a connection to `url`.
    pub fn builder(_url: &str) -> Builder {
        Builder {}
    }

    /// The queue `name`, to put jobs into.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] when the name is not allowed.
    pub fn queue(&self, _name: &str) -> Result<Queue> {
        unreachable!()
    }

    /// A worker for the queue `name`.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] when the name is not allowed.
    pub fn worker(&self, _name: &str) -> Result<WorkerBuilder> {
        unreachable!()
    }

    /// The queue `name`, to look at and to manage.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] when the name is not allowed.
    pub fn inspect(&self, _name: &str) -> Result<Inspector> {
        unreachable!()
    }

    /// Asks Redis whether it answers and takes writes, waiting at most `timeout`.
    ///
    /// # Errors
    /// [`crate::Error::Ambiguous`] when it does not answer, [`crate::Error::Refused`] when it takes no writes.
    pub async fn check_writable(&self, _timeout: Duration) -> Result<()> {
        unreachable!()
    }
}
