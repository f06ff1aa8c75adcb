//! The leases that this worker holds, and the heartbeat that renews them.
//!
//! The heartbeat runs on the worker's own thread, so a handler that blocks the runtime does not make its worker look dead.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::health::Pulse;
use crate::broker::{Broker, EntryId, Place};
use crate::config;
use crate::job::millis;
use crate::keys::Lane;
use crate::metrics::handles::Working;
use crate::redis::Patience;

/// What an attempt has of its lease.
#[derive(Debug)]
pub(crate) struct Grip {
    /// Tells the handler that its work is no longer wanted.
    pub(crate) cancel: CancellationToken,
    delivered: Instant,
    /// When the handler must be through, ms after the delivery; [`u64::MAX`] before it was called.
    through_ms: AtomicU64,
    /// The handler is through. Its settlement may wait for long, while Redis is away.
    ended: AtomicBool,
}

impl Grip {
    pub(crate) fn new(delivered: Instant) -> Self {
        Self {
            cancel: CancellationToken::new(),
            delivered,
            through_ms: AtomicU64::new(u64::MAX),
            ended: AtomicBool::new(false),
        }
    }

    /// The handler is called now and is cut off after `timeout`.
    pub(crate) fn begin(&self, timeout: Duration) {
        self.through_ms.store(
            millis(self.delivered.elapsed() + timeout),
            Ordering::Relaxed,
        );
    }

    /// There is no handler to tell any more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Since when the handler should have been through: it blocks its thread, for else it would have been cut off.
    fn overdue(&self) -> Option<Duration> {
        if self.is_over() {
            return None;
        }
        let through = Duration::from_millis(self.through_ms.load(Ordering::Relaxed));
        self.delivered.elapsed().checked_sub(through)
    }
}

/// One job in this worker's hands, from its delivery until its settlement is confirmed.
#[derive(Debug)]
struct Lease {
    /// When Redis last confirmed it, by this machine's monotonic clock.
    confirmed: Instant,
    grip: Arc<Grip>,
    /// The handler is through and the settlement is on its way: from now on the entry may vanish at any moment.
    settling: bool,
    /// The handler was told to stop, because Redis has not confirmed the lease for too long.
    given_up: bool,
    /// The handler does not return: the lease is no longer renewed, so that another worker gets the job.
    stuck: bool,
}

/// Every lease of one worker. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leases(Arc<Held>);

/// Redis makes the places, so a quick hash will do.
type ByPlace = HashMap<Place, Lease, foldhash::fast::RandomState>;

