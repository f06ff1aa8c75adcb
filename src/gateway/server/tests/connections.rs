//! Connections: how many there may be, how long they may be silent, and how they end.

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::fixture::*;
use crate::gateway::stand_in::StandIn;

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
