//! Times by which a job must have started, or be done: what is too late ends in the dead letter, where everybody sees it.

use std::time::Duration;

use millstream::broker::{Expiry, Promotion};
use millstream::job::state::State;
use millstream::{Context, JobError, JobId};
use tokio::sync::mpsc::unbounded_channel;

use crate::support::program::{Program, next};
use crate::support::verbs::plain;
use crate::support::{Fixture, LATER, PATIENCE};

const SOON: Duration = Duration::from_millis(20);

impl Fixture {
    /// Lets Redis's clock go on beyond a time that was `after` away.
    async fn let_pass(&self, after: Duration) {
        let until = self.now_us() + i64::try_from(after.as_micros()).unwrap() + 2_000;
        while self.now_us() < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn assert_expired(&self, id: &JobId, why: &str) {
        assert_eq!(self.state_of(id), Some(State::Dead));
        let record = self.record_of(id).unwrap();
        assert_eq!(record["reason"], "expired");
        let errors = record["errors"].as_array().unwrap();
        let last = errors.last().unwrap()["error"].as_str().unwrap();
        assert!(last.contains(why), "{last}");
        assert!(self.events().contains(&("dead".to_owned(), id.to_string())));
        self.assert_every_job_has_one_home();
    }
}

#[tokio::test]
async fn a_scheduled_job_expires_when_its_time_is_over_and_not_when_it_is_due() {
    let t = Fixture::new().await;
    let jobs = [
        (plain().expires(SOON), "expires"),
        (plain().deadline(SOON), "deadline"),
    ];
    for (job, why) in jobs {
        let id = t.enqueue(job.delay(LATER).unique("k")).await;
        t.let_pass(SOON).await;

        let promotion = t.promote().await;

        let Promotion::Promoted { count, unlock, .. } = promotion else {
            panic!("{promotion:?}");
        };
        assert_eq!(
            (count, &unlock[..]),
            (0, &[("k".to_owned(), id.clone())][..])
        );
        t.broker.unlock(&unlock, PATIENCE).await.unwrap();
        t.assert_expired(&id, why);
        assert_eq!(t.unique_holder("k"), None);
    }
    assert_eq!((t.counter("dead"), t.counter("failed")), (2, 0));
}

#[tokio::test]
async fn a_retry_waits_no_longer_than_until_the_deadline_and_a_snooze_neither() {
    let t = Fixture::new().await;
    let snoozed = t.running(plain().deadline(LATER)).await;
    t.snooze(&snoozed, 2 * LATER).await.unwrap();
    let deadline = t.scan().meta_of(snoozed.id.as_str())["deadline_at_ms"].as_i64();
    let due = t.home_of(&snoozed.id).unwrap().score;
    assert!((deadline.unwrap()..=deadline.unwrap() + 1).contains(&due));
    let late = t.running(plain().deadline(SOON)).await;
    t.let_pass(SOON).await;
    t.retry(&late, LATER, "boom").await.unwrap();
    t.let_pass(Duration::ZERO).await;

    t.promote().await;

    t.assert_expired(&late.id, "deadline");
    let record = t.record_of(&late.id).unwrap();
    assert_eq!(record["errors"][0]["error"], "boom");
}

#[tokio::test]
async fn redis_says_whether_a_job_is_out_of_time_and_how_much_it_has_left() {
    let t = Fixture::new().await;
    let job = plain().expires(LATER).deadline(2 * LATER);
    let running = t.running(job).await;
    let expiry = t.broker.expire(&mut t.caller(), &running, PATIENCE).await;
    let Ok(Expiry::In(Some(left))) = expiry else {
        panic!("{expiry:?}");
    };
    assert!(left <= 2 * LATER && left > LATER, "{left:?}");
    let running = t.running(plain().expires(LATER)).await;
    let expiry = t.broker.expire(&mut t.caller(), &running, PATIENCE).await;
    assert_eq!(expiry.unwrap(), Expiry::In(None));
    let running = t.running(plain().deadline(SOON)).await;
    t.let_pass(SOON).await;

    let expiry = t.broker.expire(&mut t.caller(), &running, PATIENCE).await;

    assert_eq!(expiry.unwrap(), Expiry::Expired);
    t.assert_expired(&running.id, "deadline");
}

#[tokio::test]
async fn a_job_that_became_ready_in_a_paused_queue_expires_when_its_turn_comes() {
    let p = Program::new().await;
    let inspector = p.client.inspect(&p.t.queue).unwrap();
    inspector.pause().await.unwrap();
    let (tell, mut hear) = unbounded_channel();
    let worker = p.worker().fallback(move |job: Context| {
        let tell = tell.clone();
        async move { Ok::<(), JobError>(tell.send(job.id().clone())?) }
    });
    let worker = worker.start().await.unwrap();
    let late = p.enqueue(plain().deadline(SOON).unique("k")).await;
    let good = p.enqueue(plain().deadline(LATER)).await;
    p.t.let_pass(SOON).await;

    inspector.resume().await.unwrap();

    assert_eq!(next(&mut hear).await, good);
    p.until_dead(&late).await;
    p.until_completed(1).await;
    p.t.assert_expired(&late, "deadline");
    assert_eq!(p.t.unique_holder("k"), None);
    worker.stop().await;
}

#[tokio::test]
async fn an_attempt_is_cut_off_at_the_deadline_and_the_job_does_not_run_again() {
    let p = Program::new().await;
    let (tell, mut hear) = unbounded_channel();
    let worker = p.worker().timeout(LATER).fallback(move |job: Context| {
        let tell = tell.clone();
        async move {
            tell.send(job.deadline())?;
            job.cancelled().cancelled().await;
            Err::<(), _>(JobError::failed("cut off"))
        }
    });
    let worker = worker.start().await.unwrap();

    let id = p
        .enqueue(plain().deadline(Duration::from_millis(200)))
        .await;

    let cut_off = next(&mut hear).await;
    assert!(cut_off <= std::time::Instant::now() + Duration::from_millis(200));
    p.until_dead(&id).await;
    p.t.assert_expired(&id, "deadline");
    assert_eq!(
        p.t.record_of(&id).unwrap()["errors"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert!(hear.try_recv().is_err(), "it ran once");
    worker.stop().await;
}

#[tokio::test]
async fn a_dead_job_that_is_redriven_has_all_the_time_in_the_world() {
    let t = Fixture::new().await;
    let id = t.enqueue(plain().delay(LATER).deadline(SOON)).await;
    t.let_pass(SOON).await;
    t.promote().await;
    let redriven = t.broker.redrive(&mut t.caller(), &[id], PATIENCE).await;
    assert_eq!(redriven.unwrap(), 1);

    let running = t.claim_one().await;

    let expiry = t.broker.expire(&mut t.caller(), &running, PATIENCE).await;
    assert_eq!(expiry.unwrap(), Expiry::In(None));
}
