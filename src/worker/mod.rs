//! The worker: claims jobs, runs their handlers, settles them. Its life is here, how it is set up in `builder` and `settings`; the loops
//! have a file each.

pub(crate) mod attempt;
pub mod batch;
mod builder;
pub(crate) mod circuit;
pub(crate) mod claim;
pub(crate) mod drain;
pub(crate) mod feed;
pub mod handler;
pub(crate) mod health;
pub(crate) mod journal;
pub(crate) mod lease;
pub(crate) mod pool;
mod room;
pub(crate) mod settings;
pub(crate) mod settle;
pub(crate) mod settler;

use tokio::sync::oneshot;
use tokio_util::sync::DropGuard;

use crate::job::QueueName;
pub use batch::{BatchJob, BatchSettings};
pub use builder::WorkerBuilder;
pub use circuit::{Circuit, CircuitState, SharedLimit};
pub use health::WorkerHealth;

/// A running worker pool. Dropping it begins the same orderly stop as [`Worker::stop`], without waiting for its end.
#[derive(Debug)]
pub struct Worker {
    queue: QueueName,
    stop: DropGuard,
    health: WorkerHealth,
    done: oneshot::Receiver<Drained>,
}

impl Worker {
    /// The queue that it works on.
    pub fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// How the pool is doing, for health checks.
    pub fn health(&self) -> WorkerHealth {
        self.health.clone()
    }

    /// Stops claiming, hands back at once what has not started, lets running jobs finish until the shutdown timeout, and
    /// hands back the rest. No attempt is used. Returns within the shutdown timeout and 2 s, also when Redis is away.
    pub async fn stop(self) -> Drained {
        drop(self.stop);
        self.done.await.unwrap_or_default()
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
