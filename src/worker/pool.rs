//! A worker's own thread: everything that talks to Redis runs here, so that a handler which blocks the program's runtime
//! stops neither the renewal of leases nor the upkeep. Handlers run on the runtime that started the worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Drained;
use super::attempt::{Finished, Handlers, Runner};
use super::circuit::{self, Gate};
use super::claim::{BLOCK, Claimer};
use super::drain::{Draining, drain};
use super::feed::Feed;
use super::health::{Pulse, WorkerHealth};
use super::journal::{self, Journal};
use super::lease::{Leases, fence, heartbeat};
use super::room::{Flow, Load};
use super::settings::Settings;
use super::settler::Settler;
use crate::broker::{Broker, Look, Upkeeper};
use crate::callers::Callers;
use crate::config;
use crate::error::{Error, Result};
use crate::metrics::handles::Working;
use crate::redis::Listener;
use crate::redis::reader::Reader;
use crate::redis::{Patience, Redis, jittered};
use crate::upkeep;

/// How long one worker keeps the upkeep without renewing it: as long as due jobs may wait when it dies. Not shorter, or
/// a busy machine would make it change hands without need.
const LOCK_MIN: Duration = Duration::from_millis(200);
const LOCK_MAX: Duration = Duration::from_secs(5);
/// How long Redis may take to hear that a circuit is over, once everything else is done.
const LAST_WORD: Duration = Duration::from_millis(250);

/// A running pool as its owner sees it.
pub(crate) struct Running {
    pub(crate) health: WorkerHealth,
    pub(crate) done: oneshot::Receiver<Drained>,
}

/// Starts the thread and waits until it claims.
pub(crate) async fn start(
    broker: Broker,
    settings: Settings,
    handlers: Handlers,
    stop: CancellationToken,
) -> Result<Running> {
    let program = Handle::current();
    let (ready, started) = oneshot::channel();
    let (finished, done) = oneshot::channel();
    std::thread::Builder::new()
        .name("millstream-worker".into())
        .spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
            {
                Ok(runtime) => runtime,
                Err(source) => {
                    let _ = ready.send(Err(Error::Io {
                        what: "starting the worker's runtime".into(),
                        source,
                    }));
                    return;
                }
            };
            runtime.block_on(async {
                match Pool::connect(broker, settings, handlers, program, stop).await {
                    Ok(pool) => {
                        let _ = ready.send(Ok(pool.health.clone()));
                        let _ = finished.send(pool.run().await);
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            });
            // Client tasks that still try to reach a lost Redis are not waited for.
            runtime.shutdown_background();
        })
        .map_err(|source| Error::Io {
            what: "starting the worker's thread".into(),
            source,
        })?;
    let health = started.await.map_err(|_| Error::Stopped {
        what: "the worker's thread",
    })??;
    Ok(Running { health, done })
}

struct Pool {
    broker: Broker,
    settings: Settings,
    runner: Arc<Runner>,
    program: Handle,
    reader: Reader,
    consumer: String,
    /// Subscribed before the worker counts as started, so that no hint is missed from then on.
    listener: Result<Listener>,
    /// What there was to see when the worker started.
    look: Look,
    /// What running jobs tell.
    journals: mpsc::UnboundedReceiver<Arc<Journal>>,
    stop: CancellationToken,
    health: WorkerHealth,
    reading: Pulse,
    renewing: Pulse,
    promoting: Pulse,
    sweeping: Pulse,
}

