//! The worker: claims jobs, runs their handlers, settles them. Settings and life cycle are here; the loops have a file each.

pub(crate) mod attempt;
pub mod batch;
pub(crate) mod circuit;
pub(crate) mod claim;
pub(crate) mod drain;
pub(crate) mod feed;
pub mod handler;
pub(crate) mod health;
pub(crate) mod journal;
pub(crate) mod lease;
pub(crate) mod pool;
pub(crate) mod settle;
pub(crate) mod settler;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::broker::{Broker, GroupOrder};
use crate::config;
use crate::error::{Error, Result};
use crate::job::QueueName;
use crate::rate::Rate;
use attempt::Handlers;
use batch::Batches;
pub use batch::{BatchJob, BatchSettings};
pub use circuit::{Circuit, CircuitState, SharedLimit};
use handler::{Context, Handler, JobError};
pub use health::WorkerHealth;

/// What a worker was told, checked by [`WorkerBuilder::check`].
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) concurrency: usize,
    pub(crate) prefetch: usize,
    /// `None` leaves what another worker or an operator has set, 0 means without limit.
    pub(crate) group_concurrency: Option<usize>,
    /// `None` leaves what another worker has set.
    pub(crate) group_order: Option<GroupOrder>,
    /// As `group_concurrency`: 0 means without limit.
    pub(crate) queue_concurrency: Option<usize>,
    /// As `group_rate`.
    pub(crate) queue_rate: Option<Option<Rate>>,
    /// As `group_burst`.
    pub(crate) queue_burst: Option<u32>,
    /// As `group_concurrency`: 0 means without limit.
    pub(crate) group_max_backlog: Option<u64>,
    /// As `group_concurrency`: `Some(None)` means without limit.
    pub(crate) group_rate: Option<Option<Rate>>,
    /// As `group_concurrency`: 0 means what comes in a second.
    pub(crate) group_burst: Option<u32>,
    pub(crate) max_attempts: u32,
    pub(crate) backoff: Backoff,
    pub(crate) timeout: Duration,
    pub(crate) lease: Duration,
    pub(crate) strict_lease: bool,
    pub(crate) sweep: Duration,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) retain_completed: Duration,
    pub(crate) retain_dead: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) circuit: Option<Circuit>,
    pub(crate) shared_limit: Option<SharedLimit>,
}

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

