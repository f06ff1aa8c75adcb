//! The HTTP side over real sockets, with a stand-in for what stores.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::gateway::signature::Scheme;
use crate::gateway::source::{SchemeSettings, SourceSettings};
use crate::gateway::stand_in::StandIn;

/// Far longer than anything here takes; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(10);
const BRIEF: Duration = Duration::from_millis(50);
const SECRET: &str = "hunter2";
const BODY: &[u8] = b"{\"id\":1}\x00\xff";

struct Fixture {
    address: SocketAddr,
    store: Arc<StandIn>,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(StandIn::default(), |_| {}).await
    }

    async fn with(store: StandIn, change: impl FnOnce(&mut GatewaySettings)) -> Self {
        let mut settings = GatewaySettings::default();
        let shop = SourceSettings::new(SchemeSettings::Shopify, [SECRET], "webhooks");
        settings.sources = vec![("shop".to_owned(), shop)];
        change(&mut settings);
        let sources = settings.checked().unwrap();
        let server = Server::new(&settings, sources, store, Vec::new());
        let store = server.inner.store.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(server.run(listener, shutdown.clone()));
        Self {
            address,
            store,
            shutdown,
            running,
        }
    }

    async fn client(&self) -> Client {
        Client {
            stream: TcpStream::connect(self.address).await.unwrap(),
            read: Vec::new(),
        }
    }

    /// The answer to one request on a connection of its own.
    async fn ask(&self, request: &[u8]) -> Answer {
        let mut client = self.client().await;
        client.send(request).await;
        client.answer().await
    }

    async fn stopped(self) {
        timeout(PATIENCE, self.running).await.unwrap().unwrap();
    }
}

struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    /// Lower-case `name: value` lines, without the date.
    headers: Vec<String>,
    body: Value,
}

impl Answer {
    fn has(&self, header: &str) -> bool {
        self.headers.iter().any(|line| line == header)
    }
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn more(&mut self) -> usize {
        let read = self.stream.read_buf(&mut self.read);
        timeout(PATIENCE, read).await.expect("an answer").unwrap()
    }

    /// The next answer; panics when the connection ends before it.
    async fn answer(&mut self) -> Answer {
        loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8(self.read[..end].to_vec())
                    .unwrap()
                    .to_lowercase();
                let mut lines = head.lines().map(str::to_owned);
                let status = lines
                    .next()
                    .unwrap()
                    .split(' ')
                    .nth(1)
                    .unwrap()
                    .parse()
                    .unwrap();
                let headers: Vec<String> =
                    lines.filter(|line| !line.starts_with("date:")).collect();
                let length = headers
                    .iter()
                    .find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.map_or(0, |length| length.parse().unwrap());
                while self.read.len() < end + 4 + length {
                    assert_ne!(self.more().await, 0, "the answer broke off");
                }
                let body = self.read[end + 4..end + 4 + length].to_vec();
                self.read.drain(..end + 4 + length);
                return Answer {
                    status,
                    headers,
                    body: serde_json::from_slice(&body).unwrap_or(Value::Null),
                };
            }
            assert_ne!(self.more().await, 0, "no answer, but {:?}", self.read);
        }
    }

    /// Everything that still comes; returns when the server has closed.
    async fn rest(&mut self) -> Vec<u8> {
        while self.more().await > 0 {}
        std::mem::take(&mut self.read)
    }
}

fn signature(body: &[u8]) -> String {
    let scheme = Scheme::shopify();
    scheme.sign(&scheme.secret("s", SECRET).unwrap(), "", 0, body)
}

