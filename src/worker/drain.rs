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
use super::attempt::Runner;
use super::feed::Feed;
use super::lease::Leases;
use super::room::Load;
use crate::broker::{Broker, Caller, EntryId};
use crate::config;
use crate::keys::Lane;
use crate::metrics::handles::Working;
use crate::redis::Patience;

/// How long the blocked read may take to end.
const READ_ENDS: Duration = Duration::from_secs(2);
/// How long one call that hands jobs back may take.
const HAND_BACK: Duration = Duration::from_millis(250);
/// How long handlers that were told to give up, and their settlements, may take after the deadline. All that follows
/// the deadline takes less than 2 s together.
const LAST_WORDS: Duration = Duration::from_millis(1_200);

/// What is left of a worker that was told to stop.
pub(crate) struct Draining {
    pub(crate) broker: Broker,
    pub(crate) consumer: String,
    pub(crate) leases: Leases,
    pub(crate) load: Arc<Load>,
    pub(crate) feed: Feed,
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
        feed,
        runner,
        claiming,
        settling,
        patience,
    } = draining;
    let deadline = Instant::now() + patience;
    let running = load.running.load(Ordering::Acquire);
    let mut released = 0;
    // Not one of those that settle: while Redis is away, they are all under way.
    let mut caller = Caller::new(format!("{consumer}/stop"));

    // Whoever is next promotes and reclaims at once.
    let resigned = broker.resign(&consumer, Patience::brief(Duration::ZERO));
    let _ = timeout(HAND_BACK, resigned).await;

    // The blocked read was told to end; what it still brings is in the feed afterwards. The claimer owns the only way
    // into the feed, so the feed closes with it.
    let mut claiming = claiming;
    let unread = (Instant::now() + READ_ENDS).min(deadline + HAND_BACK);
    if timeout_at(unread, &mut claiming).await.is_err() {
        claiming.abort();
    }
    let mut waiting: HashMap<Lane, Vec<EntryId>> = HashMap::new();
    for job in feed.close() {
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
        released += release(
            &broker,
            &mut caller,
            &leases,
            &runner.counted,
            lane,
            &entries,
            (Instant::now() + READ_ENDS).min(deadline + 2 * HAND_BACK),
        )
        .await;
    }

    let all_settled = wait_until_idle(&load, &leases);
    let in_time = timeout_at(deadline, all_settled).await.is_ok();
    let (mut interrupted, mut kept) = (0, 0);
    if !in_time {
        interrupted = leases.count();
        runner.give_up.cancel();
        leases.cancel_all();
        let _ = timeout_at(deadline + LAST_WORDS, wait_until_idle(&load, &leases)).await;
        // Handlers that block their thread do not hear: their jobs are handed back over their heads.
        let mut deaf: HashMap<Lane, Vec<EntryId>> = HashMap::new();
        leases
            .places()
            .into_iter()
            .for_each(|(lane, entry)| deaf.entry(lane).or_default().push(entry));
        for (lane, entries) in deaf {
            // What could not be handed back is not counted as if it were.
            kept += entries.len()
                - release(
                    &broker,
                    &mut caller,
                    &leases,
                    &runner.counted,
                    lane,
                    &entries,
                    deadline + LAST_WORDS + HAND_BACK,
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
        released: (released + interrupted).saturating_sub(kept),
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
    caller: &mut Caller,
    leases: &Leases,
    counted: &Working,
    lane: Lane,
    entries: &[EntryId],
    deadline: Instant,
) -> usize {
    let mut released = 0;
    for chunk in entries.chunks(config::BATCH_JOBS_MAX) {
        let patience = Patience::brief(deadline.saturating_duration_since(Instant::now()));
        match timeout_at(deadline, broker.release(caller, lane, chunk, patience)).await {
            Ok(Ok(lost)) => {
                released += chunk.len() - lost.len();
                counted.settled("released", chunk.len() - lost.len());
            }
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
