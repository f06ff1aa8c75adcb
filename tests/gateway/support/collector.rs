//! An OpenTelemetry collector in this process: takes OTLP over HTTP and keeps the spans.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::PATIENCE;

/// One span, as a test speaks of it.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    /// `trace-span` of each link.
    pub(crate) links: Vec<String>,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) failed: bool,
    pub(crate) events: usize,
}

impl Span {
    /// `trace-span`, as links name it.
    pub(crate) fn place(&self) -> String {
        format!("{}-{}", self.trace, self.id)
    }
}

#[derive(Default)]
struct Kept {
    spans: Vec<Span>,
    resource: BTreeMap<String, String>,
    headers: Option<HeaderMap>,
    /// Everything that came, as it came.
    bytes: Vec<u8>,
}

pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    came: Arc<Notify>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (kept, came) = (Arc::<Mutex<Kept>>::default(), Arc::new(Notify::new()));
        let (keep, notify) = (Arc::clone(&kept), Arc::clone(&came));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (keep, notify) = (Arc::clone(&keep), Arc::clone(&notify));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (keep, notify) = (Arc::clone(&keep), Arc::clone(&notify));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        assert_eq!(head.uri.path(), "/v1/traces");
                        assert_eq!(head.headers["content-type"], "application/x-protobuf");
                        keep.lock().unwrap().add(head.headers, &body);
                        notify.notify_waiters();
                        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self {
            address,
            kept,
            came,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What has come, once there are `count` spans.
    pub(crate) async fn spans(&self, count: usize) -> Vec<Span> {
        let began = Instant::now();
        loop {
            let came = self.came.notified();
            let spans = self.kept.lock().unwrap().spans.clone();
            if spans.len() >= count {
                return spans;
            }
            let left = PATIENCE.saturating_sub(began.elapsed());
            let more = tokio::time::timeout(left, came).await;
            assert!(more.is_ok(), "{count} spans did not come: {spans:#?}");
        }
    }

    pub(crate) fn resource(&self) -> BTreeMap<String, String> {
        self.kept.lock().unwrap().resource.clone()
    }

    pub(crate) fn headers(&self) -> HeaderMap {
        self.kept.lock().unwrap().headers.clone().unwrap()
    }

    /// Whether these bytes came anywhere.
    pub(crate) fn holds(&self, text: &str) -> bool {
        let kept = self.kept.lock().unwrap();
        kept.bytes
            .windows(text.len())
            .any(|bytes| bytes == text.as_bytes())
    }
}

impl Kept {
    fn add(&mut self, headers: HeaderMap, body: &[u8]) {
        self.headers = Some(headers);
        self.bytes.extend_from_slice(body);
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        for of_resource in request.resource_spans {
            self.resource = attributes(of_resource.resource.unwrap_or_default().attributes);
            for span in of_resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans)
            {
                let linked =
                    |(trace, span): (&[u8], &[u8])| format!("{}-{}", hex(trace), hex(span));
                let links = span
                    .links
                    .iter()
                    .map(|link| (&*link.trace_id, &*link.span_id));
                let status = span.status.clone().unwrap_or_default();
                assert_eq!(status.message, "");
                self.spans.push(Span {
                    kind: span.kind(),
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    links: links.map(linked).collect(),
                    failed: status.code() == StatusCode::Error,
                    events: span.events.len(),
                    name: span.name,
                    attributes: attributes(span.attributes),
                });
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

fn attributes(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let read = |value: AnyValue| match value.value {
        Some(Value::StringValue(text)) => text,
        // So that a number that was written as text shows.
        Some(Value::IntValue(number)) => format!("#{number}"),
        other => format!("{other:?}"),
    };
    let attributes = attributes.into_iter();
    attributes
        .map(|pair| (pair.key, pair.value.map_or_else(String::new, read)))
        .collect()
}
