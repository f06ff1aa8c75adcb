//! The whole way: a signed webhook comes in, a handler of the binary passes it on, and the job is settled by what came of it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, Request};
use millstream::deliver::{CommandHandler, CommandSettings, Forward, ForwardSettings};
use millstream::job::state::State;
use millstream::{Backoff, Handler, Worker};

use crate::support::receiver::Receiver;
use crate::support::senders::{self, BODY};
use crate::support::{Place, QUEUE, eventually};

async fn worker(place: &Place, handler: impl Handler) -> Worker {
    let worker = place.client.worker(QUEUE).unwrap();
    let worker = worker.backoff(Backoff::Fixed(Duration::from_millis(20)));
    worker
        .max_attempts(5)
        .fallback(handler)
        .start()
        .await
        .unwrap()
}

fn forward(receiver: &Receiver) -> Forward {
    let settings = ForwardSettings::new(receiver.url()).sign_with(senders::standard_secret());
    Forward::new(settings).unwrap()
}

/// `sh -c script sh dir`
fn command(script: &str, dir: &std::path::Path) -> CommandHandler {
    let args = [
        "-c".as_ref(),
        script.as_ref(),
        "sh".as_ref(),
        dir.as_os_str(),
    ];
    CommandHandler::new(CommandSettings::new("sh", args)).unwrap()
}

async fn completed(place: &Place) {
    eventually("the job is completed", async || {
        place.stats().await.completed_total == 1
    })
    .await;
}

/// Waits until the job is dead.
async fn dead(place: &Place) -> millstream::inspect::JobView {
    eventually("the job is dead", async || place.stats().await.dead == 1).await;
    place.only_job().await
}

fn header<'a>(request: &'a Request<Bytes>, name: &str) -> &'a str {
    request.headers()[name].to_str().unwrap()
}

#[track_caller]
fn assert_signed(request: &Request<Bytes>, id: &str) {
    assert_eq!(header(request, "webhook-id"), id);
    let timestamp = header(request, "webhook-timestamp");
    let age = senders::unix_seconds().abs_diff(timestamp.parse().unwrap());
    assert!(age <= 60, "signed {age} s ago");
    let expected = senders::standard_signature(id, timestamp, request.body());
    assert_eq!(header(request, "webhook-signature"), expected);
}

#[tokio::test]
async fn a_trace_travels_from_the_webhook_through_every_attempt_and_a_broken_one_is_dropped() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let mut receiver = Receiver::answering([500, 204]).await;
    let worker = worker(&place, forward(&receiver)).await;
    let traced = senders::shopify("d1", BODY)
        .with("traceparent", PARENT)
        .with("tracestate", "vendor=1,other=2");
    inbox.deliver(&traced).await.stored();
    for _ in 0..2 {
        let seen = receiver.next().await;
        assert_eq!(header(&seen, "traceparent"), PARENT);
        assert_eq!(header(&seen, "tracestate"), "vendor=1,other=2");
    }
    let broken = senders::shopify("d2", BODY)
        .with("traceparent", "00-not-a-trace-01")
        .with("tracestate", "vendor=1");
    inbox.deliver(&broken).await.stored();
    let seen = receiver.next().await;
    assert!(!seen.headers().contains_key("traceparent"), "{seen:?}");
    assert!(!seen.headers().contains_key("tracestate"), "{seen:?}");
    worker.stop().await;
}

#[tokio::test]
async fn a_webhook_is_forwarded_byte_for_byte_with_its_headers_and_a_signature_of_our_own() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let mut receiver = Receiver::answering([200]).await;
    let worker = worker(&place, forward(&receiver)).await;

    let delivery = senders::shopify("d1", BODY)
        .with("Authorization", "Bearer t0ken")
        .with("X-Forwarded-For", "203.0.113.7");
    let (id, _) = inbox.deliver(&delivery).await.stored();

    let seen = receiver.next().await;
    assert_eq!(
        (seen.method(), seen.uri().path()),
        (&Method::POST, "/hooks")
    );
    assert_eq!(seen.body(), BODY);
    assert_signed(&seen, &id);
    let got: BTreeMap<&str, &str> = seen
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .filter(|(name, _)| !name.starts_with("webhook-") && *name != "host")
        .collect();
    let length = BODY.len().to_string();
    let expected = [
        ("content-type", "application/json"),
        ("content-length", length.as_str()),
        (
            "user-agent",
            concat!("millstream/", env!("CARGO_PKG_VERSION")),
        ),
        ("x-shopify-topic", "orders/create"),
        ("x-shopify-shop-domain", "mill.myshopify.com"),
        ("x-shopify-api-version", "2026-07"),
        ("x-shopify-webhook-id", "d1"),
        ("millstream-job-id", id.as_str()),
        ("millstream-job-name", "shop/orders/create"),
        ("millstream-queue", QUEUE),
        ("millstream-attempt", "1"),
    ];
    assert_eq!(got, expected.into());
    completed(&place).await;
    receiver.assert_no_more();
    worker.stop().await;
}

