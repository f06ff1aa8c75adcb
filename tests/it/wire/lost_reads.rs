//! Connections that break in the middle: what Redis delivered and nobody saw is found again by the worker that it was
//! delivered to, before anything new and without a stall.

use std::sync::Arc;
use std::time::Duration;

use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, Millstream, NewJob, Queue, Worker, WorkerBuilder};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::resp::Connection;

/// Far longer than the 30 s lease after which a stranded job would run again with a stall.
const PATIENCE: Duration = Duration::from_secs(60);

/// A worker behind the proxy that tells payload and stalls of each job as it starts and again as it ends; a job called
/// `slow` ends when it is told to. And the queue without the proxy.
struct Scene {
    queue: Queue,
    ran: UnboundedReceiver<(String, u32)>,
    go_on: Arc<tokio::sync::Notify>,
    _worker: Worker,
    proxy: Proxy,
    redis: PrivateRedis,
}

impl Scene {
    async fn new(settings: fn(WorkerBuilder) -> WorkerBuilder) -> Self {
        let redis = PrivateRedis::start(Options {
            tcp: true,
            ..Options::default()
        })
        .unwrap();
        let proxy = Proxy::to(&redis);
        let queue = Millstream::connect(&redis.url())
            .await
            .unwrap()
            .queue("q")
            .unwrap();
        let (tell, ran) = unbounded_channel();
        let go_on = Arc::new(tokio::sync::Notify::new());
        let waiting = Arc::clone(&go_on);
        let handler = move |job: Context| {
            let (tell, waiting) = (tell.clone(), Arc::clone(&waiting));
            async move {
                let payload = String::from_utf8_lossy(job.payload()).into_owned();
                let slow = payload == "slow";
                let _ = tell.send((payload, job.stalls()));
                if slow {
                    waiting.notified().await;
                }
                Ok(())
            }
        };
        let worker = Millstream::connect(&proxy.url())
            .await
            .unwrap()
            .worker("q")
            .unwrap();
        let worker = settings(worker)
            .handle_raw("a", handler)
            .start()
            .await
            .unwrap();
        Self {
            queue,
            ran,
            go_on,
            _worker: worker,
            proxy,
            redis,
        }
    }

    async fn enqueue(&self, payload: &'static str) {
        self.queue.enqueue(NewJob::raw("a", payload)).await.unwrap();
    }

    /// Waits until the worker's read is blocked on the server.
    async fn until_blocked(&self) {
        let mut redis = Connection::open(&self.redis.socket());
        let blocked = async {
            loop {
                let clients = redis.send(&["CLIENT", "LIST"]).unwrap();
                let mut lines = clients.text().lines();
                if lines.any(|line| line.contains("flags=b") && line.contains("cmd=xreadgroup")) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, blocked).await.expect("a blocked read");
    }

    async fn next(&mut self) -> (String, u32) {
        timeout(PATIENCE, self.ran.recv())
            .await
            .expect("the job runs")
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_answer_is_lost_is_found_again_before_later_ones_and_without_a_stall() {
    let mut scene = Scene::new(|worker| worker.concurrency(1).prefetch(0)).await;
    scene.enqueue("slow").await;
    assert_eq!(scene.next().await, ("slow".to_owned(), 0));

    scene.enqueue("unseen").await;
    scene.enqueue("later").await;
    let cut = scene.proxy.arm(Rule::once("claim", Fault::DropAfter));
    scene.go_on.notify_one();

    assert_eq!(scene.next().await, ("unseen".to_owned(), 0));
    assert_eq!(cut.count(), 1, "the answer was cut");
    assert_eq!(scene.next().await, ("later".to_owned(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_whose_claim_comes_late_runs_and_is_not_taken_for_a_crash_loop() {
    let mut scene = Scene::new(|worker| worker.lease(Duration::from_secs(6))).await;
    scene.enqueue("before").await;
    assert_eq!(scene.next().await, ("before".to_owned(), 0));
    // Longer than a command waits for its answer: the list of the own deliveries is read before the claim is there.
    let late = Fault::Late(Duration::from_millis(2_500));
    let held_up = scene.proxy.arm(Rule::once("claim", late));

    let mut redis = Connection::open(&scene.redis.socket());
    let lane = "millstream:{q}:ready:suspect";
    let meta = r#"{"id":"s","stalls":2}"#;
    let fields = ["name", "a", "payload", "suspect", "attempt", "1"];
    let entry = [&["XADD", lane, "*"], &fields[..], &["meta", meta]].concat();
    redis.send(&entry).unwrap();
    redis
        .send(&["PUBLISH", "millstream:{q}:wake", "suspect"])
        .unwrap();

    assert_eq!(scene.next().await, ("suspect".to_owned(), 2));
    assert_eq!(held_up.count(), 1, "the claim was held up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_delivered_into_a_dead_connection_runs_before_later_ones_without_a_stall() {
    // One slot, so that jobs start in the order in which they were fed.
    let in_turn = |worker: WorkerBuilder| worker.concurrency(1).prefetch(10);
    let mut scene = Scene::new(in_turn).await;
    scene.enqueue("before").await;
    assert_eq!(scene.next().await, ("before".to_owned(), 0));

    // The read that is blocked on the server is given the job, and its answer goes nowhere.
    scene.until_blocked().await;
    scene.proxy.darken();
    scene.enqueue("first").await;
    scene.enqueue("second").await;

    assert_eq!(scene.next().await, ("first".to_owned(), 0));
    assert_eq!(scene.next().await, ("second".to_owned(), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_jobs_that_were_never_seen_are_found_again_over_a_slow_line() {
    // Few enough for one call, so that one read brings them all.
    const JOBS: usize = 15;
    let mut scene = Scene::new(|worker| worker).await;
    let job = NewJob::raw("a", vec![b'x'; 64 << 10]);
    scene.until_blocked().await;
    scene.proxy.darken();
    // All of them together take longer than an answer is waited for.
    scene.proxy.arm(Rule::always("own", Fault::Slow(256 << 10)));

    scene.queue.enqueue_all(vec![job; JOBS]).await.unwrap();

    for _ in 0..JOBS {
        assert_eq!(scene.next().await.1, 0);
    }
}
