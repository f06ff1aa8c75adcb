//! running -> running

use std::time::Duration;

use millstream::broker::Lane;

use crate::support::verbs::{WORKER, plain};
use crate::support::{Fixture, PATIENCE};

#[tokio::test]
async fn a_renewed_lease_starts_again_and_keeps_its_job() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;
    t.let_lease_lapse(&delivery);

    assert_eq!(t.extend(&delivery).await, []);

    assert!(t.silence_of(&delivery) < Duration::from_secs(60));
    assert_eq!(t.sweep().await, (0, 0));
    assert_eq!(t.complete(&[&delivery]).await, []);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_stale_worker_renews_nothing_and_is_told() {
    let t = Fixture::new().await;
    let first = t.running(plain()).await;
    let second = t.take_over(&first).await;
    t.let_lease_lapse(&second);
    let before = t.state_hash();

    assert_eq!(t.extend(&first).await, [first.entry]);

    assert_eq!(t.state_hash(), before);
    assert!(
        t.silence_of(&second) > Duration::from_secs(60),
        "the other's lease was renewed"
    );
}

#[tokio::test]
async fn one_lost_lease_among_a_thousand_is_told_and_the_rest_are_renewed() {
    let t = Fixture::new().await;
    t.enqueue_many(1000).await;
    let deliveries = t.claim(1000).await;
    t.complete(&[&deliveries[500]]).await;
    let entries: Vec<_> = deliveries.iter().map(|delivery| delivery.entry).collect();
    t.let_lease_lapse(&deliveries[999]);

    let lost = t
        .broker
        .extend(deliveries[0].lane, WORKER, &entries, PATIENCE)
        .await;

    assert_eq!(lost.unwrap(), [entries[500]]);
    assert!(t.silence_of(&deliveries[999]) < Duration::from_secs(60));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_job_that_is_only_ready_cannot_be_renewed() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;
    t.release(&delivery).await;
    let never_claimed = t.enqueue(plain()).await.as_str().parse().unwrap();
    let before = t.state_hash();

    assert_eq!(t.extend(&delivery).await, [delivery.entry]);
    let lost = t
        .broker
        .extend(Lane::Ready, WORKER, &[never_claimed], PATIENCE)
        .await;
    assert_eq!(lost.unwrap(), [never_claimed]);

    assert_eq!(t.state_hash(), before);
}
