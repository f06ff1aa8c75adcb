//! The HTTP side over real sockets, with a stand-in for what stores.

mod fixture;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::gateway::rate::RateLimit;
use crate::gateway::stand_in::StandIn;
use fixture::*;

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
    // A client that goes on sending is not cut off before it has its answer.
    let mut eager = t.client().await;
    let long = delivery("long", &vec![b'a'; 4 * limit]);
    eager.send(&long[..limit]).await;
    eager.stream.readable().await.unwrap();
    for piece in long[limit..].chunks(limit) {
        eager.send(piece).await;
    }
    assert_eq!(eager.answer().await.status, 413);
    assert_eq!(eager.rest().await, b"");

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
async fn a_body_framed_twice_is_one_request_at_most() {
    let t = Fixture::new().await;
    let hidden = String::from_utf8(get("/health/live")).unwrap();
    for headers in [
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        "content-length: 4\r\ncontent-length: 5\r\n",
    ] {
        let mut client = t.client().await;
        let request =
            format!("POST /webhooks/shop HTTP/1.1\r\nhost: x\r\n{headers}\r\n0\r\n\r\n{hidden}");
        client.send(request.as_bytes()).await;
        assert!(
            matches!(client.answer().await.status, 400 | 401),
            "{headers}"
        );
        assert_eq!(client.rest().await, b"", "{headers}");
    }
    assert_eq!(t.store.jobs(), []);
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
async fn a_body_that_dribbles_is_a_408_long_before_its_time_is_up() {
    let t = Fixture::with(StandIn::default(), |settings| {
        settings.body_timeout = PATIENCE * 60;
        settings.body_rate_min = 1_000;
    })
    .await;
    let whole = delivery("d1", &[b'a'; 5_000]);
    let mut client = t.client().await;
    client.send(&whole[..whole.len() - 1_000]).await;
    // The first window brought enough, and the next brings nothing.
    assert_eq!(client.answer().await.status, 408);
    assert_eq!(client.rest().await, b"");
    assert_eq!(t.store.jobs(), []);
}

#[tokio::test]
async fn a_body_that_comes_slowly_but_fast_enough_is_taken() {
    let t = Fixture::with(StandIn::default(), |settings| settings.body_rate_min = 1).await;
    let whole = delivery("d1", &[b'a'; 40]);
    let (head, body) = whole.split_at(whole.len() - 40);
    let mut client = t.client().await;
    client.send(head).await;
    let began = std::time::Instant::now();
    for byte in body.chunks(1) {
        client.send(byte).await;
        tokio::time::sleep(body::WINDOW / 16).await;
    }
    assert!(began.elapsed() > body::WINDOW * 2, "more than one window");
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_client_that_waits_for_leave_to_send_its_body_gets_it_once() {
    let t = Fixture::new().await;
    let whole = delivery("d1", BODY);
    let (head, body) = whole.split_at(whole.len() - BODY.len());
    let mut client = t.client().await;
    client.send(&head[..head.len() - 2]).await;
    client.send(b"expect: 100-continue\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 100);
    client.send(body).await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(t.store.jobs().len(), 1);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_closed() {
    let t = Fixture::with(StandIn::default(), |settings| {
        settings.write_timeout = BRIEF
    })
    .await;
    let mut client = t.client().await;
    let many = get("/health/live").repeat(1_000);
    let closed = async { while client.stream.write_all(&many).await.is_ok() {} };
    timeout(PATIENCE, closed).await.expect("closed");
}

#[tokio::test]
async fn large_bodies_wait_for_room_rather_than_for_memory() {
    let t = Fixture::with(StandIn::default(), |settings| settings.max_body = 8 << 20).await;
    // One that may become as large as all room there is, and another.
    let mut first = t.client().await;
    let head = "POST /webhooks/shop HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    first.send(head.as_bytes()).await;
    let chunk = [b"8000\r\n".as_slice(), &[b'a'; 0x8000], b"\r\n"].concat();
    first.send(&chunk).await;
    while t.inner.intake.large.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let mut second = t.client().await;
    second
        .send(&delivery("d2", &vec![b'a'; 1 << 20])[..40_000])
        .await;
    assert!(timeout(BRIEF, second.stream.readable()).await.is_err());
    // A small one needs none.
    assert_eq!(t.ask(&delivery("d3", BODY)).await.status, 200);

    first.send(b"0\r\n\r\n").await;
    assert_eq!(first.answer().await.status, 401);
    second
        .send(&delivery("d2", &vec![b'a'; 1 << 20])[40_000..])
        .await;
    assert_eq!(second.answer().await.status, 200);
}

#[tokio::test]
async fn silent_connections_beyond_the_limit_make_way_for_probes() {
    let t = Fixture::with(StandIn::default(), |settings| settings.connections_max = 1).await;
    let mut first = t.client().await;
    first.send(&delivery("d1", BODY)).await;
    assert_eq!(first.answer().await.status, 200);
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(t.client().await);
    }
    for probe in ["/health/live", "/health/ready"] {
        assert_eq!(t.ask(&get(probe)).await.status, 200);
    }
    assert_eq!(silent[0].rest().await, b"");
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

/// Asks for no more than any, and is none of the plain requests all the same.
const NOT_PLAIN: &str = "te: trailers\r\n";

#[tokio::test]
async fn a_plain_request_is_answered_like_any_other() {
    let t = Fixture::new().await;
    let signed = format!("x-shopify-hmac-sha256: {}\r\n", signature(BODY));
    let topic = format!("{signed}x-shopify-topic: a\tb\r\n");
    let id = format!("{signed}x-shopify-webhook-id: same\r\n");
    t.ask(&request("/webhooks/shop", &id, BODY)).await;
    let (mut plain, mut other) = (t.client().await, t.client().await);
    for (path, headers) in [
        ("/webhooks/shop", &*id),
        ("/webhooks/shop", ""),
        ("/webhooks/other", &signed),
        ("/webhooks/shop", &topic),
    ] {
        plain.send(&request(path, headers, BODY)).await;
        let headers = [headers, NOT_PLAIN].concat();
        other.send(&request(path, &headers, BODY)).await;
        assert_eq!(
            plain.answer().await,
            other.answer().await,
            "{path} {headers}"
        );
    }
}

#[tokio::test]
async fn a_plain_request_may_come_in_pieces_and_may_stop_in_any_of_them() {
    let t = Fixture::with(StandIn::default(), |settings| {
        settings.header_timeout = BRIEF * 4;
        settings.body_timeout = BRIEF * 4;
    })
    .await;
    let whole = delivery("d1", BODY);
    for at in [
        1,
        20,
        whole.len() - BODY.len() - 1,
        whole.len() - BODY.len(),
        whole.len() - 1,
    ] {
        let mut client = t.client().await;
        client.send(&whole[..at]).await;
        tokio::task::yield_now().await;
        client.send(&whole[at..]).await;
        assert_eq!(client.answer().await.status, 200, "{at}");
        // The next one stops there.
        client.send(&whole[..at]).await;
        let rest = client.rest().await;
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{at}: {rest:?}");
    }
    let mut client = t.client().await;
    for byte in &whole {
        client.send(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.answer().await.body["duplicate"], true);
    assert_eq!(t.store.jobs().len(), 1);
}

#[tokio::test]
async fn a_client_that_sends_webhooks_and_reads_no_answers_is_closed() {
    let t = Fixture::with(StandIn::default(), |settings| {
        settings.write_timeout = BRIEF
    })
    .await;
    let mut client = t.client().await;
    let many = request("/webhooks/shop", "", b"").repeat(1_000);
    let closed = async { while client.stream.write_all(&many).await.is_ok() {} };
    timeout(PATIENCE, closed).await.expect("closed");
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_answer_is_let_go_at_once() {
    for headers in ["", NOT_PLAIN] {
        let t = Fixture::with(StandIn::hanging(), |_| {}).await;
        let signed = format!("{headers}x-shopify-hmac-sha256: {}\r\n", signature(BODY));
        let mut client = t.client().await;
        client.send(&request("/webhooks/shop", &signed, BODY)).await;
        t.store.has_been_asked().await;
        client.stream.shutdown().await.unwrap();
        // Nothing is stored, and nothing is answered.
        assert_eq!(client.rest().await, b"");
    }
}

#[tokio::test]
async fn an_answer_has_no_header_of_a_request_however_many_it_came_with() {
    let t = Fixture::new().await;
    let apart = t.ask(&request("/webhooks/shop", "", BODY)).await;
    assert_eq!(apart.status, 401);
    let mut client = t.client().await;
    for count in [3, 60, 0, 20] {
        let headers: String = (0..count).map(|nth| format!("x-{nth}: own\r\n")).collect();
        client
            .send(&request("/webhooks/shop", &headers, BODY))
            .await;
        assert_eq!(client.answer().await, apart, "after {count} headers");
    }
}
