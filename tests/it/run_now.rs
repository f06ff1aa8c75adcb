//! scheduled -> ready, because an operator says so

use millstream::Error;
use millstream::broker::{Caller, Lane};
use millstream::job::state::State;

use crate::support::verbs::plain;
use crate::support::{Fixture, LATER, PATIENCE};

#[tokio::test]
async fn a_scheduled_job_runs_ahead_of_those_that_wait() {
    let t = Fixture::new().await;
    let delivery = t.running(plain().unique("k")).await;
    t.retry(&delivery, LATER, "boom").await.unwrap();
    t.enqueue_many(3).await;

    t.broker
        .run_now(&mut t.caller(), &delivery.id, PATIENCE)
        .await
        .unwrap();

    assert_eq!(t.state_of(&delivery.id), Some(State::Ready));
    t.assert_every_job_has_one_home();
    let next = t.claim_one().await;
    assert_eq!(
        (&next.id, next.attempt, next.lane),
        (&delivery.id, 2, Lane::Next)
    );
    t.assert_stats_agree().await;
}

#[tokio::test]
async fn only_a_scheduled_job_can_be_run_now() {
    let t = Fixture::new().await;
    let dead = t.dead(plain()).await;
    let back = t.running(plain()).await;
    t.release(&back).await;
    let before = t.state_hash();

    for (id, expected) in [(&dead, "dead"), (&back.id, "ready")] {
        let reply = t.broker.run_now(&mut t.caller(), id, PATIENCE).await;
        assert!(
            matches!(reply, Err(Error::WrongState { ref state, .. }) if state == expected),
            "{reply:?}"
        );
    }
    let reply = t
        .broker
        .run_now(&mut t.caller(), &"no such job".into(), PATIENCE)
        .await;
    assert!(matches!(reply, Err(Error::NotFound { .. })), "{reply:?}");

    assert_eq!(t.state_hash(), before);
}

#[tokio::test]
async fn a_job_that_is_run_now_twice_runs_once() {
    let t = Fixture::new().await;
    let id = t.enqueue(plain().delay(LATER)).await;
    t.broker
        .run_now(&mut t.caller(), &id, PATIENCE)
        .await
        .unwrap();

    let reply = t.broker.run_now(&mut t.caller(), &id, PATIENCE).await;

    assert!(matches!(reply, Err(Error::WrongState { .. })), "{reply:?}");
    assert_eq!(t.claim(10).await.len(), 1);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_run_now_sent_again_succeeds_and_acts_once() {
    let t = Fixture::new().await;
    let id = t.enqueue(plain().delay(LATER)).await;
    let (mut first, mut again) = (Caller::new("o"), Caller::new("o"));

    t.broker.run_now(&mut first, &id, PATIENCE).await.unwrap();
    let after = t.state_hash();
    t.broker.run_now(&mut again, &id, PATIENCE).await.unwrap();

    assert_eq!(t.state_hash(), after);
    t.assert_every_job_has_one_home();
}
