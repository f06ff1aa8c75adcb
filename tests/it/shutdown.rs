//! Workers that are told to stop: what had not started runs elsewhere at once, what ran keeps its attempt, and the end comes
//! in time also when Redis does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use millstream::broker::Lane;
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, JobError, NewJob, Worker};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::support::Fixture;
use crate::support::program::{Program, next};

/// A worker with one slot, and a job in it that does not end.
async fn full_worker(p: &Program, patience: Duration) -> Worker {
    let (tell, mut started) = unbounded_channel();
    let endless = move |_: Context| {
        let tell = tell.clone();
        async move {
            tell.send(())?;
            std::future::pending().await
        }
    };
    let builder = p.worker().concurrency(1).prefetch(30);
    let builder = builder.shutdown_timeout(patience).fallback(endless);
    let worker = builder.start().await.unwrap();
    p.enqueue(NewJob::raw("endless", "")).await;
    next(&mut started).await;
    worker
}

/// Tells name, attempt and stalls of each job.
fn telling_all(
    tell: &UnboundedSender<(String, u32, u32)>,
) -> impl Fn(Context) -> std::future::Ready<Result<(), JobError>> + use<> {
    let tell = tell.clone();
    move |job| {
        let _ = tell.send((job.name().to_owned(), job.attempt(), job.stalls()));
        std::future::ready(Ok(()))
    }
}

#[tokio::test]
async fn jobs_and_a_suspect_that_had_not_started_run_elsewhere_at_once() {
    let p = Program::new().await;
    let first = full_worker(&p, Duration::from_secs(20)).await;
    let held =
        |t: &Fixture, lane| t.redis(&["XPENDING", &t.lane_key(lane), "workers"]).list()[0].int();
    p.t.add_suspect();
    for _ in 0..10 {
        p.enqueue(NewJob::raw("waiting", "")).await;
    }
    p.until("a suspect and ten others wait in its hands", |t| {
        held(t, Lane::Suspect) == 1 && held(t, Lane::Ready) == 11
    })
    .await;
    let (tell, mut hear) = unbounded_channel();
    let second = p.worker().fallback(telling_all(&tell));
    let second = second.start().await.unwrap();

    let told = Instant::now();
    let stopping = tokio::spawn(first.stop());
    let mut ran = Vec::new();
    for _ in 0..11 {
        ran.push(next(&mut hear).await);
    }
    let took = told.elapsed();

    // The promise is a second; the rest is for a loaded machine, and still less than the first one's patience.
    assert!(took < Duration::from_secs(4), "{took:?}");
    ran.sort();
    let mut expected = vec![("suspect".to_owned(), 1, 2)];
    expected.extend(vec![("waiting".to_owned(), 1, 0); 10]);
    assert_eq!(ran, expected);
    assert_eq!((p.t.counter("failed"), p.t.counter("stalled")), (0, 0));
    stopping.abort();
    second.stop().await;
}

impl Fixture {
    /// A suspect on a queue whose worker would take it on its way to become one, so it is put there by hand.
    fn add_suspect(&self) {
        self.redis(&[
            "XADD",
            &self.lane_key(Lane::Suspect),
            "*",
            "name",
            "suspect",
            "payload",
            "",
            "attempt",
            "1",
            "meta",
            r#"{"stalls":2}"#,
        ]);
        self.expect_unbooked(1);
        self.redis(&["PUBLISH", &self.key("wake"), "suspect"]);
    }
}

/// Freezes or kills a Redis.
type Outage = fn(&PrivateRedis) -> millstream::Result<()>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_suspects_and_others_in_hand_stops_in_time_without_redis() {
    for outage in [PrivateRedis::freeze as Outage, PrivateRedis::kill] {
        let redis = PrivateRedis::start(Options::default()).unwrap();
        let p = Program::over(Fixture::on(&redis).await).await;
        p.t.suspect(NewJob::raw("suspect", "")).await;
        let worker = full_worker(&p, Duration::from_millis(500)).await;
        p.t.enqueue_many(5).await;
        p.until("all are in hand", |t| {
            let homes = t.scan().homes.into_values().flatten();
            homes.filter(|home| home.consumer.is_some()).count() == 7
        })
        .await;
        outage(&redis).unwrap();

        let told = Instant::now();
        let drained = worker.stop().await;

        // The promise is the timeout and 2 s; the rest is for a loaded machine.
        let took = told.elapsed();
        assert!(took < Duration::from_millis(4_500), "{took:?}");
        assert_eq!(drained.released, 0, "nothing could be handed back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_costs_no_job_an_attempt() {
    const JOBS: usize = 100;
    let p = Program::new().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let start = async || {
        let counted = Arc::clone(&runs);
        let handler = move |job: Context| {
            counted.fetch_add(1, Ordering::SeqCst);
            let took = Duration::from_millis(u64::from(job.payload()[0]));
            async move {
                tokio::select! {
                    () = tokio::time::sleep(took) => Ok(()),
                    () = job.cancelled().cancelled() => Err(JobError::failed("interrupted")),
                }
            }
        };
        let builder = p.worker().concurrency(4).prefetch(4);
        // Shorter than most jobs take: those that run when their worker is told to stop are cut off.
        let builder = builder.shutdown_timeout(Duration::from_millis(10));
        builder.fallback(handler).start().await.unwrap()
    };
    let jobs = (0..JOBS).map(|n| NewJob::raw("a", vec![20 + (n % 60) as u8]).max_attempts(1));
    p.queue.enqueue_all(jobs.collect()).await.unwrap();
    let done = |t: &Fixture| t.counter("completed") + t.counter("dead") == JOBS as i64;

    let (mut older, mut newer) = (start().await, start().await);
    let began = Instant::now();
    while !done(&p.t) {
        tokio::time::sleep(Duration::from_millis(150)).await;
        older.stop().await;
        older = newer;
        newer = start().await;
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "not done in time"
        );
    }

    p.until_completed(JOBS as i64).await;
    let counters = ["dead", "failed", "stalled"].map(|name| p.t.counter(name));
    assert_eq!(counters, [0, 0, 0]);
    assert!(p.t.counter("released") > 0, "nothing was interrupted");
    assert!(runs.load(Ordering::SeqCst) > JOBS, "nothing ran again");
    tokio::join!(older.stop(), newer.stop());
}
