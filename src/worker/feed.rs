//! Jobs on their way from the read loop to the slots: handed over in batches, picked up one by one.
//!
//! A batch wakes one slot, and a slot that picks a job up while others wait wakes one more. So handlers that take their time
//! start as fast as slots can wake each other, and handlers that are through at once are all served by the few slots that
//! are awake, without the price of a wake-up for each.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::attempt::Work;

/// The two ends of it. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Feed(Arc<Inner>);

#[derive(Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    /// There is work for one more slot, or the feed was closed.
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    work: VecDeque<Work>,
    closed: bool,
    /// A slot was woken and has not looked yet: it will wake the next.
    waking: bool,
}

impl Waiting {
    /// Whether one more slot must be woken; notes that it is.
    fn wakes_one_more(&mut self) -> bool {
        !self.work.is_empty() && !std::mem::replace(&mut self.waking, true)
    }
}

impl Feed {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held.
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a batch over, in its order.
    pub(crate) fn push(&self, batch: impl IntoIterator<Item = Work>) {
        let wakes = {
            let mut waiting = self.waiting();
            waiting.work.extend(batch);
            waiting.wakes_one_more()
        };
        if wakes {
            self.0.changed.notify_one();
        }
    }

    /// The next job, for a slot; `None` once the feed is closed and empty.
    pub(crate) async fn next(&self) -> Option<Work> {
        // Handlers that never wait would keep the thread from everybody else.
        tokio::task::coop::consume_budget().await;
        let mut woken = false;
        loop {
            // Before the look, so that a close in between is heard.
            let changed = self.0.changed.notified();
            let (work, wakes, closed) = {
                let mut waiting = self.waiting();
                if woken {
                    waiting.waking = false;
                }
                let work = waiting.work.pop_front();
                (work, waiting.wakes_one_more(), waiting.closed)
            };
            if wakes {
                self.0.changed.notify_one();
            }
            if work.is_some() || closed {
                return work;
            }
            changed.await;
            woken = true;
        }
    }

    /// Takes back what no slot has picked up, and lets the slots end.
    pub(crate) fn close(&self) -> Vec<Work> {
        let rest = {
            let mut waiting = self.waiting();
            waiting.closed = true;
            std::mem::take(&mut waiting.work)
        };
        self.0.changed.notify_waiters();
        rest.into()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::task::JoinSet;

    use super::*;
    use crate::broker::{Delivery, EntryId};
    use crate::keys::Lane;
    use crate::worker::lease::Grip;

    fn work(ms: u64) -> Work {
        let entry = EntryId { ms, seq: 0 };
        Work {
            delivery: Arc::new(Delivery::foreign(Lane::Ready, entry)),
            grip: Arc::new(Grip::new(Instant::now())),
        }
    }

    fn number(work: Option<Work>) -> Option<u64> {
        work.map(|work| work.delivery.entry.ms)
    }

    #[tokio::test]
    async fn jobs_come_out_in_their_order_and_the_rest_is_given_back_when_it_closes() {
        let feed = Feed::default();
        feed.push([work(1), work(2)]);
        feed.push([work(3), work(4)]);

        assert_eq!(number(feed.next().await), Some(1));
        assert_eq!(number(feed.next().await), Some(2));
        let rest = feed.close().into_iter().map(|work| number(Some(work)));

        assert_eq!(rest.collect::<Vec<_>>(), [Some(3), Some(4)]);
        assert_eq!(number(feed.next().await), None);
    }

    /// Every slot keeps its job until all have one: were a single wake-up lost, this would never end.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn as_many_slots_wake_as_there_are_jobs() {
        const SLOTS: usize = 50;
        for round in 0..100 {
            let feed = Feed::default();
            let all_busy = Arc::new(tokio::sync::Barrier::new(SLOTS + 1));
            let mut slots = JoinSet::new();
            for _ in 0..SLOTS {
                let (feed, all_busy) = (feed.clone(), Arc::clone(&all_busy));
                slots.spawn(async move {
                    while feed.next().await.is_some() {
                        all_busy.wait().await;
                    }
                });
            }
            if round % 2 == 0 {
                // Most of them sleep by then.
                tokio::task::yield_now().await;
            }
            feed.push((0..SLOTS as u64 / 2).map(work));
            feed.push((0..SLOTS as u64 / 2).map(work));

            let in_time = tokio::time::timeout(Duration::from_secs(20), all_busy.wait());
            in_time.await.expect("every job is picked up");
            feed.close();
            let ended = tokio::time::timeout(Duration::from_secs(20), slots.join_all());
            ended.await.expect("every slot ends");
        }
    }
}
