//! A client that speaks HTTP by the byte, so that a test can stop in the middle.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;

pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case, without those that differ each time: date and request id.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    request_id: RequestId,
}

/// The header, if there was one. No part of what two answers have in common.
#[derive(Clone, Debug)]
struct RequestId(Vec<(String, String)>);

impl PartialEq for RequestId {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for RequestId {}

impl Answer {
    pub(crate) fn request_id(&self) -> &str {
        self.request_id.0.first().map_or("", |(_, id)| id)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find_map(|(found, value)| (found == name).then_some(value.as_str()))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The id of a stored job and whether it was there before; panics unless the body says this and no more.
    #[track_caller]
    pub(crate) fn stored(&self) -> (String, bool) {
        assert_eq!(self.status, 200, "{self:?}");
        let Value::Object(mut fields) = self.json() else {
            panic!("not an object: {self:?}")
        };
        let id = fields
            .remove("id")
            .and_then(|id| Some(id.as_str()?.to_owned()));
        let duplicate = fields.remove("duplicate").and_then(|flag| flag.as_bool());
        assert!(fields.is_empty(), "more than was promised: {self:?}");
        (id.expect("an id"), duplicate.expect("duplicate"))
    }

    /// Refused for now, with a time to come again.
    #[track_caller]
    pub(crate) fn assert_unavailable(&self) {
        assert_eq!(self.status, 503, "{self:?}");
        let wait = self.header("retry-after").expect("Retry-After");
        assert!((1..=60).contains(&wait.parse::<u64>().unwrap()), "{wait}");
    }
}

impl Connection {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
            read: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next answer; panics when the connection ends before it.
    pub(crate) async fn answer(&mut self) -> Answer {
        loop {
            let end = self.read.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                return self.body_of(end).await;
            }
            assert!(self.more().await, "no answer, but {:?}", self.read);
        }
    }

    async fn body_of(&mut self, end: usize) -> Answer {
        let head = String::from_utf8(self.read[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let headers = lines.map(|line| line.split_once(": ").unwrap());
        let headers: Vec<_> = headers
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .filter(|(name, _)| name != "date")
            .collect();
        let (ids, headers) = headers
            .into_iter()
            .partition(|(name, _)| name == "x-request-id");
        let mut answer = Answer {
            request_id: RequestId(ids),
            status: status.unwrap().parse().unwrap(),
            headers,
            body: Vec::new(),
        };
        let length = answer.header("content-length").expect("a length");
        let whole = end + 4 + length.parse::<usize>().unwrap();
        while self.read.len() < whole {
            assert!(self.more().await, "the answer broke off: {answer:?}");
        }
        answer.body = self.read[end + 4..whole].to_vec();
        self.read.drain(..whole);
        answer
    }

    /// Everything that still comes before the gateway closes. A reset is an end as well.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        loop {
            let read = self.stream.read_buf(&mut self.read);
            match timeout(PATIENCE, read).await.expect("an end") {
                Ok(0) | Err(_) => return std::mem::take(&mut self.read),
                Ok(_) => {}
            }
        }
    }

    /// Sends as far as the gateway lets us: it may have closed already.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// False at the end.
    async fn more(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.read);
        timeout(PATIENCE, read).await.expect("an answer").unwrap() > 0
    }
}

pub(crate) fn request(
    method: &str,
    path: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> Vec<u8> {
    let mut request = head(method, path, headers);
    request.extend(format!("content-length: {}\r\n\r\n", body.len()).into_bytes());
    request.extend(body);
    request
}

/// The same, in chunks of at most `size` bytes and without saying how many will come.
pub(crate) fn chunked(
    path: &str,
    headers: &[(String, String)],
    body: &[u8],
    size: usize,
) -> Vec<u8> {
    let mut request = head("POST", path, headers);
    request.extend(b"transfer-encoding: chunked\r\n\r\n");
    for chunk in body.chunks(size) {
        request.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        request.extend(chunk);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\n\r\n");
    request
}

fn head(method: &str, path: &str, headers: &[(String, String)]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: inbox.example\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.into_bytes()
}

pub(crate) fn get(path: &str) -> Vec<u8> {
    request("GET", path, &[], b"")
}
