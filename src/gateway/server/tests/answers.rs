//! What is answered to whom, and when.

use serde_json::json;
use tokio::time::timeout;

use super::fixture::*;
use crate::gateway::rate::RateLimit;
use crate::gateway::server::*;
use crate::gateway::stand_in::StandIn;

#[tokio::test]
async fn a_signed_webhook_is_stored_byte_for_byte_and_a_second_delivery_is_its_duplicate() {
    let t = Fixture::new().await;
    let first = t.ask(&delivery("d1", BODY)).await;
    assert_eq!(first.status, 200);
    assert_eq!(first.body, json!({"id": "1-0", "duplicate": false}));
    assert!(first.has("content-type: application/json"));
    let second = t.ask(&delivery("d1", BODY)).await;
    assert_eq!(second.status, 200);
    assert_eq!(second.body, json!({"id": "1-0", "duplicate": true}));
    let stored = (0, "shop/orders/create".to_owned(), BODY.to_vec());
    assert_eq!(t.store.jobs(), [stored]);
}

#[tokio::test]
async fn the_answer_comes_only_after_the_job_is_stored() {
    let t = Fixture::with(StandIn::hanging(), |_| {}).await;
    let mut client = t.client().await;
    client.send(&delivery("d1", BODY)).await;
    t.store.has_been_asked().await;
    assert!(timeout(BRIEF, client.stream.readable()).await.is_err());
    assert_eq!(t.ask(&get("/health/live")).await.status, 200);
    t.store.recover();
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(t.store.jobs().len(), 1);
}

#[tokio::test]
async fn a_failing_store_is_a_503_that_names_no_address() {
    for error in [
        StandIn::ambiguous as fn() -> Error,
        StandIn::refused,
        StandIn::unreachable,
    ] {
        let t = Fixture::with(StandIn::failing(error), |_| {}).await;
        let answer = t.ask(&delivery("d1", BODY)).await;
        assert_eq!(answer.status, 503);
        assert!(answer.has("retry-after: 5"));
        assert_eq!(answer.body["code"], "unavailable");
        assert!(!answer.body.to_string().contains("10.0.0.1"));
        let ready = t.ask(&get("/health/ready")).await;
        assert_eq!(
            (ready.status, &ready.body["status"]),
            (503, &json!("unavailable"))
        );
    }
    let t = Fixture::with(StandIn::failing(StandIn::too_large), |_| {}).await;
    assert_eq!(t.ask(&delivery("d1", BODY)).await.status, 413);
}

#[tokio::test]
async fn an_unknown_source_looks_exactly_like_a_bad_signature() {
    let t = Fixture::new().await;
    let signed = format!("x-shopify-hmac-sha256: {}\r\n", signature(BODY));
    let wrong = format!("x-shopify-hmac-sha256: {}\r\n", signature(b"other"));
    let refused = t.ask(&request("/webhooks/shop", &wrong, BODY)).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.body["code"], "unauthorized");
    for (path, headers) in [
        ("/webhooks/shop", ""),
        ("/webhooks/other", &*signed),
        ("/webhooks/", &signed),
        ("/webhooks/sh%6fp", &signed),
    ] {
        assert_eq!(
            t.ask(&request(path, headers, BODY)).await,
            refused,
            "{path}"
        );
    }
    let nobody = Fixture::with(StandIn::default(), |settings| settings.sources.clear()).await;
    assert_eq!(
        nobody.ask(&request("/webhooks/shop", &signed, BODY)).await,
        refused
    );
    assert_eq!(t.store.jobs(), []);
}

#[tokio::test]
async fn other_paths_and_methods_are_told_so() {
    let t = Fixture::new().await;
    for path in [
        "/",
        "/webhooks",
        "/webhooks/shop/",
        "/webhooks/shop/x",
        "/health",
        "/health/live/",
        "//health/live",
    ] {
        assert_eq!(t.ask(&get(path)).await.status, 404, "{path}");
    }
    for (request, allow) in [
        (get("/webhooks/shop"), "allow: post"),
        (get("/webhooks/other"), "allow: post"),
        (request("/health/live", "", b""), "allow: get, head"),
        (request("/health/ready", "", b"{}"), "allow: get, head"),
    ] {
        let answer = t.ask(&request).await;
        assert_eq!(answer.status, 405);
        assert!(answer.has(allow), "{answer:?}");
        assert_eq!(answer.body["code"], "method_not_allowed");
    }
    let live = t.ask(&get("/health/live?probe=1")).await;
    assert_eq!((live.status, live.body), (200, json!({"status": "ok"})));
    let ready = t.ask(&get("/health/ready")).await;
    let checks = json!({"redis": "ok", "workers": "ok"});
    assert_eq!(
        (ready.status, ready.body),
        (200, json!({"status": "ok", "checks": checks}))
    );
}

#[tokio::test]
async fn a_topic_that_is_no_clean_text_is_a_400_but_only_to_those_who_signed() {
    let t = Fixture::new().await;
    let topic = "x-shopify-topic: a\tb\r\n";
    let signed = format!("{topic}x-shopify-hmac-sha256: {}\r\n", signature(BODY));
    let answer = t.ask(&request("/webhooks/shop", &signed, BODY)).await;
    assert_eq!(answer.status, 400);
    assert_eq!(
        answer.body["message"],
        "x-shopify-topic has control characters"
    );
    assert_eq!(
        t.ask(&request("/webhooks/shop", topic, BODY)).await.status,
        401
    );
    assert_eq!(t.store.jobs(), []);
}

#[tokio::test]
async fn a_source_beyond_its_rate_is_told_when_to_come_again() {
    let t = Fixture::with(StandIn::default(), |settings| {
        let hourly = RateLimit::new(2, Duration::from_secs(3600));
        settings.sources[0].1.rate = Some(RateLimit {
            burst: Some(2),
            ..hourly
        });
    })
    .await;
    // Those who did not sign do not count.
    for _ in 0..5 {
        assert_eq!(
            t.ask(&request("/webhooks/shop", "", BODY)).await.status,
            401
        );
    }
    let mut client = t.client().await;
    for (id, status) in [("d1", 200), ("d2", 200), ("d3", 429), ("d3", 429)] {
        client.send(&delivery(id, BODY)).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status);
        if status == 429 {
            assert_eq!(answer.body["code"], "too_many");
            assert!(answer.has("retry-after: 1800"), "{answer:?}");
        }
    }
    assert_eq!(t.store.jobs().len(), 2);
    // Whoever did not sign learns nothing of it.
    assert_eq!(
        t.ask(&request("/webhooks/shop", "", BODY)).await.status,
        401
    );
}
