//! A delivery id makes one job, however often and wherever it arrives.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use futures_util::future::join_all;
use millstream::gateway::GatewaySettings;
use millstream::private_redis::PrivateRedis;
use millstream::{Context, NewJob, Priority};

use crate::support::senders::{self, BODY, Delivery};
use crate::support::{Place, QUEUE, eventually};

#[tokio::test]
async fn the_same_delivery_again_is_answered_with_the_first_job() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let make: [fn(&str, &[u8]) -> Delivery; 4] = [
        senders::shopify,
        senders::github,
        senders::standard,
        senders::billing,
    ];
    for make in make {
        let (id, duplicate) = inbox.deliver(&make("d1", BODY)).await.stored();
        assert!(!duplicate);
        // Signed anew, as a sender does that tries again later.
        assert_eq!(inbox.deliver(&make("d1", BODY)).await.stored(), (id, true));
        assert!(!inbox.deliver(&make("d2", BODY)).await.stored().1);
    }
    // A source knows only its own delivery ids: two jobs each.
    assert_eq!(place.stats().await.enqueued_total, 8);
}

#[tokio::test]
async fn an_event_that_is_named_in_the_body_is_known_again_by_it() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let event = br#"{"type":"event_callback","event_id":"Ev1","event":{"type":"message"}}"#;
    let retry = |delivery: Delivery| delivery.with("X-Slack-Retry-Num", "1");
    for (first, again) in [
        (senders::slack(event), retry(senders::slack(event))),
        (
            senders::stripe(br#"{"id":"evt_1","type":"invoice.paid"}"#),
            // Sent anew with another number of deliveries that are pending.
            senders::stripe(br#"{"id":"evt_1","type":"invoice.paid","pending_webhooks":2}"#),
        ),
    ] {
        let (id, duplicate) = inbox.deliver(&first).await.stored();
        assert!(!duplicate);
        assert_eq!(inbox.deliver(&again).await.stored(), (id, true));
    }
    assert_eq!(place.stats().await.enqueued_total, 2);
}

#[tokio::test]
async fn fifty_copies_at_once_through_two_gateways_make_one_job() {
    let place = Place::new().await;
    let inboxes = [place.gateway().await, place.gateway().await];
    let delivery = senders::shopify("d1", BODY);

    let copies = (0..50).map(|copy| inboxes[copy % 2].deliver(&delivery));
    let answers = join_all(copies).await;

    let stored: Vec<(String, bool)> = answers.iter().map(|answer| answer.stored()).collect();
    let job = place.only_job().await;
    assert!(
        stored.iter().all(|(id, _)| id == job.id.as_str()),
        "{stored:?}"
    );
    let first = stored.iter().filter(|(_, duplicate)| !duplicate).count();
    assert_eq!(first, 1, "{stored:?}");
    assert_eq!(place.stats().await.ready, 1);
}

#[tokio::test]
async fn a_delivery_whose_job_is_completed_is_still_a_duplicate() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let worker = place.client.worker(QUEUE).unwrap();
    let worker = worker
        .fallback(async |_: Context| Ok(()))
        .start()
        .await
        .unwrap();
    let delivery = senders::shopify("d1", BODY);
    let (id, _) = inbox.deliver(&delivery).await.stored();
    let is_completed = async || place.stats().await.completed_total == 1;
    eventually("the job is completed", is_completed).await;

    assert_eq!(inbox.deliver(&delivery).await.stored(), (id, true));

    let stats = place.stats().await;
    assert_eq!(
        (stats.enqueued_total, stats.ready, stats.running),
        (1, 0, 0)
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_delivery_to_a_source_of_high_priority_is_high_and_known_again() {
    let place = Place::new().await;
    let urgent = |settings: &mut GatewaySettings| {
        for (_, source) in &mut settings.sources {
            source.priority = Priority::High;
        }
    };
    let inbox = place.gateway_with(Vec::new(), urgent).await;
    let (id, duplicate) = inbox.deliver(&senders::shopify("d1", BODY)).await.stored();
    assert!(!duplicate);
    let again = inbox.deliver(&senders::shopify("d1", BODY)).await;
    assert_eq!(again.stored(), (id, true));
    assert_eq!(place.only_job().await.priority, Priority::High);
}

#[tokio::test]
async fn without_a_delivery_id_every_request_is_a_job() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let delivery = senders::shopify("-", BODY).without("X-Shopify-Webhook-Id");
    let (first, one) = inbox.deliver(&delivery).await.stored();
    let (second, two) = inbox.deliver(&delivery).await.stored();
    assert_ne!(first, second);
    assert!(!one && !two);
    assert_eq!(place.stats().await.ready, 2);
}

/// Memory that Redis uses, bytes.
fn used_memory(redis: &PrivateRedis) -> usize {
    let mut stream = UnixStream::connect(redis.socket()).unwrap();
    stream.write_all(b"INFO memory\r\nQUIT\r\n").unwrap();
    let mut info = String::new();
    stream.read_to_string(&mut info).unwrap();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    line.unwrap().parse().unwrap()
}

/// The figure of docs/webhooks.md. Two queues of the same jobs, of which one remembers the delivery ids.
#[tokio::test]
async fn what_remembering_costs() {
    const DELIVERIES: usize = 1 << 16;
    let place = Place::new().await;
    let mut grown = Vec::new();
    for (queue, remembers) in [("forgetful", false), ("webhooks", true)] {
        let queue = place.client.queue(queue).unwrap();
        let before = used_memory(&place.redis);
        for _ in 0..DELIVERIES / 1_000 {
            let jobs = (0..1_000).map(|_| {
                let job = NewJob::raw("shop/orders/create", "{}");
                let key = format!("shop/{}", uuid::Uuid::new_v4());
                if remembers {
                    job.unique_for(key, Duration::from_secs(72 * 3600))
                } else {
                    job
                }
            });
            queue.enqueue_all(jobs.collect()).await.unwrap();
        }
        grown.push(used_memory(&place.redis) - before);
    }
    let bytes = (grown[1] - grown[0]) / (DELIVERIES / 1_000 * 1_000);
    println!("a remembered delivery takes {bytes} bytes of Redis memory");
    assert!((150..=240).contains(&bytes), "{bytes}");
}
