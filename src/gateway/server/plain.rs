//! Requests as nearly all senders send them: a POST to a source that says how long it is, and asks for nothing but an answer.
//!
//! Nothing is refused here and nothing repaired. What differs from that in the least goes, byte for byte as it came, to hyper, which
//! knows the whole of HTTP. So what counts as a request, and where one ends, is decided by hyper wherever there is anything to decide.

use std::cell::RefCell;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, StatusCode, Uri, Version};

use super::body::SMALL;
use super::connection::HEADER_BYTES_MAX;

/// How each of them begins, up to the source's name.
const BEGINNING: &[u8] = b"POST /webhooks/";
/// Where the target begins.
const TARGET_AT: usize = b"POST ".len();
/// Most headers. Providers send about 20.
const HEADERS_MAX: usize = 48;

/// Headers by which a request says in another way where it ends, or wants more than an answer.
const NOT_PLAIN: [HeaderName; 6] = [
    header::CONNECTION,
    header::EXPECT,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What has come so far.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "taken apart where it is returned; a box would be an allocation for each request"
)]
pub(super) enum Seen {
    /// A whole request. What was behind it is still there.
    Whole(Parts, Bytes),
    /// It may become one when so many more bytes have come, at least.
    Begun(usize),
    Other,
}

/// Takes a request out of `read`, if one is there. `headers` is empty, and its room serves those of the request.
pub(super) fn take(read: &mut BytesMut, headers: &mut HeaderMap) -> Seen {
    let mut lines = Lines::default();
    let head = match look(read, &mut lines) {
        Shape::Whole(head) => head,
        Shape::Begun => return Seen::Begun(1),
        Shape::Other => return Seen::Other,
    };
    let whole = head.bytes + head.body_bytes;
    if read.len() < whole {
        return Seen::Begun(whole - read.len());
    }
    let bytes = read.split_to(head.bytes).freeze();
    let body = read.split_to(head.body_bytes).freeze();
    let checked = "only what both accept was let through";
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::POST;
    parts.version = Version::HTTP_11;
    parts.uri = Uri::from_maybe_shared(bytes.slice(TARGET_AT..head.target_end)).expect(checked);
    parts.headers = std::mem::take(headers);
    for (name, value) in lines.seen() {
        let name = HeaderName::from_bytes(&bytes[name.clone()]).expect(checked);
        let value = HeaderValue::from_maybe_shared(bytes.slice(value.clone())).expect(checked);
        parts.headers.append(name, value);
    }
    Seen::Whole(parts, body)
}

/// Where the headers of a request stand: names and values.
struct Lines {
    each: [(Range<usize>, Range<usize>); HEADERS_MAX],
    count: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            each: [const { (0..0, 0..0) }; HEADERS_MAX],
            count: 0,
        }
    }
}

impl Lines {
    fn seen(&self) -> &[(Range<usize>, Range<usize>)] {
        &self.each[..self.count]
    }
}

/// A head that is here whole.
#[derive(Debug, PartialEq)]
struct Head {
    target_end: usize,
    bytes: usize,
    body_bytes: usize,
}

#[derive(Debug, PartialEq)]
enum Shape {
    Whole(Head),
    Begun,
    Other,
}

