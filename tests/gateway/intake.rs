//! A signed request becomes one job, of exactly what was sent.

use std::collections::BTreeMap;

use millstream::gateway::GatewaySettings;
use millstream::gateway::source::{SchemeSettings, SourceSettings};
use millstream::job::state::State;

use crate::support::senders::{self, BODY, Delivery, SECRET};
use crate::support::{Place, QUEUE, http, shopify_source};

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
async fn a_stripe_webhook_becomes_one_job_of_the_same_bytes() {
    let body = b"{\n  \"id\": \"evt_1\", \"note\": \"Zo\xeb\", \"type\": \"invoice.paid\"\n}\n";
    becomes_one_job(senders::stripe(body), "pay/invoice.paid", &["content-type"]).await;
}

#[tokio::test]
async fn a_slack_event_becomes_one_job_of_the_same_bytes() {
    let body = br#"{"type":"event_callback","event_id":"Ev1","event":{"type":"app_mention"}}"#;
    let kept = ["content-type", "x-slack-request-timestamp"];
    becomes_one_job(senders::slack(body), "chat/app_mention", &kept).await;
}

#[tokio::test]
async fn slack_is_answered_its_challenge_only_when_it_signed_it_and_nothing_is_stored() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let body = br#"{"token":"t","challenge":"3eZbrw1aB1","type":"url_verification"}"#;

    let answer = inbox.deliver(&senders::slack(body)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        serde_json::json!({"challenge": "3eZbrw1aB1"})
    );

    let unsigned = senders::slack(b"other").without("X-Slack-Signature");
    let unsigned = Delivery {
        body: body.to_vec(),
        ..unsigned
    };
    let refused = inbox.deliver(&unsigned).await;
    assert_eq!(refused.status, 401);
    assert!(!String::from_utf8_lossy(&refused.body).contains("3eZbrw1aB1"));
    place.assert_nothing_is_stored().await;
}

#[tokio::test]
async fn tenant_topic_and_id_come_from_where_the_settings_say() {
    let place = Place::new().await;
    let change = |settings: &mut GatewaySettings| {
        let source = SourceSettings {
            group: "json:/shop/domain".parse().unwrap(),
            topic: Some("json:/kind".parse().unwrap()),
            id: Some("header:X-Shopify-Event-Id".parse().unwrap()),
            ..shopify_source([SECRET])
        };
        settings.sources = vec![("shop".to_owned(), source)];
    };
    let inbox = place.gateway_with(Vec::new(), change).await;
    let body = br#"{"shop": {"domain": "mill.example"}, "kind": "orders/paid"}"#;
    let delivery = senders::shopify("w1", body).with("X-Shopify-Event-Id", "e1");

    let (id, _) = inbox.deliver(&delivery).await.stored();

    let job = place.only_job().await;
    assert_eq!(job.id.as_str(), id);
    assert_eq!(job.name, "shop/orders/paid");
    assert_eq!(job.group.as_deref(), Some("mill.example"));
    assert_eq!(job.headers["x-shopify-event-id"], "e1");
    // Another delivery of the same event, as Shopify makes them for two subscriptions.
    let again = senders::shopify("w2", body).with("X-Shopify-Event-Id", "e1");
    assert_eq!(inbox.deliver(&again).await.stored(), (id, true));

    let odd = senders::shopify("w3", br#"{"shop": {"domain": ["x"]}}"#);
    let refused = inbox.deliver(&odd).await;
    assert_eq!(refused.status, 400);
    assert_eq!(
        refused.json()["message"],
        "json:/shop/domain is neither text nor a whole number"
    );
    // Without a tenant it is stored all the same, outside of any group.
    let (bare, _) = inbox.deliver(&senders::shopify("w4", BODY)).await.stored();
    assert_eq!(place.job(&bare).await.group, None);
}

#[tokio::test]
async fn secrets_replaced_while_serving_pass_from_then_on_and_bad_ones_change_nothing() {
    let place = Place::new().await;
    let with = |secrets: &[&str]| {
        let secrets = secrets.iter().copied();
        let source = SourceSettings::new(SchemeSettings::Shopify, secrets, QUEUE);
        let mut settings = GatewaySettings::new(([127, 0, 0, 1], 0).into());
        settings.sources = vec![("shop".to_owned(), source)];
        settings
    };
    let inbox = place
        .gateway_with(Vec::new(), |settings| *settings = with(&[SECRET]))
        .await;
    let secrets = inbox.secrets.clone();
    let status = async |secret: &str, id: &str| {
        inbox
            .deliver(&senders::shopify_by(secret, id, BODY))
            .await
            .status
    };
    assert_eq!(status(SECRET, "1").await, 200);

    for bad in [&[][..], &[""], &["new", "new\n"]] {
        let error = secrets.replace(&with(bad)).unwrap_err();
        assert!(
            error.to_string().contains("sources.shop.secrets"),
            "{error}"
        );
    }
    assert_eq!(status("new", "2").await, 401);
    assert_eq!(status(SECRET, "2").await, 200);

    assert_eq!(secrets.replace(&with(&["new", SECRET])).unwrap(), [""; 0]);
    assert_eq!(status("new", "3").await, 200);
    assert_eq!(status(SECRET, "4").await, 200);
    secrets.replace(&with(&["new"])).unwrap();
    assert_eq!(status(SECRET, "5").await, 401);
    let nobody = GatewaySettings::new(([127, 0, 0, 1], 0).into());
    assert_eq!(secrets.replace(&nobody).unwrap(), ["shop"]);
    assert_eq!(status("new", "5").await, 200);
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
    let change = |settings: &mut GatewaySettings| {
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

#[tokio::test]
async fn the_request_id_is_kept_with_the_job_where_that_is_allowed() {
    let place = Place::new().await;
    let inbox = place.gateway_with(Vec::new(), |settings| {
        let mut source = shopify_source([SECRET]);
        source.keep_headers = Some(vec!["X-Request-Id".to_owned()]);
        settings.sources = vec![("shop".to_owned(), source)];
    });
    let inbox = inbox.await;
    for given in ["sender-1", "not one\t"] {
        let delivery = senders::shopify(given.trim(), BODY).with("X-Request-Id", given);
        let answer = inbox.deliver(&delivery).await;
        let job = place.job(&answer.stored().0).await;
        assert_eq!(job.headers["x-request-id"], answer.request_id());
        assert_eq!(answer.request_id() == given, given == "sender-1");
    }
}
