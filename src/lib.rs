//! Millstream: a job queue engine on Redis Streams, and the durable webhook inbox and worker built on it.
//!
//! An enqueue that returned `Ok` is stored. Every job runs at least once and is settled exactly once: completed, retried,
//! handed back, cancelled or dead-lettered. A worker that lost its lease cannot settle, and is told. Nothing is dropped
//! silently. Handlers must be idempotent, for a crash makes a job run again; its id is the same every time.
//!
//! ```
//! use millstream::{Context, JobError, Millstream, NewJob};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Welcome {
//!     user: u64,
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let redis = millstream::private_redis::PrivateRedis::start(Default::default())?;
//! # let url = &redis.url();
//! # let (sent, mut hear) = tokio::sync::mpsc::unbounded_channel();
//! let client = Millstream::connect(url).await?; // "redis://127.0.0.1:6379"
//!
//! let queue = client.queue("mail")?;
//! queue.enqueue(NewJob::new("welcome", &Welcome { user: 7 })?.max_attempts(5)).await?;
//!
//! let worker = client
//!     .worker("mail")?
//!     .concurrency(50)
//!     .handle("welcome", move |welcome: Welcome, job: Context| {
//!         # let sent = sent.clone();
//!         async move {
//!             println!("mail to user {}, attempt {}", welcome.user, job.attempt());
//!             # sent.send(welcome.user)?;
//!             Ok::<(), JobError>(())
//!         }
//!     })
//!     .start()
//!     .await?;
//! # assert_eq!(hear.recv().await, Some(7));
//! worker.stop().await; // on SIGTERM: running jobs finish, the others are handed back
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//! | you want to | look at |
//! |---|---|
//! | put jobs in | [`Queue`], [`NewJob`] |
//! | run them | [`WorkerBuilder`], [`Worker`], [`Context`], [`JobError`] |
//! | run them again and again | [`schedule`] |
//! | see and manage them | [`inspect`] |
//! | take webhooks in, and deliver them | [`gateway`], [`deliver`] |
//! | know the states | [`job::state`] |
//! | know every default | [`config`] |
//! | count and measure | [`metrics`](mod@metrics) |
//! | test against a real server | [`private_redis`] |
//!
//! Inside, calls go one way: `cli → gateway | queue | worker | upkeep | inspect → broker → redis → keys, job`.
//! `lua/` lists the transitions, one script each; `redis` is the only room that knows the Redis client.
//!
//! # Features
//! `cli` (default): the binary, with everything below. `gateway`: HTTP in. `webhooks`: HTTP out and commands.
//! `encryption`: payloads that Redis keeps sealed. `tls`: `rediss://` and `https://`. `private-redis`: a server of one's own for tests.
//! `otel-spans`: spans that follow a trace, for a program with a layer of tracing-opentelemetry. `otel`: traces to a collector
//! from the binary. A library user who wants only queues and workers takes `default-features = false`.

pub mod backlog;
mod backoff;
#[doc(hidden)]
pub mod broker;
mod callers;
pub mod client;
mod coalesce;
pub mod config;
#[cfg(feature = "webhooks")]
pub mod deliver;
pub mod error;
#[cfg(feature = "gateway")]
pub mod gateway;
pub mod inspect;
pub mod job;
mod keys;
pub mod metrics;
#[cfg(feature = "otel")]
pub mod otel;
#[cfg(feature = "private-redis")]
pub mod private_redis;
mod progress;
pub mod queue;
mod rate;
mod redis;
mod results;
pub mod schedule;
mod schedules;
mod seal;
mod spans;
mod upkeep;
pub mod worker;

pub use backoff::Backoff;
pub use broker::GroupOrder;
pub use client::Millstream;
pub use error::{Error, Result};
pub use job::durability::Durability;
pub use job::{Enqueued, JobId, JobUpdate, NewJob, OnConflict, Priority, QueueName};
pub use progress::{HowFar, LogLine, Progress};
pub use queue::Queue;
pub use rate::Rate;
pub use results::JobResult;
#[cfg(feature = "encryption")]
pub use seal::KeyRing;
pub use worker::handler::{Context, Handler, HandlerFuture, JobError};
pub use worker::{
    BatchJob, BatchSettings, Circuit, CircuitState, Drained, SharedLimit, Worker, WorkerBuilder,
    WorkerHealth,
};

/// The README's Rust code, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The same of the page on schedules.
#[cfg(doctest)]
#[doc = include_str!("../docs/schedules.md")]
struct SchedulesPage;

/// And of the pages on priorities, results and batches.
#[cfg(doctest)]
#[doc = include_str!("../docs/priorities.md")]
#[doc = include_str!("../docs/results.md")]
#[doc = include_str!("../docs/batches.md")]
struct ResultsAndBatchesPages;

/// The code of the library guide, compiled.
#[cfg(all(doctest, feature = "private-redis"))]
#[doc = include_str!("../docs/library.md")]
struct LibraryGuide;