/// Reads the head at the beginning of `bytes`, with the parser that hyper has, in its settings.
fn look(bytes: &[u8], lines: &mut Lines) -> Shape {
    if !bytes.starts_with(BEGINNING) {
        return if BEGINNING.starts_with(bytes) {
            Shape::Begun
        } else {
            Shape::Other
        };
    }
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let end = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(end)) if end <= HEADER_BYTES_MAX => end,
        Ok(httparse::Status::Partial) if bytes.len() < HEADER_BYTES_MAX => return Shape::Begun,
        _ => return Shape::Other,
    };
    let (Some(target), Some(1)) = (request.path, request.version) else {
        return Shape::Other;
    };
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let target_end = TARGET_AT + target.len();
    if !bytes[BEGINNING.len()..target_end]
        .iter()
        .copied()
        .all(in_name)
    {
        return Shape::Other;
    }
    let place = |part: &[u8]| {
        let start = part.as_ptr().addr() - bytes.as_ptr().addr();
        start..start + part.len()
    };
    let (mut body_bytes, mut hosts) = (None, 0);
    for header in &*request.headers {
        let (name, value) = (header.name.as_bytes(), header.value);
        let is = |header: &HeaderName| name.eq_ignore_ascii_case(header.as_str().as_bytes());
        if is(&header::CONTENT_LENGTH) {
            match (body_bytes, length(value)) {
                (None, Some(length)) => body_bytes = Some(length),
                _ => return Shape::Other,
            }
        } else if is(&header::HOST) {
            hosts += 1;
        } else if is(&header::CONNECTION) && value.eq_ignore_ascii_case(b"keep-alive") {
            // What HTTP/1.1 means anyway, and some clients say.
        } else if NOT_PLAIN.iter().any(is) {
            return Shape::Other;
        }
        lines.each[lines.count] = (place(name), place(value));
        lines.count += 1;
    }
    match body_bytes {
        Some(body_bytes) if hosts == 1 => Shape::Whole(Head {
            target_end,
            bytes: end,
            body_bytes,
        }),
        _ => Shape::Other,
    }
}

/// A length in plain digits, of a body that is read without asking for room.
fn length(digits: &[u8]) -> Option<usize> {
    if !(1..=5).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |sum, digit: &u8| sum * 10 + usize::from(digit - b'0');
    Some(digits.iter().fold(0, number)).filter(|bytes| *bytes <= SMALL)
}

/// Writes an answer as hyper does.
pub(super) fn write(into: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap, body: &[u8]) {
    let reason = status.canonical_reason().unwrap_or_default();
    let line = "HTTP/1.1 ";
    into.extend_from_slice(line.as_bytes());
    into.extend_from_slice(status.as_str().as_bytes());
    into.push(b' ');
    into.extend_from_slice(reason.as_bytes());
    into.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        into.extend_from_slice(name.as_str().as_bytes());
        into.extend_from_slice(b": ");
        into.extend_from_slice(value.as_bytes());
        into.extend_from_slice(b"\r\n");
    }
    // To memory, which takes everything.
    let _ = write!(into, "content-length: {}\r\ndate: ", body.len());
    with_date(|date| into.extend_from_slice(date.as_bytes()));
    into.extend_from_slice(b"\r\n\r\n");
    into.extend_from_slice(body);
}

