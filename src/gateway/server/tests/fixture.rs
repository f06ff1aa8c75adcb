//! A running server with a stand-in behind it, a client that speaks HTTP by the byte, and the requests that it sends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::gateway::GatewaySettings;
use crate::gateway::server::{Inner, Server};
use crate::gateway::signature::Scheme;
use crate::gateway::source::{SchemeSettings, SourceSettings};
use crate::gateway::stand_in::StandIn;

/// Far longer than anything here takes; a test that waits for it has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
pub(super) const BRIEF: Duration = Duration::from_millis(50);
pub(super) const SECRET: &str = "hunter2";
pub(super) const BODY: &[u8] = b"{\"id\":1}\x00\xff";
/// A header that asks for no more than any, and makes a request none of the plain ones all the same.
pub(super) const NOT_PLAIN: &str = "te: trailers\r\n";

pub(super) struct Fixture {
    pub(super) address: SocketAddr,
    pub(super) store: Arc<StandIn>,
    pub(super) inner: Arc<Inner<StandIn>>,
    pub(super) shutdown: CancellationToken,
    pub(super) running: JoinHandle<()>,
}

impl Fixture {
    pub(super) async fn new() -> Self {
        Self::with(StandIn::default(), |_| {}).await
    }

    pub(super) async fn with(store: StandIn, change: impl FnOnce(&mut GatewaySettings)) -> Self {
        let mut settings = GatewaySettings::default();
        let shop = SourceSettings::new(SchemeSettings::Shopify, [SECRET], "webhooks");
        settings.sources = vec![("shop".to_owned(), shop)];
        change(&mut settings);
        let (sources, tokens) = settings.checked().unwrap();
        let server = Server::new(&settings, sources, tokens, store, Vec::new());
        let inner = server.inner.clone();
        let store = inner.store.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(server.run(listener, shutdown.clone()));
        Self {
            address,
            store,
            inner,
            shutdown,
            running,
        }
    }

    pub(super) async fn client(&self) -> Client {
        Client {
            stream: TcpStream::connect(self.address).await.unwrap(),
            read: Vec::new(),
        }
    }

    /// The answer to one request on a connection of its own.
    pub(super) async fn ask(&self, request: &[u8]) -> Answer {
        let mut client = self.client().await;
        client.send(request).await;
        client.answer().await
    }

    pub(super) async fn stopped(self) {
        timeout(PATIENCE, self.running).await.unwrap().unwrap();
    }
}

pub(super) struct Client {
    pub(super) stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Lower-case `name: value` lines, without those that differ each time: date and request id.
    pub(super) headers: Vec<String>,
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn has(&self, header: &str) -> bool {
        self.headers.iter().any(|line| line == header)
    }
}

impl Client {
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(super) async fn more(&mut self) -> usize {
        let read = self.stream.read_buf(&mut self.read);
        timeout(PATIENCE, read).await.expect("an answer").unwrap()
    }

    /// The next answer; panics when the connection ends before it.
    pub(super) async fn answer(&mut self) -> Answer {
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
                let differs =
                    |line: &String| line.starts_with("date:") || line.starts_with("x-request-id:");
                let headers: Vec<String> = lines.filter(|line| !differs(line)).collect();
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
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await > 0 {}
        std::mem::take(&mut self.read)
    }
}

pub(super) fn signature(body: &[u8]) -> String {
    let scheme = Scheme::shopify();
    scheme.sign(&scheme.secret("s", SECRET).unwrap(), "", 0, body)
}

pub(super) fn request(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

/// A rightly signed delivery `id`.
pub(super) fn delivery(id: &str, body: &[u8]) -> Vec<u8> {
    let signature = signature(body);
    let headers = format!(
        "x-shopify-topic: orders/create\r\nx-shopify-webhook-id: {id}\r\nx-shopify-hmac-sha256: {signature}\r\n"
    );
    request("/webhooks/shop", &headers, body)
}

pub(super) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes()
}
