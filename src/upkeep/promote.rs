//! Moves due jobs to the stream. Sleeps until the next one is due; an enqueue that becomes the new first wakes it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{Leading, STEP};
use crate::broker::{Broker, Promotion, Upkeeper};
use crate::metrics::handles::Working;
use crate::redis::jittered;
use crate::worker::health::Pulse;

/// Longest sleep: how late a job can be whose wake-up call was lost.
const POLL: Duration = Duration::from_millis(3_300);
/// Jobs per step, so that no step holds Redis for more than a few milliseconds.
const LIMIT: usize = 200;

/// From one look at due jobs to the next: those that are due between the two go together, so many delayed jobs cost Redis little each.
const PACE: Duration = Duration::from_millis(1);
/// The end of a sleep that is left to a thread.
const FINE: Duration = Duration::from_millis(2);

/// The runtime's clock ticks once a millisecond and rounds up, which would be most of what a delayed job is late: the last
/// of a sleep is slept on a thread, whose clock is finer. Nothing spins.
async fn sleep_to_the_point(end: Instant) {
    let left = || end.saturating_duration_since(Instant::now());
    if let Some(coarse) = left().checked_sub(FINE) {
        tokio::time::sleep(coarse).await;
    }
    let rest = left();
    if !rest.is_zero() {
        let _ = tokio::task::spawn_blocking(move || std::thread::sleep(rest)).await;
    }
}

/// Lets in who has waited for the rate of his group. Returns the wait until there is more to do.
async fn admit_due(broker: &Broker) -> Option<Duration> {
    match broker.admit_due(LIMIT, STEP).await {
        Ok((_, wait)) => wait,
        Err(error) => {
            tracing::warn!(queue = %broker.queue, %error, "cannot admit jobs whose group has a rate; trying again");
            Some(Duration::from_secs(1))
        }
    }
}

pub(crate) async fn run(
    broker: Broker,
    by: Upkeeper,
    due: Arc<Notify>,
    leading: Leading,
    pulse: Pulse,
    counted: Working,
) {
    // Before the lock ends, so that it does not change hands without need.
    let poll = POLL.min(by.lock * 2 / 3);
    loop {
        let asked = Instant::now();
        let promotion = broker.promote(&by, LIMIT, STEP).await;
        // Redis looked at its clock about half-way, and what it says of the next one counts from there. Who comes too soon is told how
        // much; from the end on, every job would be late by what this took.
        let looked = asked + asked.elapsed() / 2;
        leading.set(matches!(promotion, Ok(Promotion::Promoted { .. })));
        let sleep = match promotion {
            Ok(Promotion::Promoted {
                next_due,
                unlock,
                count,
                late,
                expired,
                rated,
            }) => {
                pulse.beat();
                counted.promoted(count, expired, late);
                // Lost, these keys are in nobody's way: an enqueue looks whether their holders live.
                if !unlock.is_empty()
                    && let Err(error) = broker.unlock(&unlock, STEP).await
                {
                    tracing::warn!(queue = %broker.queue, %error, "cannot release the unique keys of expired jobs");
                }
                let rated = match rated {
                    Some(Duration::ZERO) => admit_due(&broker).await,
                    later => later,
                };
                let next = [next_due, rated].into_iter().flatten().min();
                match next.map_or(poll, |next| next.min(poll)) {
                    // More was due than a step takes.
                    Duration::ZERO => Duration::ZERO,
                    next if count > 0 => next.max(PACE),
                    next => next,
                }
            }
            Ok(Promotion::Standby) => {
                pulse.beat();
                // Another worker hears the hints. Look again when its lock may have lapsed.
                tokio::time::sleep(jittered(by.lock)).await;
                continue;
            }
            Err(error) => {
                tracing::warn!(queue = %broker.queue, %error, "cannot promote; trying again");
                pulse.failed(error.to_string());
                jittered(poll.min(Duration::from_secs(1)))
            }
        };
        if !sleep.is_zero() {
            tokio::select! {
                () = sleep_to_the_point(looked + sleep) => {}
                () = due.notified() => {}
            }
        }
    }
}
