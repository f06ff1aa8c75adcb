//! One soak from start to end: Redis, proxies and processes; load and faults; the drain; what is left.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use millstream::Millstream;
use millstream::job::state::State;
use millstream::private_redis::{Options, Persistence, PrivateRedis};
use rustix::process::Signal;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::audit::Auditor;
use crate::check::Remains;
use crate::jobs::Kind as JobKind;
use crate::plan::{Fault, Kind, PROCESSES, Plan, QUEUE, WORKERS};
use crate::process::{Place, was_aborted};
use crate::producer::Producer;
use crate::proxy::{Proxy, Weather};
use crate::random::Random;
use crate::record::Record;
use crate::support::Fixture;
use crate::support::resp::Connection;

/// Longest time until every job has ended, from the end of the load on: three stalls of a poison job, and a loaded machine.
const DRAIN_WITHIN: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a soak ran on; to be dropped when all is read.
pub(crate) struct Ran {
    pub(crate) redis: PrivateRedis,
    pub(crate) remains: Remains,
    pub(crate) drained: Option<Duration>,
}

/// What the faults strike.
struct Scene {
    redis: PrivateRedis,
    proxies: Vec<Proxy>,
    places: Vec<Mutex<Place>>,
    poisoner: Producer,
    faults: Record,
    /// Nobody takes the place of a process that ends.
    winding_down: AtomicBool,
}

pub(crate) async fn run(plan: &Plan, dir: &Path) -> Ran {
    let scene = Arc::new(Scene::set(plan, dir).await);
    let auditor = Auditor::start(scene.redis.socket(), Record::create(&dir.join("audit.log")));
    for place in &scene.places {
        place.lock().await.start(&scene.faults);
    }
    let mut supervising = JoinSet::new();
    supervising.spawn(Arc::clone(&scene).supervise());

    let began = tokio::time::Instant::now();
    let mut striking = JoinSet::new();
    for (nth, fault) in plan.faults.iter().copied().enumerate() {
        tokio::time::sleep_until(began + fault.at).await;
        let scene = Arc::clone(&scene);
        striking.spawn(async move {
            scene.faults.note(format_args!("begin {nth} {fault:?}"));
            scene.strike(fault).await;
            scene.faults.note(format_args!("end {nth}"));
        });
    }
    while let Some(struck) = striking.join_next().await {
        struck.expect("a fault strikes");
    }
    tokio::time::sleep_until(began + plan.load).await;

    scene.faults.note("unloaded");
    scene.stop(WORKERS..PROCESSES).await;
    let drained = scene.drain().await;
    scene.stop(0..WORKERS).await;
    supervising.shutdown().await;
    auditor.close();
    let remains = scene.remains().await;
    let scene = Arc::into_inner(scene).expect("every task has ended");
    Ran {
        redis: scene.redis,
        remains,
        drained,
    }
}

impl Scene {
    async fn set(plan: &Plan, dir: &Path) -> Self {
        let options = Options {
            persistence: Persistence::AofAlways,
            tcp: true,
            ..Options::default()
        };
        let redis = PrivateRedis::start(options).expect("a private Redis");
        let port = redis.port().expect("asked for");
        let (mut proxies, mut places) = (Vec::new(), Vec::new());
        for index in 0..PROCESSES {
            let proxy = Proxy::start(port).await;
            places.push(Mutex::new(Place::new(index, proxy.url(), dir, plan.seed)));
            proxies.push(proxy);
        }
        let record = Record::create(&dir.join("producer-poison.log"));
        let poisoner = Producer::connect(&redis.url(), "producer-poison", record).await;
        Self {
            redis,
            proxies,
            places,
            poisoner,
            faults: Record::create(&dir.join("faults.log")),
            winding_down: AtomicBool::new(false),
        }
    }

