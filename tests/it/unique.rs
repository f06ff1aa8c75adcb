//! Unique keys: free again after every way in which a job can end, and never in the way of the job that holds them.

use std::sync::Arc;
use std::time::Duration;

use millstream::broker::{DeathReason, Delivery};
use millstream::job::state::State;
use millstream::{Context, JobError, NewJob};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::unbounded_channel;

use crate::support::program::{Program, next};
use crate::support::verbs::plain;
use crate::support::{Fixture, LATER, PATIENCE};

fn job() -> NewJob {
    plain().unique("k")
}

impl Fixture {
    /// The key is free, and a job can have it at once. Then that job ends as well.
    async fn assert_free(&self, after: &str) {
        assert_eq!(self.unique_holder("k"), None, "held after: {after}");
        let enqueued = self.try_enqueue(&[job()]).await.unwrap();
        assert!(!enqueued[0].duplicate, "refused after: {after}");
        let next = self.claim_one().await;
        assert_eq!(self.complete(&[&next]).await, [], "{after}");
        self.assert_every_job_has_one_home();
    }

    async fn cancel_from(&self, id: &millstream::JobId, state: State) {
        let mut caller = self.caller();
        let was = self.broker.cancel(&mut caller, id, Some("k"), PATIENCE);
        assert_eq!(was.await.unwrap(), state);
    }

    async fn die(&self, delivery: &Delivery, reason: DeathReason) {
        let mut caller = self.caller();
        let died = self
            .broker
            .dead_letter(&mut caller, delivery, reason, "boom", PATIENCE);
        assert!(died.await.unwrap(), "{reason:?}");
    }
}

#[tokio::test]
async fn a_unique_key_is_free_after_completion_and_after_every_death() {
    let t = Fixture::new().await;

    let running = t.running(job()).await;
    t.complete(&[&running]).await;
    t.assert_free("completed").await;
    let failed = t.running(job()).await;
    t.complete(&[&t.fail_once(&failed, "boom").await]).await;
    t.assert_free("failed, then completed").await;
    for reason in [DeathReason::Refused, DeathReason::Attempts] {
        t.die(&t.running(job()).await, reason).await;
        t.assert_free("dead").await;
    }
    let expiring = t.running(job().expires(Duration::from_millis(1))).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    t.die(&expiring, DeathReason::Expired).await;
    t.assert_free("expired").await;
    t.suspect(job()).await;
    t.let_lease_lapse(&t.claim_suspect("worker-c").await.unwrap());
    assert_eq!(t.sweep().await, (0, 1));
    t.assert_free("a crash loop").await;
}

#[tokio::test]
async fn a_unique_key_is_free_after_a_cancel_in_every_state() {
    let t = Fixture::new().await;

    let id = t.enqueue(job().delay(LATER)).await;
    t.cancel_from(&id, State::Scheduled).await;
    t.assert_free("cancelled while delayed").await;
    let running = t.running(job()).await;
    t.retry(&running, LATER, "boom").await.unwrap();
    t.cancel_from(&running.id, State::Scheduled).await;
    t.assert_free("cancelled before a retry").await;
    let id = t.enqueue(job()).await;
    t.cancel_from(&id, State::Ready).await;
    t.assert_free("cancelled while ready").await;
    let running = t.running(job()).await;
    t.release(&running).await;
    t.cancel_from(&running.id, State::Ready).await;
    t.assert_free("cancelled after it was handed back").await;
    let running = t.running(job()).await;
    t.cancel_from(&running.id, State::Running).await;
    t.assert_free("cancelled while it ran").await;
    let suspect = t.suspect(job()).await;
    t.cancel_from(&suspect.id, State::Ready).await;
    t.assert_free("cancelled as a suspect").await;
}

#[tokio::test]
async fn a_unique_key_is_free_after_what_operators_do_to_the_dead() {
    let t = Fixture::new().await;

    let id = t.dead(job()).await;
    let purged = t.broker.purge(&mut t.caller(), &[id], PATIENCE).await;
    assert_eq!(purged.unwrap(), 1);
    t.assert_free("purged").await;
    t.dead(job()).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let at_once = Some(Duration::from_millis(1));
    let pruned = t
        .broker
        .prune(None, at_once, None, None, 500, PATIENCE)
        .await;
    assert_eq!(pruned.unwrap().dead, 1);
    t.expect_unbooked(-1);
    t.assert_free("pruned").await;
    let id = t.dead(job()).await;
    let redriven = t.broker.redrive(&mut t.caller(), &[id], PATIENCE).await;
    assert_eq!(redriven.unwrap(), 1);
    let again = t.claim_one().await;
    assert_eq!(t.complete(&[&again]).await, []);
    t.assert_free("redriven and completed").await;
}

#[tokio::test]
async fn a_delayed_unique_job_that_is_retried_five_times_is_never_in_its_own_way() {
    let p = Program::new().await;
    let (tell, mut hear) = unbounded_channel();
    let go = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&go);
    let worker = p.worker().fallback(move |job: Context| {
        let (tell, gate) = (tell.clone(), Arc::clone(&gate));
        async move {
            tell.send(job.attempt())?;
            gate.acquire().await?.forget();
            match job.attempt() {
                6 => Ok(()),
                _ => Err(JobError::failed("boom")),
            }
        }
    });
    let worker = worker.start().await.unwrap();

    let first = p.enqueue(job().delay(Duration::from_millis(50))).await;
    for attempt in 1..=6 {
        assert_eq!(next(&mut hear).await, attempt);
        let again = p.queue.enqueue(job()).await.unwrap();
        assert_eq!((again.duplicate, again.id), (true, first.clone()));
        go.add_permits(1);
    }

    p.until_completed(1).await;
    assert_eq!(p.t.unique_holder("k"), None);
    worker.stop().await;
}