/// The date of now, which is written once a second.
fn with_date(read: impl FnOnce(&str)) {
    thread_local! {
        static DATE: RefCell<(u64, String)> = RefCell::default();
    }
    let now = SystemTime::now();
    let second = now.duration_since(SystemTime::UNIX_EPOCH);
    let second = second.map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(of, date)| {
        if *of != second || date.is_empty() {
            (*of, *date) = (second, httpdate::fmt_http_date(now));
        }
        read(date);
    });
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use http_body_util::{BodyExt as _, Full};
    use hyper::Response;
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt as _;
    use tokio::sync::mpsc;

    use super::*;

    const HEAD: &str = "POST /webhooks/shop-1 HTTP/1.1\r\nHost: a\r\ncontent-LENGTH:  4 \t\r\nX-A: \tü b\r\nx-a:\r\nconnection: Keep-Alive\r\n\r\n";

    fn seen(bytes: &[u8]) -> (Seen, BytesMut) {
        let mut read = BytesMut::from(bytes);
        (take(&mut read, &mut HeaderMap::new()), read)
    }

    fn request(headers: &str) -> Vec<u8> {
        format!("POST /webhooks/shop HTTP/1.1\r\nhost: a\r\n{headers}\r\nabcd").into()
    }

    #[test]
    fn a_plain_request_is_taken_whole_and_what_follows_stays() {
        let bytes = [HEAD.as_bytes(), b"\x00\xff\r\nPOST /webh"].concat();
        let (Seen::Whole(head, body), rest) = seen(&bytes) else {
            panic!("it is plain");
        };
        assert_eq!(
            (head.method, head.version),
            (Method::POST, Version::HTTP_11)
        );
        assert_eq!(head.uri, "/webhooks/shop-1");
        let headers: Vec<(&str, &[u8])> = head
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let wanted: [(&str, &[u8]); 5] = [
            ("host", b"a"),
            ("content-length", b"4"),
            ("x-a", "ü b".as_bytes()),
            ("x-a", b""),
            ("connection", b"Keep-Alive"),
        ];
        assert_eq!(headers, wanted);
        assert_eq!(&body[..], b"\x00\xff\r\n");
        assert_eq!(&rest[..], b"POST /webh");
    }

    #[test]
    fn each_beginning_of_one_is_begun_and_nothing_is_taken() {
        let whole = [HEAD.as_bytes(), b"abcd"].concat();
        for end in 0..whole.len() {
            let (seen, rest) = seen(&whole[..end]);
            let missing = if end < HEAD.len() {
                1
            } else {
                whole.len() - end
            };
            assert!(
                matches!(seen, Seen::Begun(more) if more == missing),
                "{end}: {seen:?}"
            );
            assert_eq!(rest, whole[..end]);
        }
    }

    #[test]
    fn whatever_differs_from_one_is_left_as_it_came() {
        let lines = [
            "GET /webhooks/shop HTTP/1.1",
            "post /webhooks/shop HTTP/1.1",
            "POST  /webhooks/shop HTTP/1.1",
            "POST /webhooks/shop HTTP/1.0",
            "POST /webhooks/shop http/1.1",
            "POST /webhooks/shop  HTTP/1.1",
            "POST /webhooks/sh%6fp HTTP/1.1",
            "POST /webhooks/shop?a HTTP/1.1",
            "POST /webhooks/shop/ HTTP/1.1",
            "POST http://a/webhooks/shop HTTP/1.1",
            "\r\nPOST /webhooks/shop HTTP/1.1",
            "POST /queues/q/jobs HTTP/1.1",
        ];
        let lines = lines
            .map(|line| format!("{line}\r\nhost: a\r\ncontent-length: 4\r\n\r\nabcd").into_bytes());
        let headers = [
            "",
            "content-length: 4\r\ncontent-length: 4\r\n",
            "content-length: 4, 4\r\n",
            "content-length: +4\r\n",
            "content-length: 4 4\r\n",
            "content-length: \r\n",
            "content-length: 0x4\r\n",
            "content-length: 16385\r\n",
            "content-length: 1000000\r\n",
            "content-length: 4\r\nhost: b\r\n",
            "content-length: 4\r\nTransfer-Encoding: chunked\r\n",
            "content-length: 4\r\nexpect: 100-continue\r\n",
            "content-length: 4\r\nconnection: close\r\n",
            "content-length: 4\r\nconnection: keep-alive, te\r\n",
            "content-length: 4\r\nupgrade: h2c\r\n",
            "content-length: 4\r\nTE: trailers\r\n",
            "content-length: 4\r\ntrailer: x\r\n",
            "content-length : 4\r\n",
            " content-length: 4\r\n",
            "content-length: 4\r\n x-a: b\r\n",
            "content-length: 4\r\n: b\r\n",
            "content-length: 4\r\nx-a\r\n",
            "content-length: 4\r\nx-a: b\0\r\n",
            "content-length: 4\r\nx-a: b\rc\r\n",
            "content-length: 4\r\nx-a: \x7f\r\n",
            "content-length: 4\r\nx(a): b\r\n",
            "content-length: 4\r\nx-ä: b\r\n",
        ];
        let many = format!("content-length: 4\r\n{}", "x-a: b\r\n".repeat(HEADERS_MAX));
        let long = format!(
            "content-length: 4\r\nx-a: {}\r\n",
            "b".repeat(HEADER_BYTES_MAX)
        );
        let nobody = b"POST /webhooks/shop HTTP/1.1\r\ncontent-length: 4\r\n\r\nabcd".to_vec();
        let requests = headers.into_iter().chain([&*many, &*long]).map(request);
        for bytes in requests.chain(lines).chain([nobody]) {
            let (seen, rest) = seen(&bytes);
            let text = String::from_utf8_lossy(&bytes);
            assert!(matches!(seen, Seen::Other), "{text:?}: {seen:?}");
            assert_eq!(rest, bytes);
        }
    }

    #[test]
    fn a_head_without_end_is_none() {
        for endless in ["x", "x: y\r\n", "x: yyyy"] {
            let bytes = request("").len() - 6;
            let bytes = [
                &request("")[..bytes],
                endless.repeat(HEADER_BYTES_MAX).as_bytes(),
            ]
            .concat();
            assert!(matches!(seen(&bytes).0, Seen::Other), "{endless}");
        }
    }

    /// The first request that hyper finds in `bytes`.
    async fn by_hyper(bytes: &[u8]) -> Option<(Parts, Bytes)> {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(bytes).await.unwrap();
        let (found, mut requests) = mpsc::unbounded_channel();
        let service = service_fn(move |request: Request<Incoming>| {
            let found = found.clone();
            async move {
                let (head, body) = request.into_parts();
                if let Ok(body) = body.collect().await {
                    let _ = found.send((head, body.to_bytes()));
                }
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(server), service);
        tokio::select! {
            first = requests.recv() => first,
            _ = serving => requests.try_recv().ok(),
            () = tokio::time::sleep(Duration::from_secs(10)) => None,
        }
    }

    /// Something that may stand in a request, or should not.
    fn pieces() -> impl Strategy<Value = &'static [u8]> {
        prop::sample::select(vec![
            &b""[..],
            b"\r",
            b"\n",
            b"\r\n",
            b"\r\n\r\n",
            b":",
            b" ",
            b"\t",
            b"\0",
            b"\x7f",
            b"\xff",
            b"a",
            b"4",
            b"-",
            b",",
            b"%",
            b"?",
            b"/",
            b"\r\ncontent-length: 5",
            b"\r\ntransfer-encoding: chunked",
            b"\r\nhost: b",
            b"\r\nconnection: close",
            b"\r\nx: y",
        ])
    }

    proptest! {
        #[test]
        fn hyper_takes_every_plain_request_for_the_same(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), 0_usize..3, pieces()), 0..4),
        ) {
            let mut bytes = [HEAD.as_bytes(), b"abcdefgh"].concat();
            for (at, line_end, taken, put) in edits {
                // Every other one at the end of a line, where a header more is one.
                let ends: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"\r\n")).collect();
                let (at, taken) = match ends.as_slice() {
                    ends @ [_, ..] if line_end => (*at.get(ends), 0),
                    _ => (at.index(bytes.len() + 1), taken),
                };
                let end = bytes.len().min(at + taken);
                bytes.splice(at..end, put.iter().copied());
            }
            if let (Seen::Whole(head, body), rest) = seen(&bytes) {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let (other, other_body) = runtime.block_on(by_hyper(&bytes)).expect("hyper takes it, too");
                prop_assert_eq!(&head.method, &other.method);
                prop_assert_eq!(&head.uri, &other.uri);
                prop_assert_eq!(head.version, other.version);
                prop_assert!(head.headers.iter().eq(other.headers.iter()));
                prop_assert_eq!(&body, &other_body);
                let taken = bytes.len() - rest.len();
                prop_assert_eq!(&bytes[taken - body.len()..taken], &body[..]);
            }
        }
    }
}
