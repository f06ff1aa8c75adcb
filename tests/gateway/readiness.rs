//! `/health/ready` tells the truth, and tells it soon.

use std::time::{Duration, Instant};

use millstream::{Context, Worker};
use serde_json::{Value, json};

use crate::support::{Inbox, Place, QUEUE, eventually};

/// What the gateway promises.
const PROMISED: Duration = Duration::from_millis(100);
/// What a single answer is held to. The promise is the gateway's own timer; on a machine where other tests take all cores, timer
/// and test may be late together. So every answer must come within this, and the quickest of several within what is promised.
const TOLERATED: Duration = Duration::from_millis(1500);

async fn worker(place: &Place) -> Worker {
    let worker = place.client.worker(QUEUE).unwrap();
    worker
        .fallback(async |_: Context| Ok(()))
        .start()
        .await
        .unwrap()
}

/// How long the gateway may give the same answer again.
const FRESH: Duration = Duration::from_millis(250);

/// One probe's status and checks; none may be late.
async fn ready(inbox: &Inbox) -> (u16, Value) {
    let (status, checks, _) = timed(inbox).await;
    (status, checks)
}

async fn timed(inbox: &Inbox) -> (u16, Value, Duration) {
    let asked = Instant::now();
    let answer = inbox.get("/health/ready").await;
    let took = asked.elapsed();
    assert!(took < TOLERATED, "answered after {took:?}");
    (answer.status, answer.json()["checks"].clone(), took)
}

/// Probes `count` times and returns what the last one was told; none may be ready.
async fn never_ready_and_soon_told(inbox: &Inbox, count: usize) -> Value {
    let (mut quickest, mut told) = (Duration::MAX, Value::Null);
    for _ in 0..count {
        tokio::time::sleep(FRESH).await; // so that each has to be found out anew
        let (status, checks, took) = timed(inbox).await;
        assert_eq!(status, 503, "{checks}");
        quickest = quickest.min(took);
        told = checks;
        assert_eq!(inbox.get("/health/live").await.status, 200);
    }
    assert!(quickest < PROMISED, "answered after {quickest:?} at best");
    told
}

#[tokio::test]
async fn a_process_that_can_store_and_work_is_ready() {
    let place = Place::new().await;
    let worker = worker(&place).await;
    let inbox = place.gateway_with(vec![worker.health()], |_| {}).await;
    let answer = inbox.get("/health/ready").await;
    assert_eq!(answer.status, 200);
    let checks = json!({"redis": "ok", "workers": "ok", "worker_webhooks": "ok"});
    assert_eq!(answer.json(), json!({"status": "ok", "checks": checks}));
    worker.stop().await;
}

#[tokio::test]
async fn without_redis_it_is_alive_and_not_ready_until_redis_is_back() {
    let place = Place::new().await;
    let worker = worker(&place).await;
    let inbox = place.gateway_with(vec![worker.health()], |_| {}).await;
    assert_eq!(ready(&inbox).await.0, 200);

    place.redis.kill().unwrap();
    eventually("not ready", async || ready(&inbox).await.0 == 503).await;
    let checks = never_ready_and_soon_told(&inbox, 5).await;
    assert_ne!(checks["redis"], "ok");

    place.redis.restart().unwrap();
    eventually("ready again", async || ready(&inbox).await.0 == 200).await;
    worker.stop().await;
}

#[tokio::test]
async fn while_redis_hangs_it_is_alive_and_not_ready() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    assert_eq!(ready(&inbox).await.0, 200);

    place.redis.freeze().unwrap();
    eventually("not ready", async || ready(&inbox).await.0 == 503).await;
    let checks = never_ready_and_soon_told(&inbox, 5).await;
    assert_ne!(checks["redis"], "ok");

    place.redis.thaw().unwrap();
    eventually("ready again", async || ready(&inbox).await.0 == 200).await;
}

