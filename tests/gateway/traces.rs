//! Traces to a collector: what is said of a webhook on its whole way, and that a collector that is away holds nothing up.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use millstream::job::state::State;
use millstream::{BatchJob, BatchSettings, JobError, NewJob};
use opentelemetry::trace::{SpanId, TracerProvider as _};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tokio::net::TcpListener;
use tracing_subscriber::prelude::*;

use crate::support::collector::{Collector, Span};
use crate::support::http;
use crate::support::program::Program;
use crate::support::receiver::Receiver;
use crate::support::senders;
use crate::support::{PATIENCE, Place, QUEUE, eventually};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SENDER: &str = "b7ad6b7169203331";
/// What is in a payload, a kept header, an answer and a secret: none of it may be in a span.
const PAYLOAD: &str = "hunter2-payload";
const TOKEN: &str = "hunter2-token-of-some-length";
const COLLECTORS_KEY: &str = "hunter2-collector";

fn parent() -> String {
    format!("00-{TRACE}-{SENDER}-01")
}

/// `serve` with the shop, a token for its queue, and `handler` as its worker's.
fn serve(place: &Place, handler: &str, env: &[(&str, &str)]) -> Program {
    let config = format!(
        "[gateway]\nlisten = \"127.0.0.1:0\"\n\
         [sources.shop]\nscheme = \"shopify\"\nsecrets = [\"env:SHOP_SECRET\"]\nqueue = \"{QUEUE}\"\n\
         [tokens.app]\nsecrets = [\"env:APP_TOKEN\"]\nqueues = [\"{QUEUE}\"]\n\
         [queues.{QUEUE}]\nhandler = {handler}\nbackoff = \"fixed(20ms)\"\n"
    );
    let env = [env, &[("APP_TOKEN", TOKEN)]].concat();
    Program::run(
        place,
        "serve",
        &config,
        &["--shutdown-timeout", "5s"],
        &env,
        "",
    )
}

fn forward(receiver: &Receiver) -> String {
    // The path of a URL may be a secret as well.
    format!("{{ forward = \"{}/hunter2-path\" }}", receiver.url())
}

/// How spans are sent that a test waits for.
fn exported(collector: &str) -> Vec<(&str, &str)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ]
}

#[track_caller]
fn of_kind(spans: &[Span], kind: SpanKind) -> Vec<&Span> {
    spans.iter().filter(|span| span.kind == kind).collect()
}

#[track_caller]
fn assert_says(span: &Span, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        let said = span.attributes.get(*name).map(String::as_str);
        assert_eq!(said, Some(*value), "{name} of {span:#?}");
    }
}

