//! The producer's door: enqueue one job or many.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::broker::Broker;
use crate::coalesce::Coalescer;
use crate::config;
use crate::error::Result;
use crate::job::durability::Durability;
use crate::job::{Enqueued, JobId, NewJob, QueueName};
use crate::progress::{self, Progress};
use crate::redis::Patience;
use crate::results::{self, JobResult};
use crate::spans::Sending;

/// A queue to put jobs into. Made by [`crate::Millstream::queue`]; cheap to clone, and to be shared:
/// calls of many tasks through one `Queue` travel together.
#[derive(Clone, Debug)]
pub struct Queue {
    name: QueueName,
    coalescer: Arc<Coalescer>,
    payload_bytes_max: usize,
    broker: Broker,
    patience: Patience,
}

impl Queue {
    pub(crate) fn new(broker: Broker, payload_bytes_max: usize, timeout: Duration) -> Self {
        let name = broker.queue.clone();
        let patience = Patience::brief(timeout);
        let coalescer = Arc::new(Coalescer::new(broker.clone(), Durability::Memory, patience));
        Self {
            name,
            coalescer,
            payload_bytes_max,
            broker,
            patience,
        }
    }

    /// The same queue, whose enqueues return only when the jobs are as safe as `durability` says. Above
    /// [`Durability::Memory`] it has a connection of its own, made by the first enqueue.
    ///
    /// Redis is given a second. When it cannot confirm the level by then, the job is stored all the same, and
    /// [`Enqueued::durability`] tells the level that was reached.
    #[must_use]
    pub fn with_durability(&self, durability: Durability) -> Self {
        let coalescer = Arc::new(Coalescer::new(
            self.broker.clone(),
            durability,
            self.patience,
        ));
        Self {
            coalescer,
            ..self.clone()
        }
    }

    /// The queue's name.
    pub fn name(&self) -> &QueueName {
        &self.name
    }

    /// Stores one job. Once this returns `Ok`, Redis has it; a reply that was lost on the way does not make a second one.
    ///
    /// Costs one round trip. Calls that are made while others are under way are sent together.
    ///
    /// # Errors
    /// [`crate::Error::InvalidJob`], [`crate::Error::PayloadTooLarge`]: nothing was sent; mend the job.
    /// [`crate::Error::Refused`]: Redis cannot take it now (memory, disk, failover); nothing was stored.
    /// [`crate::Error::QueueFull`]: it has as many jobs as it may have; nothing was stored.
    /// [`crate::Error::Unreachable`]: there was no connection within the enqueue timeout; nothing was sent.
    /// [`crate::Error::Backpressure`]: Redis is silent and 10,000 jobs or 32 MiB of them wait already; nothing was sent.
    /// [`crate::Error::Unfit`]: the server cannot confirm the durability that was asked for; nothing was stored.
    /// [`crate::Error::Ambiguous`]: no answer within the enqueue timeout (4 s by default). The job may be stored, and may
    /// even have run; enqueue it again where that does no harm, or with [`NewJob::unique_for`] from the start.
    pub async fn enqueue(&self, mut job: NewJob) -> Result<Enqueued> {
        job.check(self.payload_bytes_max)?;
        let sending = Sending::start(&self.name, std::slice::from_mut(&mut job));
        let stored = self.coalescer.enqueue(job).await;
        match &stored {
            Ok(enqueued) => sending.stored(std::slice::from_ref(enqueued)),
            Err(error) => sending.failed(error.kind()),
        }
        stored
    }

