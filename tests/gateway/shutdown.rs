//! A deploy loses nothing: what a gateway has begun to take in is stored and answered.

use tokio::net::TcpStream;

use crate::support::senders::{self, BODY};
use crate::support::{Place, eventually};

#[tokio::test]
async fn a_request_that_is_half_sent_when_the_shutdown_begins_is_stored_and_answered() {
    let place = Place::new().await;
    let inbox = place.gateway().await;
    let delivery = senders::shopify("d1", BODY);
    let request = delivery.request();
    let (begun, rest) = request.split_at(request.len() - BODY.len() / 2);
    let mut slow = inbox.connect().await;
    // Its first request is answered, so the gateway has the connection and is not merely about to accept it.
    slow.send(&crate::support::http::get("/health/live")).await;
    assert_eq!(slow.answer().await.status, 200);
    slow.send(begun).await;
    // Sent later and answered: by then the gateway has read what was sent before, on whichever connection.
    assert_eq!(inbox.get("/health/live").await.status, 200);

    inbox.shutdown.cancel();
    let is_refused = async || TcpStream::connect(inbox.address).await.is_err();
    eventually("new connections are refused", is_refused).await;
    assert!(!inbox.running.is_finished());
    place.assert_nothing_is_stored().await;
    slow.send(rest).await;

    let answer = slow.answer().await;
    let (id, duplicate) = answer.stored();
    assert!(!duplicate);
    assert_eq!(answer.header("connection"), Some("close"));
    let job = place.only_job().await;
    assert_eq!(
        (job.id.as_str(), job.payload.as_deref()),
        (id.as_str(), Some(BODY))
    );
    inbox.stopped().await;
}

#[cfg(feature = "cli")]
#[tokio::test]
async fn a_process_with_a_drain_period_says_that_it_is_not_ready_before_it_refuses_anybody() {
    use crate::support::program::Program;

    let place = Place::new().await;
    let mut program = Program::start(&place, "", &["--drain", "3s"], "");
    assert_eq!(program.get("/health/ready").await.status, 200);

    program.terminate();
    let is_unready = async || program.get("/health/ready").await.status == 503;
    eventually("not ready", is_unready).await;
    let answer = program.get("/health/ready").await;
    assert_eq!(answer.json()["checks"]["gateway"], "stopping");
    assert_eq!(program.get("/health/live").await.status, 200);
    program
        .deliver(&senders::shopify("d1", BODY))
        .await
        .stored();

    let is_refused = async || TcpStream::connect(program.address).await.is_err();
    eventually("new connections are refused", is_refused).await;
    assert_eq!(program.ended().await, Some(0));
    place.only_job().await;
}
