//! Connections that send webhooks and read the answers, by the byte: on the same cores, a client library would cost more than the
//! server that it measures.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::try_join_all;
use millstream::gateway::signature::Scheme;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::report::Latency;
use super::servers::{SECRET, SOURCE};

/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Digits of a delivery id.
const ID_DIGITS: usize = 16;

/// Open connections.
pub(super) struct Senders {
    lines: Vec<Line>,
}

/// One connection.
struct Line {
    stream: TcpStream,
    request: Vec<u8>,
    /// Where in the request the delivery id stands.
    id: Range<usize>,
    next_id: u64,
    answer: Vec<u8>,
    /// Answers of 200 with a job of their own.
    stored: u64,
}

impl Senders {
    pub(super) async fn connect(
        address: SocketAddr,
        connections: u32,
        body_bytes: usize,
    ) -> anyhow::Result<Self> {
        let request = request(body_bytes)?;
        let mut lines = Vec::new();
        for number in 0..connections {
            let stream = TcpStream::connect(address)
                .await
                .context("cannot connect to the server that is measured")?;
            stream.set_nodelay(true)?;
            lines.push(Line {
                stream,
                request: request.0.clone(),
                id: request.1.clone(),
                next_id: u64::from(number) << 40,
                answer: Vec::with_capacity(1024),
                stored: 0,
            });
        }
        Ok(Self { lines })
    }

    /// Each connection sends one webhook after the other for `time`.
    pub(super) async fn flat_out(&mut self, time: Duration) -> anyhow::Result<Latency> {
        let began = Instant::now();
        self.all(time, move |mut line, _| async move {
            let mut latency = Latency::new();
            while began.elapsed() < time {
                let sent = Instant::now();
                line.deliver().await?;
                latency.add(sent.elapsed());
            }
            Ok((line, latency))
        })
        .await
        .map(|latency| latency.over(began.elapsed()))
    }

    /// The connections together send `rate` webhooks a second for `time`, whether or not the answers keep up; the time to an answer
    /// counts from when its webhook was due.
    pub(super) async fn at_rate(&mut self, rate: f64, time: Duration) -> anyhow::Result<Latency> {
        let began = Instant::now();
        let every = Duration::from_secs_f64(self.lines.len() as f64 / rate);
        self.all(time, move |mut line, share| async move {
            let mut latency = Latency::new();
            let mut due = began + every.mul_f64(share);
            while due < began + time {
                tokio::time::sleep_until(due.into()).await;
                line.deliver().await?;
                latency.add(due.elapsed());
                due += every;
            }
            Ok((line, latency))
        })
        .await
        .map(|latency| latency.over(began.elapsed()))
    }

    /// Each connection sends one webhook and stays open.
    pub(super) async fn once(&mut self) -> anyhow::Result<()> {
        let delivered = try_join_all(self.lines.iter_mut().map(Line::deliver));
        in_time(Duration::ZERO, delivered).await?;
        Ok(())
    }

    /// How many webhooks were answered with 200 and a new job.
    pub(super) fn stored(&self) -> u64 {
        self.lines.iter().map(|line| line.stored).sum()
    }

    /// Has each connection do `work` for `time` on a task of its own, with its share of the way from the first to the last.
    async fn all<F>(
        &mut self,
        time: Duration,
        work: impl Fn(Line, f64) -> F,
    ) -> anyhow::Result<Latency>
    where
        F: Future<Output = anyhow::Result<(Line, Latency)>> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        let count = self.lines.len() as f64;
        for (number, line) in self.lines.drain(..).enumerate() {
            tasks.spawn(work(line, number as f64 / count));
        }
        let mut all = Latency::new();
        let joined = async {
            while let Some(done) = tasks.join_next().await {
                let (line, latency) = done.context("a sender of the bench failed")??;
                all.merge(&latency);
                self.lines.push(line);
            }
            Ok(())
        };
        in_time(time, joined).await?;
        Ok(all)
    }
}

/// What comes of `work`, which takes `time` and not much more. One clock for all connections: one for each answer would cost the
/// senders more than sending does.
async fn in_time<T>(
    time: Duration,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let done = tokio::time::timeout(time + ANSWER_TIMEOUT, work).await;
    done.context("no answer in time")?
}

impl Line {
    /// Sends a webhook that was never sent before, and reads the answer.
    async fn deliver(&mut self) -> anyhow::Result<()> {
        write_id(&mut self.request[self.id.clone()], self.next_id);
        self.next_id += 1;
        self.stream.write_all(&self.request).await?;
        let body_at = self.read().await?;
        anyhow::ensure!(
            self.answer.get(9..12) == Some(b"200"),
            "not stored, but: {}",
            String::from_utf8_lossy(&self.answer)
        );
        self.stored += u64::from(self.answer[body_at..].ends_with(b"\"duplicate\":false}"));
        Ok(())
    }

    /// Reads one answer whole; returns where its body begins.
    async fn read(&mut self) -> anyhow::Result<usize> {
        self.answer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.answer).await?;
            anyhow::ensure!(read > 0, "the server closed a connection of the bench");
            if let Some(body) = body_of(&self.answer)?
                && self.answer.len() >= body.end
            {
                return Ok(body.start);
            }
        }
    }
}

/// Where the body of an answer begins and ends, once its headers are here.
fn body_of(answer: &[u8]) -> anyhow::Result<Option<Range<usize>>> {
    let (mut at, mut length) = (0, None);
    while let Some(line) = answer[at..].iter().position(|byte| *byte == b'\n') {
        let line = &answer[at..at + line];
        at += line.len() + 1;
        if line == b"\r" {
            let length: usize = length.context("an answer without a length")?;
            return Ok(Some(at..at + length));
        }
        if let Some(digits) = line.strip_prefix(b"content-length: ") {
            let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
            length = Some(digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0')));
        }
    }
    Ok(None)
}

/// Writes `id` in hexadecimal digits, as many as there are places.
fn write_id(places: &mut [u8], mut id: u64) {
    for place in places.iter_mut().rev() {
        *place = b"0123456789abcdef"[(id % 16) as usize];
        id /= 16;
    }
}

/// A webhook as Shopify sends it, and where its delivery id stands. The body is the same each time, so it is signed once.
fn request(body_bytes: usize) -> anyhow::Result<(Vec<u8>, Range<usize>)> {
    let body = vec![b'x'; body_bytes];
    let scheme = Scheme::shopify();
    let signature = scheme.sign(&scheme.secret("the bench's secret", SECRET)?, "", 0, &body);
    let head = format!(
        "POST /webhooks/{SOURCE} HTTP/1.1\r\nhost: inbox.example\r\ncontent-type: application/json\r\naccept: */*\r\n\
         user-agent: Shopify-Captain-Hook\r\nx-shopify-topic: orders/create\r\nx-shopify-shop-domain: mill.myshopify.com\r\n\
         x-shopify-api-version: 2026-07\r\nx-shopify-hmac-sha256: {signature}\r\ncontent-length: {body_bytes}\r\n\
         x-shopify-webhook-id: "
    );
    let mut request = head.into_bytes();
    let id = request.len()..request.len() + ID_DIGITS;
    request.extend([b'0'; ID_DIGITS]);
    request.extend(b"\r\n\r\n");
    request.extend(body);
    Ok((request, id))
}