#[derive(Debug, Default)]
struct Held {
    leases: Mutex<ByPlace>,
    suspect_wanted: Notify,
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, ByPlace> {
        self.0.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fires when it is worth looking for a suspect: one has come, or the one in hand is settled.
    pub(crate) fn suspect_wanted(&self) -> &Notify {
        &self.0.suspect_wanted
    }

    /// Whether a suspect is in hand: then no other may be.
    pub(crate) fn holds_suspect(&self) -> bool {
        self.lock().keys().any(|(lane, _)| *lane == Lane::Suspect)
    }

    /// Notes deliveries that were made no earlier than at `since`; `now` is when they arrived here.
    pub(crate) fn hold_all(
        &self,
        places: impl IntoIterator<Item = Place>,
        since: Instant,
        now: Instant,
    ) -> Vec<Arc<Grip>> {
        let mut held = self.lock();
        let hold = |place| {
            let grip = Arc::new(Grip::new(now));
            let lease = Lease {
                confirmed: since,
                grip: Arc::clone(&grip),
                settling: false,
                given_up: false,
                stuck: false,
            };
            held.insert(place, lease);
            grip
        };
        places.into_iter().map(hold).collect()
    }

    pub(crate) fn holds(&self, place: Place) -> bool {
        self.lock().contains_key(&place)
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn places(&self) -> Vec<Place> {
        self.lock().keys().copied().collect()
    }

    /// The job was settled.
    pub(crate) fn drop_all(&self, places: impl IntoIterator<Item = Place>) {
        let mut held = self.lock();
        for place in places {
            held.remove(&place);
            if place.0 == Lane::Suspect {
                self.0.suspect_wanted.notify_one();
            }
        }
    }

    /// Settlements are on their way.
    pub(crate) fn settling(&self, places: impl IntoIterator<Item = Place>) {
        let mut held = self.lock();
        for place in places {
            if let Some(lease) = held.get_mut(&place) {
                lease.settling = true;
            }
        }
    }

    /// The job is no longer ours: its handler is told. `false` when there was none to tell, because the job is already
    /// settled, or about to be.
    pub(crate) fn lose(&self, place: Place) -> bool {
        let mut held = self.lock();
        if held.get(&place).is_none_or(|lease| lease.settling) {
            return false;
        }
        if let Some(lease) = held.remove(&place) {
            lease.grip.cancel.cancel();
        }
        if place.0 == Lane::Suspect {
            self.0.suspect_wanted.notify_one();
        }
        true
    }

    /// Tells every handler to give up, without giving up the leases.
    pub(crate) fn cancel_all(&self) {
        self.lock()
            .values()
            .for_each(|lease| lease.grip.cancel.cancel());
    }

    /// Tells the handlers of what was not confirmed within `age` to stop; the leases are kept, so that the jobs are handed
    /// back if they are still ours. Returns which, and how long it will be at least until there can be more.
    fn give_up_unconfirmed(&self, age: Duration) -> (Vec<Place>, Duration) {
        let (mut given_up, mut next) = (Vec::new(), age);
        for (place, lease) in self.lock().iter_mut() {
            if lease.settling || lease.given_up || lease.grip.is_over() {
                continue;
            }
            let left = age.saturating_sub(lease.confirmed.elapsed());
            if left.is_zero() {
                lease.given_up = true;
                lease.grip.cancel.cancel();
                given_up.push(*place);
            } else {
                next = next.min(left);
            }
        }
        (given_up, next)
    }

    /// What `lane` holds that was not confirmed within `age`.
    fn due(&self, lane: Lane, age: Duration) -> Vec<EntryId> {
        let held = self.lock();
        let due = held.iter().filter(|((of, _), lease)| {
            *of == lane && !lease.stuck && lease.confirmed.elapsed() >= age
        });
        due.map(|((_, entry), _)| *entry).collect()
    }

    /// Gives up the leases of handlers that should have been through for longer than `age`. Returns the new ones.
    fn give_up_stuck(&self, age: Duration) -> Vec<Place> {
        let mut stuck = Vec::new();
        for (place, lease) in self.lock().iter_mut() {
            let is_new = !lease.stuck && !lease.settling;
            if is_new && lease.grip.overdue().is_some_and(|overdue| overdue > age) {
                lease.stuck = true;
                stuck.push(*place);
            }
        }
        stuck
    }

    fn confirm(&self, lane: Lane, entries: &[EntryId], at: Instant) {
        let mut held = self.lock();
        for entry in entries {
            if let Some(lease) = held.get_mut(&(lane, *entry)) {
                lease.confirmed = at;
            }
        }
    }
}

/// Renews what is older than a third of the lease, looking twice in that time: two renewals may fail before a job counts
/// as stalled, and a job that is settled sooner needs none. Runs until it is dropped.
pub(crate) async fn heartbeat(
    broker: Broker,
    consumer: String,
    leases: Leases,
    lease: Duration,
    pulse: Pulse,
    counted: Working,
) {
    let mut beat = tokio::time::interval(lease / 6);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let mut failed = None;
        for (_, entry) in leases.give_up_stuck(lease) {
            tracing::error!(queue = %broker.queue, %entry, "a handler blocks its thread and was not through a lease after its time; another worker gets its job");
        }
        for lane in Lane::ALL {
            for entries in leases.due(lane, lease / 3).chunks(config::BATCH_JOBS_MAX) {
                let asked = Instant::now();
                match broker
                    .extend(lane, &consumer, entries, Patience::brief(lease / 6))
                    .await
                {
                    Ok(lost) => {
                        leases.confirm(lane, entries, asked);
                        for entry in lost {
                            if leases.lose((lane, entry)) {
                                counted.lease_lost(1);
                                tracing::warn!(queue = %broker.queue, %entry, "lease lost: the job was reclaimed or cancelled");
                            }
                        }
                    }
                    Err(error) => failed = Some(error.to_string()),
                }
            }
        }
        match failed {
            Some(reason) => pulse.failed(reason),
            None => pulse.beat(),
        }
    }
}

/// How long a strict lease is trusted without word from Redis. What is left of it is for the handler to stop.
pub(crate) fn trusted(lease: Duration) -> Duration {
    lease - lease / 6
}

/// Strict leases: a job whose lease may have lapsed, by this machine's own clock, is given up before another worker can have
/// it. Runs until it is dropped.
pub(crate) async fn fence(broker: Broker, leases: Leases, lease: Duration) {
    loop {
        let (given_up, next) = leases.give_up_unconfirmed(trusted(lease));
        for (_, entry) in given_up {
            tracing::warn!(queue = %broker.queue, %entry, "lease not renewed in time: the job was given up");
        }
        // A lease may be old when it comes: it counts from before the call that brought it.
        tokio::time::sleep(next.min(lease / 12)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Leases {
        fn hold(&self, place: Place, since: Instant) -> Arc<Grip> {
            let mut grips = self.hold_all([place], since, Instant::now());
            grips.pop().expect("one for each place")
        }
    }

    #[test]
    fn a_lost_lease_cancels_and_a_settled_one_does_not() {
        let leases = Leases::default();
        // Two lanes may give the same id.
        let entry = EntryId { ms: 1, seq: 0 };
        let (a, b) = ((Lane::Ready, entry), (Lane::Next, entry));
        let now = Instant::now();
        let (lost, settled) = (leases.hold(a, now), leases.hold(b, now));

        leases.settling([b]);
        assert!(leases.lose(a) && !leases.lose(a) && !leases.lose(b));
        leases.drop_all([b]);

        assert!(lost.cancel.is_cancelled() && !settled.cancel.is_cancelled());
        assert_eq!(leases.count(), 0);
    }

    #[test]
    fn only_what_is_old_enough_is_renewed() {
        let leases = Leases::default();
        let entry = EntryId { ms: 1, seq: 0 };
        leases.hold((Lane::Ready, entry), Instant::now());

        assert_eq!(leases.due(Lane::Ready, Duration::from_secs(60)), []);
        assert_eq!(leases.due(Lane::Ready, Duration::ZERO), [entry]);
        assert_eq!(leases.due(Lane::Next, Duration::ZERO), []);
    }

    #[test]
    fn a_strict_lease_is_given_up_when_it_may_have_lapsed_unless_it_is_being_settled() {
        let leases = Leases::default();
        let place = |seq| (Lane::Ready, EntryId { ms: 1, seq });
        let ago = |seconds| {
            let then = Instant::now().checked_sub(Duration::from_secs(seconds));
            then.expect("an uptime")
        };
        let old = leases.hold(place(0), ago(20));
        let fresh = leases.hold(place(1), ago(5));
        let settling = leases.hold(place(2), ago(20));
        leases.settling([place(2)]);
        leases.hold(place(3), ago(20)).end();

        let (given_up, next) = leases.give_up_unconfirmed(Duration::from_secs(10));

        assert_eq!(given_up, [place(0)]);
        assert!(old.cancel.is_cancelled() && !fresh.cancel.is_cancelled());
        assert!(!settling.cancel.is_cancelled());
        assert!(
            next <= Duration::from_secs(5) && next > Duration::from_secs(3),
            "{next:?}"
        );
    }

    #[test]
    fn a_lease_is_renewed_no_longer_when_its_handler_does_not_return() {
        let leases = Leases::default();
        let place = |seq| (Lane::Ready, EntryId { ms: 1, seq });
        let [stuck, running, waiting, through] =
            [0, 1, 2, 3].map(|seq| leases.hold(place(seq), Instant::now()));
        stuck.begin(Duration::ZERO);
        // Nobody has settled it yet: Redis may be away.
        through.begin(Duration::ZERO);
        through.end();
        running.begin(Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(3));

        assert_eq!(leases.give_up_stuck(Duration::from_secs(60)), []);
        assert_eq!(leases.give_up_stuck(Duration::ZERO), [place(0)]);
        assert_eq!(leases.give_up_stuck(Duration::ZERO), [], "told once");

        let mut due = leases.due(Lane::Ready, Duration::ZERO);
        due.sort_unstable();
        assert_eq!(due, [place(1).1, place(2).1, place(3).1]);
        drop(waiting);
    }
}
