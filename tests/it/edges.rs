//! Corners that only bite on a bad day: handlers that misbehave on their way out, runtimes that end, connections and
//! locks that are left behind, and memory that is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Backoff, Context, Durability, JobError, Millstream, NewJob, Worker};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::support::resp::Connection;
use crate::support::{Fixture, PATIENCE as BROKER_PATIENCE};

const PATIENCE: Duration = Duration::from_secs(30);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn server() -> PrivateRedis {
    PrivateRedis::start(Options::default()).unwrap()
}

async fn connect(redis: &PrivateRedis) -> Millstream {
    Millstream::connect(&redis.url()).await.unwrap()
}

fn job() -> NewJob {
    NewJob::raw("a", "x")
}

/// A worker that tells when it runs a job.
async fn telling_worker(client: &Millstream, tell: UnboundedSender<()>) -> Worker {
    let handler = move |_: Context| {
        let tell = tell.clone();
        async move {
            let _ = tell.send(());
            Ok::<(), JobError>(())
        }
    };
    client
        .worker("q")
        .unwrap()
        .handle_raw("a", handler)
        .start()
        .await
        .unwrap()
}

/// Waits for `wanted`, looking again and again.
async fn until(what: &str, mut wanted: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !wanted().await {
            tokio::time::sleep(ms(20)).await;
        }
    };
    timeout(PATIENCE, waited)
        .await
        .unwrap_or_else(|_| panic!("{what} did not come"));
}

