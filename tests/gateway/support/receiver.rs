//! The program at the other end of a `forward`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::PATIENCE;

pub(crate) struct Receiver {
    address: SocketAddr,
    seen: mpsc::UnboundedReceiver<Request<Bytes>>,
}

impl Receiver {
    /// Answers with `statuses` in turn, and with the last of them from then on.
    pub(crate) async fn answering<const N: usize>(statuses: [u16; N]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (show, seen) = mpsc::unbounded_channel();
        let answered = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (show, answered) = (show.clone(), Arc::clone(&answered));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (show, answered) = (show.clone(), Arc::clone(&answered));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let _ = show.send(Request::from_parts(head, body));
                        let turn = answered.fetch_add(1, Ordering::SeqCst).min(N - 1);
                        let answer = Response::builder().status(statuses[turn]);
                        Ok::<_, Infallible>(answer.body(Full::new(Bytes::from("noted"))).unwrap())
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, seen }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hooks", self.address)
    }

    pub(crate) async fn next(&mut self) -> Request<Bytes> {
        let seen = timeout(PATIENCE, self.seen.recv()).await;
        seen.expect("a request").expect("the receiver lives")
    }

    pub(crate) fn assert_no_more(&mut self) {
        assert!(self.seen.try_recv().is_err(), "one request too many");
    }
}
