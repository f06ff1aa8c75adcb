//! What is not stored, and how little the answer tells.

use std::time::Duration;

use crate::support::http::{self, Answer};
use crate::support::senders::{self, BODY};
use crate::support::{Inbox, Place};

#[tokio::test]
async fn who_cannot_sign_learns_nothing_from_the_answer() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let signed = senders::shopify("d1", BODY);
    let refused = inbox
        .deliver(&senders::shopify_by("wrong", "d1", BODY))
        .await;
    assert_eq!(refused.status, 401);

    let mut unknown_source = signed.clone();
    unknown_source.source = "nowhere";
    let mut other_body = signed.clone();
    other_body.body.push(b' ');
    let hour_ago = senders::unix_seconds() - 3600;
    for (what, delivery) in [
        ("a source that is not there", unknown_source),
        ("another body", other_body),
        (
            "no signature",
            signed.clone().without("X-Shopify-Hmac-Sha256"),
        ),
        (
            "no base64",
            signed
                .clone()
                .without("X-Shopify-Hmac-Sha256")
                .with("X-Shopify-Hmac-Sha256", "?"),
        ),
        (
            "two signatures",
            signed.with("X-Shopify-Hmac-Sha256", "AAAA"),
        ),
        ("a replay", senders::standard_at(hour_ago, "m", BODY)),
        (
            "no id where it is signed",
            senders::standard("m", BODY).without("Webhook-Id"),
        ),
        ("another scheme's signature", {
            let mut delivery = senders::shopify("d1", BODY);
            delivery.source = "code";
            delivery
        }),
    ] {
        // Status, every header but the date, and body.
        assert_eq!(inbox.deliver(&delivery).await, refused, "{what}");
    }
    place.assert_nothing_is_stored().await;
}

/// Sends a body without and with a declared length.
async fn both_ways(inbox: &Inbox, id: &str, body: &[u8]) -> [Answer; 2] {
    let declared = senders::shopify(&format!("{id}-declared"), body);
    let chunked = senders::shopify(&format!("{id}-chunked"), body);
    [
        inbox.deliver(&declared).await,
        inbox
            .ask(&http::chunked(&chunked.path(), &chunked.headers, body, 300))
            .await,
    ]
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_one_at_the_limit_is_stored() {
    let place = Place::new().await;
    let inbox = place
        .gateway_with(Vec::new(), |settings| settings.max_body = 1000)
        .await;
    for answer in both_ways(&inbox, "over", &[b'x'; 1001]).await {
        assert_eq!(answer.status, 413, "{answer:?}");
    }
    place.assert_nothing_is_stored().await;

    for answer in both_ways(&inbox, "at", &[b'x'; 1000]).await {
        assert!(!answer.stored().1);
    }
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_refused_before_the_body_comes() {
    let place = Place::new().await;
    let inbox = place
        .gateway_with(Vec::new(), |settings| settings.max_body = 1000)
        .await;
    let delivery = senders::shopify("d1", &[b'x'; 1001]);
    let request = delivery.request();
    let head = &request[..request.len() - delivery.body.len()];
    assert_eq!(inbox.ask(head).await.status, 413);
    place.assert_nothing_is_stored().await;
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up() {
    let place = Place::new().await;
    let brief = Duration::from_millis(100);
    let inbox = place
        .gateway_with(Vec::new(), |settings| settings.body_timeout = brief)
        .await;
    let delivery = senders::shopify("d1", BODY);
    let request = delivery.request();
    let answer = inbox.ask(&request[..request.len() - 1]).await;
    assert_eq!(answer.status, 408);
    assert_eq!(answer.header("connection"), Some("close"));
    place.assert_nothing_is_stored().await;

    assert!(!inbox.deliver(&delivery).await.stored().1);
}

#[tokio::test]
async fn only_post_delivers() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let delivery = senders::shopify("d1", BODY);
    for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let request = http::request(method, &delivery.path(), &delivery.headers, BODY);
        let answer = inbox.ask(&request).await;
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow"), Some("POST"), "{method}");
    }
    place.assert_nothing_is_stored().await;
}
