//! "Your program": the HTTP server that the workers of the demo deliver to. It notes every delivery in a file before it
//! does anything else, and again when it answers: what it did is checked afterwards against what Redis says.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::plan::{Behaviour, Plan, Sender};

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Unix ms on this machine's clock, which is also Redis's.
    pub(super) at_ms: u64,
    /// The worker that delivered.
    pub(super) worker: String,
    pub(super) job: String,
    pub(super) attempt: u32,
    /// The sender's id of the webhook.
    pub(super) delivery: String,
    /// SHA-256 of the body, hex.
    pub(super) body: String,
    /// The answer; `None` on the line that says that the delivery came.
    pub(super) answer: Option<u16>,
}

/// Reads the file back.
pub(super) fn read_records(path: &Path) -> anyhow::Result<Vec<Record>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .map(|line| {
            serde_json::from_str(line)
                .with_context(|| format!("a broken line in {}", path.display()))
        })
        .collect()
}

/// SHA-256 of a body, as it stands in a [`Record`].
pub(super) fn digest(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

/// How far it is; for deciding when to kill, not for the verdict.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Answers given.
    pub(super) answered: usize,
    /// Deliveries of the victim that are not answered any more.
    pub(super) held: usize,
}

/// The worker that will be killed, and when to stop answering it, so that it has jobs running when it is.
#[derive(Clone, Debug)]
pub(super) struct Victim {
    pub(super) worker: String,
    /// Answers to all workers after which the victim gets none.
    pub(super) after: usize,
}

/// The running server; it stops when this is dropped.
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    pub(super) progress: watch::Receiver<Progress>,
    _server: AbortOnDropHandle<()>,
}

struct State {
    behaviours: HashMap<String, Behaviour>,
    victim: Victim,
    file: Mutex<File>,
    progress: watch::Sender<Progress>,
}

impl Receiver {
    /// Listens on a free port and notes deliveries in a new file at `path`.
    pub(super) async fn start(plan: &Plan, victim: Victim, path: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("cannot listen on 127.0.0.1")?;
        let file = OpenOptions::new().create_new(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot create {}", path.display()))?;
        let (progress, watched) = watch::channel(Progress::default());
        let behaviours = plan
            .deliveries
            .iter()
            .map(|delivery| (delivery.id.clone(), delivery.behaviour));
        let state = Arc::new(State {
            behaviours: behaviours.collect(),
            victim,
            file: Mutex::new(file),
            progress,
        });
        let address = listener
            .local_addr()
            .context("cannot listen on 127.0.0.1")?;
        let server = AbortOnDropHandle::new(tokio::spawn(serve(listener, state)));
        Ok(Self {
            address,
            progress: watched,
            _server: server,
        })
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: others will close.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(state.take(request).await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            // A connection that breaks is the worker's death, and that is the point.
            let _ = http
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

impl State {
    async fn take(&self, request: Request<Incoming>) -> Response<Empty<Bytes>> {
        match self.handle(request).await {
            Ok(status) => answer(status),
            Err(error) => {
                tracing::error!("the demo's receiver failed: {error:#}");
                answer(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }

    async fn handle(&self, request: Request<Incoming>) -> anyhow::Result<StatusCode> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.context("a body broke off")?.to_bytes();
        let mut record = Record {
            at_ms: now_ms(),
            worker: head.uri.path().trim_start_matches('/').to_owned(),
            job: header(&head.headers, "millstream-job-id")?.to_owned(),
            attempt: header(&head.headers, "millstream-attempt")?
                .parse()
                .context("millstream-attempt")?,
            delivery: delivery_id(&head.headers)?.to_owned(),
            body: digest(&body),
            answer: None,
        };
        self.note(&record)?;
        let behaviour = *self
            .behaviours
            .get(&record.delivery)
            .context("a delivery that is not in the plan")?;
        if record.worker == self.victim.worker
            && self.progress.borrow().answered >= self.victim.after
        {
            self.progress.send_modify(|progress| progress.held += 1);
            // Until the worker is killed and its connection breaks.
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(work(body.len())).await;
        let status = behaviour.status(record.attempt);
        record.at_ms = now_ms();
        record.answer = Some(status);
        self.note(&record)?;
        self.progress.send_modify(|progress| progress.answered += 1);
        Ok(StatusCode::from_u16(status)?)
    }

    /// In the file before anything else happens: a delivery that is answered has been noted.
    fn note(&self, record: &Record) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(record).context("cannot write JSON")?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line).context("cannot note a delivery")
    }
}

/// What a real handler would do takes longer for more data.
fn work(bytes: usize) -> Duration {
    Duration::from_millis(5 + bytes as u64 / 1_000)
}

fn answer(status: StatusCode) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    response
}

fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> anyhow::Result<&'a str> {
    let value = headers
        .get(name)
        .with_context(|| format!("a delivery without {name}"))?;
    value
        .to_str()
        .with_context(|| format!("{name} is not text"))
}

fn delivery_id(headers: &HeaderMap) -> anyhow::Result<&str> {
    let sender = Sender::ALL
        .into_iter()
        .find(|sender| headers.contains_key(sender.id_header()));
    header(
        headers,
        sender
            .context("a delivery without its sender's id")?
            .id_header(),
    )
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
