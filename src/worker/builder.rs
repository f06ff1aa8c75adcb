//! A worker in the making: its settings and handlers, one method each.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::attempt::Handlers;
use super::batch::{BatchJob, BatchSettings, Batches};
use super::circuit::{Circuit, SharedLimit};
use super::handler::{Context, Handler, JobError};
use super::settings::Settings;
use super::{Worker, pool};
use crate::backoff::Backoff;
use crate::broker::{Broker, GroupOrder};
use crate::config;
use crate::error::{Error, Result};
use crate::rate::Rate;

/// A worker's settings and handlers; see [`crate::Millstream::worker`].
pub struct WorkerBuilder {
    broker: Broker,
    settings: Settings,
    /// Unless given: as many as the concurrency, at most 100.
    prefetch: Option<usize>,
    /// Unless given: 5 s, or a sixth of a shorter lease.
    sweep: Option<Duration>,
    handlers: Handlers,
    /// Of its batch handlers, to be checked.
    batches: Vec<BatchSettings>,
}

impl std::fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("queue", &self.broker.queue)
            .field("settings", &self.settings)
            .finish()
    }
}

impl WorkerBuilder {
    pub(crate) fn new(broker: Broker, connect_timeout: Duration) -> Self {
        Self {
            broker,
            settings: Settings::new(connect_timeout),
            prefetch: None,
            sweep: None,
            handlers: Handlers::default(),
            batches: Vec::new(),
        }
    }

