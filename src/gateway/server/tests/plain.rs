//! The short way for plain requests, beside the one for all others.

use super::fixture::*;
use crate::gateway::stand_in::StandIn;

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
