//! A queue that may have only so many jobs refuses more of them, and drops none that it has.

use millstream::broker::Caller;
use millstream::job::state::State;
use millstream::{Error, NewJob, OnConflict};
use tokio::task::JoinSet;

use crate::support::program::Program;
use crate::support::verbs::plain;
use crate::support::{Fixture, LATER, PATIENCE};

impl Fixture {
    async fn limit_to(&self, jobs: u64) {
        let set = self.broker.set_max_depth(Some(jobs), PATIENCE).await;
        set.unwrap();
    }

    async fn assert_full(&self, jobs: &[NewJob], expected: (u64, u64)) {
        let before = self.state_hash();
        match self.try_enqueue(jobs).await {
            Err(Error::QueueFull {
                queue,
                depth,
                max_depth,
            }) => assert_eq!((queue, (depth, max_depth)), (self.queue.clone(), expected)),
            other => panic!("{other:?}"),
        }
        assert_eq!(self.state_hash(), before);
    }
}

#[tokio::test]
async fn a_bulk_that_does_not_fit_whole_is_refused_whole() {
    let t = Fixture::new().await;
    t.limit_to(3).await;
    t.enqueue(plain()).await;

    t.assert_full(&[plain(), plain(), plain()], (1, 3)).await;

    assert_eq!(t.try_enqueue(&[plain(), plain()]).await.unwrap().len(), 2);
    t.assert_full(&[plain()], (3, 3)).await;
    t.assert_full(&[plain().delay(LATER)], (3, 3)).await;
    t.broker.set_max_depth(None, PATIENCE).await.unwrap();
    t.enqueue_many(10).await;
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn every_unfinished_job_counts_and_no_finished_one() {
    let t = Fixture::new().await;
    t.dead(plain()).await;
    let done = t.running(plain()).await;
    t.complete(&[&done]).await;
    t.suspect(plain()).await;
    t.running(plain()).await;
    let back = t.running(plain()).await;
    t.release(&back).await;
    t.enqueue(plain().delay(LATER)).await;
    t.enqueue(plain()).await;
    t.limit_to(5).await;

    t.assert_full(&[plain()], (5, 5)).await;
}

#[tokio::test]
async fn a_duplicate_and_a_replacement_need_no_room_and_a_free_key_does() {
    let t = Fixture::new().await;
    let job = || plain().unique("k");
    let holder = t.enqueue(job()).await;
    t.limit_to(1).await;

    let again = t.try_enqueue(&[job()]).await.unwrap();
    assert_eq!((again[0].duplicate, &again[0].id), (true, &holder));
    let replaced = t
        .try_enqueue(&[job().on_conflict(OnConflict::Replace)])
        .await;
    assert!(replaced.unwrap()[0].replaced);
    t.assert_full(&[plain().unique("free")], (1, 1)).await;
    // The one at the end of a window is a new job.
    let throttled = plain().throttle("k", LATER);
    t.assert_full(&[throttled], (1, 1)).await;
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn what_is_in_the_queue_moves_on_however_full_it_is() {
    let t = Fixture::new().await;
    let dead = t.dead(plain()).await;
    let running = t.running(plain()).await;
    t.limit_to(1).await;

    let again = t.fail_once(&running, "boom").await;
    assert_eq!(t.release(&again).await, []);
    let redriven = t.broker.redrive(&mut t.caller(), &[dead], PATIENCE).await;

    assert_eq!(redriven.unwrap(), 1);
    assert_eq!(t.claim(10).await.len(), 2);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_call_that_was_refused_may_be_sent_again_when_there_is_room() {
    let t = Fixture::new().await;
    let running = t.running(plain()).await;
    t.limit_to(1).await;
    let (mut first, mut again) = (Caller::new("p"), Caller::new("p"));
    let refused = t.broker.enqueue(&mut first, &[plain()], PATIENCE).await;
    assert!(
        matches!(refused, Err(Error::QueueFull { .. })),
        "{refused:?}"
    );
    t.complete(&[&running]).await;

    let stored = t.broker.enqueue(&mut again, &[plain()], PATIENCE).await;

    let id = stored.unwrap()[0].id.clone();
    assert_eq!(t.state_of(&id), Some(State::Ready));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_travel_together_fill_the_queue_to_the_brim_and_the_rest_is_told() {
    let p = Program::new().await;
    let inspector = p.client.inspect(&p.t.queue).unwrap();
    inspector.set_max_depth(Some(50)).await.unwrap();
    assert_eq!(inspector.max_depth().await.unwrap(), Some(50));
    let mut calls = JoinSet::new();
    for _ in 0..200 {
        let queue = p.queue.clone();
        calls.spawn(async move { queue.enqueue(plain()).await });
    }

    let answers = calls.join_all().await;

    let stored = answers.iter().filter(|answer| answer.is_ok()).count();
    let full = |answer: &&Result<_, Error>| matches!(answer, Err(Error::QueueFull { .. }));
    assert_eq!((stored, answers.iter().filter(full).count()), (50, 150));
    assert_eq!(p.t.counter("enqueued"), 50);
    let nonsense = inspector.set_max_depth(Some(0)).await;
    assert!(
        matches!(nonsense, Err(Error::Setting { .. })),
        "{nonsense:?}"
    );
    p.t.assert_every_job_has_one_home();
}