#[tokio::test]
async fn a_webhook_is_followed_to_the_program_and_every_attempt_is_linked_to_its_producer() {
    let place = Place::new().await;
    let collector = Collector::start().await;
    let mut receiver = Receiver::answering([500, 204]).await;
    let url = collector.url();
    let mut env = exported(&url);
    let headers = format!("x-key={COLLECTORS_KEY}");
    env.push(("OTEL_EXPORTER_OTLP_HEADERS", &headers));
    env.push(("OTEL_SERVICE_NAME", "shop-inbox"));
    env.push((
        "OTEL_RESOURCE_ATTRIBUTES",
        "deployment.environment.name=test",
    ));
    let program = serve(&place, &forward(&receiver), &env);
    let body = format!("{{\"secret\":\"{PAYLOAD}\"}}");
    let delivery = senders::shopify("d1", body.as_bytes())
        .with("traceparent", &parent())
        .with("tracestate", "vendor=1");

    let (id, _) = program.deliver(&delivery).await.stored();

    let received = [receiver.next().await, receiver.next().await];
    let spans = collector.spans(6).await;
    assert_eq!(spans.len(), 6, "{spans:#?}");
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    let [server] = of_kind(&spans, SpanKind::Server)[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!(server.name, "POST /webhooks/{source}");
    assert_eq!(server.parent, SENDER);
    assert_says(
        server,
        &[
            ("http.request.method", "POST"),
            ("http.route", "/webhooks/{source}"),
            ("http.response.status_code", "#200"),
        ],
    );
    let [producer] = of_kind(&spans, SpanKind::Producer)[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!(producer.name, "send webhooks");
    assert_eq!(producer.parent, server.id);
    assert_says(
        producer,
        &[
            ("messaging.system", "millstream"),
            ("messaging.destination.name", QUEUE),
            ("messaging.operation.name", "send"),
            ("messaging.operation.type", "send"),
            ("messaging.message.id", &id),
        ],
    );
    let consumers = of_kind(&spans, SpanKind::Consumer);
    let clients = of_kind(&spans, SpanKind::Client);
    assert_eq!((consumers.len(), clients.len()), (2, 2), "{spans:#?}");
    for (number, outcome, status) in [(1, "failed", "#500"), (2, "done", "#204")] {
        let attempt = format!("#{number}");
        let of_attempt = |span: &&&Span| span.attributes["millstream.attempt"] == attempt;
        let consumer = consumers.iter().find(of_attempt).expect(outcome);
        assert_eq!(consumer.name, "process webhooks");
        assert_eq!(consumer.parent, producer.id);
        assert_eq!(consumer.links, [producer.place()]);
        assert_eq!(consumer.failed, number == 1);
        assert_says(
            consumer,
            &[
                ("messaging.system", "millstream"),
                ("messaging.destination.name", QUEUE),
                ("messaging.operation.name", "process"),
                ("messaging.operation.type", "process"),
                ("messaging.message.id", &id),
                ("millstream.job.name", "shop/orders/create"),
                ("millstream.outcome", outcome),
            ],
        );
        let fault = consumer.attributes.get("error.type").map(String::as_str);
        assert_eq!(fault, (number == 1).then_some("unavailable"));
        let below = |span: &&&Span| span.parent == consumer.id;
        let client = clients.iter().find(below).expect("a request per attempt");
        assert_eq!((&*client.name, client.failed), ("POST", number == 1));
        assert_says(
            client,
            &[
                ("http.request.method", "POST"),
                ("http.response.status_code", status),
                ("server.address", "127.0.0.1"),
            ],
        );
        let seen = received[number - 1].headers();
        let expected = format!("00-{}-01", client.place());
        assert_eq!(seen["traceparent"], expected.as_str());
        assert_eq!(seen["tracestate"], "vendor=1");
    }
    let resource = collector.resource();
    assert_eq!(resource["service.name"], "shop-inbox");
    assert_eq!(resource["deployment.environment.name"], "test");
    assert_eq!(collector.headers()["x-key"], COLLECTORS_KEY);
    // The answer's words are in the error that is kept with the job, and a topic in a header.
    for secret in [
        "hunter2",
        "noted",
        "X-Shopify",
        "x-shopify",
        senders::SECRET,
    ] {
        assert!(!collector.holds(secret), "{secret}");
    }
    assert!(spans.iter().all(|span| span.events == 0), "{spans:#?}");
    // The log stands in the attempt's span, and in no other.
    for line in program.log() {
        assert!(
            !line.contains("messaging.") && !line.contains("hunter2"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn jobs_of_one_request_belong_to_one_span_and_one_with_a_trace_of_its_own_is_linked() {
    let place = Place::new().await;
    let collector = Collector::start().await;
    let url = collector.url();
    let program = serve(&place, "{ command = [\"true\"] }", &exported(&url));
    let own = "00-1111111111111111111111111111111c-2222222222222222-01";
    let body =
        format!(r#"[{{"name": "a"}}, {{"name": "b"}}, {{"name": "c", "traceparent": "{own}"}}]"#);
    let headers = [
        ("authorization", format!("Bearer {TOKEN}")),
        ("content-type", "application/json".to_owned()),
        ("traceparent", parent()),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value));

    let path = format!("/queues/{QUEUE}/jobs");
    let mut connection = program.connect().await;
    connection
        .send(&http::request("POST", &path, &headers, body.as_bytes()))
        .await;
    assert_eq!(connection.answer().await.status, 201);

    let spans = collector.spans(5).await;
    let [server] = of_kind(&spans, SpanKind::Server)[..] else {
        panic!("{spans:#?}");
    };
    let [producer] = of_kind(&spans, SpanKind::Producer)[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!((&*server.parent, &producer.parent), (SENDER, &server.id));
    assert_says(producer, &[("messaging.batch.message_count", "#3")]);
    assert_eq!(producer.links, [&own[3..52]]);
    let links: BTreeMap<&str, &str> = of_kind(&spans, SpanKind::Consumer)
        .into_iter()
        .map(|span| (&*span.attributes["millstream.job.name"], &*span.links[0]))
        .collect();
    let place_of_producer = producer.place();
    let expected = [
        ("a", &*place_of_producer),
        ("b", &*place_of_producer),
        ("c", &own[3..52]),
    ];
    assert_eq!(links, BTreeMap::from(expected));
}

#[tokio::test]
async fn who_cannot_sign_does_not_choose_the_trace_and_a_program_is_told_of_its_attempt() {
    let place = Place::new().await;
    let collector = Collector::start().await;
    let url = collector.url();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("parent");
    let handler = format!(
        "{{ command = [\"sh\", \"-c\", \"printf %s $TRACEPARENT >{}\"] }}",
        file.display()
    );
    let program = serve(&place, &handler, &exported(&url));
    let forged = senders::shopify_by("wrong", "d1", b"{}").with("traceparent", &parent());
    assert_eq!(program.deliver(&forged).await.status, 401);
    let spans = collector.spans(1).await;
    assert_eq!((&*spans[0].parent, spans[0].kind), ("", SpanKind::Server));
    assert_ne!(spans[0].trace, TRACE);
    assert_says(&spans[0], &[("http.response.status_code", "#401")]);

    // Without a trace of the sender's there is one from here on.
    program
        .deliver(&senders::shopify("d2", b"{}"))
        .await
        .stored();
    let spans = collector.spans(4).await;
    let [consumer] = of_kind(&spans, SpanKind::Consumer)[..] else {
        panic!("{spans:#?}");
    };
    let told = std::fs::read_to_string(file).unwrap();
    assert_eq!(told, format!("00-{}-01", consumer.place()));
}

#[tokio::test]
async fn what_the_sampler_leaves_out_is_not_exported_and_its_trace_goes_on() {
    let place = Place::new().await;
    let collector = Collector::start().await;
    let mut receiver = Receiver::answering([204]).await;
    let url = collector.url();
    let program = serve(&place, &forward(&receiver), &exported(&url));
    let unsampled = format!("00-{TRACE}-{SENDER}-00");
    let quiet = senders::shopify("d1", b"{}").with("traceparent", &unsampled);
    program.deliver(&quiet).await.stored();
    let seen = receiver.next().await;
    let going_on = seen.headers()["traceparent"].to_str().unwrap();
    assert!(going_on.starts_with(&format!("00-{TRACE}-")), "{going_on}");
    assert!(going_on.ends_with("-00"), "{going_on}");

    let loud = senders::shopify("d2", b"{}").with("traceparent", &parent().replace("0af", "1af"));
    program.deliver(&loud).await.stored();
    let spans = collector.spans(4).await;
    assert!(spans.iter().all(|span| span.trace != TRACE), "{spans:#?}");
}

/// A webhook through a program whose collector is at `collector`; returns what it logged when it had ended.
async fn goes_its_way(collector: &str) -> Vec<String> {
    let place = Place::new().await;
    let mut receiver = Receiver::answering([204]).await;
    let mut env = exported(collector);
    // Longer than the test is patient.
    env.push(("OTEL_EXPORTER_OTLP_TIMEOUT", "600000"));
    let mut program = serve(&place, &forward(&receiver), &env);
    for number in 0..20 {
        let delivery = senders::shopify(&format!("d{number}"), b"{}");
        program.deliver(&delivery).await.stored();
        receiver.next().await;
    }
    eventually("all are done", async || {
        place.stats().await.completed_total == 20
    })
    .await;
    program.terminate();
    // Within the five seconds to shut down; `ended` gives up before the exporter would.
    assert_eq!(program.ended().await, Some(0));
    assert_eq!(
        place.inspect().list(Some(State::Dead), 1).await.unwrap(),
        []
    );
    program.log()
}

#[tokio::test]
async fn a_collector_that_is_down_costs_spans_and_a_line_in_the_log() {
    // Nobody listens where somebody just did.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let log = goes_its_way(&url).await;
    let lines: Vec<_> = log
        .iter()
        .filter(|line| line.contains("spans are lost"))
        .collect();
    assert_eq!(lines.len(), 1, "{log:#?}");
    assert!(lines[0].contains("refused"), "{}", lines[0]);
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_neither_jobs_nor_the_shutdown_up() {
    // Connections are made, and nobody reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    goes_its_way(&url).await;
}

#[tokio::test]
async fn spans_that_find_no_room_are_counted_and_mentioned_once() {
    let place = Place::new().await;
    // Takes no connection off the list of those that wait, so that no request is ever answered.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut receiver = Receiver::answering([204]).await;
    let mut env = exported(&url);
    env.push(("OTEL_BSP_MAX_QUEUE_SIZE", "2"));
    env.push(("OTEL_EXPORTER_OTLP_TIMEOUT", "300"));
    let mut program = serve(&place, &forward(&receiver), &env);
    let lost = async |outcome: &str| {
        let page = program.get("/metrics").await;
        let page = String::from_utf8_lossy(&page.body).into_owned();
        let series = format!("millstream_spans_lost_total{{outcome=\"{outcome}\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&*series));
        line.expect("it is counted from the start")
            .parse::<u64>()
            .unwrap()
    };
    assert_eq!((lost("full").await, lost("undelivered").await), (0, 0));

    // Four spans each.
    for number in 0..20 {
        let delivery = senders::shopify(&format!("d{number}"), b"{}");
        program.deliver(&delivery).await.stored();
        receiver.next().await;
    }

    eventually("no room", async || lost("full").await >= 10).await;
    eventually("no answer", async || lost("undelivered").await >= 2).await;
    program.terminate();
    assert_eq!(program.ended().await, Some(0));
    let log = program.log();
    for cause in ["MAX_QUEUE_SIZE", "does not take them"] {
        let told = log.iter().filter(|line| line.contains(cause)).count();
        assert_eq!(told, 1, "{cause}: {log:#?}");
    }
}

#[tokio::test]
async fn the_last_spans_are_sent_before_the_program_ends() {
    let place = Place::new().await;
    let collector = Collector::start().await;
    let mut receiver = Receiver::answering([204]).await;
    let url = collector.url();
    // Nothing would be sent for an hour.
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
        ("OTEL_BSP_SCHEDULE_DELAY", "900000"),
    ];
    let mut program = serve(&place, &forward(&receiver), &env);
    program
        .deliver(&senders::shopify("d1", b"{}"))
        .await
        .stored();
    receiver.next().await;
    program.terminate();
    assert_eq!(program.ended().await, Some(0));
    assert_eq!(collector.spans(4).await.len(), 4);
}

#[test]
fn a_bad_variable_is_named_before_anything_starts() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_millstream"))
            .args(["worker", "--queue", "q", "--forward", "http://127.0.0.1:1"])
            .env("MILLSTREAM_REDIS_URL", "unix:/nowhere")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
            .env(name, value)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(name) && said.contains(value), "{said}");
    }
}

/// Keeps what ended.
#[derive(Clone, Debug, Default)]
struct Keep(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Keep {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

/// The one test of this program that installs a subscriber for all of it; it looks at spans of its own queue.
#[tokio::test]
async fn a_program_with_a_layer_of_its_own_gets_the_spans_of_its_queue_and_a_batch_links_all_its_jobs()
 {
    const BATCHES: &str = "batches";
    let keep = Keep::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(keep.clone());
    let tracer = provider.build().tracer("program");
    let layer = tracing_opentelemetry::layer().with_tracer(tracer);
    tracing_subscriber::registry()
        .with(layer)
        .try_init()
        .unwrap();
    let place = Place::new().await;
    let queue = place.client.queue(BATCHES).unwrap();
    for number in [1u64, 2] {
        queue
            .enqueue(NewJob::new("index", &number).unwrap())
            .await
            .unwrap();
    }
    let settings = BatchSettings {
        max_jobs: 2,
        max_wait: PATIENCE,
    };
    let worker = place.client.worker(BATCHES).unwrap();
    let worker = worker.handle_batch("index", settings, |_: Vec<BatchJob<u64>>| async {
        tracing::info_span!("of the handler").in_scope(|| {});
        Ok::<(), JobError>(())
    });
    let worker = worker.start().await.unwrap();
    let done = async || {
        let inspect = place.client.inspect(BATCHES).unwrap();
        inspect.stats().await.unwrap().completed_total == 2
    };
    eventually("both are done", done).await;
    worker.stop().await;

    let spans = keep.0.lock().unwrap().clone();
    let named =
        |name: &str| -> Vec<&SpanData> { spans.iter().filter(|span| span.name == name).collect() };
    let sent = named("send batches");
    assert_eq!(sent.len(), 2, "{spans:#?}");
    let places = |spans: &[&SpanData]| -> HashSet<SpanId> {
        spans
            .iter()
            .map(|span| span.span_context.span_id())
            .collect()
    };
    let processed = named("process batches");
    let [batch] = processed
        .iter()
        .filter(|span| span.links.len() == 2)
        .collect::<Vec<_>>()[..]
    else {
        panic!("{processed:#?}");
    };
    let linked = batch.links.iter().map(|link| link.span_context.span_id());
    assert_eq!(linked.collect::<HashSet<_>>(), places(&sent));
    assert_eq!(batch.parent_span_id, SpanId::INVALID);
    // Two attempts, and the call that they share.
    assert_eq!(processed.len(), 3, "{processed:#?}");
    let [own] = named("of the handler")[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!(own.parent_span_id, batch.span_context.span_id());
}