fn connections(redis: &PrivateRedis) -> usize {
    let list = Connection::open(&redis.socket())
        .send(&["CLIENT", "LIST"])
        .unwrap();
    list.text().lines().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_clients_and_refused_durabilities_leave_no_connection_behind() {
    let redis = server();
    let client = connect(&redis).await;
    let queue = client
        .queue("q")
        .unwrap()
        .with_durability(Durability::Fsync);
    let before = connections(&redis);

    for _ in 0..10 {
        assert!(queue.enqueue(job()).await.is_err());
        drop(connect(&redis).await);
    }

    until("the end of the connections", async || {
        connections(&redis) <= before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_in_time_while_redis_is_frozen_and_counts_only_what_it_handed_back() {
    let redis = server();
    let client = connect(&redis).await;
    let worker = client
        .worker("q")
        .unwrap()
        .concurrency(1)
        .prefetch(10)
        .shutdown_timeout(ms(1_000));
    let hang = |_: Context| async { std::future::pending::<Result<(), JobError>>().await };
    let worker = worker.handle_raw("a", hang).start().await.unwrap();
    for _ in 0..6 {
        client.queue("q").unwrap().enqueue(job()).await.unwrap();
    }
    let inspector = client.inspect("q").unwrap();
    until("six jobs in hand", async || {
        inspector.stats().await.unwrap().running == 6
    })
    .await;
    redis.freeze().unwrap();

    let began = Instant::now();
    let drained = worker.stop().await;
    let took = began.elapsed();
    redis.thaw().unwrap();

    // The promise is the timeout and 2 s; the rest is for a loaded machine.
    assert!(took < ms(3_000) + ms(2_000), "{took:?}");
    assert_eq!(drained.released, 0, "nothing could be handed back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snooze_for_ever_is_cut_to_the_horizon() {
    let redis = server();
    let client = connect(&redis).await;
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let handler = move |_: Context| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Err::<(), _>(JobError::snooze(Duration::MAX)) }
    };
    let _worker = client
        .worker("q")
        .unwrap()
        .handle_raw("a", handler)
        .start()
        .await
        .unwrap();
    client.queue("q").unwrap().enqueue(job()).await.unwrap();

    let inspector = client.inspect("q").unwrap();
    until("the snooze", async || {
        inspector.stats().await.unwrap().scheduled == 1
    })
    .await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    let due = inspector.list(None, 1).await.unwrap()[0].due_ms.unwrap();
    assert!(due > 2_000_000_000_000, "years from now: {due}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_stored_is_told_to_be_stored_when_redis_refuses_to_wait() {
    let redis = server();
    let client = connect(&redis).await;
    let mut connection = Connection::open(&redis.socket());
    connection
        .send(&["ACL", "SETUSER", "default", "-wait"])
        .unwrap();

    let queue = client
        .queue("q")
        .unwrap()
        .with_durability(Durability::Replicas(1));
    let enqueued = queue.enqueue(job()).await.unwrap();

    assert_eq!(enqueued.durability, Durability::Memory);
    assert_eq!(
        connection
            .send(&["XLEN", "millstream:{q}:ready"])
            .unwrap()
            .int(),
        1
    );
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("dropped");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_while_it_is_cut_off_costs_no_slot() {
    let redis = server();
    let client = connect(&redis).await;
    let handler = |_: Context| async {
        let _bomb = Bomb;
        std::future::pending::<Result<(), JobError>>().await
    };
    let worker = client
        .worker("q")
        .unwrap()
        .concurrency(1)
        .prefetch(0)
        .max_attempts(1)
        .timeout(ms(100));
    let _worker = worker.handle_raw("a", handler).start().await.unwrap();
    let queue = client.queue("q").unwrap();
    queue.enqueue(job()).await.unwrap();
    queue.enqueue(job()).await.unwrap();

    let inspector = client.inspect("q").unwrap();
    until("both timeouts", async || {
        inspector.stats().await.unwrap().dead == 2
    })
    .await;
}

#[tokio::test]
async fn a_password_with_any_character_stays_hidden() {
    for url in [
        "redis://:abc/hunter2@127.0.0.1:1",
        "redis://:hunter2?x@127.0.0.1:1",
        "redis://u:hunter2#@127.0.0.1:1",
        "redis://u:hunter2@127.0.0.1:1",
    ] {
        let refused = Millstream::builder(url)
            .connect_timeout(ms(300))
            .connect()
            .await
            .unwrap_err();
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_leaves_the_upkeep_to_the_next_one_at_once() {
    let redis = server();
    let client = connect(&redis).await;
    let (tell, mut ran) = unbounded_channel();
    let first = telling_worker(&client, tell.clone()).await;
    let mut connection = Connection::open(&redis.socket());
    let mut locked = || {
        connection
            .send(&["EXISTS", "millstream:{q}:upkeep"])
            .unwrap()
            .int()
            == 1
    };
    until("the lock", async || locked()).await;

    first.stop().await;

    assert!(!locked(), "the lock went with its holder");
    let _second = telling_worker(&client, tell).await;
    client
        .queue("q")
        .unwrap()
        .enqueue(job().delay(ms(100)))
        .await
        .unwrap();
    timeout(PATIENCE, ran.recv())
        .await
        .expect("the due job runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_started_in_time_is_retried_whatever_its_expiry() {
    let redis = server();
    let client = connect(&redis).await;
    let handler = |job: Context| async move {
        if job.attempt() == 1 {
            Err(JobError::failed("once"))
        } else {
            Ok(())
        }
    };
    let worker = client
        .worker("q")
        .unwrap()
        .backoff(Backoff::Fixed(ms(1_500)));
    let _worker = worker.handle_raw("a", handler).start().await.unwrap();
    client
        .queue("q")
        .unwrap()
        .enqueue(job().expires(ms(500)))
        .await
        .unwrap();

    let inspector = client.inspect("q").unwrap();
    let ended = async || {
        let stats = inspector.stats().await.unwrap();
        stats.completed_total + stats.dead_total == 1
    };
    until("the end of the job", ended).await;
    assert_eq!(inspector.stats().await.unwrap().completed_total, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_due_job_runs_though_memory_is_full() {
    let redis = server();
    let client = connect(&redis).await;
    let (tell, mut ran) = unbounded_channel();
    client
        .queue("q")
        .unwrap()
        .enqueue(job().delay(ms(500)))
        .await
        .unwrap();
    let _worker = telling_worker(&client, tell).await;

    Connection::open(&redis.socket())
        .send(&["CONFIG", "SET", "maxmemory", "1000000"])
        .unwrap();

    timeout(PATIENCE, ran.recv())
        .await
        .expect("what is stored can be worked off");
}

#[test]
fn a_runtime_that_ends_does_not_take_the_queue_of_the_others_along() {
    let redis = server();
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let (lasting, brief) = (runtime(), runtime());
    let client = lasting.block_on(connect(&redis));
    let queue = client.queue("q").unwrap();
    redis.freeze().unwrap();
    // Polled once each, so that all of them are waiting in the queue when their runtime ends.
    brief.block_on(async {
        let mut calls: Vec<_> = (0..5).map(|_| Box::pin(queue.enqueue(job()))).collect();
        for call in &mut calls {
            assert!(
                timeout(ms(10), call).await.is_err(),
                "a frozen Redis answered"
            );
        }
    });
    brief.shutdown_timeout(ms(100));
    redis.thaw().unwrap();

    lasting.block_on(async {
        let calls: Vec<_> = (0..5).map(|_| queue.enqueue(job())).collect();
        for answer in futures_util::future::join_all(calls).await {
            answer.unwrap();
        }
    });
}

#[tokio::test]
async fn an_event_about_one_job_names_the_job_that_moved() {
    let t = Fixture::new().await;
    let dead = t.dead(job()).await;
    let ready = t.enqueue(job()).await;

    t.broker
        .redrive(&mut t.caller(), &[ready, dead.clone()], BROKER_PATIENCE)
        .await
        .unwrap();

    assert_eq!(t.events().last().unwrap().1, dead.to_string());
}

#[tokio::test]
async fn the_events_do_not_grow_without_bound() {
    let t = Fixture::new().await;
    let fill = "for i = 1, 20000 do redis.call('XADD', KEYS[1], '*', 'event', 'paused', 'job', '', 'detail', '') end";
    t.redis(&["EVAL", fill, "1", &t.key("events")]);

    t.dead(job()).await;

    let kept = t.redis(&["XLEN", &t.key("events")]).int();
    assert!((10_000..11_000).contains(&kept), "{kept} events");
}

#[tokio::test]
async fn a_job_is_not_confused_with_one_that_has_its_name_as_entry_id() {
    let t = Fixture::new().await;
    let inspector = Millstream::connect(&t.url)
        .await
        .unwrap()
        .inspect(&t.queue)
        .unwrap();
    for (lane, payload, meta) in [
        ("ready", "MINE", ""),
        ("ready:next", "OTHER", r#"{"id":"5-0"}"#),
    ] {
        let fields = [
            "name", "a", "payload", payload, "attempt", "1", "meta", meta,
        ];
        let key = t.key(lane);
        let words: Vec<&str> = ["XADD", &key, "7-0"].into_iter().chain(fields).collect();
        t.redis(&words);
    }

    let shown = inspector.show(&"7-0".into()).await.unwrap();

    assert_eq!(
        (shown.id.as_str(), shown.payload.as_deref()),
        ("7-0", Some(&b"MINE"[..]))
    );
}
