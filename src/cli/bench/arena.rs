//! The server, both ways to talk to it, and what it says of itself.
//!
//! Beside the engine's own, this is the one room of the program that knows the Redis client: the bare client is what a careful
//! user of the same library would write, and so the yardstick.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use fred::clients::Client;
use fred::interfaces::ClientLike as _;
use fred::types::config::{Config, ConnectionConfig, TcpConfig};
use fred::types::{Builder, ClusterHash, CustomCommand, InfoKind, Value};
use indicatif::ProgressBar;
use millstream::private_redis::{Options, Persistence, PrivateRedis};
use millstream::{Millstream, NewJob, Queue};
use serde::Serialize;

use super::Load;
use crate::cli::args::Globals;
use crate::cli::connect::connect_to;
use crate::cli::settings::RedisSettings;
use crate::cli::{output, signals};

/// Longest wait of the bare client for its connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Round trips that are timed for the heading.
const PINGS: usize = 200;
/// Jobs in one call.
pub(super) const BULK: u64 = 1_000;
/// Callers that make such calls at once: while Redis works on one, another is written.
pub(super) const BULK_CALLERS: u64 = 2;

/// A server, the engine and a bare client.
pub(super) struct Arena {
    /// `None`: a server of somebody's.
    private: Option<PrivateRedis>,
    url: String,
    pub(super) redis: RedisSettings,
    persistence: Persistence,
    pub(super) client: Millstream,
    pub(super) bare: Client,
    pub(super) load: Load,
    /// No two runs, and no two measurements, share a queue.
    name: String,
    measurements: AtomicU64,
    /// What there is to remove.
    queues: Mutex<Vec<String>>,
}

/// What the numbers depend on.
#[derive(Debug, Serialize)]
pub(super) struct Circumstances {
    version: String,
    server: String,
    /// What the server says it writes to disk; `unknown` where it does not tell.
    persistence: String,
    /// Whether the server was started for this bench.
    private: bool,
    /// The median of some PINGs, microseconds.
    round_trip_us: f64,
    pub(super) cores: usize,
    machine: String,
}

impl Circumstances {
    pub(super) fn line(&self) -> String {
        format!(
            "millstream {} on {}, persistence {}, round trip {:.0} µs; {}, {} cores",
            self.version,
            self.server,
            self.persistence,
            self.round_trip_us,
            self.machine,
            self.cores
        )
    }
}

/// What `measure` says of an arena that is made for it and taken away afterwards. An order to stop ends it early.
pub(super) async fn measured<R>(
    globals: &Globals,
    persistence: Persistence,
    load: Load,
    measure: impl AsyncFnOnce(&Arena, &ProgressBar) -> anyhow::Result<R>,
) -> anyhow::Result<R> {
    let stop = signals::shutdown(false)?;
    let bar = output::spinner("starting");
    let url = globals.redis_url.as_deref();
    let arena = Arena::connect(url, globals, persistence, load).await?;
    let measured = tokio::select! {
        measured = measure(&arena, &bar) => measured,
        () = stop.cancelled() => Err(anyhow::anyhow!("interrupted: the bench was stopped before its end")),
    };
    bar.finish_and_clear();
    // Also after a failure: on somebody's server nothing of this may stay.
    let removed = arena.remove().await;
    let report = measured?;
    removed.context("cannot remove the queue of the bench")?;
    Ok(report)
}

/// A run whose jobs do not add up has failed, whatever else it says.
pub(super) fn without_problems(problems: &[String]) -> anyhow::Result<()> {
    let counted = output::counted(problems.len() as u64, "problem");
    anyhow::ensure!(problems.is_empty(), "{counted}");
    Ok(())
}

