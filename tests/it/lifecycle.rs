//! Lives of workers through the public API: paused, stopped, gone silent; and of jobs that come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use millstream::broker::Lane;
use millstream::job::state::State;
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, JobError, NewJob};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::unbounded_channel;

use crate::support::program::{MOMENT, Program, next, telling};
use crate::support::{Fixture, PATIENCE};

#[tokio::test]
async fn a_worker_that_starts_on_a_paused_queue_runs_nothing_until_it_is_resumed() {
    let p = Program::new().await;
    let operator = p.client.inspect(&p.t.queue).unwrap();
    operator.pause().await.unwrap();
    p.enqueue(NewJob::raw("a", "")).await;
    let (tell, mut hear) = unbounded_channel();

    let worker = p
        .worker()
        .handle_raw("a", telling(&tell))
        .start()
        .await
        .unwrap();

    let ran = tokio::time::timeout(MOMENT, hear.recv()).await;
    assert!(ran.is_err(), "a job of a paused queue ran");
    operator.resume().await.unwrap();
    assert_eq!(next(&mut hear).await, 1);
    p.until_completed(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_at_work_hears_of_a_pause_and_of_its_end() {
    let p = Program::new().await;
    let operator = p.client.inspect(&p.t.queue).unwrap();
    let (tell, mut hear) = unbounded_channel();
    let worker = p
        .worker()
        .handle_raw("a", telling(&tell))
        .start()
        .await
        .unwrap();
    p.enqueue(NewJob::raw("a", "")).await;
    next(&mut hear).await;

    operator.pause().await.unwrap();
    // It is seen within a second; then nothing is read any more.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    p.enqueue(NewJob::raw("a", "")).await;
    let ran = tokio::time::timeout(MOMENT, hear.recv()).await;
    assert!(ran.is_err(), "a job of a paused queue ran");

    operator.resume().await.unwrap();
    next(&mut hear).await;
    p.until_completed(2).await;
    worker.stop().await;
}

/// Hints are lost where nobody may publish: then the look that each worker takes once a second tells it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_worker_sees_a_pause_and_its_end_also_where_nobody_may_tell_it() {
    const JOBS: usize = 30;
    // Of its own, for its list of clients.
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let p = Program::over(Fixture::on(&redis).await).await;
    p.t.redis(&["ACL", "SETUSER", "default", "resetchannels"]);
    let operator = p.client.inspect(&p.t.queue).unwrap();
    let (tell, mut hear) = unbounded_channel();
    let mut workers = Vec::new();
    for _ in 0..3 {
        let worker = p.worker().handle_raw("a", telling(&tell));
        workers.push(worker.start().await.unwrap());
    }
    let reading = |t: &Fixture| {
        let clients = t.redis(&["CLIENT", "LIST"]);
        let clients = clients.text().lines();
        let reads =
            |client: &&str| client.contains("cmd=xreadgroup ") && client.contains("flags=b");
        clients.filter(reads).count()
    };
    p.until("they wait for jobs", |t| reading(t) == 3).await;

    operator.pause().await.unwrap();
    p.until("none of them reads", |t| reading(t) == 0).await;
    let jobs = vec![NewJob::raw("a", ""); JOBS];
    p.queue.enqueue_all(jobs).await.unwrap();
    let ran = tokio::time::timeout(MOMENT, hear.recv()).await;
    assert!(ran.is_err(), "a job of a paused queue ran");

    operator.resume().await.unwrap();
    p.until("all of them read", |t| reading(t) == 3).await;
    p.until_completed(JOBS as i64).await;
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_stopping_worker_finishes_what_runs_and_hands_the_rest_back_without_an_attempt() {
    let p = Program::new().await;
    let go = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&go);
    let (tell, mut started) = unbounded_channel();
    let held_up = move |_: Context| {
        let (gate, tell) = (Arc::clone(&gate), tell.clone());
        async move {
            tell.send(())?;
            gate.acquire().await?.forget();
            Ok(())
        }
    };
    let builder = p
        .worker()
        .concurrency(1)
        .prefetch(4)
        .handle_raw("a", held_up);
    let worker = builder.start().await.unwrap();
    p.queue
        .enqueue_all(vec![NewJob::raw("a", ""); 5])
        .await
        .unwrap();
    next(&mut started).await;
    p.until("some are fetched ahead", |t| {
        t.redis(&["XPENDING", &t.key("ready"), "workers"]).list()[0].int() >= 3
    })
    .await;

    let stopping = tokio::spawn(worker.stop());
    p.until("they are handed back", |t| t.counter("released") >= 2)
        .await;
    go.add_permits(1);
    let drained = stopping.await.unwrap();

    let released = p.t.counter("released").unsigned_abs() as usize;
    assert_eq!((drained.finished, drained.released), (1, released));
    p.until_completed(1).await;
    let (tell, mut hear) = unbounded_channel();
    let second = p
        .worker()
        .handle_raw("a", telling(&tell))
        .start()
        .await
        .unwrap();
    for _ in 0..4 {
        assert_eq!(next(&mut hear).await, 1, "an attempt was charged");
    }
    p.until_completed(5).await;
    second.stop().await;
}

#[tokio::test]
async fn a_worker_out_of_patience_hands_back_what_still_runs() {
    let p = Program::new().await;
    let (tell, mut started) = unbounded_channel();
    let endless = move |_: Context| {
        let tell = tell.clone();
        async move {
            tell.send(())?;
            std::future::pending().await
        }
    };
    let builder = p
        .worker()
        .shutdown_timeout(Duration::from_millis(100))
        .handle_raw("a", endless);
    let worker = builder.start().await.unwrap();
    let id = p.enqueue(NewJob::raw("a", "")).await;
    next(&mut started).await;

    let drained = worker.stop().await;

    assert_eq!((drained.finished, drained.released), (0, 1));
    assert_eq!(p.t.state_of(&id), Some(State::Ready));
    p.t.assert_every_job_has_one_home();
    let again = p.t.claim_one().await;
    assert_eq!((again.id, again.attempt), (id, 1));
}

#[tokio::test]
async fn a_handler_that_fails_because_it_was_told_to_stop_has_used_no_attempt() {
    let p = Program::new().await;
    let (tell, mut started) = unbounded_channel();
    let obedient = move |job: Context| {
        let tell = tell.clone();
        async move {
            tell.send(())?;
            job.cancelled().cancelled().await;
            Err::<(), _>(JobError::failed("stopped half-way"))
        }
    };
    let builder = p.worker().shutdown_timeout(Duration::from_millis(100));
    let worker = builder.handle_raw("a", obedient).start().await.unwrap();
    let id = p.enqueue(NewJob::raw("a", "").max_attempts(1)).await;
    next(&mut started).await;

    let drained = worker.stop().await;

    assert_eq!((drained.finished, drained.released), (0, 1));
    let again = p.t.claim_one().await;
    assert_eq!((again.id, again.attempt), (id, 1));
    assert_eq!((p.t.counter("failed"), p.t.counter("stalled")), (0, 0));
}

#[tokio::test]
async fn a_snoozed_job_comes_back_as_the_same_attempt_and_a_failed_one_as_the_next() {
    let p = Program::new().await;
    let (tell, mut hear) = unbounded_channel();
    let calls = Arc::new(AtomicUsize::new(0));
    let worker = p
        .worker()
        .handle_raw("a", move |job: Context| {
            let _ = tell.send(job.attempt());
            let soon = Duration::from_millis(1);
            std::future::ready(match calls.fetch_add(1, Ordering::SeqCst) {
                0 => Err(JobError::snooze(soon)),
                1 => Err(JobError::failed("boom")),
                2 => Err(JobError::retry_after(soon, "busy")),
                _ => Ok(()),
            })
        })
        .start()
        .await
        .unwrap();

    p.enqueue(NewJob::raw("a", "")).await;

    for attempt in [1, 1, 2, 3] {
        assert_eq!(next(&mut hear).await, attempt);
    }
    p.until_completed(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_waited_too_long_is_expired_and_never_run() {
    let p = Program::new().await;
    let id = p
        .enqueue(NewJob::raw("a", "").expires(Duration::from_millis(1)))
        .await;
    let expires_ms = p.t.scan().meta_of(id.as_str())["expires_at_ms"]
        .as_i64()
        .unwrap();
    p.until("its time has passed", |t| t.now_us() / 1000 >= expires_ms)
        .await;
    let never = |_: Context| async { panic!("an expired job was run") };

    let worker = p.worker().handle_raw("a", never).start().await.unwrap();

    let record = p.until_dead(&id).await;
    assert_eq!(record["reason"], "expired");
    assert_eq!(p.t.counter("failed"), 0);
    p.t.assert_every_job_has_one_home();
    worker.stop().await;
}

#[tokio::test]
async fn the_jobs_of_a_worker_that_went_silent_run_elsewhere() {
    let p = Program::new().await;
    // Claimed by hand: a worker of which nothing more is heard. It holds a job that came back, and one that is new.
    let back = p.enqueue(NewJob::raw("a", "")).await;
    let delivery = p.t.claim_one().await;
    p.t.release(&delivery).await;
    let new = p.enqueue(NewJob::raw("a", "")).await;
    for silent in p.t.claim_as("silent", 2).await {
        p.t.let_lease_lapse(&silent);
    }
    let (tell, mut hear) = unbounded_channel();

    // Where nobody has swept yet, the living are given half a lease to renew.
    let builder = p
        .worker()
        .lease(Duration::from_secs(1))
        .sweep(Duration::from_millis(100))
        .handle_raw("a", telling(&tell));
    let worker = builder.start().await.unwrap();

    assert_eq!((next(&mut hear).await, next(&mut hear).await), (1, 1));
    p.until_completed(2).await;
    assert_eq!((p.t.state_of(&back), p.t.state_of(&new)), (None, None));
    assert_eq!(p.t.counter("stalled"), 2);
    worker.stop().await;
}

#[tokio::test]
async fn a_handler_whose_job_was_taken_away_is_told_and_settles_nothing() {
    let p = Program::new().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let (tell, mut hear) = unbounded_channel();
    let handler = move |job: Context| {
        let (tell, run) = (tell.clone(), runs.fetch_add(1, Ordering::SeqCst));
        async move {
            if run == 0 {
                tell.send("started")?;
                job.cancelled().cancelled().await;
                tell.send("told")?;
            }
            Ok(())
        }
    };
    // Its time limit would tell it as well.
    let builder = p
        .worker()
        .lease(Duration::from_secs(1))
        .timeout(Duration::from_secs(600))
        .handle_raw("a", handler);
    let worker = builder.start().await.unwrap();
    let id = p.enqueue(NewJob::raw("a", "")).await;
    assert_eq!(next(&mut hear).await, "started");

    // Nobody says so: the worker learns of it when it renews.
    let home = p.t.home_of(&id).unwrap();
    let entry = home.at.unwrap().1.parse().unwrap();
    let lost =
        p.t.broker
            .release(&mut p.t.caller(), Lane::Ready, &[entry], PATIENCE)
            .await;
    assert_eq!(lost.unwrap(), []);

    assert_eq!(next(&mut hear).await, "told");
    p.until_completed(1).await;
    worker.stop().await;
    assert_eq!((p.t.counter("completed"), p.t.counter("stalled")), (1, 0));
    p.t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn what_a_sweep_takes_back_starts_at_once_on_another_worker() {
    let p = Program::new().await;
    let silent = p.t.running(NewJob::raw("a", "")).await;
    // This one becomes a suspect, of which the worker hears in another way.
    let again = p.t.running(NewJob::raw("a", "")).await;
    let again = p.t.take_over(&again).await;
    let (tell, mut hear) = unbounded_channel();
    // It never sweeps itself: the test does the upkeep.
    let builder = p.worker().handle_raw("a", telling(&tell));
    let worker = builder.start().await.unwrap();

    for delivery in [silent, again] {
        p.t.let_lease_lapse(&delivery);
        let swept = Instant::now();
        assert_eq!(p.t.sweep().await, (1, 0));
        next(&mut hear).await;
        // A worker that missed its arrival would look again after 5 s.
        assert!(
            swept.elapsed() < Duration::from_secs(3),
            "{:?}",
            swept.elapsed()
        );
    }
    p.until_completed(2).await;
    worker.stop().await;
}
