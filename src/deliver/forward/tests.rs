//! Against real servers on 127.0.0.1.

mod connections;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt, stream};
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::StreamBody;
use hyper::Response;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sha2::Sha256;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::deliver::testing::{attempt, context};
use crate::worker::handler::{Attempt, JobErrorKind};

/// The secret of the Standard Webhooks test vector.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const FAILED: JobErrorKind = JobErrorKind::Failed { after: None };

type Seen = Request<Bytes>;
type Answer = Response<Full<Bytes>>;

/// A server that answers every request by `answer`, and shows what it saw.
struct Server {
    address: SocketAddr,
    seen: mpsc::UnboundedReceiver<Seen>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn answering(answer: impl Fn() -> Option<Answer> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (show, seen) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, show.clone(), Arc::clone(&answer)));
            }
        });
        Self {
            address,
            seen,
            connections,
        }
    }

    async fn with_status(status: u16) -> Self {
        Self::answering(move || Some(answer(status, &[], ""))).await
    }

    fn url(&self) -> String {
        format!("http://{}/hooks?tenant=7", self.address)
    }

    async fn post(&self, settings: ForwardSettings, job: Attempt) -> Result<(), JobError> {
        Forward::new(settings).unwrap().run(context(job)).await
    }
}

/// `None` as an answer is none, ever.
async fn serve(
    stream: TcpStream,
    show: mpsc::UnboundedSender<Seen>,
    answer: Arc<impl Fn() -> Option<Answer> + Send + Sync + 'static>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let (show, answer) = (show.clone(), Arc::clone(&answer));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            show.send(Request::from_parts(head, body)).ok();
            match answer() {
                Some(answer) => Ok::<_, Infallible>(answer),
                None => pending().await,
            }
        }
    });
    let served =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    served.await.ok();
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    answer.body(Full::new(body.into())).unwrap()
}

fn with_headers(payload: impl Into<Bytes>, headers: &[(&str, &str)]) -> Attempt {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let headers: BTreeMap<_, _> = headers.iter().map(owned).collect();
    let mut job = attempt(payload);
    Arc::make_mut(&mut job.delivery).meta.headers = headers;
    job
}

#[tokio::test]
async fn the_body_and_the_kept_headers_arrive_as_they_came() {
    let mut server = Server::with_status(200).await;
    let body: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let kept = [
        ("content-type", "application/json; charset=utf-8"),
        ("x-shopify-topic", "orders/create"),
        ("x-name", "Zoë"),
        ("millstream-attempt", "99"),
    ];
    let dropped = [
        ("connection", "close, X-Private"),
        ("x-private", "1"),
        ("content-length", "3"),
        ("host", "elsewhere"),
        ("transfer-encoding", "chunked"),
        ("te", "trailers"),
        ("expect", "100-continue"),
    ];
    let job = with_headers(body.clone(), &[&kept[..], &dropped[..]].concat());

    server
        .post(ForwardSettings::new(server.url()), job)
        .await
        .unwrap();

    let seen = server.seen.recv().await.unwrap();
    assert_eq!(seen.method(), Method::POST);
    assert_eq!(seen.uri(), "/hooks?tenant=7");
    assert_eq!(seen.body(), &body);
    let mut headers: Vec<(&str, &[u8])> = seen
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    headers.sort_unstable();
    let host = server.address.to_string();
    let agent = concat!("millstream/", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        headers,
        [
            ("content-length", b"100000".as_slice()),
            ("content-type", b"application/json; charset=utf-8"),
            ("host", host.as_bytes()),
            ("millstream-attempt", b"3"),
            ("millstream-job-id", b"1700000000000-7"),
            ("millstream-job-name", b"shop/orders/create"),
            ("millstream-queue", b"webhooks"),
            ("user-agent", agent.as_bytes()),
            ("x-name", "Zoë".as_bytes()),
            ("x-shopify-topic", b"orders/create"),
        ]
    );
}

#[tokio::test]
async fn a_job_without_a_content_type_gets_its_codecs() {
    let mut server = Server::with_status(200).await;
    for (codec, expected) in [
        (Codec::Raw, "application/octet-stream"),
        (Codec::Json, "application/json"),
        (Codec::MsgPack, "application/msgpack"),
    ] {
        let mut job = attempt("x");
        Arc::make_mut(&mut job.delivery).meta.codec = codec;
        server
            .post(ForwardSettings::new(server.url()), job)
            .await
            .unwrap();
        assert_eq!(
            server.seen.recv().await.unwrap().headers()["content-type"],
            expected
        );
    }
}