impl Pool {
    async fn connect(
        broker: Broker,
        settings: Settings,
        handlers: Handlers,
        program: Handle,
        stop: CancellationToken,
    ) -> Result<Self> {
        let address = broker.redis.address().clone();
        let redis = Redis::connect(&address, settings.connect_timeout).await?;
        let reader = Reader::connect(&redis, settings.connect_timeout).await?;
        let broker = broker.over(redis);
        broker
            .create_groups(Patience::brief(settings.connect_timeout))
            .await?;
        let limits = settings.limits();
        let patience = Patience::brief(settings.connect_timeout);
        if !limits.is_empty() && broker.limit(None, &limits, patience).await? > 0 {
            tracing::info!(queue = %broker.queue, ?limits, "the queue has new limits");
            upkeep::groups::admit(&broker, None).await?;
        }
        let listener = upkeep::hints::subscribe(&broker).await;
        // Before the first read, which asks no script and so would not be held back by one.
        let look = broker
            .look(Patience::brief(settings.connect_timeout))
            .await?;
        // New at every start, so that a restarted worker never passes for the one that died.
        let consumer = format!("{}-{}", std::process::id(), uuid::Uuid::now_v7().simple());
        let (scribe, journals) = journal::scribe();
        let runner = Runner {
            scribe,
            handlers,
            broker: broker.clone(),
            callers: Callers::new(&consumer, config::SETTLEMENTS_IN_FLIGHT),
            gate: Gate::new(
                &broker.queue,
                settings.circuit.clone(),
                settings.shared_limit.clone(),
            ),
            counted: Working::new(&broker.queue),
            timeout: settings.timeout,
            max_attempts: settings.max_attempts,
            give_up: CancellationToken::new(),
        };
        let reading = Pulse::new("reading", BLOCK + Duration::from_secs(3));
        let renewing = Pulse::new("renewing leases", settings.lease);
        let promoting = Pulse::new("promoting", settings.sweep + Duration::from_secs(5));
        let sweeping = Pulse::new("sweeping", settings.sweep * 2 + Duration::from_secs(5));
        let pulses = [&reading, &renewing, &promoting, &sweeping].map(Pulse::clone);
        let health = WorkerHealth::new(broker.queue.clone(), pulses, runner.gate.clone());
        let runner = Arc::new(runner);
        Ok(Self {
            broker,
            settings,
            runner,
            program,
            reader,
            consumer,
            listener,
            look,
            journals,
            stop,
            health,
            reading,
            renewing,
            promoting,
            sweeping,
        })
    }

    /// Claims, runs and settles jobs until it is told to stop, then drains.
    async fn run(self) -> Drained {
        let Self {
            broker,
            settings,
            runner,
            program,
            reader,
            consumer,
            listener,
            look,
            journals,
            stop,
            health,
            ..
        } = self;
        tracing::info!(queue = %broker.queue, consumer, concurrency = settings.concurrency, "worker started");
        runner.counted.opened(settings.concurrency);
        let leases = Leases::default();
        let unsettled = Arc::new(AtomicUsize::new(0));
        let load = Arc::new(Load {
            buffered: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            unsettled: Arc::clone(&unsettled),
            eased: Notify::new(),
            concurrency: settings.concurrency,
            prefetch: settings.prefetch,
        });
        let feed = Feed::default();
        let (finished, to_settle) = mpsc::unbounded_channel::<Finished>();
        let slots = Slots {
            program,
            feed: feed.clone(),
            finished,
            runner: Arc::clone(&runner),
            load: Arc::clone(&load),
            count: AtomicUsize::new(0),
        };

        // Beats until the last job is settled; then dropped.
        let mut upkeep = JoinSet::new();
        let (tell_gates, gates) = watch::channel(look.gates);
        let (priorities, prioritised) = watch::channel(look.prioritised);
        upkeep.spawn(heartbeat(
            broker.clone(),
            consumer.clone(),
            leases.clone(),
            settings.lease,
            self.renewing,
            runner.counted.clone(),
        ));
        if settings.strict_lease {
            upkeep.spawn(fence(broker.clone(), leases.clone(), settings.lease));
        }
        let (due, cron) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let hints = upkeep::hints::Hints {
            due: Arc::clone(&due),
            cron: Arc::clone(&cron),
            gates: tell_gates,
            priorities,
            in_vain: Arc::default(),
            leases: leases.clone(),
        };
        upkeep.spawn(upkeep::hints::listen(
            broker.clone(),
            hints.clone(),
            listener,
        ));
        upkeep.spawn(upkeep::hints::look_on(broker.clone(), hints));
        upkeep.spawn(journal::write_all(broker.clone(), journals));
        let gate = runner.gate.clone();
        upkeep.spawn(compare_clocks(broker.clone(), runner.counted.clone()));
        upkeep.spawn(circuit::tell(
            broker.clone(),
            consumer.clone(),
            gate.clone(),
        ));

        // Ends with the claiming.
        let mut housekeeping = JoinSet::new();
        let by = Upkeeper {
            worker: consumer.clone(),
            lock: settings.sweep.clamp(LOCK_MIN, LOCK_MAX),
        };
        let leading = upkeep::Leading::default();
        housekeeping.spawn(upkeep::promote::run(
            broker.clone(),
            by.clone(),
            due,
            leading.clone(),
            self.promoting,
            runner.counted.clone(),
        ));
        housekeeping.spawn(upkeep::reclaim::run(
            broker.clone(),
            by,
            settings.lease,
            settings.sweep,
            self.sweeping,
            runner.counted.clone(),
        ));
        housekeeping.spawn(upkeep::cron::run(broker.clone(), cron, leading.clone()));
        housekeeping.spawn(upkeep::prune::run(
            broker.clone(),
            settings.retain_completed,
            settings.retain_dead,
            leading,
        ));

        let history = if settings.retain_completed.is_zero() {
            0
        } else {
            config::COMPLETED_MAX
        };
        let settler = Settler {
            broker: broker.clone(),
            callers: runner.callers.clone(),
            leases: leases.clone(),
            backoff: settings.backoff,
            history,
            unsettled,
            counted: runner.counted.clone(),
        };
        let settling = tokio::spawn(settler.run(to_settle));

        let claimer = Claimer {
            broker: broker.clone(),
            reader,
            consumer: consumer.clone(),
            leases: leases.clone(),
            load: Arc::clone(&load),
            gate: gate.clone(),
            feed: feed.clone(),
            staff: Box::new(move || slots.staff()),
            gates,
            prioritised,
            turn: 0,
            payload_bytes: 1024,
            stop: stop.clone(),
            pulse: self.reading,
            flow: Flow::default(),
            ahead: None,
            reads_ahead: false,
            look_for_suspect: true,
            block: if settings.strict_lease {
                BLOCK.min(settings.lease / 6)
            } else {
                BLOCK
            },
            lease: settings.lease,
            strict: settings.strict_lease,
        };
        let claiming = tokio::spawn(claimer.run());
        stop.cancelled().await;
        health.set_stopped();
        housekeeping.shutdown().await;
        let (told, teller) = (broker.clone(), consumer.clone());
        let (counted, slots) = (runner.counted.clone(), settings.concurrency);
        let draining = Draining {
            broker,
            consumer,
            leases,
            load,
            feed,
            runner,
            claiming,
            settling,
            patience: settings.shutdown_timeout,
        };
        let drained = drain(draining).await;
        counted.closed(slots);
        upkeep.shutdown().await;
        circuit::take_back(&told, &teller, &gate, LAST_WORD).await;
        drained
    }
}