    /// A process that a job killed is followed by another one. No process ends for any other reason of its own.
    async fn supervise(self: Arc<Self>) {
        loop {
            for place in &self.places {
                // Somebody who stops or kills it waits for its end himself.
                let Ok(mut place) = place.try_lock() else {
                    continue;
                };
                let Some(status) = place.ended() else {
                    continue;
                };
                let name = place.name();
                match was_aborted(status) {
                    true => self.faults.note(format_args!("ended {name} aborted")),
                    false => {
                        self.faults.note(format_args!("ended {name} {status}"));
                        self.faults
                            .note(format_args!("unruly {name} ended by itself with {status}"))
                    }
                };
                if !self.winding_down.load(Ordering::Acquire) || name.starts_with("worker") {
                    place.start(&self.faults);
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn strike(&self, fault: Fault) {
        let Fault { target, lasts, .. } = fault;
        let (proxy, place) = (&self.proxies[target], &self.places[target]);
        match fault.kind {
            Kind::KillWorker | Kind::KillProducer => {
                let mut place = place.lock().await;
                place.kill(&self.faults);
                tokio::time::sleep(lasts).await;
                place.start(&self.faults);
            }
            Kind::FreezeWorker => {
                place.lock().await.signal(Signal::STOP);
                tokio::time::sleep(lasts).await;
                place.lock().await.signal(Signal::CONT);
            }
            Kind::RollWorker => {
                let mut place = place.lock().await;
                place.stop(&self.faults).await;
                place.start(&self.faults);
            }
            Kind::KillClients => self.command(&["CLIENT", "KILL", "TYPE", "normal"]),
            Kind::FlushScripts => self.command(&["SCRIPT", "FLUSH"]),
            Kind::PauseAll | Kind::PauseWrites => {
                let what = if fault.kind == Kind::PauseAll {
                    "ALL"
                } else {
                    "WRITE"
                };
                self.command(&["CLIENT", "PAUSE", &lasts.as_millis().to_string(), what]);
                tokio::time::sleep(lasts).await;
            }
            Kind::KillRedis => {
                self.redis.kill().expect("the shell that holds Redis lives");
                tokio::time::sleep(lasts).await;
                self.restart_redis().await;
            }
            Kind::FreezeRedis => {
                // In vain when Redis has crashed; see `remains`.
                let _ = self.redis.freeze();
                tokio::time::sleep(lasts).await;
                let _ = self.redis.thaw();
            }
            Kind::Cut => proxy.cut(),
            Kind::LoseReplies | Kind::LoseRequests => {
                proxy.set(match fault.kind {
                    Kind::LoseReplies => Weather::LosesReplies,
                    _ => Weather::LosesRequests,
                });
                tokio::time::sleep(lasts).await;
                proxy.cut();
            }
            Kind::Blackhole | Kind::Slow | Kind::Tear => {
                proxy.set(match fault.kind {
                    Kind::Blackhole => Weather::Still,
                    Kind::Slow => Weather::Slow(Duration::from_millis(50)),
                    _ => Weather::Tears,
                });
                tokio::time::sleep(lasts).await;
                proxy.set(Weather::Clear);
            }
            Kind::Poison => {
                let mut random = Random::new(0, "poison");
                // Until one is known to be stored; those of which nobody knows may be as well.
                while self
                    .poisoner
                    .enqueue(&[JobKind::Poison], &mut random)
                    .await
                    .is_none()
                {}
            }
        }
    }

    /// To Redis itself. In vain while it is away, which is fault enough.
    fn command(&self, words: &[&str]) {
        if let Ok(mut connection) = Connection::try_open(&self.redis.socket()) {
            let _ = connection.try_send(words);
        }
    }

    async fn restart_redis(&self) {
        // Its port is free, but a connection of somebody else may just have been given it.
        let mut tries = 20;
        while let Err(error) = self.redis.restart() {
            tries -= 1;
            assert!(tries > 0, "Redis does not come back: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn stop(&self, places: std::ops::Range<usize>) {
        self.winding_down.store(true, Ordering::Release);
        let stopping = self.places[places].iter().map(async |place| {
            place.lock().await.stop(&self.faults).await;
        });
        futures_util::future::join_all(stopping).await;
    }

    /// Waits until no job is unfinished; `None` when it takes too long.
    async fn drain(&self) -> Option<Duration> {
        if Connection::try_open(&self.redis.socket()).is_err() {
            self.restart_redis().await;
        }
        let began = Instant::now();
        let client = Millstream::connect(&self.redis.url())
            .await
            .expect("Redis runs");
        let inspector = client.inspect(QUEUE).expect("a good name");
        while began.elapsed() < DRAIN_WITHIN {
            if let Ok(stats) = inspector.stats().await
                && stats.ready + stats.running + stats.scheduled == 0
            {
                return Some(began.elapsed());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        None
    }

    async fn remains(&self) -> Remains {
        let fixture = Fixture::over(&self.redis, QUEUE).await;
        let scan = fixture.scan();
        let mut remains = Remains {
            faults: scan.faults.clone(),
            payloads: scan.payloads.clone(),
            ..Remains::default()
        };
        // Killed it was, now and then; but it is not to die of what it is asked.
        let log = std::fs::read(self.redis.dir().join("server.log")).unwrap_or_default();
        if String::from_utf8_lossy(&log).contains("REDIS BUG REPORT START") {
            remains
                .faults
                .push("Redis crashed: its log has the report".to_owned());
        }
        for (id, homes) in &scan.homes {
            for home in homes {
                if home.state != State::Dead {
                    remains.faults.push(format!("{id} is {}", home.state));
                }
                remains.homes.insert(id.clone(), home.state);
            }
        }
        let counters = fixture.redis(&["HGETALL", &fixture.key("stats")]);
        for pair in counters.list().chunks_exact(2) {
            let count = u64::try_from(pair[1].int()).unwrap_or_default();
            remains.counters.insert(pair[0].text().to_owned(), count);
        }
        for lane in ["ready", "ready:next", "ready:suspect"] {
            let consumers = fixture.redis(&["XINFO", "CONSUMERS", &fixture.key(lane), "workers"]);
            remains.consumers = remains.consumers.max(consumers.list().len());
        }
        remains
    }
}
