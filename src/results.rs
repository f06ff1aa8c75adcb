//! What a handler gave back, kept for a time: how it is stored, and how another process waits for it.
//!
//! `result:<id>` is a string with a time to live: a line of JSON that says what it is, and behind it the value as it was
//! encoded. The script that completes the job writes it, so there is one if and only if the job was completed by the worker
//! that held its lease. An entry of the `results` stream tells those who wait; of a death or a cancellation the `events` stream
//! tells. Whoever waits blocks on both, on a connection of its own.

use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::broker::Broker;
use crate::config;
use crate::error::{Error, Result};
use crate::inspect::Inspector;
use crate::job::codec::Codec;
use crate::job::state::State;
use crate::job::{JobId, Meta, NewJob};
use crate::redis::reader::{Reader, raw_entry};
use crate::redis::reply::{Value, bytes_of};
use crate::redis::{Patience, jittered};

/// How long one answer is waited for.
const PATIENCE: Patience = Patience::brief(Duration::from_secs(5));
/// How long a read waits for news. It is woken at once when some come; after a silence the result itself is looked for, in
/// case that the news were lost with their stream.
const BLOCK: Duration = Duration::from_secs(5);
/// Pause after a lost connection.
const PAUSE: Duration = Duration::from_millis(100);

/// What a completed job left behind. From [`crate::Queue::wait_result`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobResult {
    /// The job.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// The attempt that completed it.
    pub attempt: u32,
    /// How long that attempt ran.
    pub took: Duration,
    /// How the value is written.
    pub codec: Codec,
    /// The value as its handler gave it; `None` when it gave none.
    pub value: Option<Bytes>,
}

impl JobResult {
    /// The value as `T`. A job whose handler gave none decodes as `()` and as `Option`.
    ///
    /// # Errors
    /// [`Error::Decode`].
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        match &self.value {
            Some(value) => self.codec.decode(&self.name, value),
            None => Codec::Json.decode(&self.name, b"null"),
        }
    }
}

/// The line in front of the value.
#[derive(Serialize, Deserialize)]
struct Head {
    name: String,
    attempt: u32,
    took_ms: u64,
    codec: Codec,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    empty: bool,
    /// The id of the key that sealed the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
}

/// A result on its way to Redis.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Head and value.
    pub stored: Bytes,
    /// How long it is kept, ms.
    pub ttl_ms: u64,
}

impl Kept {
    /// `value`: what the handler gave, if anything.
    pub(crate) fn new(
        broker: &Broker,
        name: &str,
        attempt: u32,
        took: Duration,
        value: Option<(Codec, Bytes)>,
        ttl_ms: u64,
    ) -> Result<Self> {
        let empty = value.is_none();
        let (codec, plain) = value.unwrap_or_default();
        let (mut value, mut sealed) = (plain, None);
        if !empty {
            let job = NewJob::raw(name, value);
            let job = broker.seal.close(&broker.queue, &job)?.into_owned();
            (value, sealed) = (job.payload, job.meta.sealed);
        }
        let head = Head {
            name: name.to_owned(),
            attempt,
            took_ms: crate::job::millis(took),
            codec,
            empty,
            sealed,
        };
        let head = serde_json::to_vec(&head).expect("plain strings and numbers");
        let mut stored = BytesMut::with_capacity(head.len() + 1 + value.len());
        stored.put_slice(&head);
        stored.put_u8(b'\n');
        stored.put_slice(&value);
        Ok(Self {
            stored: stored.freeze(),
            ttl_ms,
        })
    }

    /// Reads the stored form.
    fn read(broker: &Broker, id: &JobId, stored: &Bytes) -> Result<JobResult> {
        let broken = |reason: String| Error::Protocol {
            operation: "wait",
            reason: format!("the result of job {id} cannot be read: {reason}"),
        };
        let end = stored.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| broken("it has no head".into()))?;
        let head: Head =
            serde_json::from_slice(&stored[..end]).map_err(|error| broken(error.to_string()))?;
        let meta = Meta {
            sealed: head.sealed,
            ..Meta::default()
        };
        let value = match head.empty {
            true => None,
            false => {
                let sealed = stored.slice(end + 1..);
                Some(
                    broker
                        .seal
                        .open(&broker.queue, &head.name, &meta, &sealed)?,
                )
            }
        };
        Ok(JobResult {
            id: id.clone(),
            name: head.name,
            attempt: head.attempt,
            took: Duration::from_millis(head.took_ms),
            codec: head.codec,
            value,
        })
    }
}

/// Checks the size of a value.
pub(crate) fn check_size(name: &str, value: &Bytes) -> Result<()> {
    if value.len() > config::RESULT_BYTES_MAX {
        return Err(Error::PayloadTooLarge {
            name: format!("result of {name}"),
            bytes: value.len(),
            limit: config::RESULT_BYTES_MAX,
        });
    }
    Ok(())
}

