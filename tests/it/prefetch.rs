//! What a worker holds: never more than its slots and its prefetch, whichever lanes the jobs wait in; and what it has read
//! is never lost from sight, however often its reads are interrupted.

use std::sync::Arc;
use std::time::Duration;

use millstream::broker::Lane;
use millstream::{Context, NewJob, WorkerBuilder};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::unbounded_channel;

use crate::support::Fixture;
use crate::support::program::{Program, next, telling};

/// Jobs that are delivered and not settled, over all lanes.
fn held(t: &Fixture) -> i64 {
    let of_lane = |lane| t.redis(&["XPENDING", &t.lane_key(lane), "workers"]).list()[0].int();
    Lane::ALL.into_iter().map(of_lane).sum()
}

/// Lets the jobs of the queue run one after the other, and looks at what is held each time.
async fn run_one_by_one(p: &Program, slots: usize, prefetch: usize) {
    let jobs = p.t.scan().homes.len() as i64;
    let go = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&go);
    let held_up = move |_: Context| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await?.forget();
            Ok(())
        }
    };
    let builder = p.worker().concurrency(slots).prefetch(prefetch);
    let worker = builder.fallback(held_up).start().await.unwrap();
    let most = (slots + prefetch) as i64;
    let mut seen = 0;
    for completed in 0..jobs {
        p.until("all slots are taken", |t| {
            held(t) >= (slots as i64).min(jobs - completed)
        })
        .await;
        let held = held(&p.t);
        assert!(held <= most, "{held} jobs held by {slots} and {prefetch}");
        seen = held.max(seen);
        go.add_permits(1);
        p.until("one more is done", |t| t.counter("completed") > completed)
            .await;
    }
    assert!(
        seen > slots as i64 || prefetch == 0,
        "nothing was fetched ahead"
    );
    p.until_completed(jobs).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_holds_no_more_than_its_slots_and_its_prefetch() {
    for (slots, prefetch) in [(2, 3), (1, 0), (2, 2)] {
        let p = Program::new().await;
        p.t.enqueue_many(40).await;
        run_one_by_one(&p, slots, prefetch).await;
    }
}

#[tokio::test]
async fn with_all_lanes_in_use_a_worker_holds_no_more_than_its_slots_and_its_prefetch() {
    for (slots, prefetch) in [(2, 3), (2, 2), (4, 1)] {
        let p = Program::new().await;
        for _ in 0..3 {
            p.t.suspect(NewJob::raw("job", "suspect")).await;
        }
        p.t.enqueue_many(60).await;
        for delivery in p.t.claim(30).await {
            assert_eq!(p.t.release(&delivery).await, []);
        }
        run_one_by_one(&p, slots, prefetch).await;
    }
}

#[tokio::test]
async fn two_hundred_pauses_while_jobs_come_leave_no_job_unseen() {
    let p = Program::new().await;
    let operator = p.client.inspect(&p.t.queue).unwrap();
    let (tell, mut hear) = unbounded_channel();
    let narrow: WorkerBuilder = p.worker().concurrency(2).prefetch(1);
    let worker = narrow.fallback(telling(&tell)).start().await.unwrap();
    // Each pause ends a read, and each job comes while one is being ended.
    for round in 0..200 {
        let (paused, _) = tokio::join!(operator.pause(), p.enqueue(NewJob::raw("a", "")));
        paused.unwrap();
        tokio::time::sleep(Duration::from_micros(round % 8 * 500)).await;
        operator.resume().await.unwrap();
    }

    // Far sooner than the 30 s after which what nobody saw would be reclaimed.
    let in_time = tokio::time::timeout(Duration::from_secs(15), async {
        for _ in 0..200 {
            next(&mut hear).await;
        }
    });
    in_time.await.expect("every job is run soon");
    p.until_completed(200).await;
    assert_eq!(p.t.counter("stalled"), 0);
    worker.stop().await;
}
