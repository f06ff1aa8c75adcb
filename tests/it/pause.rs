//! A paused queue takes jobs in and gives none out.

use millstream::job::state::State;

use crate::support::verbs::plain;
use crate::support::{Fixture, LATER, PATIENCE};

#[tokio::test]
async fn nothing_is_claimed_from_a_paused_queue_and_all_of_it_afterwards() {
    let t = Fixture::new().await;
    let mut heard = t.listen();
    let running = t.running(plain()).await;
    let ids = t.enqueue_many(3).await;

    t.broker.pause(true, PATIENCE).await.unwrap();

    assert_eq!(heard.message(), "limits");
    assert!(t.broker.is_paused(PATIENCE).await.unwrap());
    assert!(t.broker.stats(PATIENCE).await.unwrap().paused);
    let before = t.state_hash();
    assert_eq!(t.claim(10).await.len(), 0);
    assert_eq!(t.state_hash(), before);
    // What runs runs on, and what comes in is taken.
    assert_eq!(t.complete(&[&running]).await, []);
    let delayed = t.enqueue(plain().delay(LATER)).await;
    t.make_due(&delayed);
    t.promote().await;
    assert_eq!(t.state_of(&delayed), Some(State::Ready));

    t.broker.pause(false, PATIENCE).await.unwrap();

    assert!(!t.broker.is_paused(PATIENCE).await.unwrap());
    let claimed = t.claim_ids(10).await;
    assert_eq!(claimed, [ids, vec![delayed]].concat());
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn pausing_twice_is_ended_by_resuming_once() {
    let t = Fixture::new().await;
    t.broker.pause(true, PATIENCE).await.unwrap();
    t.broker.pause(true, PATIENCE).await.unwrap();

    t.broker.pause(false, PATIENCE).await.unwrap();

    assert!(!t.broker.is_paused(PATIENCE).await.unwrap());
    let events: Vec<_> = t.events().into_iter().map(|(event, _)| event).collect();
    assert_eq!(events, ["paused", "paused", "resumed"]);
}
