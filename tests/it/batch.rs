//! Handlers that take several jobs at a time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millstream::{BatchJob, BatchSettings, Error, JobError, NewJob};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::support::program::{MOMENT, Program, SLACK, next};

/// A batch of `max_jobs` goes; a smaller one waits for longer than any test.
const fn full(max_jobs: usize) -> BatchSettings {
    BatchSettings {
        max_jobs,
        max_wait: Duration::from_secs(600),
    }
}

/// Whatever has come within a moment goes.
const SOON: BatchSettings = BatchSettings {
    max_jobs: 100,
    max_wait: MOMENT,
};

async fn enqueue(p: &Program, numbers: std::ops::Range<u64>) {
    let jobs = numbers.map(|number| NewJob::new("index", &number).unwrap());
    p.queue.enqueue_all(jobs.collect()).await.unwrap();
}

fn numbers(jobs: &[BatchJob<u64>]) -> Vec<u64> {
    jobs.iter().map(|job| job.payload).collect()
}

fn tell<T: Send + 'static>(
    tell: &UnboundedSender<Vec<u64>>,
    end: impl Fn(Vec<BatchJob<u64>>) -> Result<(), T> + Send + Sync + 'static,
) -> impl Fn(Vec<BatchJob<u64>>) -> std::future::Ready<Result<(), T>> + Send + Sync + 'static {
    let tell = tell.clone();
    move |jobs| {
        let _ = tell.send(numbers(&jobs));
        std::future::ready(end(jobs))
    }
}