#[tokio::test]
async fn a_header_that_http_does_not_allow_dead_letters_the_job_and_is_not_shown() {
    let server = Server::with_status(200).await;
    for header in [("x-odd", "hunter2\nx-more: 1"), ("not a name", "hunter2")] {
        let error = server
            .post(
                ForwardSettings::new(server.url()),
                with_headers("", &[header]),
            )
            .await
            .unwrap_err();
        assert_eq!(error.kind, JobErrorKind::Refused);
        assert!(
            error.message().contains(header.0) && !error.message().contains("hunter2"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_signed_request_verifies_at_the_receiver() {
    let mut server = Server::with_status(200).await;
    let job = with_headers("{\"a\":1}", &[("webhook-signature", "v1,of-the-sender")]);
    server
        .post(ForwardSettings::new(server.url()).sign_with(SECRET), job)
        .await
        .unwrap();

    let seen = server.seen.recv().await.unwrap();
    let header = |name: &str| seen.headers()[name].to_str().unwrap();
    assert_eq!(header("webhook-id"), "1700000000000-7");
    let age = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
        - header("webhook-timestamp").parse::<u64>().unwrap();
    assert!(age < 60, "{age}");
    let signed = format!(
        "{}.{}.{{\"a\":1}}",
        header("webhook-id"),
        header("webhook-timestamp")
    );
    let signature = BASE64
        .decode(header("webhook-signature").strip_prefix("v1,").unwrap())
        .unwrap();
    let key = BASE64.decode(&SECRET["whsec_".len()..]).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(signed.as_bytes());
    mac.verify_slice(&signature).unwrap();
}

#[tokio::test]
async fn every_2xx_completes() {
    for status in [200, 201, 202, 204] {
        let server = Server::with_status(status).await;
        server
            .post(ForwardSettings::new(server.url()), attempt("x"))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn any_other_status_is_a_failed_attempt_that_keeps_the_servers_words() {
    for (status, line) in [
        (400, "400 Bad Request"),
        (429, "429 Too Many Requests"),
        (500, "500 Internal Server Error"),
    ] {
        let server =
            Server::answering(move || Some(answer(status, &[], "no\n\u{1b}[2J such shop \n")))
                .await;
        let error = server
            .post(ForwardSettings::new(server.url()), attempt("x"))
            .await
            .unwrap_err();
        assert_eq!(error.kind, FAILED);
        let said = format!(
            "{} answered {line}: no\\n\\u{{1b}}[2J such shop",
            server.address
        );
        assert_eq!(error.message(), said);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for status in [301, 302, 307, 308] {
        let mut server =
            Server::answering(move || Some(answer(status, &[("location", "/elsewhere")], "")))
                .await;
        let error = server
            .post(ForwardSettings::new(server.url()), attempt("x"))
            .await
            .unwrap_err();
        assert_eq!(error.kind, FAILED);
        assert!(error.message().contains(&status.to_string()), "{error:?}");
        assert_eq!(server.seen.recv().await.unwrap().uri().path(), "/hooks");
        assert!(server.seen.try_recv().is_err(), "a second request was sent");
    }
}

#[tokio::test]
async fn gone_and_what_dead_on_lists_dead_letter() {
    for (status, kind) in [
        (410, JobErrorKind::Refused),
        (422, JobErrorKind::Refused),
        (404, FAILED),
    ] {
        let server = Server::with_status(status).await;
        let settings = ForwardSettings::new(server.url()).dead_on([422]);
        assert_eq!(
            server.post(settings, attempt("x")).await.unwrap_err().kind,
            kind
        );
    }
}

#[tokio::test]
async fn a_server_can_ask_to_be_left_alone_for_a_while() {
    for status in [429, 503] {
        let server =
            Server::answering(move || Some(answer(status, &[("retry-after", "120")], "busy")))
                .await;
        let error = server
            .post(ForwardSettings::new(server.url()), attempt("x"))
            .await
            .unwrap_err();
        assert_eq!(
            error.kind,
            JobErrorKind::Failed {
                after: Some(Duration::from_secs(120))
            }
        );
        assert!(error.message().ends_with("busy"), "{error:?}");
    }
}

#[tokio::test]
async fn a_target_that_cannot_do_any_job_is_told_from_one_that_does_not_want_this() {
    for (status, headers, down) in [
        (500, vec![], true),
        (502, vec![], true),
        (503, vec![("retry-after", "7")], true),
        (429, vec![("retry-after", "7")], false),
        (429, vec![], false),
        (404, vec![], false),
        (302, vec![("location", "/")], false),
        (410, vec![], false),
    ] {
        let server = Server::answering(move || Some(answer(status, &headers, ""))).await;
        let settings = ForwardSettings::new(server.url());
        let error = server.post(settings, attempt("x")).await.unwrap_err();
        assert_eq!(error.unavailable, down, "{error:?}");
    }
}

#[test]
fn retry_after_is_read_as_seconds_or_as_a_date_and_bounded() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
    let after = |value: &str, date: Option<&str>, status| {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", value.parse().unwrap());
        date.map(|date| headers.insert("date", date.parse().unwrap()));
        judge(StatusCode::from_u16(status).unwrap(), &headers, &[], now)
    };
    let seconds = |seconds| Verdict::RetryAfter(Duration::from_secs(seconds));
    let noon = "Sun, 06 Nov 1994 12:00:00 GMT";
    assert_eq!(after("7", None, 429), seconds(7));
    assert_eq!(after("0", None, 503), seconds(0));
    assert_eq!(after("99999999999999999999999", None, 503), seconds(86_400));
    assert_eq!(
        after("Sun, 06 Nov 1994 08:50:37 GMT", None, 429),
        seconds(60)
    );
    assert_eq!(
        after("Sun, 06 Nov 1994 12:00:09 GMT", Some(noon), 429),
        seconds(9)
    );
    assert_eq!(
        after("Tue, 06 Nov 1990 08:50:37 GMT", None, 429),
        seconds(0)
    );
    assert_eq!(
        after("Sat, 06 Nov 2094 08:50:37 GMT", None, 429),
        seconds(86_400)
    );
    for unreadable in ["soon", "-1", "1.5", ""] {
        assert_eq!(
            after(unreadable, None, 429),
            Verdict::Failed,
            "{unreadable:?}"
        );
    }
    assert_eq!(after("7", None, 500), Verdict::Failed);
}

#[tokio::test]
async fn a_huge_answer_is_read_only_so_far() {
    let frames = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&frames);
    let endless = stream::repeat_with(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; 4096])))
    });

    let kept = read_bounded(StreamBody::new(endless), Duration::from_secs(3600)).await;

    assert_eq!(kept, [b'x'; ANSWER_BYTES_KEPT]);
    assert_eq!(frames.load(Ordering::SeqCst), ANSWER_BYTES_MAX / 4096);
}