#[tokio::test]
async fn a_standard_webhook_is_forwarded_with_our_signature_in_place_of_its_senders() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let mut receiver = Receiver::answering([204]).await;
    let worker = worker(&place, forward(&receiver)).await;
    let minutes_ago = senders::unix_seconds() - 200;
    let delivery = senders::standard_at(minutes_ago, "msg_1", BODY);
    let (id, _) = inbox.deliver(&delivery).await.stored();

    let seen = receiver.next().await;
    assert_signed(&seen, &id);
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        assert_eq!(seen.headers().get_all(name).iter().count(), 1, "{name}");
    }
    completed(&place).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_receiver_that_fails_twice_gets_the_same_job_three_times() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let mut receiver = Receiver::answering([500, 500, 200]).await;
    let worker = worker(&place, forward(&receiver)).await;
    let (id, _) = inbox.deliver(&senders::github("d1", BODY)).await.stored();

    for attempt in ["1", "2", "3"] {
        let seen = receiver.next().await;
        assert_eq!(header(&seen, "millstream-attempt"), attempt);
        assert_eq!(header(&seen, "millstream-job-id"), id);
        assert_eq!(header(&seen, "x-github-event"), "push");
        assert_eq!(seen.body(), BODY);
        assert_signed(&seen, &id);
    }
    completed(&place).await;
    receiver.assert_no_more();
    let stats = place.stats().await;
    assert_eq!(
        (stats.failed_total, stats.retried_total, stats.dead_total),
        (2, 2, 0)
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_sends_the_job_to_the_dead_letter_at_once() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let mut receiver = Receiver::answering([410]).await;
    let worker = worker(&place, forward(&receiver)).await;
    let delivery = senders::shopify("d1", BODY);
    let (id, _) = inbox.deliver(&delivery).await.stored();

    let job = dead(&place).await;
    assert_eq!((job.id.as_str(), job.state), (id.as_str(), State::Dead));
    assert_eq!(job.reason.as_deref(), Some("refused"));
    assert_eq!(job.payload.as_deref(), Some(BODY));
    assert_eq!(job.attempt, 1);
    let error = &job.errors.last().unwrap().error;
    assert!(error.contains("410") && error.contains("noted"), "{error}");
    receiver.next().await;
    receiver.assert_no_more();
    // The sender may not know yet.
    assert_eq!(inbox.deliver(&delivery).await.stored(), (id, true));
    worker.stop().await;
}

/// Keeps each attempt's standard input in a file `id.attempt`, and its name and queue in `about`.
const KEEP: &str = r#"cat >"$1/$MILLSTREAM_JOB_ID.$MILLSTREAM_JOB_ATTEMPT"
printf '%s %s' "$MILLSTREAM_JOB_NAME" "$MILLSTREAM_JOB_QUEUE" >"$1/about""#;

#[tokio::test]
async fn a_program_reads_the_body_byte_for_byte_from_its_standard_input() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let dir = tempfile::tempdir().unwrap();
    let worker = worker(&place, command(KEEP, dir.path())).await;
    // More than a pipe holds.
    let body: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let (id, _) = inbox.deliver(&senders::shopify("d1", &body)).await.stored();

    completed(&place).await;
    let read = std::fs::read(dir.path().join(format!("{id}.1"))).unwrap();
    assert!(read == body, "the program read {} bytes", read.len());
    let about = std::fs::read_to_string(dir.path().join("about")).unwrap();
    assert_eq!(about, "shop/orders/create webhooks");
    worker.stop().await;
}

#[tokio::test]
async fn a_program_that_fails_twice_gets_the_same_job_three_times() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let dir = tempfile::tempdir().unwrap();
    let script = format!("{KEEP}\n[ $MILLSTREAM_JOB_ATTEMPT -ge 3 ]");
    let worker = worker(&place, command(&script, dir.path())).await;
    let (id, _) = inbox.deliver(&senders::standard("m1", BODY)).await.stored();

    completed(&place).await;
    for attempt in 1..=3 {
        let read = std::fs::read(dir.path().join(format!("{id}.{attempt}"))).unwrap();
        assert_eq!(read, BODY, "attempt {attempt}");
    }
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, 4, "three attempts and `about`");
    let stats = place.stats().await;
    assert_eq!(
        (stats.failed_total, stats.retried_total, stats.dead_total),
        (2, 2, 0)
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_program_that_refuses_sends_the_job_to_the_dead_letter_at_once() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let dir = tempfile::tempdir().unwrap();
    let script = format!("{KEEP}\necho 'no such shop' >&2; exit 65");
    let worker = worker(&place, command(&script, dir.path())).await;
    let (id, _) = inbox.deliver(&senders::billing("e1", BODY)).await.stored();

    let job = dead(&place).await;
    assert_eq!(job.id.as_str(), id);
    assert_eq!(job.reason.as_deref(), Some("refused"));
    assert_eq!(job.payload.as_deref(), Some(BODY));
    let error = &job.errors.last().unwrap().error;
    assert!(error.contains("no such shop"), "{error}");
    worker.stop().await;
}
