//! Redis goes away and comes back: senders are told to come again, in time, and nothing is made twice.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::support::senders::{self, BODY, Delivery};
use crate::support::{ANSWERED_WITHIN, Inbox, Place};

/// Delivers all at once; every one must be told to come again, in time.
async fn all_are_told_to_come_again(inbox: &Inbox, deliveries: &[Delivery]) {
    join_all(deliveries.iter().map(async |delivery| {
        let sent = Instant::now();
        let answer = inbox.deliver(delivery).await;
        let took = sent.elapsed();
        answer.assert_unavailable();
        assert!(took < ANSWERED_WITHIN, "answered after {took:?}");
    }))
    .await;
}

/// Deliveries one after the other, without waiting for answers: each finds those before it waiting for Redis.
async fn a_stream_is_told_to_come_again(inbox: &Inbox, deliveries: &[Delivery], apart: Duration) {
    join_all(deliveries.iter().enumerate().map(async |(at, delivery)| {
        tokio::time::sleep(apart * u32::try_from(at).unwrap()).await;
        all_are_told_to_come_again(inbox, std::slice::from_ref(delivery)).await;
    }))
    .await;
}

fn deliveries(names: &str, count: usize) -> Vec<Delivery> {
    let make = |at| senders::shopify(&format!("{names}-{at}"), BODY);
    (0..count).map(make).collect()
}

/// Delivers all again until they are stored, and counts the jobs: one per delivery id.
async fn all_are_stored_once(place: &Place, inbox: &Inbox, deliveries: &[Delivery]) {
    let again = deliveries
        .iter()
        .map(|delivery| inbox.deliver_until_stored(delivery));
    let ids = join_all(again).await;
    let ids: HashSet<String> = ids.iter().map(|answer| answer.stored().0).collect();
    assert_eq!(ids.len(), deliveries.len(), "two deliveries share a job");
    let jobs = place.inspect().list(None, 1000).await.unwrap();
    let jobs: HashSet<String> = jobs.into_iter().map(|job| job.id.into()).collect();
    assert_eq!(
        jobs, ids,
        "a job without a delivery, or the other way round"
    );
    assert_eq!(place.stats().await.enqueued_total, ids.len() as u64);
}

#[tokio::test]
async fn a_killed_redis_is_answered_with_come_again_and_a_restarted_one_stores() {
    let place = Place::durable().await;
    let inbox = place.gateway().await;
    let mut sent = deliveries("before", 1);
    let (before, _) = inbox.deliver(&sent[0]).await.stored();

    place.redis.kill().unwrap();
    let during = deliveries("during", 20);
    all_are_told_to_come_again(&inbox, &during[..1]).await;
    all_are_told_to_come_again(&inbox, &during).await;
    all_are_told_to_come_again(&inbox, &sent).await;

    place.redis.restart().unwrap();
    assert_eq!(
        inbox.deliver_until_stored(&sent[0]).await.stored(),
        (before, true)
    );
    sent.extend(during);
    all_are_stored_once(&place, &inbox, &sent).await;
}

#[tokio::test]
async fn a_frozen_redis_is_answered_with_come_again_and_a_thawed_one_stores_each_delivery_once() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    inbox
        .deliver(&senders::shopify("before", BODY))
        .await
        .stored();

    place.redis.freeze().unwrap();
    let during = deliveries("during", 20);
    all_are_told_to_come_again(&inbox, &during).await;

    // What the frozen server had been sent is carried out now, and the senders come again.
    place.redis.thaw().unwrap();
    let mut sent = vec![senders::shopify("before", BODY)];
    sent.extend(during);
    all_are_stored_once(&place, &inbox, &sent).await;
}

#[tokio::test]
async fn deliveries_that_queue_up_behind_a_frozen_redis_are_answered_in_time_as_well() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    // A connection that has worked, as in production.
    let mut sent = deliveries("before", 1);
    inbox.deliver(&sent[0]).await.stored();

    place.redis.freeze().unwrap();
    let during = deliveries("during", 60);
    a_stream_is_told_to_come_again(&inbox, &during, Duration::from_millis(100)).await;

    place.redis.thaw().unwrap();
    sent.extend(during);
    all_are_stored_once(&place, &inbox, &sent).await;
}

#[tokio::test]
async fn a_redis_that_is_killed_while_deliveries_come_loses_none_that_was_answered() {
    let place = Place::durable().await;
    let inbox = place.gateway().await;
    let all = deliveries("load", 200);
    let answered = async {
        join_all(
            all.iter()
                .map(|delivery| inbox.deliver_until_stored(delivery)),
        )
        .await;
    };
    let killed = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(15)).await;
            place.redis.kill().unwrap();
            place.redis.restart().unwrap();
        }
    };
    tokio::join!(answered, killed);
    all_are_stored_once(&place, &inbox, &all).await;
}
