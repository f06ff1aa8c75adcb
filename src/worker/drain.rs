//! How a worker stops: claim no more, hand back what has not started, let running jobs finish until the deadline, hand
//! back the rest. Bounded at every step, also when Redis does not answer: losing a job is worse than running it twice,
//! and what cannot be handed back is reclaimed when its lease ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::Drained;
use super::attempt::{Runner, Work};
use super::claim::Load;
use super::lease::Leases;
use crate::broker::{Broker, EntryId};
use crate::config;
use crate::keys::Lane;
use crate::redis::Patience;

/// How long the last calls to Redis may take, all together, after running jobs had their time.
const LAST_WORDS: Duration = Duration::from_millis(1_500);

/// What is left of a worker that was told to stop.
pub(crate) struct Draining {
    pub(crate) broker: Broker,
    pub(crate) consumer: String,
    pub(crate) leases: Leases,
    pub(crate) load: Arc<Load>,
    pub(crate) work: async_channel::Receiver<Work>,
    pub(crate) runner: Arc<Runner>,
    pub(crate) claiming: JoinHandle<()>,
    pub(crate) settling: JoinHandle<()>,
    pub(crate) patience: Duration,
}

pub(crate) async fn drain(draining: Draining) -> Drained {
    let Draining {
        broker,
        consumer,
        leases,
        load,
        work,
        runner,
        claiming,
        settling,
        patience,
    } = draining;
    let deadline = Instant::now() + patience;
    let running = load.running.load(Ordering::Acquire);
    let mut released = 0;

    // The blocked read was told to end; what it still brings is in the feed afterwards. The claimer owns the only way
    // into the feed, so the feed closes with it.
    let mut claiming = claiming;
    if timeout(
        Duration::from_secs(2).min(patience + LAST_WORDS),
        &mut claiming,
    )
    .await
    .is_err()
    {
        claiming.abort();
    }
    work.close();
    let mut waiting: HashMap<Lane, Vec<EntryId>> = HashMap::new();
    while let Ok(job) = work.try_recv() {
        load.buffered.fetch_sub(1, Ordering::AcqRel);
        waiting
            .entry(job.delivery.lane)
            .or_default()
            .push(job.delivery.entry);
    }
    // A connection that broke may have been given jobs that nobody saw: they are ours, and they have not started.
    let unseen = broker.own(&consumer, Patience::brief(Duration::from_millis(300)));
    if let Ok(Ok(own)) = timeout(Duration::from_millis(500), unseen).await {
        for delivery in own
            .into_iter()
            .filter(|delivery| !leases.holds(delivery.place()))
        {
            waiting
                .entry(delivery.lane)
                .or_default()
                .push(delivery.entry);
        }
    }
    tracing::info!(queue = %broker.queue, running, waiting = waiting.values().map(Vec::len).sum::<usize>(), "worker stops");
    for (lane, entries) in waiting {
        released += release(&broker, &leases, lane, &entries, deadline + LAST_WORDS).await;
    }

    let all_settled = wait_until_idle(&load, &leases);
    let in_time = timeout_at(deadline, all_settled).await.is_ok();
    let last_words = Instant::now() + LAST_WORDS;
    let mut interrupted = 0;
    if !in_time {
        interrupted = leases.count();
        runner.give_up.cancel();
        leases.cancel_all();
        let _ = timeout_at(last_words, wait_until_idle(&load, &leases)).await;
        // Handlers that block their thread do not hear: their jobs are handed back over their heads.
        let mut deaf: HashMap<Lane, Vec<EntryId>> = HashMap::new();
        leases
            .places()
            .into_iter()
            .for_each(|(lane, entry)| deaf.entry(lane).or_default().push(entry));
        for (lane, entries) in deaf {
            release(
                &broker,
                &leases,
                lane,
                &entries,
                last_words + Duration::from_millis(300),
            )
            .await;
        }
    }
    settling.abort();
    let farewell = broker.retire(
        Some(&consumer),
        Duration::ZERO,
        Patience::brief(Duration::from_millis(300)),
    );
    if let Ok(Err(error)) = timeout(Duration::from_millis(500), farewell).await {
        tracing::debug!(queue = %broker.queue, %error, "the consumer stays listed until a sweep forgets it");
    }
    let drained = Drained {
        finished: running.saturating_sub(interrupted),
        released: released + interrupted,
    };
    tracing::info!(queue = %broker.queue, finished = drained.finished, released = drained.released, "worker stopped");
    drained
}

/// No job is running, every settlement is confirmed, and nothing is on its way from the feed to a slot.
async fn wait_until_idle(load: &Load, leases: &Leases) {
    let busy = || {
        load.running.load(Ordering::Acquire)
            + load.unsettled.load(Ordering::Acquire)
            + leases.count()
            > 0
    };
    while busy() {
        let _ = timeout(Duration::from_millis(20), load.eased.notified()).await;
    }
}

/// Hands deliveries back; returns how many were still ours.
async fn release(
    broker: &Broker,
    leases: &Leases,
    lane: Lane,
    entries: &[EntryId],
    deadline: Instant,
) -> usize {
    let mut released = 0;
    for chunk in entries.chunks(config::BATCH_JOBS_MAX) {
        let patience = Patience::brief(deadline.saturating_duration_since(Instant::now()));
        match timeout_at(deadline, broker.release(lane, chunk, patience)).await {
            Ok(Ok(lost)) => released += chunk.len() - lost.len(),
            Ok(Err(error)) => {
                tracing::warn!(queue = %broker.queue, %error, jobs = chunk.len(), "cannot hand jobs back; they run elsewhere when their leases end")
            }
            Err(_) => {
                tracing::warn!(queue = %broker.queue, jobs = chunk.len(), "no time to hand jobs back; they run elsewhere when their leases end")
            }
        }
        leases.drop_all(chunk.iter().map(|entry| (lane, *entry)));
    }
    released
}
