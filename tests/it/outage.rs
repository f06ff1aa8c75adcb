//! Redis goes away and comes back: workers work again by themselves, and nothing is lost.

use std::sync::Arc;
use std::time::Duration;

use fred::prelude::{Builder, Client, ClientLike, Config, Value};
use fred::types::{ClusterHash, CustomCommand};
use millstream::private_redis::{Options, Persistence, PrivateRedis};
use millstream::{Context, Error, JobError, Millstream, NewJob, Queue, Worker};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::support::long_job::{LEASE, LongJob};

/// Longest time until a worker works again, counted from when Redis can be reached.
const RECOVERED: Duration = Duration::from_secs(5);
/// What a loaded machine may add before a test gives up.
const SLACK: Duration = Duration::from_secs(10);

pub(crate) struct Scene {
    pub(crate) redis: PrivateRedis,
    pub(crate) client: Millstream,
    pub(crate) queue: Queue,
    pub(crate) worker: Worker,
    pub(crate) ran: UnboundedReceiver<u32>,
}

impl Scene {
    /// A queue with a worker that tells which jobs it ran.
    pub(crate) async fn new(persistence: Persistence) -> Self {
        let redis = PrivateRedis::start(Options {
            persistence,
            ..Options::default()
        })
        .unwrap();
        let client = Millstream::connect(&redis.url()).await.unwrap();
        let queue = client.queue("q").unwrap();
        let (tell, ran) = unbounded_channel();
        let handler = move |number: u32, _: Context| {
            let tell = tell.clone();
            async move {
                let _ = tell.send(number);
                Ok::<(), JobError>(())
            }
        };
        let worker = client
            .worker("q")
            .unwrap()
            .handle("a", handler)
            .start()
            .await
            .unwrap();
        Self {
            redis,
            client,
            queue,
            worker,
            ran,
        }
    }

    /// Enqueues until it succeeds: what a caller does whose enqueue was refused.
    pub(crate) async fn enqueue(&self, number: u32) {
        let job = || {
            NewJob::new("a", &number)
                .unwrap()
                .unique_for(number.to_string(), Duration::from_secs(600))
        };
        let enqueue = async { while self.queue.enqueue(job()).await.is_err() {} };
        timeout(RECOVERED + SLACK, enqueue)
            .await
            .expect("Redis takes jobs again");
    }

    pub(crate) async fn expect(&mut self, number: u32) {
        let ran = timeout(RECOVERED + SLACK, self.ran.recv()).await;
        assert_eq!(ran.expect("the worker runs jobs again"), Some(number));
    }

    async fn enqueued_total(&self) -> u64 {
        let stats = self.client.inspect("q").unwrap().stats().await;
        stats.unwrap().enqueued_total
    }

