//! A signed request becomes one job, of exactly what was sent.

use std::collections::BTreeMap;

use millstream::job::state::State;

use crate::support::senders::{self, BODY, Delivery, SECRET};
use crate::support::{Place, http, shopify_source};

/// Headers that real requests bring and no job should have.
fn with_baggage(delivery: Delivery) -> Delivery {
    delivery
        .with("Authorization", "Bearer t0ken")
        .with("Cookie", "session=1")
        .with("User-Agent", "sender/1")
        .with("X-Forwarded-For", "203.0.113.7")
        .with("X-Unknown", "1")
}

/// Delivers to an inbox of its own and compares the one job that is made.
async fn becomes_one_job(delivery: Delivery, name: &str, kept: &[&str]) {
    let place = Place::new().await;
    let inbox = place.gateway().await;

    let (id, duplicate) = inbox
        .deliver(&with_baggage(delivery.clone()))
        .await
        .stored();

    assert!(!duplicate);
    let job = place.only_job().await;
    assert_eq!(job.id.as_str(), id);
    assert_eq!(job.name, name);
    assert_eq!(job.state, State::Ready);
    assert_eq!(job.codec, "raw");
    assert_eq!(job.payload.as_deref(), Some(delivery.body.as_slice()));
    let sent: BTreeMap<String, String> = delivery
        .headers
        .iter()
        .map(|(name, value)| (name.to_lowercase(), value.clone()))
        .collect();
    let expected = kept
        .iter()
        .map(|name| ((*name).to_owned(), sent[*name].clone()));
    assert_eq!(job.headers, expected.collect());
}

#[tokio::test]
async fn a_shopify_webhook_becomes_one_job_of_the_same_bytes() {
    let kept = [
        "content-type",
        "x-shopify-topic",
        "x-shopify-shop-domain",
        "x-shopify-api-version",
        "x-shopify-webhook-id",
    ];
    becomes_one_job(
        senders::shopify("b54557e4", BODY),
        "shop/orders/create",
        &kept,
    )
    .await;
}

#[tokio::test]
async fn a_github_webhook_becomes_one_job_of_the_same_bytes() {
    let kept = [
        "content-type",
        "x-github-event",
        "x-github-delivery",
        "x-github-hook-id",
        "x-github-hook-installation-target-id",
        "x-github-hook-installation-target-type",
    ];
    becomes_one_job(senders::github("72d3162e", BODY), "code/push", &kept).await;
}

#[tokio::test]
async fn a_standard_webhook_becomes_one_job_of_the_same_bytes() {
    let kept = ["content-type", "webhook-id", "webhook-timestamp"];
    becomes_one_job(senders::standard("msg_1", BODY), "standard", &kept).await;
}

#[tokio::test]
async fn a_generically_signed_webhook_becomes_one_job_of_the_same_bytes() {
    let kept = ["content-type", "x-billing-event", "x-billing-id"];
    becomes_one_job(
        senders::billing("evt_1", BODY),
        "billing/invoice.paid",
        &kept,
    )
    .await;
}

#[tokio::test]
async fn every_byte_and_an_empty_body_survive_whatever_the_framing() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let bodies: [Vec<u8>; 3] = [
        Vec::new(),
        vec![0],
        (0..=255).cycle().take(300_000).collect(),
    ];
    for (at, body) in bodies.iter().enumerate() {
        let declared = senders::shopify(&format!("declared-{at}"), body);
        let (id, _) = inbox.deliver(&declared).await.stored();
        assert_eq!(
            place.job(&id).await.payload.as_deref(),
            Some(body.as_slice())
        );

        let delivery = senders::shopify(&format!("chunked-{at}"), body);
        let request = http::chunked(&delivery.path(), &delivery.headers, body, 1000);
        let (id, _) = inbox.ask(&request).await.stored();
        assert_eq!(
            place.job(&id).await.payload.as_deref(),
            Some(body.as_slice())
        );
    }
}

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_turn() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let mut connection = inbox.connect().await;
    let requests = [
        senders::shopify("a", b"one"),
        senders::github("b", b"two"),
        senders::standard("c", b"three"),
    ];
    for delivery in &requests {
        connection.send(&delivery.request()).await;
    }
    for delivery in &requests {
        let (id, duplicate) = connection.answer().await.stored();
        assert!(!duplicate);
        assert_eq!(
            place.job(&id).await.payload.as_deref(),
            Some(delivery.body.as_slice())
        );
    }
}

#[tokio::test]
async fn while_secrets_are_rotated_both_pass_and_a_third_does_not() {
    let place = Place::new().await;
    let change = |settings: &mut millstream::gateway::GatewaySettings| {
        settings.sources = vec![("shop".to_owned(), shopify_source(["new", SECRET]))];
    };
    let inbox = place.gateway_with(Vec::new(), change).await;
    for (secret, id) in [(SECRET, "1"), ("new", "2")] {
        let delivery = senders::shopify_by(secret, id, BODY);
        assert!(!inbox.deliver(&delivery).await.stored().1);
    }
    let stranger = inbox
        .deliver(&senders::shopify_by("newer", "3", BODY))
        .await;
    assert_eq!(stranger.status, 401);
    assert_eq!(place.stats().await.enqueued_total, 2);
}
