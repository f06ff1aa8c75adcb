//! Redis goes away and comes back: senders are told to come again, in time, and nothing is made twice.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::support::senders::{self, BODY, Delivery};
use crate::support::{ANSWERED_WITHIN, Inbox, Place};

const AT_ONCE: Duration = Duration::ZERO;
/// What a single answer is held to: where other tests take all cores, the gateway's timer and the test may be late together.
/// So every answer must come within this, and half of them within what is promised.
const TOLERATED: Duration = Duration::from_secs(7);

/// Delivers all, each so much later than the one before; every one must be told to come again, in time.
async fn all_are_told_to_come_again(inbox: &Inbox, deliveries: &[Delivery], apart: Duration) {
    let all = deliveries.iter().zip(0..).map(async |(delivery, at)| {
        tokio::time::sleep(apart * at).await;
        let sent = Instant::now();
        inbox.deliver(delivery).await.assert_unavailable();
        sent.elapsed()
    });
    let mut waits = join_all(all).await;
    waits.sort_unstable();
    let (median, longest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    assert!(
        median < ANSWERED_WITHIN && longest < TOLERATED,
        "answered after {median:?}, at the latest {longest:?}"
    );
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
    all_are_told_to_come_again(&inbox, &during, AT_ONCE).await;
    all_are_told_to_come_again(&inbox, &sent, AT_ONCE).await;

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
    all_are_told_to_come_again(&inbox, &during, AT_ONCE).await;

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
    // Each finds those before it waiting.
    all_are_told_to_come_again(&inbox, &during, Duration::from_millis(100)).await;

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

#[tokio::test]
async fn a_sender_that_goes_away_before_the_answer_and_comes_again_makes_one_job() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    inbox.deliver(&senders::shopify("d0", BODY)).await.stored();
    let delivery = senders::shopify("d1", BODY);

    place.redis.freeze().unwrap();
    let mut gone = inbox.connect().await;
    gone.send(&delivery.request()).await;
    // By the answer to this one the gateway has read what was sent before, and has sent it on.
    assert_eq!(inbox.get("/health/live").await.status, 200);
    drop(gone);
    place.redis.thaw().unwrap();

    all_are_stored_once(&place, &inbox, &[senders::shopify("d0", BODY), delivery]).await;
}
