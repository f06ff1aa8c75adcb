//! Hints from other processes, so that nobody has to wait for the next look: a job has become the earliest due one, a
//! schedule was set, the queue was paused, a running job was cancelled, a suspect waits, a job has a
//! priority of its own. Any hint may be lost; every one of them is also found by looking.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::STEP;
use crate::broker::{Broker, Gates, Lane, Place};
use crate::error::Result;
use crate::redis::Listener;
use crate::redis::jittered;
use crate::worker::lease::Leases;

/// How often a worker looks without a hint: a pause is seen within this time, a suspect and a job of another priority as well.
const LOOK: Duration = Duration::from_secs(1);
/// Looks at empty lanes after which a worker reads without them again.
const LOOKS_IN_VAIN: u32 = 60;

/// Whom hints reach. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Hints {
    pub(crate) due: Arc<Notify>,
    pub(crate) cron: Arc<Notify>,
    pub(crate) gates: watch::Sender<Gates>,
    /// Whether jobs have priorities of their own.
    pub(crate) priorities: watch::Sender<bool>,
    /// How often in a row none was found.
    pub(crate) in_vain: Arc<AtomicU32>,
    pub(crate) leases: Leases,
}

impl Hints {
    /// There is a job with a priority of its own, or was a moment ago.
    fn has_priorities(&self) {
        self.in_vain.store(0, Ordering::Relaxed);
        self.priorities
            .send_if_modified(|now| !std::mem::replace(now, true));
    }

    /// Finds what no hint, or a lost one, told of.
    async fn look(&self, broker: &Broker) {
        // While Redis does not answer nothing can be claimed anyway.
        let Ok(look) = broker.look(STEP).await else {
            return;
        };
        let gates = look.gates;
        self.gates
            .send_if_modified(|now| std::mem::replace(now, gates) != gates);
        if look.suspected && !self.leases.holds_suspect() {
            self.leases.suspect_wanted().notify_one();
        }
        if look.prioritised {
            self.has_priorities();
        } else if self.in_vain.fetch_add(1, Ordering::Relaxed) >= LOOKS_IN_VAIN {
            // Nobody has to hear of every such job: only the first one on an empty lane is told of.
            self.priorities
                .send_if_modified(|now| std::mem::replace(now, false));
        }
    }
}

/// Begins to hear the queue's channel.
pub(crate) async fn subscribe(broker: &Broker) -> Result<Listener> {
    let channel = String::from_utf8_lossy(&broker.keys.wake);
    broker.redis.listen(&channel).await
}

/// Hears the queue's channel, on `first` as long as it lives, and comes back to it after every failure.
pub(crate) async fn listen(broker: Broker, hints: Hints, first: Result<Listener>) {
    let mut subscribed = first;
    loop {
        match subscribed {
            Ok(mut listener) => loop {
                let hint = listener.next().await;
                match hint.split_once(' ') {
                    Some(("lost", place)) => {
                        if let Some(place) = place_of(&broker, place) {
                            let told = hints.leases.lose(place);
                            tracing::debug!(queue = %broker.queue, entry = %place.1, told, "the job was cancelled");
                        }
                    }
                    _ if hint == "due" => hints.due.notify_one(),
                    _ if hint == "cron" => hints.cron.notify_one(),
                    _ if hint == "priority" => hints.has_priorities(),
                    _ if hint == "suspect" => hints.leases.suspect_wanted().notify_one(),
                    _ => {
                        hints.due.notify_one();
                        hints.cron.notify_one();
                        hints.look(&broker).await;
                    }
                }
            },
            Err(error) => {
                tracing::debug!(queue = %broker.queue, %error, "cannot listen for hints; trying again")
            }
        }
        tokio::time::sleep(jittered(Duration::from_secs(5))).await;
        subscribed = subscribe(&broker).await;
        // What was said meanwhile was not heard.
        hints.due.notify_one();
        hints.cron.notify_one();
        hints.look(&broker).await;
    }
}

/// Reads `"<entry> <lane's key>"`.
fn place_of(broker: &Broker, text: &str) -> Option<Place> {
    let (entry, key) = text.split_once(' ')?;
    let lane = Lane::ALL
        .into_iter()
        .find(|lane| broker.keys.lane(*lane).as_str() == key)?;
    Some((lane, entry.parse().ok()?))
}

/// Looks every second, whatever was said.
pub(crate) async fn look_on(broker: Broker, hints: Hints) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        hints.look(&broker).await;
    }
}
