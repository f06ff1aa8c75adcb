//! What stands behind the gateway in tests of its HTTP side: remembers jobs, fails or hangs as told.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Store;
use crate::error::{Error, Result};
use crate::job::durability::Durability;
use crate::job::{Enqueued, JobId, NewJob, QueueName};

#[derive(Debug)]
pub(crate) struct StandIn {
    jobs: Mutex<Vec<(usize, NewJob)>>,
    fails: Option<fn() -> Error>,
    /// Every call takes a permit while it runs; none is left while the stand-in hangs.
    open: Semaphore,
    /// One permit for each call of `store` that has begun.
    arrived: Semaphore,
    probes: AtomicUsize,
}

impl Default for StandIn {
    fn default() -> Self {
        Self {
            jobs: Mutex::default(),
            fails: None,
            open: Semaphore::new(1_000),
            arrived: Semaphore::new(0),
            probes: AtomicUsize::new(0),
        }
    }
}

impl StandIn {
    pub(crate) fn failing(error: fn() -> Error) -> Self {
        Self {
            fails: Some(error),
            ..Self::default()
        }
    }

    pub(crate) fn hanging() -> Self {
        Self {
            open: Semaphore::new(0),
            ..Self::default()
        }
    }

    /// From now on no call is answered.
    pub(crate) fn hang(&self) {
        self.open.forget_permits(usize::MAX);
    }

    pub(crate) fn recover(&self) {
        self.open.add_permits(1_000);
    }

    /// Waits until a job is on its way in.
    pub(crate) async fn has_been_asked(&self) {
        self.arrived.acquire().await.unwrap().forget();
    }

    pub(crate) fn probes(&self) -> usize {
        self.probes.load(Ordering::Relaxed)
    }

    /// The jobs so far: the number of the source, the job's name and its payload.
    pub(crate) fn jobs(&self) -> Vec<(usize, String, Vec<u8>)> {
        let jobs = self.jobs.lock().unwrap();
        jobs.iter()
            .map(|(source, job)| (*source, job.name().to_owned(), job.payload().to_vec()))
            .collect()
    }

    pub(crate) fn ambiguous() -> Error {
        Error::Ambiguous {
            operation: "enqueue",
            waited: Duration::from_secs(4),
            reason: "10.0.0.1:6379 is silent".to_owned(),
        }
    }

    pub(crate) fn refused() -> Error {
        Error::Refused {
            operation: "enqueue",
            reason: "OOM at 10.0.0.1:6379".to_owned(),
        }
    }

    pub(crate) fn unreachable() -> Error {
        Error::Unreachable {
            server: "10.0.0.1:6379".to_owned(),
            reason: "refused".to_owned(),
        }
    }

    pub(crate) fn too_large() -> Error {
        Error::PayloadTooLarge {
            name: "shop".to_owned(),
            bytes: 2,
            limit: 1,
        }
    }

    async fn pass(&self) -> Result<()> {
        let _permit = self.open.acquire().await.unwrap();
        self.fails.map_or(Ok(()), |error| Err(error()))
    }
}

impl Store for StandIn {
    async fn store(&self, source: usize, job: NewJob) -> Result<Enqueued> {
        self.arrived.add_permits(1);
        self.pass().await?;
        job.check(usize::MAX)?;
        let mut jobs = self.jobs.lock().unwrap();
        let same = |other: &NewJob| job.unique.is_some() && other.unique == job.unique;
        let held = jobs.iter().position(|(_, other)| same(other));
        let at = held.unwrap_or(jobs.len());
        if held.is_none() {
            jobs.push((source, job));
        }
        Ok(Enqueued {
            durability: crate::Durability::Memory,
            id: JobId::from(format!("1-{at}")),
            duplicate: held.is_some(),
            replaced: false,
        })
    }

    async fn store_in(
        &self,
        _: &QueueName,
        jobs: Vec<NewJob>,
        _: Durability,
    ) -> Result<Vec<Enqueued>> {
        let mut stored = Vec::new();
        for job in jobs {
            stored.push(self.store(usize::MAX, job).await?);
        }
        Ok(stored)
    }

    async fn check_writable(&self, _timeout: Duration) -> Result<()> {
        self.probes.fetch_add(1, Ordering::Relaxed);
        self.pass().await
    }
}