/// Whoever waits for one job.
struct Waiter<'a> {
    broker: &'a Broker,
    id: &'a JobId,
    /// The newest entries that were seen, of `results` and of `events`.
    seen: [String; 2],
    cancelled: bool,
}

/// Waits until `id` ends, at most `timeout`.
pub(crate) async fn wait(broker: &Broker, id: &JobId, timeout: Duration) -> Result<JobResult> {
    let began = Instant::now();
    let mut waiter = Waiter {
        broker,
        id,
        seen: [String::new(), String::new()],
        cancelled: false,
    };
    // First where the news end, then what there is already: nothing falls in between.
    waiter.catch_up().await?;
    let mut reader: Option<Reader> = None;
    loop {
        if let Some(result) = waiter.look().await? {
            return Ok(result);
        }
        loop {
            let left = timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Err(Error::NotYet {
                    job: id.clone(),
                    waited: timeout,
                });
            }
            if reader.is_none() {
                let patience = left.min(config::CONNECT_TIMEOUT_DEFAULT);
                reader = Reader::connect(&broker.redis, patience).await.ok();
            }
            let news = match &reader {
                Some(reader) => waiter.news(reader, left.min(BLOCK)).await,
                None => None,
            };
            match news {
                Some(false) => {}
                Some(true) => break,
                None => {
                    tracing::debug!(queue = %broker.queue, job = %id, "lost the connection while waiting; trying again");
                    reader = None;
                    tokio::time::sleep(jittered(PAUSE).min(left)).await;
                    break;
                }
            }
        }
    }
}

impl Waiter<'_> {
    /// Notes where the streams end.
    async fn catch_up(&mut self) -> Result<()> {
        let keys = [&self.broker.keys.results, &self.broker.keys.events];
        for (key, seen) in keys.into_iter().zip(&mut self.seen) {
            let args = vec![
                key.as_str().into(),
                "+".into(),
                "-".into(),
                "COUNT".into(),
                "1".into(),
            ];
            let last = self
                .broker
                .redis
                .command("XREVRANGE", args, PATIENCE)
                .await?;
            let last = match last {
                Value::Array(mut entries) => entries.pop().and_then(|entry| raw_entry(0, entry)),
                _ => None,
            };
            *seen = last.map_or_else(|| "0-0".to_owned(), |entry| entry.id.to_string());
        }
        Ok(())
    }

    /// Blocks until something is told. `Some(true)`: look for the result; `None`: the connection is lost.
    async fn news(&mut self, reader: &Reader, block: Duration) -> Option<bool> {
        let streams = [&self.broker.keys.results, &self.broker.keys.events];
        let entries = reader.follow(&streams, &self.seen, block).await.ok()?;
        // Nothing for a whole block: somebody may have taken the streams away.
        let mut look = entries.is_empty();
        for entry in entries {
            if entry.text("job") == Some(self.id.as_str()) {
                look = true;
                self.cancelled |= entry.text("event") == Some("cancelled");
            }
            self.seen[entry.stream] = entry.id.to_string();
        }
        Some(look)
    }

    /// The result, if it is there. `None`: the job is unfinished.
    async fn look(&self) -> Result<Option<JobResult>> {
        if let Some(result) = self.stored().await? {
            return Ok(Some(result));
        }
        let inspector = Inspector::new(self.broker.clone(), config::PAYLOAD_BYTES_MAX_DEFAULT);
        let mut job = inspector.find_brief(self.id).await?;
        for _ in 0..2 {
            // It is looked for in one place after the other, and may have moved from a later to an earlier one meanwhile.
            if job.is_none() {
                job = inspector.find_brief(self.id).await?;
            }
        }
        match job {
            Some(job) if job.state == State::Dead => {
                let last = job.errors.last().map(|last| last.error.clone());
                Err(Error::JobDied {
                    job: self.id.clone(),
                    reason: job.reason.unwrap_or_default(),
                    error: last.unwrap_or_default(),
                })
            }
            Some(_) => Ok(None),
            // It may have been completed between the two looks.
            None => match self.stored().await? {
                Some(result) => Ok(Some(result)),
                None => Err(Error::NoResult {
                    job: self.id.clone(),
                    why: match self.cancelled {
                        true => "it was cancelled",
                        false => {
                            "there is no such job, or it ended without one: its result was not asked for, has run out, or it was cancelled"
                        }
                    },
                }),
            },
        }
    }

    async fn stored(&self) -> Result<Option<JobResult>> {
        let args = vec![self.broker.keys.result(self.id).as_str().into()];
        let stored = self.broker.redis.command("GET", args, PATIENCE).await?;
        match bytes_of(stored) {
            Some(stored) => Kept::read(self.broker, self.id, &stored).map(Some),
            None => Ok(None),
        }
    }
}
