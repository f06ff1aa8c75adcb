//! Who works on a queue, as Redis knows it: the consumers of its lanes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Inspector;
use super::read::{list, of};
use crate::error::{Error, Result};
use crate::keys::{GROUP, Lane};
use crate::redis::is_no_group;
use crate::redis::reply::{number_of, text_of};

/// One worker of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WorkerView {
    /// The queue.
    pub queue: String,
    /// Its name: process id and a number that no other start has.
    pub worker: String,
    /// Its process id, on its own machine.
    pub pid: Option<u32>,
    /// Jobs in its hands.
    pub running: u64,
    /// Time since it last asked for jobs or renewed a lease, ms. A living worker asks every few seconds.
    pub idle_ms: u64,
}

impl Inspector {
    /// The workers that Redis knows, those with most jobs first. One that crashed is listed until a sweep has taken its jobs
    /// and forgotten it.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn workers(&self) -> Result<Vec<WorkerView>> {
        let mut workers: BTreeMap<String, WorkerView> = BTreeMap::new();
        for lane in Lane::ALL {
            let args = vec![of(self.broker.keys.lane(lane)), GROUP.into()];
            let consumers = match self.ask("XINFO CONSUMERS", args).await {
                Ok(consumers) => list(consumers),
                // No worker has come yet.
                Err(error) if is_no_group(&error) => continue,
                Err(Error::Protocol { reason, .. }) if reason.contains("no such key") => continue,
                Err(error) => return Err(error),
            };
            for consumer in consumers {
                let fields = list(consumer);
                let field = |name: &str| {
                    let mut pairs = fields.chunks_exact(2);
                    pairs
                        .find(|pair| text_of(&pair[0]) == Some(name))
                        .map(|pair| &pair[1])
                };
                let Some(name) = field("name").and_then(text_of) else {
                    continue;
                };
                let number = |name| {
                    field(name)
                        .and_then(number_of)
                        .unwrap_or_default()
                        .unsigned_abs()
                };
                let worker = workers
                    .entry(name.to_owned())
                    .or_insert_with(|| WorkerView {
                        queue: self.broker.queue.to_string(),
                        worker: name.to_owned(),
                        pid: name.split('-').next().and_then(|pid| pid.parse().ok()),
                        running: 0,
                        idle_ms: u64::MAX,
                    });
                worker.running += number("pending");
                worker.idle_ms = worker.idle_ms.min(number("idle"));
            }
        }
        let mut workers: Vec<WorkerView> = workers.into_values().collect();
        workers.sort_by_key(|worker| (std::cmp::Reverse(worker.running), worker.idle_ms));
        Ok(workers)
    }
}