#[tokio::test]
async fn a_full_batch_goes_at_once_and_a_part_of_one_when_its_first_job_has_waited() {
    let p = Program::new().await;
    let (heard, mut hear) = unbounded_channel();
    let settings = BatchSettings {
        max_jobs: 10,
        max_wait: MOMENT,
    };
    let worker = p
        .worker()
        .concurrency(10)
        .handle_batch("index", settings, tell(&heard, |_| Ok(())))
        .start()
        .await
        .unwrap();

    enqueue(&p, 0..25).await;

    let mut batches = Vec::new();
    while batches.iter().map(Vec::len).sum::<usize>() < 25 {
        batches.push(next(&mut hear).await);
    }
    assert!(batches.iter().all(|batch| batch.len() <= 10), "{batches:?}");
    let all: BTreeSet<u64> = batches.concat().into_iter().collect();
    assert_eq!(all, (0..25).collect());
    p.until_completed(25).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_batch_that_is_full_waits_for_no_clock() {
    let p = Program::new().await;
    let (heard, mut hear) = unbounded_channel();
    let worker = p
        .worker()
        .handle_batch("index", full(3), tell(&heard, |_| Ok(())))
        .start()
        .await
        .unwrap();

    enqueue(&p, 0..3).await;

    assert_eq!(next(&mut hear).await.len(), 3);
    p.until_completed(3).await;
    worker.stop().await;
}

#[tokio::test]
async fn each_job_is_settled_on_its_own_and_the_rest_ends_as_the_handler_does() {
    let p = Program::new().await;
    let (heard, mut hear) = unbounded_channel();
    let end = |jobs: Vec<BatchJob<u64>>| {
        for job in jobs {
            match job.payload {
                0 => job.done(),
                1 => job.fail(JobError::refuse("not this one")),
                2 => job.fail(JobError::snooze(Duration::from_secs(3600))),
                // Dropped unsettled.
                _ => {}
            }
        }
        Err(JobError::failed("the index is down"))
    };
    let worker = p
        .worker()
        .max_attempts(1)
        .handle_batch("index", full(5), tell(&heard, end))
        .start()
        .await
        .unwrap();

    enqueue(&p, 0..5).await;

    next(&mut hear).await;
    p.until("all are settled", |t| {
        t.counter("completed") == 1 && t.counter("dead") == 3
    })
    .await;
    let inspector = p.client.inspect(&p.t.queue).unwrap();
    let dead = inspector
        .list(Some(millstream::job::state::State::Dead), 10)
        .await
        .unwrap();
    let reasons: Vec<_> = dead
        .iter()
        .map(|job| (job.reason.clone().unwrap(), job.errors[0].error.clone()))
        .collect();
    let count = |reason: &str, error: &str| {
        reasons
            .iter()
            .filter(|(r, e)| r == reason && e == error)
            .count()
    };
    assert_eq!(
        (
            count("refused", "not this one"),
            count("attempts", "the index is down")
        ),
        (1, 2),
        "{reasons:?}"
    );
    p.until("one is snoozed", |t| {
        t.redis(&["ZCARD", &t.key("scheduled")]).int() == 1
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn one_is_completed_while_the_handler_goes_on_with_the_others() {
    let p = Program::new().await;
    let go_on = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&go_on);
    let handler = move |mut jobs: Vec<BatchJob<u64>>| {
        let gate = Arc::clone(&gate);
        async move {
            jobs.remove(0).done();
            gate.acquire().await?.forget();
            Ok(())
        }
    };
    let worker = p
        .worker()
        .handle_batch("index", full(2), handler)
        .start()
        .await
        .unwrap();

    enqueue(&p, 0..2).await;

    p.until("the first is completed", |t| t.counter("completed") == 1)
        .await;
    go_on.add_permits(1);
    p.until_completed(2).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_payload_that_does_not_decode_and_a_panic_hurt_no_other_batch() {
    let p = Program::new().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let handler = {
        let calls = Arc::clone(&calls);
        move |jobs: Vec<BatchJob<u64>>| {
            let call = calls.fetch_add(1, Ordering::SeqCst);
            async move {
                assert!(call > 0, "out of order: {}", jobs.len());
                Ok::<(), JobError>(())
            }
        }
    };
    let worker = p
        .worker()
        .handle_batch("index", full(2), handler)
        .start()
        .await
        .unwrap();

    let broken = p.enqueue(NewJob::raw("index", "no number")).await;
    assert_eq!(p.until_dead(&broken).await["reason"], "refused");
    enqueue(&p, 0..2).await;

    // The first call panics, and both jobs are tried again.
    p.until_completed(2).await;
    assert_eq!(
        (calls.load(Ordering::SeqCst), p.t.counter("retried")),
        (2, 2)
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_waits_for_others_is_handed_back_when_the_worker_stops() {
    let p = Program::new().await;
    let (heard, mut hear) = unbounded_channel();
    let waits = p.worker().shutdown_timeout(Duration::ZERO).handle_batch(
        "index",
        full(10),
        tell(&heard, |_| Ok(())),
    );
    let worker = waits.start().await.unwrap();
    enqueue(&p, 0..1).await;
    p.until("it is claimed", |t| {
        t.redis(&["XPENDING", &t.key("ready"), "workers"]).list()[0].int() == 1
    })
    .await;

    let drained = worker.stop().await;

    assert_eq!(drained.released, 1);
    assert!(hear.try_recv().is_err());
    let another = p
        .worker()
        .handle_batch("index", SOON, tell(&heard, |_| Ok(())))
        .start()
        .await
        .unwrap();
    assert_eq!(
        tokio::time::timeout(SLACK, hear.recv()).await.unwrap(),
        Some(vec![0])
    );
    p.until_completed(1).await;
    assert_eq!(p.t.counter("failed"), 0);
    another.stop().await;
}

#[tokio::test]
async fn a_job_that_is_cancelled_while_it_waits_is_in_no_batch() {
    let p = Program::new().await;
    let (heard, mut hear) = unbounded_channel();
    let worker = p
        .worker()
        .handle_batch("index", full(2), tell(&heard, |_| Ok(())))
        .start()
        .await
        .unwrap();
    let id = p.enqueue(NewJob::new("index", &7).unwrap()).await;
    let inspector = p.client.inspect(&p.t.queue).unwrap();
    p.until("it is claimed", |t| {
        t.redis(&["XPENDING", &t.key("ready"), "workers"]).list()[0].int() == 1
    })
    .await;
    inspector.cancel(&id).await.unwrap();
    tokio::time::sleep(MOMENT).await;

    enqueue(&p, 0..2).await;

    assert_eq!(next(&mut hear).await.len(), 2);
    p.until_completed(2).await;
    worker.stop().await;
}

#[tokio::test]
async fn settings_out_of_range_are_refused() {
    let p = Program::new().await;
    let hour = Duration::from_secs(3601);
    for (name, settings) in [
        ("max_jobs", full(0)),
        ("max_jobs", full(1_001)),
        (
            "max_wait",
            BatchSettings {
                max_jobs: 1,
                max_wait: hour,
            },
        ),
    ] {
        let worker = p
            .worker()
            .handle_batch("a", settings, |_: Vec<BatchJob<u64>>| async { Ok(()) });
        assert!(matches!(worker.check(), Err(Error::Setting { name: named, .. }) if named == name));
    }
}