    /// Jobs at once, 1 to 100,000. Default 10.
    #[must_use]
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.settings.concurrency = jobs;
        self
    }

    /// Jobs fetched ahead of free slots. Default: as many as the concurrency, at most 100.
    #[must_use]
    pub fn prefetch(mut self, jobs: usize) -> Self {
        self.prefetch = Some(jobs);
        self
    }

    /// Jobs of one group (see [`crate::NewJob::group`]) that may be ready or running at once, over all workers of the queue: 1 to
    /// 100,000, or 0 for no limit. The others wait until one of them is finished, so that no group starves the others; with 1 they
    /// run one after the other, in the order in which they came. It is kept in Redis and counts for the whole queue from the start
    /// of this worker on; a worker without the setting leaves it as it is. Default: no limit. An operator may give a group its own.
    #[must_use]
    pub fn group_concurrency(mut self, jobs: usize) -> Self {
        self.settings.group_concurrency = Some(jobs);
        self
    }

    /// Whether a job that waits for a retry lets the next one of its group pass. Kept in Redis like
    /// [`WorkerBuilder::group_concurrency`]. Default: [`GroupOrder::Free`], it does.
    #[must_use]
    pub fn group_order(mut self, order: GroupOrder) -> Self {
        self.settings.group_order = Some(order);
        self
    }

    /// Jobs of this queue that run at once, over all workers of all processes: 1 to 100,000, or 0 for no limit. It is kept in Redis and
    /// counts for the whole queue from the start of this worker on; a worker without the setting leaves it as it is. What a
    /// worker that dies was running counts until its lease is over. Nothing is fetched ahead. Default: no limit.
    #[must_use]
    pub fn queue_concurrency(mut self, jobs: usize) -> Self {
        self.settings.queue_concurrency = Some(jobs);
        self
    }

    /// How many jobs of this queue start in a time, over all workers of all processes; `None` for no limit. Each attempt counts, a job that
    /// was handed back or reclaimed does not. Kept in Redis like [`WorkerBuilder::queue_concurrency`]. Default: no limit.
    #[must_use]
    pub fn queue_rate(mut self, rate: Option<Rate>) -> Self {
        self.settings.queue_rate = Some(rate);
        self
    }

    /// What goes with [`WorkerBuilder::queue_rate`]: how many jobs at once after a quiet time, 1 to 100,000, or 0 for the default: what
    /// comes in a second, at least 1.
    #[must_use]
    pub fn queue_burst(mut self, jobs: u32) -> Self {
        self.settings.queue_burst = Some(jobs);
        self
    }

    /// Jobs of one group that may be held, 1 to 10¹², or 0 for no limit: an enqueue that would hold more is refused whole
    /// ([`Error::GroupFull`]). Kept in Redis like [`WorkerBuilder::group_concurrency`]. Default: no limit.
    #[must_use]
    pub fn group_max_backlog(mut self, jobs: u64) -> Self {
        self.settings.group_max_backlog = Some(jobs);
        self
    }

    /// How many jobs of one group may start in a time, over all workers of the queue, or with [`crate::NewJob::cost`] how many points
    /// they may take; `None` for no limit. The others are held until there are tokens for them. Each attempt takes its own; a job that
    /// is handed back or reclaimed takes no more. Kept in Redis like [`WorkerBuilder::group_concurrency`]. Default: no limit.
    ///
    /// Tokens are taken as a job becomes ready, so while workers are behind, ready jobs gather and then start at once: a
    /// `group_concurrency` bounds how many.
    #[must_use]
    pub fn group_rate(mut self, rate: Option<Rate>) -> Self {
        self.settings.group_rate = Some(rate);
        self
    }

    /// What goes with [`WorkerBuilder::group_rate`]: how many jobs or points at once after a quiet time, 1 to 100,000, or 0 for the
    /// default: what comes in a second, at least 1.
    #[must_use]
    pub fn group_burst(mut self, jobs: u32) -> Self {
        self.settings.group_burst = Some(jobs);
        self
    }

    /// Attempts of a failing job that does not say itself, the first included. Default 10.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = attempts;
        self
    }

    /// The wait after a failed attempt. Default `exponential(1s, 5m)`.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// One attempt's time limit. Default 30 s. A handler that awaits is cut off; one that blocks its thread cannot be, but a
    /// lease later the job is no longer its own and runs elsewhere as a stalled one.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// How long this worker may be silent before its jobs are taken away, 1 s to 1 day. Default 30 s.
    /// It is renewed while a job runs, however long that takes. All workers of a queue should have the same.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// What becomes of a running job when Redis cannot be reached to renew its lease. `false`, the default: it runs on, and
    /// its settlement decides; another worker may have begun the job meanwhile. `true`: its handler is cancelled at five
    /// sixths of the lease, by this machine's own clock, so that two workers never run the job at once as long as handlers
    /// stop within the last sixth.
    #[must_use]
    pub fn strict_lease(mut self, strict: bool) -> Self {
        self.settings.strict_lease = strict;
        self
    }

    /// How often silent workers are looked for, 100 ms to a third of the lease. Default 5 s, or a sixth of a shorter lease.
    #[must_use]
    pub fn sweep(mut self, sweep: Duration) -> Self {
        self.sweep = Some(sweep);
        self
    }

    /// How long running jobs may go on once the worker is told to stop. Default 15 s.
    #[must_use]
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.settings.shutdown_timeout = timeout;
        self
    }

    /// Keeps completed jobs in the history for this long. Default: not at all.
    #[must_use]
    pub fn retain_completed(mut self, age: Duration) -> Self {
        self.settings.retain_completed = age;
        self
    }

    /// Keeps dead jobs for this long. Default 30 days.
    #[must_use]
    pub fn retain_dead(mut self, age: Duration) -> Self {
        self.settings.retain_dead = age;
        self
    }

    /// Claims nothing while what the jobs need is down, instead of using up their attempts. Handlers say so by
    /// [`JobError::unavailable`]; an attempt that times out counts as well. Jobs that were claimed already are handed back. After a
    /// pause one job goes through; when it ends in any other way, the worker goes on. Default: no circuit.
    #[must_use]
    pub fn circuit(mut self, circuit: Circuit) -> Self {
        self.settings.circuit = Some(circuit);
        self
    }

    /// Runs no more handlers at once than `limit` has to spare, which all workers share that are given a clone of it. A job
    /// that waits for its turn is not yet an attempt, and its time does not run. Default: the concurrency alone.
    #[must_use]
    pub fn shared_limit(mut self, limit: SharedLimit) -> Self {
        self.settings.shared_limit = Some(limit);
        self
    }

    /// Runs `handler` for jobs called `name`, with the payload decoded. A payload that does not decode is dead-lettered as it is.
    #[must_use]
    pub fn handle<T, F, Fut>(self, name: impl Into<String>, handler: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(T, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        self.handle_raw(name, move |job: Context| {
            let handler = Arc::clone(&handler);
            async move {
                let payload = job.decode::<T>()?;
                handler(payload, job).await
            }
        })
    }

    /// [`WorkerBuilder::handle`], and what the handler gives back is kept in MessagePack for those jobs whose producer asked for
    /// it by [`crate::NewJob::keep_result`]; [`crate::Queue::wait`] gets it. For other jobs it is not even encoded.
    #[must_use]
    pub fn handle_with_result<T, R, F, Fut>(self, name: impl Into<String>, handler: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        R: serde::Serialize + Send + 'static,
        F: Fn(T, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, JobError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        self.handle_raw(name, move |job: Context| {
            let handler = Arc::clone(&handler);
            async move {
                let payload = job.decode::<T>()?;
                let value = handler(payload, job.clone()).await?;
                Ok(job.set_result(&value)?)
            }
        })
    }

    /// Runs `handler` for jobs called `name`; it reads the payload itself.
    #[must_use]
    pub fn handle_raw(mut self, name: impl Into<String>, handler: impl Handler) -> Self {
        self.handlers.by_name.insert(name.into(), Arc::new(handler));
        self
    }

    /// Runs `handler` for jobs called `name`, several at a time: as many as are there, up to `max_jobs`, or what has come when the
    /// first has waited for `max_wait`. Each job is settled on its own ([`BatchJob::done`], [`BatchJob::fail`]); those that are
    /// not when the handler returns end as it does. Leases, time limits, cancellation and the worker's stop are as for single
    /// jobs, and each job takes a slot: give the worker a concurrency of at least `max_jobs`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use millstream::{BatchJob, BatchSettings, JobError, WorkerBuilder};
    /// # async fn index(_: &[u64]) -> Result<(), JobError> { Ok(()) }
    /// # fn with(worker: WorkerBuilder) -> WorkerBuilder {
    /// let settings = BatchSettings { max_jobs: 100, max_wait: Duration::from_millis(50) };
    /// worker.concurrency(200).handle_batch("index", settings, |jobs: Vec<BatchJob<u64>>| async move {
    ///     let (odd, even): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.payload % 2 == 1);
    ///     odd.into_iter().for_each(|job| job.fail(JobError::refuse("not an even one")));
    ///     let ids: Vec<u64> = even.iter().map(|job| job.payload).collect();
    ///     index(&ids).await // what is left ends as this does
    /// })
    /// # }
    /// ```
    #[must_use]
    pub fn handle_batch<T, F, Fut>(
        mut self,
        name: impl Into<String>,
        settings: BatchSettings,
        handler: F,
    ) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(Vec<BatchJob<T>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        self.batches.push(settings);
        self.handle_raw(name, Batches::new(settings, handler))
    }

    /// Runs `handler` for every job that no other handler is named for.
    #[must_use]
    pub fn fallback(mut self, handler: impl Handler) -> Self {
        self.handlers.fallback = Some(Arc::new(handler));
        self
    }

    /// Checks the settings without starting anything.
    ///
    /// # Errors
    /// [`Error::Setting`] names the setting, its value and its range.
    pub fn check(&self) -> Result<()> {
        let settings = self.effective();
        if self.handlers.is_empty() {
            return Err(Error::setting(
                "handlers",
                "none",
                "give the worker at least one handler",
            ));
        }
        self.batches.iter().try_for_each(BatchSettings::check)?;
        settings.check()
    }

    /// The settings with what was not given filled in.
    fn effective(&self) -> Settings {
        let mut settings = self.settings.clone();
        settings.prefetch = self
            .prefetch
            .unwrap_or(settings.concurrency.min(config::PREFETCH_DEFAULT_MAX));
        // More would only wait here.
        if let Some(limit) = &settings.shared_limit {
            settings.concurrency = settings.concurrency.min(limit.at_once());
        }
        settings.sweep = self
            .sweep
            .unwrap_or(config::SWEEP_DEFAULT.min(settings.lease / 6));
        settings
    }

    /// Checks the settings, connects, and starts claiming. Handlers run on the current runtime.
    ///
    /// # Errors
    /// [`Error::Setting`]: before anything is connected. [`Error::Unreachable`]: Redis is not there.
    pub async fn start(self) -> Result<Worker> {
        self.check()?;
        let settings = self.effective();
        let stop = CancellationToken::new();
        let queue = self.broker.queue.clone();
        let running = pool::start(self.broker, settings, self.handlers, stop.clone()).await?;
        Ok(Worker {
            queue,
            stop: stop.drop_guard(),
            health: running.health,
            done: running.done,
        })
    }
}
