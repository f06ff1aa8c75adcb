//! The senders of the webhooks: a few at once, each on a connection that it keeps, and each as patient as real ones,
//! which send again until they have an answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use indicatif::ProgressBar;
use millstream::gateway::signature::Secret;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::plan::{Plan, Sender};

/// Connections at once.
const SENDERS: usize = 8;
/// How often a request without an answer is sent again.
const TRIES: u32 = 20;
/// The pause before that.
const AGAIN: Duration = Duration::from_millis(100);
/// Longest wait for an answer; real senders give five seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the gateway said to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// 200: stored, or known already.
    Stored { id: String, duplicate: bool },
    /// Anything else that is final.
    Refused(StatusCode),
}

/// The keys that webhooks are signed with.
pub(super) struct Keys {
    genuine: Vec<(Sender, Secret)>,
    forged: Vec<(Sender, Secret)>,
}

impl Keys {
    /// `genuine` are the secrets that the gateway has, `forged` others.
    pub(super) fn new(
        genuine: &[(Sender, String)],
        forged: &[(Sender, String)],
    ) -> millstream::Result<Self> {
        let read = |secrets: &[(Sender, String)]| {
            secrets
                .iter()
                .map(|(sender, text)| {
                    Ok((*sender, sender.scheme().secret("the demo's secret", text)?))
                })
                .collect::<millstream::Result<Vec<_>>>()
        };
        Ok(Self {
            genuine: read(genuine)?,
            forged: read(forged)?,
        })
    }

    fn of(&self, sender: Sender, genuine: bool) -> anyhow::Result<&Secret> {
        let keys = if genuine { &self.genuine } else { &self.forged };
        let key = keys.iter().find(|(of, _)| *of == sender);
        key.map(|(_, key)| key).context("a sender without a key")
    }
}

/// Sends everything. Returns the answers in the order of the plan's requests.
pub(super) async fn send_all(
    gateway: SocketAddr,
    plan: Arc<Plan>,
    keys: Arc<Keys>,
    bar: ProgressBar,
) -> anyhow::Result<Vec<Answer>> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        let (plan, keys, next, bar) = (
            Arc::clone(&plan),
            Arc::clone(&keys),
            Arc::clone(&next),
            bar.clone(),
        );
        senders.spawn(async move {
            let mut connection = None;
            let mut answers = Vec::new();
            loop {
                let request = next.fetch_add(1, Ordering::Relaxed);
                let Some(&delivery) = plan.requests.get(request) else {
                    return anyhow::Ok(answers);
                };
                let answer = send(gateway, &mut connection, &plan, delivery, &keys).await?;
                answers.push((request, answer));
                bar.inc(1);
            }
        });
    }
    let mut all = Vec::with_capacity(plan.requests.len());
    while let Some(answers) = senders.join_next().await {
        all.extend(answers.context("a sender of the demo failed")??);
    }
    all.sort_unstable_by_key(|(request, _)| *request);
    Ok(all.into_iter().map(|(_, answer)| answer).collect())
}

type Connection = SendRequest<Full<Bytes>>;

/// Sends one webhook until it has an answer.
async fn send(
    gateway: SocketAddr,
    connection: &mut Option<Connection>,
    plan: &Plan,
    delivery: usize,
    keys: &Keys,
) -> anyhow::Result<Answer> {
    let mut tries = 0;
    loop {
        tries += 1;
        let outcome = match tokio::time::timeout(
            ANSWER_TIMEOUT,
            attempt(gateway, connection, plan, delivery, keys),
        )
        .await
        {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("no answer within {ANSWER_TIMEOUT:?}")),
        };
        let problem = match outcome {
            Ok(Answer::Refused(
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS,
            )) => {
                anyhow::anyhow!("the gateway asked to send again later")
            }
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        *connection = None;
        if tries == TRIES {
            return Err(problem.context(format!("a webhook had no answer after {TRIES} tries")));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn attempt(
    gateway: SocketAddr,
    connection: &mut Option<Connection>,
    plan: &Plan,
    delivery: usize,
    keys: &Keys,
) -> anyhow::Result<Answer> {
    let delivery = &plan.deliveries[delivery];
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let request = Request::post(format!("/webhooks/{}", delivery.sender.name()))
        .header("host", gateway.to_string());
    let request = delivery.sign(
        request,
        keys.of(delivery.sender, delivery.genuine)?,
        i64::try_from(now)?,
    );
    let request = request.body(Full::new(Bytes::from_static(delivery.body)))?;

    let sender = match connection {
        Some(sender) => sender,
        None => connection.insert(connect(gateway).await?),
    };
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    if status != StatusCode::OK {
        return Ok(Answer::Refused(status));
    }
    let stored: Stored =
        serde_json::from_slice(&body).context("the gateway's answer is not what it should be")?;
    Ok(Answer::Stored {
        id: stored.id,
        duplicate: stored.duplicate,
    })
}

#[derive(Deserialize)]
struct Stored {
    id: String,
    duplicate: bool,
}

async fn connect(gateway: SocketAddr) -> anyhow::Result<Connection> {
    let stream = TcpStream::connect(gateway).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // It ends with the sender; an error reaches the sender too.
    tokio::spawn(connection);
    Ok(sender)
}
