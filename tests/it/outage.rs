//! Redis goes away and comes back: workers work again by themselves, and nothing is lost.

use std::time::Duration;

use fred::prelude::{Builder, Client, ClientLike, Config, Value};
use fred::types::{ClusterHash, CustomCommand};
use millstream::private_redis::{Options, Persistence, PrivateRedis};
use millstream::{Context, Error, JobError, Millstream, NewJob, Queue, Worker};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

/// Longest time until a worker works again, counted from when Redis can be reached.
const RECOVERED: Duration = Duration::from_secs(5);
/// What a loaded machine may add before a test gives up.
const SLACK: Duration = Duration::from_secs(10);

struct Scene {
    redis: PrivateRedis,
    client: Millstream,
    queue: Queue,
    worker: Worker,
    ran: UnboundedReceiver<u32>,
}

impl Scene {
    /// A queue with a worker that tells which jobs it ran.
    async fn new(persistence: Persistence) -> Self {
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
    async fn enqueue(&self, number: u32) {
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

    async fn expect(&mut self, number: u32) {
        let ran = timeout(RECOVERED + SLACK, self.ran.recv()).await;
        assert_eq!(ran.expect("the worker runs jobs again"), Some(number));
    }

    async fn is_empty(&self) {
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
    assert_eq!(
        scene
            .client
            .inspect("q")
            .unwrap()
            .stats()
            .await
            .unwrap()
            .enqueued_total,
        20
    );
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
    assert_eq!(
        scene
            .client
            .inspect("q")
            .unwrap()
            .stats()
            .await
            .unwrap()
            .enqueued_total,
        1
    );
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