#[tokio::test]
async fn a_body_that_stalls_keeps_what_came() {
    let first = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(
        b"partly",
    )))]);
    let stalling = StreamBody::new(first.chain(stream::pending()));
    assert_eq!(
        read_bounded(stalling, Duration::from_millis(1)).await,
        b"partly"
    );
}

#[tokio::test]
async fn a_user_in_the_url_is_sent_as_basic_authorization() {
    let mut server = Server::with_status(200).await;
    for (user, decoded) in [
        ("shop:p%40ss%3a", "shop:p@ss:"),
        ("shop", "shop:"),
        ("a:%zz%", "a:%zz%"),
    ] {
        let url = format!("http://{user}@{}/", server.address);
        server
            .post(ForwardSettings::new(url), attempt("x"))
            .await
            .unwrap();
        let seen = server.seen.recv().await.unwrap();
        let expected = format!("Basic {}", BASE64.encode(decoded));
        assert_eq!(seen.headers()["authorization"], expected.as_str());
        assert!(!seen.headers()["host"].to_str().unwrap().contains('@'));
    }
}

#[tokio::test]
async fn a_url_needs_no_path() {
    let mut server = Server::with_status(200).await;
    for (rest, target) in [
        ("", "/"),
        ("?a=1", "/?a=1"),
        ("#part", "/"),
        ("/a//b", "/a//b"),
    ] {
        let url = format!("http://{}{rest}", server.address);
        server
            .post(ForwardSettings::new(url), attempt("x"))
            .await
            .unwrap();
        assert_eq!(server.seen.recv().await.unwrap().uri(), target, "{rest}");
    }
}

#[test]
fn bad_settings_are_refused_by_name_and_without_their_secrets() {
    let plain = || ForwardSettings::new("http://127.0.0.1:3000/");
    let url = ForwardSettings::new;
    for (name, settings) in [
        ("forward", url("")),
        ("forward", url("/hooks")),
        ("forward", url("localhost:3000/hooks")),
        ("forward", url("ftp://user:hunter2@example.com/?t=hunter2")),
        (
            "forward",
            url("http://user:hunter2@exa mple.com/?t=hunter2"),
        ),
        ("forward", url("http://user:hunter2@:80/?t=hunter2")),
        ("forward", url("user:hunter2@example.com?t=hunter2")),
        ("forward", url("http://example.com:0/")),
        ("forward", url("http://example.com:99999/")),
        ("dead_on", plain().dead_on([404, 204])),
        ("dead_on", plain().dead_on([600])),
        ("sign_with", plain().sign_with("hunter2!")),
        ("sign_with", plain().sign_with("whsec_")),
        ("forward", plain().refuse_private(true)),
        (
            "forward",
            url("https://user:hunter2@[fd00:ec2::254]/?hunter2").refuse_private(true),
        ),
    ] {
        assert!(!format!("{settings:?}").contains("hunter2"));
        let shown = format!("{settings:?}");
        match Forward::new(settings) {
            Err(error @ Error::Setting { .. }) => {
                let text = error.to_string();
                assert!(text.starts_with(&format!("{name} = ")), "{text}");
                assert!(!text.contains("hunter2"), "{text}");
            }
            other => panic!("{shown}: {other:?}"),
        }
    }
}
