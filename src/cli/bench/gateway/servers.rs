//! The two servers that are measured: a gateway in a process of its own, and a bare hyper server.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::cli::bench::arena::Arena;
use crate::cli::bench::child::{self, program};

/// The gateway's one source, and what its webhooks are signed with.
pub(super) const SOURCE: &str = "shop";
pub(super) const SECRET: &str = "a secret that only the bench has";
/// Longest wait for the gateway to say that it listens.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// `millstream gateway` as its users run it. Killed when it is dropped.
pub(super) struct Child {
    process: tokio::process::Child,
    pub(super) address: SocketAddr,
}

impl Child {
    pub(super) async fn start(
        arena: &Arena,
        queue: &str,
        access_log: bool,
    ) -> anyhow::Result<Self> {
        let log = if access_log {
            "info"
        } else {
            "info,millstream::access=off"
        };
        let mut process = program(arena, &["gateway"])?
            .args(["--listen", "127.0.0.1:0", "--log-format", "json"])
            .args([
                "--source",
                SOURCE,
                "--scheme",
                "shopify",
                "--secret",
                "env:BENCH_SECRET",
            ])
            // Delivery ids that go by themselves soon after the bench.
            .args(["--queue", queue, "--dedupe", "5m", "--stop-with-stdin"])
            .env("BENCH_SECRET", SECRET)
            .env("MILLSTREAM_LOG", format!("{log},fred=error"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the gateway")?;
        let stderr = process.stderr.take().context("a child without stderr")?;
        let mut lines = BufReader::new(stderr).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                let said: Value = serde_json::from_str(&line).unwrap_or_default();
                if let Some(address) = said["address"].as_str() {
                    return Ok(address.parse()?);
                }
                if said["level"] == "ERROR" || said.is_null() {
                    anyhow::bail!("the gateway says: {line}");
                }
            }
            anyhow::bail!("the gateway ended at its start")
        };
        let address = tokio::time::timeout(READY_TIMEOUT, listening).await;
        let address = address.context("the gateway was not ready in time")??;
        // Read to its end, so that the gateway never waits for us, and as cheaply as can be.
        let mut log = lines.into_inner();
        tokio::spawn(async move {
            let mut thrown_away = vec![0; 64 << 10];
            while log.read(&mut thrown_away).await.is_ok_and(|read| read > 0) {}
        });
        Ok(Self { process, address })
    }

    /// What it has in memory, bytes; `None` where the system does not tell.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        child::resident_bytes(&self.process)
    }
}

/// Reads each body and answers, with the library's defaults and nothing else, on threads of its own.
pub(super) struct Bare {
    pub(super) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Bare {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let listening = runtime.spawn(TcpListener::bind("127.0.0.1:0"));
        let listener = listening.await??;
        let address = listener.local_addr()?;
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        });
        Ok(Self {
            address,
            runtime: Some(runtime),
        })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // Not where its own tasks could wait for it.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    debug_assert!(!body.is_empty());
    // As long as the gateway's.
    let text = Bytes::from_static(br#"{"id":"1780000000000-0","duplicate":false}"#);
    Ok(Response::new(Full::new(text)))
}