    pub(crate) async fn is_empty(&self) {
        let inspector = self.client.inspect("q").unwrap();
        let empty = async {
            loop {
                if let Ok(stats) = inspector.stats().await
                    && stats.ready + stats.running + stats.scheduled == 0
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(RECOVERED + SLACK, empty)
            .await
            .expect("every job is settled");
    }
}

async fn command(redis: &PrivateRedis, words: &[&str]) -> Value {
    let config = Config::from_url(&redis.url().replace("unix://", "redis+unix://")).unwrap();
    let client: Client = Builder::from_config(config).build().unwrap();
    client.init().await.unwrap();
    let args: Vec<String> = words[1..].iter().map(|word| (*word).to_owned()).collect();
    let reply = client
        .custom(
            CustomCommand::new(words[0], ClusterHash::Random, false),
            args,
        )
        .await
        .unwrap();
    client.quit().await.unwrap();
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_blocked_in_a_read_works_on_after_redis_was_killed_and_restarted() {
    let mut scene = Scene::new(Persistence::AofAlways).await;
    scene.enqueue(1).await;
    scene.expect(1).await;
    scene.is_empty().await;

    scene.redis.kill().unwrap();
    scene.redis.restart().unwrap();

    scene.enqueue(2).await;
    scene.expect(2).await;
    scene.is_empty().await;
    scene.worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_did_while_redis_was_away_is_settled_when_it_is_back() {
    let redis = PrivateRedis::start(Options {
        persistence: Persistence::AofAlways,
        ..Options::default()
    })
    .unwrap();
    let client = Millstream::connect(&redis.url()).await.unwrap();
    let (tell, mut ran) = unbounded_channel();
    let go_on = Arc::new(Notify::new());
    let waiting = Arc::clone(&go_on);
    let handler = move |_: Context| {
        let (tell, waiting) = (tell.clone(), Arc::clone(&waiting));
        async move {
            tell.send("started")?;
            waiting.notified().await;
            tell.send("done")?;
            Ok(())
        }
    };
    let worker = client.worker("q").unwrap().handle_raw("a", handler);
    let worker = worker.start().await.unwrap();
    let queue = client.queue("q").unwrap();
    queue.enqueue(NewJob::raw("a", "")).await.unwrap();
    assert_eq!(ran.recv().await, Some("started"));

    redis.kill().unwrap();
    go_on.notify_one();
    assert_eq!(ran.recv().await, Some("done"));
    // Longer than one call waits for its answer: the settlement has failed more than once by then.
    tokio::time::sleep(Duration::from_secs(3)).await;
    redis.restart().unwrap();

    let inspector = client.inspect("q").unwrap();
    let settled = async {
        while !inspector
            .stats()
            .await
            .is_ok_and(|stats| stats.completed_total == 1)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(RECOVERED + SLACK, settled)
        .await
        .expect("the job is settled");
    worker.stop().await;
    assert!(ran.try_recv().is_err(), "the job ran twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_works_again_soon_after_redis_is_back_however_long_it_was_away() {
    let away = async |pause: Duration| {
        let mut scene = Scene::new(Persistence::AofAlways).await;
        scene.enqueue(1).await;
        scene.expect(1).await;
        scene.is_empty().await;

        scene.redis.kill().unwrap();
        tokio::time::sleep(pause).await;
        scene.redis.restart().unwrap();
        // Without the help of the client that was there before: by the time it is back, the worker could be, too.
        let other = Millstream::connect(&scene.redis.url()).await.unwrap();
        let queue = other.queue("q").unwrap();
        queue
            .enqueue(NewJob::new("a", &2u32).unwrap())
            .await
            .unwrap();

        scene.expect(2).await;
        scene.is_empty().await;
    };
    let waits = [1, 4, 10].map(|seconds| Box::pin(away(Duration::from_secs(seconds))));
    futures_util::future::join_all(waits).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_everything_gets_its_consumer_group_again() {
    let mut scene = Scene::new(Persistence::None).await;
    scene.enqueue(1).await;
    scene.expect(1).await;

    command(&scene.redis, &["FLUSHALL"]).await;

    scene.enqueue(2).await;
    scene.expect(2).await;
    scene.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_and_forgotten_scripts_stop_nothing() {
    let mut scene = Scene::new(Persistence::None).await;
    for number in 0..20 {
        command(&scene.redis, &["SCRIPT", "FLUSH"]).await;
        command(&scene.redis, &["CLIENT", "KILL", "TYPE", "normal"]).await;
        scene.enqueue(number).await;
        scene.expect(number).await;
    }
    scene.is_empty().await;
    assert_eq!(scene.enqueued_total().await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_fails_callers_in_time_and_serves_them_when_it_wakes() {
    let mut scene = Scene::new(Persistence::None).await;
    scene.redis.freeze().unwrap();

    let began = std::time::Instant::now();
    let refused = scene
        .queue
        .enqueue(
            NewJob::new("a", &1u32)
                .unwrap()
                .unique_for("1", Duration::from_secs(600)),
        )
        .await;
    assert!(
        matches!(refused, Err(Error::Ambiguous { .. })),
        "{refused:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );

    scene.redis.thaw().unwrap();
    scene.enqueue(1).await;
    scene.expect(1).await;
    scene.is_empty().await;
    // The call that was given up and the one that followed made one job together.
    assert_eq!(scene.enqueued_total().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_in_time_when_redis_is_gone() {
    let scene = Scene::new(Persistence::None).await;
    scene.redis.kill().unwrap();

    let stopped = timeout(Duration::from_secs(2) + SLACK, scene.worker.stop()).await;

    assert_eq!(stopped.expect("stops without Redis").finished, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_of_a_worker_that_cannot_read_and_of_its_recovery() {
    let scene = Scene::new(Persistence::None).await;
    let health = scene.worker.health();
    assert_eq!(health.problem(), None);

    scene.redis.freeze().unwrap();
    let noticed = async {
        while health.problem().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), noticed)
        .await
        .expect("a worker that cannot read is not well");

    scene.redis.thaw().unwrap();
    let recovered = async {
        while health.problem().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(RECOVERED + SLACK, recovered)
        .await
        .expect("a worker that reads again is well");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_strict_lease_a_handler_is_cancelled_while_redis_is_still_away() {
    let mut job = LongJob::start_on(|worker| worker.strict_lease(true)).await;

    job.server.freeze().unwrap();
    assert_eq!(job.next().await, "cancelled");

    // It is handed back as soon as that can be, without having used an attempt or counted as a stall.
    job.server.thaw().unwrap();
    assert_eq!(job.next().await, "began");
    let stats = job.client.inspect("q").unwrap().stats().await.unwrap();
    assert_eq!((stats.failed_total, stats.stalled_total), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_strict_leases_a_job_outlives_an_outage_and_is_settled_once() {
    let job = LongJob::start().await;

    job.server.freeze().unwrap();
    tokio::time::sleep(LEASE * 2).await;
    job.server.thaw().unwrap();

    job.finishes_undisturbed("frozen for two leases").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_lets_only_so_many_jobs_wait_and_refuses_the_rest_at_once() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let client = Millstream::builder(&redis.url()).enqueue_timeout(Duration::from_secs(60));
    let queue = client.connect().await.unwrap().queue("q").unwrap();
    redis.freeze().unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..millstream::config::BACKLOG_JOBS_MAX {
        let queue = queue.clone();
        waiting.spawn(async move { queue.enqueue(NewJob::raw("a", "")).await });
    }

    // Those that come while Redis may still be about to answer are let in; after a second of silence nobody is.
    let refused = async {
        loop {
            let queue = queue.clone();
            waiting.spawn(async move { queue.enqueue(NewJob::raw("a", "")).await });
            match timeout(Duration::from_millis(20), waiting.join_next()).await {
                Ok(Some(Ok(Err(Error::Backpressure { waiting, .. })))) => return waiting,
                // One may have been answered before the server froze.
                Ok(ended) => assert!(matches!(ended, Some(Ok(Ok(_)))), "{ended:?}"),
                Err(_) => {}
            }
        }
    };
    let count = timeout(SLACK, refused).await.expect("a refusal");
    assert!(count >= millstream::config::BACKLOG_JOBS_MAX, "{count}");

    redis.thaw().unwrap();
    for stored in waiting.join_all().await {
        let expected = matches!(stored, Ok(_) | Err(Error::Backpressure { .. }));
        assert!(expected, "{stored:?}");
    }
    queue.enqueue(NewJob::raw("a", "")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_whose_callers_have_gone_count_as_long_as_they_are_kept() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let client = Millstream::builder(&redis.url()).enqueue_timeout(Duration::from_secs(60));
    let queue = client.connect().await.unwrap().queue("q").unwrap();
    redis.freeze().unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..millstream::config::BACKLOG_JOBS_MAX {
        let queue = queue.clone();
        waiting.spawn(async move {
            let _ = timeout(
                Duration::from_millis(100),
                queue.enqueue(NewJob::raw("a", "")),
            )
            .await;
        });
    }
    waiting.join_all().await;

    let refused = async {
        loop {
            let answer = timeout(
                Duration::from_millis(20),
                queue.enqueue(NewJob::raw("a", "")),
            )
            .await;
            if let Ok(Err(Error::Backpressure { waiting, .. })) = answer {
                return waiting;
            }
        }
    };
    let count = timeout(SLACK, refused).await.expect("a refusal");
    assert!(count >= millstream::config::BACKLOG_JOBS_MAX, "{count}");

    redis.thaw().unwrap();
    let taken = async { while queue.enqueue(NewJob::raw("a", "")).await.is_err() {} };
    timeout(SLACK, taken).await.expect("it is taken again");
}

/// An order to unblock a client whose command a pause holds back kills a Redis 7.0.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_while_writes_are_paused_does_not_bring_redis_down() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let client = Millstream::connect(&redis.url()).await.unwrap();
    let queue = client.queue("q").unwrap();
    let go_on = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let gate = std::sync::Arc::clone(&go_on);
    let handler = move |_: Context| {
        let gate = std::sync::Arc::clone(&gate);
        async move {
            gate.acquire().await?.forget();
            Ok::<(), JobError>(())
        }
    };
    let worker = client.worker("q").unwrap().concurrency(1).prefetch(3);
    let worker = worker.shutdown_timeout(Duration::ZERO).fallback(handler);
    let worker = worker.start().await.unwrap();
    let until = async |words: &[&str], shows: fn(&Value) -> bool| {
        let shown = async {
            while !shows(&command(&redis, words).await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(RECOVERED + SLACK, shown).await.expect("in time");
    };

    // All that it may hold: it reads nothing more until one is done.
    let jobs = vec![NewJob::raw("a", ""); 3];
    queue.enqueue_all(jobs).await.unwrap();
    let pending = ["XPENDING", "millstream:{q}:ready", "workers"];
    until(
        &pending,
        |pending| matches!(pending, Value::Array(parts) if parts[0].as_i64() == Some(3)),
    )
    .await;
    command(&redis, &["CLIENT", "PAUSE", "6000", "WRITE"]).await;
    go_on.add_permits(1);
    until(&["CLIENT", "LIST"], |clients| {
        let clients = clients.as_string().unwrap_or_default();
        let held_back = |line: &str| line.contains("cmd=xreadgroup") && line.contains("flags=b");
        clients.lines().any(held_back)
    })
    .await;

    worker.stop().await;

    command(&redis, &["PING"]).await;
}