impl Arena {
    pub(super) async fn connect(
        url: Option<&str>,
        globals: &Globals,
        persistence: Persistence,
        load: Load,
    ) -> anyhow::Result<Self> {
        let (private, url) = match url {
            Some(url) => (None, url.to_owned()),
            None => {
                // Over TCP, as most do.
                let options = Options {
                    persistence,
                    tcp: true,
                    ..Options::default()
                };
                let redis = tokio::task::spawn_blocking(|| PrivateRedis::start(options)).await??;
                let url = redis.url();
                (Some(redis), url)
            }
        };
        let globals = Globals {
            redis_url: Some(url.clone()),
            ..globals.clone()
        };
        let redis = RedisSettings::merge(&globals, None);
        let client = connect_to(&redis, 1 << 20).await?;
        let bare = connect_bare(&url).await?;
        Ok(Self {
            private,
            url,
            redis,
            persistence,
            client,
            bare,
            load,
            name: format!("bench-{}", uuid::Uuid::now_v7().simple()),
            measurements: AtomicU64::new(0),
            queues: Mutex::default(),
        })
    }

    /// `host:port` of the server that was started for this bench.
    pub(super) fn private_address(&self) -> Option<&str> {
        self.private.as_ref()?;
        self.url.strip_prefix("redis://")
    }

    /// Where the server is.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// One more connection of the bare client.
    pub(super) async fn another(&self) -> anyhow::Result<Client> {
        connect_bare(&self.url).await
    }

    /// A queue that nothing else uses; what those before it left is removed first, so that no measurement depends on another.
    pub(super) async fn new_queue(&self) -> anyhow::Result<Queue> {
        self.remove().await?;
        self.add_queue()
    }

    /// As many queues as the load is spread over, in the same way.
    pub(super) async fn new_queues(&self) -> anyhow::Result<Vec<Queue>> {
        self.remove().await?;
        (0..self.load.queues).map(|_| self.add_queue()).collect()
    }

    fn add_queue(&self) -> anyhow::Result<Queue> {
        let number = self.measurements.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", self.name);
        self.queues().push(name.clone());
        Ok(self.client.queue(&name)?)
    }

    /// The stream of the bare client, in the same way.
    pub(super) async fn new_stream(&self) -> anyhow::Result<String> {
        let queue = self.new_queue().await?;
        Ok(bare_stream(queue.name().as_str()))
    }

    /// The calls of 1,000 that enqueue the jobs with these numbers, and which of the queues each goes to; with many queues and few
    /// jobs the calls are smaller, so that each queue gets its share.
    pub(super) fn calls(&self, jobs: Range<u64>) -> impl Iterator<Item = (usize, Range<u64>)> {
        let queues = u64::from(self.load.queues);
        let size = (jobs.end - jobs.start).div_ceil(queues).clamp(1, BULK);
        let starts = jobs.clone().step_by(size as usize).enumerate();
        starts.map(move |(call, from)| (call % queues as usize, from..jobs.end.min(from + size)))
    }

