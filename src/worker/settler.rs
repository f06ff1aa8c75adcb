//! Settlements on their way to Redis: completions gather while calls are under way, the others go one by one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use super::attempt::Finished;
use super::lease::Leases;
use super::settle::{Outcome, Settlement, settle};
use crate::backoff::Backoff;
use crate::broker::{Broker, Delivery, Done};
use crate::callers::{Callers, Slot};
use crate::config;
use crate::error::Error;
use crate::keys::Lane;
use crate::metrics::handles::Working;
use crate::redis::{Patience, luck};

/// What the settlement of every job of a worker needs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Settler {
    pub(crate) broker: Broker,
    pub(crate) callers: Callers,
    pub(crate) leases: Leases,
    pub(crate) backoff: Backoff,
    /// Completed jobs that the history keeps, about; 0 keeps none.
    pub(crate) history: usize,
    /// Finished by their handlers and not yet confirmed by Redis.
    pub(crate) unsettled: Arc<AtomicUsize>,
    pub(crate) counted: Working,
}

impl Settler {
    /// Settles what comes in until the channel closes, then waits for the calls under way.
    pub(crate) async fn run(self, mut finished: UnboundedReceiver<Finished>) {
        let mut calls = JoinSet::new();
        while let Some(first) = finished.recv().await {
            // The slot first: while it is waited for, more jobs finish and travel with this one.
            let slot = self.callers.take().await;
            let mut batch = vec![first];
            while batch.len() < config::BATCH_JOBS_MAX
                && let Ok(more) = finished.try_recv()
            {
                batch.push(more);
            }
            let settler = self.clone();
            calls.spawn(async move { settler.settle_batch(slot, batch).await });
            while calls.try_join_next().is_some() {}
        }
        while calls.join_next().await.is_some() {}
    }

    async fn settle_batch(&self, mut slot: Slot, batch: Vec<Finished>) {
        let count = batch.len();
        self.leases
            .settling(batch.iter().map(|finished| finished.delivery.place()));
        let mut done = Vec::with_capacity(count);
        let mut others = Vec::new();
        for finished in batch {
            let (attempt, max_attempts) = (finished.delivery.attempt, finished.max_attempts);
            let outcome = match finished.outcome {
                // Nobody took it: it was given up here, under a strict lease.
                Outcome::Gone if self.leases.holds(finished.delivery.place()) => {
                    Outcome::Interrupted
                }
                outcome => outcome,
            };
            match settle(attempt, max_attempts, outcome, &self.backoff, luck) {
                Settlement::Complete => done.push((
                    finished.delivery,
                    finished.took,
                    finished.result,
                    finished.told,
                )),
                settlement => others.push((finished.delivery, settlement)),
            }
        }
        for lane in Lane::ALL {
            let done: Vec<Done<'_>> = done
                .iter()
                .filter(|(delivery, ..)| delivery.lane == lane)
                .map(|(delivery, took, result, told)| Done {
                    delivery,
                    took: *took,
                    result: result.as_ref(),
                    told: *told,
                })
                .collect();
            if !done.is_empty() {
                self.complete(&mut slot, lane, &done).await;
            }
        }
        for (delivery, settlement) in others {
            self.settle_one(&mut slot, &delivery, settlement).await;
        }
        self.unsettled.fetch_sub(count, Ordering::AcqRel);
    }

    async fn complete(&self, slot: &mut Slot, lane: Lane, done: &[Done<'_>]) {
        match self
            .broker
            .complete(slot.caller(), lane, done, self.history, Patience::ENDLESS)
            .await
        {
            Ok(lost) => {
                self.counted.settled("completed", done.len() - lost.len());
                self.counted.settled("lost", lost.len());
                for entry in lost {
                    tracing::warn!(queue = %self.broker.queue, %entry, "completed too late: the job was reclaimed or cancelled");
                }
            }
            Err(error) => self.unsettleable("complete", &error),
        }
        self.leases
            .drop_all(done.iter().map(|done| done.delivery.place()));
    }

    async fn settle_one(&self, slot: &mut Slot, delivery: &Delivery, settlement: Settlement) {
        let (broker, caller) = (&self.broker, slot.caller());
        let (queue, job, attempt) = (&broker.queue, &delivery.id, delivery.attempt);
        let trace_id = delivery.meta.trace_id();
        let settled = match &settlement {
            Settlement::Retry { after, error } => {
                tracing::info!(%queue, %job, attempt, trace_id, ?after, "attempt failed; the job will be retried");
                broker
                    .retry(caller, delivery, *after, Some(error), Patience::ENDLESS)
                    .await
            }
            Settlement::Snooze { after } => {
                broker
                    .retry(caller, delivery, *after, None, Patience::ENDLESS)
                    .await
            }
            Settlement::DeadLetter { reason, error } => {
                tracing::warn!(%queue, %job, attempt, trace_id, ?reason, "job is dead; see `millstream dead show`");
                broker
                    .dead_letter(caller, delivery, *reason, error, Patience::ENDLESS)
                    .await
                    .map(drop)
            }
            Settlement::Release => broker
                .release(caller, delivery.lane, &[delivery.entry], Patience::ENDLESS)
                .await
                .and_then(|lost| match lost.is_empty() {
                    true => Ok(()),
                    false => Err(Error::LeaseLost { job: job.clone() }),
                }),
            Settlement::Complete | Settlement::Nothing => Ok(()),
        };
        match settled {
            Ok(()) => self.count(&settlement),
            Err(Error::LeaseLost { .. }) => {
                self.counted.settled("lost", 1);
                tracing::warn!(%queue, %job, attempt, trace_id, "settled too late: the job was reclaimed or cancelled");
            }
            Err(error) => self.unsettleable("settle", &error),
        }
        self.leases.drop_all([delivery.place()]);
    }

    fn count(&self, settlement: &Settlement) {
        let outcome = match settlement {
            Settlement::Complete => "completed",
            Settlement::Retry { .. } => "retried",
            Settlement::Snooze { .. } => "snoozed",
            Settlement::DeadLetter { reason, .. } => {
                self.counted.dead(*reason);
                "dead"
            }
            Settlement::Release => "released",
            Settlement::Nothing => return,
        };
        self.counted.settled(outcome, 1);
    }

    /// Another try would end the same: the lease is left to lapse, and the job runs again elsewhere.
    fn unsettleable(&self, what: &str, error: &Error) {
        tracing::error!(queue = %self.broker.queue, %error, "cannot {what}; the job will be reclaimed when its lease ends");
    }
}