    /// [`Queue::enqueue`] for somebody who bounds the wait himself. The job is on its way when this returns.
    #[cfg(feature = "gateway")]
    pub(crate) fn submit(
        &self,
        mut job: NewJob,
    ) -> impl Future<Output = Result<Enqueued>> + Send + '_ {
        let checked = job.check(self.payload_bytes_max);
        let submitted = checked.map(|()| {
            let sending = Sending::start(&self.name, std::slice::from_mut(&mut job));
            (sending, self.coalescer.submit(job))
        });
        async move {
            let (sending, stored) = submitted?;
            let stored = stored.await;
            match &stored {
                Ok(enqueued) => sending.stored(std::slice::from_ref(enqueued)),
                Err(error) => sending.failed(error.kind()),
            }
            stored
        }
    }

    /// Stores many jobs, in order, and answers in the same order. Each chunk of up to 1,000 jobs and 1 MiB of payloads is
    /// stored whole or not at all.
    ///
    /// # Errors
    /// As [`Queue::enqueue`]. All jobs are checked before the first is sent. When a chunk fails, the chunks before it are
    /// stored and the later ones were not sent.
    pub async fn enqueue_all(&self, mut jobs: Vec<NewJob>) -> Result<Vec<Enqueued>> {
        for job in &jobs {
            job.check(self.payload_bytes_max)?;
        }
        let sending = Sending::start(&self.name, &mut jobs);
        let mut enqueued = Vec::with_capacity(jobs.len());
        let mut rest = jobs.as_slice();
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at(chunk_len(rest));
            match self.coalescer.enqueue_chunk(chunk).await {
                Ok(stored) => enqueued.extend(stored),
                Err(error) => {
                    sending.failed(error.kind());
                    return Err(error);
                }
            }
            rest = later;
        }
        sending.stored(&enqueued);
        Ok(enqueued)
    }

    /// How far the job `id` is by its handlers' own words, and the newest lines that they logged; `None` when they have told nothing.
    /// It is there while the job is unfinished or dead, and as long as its result is kept.
    ///
    /// # Errors
    /// [`crate::Error::Ambiguous`], [`crate::Error::Refused`], [`crate::Error::Unreachable`] when Redis cannot be asked for 5 s.
    pub async fn progress(&self, id: &JobId) -> Result<Option<Progress>> {
        progress::read(&self.broker, id).await
    }

    /// Waits at most `timeout` until the job `id` ends, in whatever process, and returns what its handler gave back. The job must
    /// have been enqueued with [`NewJob::keep_result`]. It is told at once, and has a connection of its own while it waits.
    ///
    /// # Errors
    /// [`crate::Error::NotYet`]: it has not ended; it goes on. [`crate::Error::JobDied`]: it is in the dead letter, and may be
    /// redriven. [`crate::Error::NoResult`]: it was cancelled, its result has run out, or it never was.
    /// [`crate::Error::Decode`]: it is no `T`. [`crate::Error::Ambiguous`], [`crate::Error::Refused`],
    /// [`crate::Error::Unreachable`] when Redis cannot be asked for 5 s.
    pub async fn wait<T: DeserializeOwned>(&self, id: &JobId, timeout: Duration) -> Result<T> {
        self.wait_result(id, timeout).await?.decode()
    }

    /// [`Queue::wait`] for whatever the handler gave back, as it is.
    ///
    /// # Errors
    /// As [`Queue::wait`], and [`crate::Error::Unopenable`] when the queue is encrypted and its key is not here.
    pub async fn wait_result(&self, id: &JobId, timeout: Duration) -> Result<JobResult> {
        results::wait(&self.broker, id, timeout).await
    }
}

/// How many of the first `jobs` fit into one call; at least one.
pub(crate) fn chunk_len<'a>(jobs: impl IntoIterator<Item = &'a NewJob>) -> usize {
    let mut bytes = 0;
    jobs.into_iter()
        .take(config::BATCH_JOBS_MAX)
        .take_while(|job| {
            bytes += job.payload.len();
            bytes <= config::BATCH_BYTES_MAX
        })
        .count()
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_bounded_by_count_and_by_bytes() {
        let of = |count: usize, bytes: usize| vec![NewJob::raw("a", vec![0; bytes]); count];
        assert_eq!(chunk_len(&of(2_500, 10)), 1_000);
        assert_eq!(chunk_len(&of(10, 400 << 10)), 2);
        assert_eq!(chunk_len(&of(2, 3 << 20)), 1);
    }
}