/// How often this machine's clock is compared with Redis's, for the time that jobs waited.
const COMPARE_CLOCKS: Duration = Duration::from_secs(60);

/// Clocks drift, and machines are not set alike. Runs until it is dropped.
async fn compare_clocks(broker: Broker, counted: Working) {
    loop {
        if let Ok(now_ms) = broker.now_ms(upkeep::STEP).await {
            counted.redis_says(now_ms);
        }
        tokio::time::sleep(jittered(COMPARE_CLOCKS)).await;
    }
}

/// The tasks on the program's runtime that run handlers, one per job at a time; made as they are needed.
struct Slots {
    program: Handle,
    feed: Feed,
    finished: mpsc::UnboundedSender<Finished>,
    runner: Arc<Runner>,
    load: Arc<Load>,
    count: AtomicUsize,
}

impl Slots {
    /// Makes as many slots as there are jobs in hand, up to the concurrency.
    fn staff(&self) {
        let in_hand =
            self.load.buffered.load(Ordering::Acquire) + self.load.running.load(Ordering::Acquire);
        while self.count.load(Ordering::Relaxed) < in_hand.min(self.load.concurrency) {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.program.spawn(slot(
                self.feed.clone(),
                self.finished.clone(),
                Arc::clone(&self.runner),
                Arc::clone(&self.load),
            ));
        }
    }
}

/// Runs one job after the other until the feed is closed and empty.
async fn slot(
    feed: Feed,
    finished: mpsc::UnboundedSender<Finished>,
    runner: Arc<Runner>,
    load: Arc<Load>,
) {
    while let Some(job) = feed.next().await {
        load.running.fetch_add(1, Ordering::AcqRel);
        load.buffered.fetch_sub(1, Ordering::AcqRel);
        let result = runner.run(job).await;
        load.unsettled.fetch_add(1, Ordering::AcqRel);
        load.running.fetch_sub(1, Ordering::AcqRel);
        // Closed only when the worker was given up: then the lease lapses and the job runs elsewhere.
        let _ = finished.send(result);
        // Not for every job: whoever waits for room is on another thread, and waking it is dear.
        if load.room() > 0 {
            load.eased.notify_one();
        }
    }
}