#[tokio::test]
async fn a_worker_pool_that_has_stopped_makes_the_process_unready() {
    let place = Place::new().await;
    let (first, second) = (worker(&place).await, worker(&place).await);
    for stop_by_drop in [true, false] {
        let worker = worker(&place).await;
        let inbox = place.gateway_with(vec![worker.health()], |_| {}).await;
        assert_eq!(ready(&inbox).await.0, 200);
        if stop_by_drop {
            drop(worker);
        } else {
            worker.stop().await;
        }
        eventually("not ready", async || ready(&inbox).await.0 == 503).await;
        let checks = never_ready_and_soon_told(&inbox, 3).await;
        assert_eq!(
            checks,
            json!({"redis": "ok", "workers": "failing", "worker_webhooks": "failing"})
        );
    }
    // Others on the same queue do not hide it.
    let healths = vec![first.health(), second.health()];
    let inbox = place.gateway_with(healths, |_| {}).await;
    first.stop().await;
    eventually("not ready", async || ready(&inbox).await.0 == 503).await;
    second.stop().await;
}

/// A worker that looks for due jobs and silent workers often, and whose lease is short.
async fn brisk_worker(place: &Place) -> Worker {
    let worker = place.client.worker(QUEUE).unwrap();
    let worker = worker
        .sweep(Duration::from_millis(200))
        .lease(Duration::from_secs(2));
    worker
        .fallback(async |job: Context| {
            // Runs until the worker is stopped, so that there is a lease to renew.
            job.cancelled().cancelled().await;
            Ok(())
        })
        .start()
        .await
        .unwrap()
}

/// Puts something of another type where `key` of the queue was, so that one loop of the worker fails and the others go on.
async fn wedged_by(key: &str, meanwhile: &str) {
    let place = Place::new().await;
    let worker = brisk_worker(&place).await;
    let inbox = place.gateway_with(vec![worker.health()], |_| {}).await;
    assert_eq!(ready(&inbox).await.0, 200);
    if !meanwhile.is_empty() {
        let queue = place.client.queue(QUEUE).unwrap();
        queue
            .enqueue(millstream::NewJob::raw(meanwhile, ""))
            .await
            .unwrap();
        eventually("it runs", async || place.stats().await.running == 1).await;
    }
    place.command(&format!("SET millstream:{{{QUEUE}}}:{key} broken"));
    let expected = json!({"redis": "ok", "workers": "failing", "worker_webhooks": "failing"});
    // On a busy machine Redis may be late for a probe now and then, which is another answer.
    let unready = async || ready(&inbox).await == (503, expected.clone());
    eventually("not ready for this reason", unready).await;
    assert_eq!(inbox.get("/health/live").await.status, 200);
    place.command(&format!("DEL millstream:{{{QUEUE}}}:{key}"));
    eventually("ready again", async || ready(&inbox).await.0 == 200).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_that_cannot_read_makes_the_process_unready() {
    wedged_by("ready:next", "").await;
}

#[tokio::test]
async fn a_worker_that_cannot_promote_makes_the_process_unready() {
    wedged_by("scheduled", "").await;
}

#[tokio::test]
async fn a_worker_that_cannot_look_for_silent_ones_makes_the_process_unready() {
    wedged_by("ready:suspect", "").await;
}

#[tokio::test]
async fn a_worker_that_cannot_renew_its_leases_makes_the_process_unready() {
    wedged_by("ready", "long").await;
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_makes_the_process_unready_and_not_dead() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    assert_eq!(ready(&inbox).await.0, 200);
    place.command("CONFIG SET maxmemory 1");
    eventually("not ready", async || ready(&inbox).await.0 == 503).await;
    let checks = never_ready_and_soon_told(&inbox, 3).await;
    assert_eq!(checks["redis"], "refuses writes");
    place.command("CONFIG SET maxmemory 0");
    eventually("ready again", async || ready(&inbox).await.0 == 200).await;
}

#[tokio::test]
async fn probes_are_answered_soon_at_the_connection_limit_and_without_redis() {
    let place = Place::new().await;
    let inbox = place.gateway_with(Vec::new(), |settings| settings.connections_max = 10);
    let inbox = inbox.await;
    assert_eq!(ready(&inbox).await.0, 200);
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(inbox.connect().await);
    }
    assert_eq!(ready(&inbox).await.0, 200);
    place.redis.freeze().unwrap();
    eventually("not ready", async || ready(&inbox).await.0 == 503).await;
    let checks = never_ready_and_soon_told(&inbox, 5).await;
    assert_ne!(checks["redis"], "ok");
    place.redis.thaw().unwrap();
}