fn request(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// A rightly signed delivery `id`.
fn delivery(id: &str, body: &[u8]) -> Vec<u8> {
    let signature = signature(body);
    let headers = format!(
        "x-shopify-topic: orders/create\r\nx-shopify-webhook-id: {id}\r\nx-shopify-hmac-sha256: {signature}\r\n"
    );
    request("/webhooks/shop", &headers, body)
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes()
}

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
async fn a_body_over_the_limit_is_refused_before_and_while_it_is_read() {
    let limit = 100_000;
    let t = Fixture::with(StandIn::default(), |settings| settings.max_body = limit).await;
    assert_eq!(
        t.ask(&delivery("fits", &vec![b'a'; limit])).await.status,
        200
    );

    // Declared: refused at once, and a client that asks first is not told to go on.
    let declared = "POST /webhooks/shop HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 10000000000\r\n\r\n";
    assert_eq!(t.ask(declared.as_bytes()).await.status, 413);
    // A client that has sent everything before it reads still gets its answer.
    assert_eq!(
        t.ask(&delivery("long", &vec![b'a'; 4 * limit]))
            .await
            .status,
        413
    );

    let mut client = t.client().await;
    client
        .send(b"POST /webhooks/other HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let chunk = [b"4000\r\n".as_slice(), &[b'a'; 0x4000], b"\r\n"].concat();
    for _ in 0..=limit / 0x4000 {
        client.send(&chunk).await;
    }
    let answer = client.answer().await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (413, &json!("too_large"))
    );
    assert_eq!(client.rest().await, b"");
    assert_eq!(t.store.jobs().len(), 1);
}

#[tokio::test]
async fn a_chunked_body_is_put_together() {
    let t = Fixture::new().await;
    let mut client = t.client().await;
    let signature = signature(b"hello, world");
    let head = format!(
        "POST /webhooks/shop HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nx-shopify-hmac-sha256: {signature}\r\n\r\n"
    );
    client.send(head.as_bytes()).await;
    client.send(b"5\r\nhello\r\n2\r\n, \r\n").await;
    client.send(b"5\r\nworld\r\n0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(t.store.jobs()[0].2, b"hello, world");
}

#[tokio::test]
async fn a_body_that_breaks_its_framing_is_a_400_and_ends_the_connection() {
    let t = Fixture::new().await;
    let mut client = t.client().await;
    client
        .send(
            b"POST /webhooks/shop HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        )
        .await;
    client.send(&get("/health/live")).await;
    assert_eq!(client.answer().await.status, 400);
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_body_that_takes_too_long_is_a_408() {
    let t = Fixture::with(StandIn::default(), |settings| settings.body_timeout = BRIEF).await;
    let whole = delivery("d1", BODY);
    let answer = t.ask(&whole[..whole.len() - 1]).await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (408, &json!("body_timeout"))
    );
    assert_eq!(t.store.jobs(), []);
}

#[tokio::test]
async fn a_client_that_dribbles_its_headers_or_sends_nothing_is_closed() {
    let t = Fixture::with(StandIn::default(), |settings| {
        settings.header_timeout = BRIEF
    })
    .await;
    for begun in ["", "POST /webhooks/shop HTTP/1.1\r\nx-a: "] {
        let mut client = t.client().await;
        client.send(begun.as_bytes()).await;
        let rest = client.rest().await;
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
    }
}

#[tokio::test]
async fn headers_without_end_are_a_431() {
    let t = Fixture::new().await;
    let long = format!("x-a: {}\r\n", "a".repeat(20_000));
    let many = "x-a: a\r\n".repeat(200);
    for headers in [long, many] {
        assert_eq!(
            t.ask(&request("/webhooks/shop", &headers, BODY))
                .await
                .status,
            431
        );
    }
}

#[tokio::test]
async fn a_connection_serves_many_requests_also_when_they_come_at_once() {
    let t = Fixture::new().await;
    let mut client = t.client().await;
    let wrong = request("/webhooks/shop", "", BODY);
    client
        .send(
            &[
                delivery("d1", BODY),
                wrong,
                delivery("d2", b""),
                get("/health/live"),
            ]
            .concat(),
        )
        .await;
    for status in [200, 401, 200, 200] {
        assert_eq!(client.answer().await.status, status);
    }
    client.send(&delivery("d1", BODY)).await;
    assert_eq!(client.answer().await.body["duplicate"], true);
}

#[tokio::test]
async fn beyond_the_connection_limit_only_probes_get_through() {
    let t = Fixture::with(StandIn::default(), |settings| settings.connections_max = 1).await;
    let mut first = t.client().await;
    first.send(&delivery("d1", BODY)).await;
    assert_eq!(first.answer().await.status, 200);

    let refused = t.ask(&delivery("d2", BODY)).await;
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (503, &json!("busy"))
    );
    assert!(refused.has("retry-after: 5") && refused.has("connection: close"));
    assert_eq!(t.ask(&get("/health/live")).await.status, 200);
    assert_eq!(t.ask(&get("/health/ready")).await.status, 200);

    first.send(&delivery("d3", BODY)).await;
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(t.store.jobs().len(), 2);
}

#[tokio::test]
async fn bodies_beyond_the_memory_bound_are_told_to_come_again_until_there_is_room() {
    let t = Fixture::with(StandIn::hanging(), |settings| {
        settings.max_body = 1_000;
        settings.buffered_max = 1_000;
    })
    .await;
    let body = [b'a'; 800];
    let mut first = t.client().await;
    first.send(&delivery("d1", &body)).await;
    t.store.has_been_asked().await;
    assert_eq!(t.ask(&delivery("d2", &body)).await.body["code"], "busy");
    t.store.recover();
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(t.ask(&delivery("d2", &body)).await.status, 200);
}

#[tokio::test]
async fn a_stop_lets_accepted_requests_finish_and_closes_idle_connections() {
    let t = Fixture::with(StandIn::hanging(), |_| {}).await;
    let mut silent = t.client().await;
    let mut idle = t.client().await;
    idle.send(&get("/health/live")).await;
    assert_eq!(idle.answer().await.status, 200);
    let mut busy = t.client().await;
    busy.send(&delivery("d1", BODY)).await;
    t.store.has_been_asked().await;

    t.shutdown.cancel();
    assert_eq!(idle.rest().await, b"");
    assert_eq!(silent.rest().await, b"");
    assert!(TcpStream::connect(t.address).await.is_err());
    assert!(!t.running.is_finished());
    t.store.recover();
    let answer = busy.answer().await;
    assert_eq!(answer.status, 200);
    assert!(answer.has("connection: close"));
    assert_eq!(t.store.jobs().len(), 1);
    t.stopped().await;
}

#[tokio::test]
async fn a_request_that_outlasts_the_shutdown_timeout_is_cut_without_a_200() {
    let t = Fixture::with(StandIn::hanging(), |settings| {
        settings.shutdown_timeout = BRIEF
    })
    .await;
    let mut busy = t.client().await;
    busy.send(&delivery("d1", BODY)).await;
    t.store.has_been_asked().await;
    t.shutdown.cancel();
    assert_eq!(busy.rest().await, b"");
    t.stopped().await;
}

#[tokio::test]
async fn during_the_drain_delay_it_is_not_ready_and_still_takes_webhooks() {
    let t = Fixture::with(StandIn::default(), |settings| {
        settings.drain_delay = PATIENCE * 2
    })
    .await;
    assert_eq!(t.ask(&get("/health/ready")).await.status, 200);
    t.shutdown.cancel();
    loop {
        // The server's task notices the stop when it runs next.
        let ready = t.ask(&get("/health/ready")).await;
        if ready.status == 503 {
            assert_eq!(ready.body["checks"]["gateway"], "stopping");
            break;
        }
    }
    assert_eq!(t.ask(&delivery("d1", BODY)).await.status, 200);
    t.running.abort();
}

#[tokio::test]
async fn a_client_that_goes_away_mid_body_leaves_no_job_and_no_memory_charged() {
    let store = StandIn::default();
    let t = Fixture::with(store, |settings| {
        settings.max_body = 1_000;
        settings.buffered_max = 1_000;
    })
    .await;
    let whole = delivery("d1", &[b'a'; 900]);
    let mut client = t.client().await;
    client.send(&whole[..whole.len() - 1]).await;
    client.stream.shutdown().await.unwrap();
    let rest = client.rest().await;
    assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
    assert_eq!(t.store.jobs(), []);
    assert_eq!(t.ask(&whole).await.status, 200);
}
