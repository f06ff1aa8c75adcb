//! Millstream.

pub mod backoff;
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
#[cfg(feature = "private-redis")]
pub mod private_redis;
pub mod queue;
mod redis;
mod upkeep;
pub mod worker;

pub use backoff::Backoff;
pub use client::Millstream;
pub use error::{Error, Result};
pub use job::{Enqueued, JobId, NewJob, QueueName};
pub use queue::Queue;
pub use worker::handler::{Context, Handler, HandlerFuture, JobError};
pub use worker::{Drained, Worker, WorkerBuilder, WorkerHealth};