impl Settings {
    /// What of it limits the queue, as it is kept in Redis.
    pub(crate) fn limits(&self) -> Vec<(&'static str, String)> {
        let unless_0 = |jobs: u64| match jobs {
            0 => String::new(),
            jobs => jobs.to_string(),
        };
        let order = self.group_order.map(|order| match order {
            GroupOrder::Free => String::new(),
            GroupOrder::Block => order.name().to_owned(),
        });
        let text = |rate: Option<Rate>| rate.map_or_else(String::new, |rate| rate.to_string());
        let rate = self.group_rate.map(text);
        let limits = [
            (
                "group_concurrency",
                self.group_concurrency.map(|jobs| unless_0(jobs as u64)),
            ),
            (
                "concurrency",
                self.queue_concurrency.map(|jobs| unless_0(jobs as u64)),
            ),
            ("rate", self.queue_rate.map(text)),
            ("burst", self.queue_burst.map(|jobs| unless_0(jobs.into()))),
            ("group_order", order),
            ("group_max_backlog", self.group_max_backlog.map(unless_0)),
            ("group_rate", rate),
            (
                "group_burst",
                self.group_burst.map(|jobs| unless_0(jobs.into())),
            ),
        ];
        let given = limits.into_iter();
        given
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}

impl WorkerBuilder {
    pub(crate) fn new(broker: Broker, connect_timeout: Duration) -> Self {
        let settings = Settings {
            concurrency: config::CONCURRENCY_DEFAULT,
            prefetch: 0,
            group_concurrency: None,
            group_order: None,
            queue_concurrency: None,
            queue_rate: None,
            queue_burst: None,
            group_max_backlog: None,
            group_rate: None,
            group_burst: None,
            max_attempts: config::MAX_ATTEMPTS_DEFAULT,
            backoff: Backoff::default(),
            timeout: config::TIMEOUT_DEFAULT,
            lease: config::LEASE_DEFAULT,
            strict_lease: false,
            sweep: config::SWEEP_DEFAULT,
            shutdown_timeout: config::SHUTDOWN_TIMEOUT_DEFAULT,
            retain_completed: Duration::ZERO,
            retain_dead: config::RETAIN_DEAD_DEFAULT,
            connect_timeout,
            circuit: None,
            shared_limit: None,
        };
        Self {
            broker,
            settings,
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
        let count =
            |name: &str, value: usize, min: usize, max: usize| match (min..=max).contains(&value) {
                true => Ok(()),
                false => Err(Error::setting(name, value, format!("{min} to {max}"))),
            };
        count(
            "concurrency",
            settings.concurrency,
            1,
            config::CONCURRENCY_MAX,
        )?;
        count("prefetch", settings.prefetch, 0, config::CONCURRENCY_MAX)?;
        count(
            "group_concurrency",
            settings.group_concurrency.unwrap_or_default(),
            0,
            config::GROUP_CONCURRENCY_MAX,
        )?;
        count(
            "queue_concurrency",
            settings.queue_concurrency.unwrap_or_default(),
            0,
            config::CONCURRENCY_MAX,
        )?;
        if let Some(Some(rate)) = settings.queue_rate {
            rate.check("queue_rate")?;
        }
        count(
            "queue_burst",
            settings.queue_burst.unwrap_or_default() as usize,
            0,
            config::BURST_MAX as usize,
        )?;
        if settings.group_max_backlog.unwrap_or_default() > config::DEPTH_MAX {
            let jobs = settings.group_max_backlog.unwrap_or_default();
            let range = format!("0 to {}", config::DEPTH_MAX);
            return Err(Error::setting("group_max_backlog", jobs, range));
        }
        if let Some(Some(rate)) = settings.group_rate {
            rate.check("group_rate")?;
        }
        count(
            "group_burst",
            settings.group_burst.unwrap_or_default() as usize,
            0,
            config::BURST_MAX as usize,
        )?;
        count(
            "max_attempts",
            settings.max_attempts as usize,
            1,
            config::MAX_ATTEMPTS_MAX as usize,
        )?;
        if let Some(circuit) = &settings.circuit {
            circuit.check()?;
        }
        if let Some(limit) = &settings.shared_limit {
            limit.check()?;
        }
        let ms = Duration::from_millis;
        for (name, value, min, max) in [
            ("timeout", settings.timeout, ms(1), config::TIMEOUT_MAX),
            (
                "lease",
                settings.lease,
                config::LEASE_MIN,
                config::LEASE_MAX,
            ),
            ("sweep", settings.sweep, ms(100), settings.lease / 3),
            (
                "shutdown_timeout",
                settings.shutdown_timeout,
                Duration::ZERO,
                config::TIMEOUT_MAX,
            ),
            (
                "retain_completed",
                settings.retain_completed,
                Duration::ZERO,
                config::HORIZON_MAX,
            ),
            (
                "retain_dead",
                settings.retain_dead,
                ms(1),
                config::HORIZON_MAX,
            ),
        ] {
            if !(min..=max).contains(&value) {
                let show = humantime::format_duration;
                return Err(Error::setting(
                    name,
                    show(value),
                    format!("{} to {}", show(min), show(max)),
                ));
            }
        }
        Ok(())
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

/// A running worker pool. Dropping it begins the same orderly stop as [`Worker::stop`], without waiting for its end.
#[derive(Debug)]
pub struct Worker {
    queue: QueueName,
    stop: tokio_util::sync::DropGuard,
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
