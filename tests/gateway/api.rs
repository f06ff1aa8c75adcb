//! Jobs from programs in any language: who may, what is stored, and that the description of the routes is true.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use millstream::Rate;
use millstream::deliver::{Forward, ForwardSettings};
use millstream::gateway::api::tokens::TokenSettings;
use millstream::gateway::{GatewaySettings, MetricsPage};
use millstream::inspect::GroupLimits;
use millstream::job::state::State;
use serde_json::{Value, json};

use crate::support::http::{self, Answer};
use crate::support::receiver::Receiver;
use crate::support::senders::{self, BODY};
use crate::support::{Inbox, Place, QUEUE};

const TOKEN: &str = "a-token-of-some-length";
const OTHER: &str = "another-token-of-some-length";

/// A token for the queue of the tests, and one for another queue.
fn with_tokens(settings: &mut GatewaySettings) {
    settings.tokens = vec![
        ("app".to_owned(), TokenSettings::new([TOKEN], [QUEUE])),
        ("mail".to_owned(), TokenSettings::new([OTHER], ["mail"])),
    ];
}

fn headers(token: &str) -> Vec<(String, String)> {
    [
        ("Authorization", format!("Bearer {token}")),
        ("Content-Type", "application/json".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn path() -> String {
    format!("/queues/{QUEUE}/jobs")
}

impl Inbox {
    async fn enqueue(&self, body: impl AsRef<[u8]>) -> Answer {
        let body = body.as_ref();
        self.ask(&http::request("POST", &path(), &headers(TOKEN), body))
            .await
    }
}

#[tokio::test]
async fn a_job_is_stored_with_all_its_options_and_answered_with_its_id() {
    let place = Place::new().await;
    let inbox = place.gateway_with(Vec::new(), with_tokens).await;
    let body = r#"{
        "name": "invoice/send", "payload": {"amount": 19.90}, "delay": "1h", "group": "shop-1", "unique": "k",
        "unique_for": "24h", "max_attempts": 3, "timeout": "2m", "priority": "high", "headers": {"X-Request-Id": "7f3a"}
    }"#;

    let answer = inbox.enqueue(body).await;

    assert_eq!(answer.status, 201, "{answer:?}");
    let stored = answer.json();
    let job = place.only_job().await;
    let expected = json!({
        "id": job.id.as_str(), "duplicate": false, "replaced": false, "durability": "memory"
    });
    assert_eq!(stored, expected);
    assert_eq!(
        (job.name.as_str(), job.state),
        ("invoice/send", State::Scheduled)
    );
    assert_eq!(job.payload.as_deref(), Some(&br#"{"amount": 19.90}"#[..]));
    assert_eq!(job.codec, "json");
    assert_eq!(job.group.as_deref(), Some("shop-1"));
    assert_eq!(job.priority.name(), "high");
    assert_eq!(job.headers["x-request-id"], "7f3a");

    let again = inbox
        .enqueue(r#"{"name": "invoice/send", "unique": "k", "unique_for": "24h"}"#)
        .await;
    assert_eq!(again.status, 201);
    assert_eq!(again.json()["id"], stored["id"]);
    assert_eq!(again.json()["duplicate"], true);
    assert_eq!(place.stats().await.enqueued_total, 1);
}

#[tokio::test]
async fn a_trace_comes_in_the_header_of_the_request_or_with_a_job_of_its_own() {
    const OF_REQUEST: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const OF_JOB: &str = "00-1111111111111111111111111111111c-2222222222222222-00";
    let place = Place::new().await;
    let inbox = place.gateway_with(Vec::new(), with_tokens).await;
    let mut receiver = Receiver::answering([204]).await;
    let handler = Forward::new(ForwardSettings::new(receiver.url())).unwrap();
    let worker = place.client.worker(QUEUE).unwrap().concurrency(1);
    let worker = worker.fallback(handler).start().await.unwrap();
    let own = format!(
        r#"[{{"name": "a"}}, {{"name": "b", "traceparent": "{OF_JOB}", "tracestate": "own=1"}}]"#
    );
    let mut traced = headers(TOKEN);
    traced.push(("traceparent".to_owned(), OF_REQUEST.to_owned()));
    traced.push(("tracestate".to_owned(), "vendor=1".to_owned()));

    let request = http::request("POST", &path(), &traced, own.as_bytes());
    assert_eq!(inbox.ask(&request).await.status, 201);

    for (parent, state) in [(OF_REQUEST, "vendor=1"), (OF_JOB, "own=1")] {
        let seen = receiver.next().await;
        assert_eq!(seen.headers()["traceparent"], parent);
        assert_eq!(seen.headers()["tracestate"], state);
    }
    let broken = inbox.enqueue(r#"{"name": "a", "traceparent": "00-1-2-3"}"#);
    let broken = broken.await;
    assert_eq!(broken.status, 400);
    assert!(
        broken.json()["message"]
            .as_str()
            .unwrap()
            .contains("traceparent")
    );
    // A header that is not well-formed is dropped, as the recommendation asks.
    let mut traced = headers(TOKEN);
    traced.push(("traceparent".to_owned(), "00-1-2-3".to_owned()));
    let request = http::request("POST", &path(), &traced, br#"{"name": "c"}"#);
    assert_eq!(inbox.ask(&request).await.status, 201);
    assert!(!receiver.next().await.headers().contains_key("traceparent"));
    worker.stop().await;
}

#[tokio::test]
async fn a_thousand_jobs_are_stored_in_order_and_with_one_that_is_bad_none_is() {
    let place = Place::new().await;
    let inbox = place.gateway_with(Vec::new(), with_tokens).await;
    let job = |at: usize| json!({"name": "a", "payload_text": at.to_string()});
    let mut jobs: Vec<Value> = (0..1_000).map(job).collect();

    jobs[999]["delay"] = json!("soon");
    let refused = inbox.enqueue(json!(jobs).to_string()).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["code"], "invalid_job");
    assert!(
        refused.json()["message"]
            .as_str()
            .unwrap()
            .starts_with("jobs[999].delay: ")
    );
    place.assert_nothing_is_stored().await;

    jobs[999] = job(999);
    let answer = inbox.enqueue(json!({ "jobs": jobs }).to_string()).await;
    assert_eq!(answer.status, 201);
    let stored = answer.json()["jobs"].as_array().unwrap().clone();
    assert_eq!(stored.len(), 1_000);
    for at in [0, 1, 500, 999] {
        let job = place.job(stored[at]["id"].as_str().unwrap()).await;
        assert_eq!(job.payload.as_deref(), Some(at.to_string().as_bytes()));
    }
    assert_eq!(place.stats().await.enqueued_total, 1_000);

    jobs.push(job(1_000));
    assert_eq!(inbox.enqueue(json!(jobs).to_string()).await.status, 400);
    assert_eq!(place.stats().await.enqueued_total, 1_000);
}

#[tokio::test]
async fn many_at_once_with_one_unique_key_make_one_job() {
    let place = Place::new().await;
    let inbox = place.gateway_with(Vec::new(), with_tokens).await;
    let body = r#"{"name": "a", "unique": "k"}"#;

    let answers = join_all((0..50).map(|_| inbox.enqueue(body))).await;

    let job = place.only_job().await;
    let answers: Vec<Value> = answers.iter().map(Answer::json).collect();
    assert!(answers.iter().all(|answer| answer["id"] == job.id.as_str()));
    let first = answers.iter().filter(|answer| answer["duplicate"] == false);
    assert_eq!(first.count(), 1);
}

#[tokio::test]
async fn only_who_has_a_token_for_the_queue_is_let_in_before_the_body_is_read() {
    let place = Place::new().await;
    let inbox = place.gateway_with(Vec::new(), with_tokens).await;
    let body = br#"{"name": "a"}"#;
    for (token, status, code) in [
        (OTHER, 403, "forbidden"),
        ("", 401, "unauthorized"),
        ("a-token-of-some-lengtH", 401, "unauthorized"),
        ("a-token-of-some-length2", 401, "unauthorized"),
    ] {
        let request = http::request("POST", &path(), &headers(token), body);
        // Without its body the request is answered all the same.
        let answer = inbox.ask(&request[..request.len() - body.len()]).await;
        assert_eq!(answer.status, status, "{token}: {answer:?}");
        assert_eq!(answer.json()["code"], code);
        assert_eq!(answer.header("connection"), Some("close"));
        let asks = (status == 401).then_some("Bearer");
        assert_eq!(answer.header("www-authenticate"), asks);
        assert!(!String::from_utf8_lossy(&answer.body).contains(TOKEN));
    }
    let without = http::request("POST", &path(), &[], body);
    assert_eq!(inbox.ask(&without).await.status, 401);
    // Where no token is configured, none is let in.
    let closed = place.gateway().await;
    assert_eq!(closed.enqueue(body).await.status, 401);
    place.assert_nothing_is_stored().await;
}

#[tokio::test]
async fn tokens_are_replaced_while_serving() {
    let place = Place::new().await;
    let inbox = place.gateway_with(Vec::new(), with_tokens).await;
    let settings = |token: &str| {
        let mut settings = GatewaySettings::new(([127, 0, 0, 1], 0).into());
        settings.tokens = vec![("app".to_owned(), TokenSettings::new([token], ["*"]))];
        settings
    };
    let body = br#"{"name": "a"}"#;
    let status = async |token: &str| {
        inbox
            .ask(&http::request("POST", &path(), &headers(token), body))
            .await
            .status
    };
    assert_eq!((status(TOKEN).await, status(OTHER).await), (201, 403));

    inbox.secrets.replace(&settings("short")).unwrap_err();
    assert_eq!(status(TOKEN).await, 201);
    inbox.secrets.replace(&settings(OTHER)).unwrap();
    assert_eq!((status(TOKEN).await, status(OTHER).await), (401, 201));
}

#[tokio::test]
async fn what_is_no_job_is_refused_by_a_code_and_a_message() {
    let place = Place::new().await;
    let change = |settings: &mut GatewaySettings| {
        with_tokens(settings);
        settings.tokens[0].1.queues = vec!["*".to_owned()];
        settings.max_body = 1_000;
    };
    let inbox = place.gateway_with(Vec::new(), change).await;
    for (body, status, code) in [
        ("", 400, "bad_json"),
        ("{\"name\": \"\u{1}\"}", 400, "bad_json"),
        (r#"{"name": "a", "colour": "red"}"#, 400, "invalid_job"),
        ("[]", 400, "invalid_count"),
        (&*"x".repeat(1_001), 413, "too_large"),
        (r#"{"name": "a", "durability": "replicas:1"}"#, 201, ""),
        (
            r#"{"name": "a", "durability": "fsync"}"#,
            409,
            "durability_unavailable",
        ),
    ] {
        let answer = inbox.enqueue(body).await;
        assert_eq!(answer.status, status, "{body:.40}: {answer:?}");
        if status != 201 {
            assert_eq!(answer.json()["code"], code, "{body:.40}");
        } else {
            // There is no replica, and the answer says what was reached.
            assert_eq!(answer.json()["durability"], "memory");
        }
    }
    let plain = vec![("Authorization".to_owned(), format!("Bearer {TOKEN}"))];
    for (path, headers, status, code) in [
        (path(), plain, 415, "unsupported_media_type"),
        (
            "/queues/a%20b/jobs".to_owned(),
            headers(TOKEN),
            400,
            "invalid_queue",
        ),
        (
            "/queues//jobs".to_owned(),
            headers(TOKEN),
            400,
            "invalid_queue",
        ),
        (
            "/queues/%FF/jobs".to_owned(),
            headers(TOKEN),
            400,
            "invalid_queue",
        ),
        (
            "/queues/a%2Fb/jobs".to_owned(),
            headers(TOKEN),
            400,
            "invalid_queue",
        ),
        (format!("{}/1", path()), headers(TOKEN), 404, "not_found"),
        (format!("/queues/{QUEUE}"), headers(TOKEN), 404, "not_found"),
    ] {
        let answer = inbox
            .ask(&http::request("POST", &path, &headers, b"{}"))
            .await;
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (status, &json!(code)),
            "{path}"
        );
    }
    // Another queue, of a name that has to be escaped.
    let other = http::request(
        "POST",
        "/queues/q:%C3%BC/jobs",
        &headers(TOKEN),
        br#"{"name": "a"}"#,
    );
    assert_eq!(inbox.ask(&other).await.status, 201);
    let stats = place.client.inspect("q:ü").unwrap().stats().await.unwrap();
    assert_eq!(stats.ready, 1);
}

#[tokio::test]
async fn without_redis_the_answer_is_to_come_again() {
    let place = Place::new().await;
    let inbox = place.gateway_with(Vec::new(), with_tokens).await;
    assert_eq!(inbox.enqueue(r#"{"name": "a"}"#).await.status, 201);
    place.redis.kill().unwrap();

    for body in [r#"{"name": "b"}"#, r#"[{"name": "b"}, {"name": "c"}]"#] {
        let answer = inbox.enqueue(body).await;
        answer.assert_unavailable();
        let code = answer.json()["code"].as_str().unwrap().to_owned();
        assert!(["unavailable", "ambiguous"].contains(&&*code), "{code}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("redis.sock"));
    }
}

/// The description, asked for without any token.
async fn description(inbox: &Inbox) -> Value {
    let answer = inbox.get("/openapi.json").await;
    assert_eq!(answer.status, 200);
    answer.json()
}

#[tokio::test]
async fn the_description_has_every_route_and_every_route_is_there() {
    let place = Place::new().await;
    let everything = |settings: &mut GatewaySettings| {
        with_tokens(settings);
        settings.metrics = Some(MetricsPage::new(|| async { String::new() }));
    };
    let inbox = place.gateway_with(Vec::new(), everything).await;
    let description = description(&inbox).await;
    let paths = description["paths"].as_object().unwrap();

    for (path, methods) in paths {
        let real = path.replace("{source}", "shop").replace("{queue}", QUEUE);
        let described: BTreeSet<String> = methods
            .as_object()
            .unwrap()
            .keys()
            .map(|name| name.to_uppercase())
            .collect();
        let refused = inbox.ask(&http::request("DELETE", &real, &[], b"")).await;
        assert_eq!(refused.status, 405, "{path}");
        let allowed = refused.header("allow").unwrap().split(", ");
        let allowed: BTreeSet<String> = allowed
            .filter(|method| *method != "HEAD")
            .map(str::to_owned)
            .collect();
        assert_eq!(allowed, described, "{path}");
        for method in &described {
            let answer = inbox.ask(&http::request(method, &real, &[], b"")).await;
            let of_the_method = &methods[method.to_lowercase()]["responses"];
            assert!(
                of_the_method[answer.status.to_string()].is_object(),
                "{method} {path} answered {}, which is not described",
                answer.status
            );
        }
    }
    // The table for people has the same routes.
    let readme = include_str!("../../README.md");
    let table = readme
        .split("\n## HTTP\n")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let listed = table.lines().filter_map(|line| {
        let route = line.strip_prefix("| `")?.split('`').next()?;
        route.split_once(' ').map(|(_, path)| path.to_owned())
    });
    let listed: BTreeSet<String> = listed.collect();
    let described: BTreeSet<String> = paths.keys().cloned().collect();
    assert_eq!(
        described, listed,
        "openapi.json and the README's table of routes"
    );
}

#[tokio::test]
async fn every_field_that_is_described_is_taken_and_no_other() {
    let place = Place::new().await;
    let inbox = place.gateway_with(Vec::new(), with_tokens).await;
    let description = description(&inbox).await;
    let schemas = &description["components"]["schemas"];
    let of = |schema: &str| schemas[schema]["properties"].as_object().unwrap();
    let example = |field: &Value| match field["$ref"].as_str() {
        Some(name) => schemas[name.rsplit('/').next().unwrap()]["examples"][0].clone(),
        None => field["examples"][0].clone(),
    };
    for (name, field) in of("OneJob") {
        let mut job = json!({"name": "a"});
        if ["unique_for", "unique_while_waiting", "on_conflict"].contains(&name.as_str()) {
            job["unique"] = json!(name);
        }
        job[name] = example(field);
        let answer = inbox.enqueue(job.to_string()).await;
        assert_eq!(answer.status, 201, "{job}: {answer:?}");
        let enqueued: BTreeSet<&String> = of("Enqueued").keys().collect();
        let stored = answer.json();
        assert_eq!(
            stored.as_object().unwrap().keys().collect::<BTreeSet<_>>(),
            enqueued
        );
        if name != "durability" {
            assert!(of("Job").contains_key(name), "{name}");
            assert_eq!(
                inbox.enqueue(json!([job]).to_string()).await.status,
                201,
                "[{job}]"
            );
        }
    }
    // What is refused names the options that there are: the described ones.
    let refused = inbox.enqueue(r#"{"name": "a", "colour": "red"}"#).await;
    assert_eq!(refused.status, 400);
    let message = refused.json()["message"].as_str().unwrap().to_owned();
    let (_, named) = message.split_once("there are ").unwrap();
    let named: BTreeSet<&str> = named.split(", ").collect();
    assert_eq!(named, of("Job").keys().map(String::as_str).collect());
    let error: BTreeSet<&String> = of("Error").keys().collect();
    let refused = refused.json();
    assert_eq!(
        refused.as_object().unwrap().keys().collect::<BTreeSet<_>>(),
        error
    );
}

#[tokio::test]
async fn every_reference_of_the_description_leads_somewhere() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let description = description(&inbox).await;
    let mut rest = vec![&description];
    let mut references = 0;
    while let Some(value) = rest.pop() {
        match value {
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref") {
                    let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
                    assert!(description.pointer(pointer).is_some(), "{reference}");
                    references += 1;
                }
                rest.extend(members.values());
            }
            Value::Array(items) => rest.extend(items),
            _ => {}
        }
    }
    assert!(references > 20, "{references}");
}

#[tokio::test]
async fn a_group_that_is_full_is_told_apart_from_an_outage() {
    let place = Place::new().await;
    let grouped = |settings: &mut GatewaySettings| {
        with_tokens(settings);
        for (_, source) in &mut settings.sources {
            source.group = "header:X-Tenant".parse().unwrap();
        }
    };
    let inbox = place.gateway_with(Vec::new(), grouped).await;
    let limits = GroupLimits::new()
        .rate(Some(Rate::per_hour(1)))
        .max_backlog(Some(1));
    let inspector = place.inspect();
    inspector.set_group_limits(None, &limits).await.unwrap();
    let job = r#"{"name": "a", "group": "shop", "cost": 5}"#;
    for _ in 0..2 {
        assert_eq!(inbox.enqueue(job).await.status, 201);
    }

    let refused = inbox.enqueue(job).await;
    let webhook = senders::shopify("d1", BODY).with("X-Tenant", "shop");
    let webhook = inbox.deliver(&webhook).await;

    for answer in [refused, webhook] {
        assert_eq!(answer.status, 429, "{answer:?}");
        assert_eq!(answer.json()["code"], "group_full");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    let other = senders::shopify("d2", BODY).with("X-Tenant", "other");
    assert_eq!(inbox.deliver(&other).await.status, 200);
}