    fn queues(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.queues
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Removes everything that the measurements so far have stored.
    pub(super) async fn remove(&self) -> anyhow::Result<()> {
        let queues = std::mem::take(&mut *self.queues());
        // On a server of one's own at once, so that the memory of the next measurement is its own; elsewhere nobody is held up.
        let remove = if self.private.is_some() {
            "DEL"
        } else {
            "UNLINK"
        };
        for queue in queues {
            let keys = self.client.inspect(&queue)?.keys().await?;
            let keys = keys.into_iter().map(|key| key.key);
            for key in keys.chain([bare_stream(&queue)]) {
                command(&self.bare, remove, [Value::from(key)]).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn circumstances(&self) -> anyhow::Result<Circumstances> {
        let mut took = Vec::with_capacity(PINGS);
        for _ in 0..PINGS {
            let asked = Instant::now();
            let _: Value = self.bare.ping(None).await?;
            took.push(asked.elapsed());
        }
        took.sort_unstable();
        let persistence = match (&self.private, self.persistence) {
            (None, _) => self.told_persistence().await,
            (Some(_), Persistence::None) => "none".into(),
            (Some(_), Persistence::AofEverysec) => "everysec".into(),
            (Some(_), Persistence::AofAlways) => "always".into(),
        };
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Circumstances {
            version: env!("CARGO_PKG_VERSION").into(),
            server: self.client.server().to_owned(),
            persistence,
            private: self.private.is_some(),
            round_trip_us: took[took.len() / 2].as_secs_f64() * 1e6,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            machine: model
                .map_or(std::env::consts::ARCH, |(_, model)| model)
                .into(),
        })
    }

    /// A server may hide its settings.
    async fn told_persistence(&self) -> String {
        let told = async |name: &'static str| {
            let args = [Value::from("GET"), Value::from(name)];
            let reply = command(&self.bare, "CONFIG", args).await.ok()?;
            reply.into_array().pop()?.into_string()
        };
        match (
            told("appendonly").await.as_deref(),
            told("appendfsync").await,
        ) {
            (Some("yes"), Some(sync)) => sync,
            (Some("no"), _) => "none".into(),
            _ => "unknown".into(),
        }
    }

    /// What the server has used of the processor so far.
    pub(super) async fn redis_cpu(&self) -> anyhow::Result<Duration> {
        let info: String = self.bare.info(Some(InfoKind::Cpu)).await?;
        let seconds = |field| number(&info, field);
        let used = seconds("used_cpu_sys:").zip(seconds("used_cpu_user:"));
        let (system, user) = used.context("INFO does not tell the processor time")?;
        Ok(Duration::from_secs_f64(system + user))
    }

    /// What the server has in memory, bytes.
    pub(super) async fn redis_memory(&self) -> anyhow::Result<f64> {
        let info: String = self.bare.info(Some(InfoKind::Memory)).await?;
        number(&info, "used_memory:").context("INFO does not tell the memory")
    }

    /// The `index`-th job.
    pub(super) fn job(&self, index: u64) -> NewJob {
        Self::job_of(self.load.payload_bytes, index)
    }

    /// The same, for tasks that have no arena.
    pub(super) fn job_of(payload_bytes: usize, index: u64) -> NewJob {
        NewJob::raw("noop", Self::payload_of(payload_bytes, index))
    }

    /// The payload of the `index`-th job; it begins with its index.
    pub(super) fn payload(&self, index: u64) -> Vec<u8> {
        Self::payload_of(self.load.payload_bytes, index)
    }

    pub(super) fn payload_of(payload_bytes: usize, index: u64) -> Vec<u8> {
        let mut bytes = vec![b'x'; payload_bytes];
        bytes[..8].copy_from_slice(&index.to_le_bytes());
        bytes
    }
}

/// `range` in so many parts of about the same length, one behind the other.
pub(super) fn parts(range: Range<u64>, parts: u64) -> impl Iterator<Item = Range<u64>> {
    let length = (range.end - range.start).div_ceil(parts).max(1);
    let starts = range.clone().step_by(length as usize);
    starts.map(move |from| from..range.end.min(from + length))
}

fn number(info: &str, field: &str) -> Option<f64> {
    let value = info.lines().find_map(|line| line.strip_prefix(field))?;
    value.trim().parse().ok()
}

/// Where the bare client keeps its jobs: in the same slot of a cluster, and removed with the queue.
fn bare_stream(queue: &str) -> String {
    format!("millstream:{{{queue}}}:bare")
}

pub(super) async fn command(
    bare: &Client,
    name: &'static str,
    args: impl IntoIterator<Item = Value>,
) -> anyhow::Result<Value> {
    let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
    let args: Vec<Value> = args.into_iter().collect();
    Ok(bare.custom(command, args).await?)
}

/// A client with the library's defaults for everything that costs time.
async fn connect_bare(url: &str) -> anyhow::Result<Client> {
    let url = match url.strip_prefix("unix:") {
        Some(path) => format!("redis+unix://{}", path.trim_start_matches("//")),
        None => url.to_owned(),
    };
    let mut builder = Builder::from_config(Config::from_url(&url)?);
    builder.set_connection_config(ConnectionConfig {
        tcp: TcpConfig {
            nodelay: Some(true),
            ..TcpConfig::default()
        },
        ..ConnectionConfig::default()
    });
    let client = builder.build()?;
    tokio::time::timeout(CONNECT_TIMEOUT, client.init())
        .await
        .context("the bare client cannot connect in time")??;
    Ok(client)
}
