//! Requests as attackers write them, byte by byte: what is answered, whether the connection ends, and that no job comes of it.
//!
//! Where a request can be framed in two ways, what one of them leaves over is a webhook that is signed rightly: if the gateway took
//! it for a second request, there would be a job.

use std::time::Duration;

use futures_util::future::join_all;

use crate::support::http;
use crate::support::senders::{self, BODY};
use crate::support::{Inbox, Place};

/// What has to follow the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// The connection ends, whatever else was sent on it.
    Close,
    /// The connection can be used on.
    Open,
}
use Then::{Close, Open};

/// A name, the bytes, the status of the one answer (none: the connection just ends), what follows.
pub(crate) type Hostile = (&'static str, Vec<u8>, Option<u16>, Then);

/// A rightly signed webhook, to be hidden behind another request.
fn hidden() -> Vec<u8> {
    senders::shopify("smuggled", BODY).request()
}

/// A POST to the shop with these header lines and this body, both as they stand.
fn post(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST /webhooks/shop HTTP/1.1\r\nhost: inbox.example\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// The same, with a second request behind it.
fn hiding(headers: &str, body: &[u8]) -> Vec<u8> {
    [post(headers, body), hidden()].concat()
}

/// Other bytes, with a second request behind them.
fn raw(bytes: &str) -> Vec<u8> {
    [bytes.as_bytes(), &hidden()].concat()
}

/// The whole table.
pub(crate) fn table() -> Vec<Hostile> {
    [framings(), lines(), strangers()].concat()
}

const CHUNKED: &str = "transfer-encoding: chunked\r\n";

#[rustfmt::skip] // a line each, or nobody reads it
fn framings() -> Vec<Hostile> {
    vec![
        ("length and chunks", hiding("content-length: 5\r\ntransfer-encoding: chunked\r\n", b"0\r\n\r\n"), Some(401), Close),
        ("chunks and length", hiding("transfer-encoding: chunked\r\ncontent-length: 5\r\n", b"0\r\n\r\n"), Some(401), Close),
        ("two lengths", hiding("content-length: 4\r\ncontent-length: 5\r\n", b"abcd"), Some(400), Close),
        ("a list of two lengths", hiding("content-length: 4, 5\r\n", b"abcd"), Some(400), Close),
        ("a length with a sign", hiding("content-length: +4\r\n", b"abcd"), Some(400), Close),
        ("a negative length", hiding("content-length: -1\r\n", b""), Some(400), Close),
        ("a hexadecimal length", hiding("content-length: 0x4\r\n", b"abcd"), Some(400), Close),
        ("an empty length", hiding("content-length: \r\n", b""), Some(400), Close),
        ("a length of 2^64", hiding("content-length: 18446744073709551616\r\n", b""), Some(400), Close),
        ("a length of 2^64 - 1", hiding("content-length: 18446744073709551615\r\n", b""), Some(431), Close),
        ("a length of ten gigabytes", hiding("content-length: 10000000000\r\n", b""), Some(413), Close),
        ("chunks, then identity", hiding("transfer-encoding: chunked, identity\r\n", b"0\r\n\r\n"), Some(400), Close),
        ("an encoding that is none", hiding("transfer-encoding: xchunked\r\n", b"0\r\n\r\n"), Some(400), Close),
        ("identity alone", hiding("transfer-encoding: identity\r\n", b""), Some(400), Close),
        ("two encodings", hiding("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", b"0\r\n\r\n"), Some(400), Close),
        ("chunks behind a tab", hiding("transfer-encoding: \u{b}chunked\r\n", b"0\r\n\r\n"), Some(400), Close),
        ("chunks in HTTP/1.0", raw("POST /webhooks/shop HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"), Some(400), Close),
        ("a chunk size that is none", hiding(CHUNKED, b"zz\r\n"), Some(400), Close),
        ("a chunk size with a sign", hiding(CHUNKED, b"-1\r\n\r\n"), Some(400), Close),
        ("a chunk size with 0x", hiding(CHUNKED, b"0x2\r\nab\r\n0\r\n\r\n"), Some(400), Close),
        ("a chunk size of 68 bits", hiding(CHUNKED, b"fffffffffffffffff\r\n"), Some(400), Close),
        ("a chunk longer than it says", hiding(CHUNKED, b"2\r\nabcd\r\n0\r\n\r\n"), Some(400), Close),
        ("a bare newline after a chunk size", hiding(CHUNKED, b"2\nab\r\n0\r\n\r\n"), Some(400), Close),
        ("a bare newline after a chunk", hiding(CHUNKED, b"2\r\nab\n0\r\n\r\n"), Some(400), Close),
        ("a newline in a chunk extension", hiding(CHUNKED, b"2;a\nb\r\nab\r\n0\r\n\r\n"), Some(400), Close),
        ("a chunk extension without end", post(CHUNKED, &[b"2;".as_slice(), &[b'a'; 100_000]].concat()), Some(400), Close),
        ("trailers without end", post(CHUNKED, &[b"0\r\n".as_slice(), &b"x-a: a\r\n".repeat(20_000)].concat()), Some(400), Close),
        ("a body over the limit, after asking", post("expect: 100-continue\r\ncontent-length: 2000000\r\n", b""), Some(413), Close),
        ("a compressed body", post("content-encoding: gzip\r\ncontent-length: 4\r\n", b"\x1f\x8b\x08\0"), Some(401), Open),
    ]
}

#[rustfmt::skip]
fn lines() -> Vec<Hostile> {
    vec![
        ("a space before the colon", hiding("content-length : 4\r\n", b"abcd"), Some(400), Close),
        ("a folded header", hiding("x-a: a\r\n content-length: 4\r\n", b""), Some(400), Close),
        ("a header without a colon", hiding("x-a\r\n", b""), Some(400), Close),
        ("a header without a name", hiding(": a\r\n", b""), Some(400), Close),
        ("a NUL in a header", hiding("x-a: a\0b\r\n", b""), Some(400), Close),
        ("a bare carriage return in a header", hiding("x-a: a\rb\r\n", b""), Some(400), Close),
        ("an escape in a header's name", hiding("x-\u{1b}[31m: a\r\n", b""), Some(400), Close),
        ("ten thousand headers", post(&"x-a: a\r\n".repeat(10_000), b""), Some(431), Close),
        ("a header of a megabyte", post(&format!("x-a: {}\r\n", "a".repeat(1 << 20)), b""), Some(431), Close),
        ("a path of a megabyte", raw(&format!("POST /webhooks/{} HTTP/1.1\r\n", "a".repeat(1 << 20))), Some(431), Close),
        ("no host", raw("POST /webhooks/shop HTTP/1.1\r\ncontent-length: 0\r\n\r\n"), Some(400), Close),
        ("two hosts", hiding("host: other.example\r\ncontent-length: 0\r\n", b""), Some(400), Close),
        ("a path with a space", raw("POST /webhooks/a b HTTP/1.1\r\nhost: a\r\n\r\n"), Some(400), Close),
        ("a NUL in the path", raw("POST /webhooks/sh\0op HTTP/1.1\r\nhost: a\r\n\r\n"), Some(400), Close),
        ("a method that is none", raw("PO ST /webhooks/shop HTTP/1.1\r\nhost: a\r\n\r\n"), Some(400), Close),
        ("a version that is none", raw("POST /webhooks/shop HTTP/9.9\r\nhost: a\r\n\r\n"), Some(400), Close),
        ("a version of old", raw("POST /webhooks/shop\r\n\r\n"), Some(400), Close),
        ("the greeting of HTTP/2", raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), None, Close),
        ("the greeting of TLS", raw("\x16\x03\x01\x02\x00\x01\x00"), Some(400), Close),
        ("the greeting of a proxy", raw("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n"), Some(400), Close),
        ("no HTTP at all", raw("EHLO example\r\n"), Some(400), Close),
        ("silence", Vec::new(), None, Close),
        ("half a line", b"POST /webh".to_vec(), None, Close),
    ]
}

#[rustfmt::skip]
fn strangers() -> Vec<Hostile> {
    let request = |line: &str| format!("{line}\r\nhost: a\r\ncontent-length: 0\r\n\r\n").into_bytes();
    let length = hidden().len();
    vec![
        ("a tunnel", request("CONNECT inbox.example:443 HTTP/1.1"), Some(404), Open),
        ("the whole server", request("OPTIONS * HTTP/1.1"), Some(404), Open),
        ("a way up", request("POST /webhooks/../webhooks/shop HTTP/1.1"), Some(404), Open),
        ("an address in full", request("POST http://other.example/webhooks/shop HTTP/1.1"), Some(401), Open),
        ("a change to HTTP/2", post("connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 0\r\n", b""), Some(401), Open),
        ("an expectation that is none", post("expect: the-unexpected\r\ncontent-length: 4\r\n", b"abcd"), Some(401), Open),
        ("a webhook in the body of a probe", raw(&format!("GET /health/live HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n")), Some(200), Open),
    ]
}

#[tokio::test]
async fn hostile_bytes_are_refused_and_no_job_comes_of_them() {
    let place = Place::new().await;
    let inbox = place.gateway_with(Vec::new(), |settings| {
        settings.header_timeout = Duration::from_secs(2); // two rows wait for it
    });
    let inbox = inbox.await;
    // On a connection of its own, and behind a request that nothing is wrong with but its signature.
    let before = [Vec::new(), post("content-length: 4\r\n", b"abcd")];
    let tried = table()
        .into_iter()
        .flat_map(|hostile| before.iter().map(move |before| (before, hostile.clone())));
    let surprises = tried.map(|(before, hostile)| surprise(&inbox, before, hostile));
    let surprises: Vec<String> = join_all(surprises).await.into_iter().flatten().collect();
    assert!(surprises.is_empty(), "{surprises:#?}");
    place.assert_nothing_is_stored().await;
    inbox
        .deliver(&senders::shopify("honest", BODY))
        .await
        .stored();
}

/// What is not as the table says.
async fn surprise(
    inbox: &Inbox,
    before: &[u8],
    (what, bytes, expected, then): Hostile,
) -> Option<String> {
    let mut connection = inbox.connect().await;
    connection.try_send(&[before, &bytes].concat()).await;
    if !before.is_empty() {
        assert_eq!(connection.answer().await.status, 401);
    }
    let statuses = match then {
        Close => statuses(&connection.rest().await),
        Open => {
            let first = connection.answer().await.status;
            connection.send(&http::get("/health/live")).await;
            match connection.answer().await.status {
                200 => vec![first],
                other => return Some(format!("{what}: cannot be used on: {other}")),
            }
        }
    };
    (statuses != Vec::from_iter(expected))
        .then(|| format!("{what}: {statuses:?}, not {expected:?}"))
}

/// The status of every answer in `bytes`.
fn statuses(bytes: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(bytes);
    let answers = text.split("HTTP/1.1 ").skip(1);
    answers.map(|answer| answer[..3].parse().unwrap()).collect()
}
