//! running -> ready, without an attempt

use millstream::broker::{Caller, Lane};
use millstream::job::state::State;

use crate::support::verbs::{FOREIGN, plain};
use crate::support::{Fixture, PATIENCE};

#[tokio::test]
async fn a_job_handed_back_runs_next_and_has_used_no_attempt() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;
    let delivery = t.fail_once(&delivery, "boom").await;
    t.enqueue_many(3).await;

    assert_eq!(t.release(&delivery).await, []);

    assert_eq!(t.state_of(&delivery.id), Some(State::Ready));
    let again = t.claim_one().await;
    assert_eq!(
        (&again.id, again.attempt, again.lane),
        (&delivery.id, 2, Lane::Next)
    );
    assert_eq!(
        t.record_of(&delivery.id).unwrap()["errors"][0]["error"],
        "boom"
    );
    assert_eq!(t.counter("released"), 1);
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
}

#[tokio::test]
async fn a_release_by_a_stale_worker_changes_nothing() {
    let t = Fixture::new().await;
    let first = t.running(plain()).await;
    let second = t.take_over(&first).await;
    let before = t.state_hash();

    assert_eq!(t.release(&first).await, [first.entry]);

    assert_eq!(t.state_hash(), before);
    assert_eq!(t.complete(&[&second]).await, []);
}

#[tokio::test]
async fn a_release_sent_again_finds_nothing_left_to_hand_back() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;
    t.release(&delivery).await;
    let before = t.state_hash();

    assert_eq!(t.release(&delivery).await, [delivery.entry]);

    assert_eq!(t.state_hash(), before);
}

#[tokio::test]
async fn a_thousand_jobs_are_handed_back_in_order_but_for_one_that_is_stale() {
    let t = Fixture::new().await;
    let mut ids = t.enqueue_many(1000).await;
    let deliveries = t.claim(1000).await;
    t.complete(&[&deliveries[500]]).await;
    ids.remove(500);
    let entries: Vec<_> = deliveries.iter().map(|delivery| delivery.entry).collect();

    let lost = t
        .broker
        .release(&mut t.caller(), Lane::Ready, &entries, PATIENCE)
        .await;

    assert_eq!(lost.unwrap(), [entries[500]]);
    let again = t.claim_ids(1000).await;
    assert_eq!(again, ids);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_ready_job_cannot_be_handed_back() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;
    t.release(&delivery).await;
    let waiting = t
        .home_of(&delivery.id)
        .unwrap()
        .at
        .unwrap()
        .1
        .parse()
        .unwrap();
    let before = t.state_hash();

    let lost = t
        .broker
        .release(&mut t.caller(), Lane::Next, &[waiting], PATIENCE)
        .await;

    assert_eq!(lost.unwrap(), [waiting]);
    assert_eq!(t.state_hash(), before);
}

#[tokio::test]
async fn foreign_entries_are_handed_back_with_all_they_said() {
    let t = Fixture::new().await;
    for fields in FOREIGN {
        let id = t.add_by_hand(fields);
        let delivery = t.claim_one().await;
        assert_eq!(t.release(&delivery).await, [], "{fields:?}");
        let again = t.claim_one().await;
        assert_eq!(again.id, id, "{fields:?}");
        let said: Vec<String> = rmp_serde::from_slice(&again.payload).unwrap();
        assert_eq!(said, *fields);
    }
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_hand_back_whose_answer_was_lost_is_told_as_done() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;
    let (mut first, mut again) = (Caller::new("w"), Caller::new("w"));
    let (lane, entries) = (delivery.lane, [delivery.entry]);

    let lost = t.broker.release(&mut first, lane, &entries, PATIENCE).await;
    assert_eq!(lost.unwrap(), []);
    let after = t.state_hash();
    let lost = t.broker.release(&mut again, lane, &entries, PATIENCE).await;

    assert_eq!(lost.unwrap(), []);
    assert_eq!(t.state_hash(), after);
    t.assert_every_job_has_one_home();
}
