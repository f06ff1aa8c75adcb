//! Bodies: their framing, their limits in size and time, and who goes away in the middle of one.

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::fixture::*;
use crate::gateway::server::*;
use crate::gateway::stand_in::StandIn;

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
