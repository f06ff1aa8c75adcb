//! How connections are opened, kept, lost and given up.

use super::*;

#[tokio::test]
async fn a_refused_connection_names_the_peer_and_no_secret() {
    let address = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://user:hunter2@{address}/hunter2?token=hunter2");
    let forward = Forward::new(ForwardSettings::new(url)).unwrap();
    let error = forward.run(context(attempt("x"))).await.unwrap_err();
    assert_eq!((error.kind, error.unavailable), (FAILED, true));
    assert!(
        error
            .message()
            .starts_with(&format!("cannot connect to {address}: ")),
        "{error:?}"
    );
    assert!(
        error.message().contains("refused") && !error.message().contains("hunter2"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_cancelled_attempt_stops_waiting() {
    let mut server = Server::answering(|| None).await;
    let job = attempt("x");
    let cancel = job.cancel.clone();
    let forward = Forward::new(ForwardSettings::new(server.url())).unwrap();
    let waiting = tokio::spawn(forward.run(context(job)));
    server.seen.recv().await.unwrap();

    cancel.cancel();

    assert_eq!(waiting.await.unwrap().unwrap_err().kind, FAILED);
}

#[tokio::test]
async fn jobs_share_a_connection() {
    let server = Server::answering(|| Some(answer(200, &[], "thanks"))).await;
    let forward = Forward::new(ForwardSettings::new(server.url())).unwrap();
    for _ in 0..5 {
        forward.run(context(attempt("x"))).await.unwrap();
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

/// Reads one request off `stream` and answers 200, promising to stay.
fn answer_by_hand(stream: &mut std::net::TcpStream) {
    use std::io::{Read, Write};
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\nx") {
        stream.read_exact(&mut byte).unwrap();
        request.push(byte[0]);
    }
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
}

#[tokio::test]
async fn a_kept_connection_that_the_peer_closed_costs_one_attempt_at_most() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (close, closing) = std::sync::mpsc::channel::<()>();
    let (closed, is_closed) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        answer_by_hand(&mut first);
        closing.recv().unwrap();
        drop(first);
        closed.send(()).unwrap();
        answer_by_hand(&mut listener.accept().unwrap().0);
    });
    let forward = Forward::new(ForwardSettings::new(format!("http://{address}/"))).unwrap();
    forward.run(context(attempt("x"))).await.unwrap();

    // Blocking on purpose: the runtime cannot notice the close before the next job takes the connection.
    close.send(()).unwrap();
    is_closed.recv().unwrap();

    // Whether the request was on its way already is for the client to know; if so, it must not say that it arrived.
    if let Err(error) = forward.run(context(attempt("x"))).await {
        assert_eq!(error.kind, FAILED);
        forward.run(context(attempt("x"))).await.unwrap();
    }
    server.join().unwrap();
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_is_one_failed_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            stream.readable().await.unwrap();
        }
    });
    let forward = Forward::new(ForwardSettings::new(format!("http://{address}/"))).unwrap();
    let error = forward.run(context(attempt("x"))).await.unwrap_err();
    assert!(
        error
            .message()
            .starts_with(&format!("no answer from {address}: ")),
        "{error:?}"
    );
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn https_speaks_tls() {
    use tokio::io::AsyncReadExt;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let first_byte =
        tokio::spawn(async move { listener.accept().await.unwrap().0.read_u8().await.unwrap() });
    let forward = Forward::new(ForwardSettings::new(format!("https://{address}/"))).unwrap();
    assert_eq!(
        forward.run(context(attempt("x"))).await.unwrap_err().kind,
        FAILED
    );
    assert_eq!(first_byte.await.unwrap(), 0x16, "a TLS handshake record");
}

#[cfg(not(feature = "tls"))]
#[test]
fn https_is_refused_where_the_build_cannot() {
    let refused = Forward::new(ForwardSettings::new("https://example.com/")).unwrap_err();
    assert!(refused.to_string().contains("tls"), "{refused}");
}
