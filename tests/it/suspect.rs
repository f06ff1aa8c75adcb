//! Jobs that are one stall short of a crash loop: they wait on a lane of their own, one at a time per worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millstream::broker::Lane;
use millstream::job::state::State;
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, NewJob};
use tokio::sync::mpsc::unbounded_channel;

use crate::support::program::{Program, SLACK, next};
use crate::support::verbs::plain;
use crate::support::{Fixture, LATER, PATIENCE};

#[tokio::test]
async fn after_its_second_stall_a_job_waits_among_the_suspects_and_is_not_read_with_the_others() {
    let t = Fixture::new().await;
    let mut hear = t.listen();
    let suspect = t.suspect(plain()).await;
    let other = t.enqueue(plain()).await;

    let read = t.claim_ids(10).await;

    assert_eq!(read, [other]);
    assert_eq!(hear.message(), "suspect");
    assert_eq!(t.state_of(&suspect.id), Some(State::Ready));
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
    let claimed = t.claim_suspect("worker-c").await.unwrap();
    assert_eq!((&claimed.id, claimed.lane), (&suspect.id, Lane::Suspect));
    assert_eq!(t.extend(&claimed).await, []);
    assert_eq!(t.complete(&[&claimed]).await, []);
    assert_eq!(t.counter("completed"), 1);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_suspect_stays_one_however_it_becomes_ready_again() {
    let t = Fixture::new().await;
    let id = t.suspect(plain()).await.id;
    let claim = async || t.claim_suspect("worker-c").await.expect("a suspect");

    assert_eq!(t.release(&claim().await).await, []);
    t.retry(&claim().await, LATER, "boom").await.unwrap();
    t.make_due(&id);
    t.promote().await;
    t.snooze(&claim().await, LATER).await.unwrap();
    t.broker
        .run_now(&mut t.caller(), &id, PATIENCE)
        .await
        .unwrap();

    assert!(t.claim(10).await.is_empty());
    let claimed = claim().await;
    assert_eq!((&claimed.id, claimed.attempt), (&id, 2));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_redriven_crash_loop_begins_without_suspicion() {
    let t = Fixture::new().await;
    let id = t.suspect(plain()).await.id;
    t.let_lease_lapse(&t.claim_suspect("worker-c").await.unwrap());
    assert_eq!(t.sweep().await, (0, 1));

    let ids = std::slice::from_ref(&id);
    t.broker
        .redrive(&mut t.caller(), ids, PATIENCE)
        .await
        .unwrap();

    assert_eq!(t.claim_one().await.id, id);
}

#[tokio::test]
async fn a_suspect_can_be_cancelled_ready_or_running() {
    let t = Fixture::new().await;
    for running in [false, true] {
        let id = t.suspect(plain().unique("k")).await.id;
        if running {
            t.claim_suspect("worker-c").await.unwrap();
        }
        let was = t
            .broker
            .cancel(&mut t.caller(), &id, Some("k"), PATIENCE)
            .await;
        let expected = if running {
            State::Running
        } else {
            State::Ready
        };
        assert_eq!(was.unwrap(), expected);
        assert_eq!((t.state_of(&id), t.unique_holder("k")), (None, None));
    }
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_paused_queue_hands_out_no_suspect() {
    let t = Fixture::new().await;
    t.suspect(plain()).await;
    t.broker.pause(true, PATIENCE).await.unwrap();
    assert!(t.claim_suspect("worker-c").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_of_which_nobody_heard_runs_also_where_there_is_always_something_else_to_do() {
    // Its own server: hints are taken from everybody on it.
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let p = Program::over(Fixture::on(&redis).await).await;
    p.t.suspect(NewJob::raw("a", "suspect")).await;
    let held = p.t.claim_suspect("worker-c").await.unwrap();
    let (tell, mut ran) = unbounded_channel();
    let handler = move |job: Context| {
        let _ = tell.send(job.payload() == "suspect");
        std::future::ready(Ok(()))
    };
    let _worker = p.worker().handle_raw("a", handler).start().await.unwrap();
    // Far sooner than a read of the other lanes gives up.
    let queue = p.queue.clone();
    let busy = tokio::spawn(async move {
        loop {
            queue.enqueue(NewJob::raw("a", "other")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(!next(&mut ran).await);

    p.t.redis(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(p.t.release(&held).await, []);

    let found = async { while !next(&mut ran).await {} };
    let found = tokio::time::timeout(SLACK, found).await;
    found.expect("the suspect runs, though the queue is never empty");
    busy.abort();
}

/// While all of a read's jobs come, the next is on its way already: the suspects are looked for all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_has_its_turn_while_jobs_flow() {
    const OTHERS: usize = 30_000;
    let p = Program::new().await;
    p.t.suspect(NewJob::raw("a", "suspect")).await;
    let held = p.t.claim_suspect("worker-c").await.unwrap();
    let others = vec![NewJob::raw("a", "other"); OTHERS];
    p.queue.enqueue_all(others).await.unwrap();
    let (tell, mut ran) = unbounded_channel();
    let handler = move |job: Context| {
        let _ = tell.send(job.payload() == "suspect");
        std::future::ready(Ok(()))
    };
    let worker = p.worker().handle_raw("a", handler).start().await.unwrap();
    assert!(!next(&mut ran).await);

    assert_eq!(p.t.release(&held).await, []);

    let mut before = 1;
    while !next(&mut ran).await {
        before += 1;
    }
    assert!(before < OTHERS, "it came when all others were through");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_runs_suspects_one_at_a_time_beside_all_other_jobs() {
    let p = Program::over(Fixture::new().await).await;
    for _ in 0..5 {
        p.t.suspect(NewJob::raw("a", "suspect")).await;
    }
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (tell, mut ran) = unbounded_channel();
    let go_on = Arc::new(tokio::sync::Semaphore::new(0));
    let handler = {
        let (now, most, go_on) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&go_on));
        move |job: Context| {
            let (now, most, go_on) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&go_on));
            let tell = tell.clone();
            async move {
                let suspect = job.payload() == "suspect";
                if suspect {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                }
                let _ = tell.send(suspect);
                if suspect {
                    let _ = go_on.acquire().await;
                    now.fetch_sub(1, Ordering::SeqCst);
                }
                Ok(())
            }
        }
    };
    let _worker = p.worker().handle_raw("a", handler).start().await.unwrap();
    assert!(next(&mut ran).await, "the first suspect runs at once");

    // While it runs, the others run and the other suspects wait.
    for _ in 0..3 {
        p.enqueue(NewJob::raw("a", "other")).await;
        assert!(!next(&mut ran).await);
    }
    let waiting = || {
        let pending =
            p.t.redis(&["XPENDING", &p.t.key("ready:suspect"), "workers"]);
        pending.list()[0].int()
    };
    assert_eq!(waiting(), 1, "a suspect was claimed that cannot run yet");

    // Each follows as soon as the one before is settled: nobody waits for the end of a blocked read.
    let began = std::time::Instant::now();
    go_on.add_permits(5);
    p.until_completed(8).await;
    assert_eq!(most.load(Ordering::SeqCst), 1);
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}
