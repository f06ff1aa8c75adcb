//! The read loop: claims as many jobs as there is room for, and never more.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::attempt::Work;
use super::circuit::Gate;
use super::feed::Feed;
use super::health::Pulse;
use super::lease::Leases;
use super::room::{Flow, Load};
use crate::broker::{Broker, Delivery, EntryId, Gates, InTheWay, Place};
use crate::config;
use crate::error::Result;
use crate::keys::{Key, Lane};
use crate::redis::reader::{RawEntry, ReadFailure, Reader, Sent};
use crate::redis::{Patience, is_no_group, jittered};

/// How long a read waits for a job. It is woken at once when one comes; the end of the wait only shows that all is well.
pub(crate) const BLOCK: Duration = Duration::from_secs(5);
/// Pause between two orders to end a blocked read.
const UNBLOCK_AGAIN: Duration = Duration::from_millis(20);
/// Orders after which the connection is cut.
const UNBLOCK_TRIES: u32 = 10;

/// Own deliveries per look for unseen ones; half as many after each look that fails, for they may be large and the line slow.
const OWN_PAGE: usize = 100;

/// When a worker looks again whether others have finished what they run, where the queue's concurrency is limited.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The same for what it has finished itself, once that is confirmed.
const CONFIRMED_SOON: Duration = Duration::from_millis(2);
/// How long it waits for the queue's rate before it looks whether that was changed, or something was handed back.
const LOOK_AT_MOST: Duration = Duration::from_secs(1);

/// How long a request that was given up may still be on its way to Redis: until the system gives it up as well.
const ON_ITS_WAY: Duration = Duration::from_secs(5);

/// A read or a claim that was given up may be carried out later, and then delivers what nobody sees.
#[derive(Clone, Copy)]
struct Doubt {
    /// When to look at the own deliveries again.
    look: Instant,
    /// A look after this is the last.
    ends: Instant,
}

/// A read that is on its way, of so many from each lane.
pub(crate) struct Ahead {
    sent: Sent,
    shares: [usize; 2],
    asked: Instant,
}

pub(crate) struct Claimer {
    pub(crate) broker: Broker,
    pub(crate) reader: Reader,
    pub(crate) consumer: String,
    pub(crate) leases: Leases,
    pub(crate) load: Arc<Load>,
    pub(crate) gate: Gate,
    pub(crate) feed: Feed,
    /// Called after jobs were fed, so that there are slots to take them.
    pub(crate) staff: Box<dyn Fn() + Send + Sync>,
    pub(crate) gates: watch::Receiver<Gates>,
    /// Jobs have priorities of their own.
    pub(crate) prioritised: watch::Receiver<bool>,
    /// How many jobs were taken by priority.
    pub(crate) turn: usize,
    /// About how large a payload is, so that no answer is larger than it may be.
    pub(crate) payload_bytes: usize,
    pub(crate) stop: CancellationToken,
    pub(crate) pulse: Pulse,
    /// How the next read divides its room among the lanes.
    pub(crate) flow: Flow,
    /// A read that was sent before the jobs of the one before it were taken in hand.
    pub(crate) ahead: Option<Ahead>,
    /// Whether there may be one.
    pub(crate) reads_ahead: bool,
    /// There may be a suspect to take.
    pub(crate) look_for_suspect: bool,
    /// How long a read waits for a job, at most [`BLOCK`].
    pub(crate) block: Duration,
    pub(crate) lease: Duration,
    /// Leases count from before the call that brought them, not from when its answer was read.
    pub(crate) strict: bool,
}

impl Claimer {
    /// Claims until it is told to stop. Returns when nothing more can arrive.
    pub(crate) async fn run(mut self) {
        let mut pause = Duration::from_millis(50);
        // A read or a claim failed: it may have delivered what nobody saw. That comes first, before anything new.
        let mut unseen = false;
        let mut own_page = OWN_PAGE;
        // And once more in time before the lease of what came later ends.
        let mut doubt: Option<Doubt> = None;
        let again = self.lease / 3;
        // What is on its way comes first, whatever has happened meanwhile: it is ours.
        while self.ahead.is_some() || self.room_or_stop().await {
            let ahead = self.ahead.as_ref();
            let asked = ahead.map_or_else(Instant::now, |ahead| ahead.asked);
            let due = unseen || doubt.is_some_and(|doubt| doubt.look <= asked);
            let looks = due && ahead.is_none();
            // In doubt, one read at a time: nothing may be on its way while the own deliveries are looked at.
            self.reads_ahead = !unseen && doubt.is_none();
            let read = match looks {
                true => self.read_unseen(own_page).await.map(Some),
                false => {
                    let block = doubt.map_or(self.block, |_| self.block.min(again));
                    self.read(block).await
                }
            };
            match read {
                Ok(entries) => {
                    unseen = false;
                    if looks {
                        own_page = OWN_PAGE;
                        doubt = doubt.filter(|doubt| asked < doubt.ends);
                        doubt = doubt.map(|doubt| Doubt {
                            look: asked + again,
                            ..doubt
                        });
                    }
                    self.pulse.beat();
                    pause = Duration::from_millis(50);
                    let Some(entries) = entries else {
                        continue;
                    };
                    if !entries.is_empty() {
                        let total = entries.iter().map(|entry| entry.fields.weight()).sum();
                        self.weigh(entries.len(), total);
                        let read = |raw: RawEntry| Delivery::read(Lane::ALL[raw.stream], raw);
                        self.take_all(entries.into_iter().filter_map(read), asked)
                            .await;
                    }
                }
                Err(failure) => {
                    if looks {
                        own_page = (own_page / 2).max(1);
                    }
                    tracing::warn!(queue = %self.broker.queue, %failure, "cannot claim; trying again");
                    self.pulse.failed(failure.to_string());
                    let stop = self.stop.clone();
                    tokio::select! {
                        () = tokio::time::sleep(jittered(pause)) => {}
                        () = stop.cancelled() => break,
                    }
                    pause = (pause * 2).min(Duration::from_secs(1));
                    self.heal(&failure, unseen).await;
                    unseen = true;
                    let now = Instant::now();
                    doubt = Some(Doubt {
                        look: now,
                        ends: now + ON_ITS_WAY,
                    });
                }
            }
        }
        self.reader.close().await;
    }

    /// Waits until there is room and the queue is not paused. `false`: stop.
    async fn room_or_stop(&mut self) -> bool {
        loop {
            let eased = self.load.eased.notified();
            if self.stop.is_cancelled() {
                return false;
            }
            if !self.gates.borrow_and_update().paused && self.room() > 0 {
                return true;
            }
            // Waiting for room, or for the end of a pause, is no standstill.
            self.pulse.beat();
            tokio::select! {
                () = eased => {}
                _ = self.gates.changed() => {}
                () = self.gate.pause_over() => {}
                () = self.stop.cancelled() => return false,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    /// Jobs that may be claimed now: what the load leaves room for and the circuit lets through.
    fn room(&self) -> usize {
        let waiting = self.load.buffered.load(Ordering::Acquire);
        let room = match self.gates.borrow().limited {
            // What is claimed counts as running for all workers: nothing is fetched ahead.
            true => self.load.room_now(),
            false => self.load.room(),
        };
        room.min(self.gate.room(waiting))
    }

    /// Takes in how large so many jobs were together.
    fn weigh(&mut self, jobs: usize, total: usize) {
        self.payload_bytes = (self.payload_bytes + total / jobs.max(1)) / 2 + 1;
    }

    /// Takes in what was claimed by priority: whose turn is next, and how large payloads are.
    fn count_turn(&mut self, claimed: &[Delivery]) {
        if claimed.is_empty() {
            return;
        }
        self.turn += claimed.len();
        let total = claimed.iter().map(|delivery| delivery.payload.len()).sum();
        self.weigh(claimed.len(), total);
    }

    /// One read, of no more than there is room for over all lanes. `None`: what came is in hand already, and there may be more.
    async fn read(
        &mut self,
        block: Duration,
    ) -> std::result::Result<Option<Vec<RawEntry>>, ReadFailure> {
        if let Some(ahead) = self.ahead.take() {
            return self.take_ahead(ahead).await.map(Some);
        }
        let room = self
            .room()
            .min(config::BATCH_BYTES_MAX / self.payload_bytes)
            .clamp(1, config::BATCH_JOBS_MAX);
        // Each of the claims below is sent once: a second try would not bring what the first one claimed when its answer
        // was lost. Then the own list does.
        let once = Patience::brief(Duration::ZERO);
        if self.wants_suspect() {
            self.look_for_suspect = false;
            let asked = Instant::now();
            let suspect = self.broker.claim_suspect(&self.consumer, once).await;
            if self.take_claimed(suspect, asked).await? > 0 {
                return Ok(Some(Vec::new()));
            }
        }
        if self.gates.borrow().limited {
            return self.read_limited(room, block).await;
        }
        if *self.prioritised.borrow() {
            return self.read_by_priority(room, block).await;
        }
        if room == 1 {
            // One place, two lanes: look without waiting first, with a count that holds over both. Only a job that
            // comes into each lane in the moment before the read below could make it one too many.
            let asked = Instant::now();
            let claimed = self.broker.claim(&self.consumer, 1, once).await;
            if self.take_claimed(claimed, asked).await? > 0 {
                return Ok(Some(Vec::new()));
            }
        } else if let Some(ahead) = self.send_ahead(room.min(self.load.half())) {
            let entries = self.take_ahead(ahead).await?;
            if !entries.is_empty() {
                return Ok(Some(entries));
            }
        } else if let Some(shares) = self.flow.shares(room) {
            let lanes = self.lanes_with(shares);
            let entries = self.reader.read_now(&lanes, &self.consumer).await?;
            self.flow.saw(&entries, shares);
            if !entries.is_empty() {
                return Ok(Some(entries));
            }
        }
        // Redis counts per stream, so a read that waits for two lanes asks for half the room of each, rounded down: the two
        // halves together are never more than there is room for.
        let share = (room / 2).max(1);
        let entries = self.read_waiting(&Lane::READ, share, block).await?;
        self.flow.saw(&entries, [share; 2]);
        Ok(Some(entries))
    }

    /// Whether to look for a suspect: there may be one, and none is in hand.
    fn wants_suspect(&mut self) -> bool {
        let hint = self.leases.suspect_wanted().notified();
        self.look_for_suspect |= hint.now_or_never().is_some();
        self.look_for_suspect && !self.leases.holds_suspect()
    }

    fn lanes_with(&self, shares: [usize; 2]) -> [(&Key, usize); 2] {
        let lane = |nth: usize| (self.broker.keys.lane(Lane::READ[nth]), shares[nth]);
        [lane(0), lane(1)]
    }

    /// Sends a read of up to `room` jobs, if they flow; whoever has it must take it.
    fn send_ahead(&self, room: usize) -> Option<Ahead> {
        if !self.reads_ahead || room < 2 {
            return None;
        }
        let shares = self.flow.shares(room)?;
        let asked = Instant::now();
        let sent = self
            .reader
            .send_now(&self.lanes_with(shares), &self.consumer)?;
        Some(Ahead {
            sent,
            shares,
            asked,
        })
    }

    /// Waits for the answer, and sends the next read before these are taken in hand: so Redis has something to do meanwhile.
    async fn take_ahead(
        &mut self,
        ahead: Ahead,
    ) -> std::result::Result<Vec<RawEntry>, ReadFailure> {
        let came = self.reader.sent(ahead.sent).await?;
        let counts = came.counts();
        self.flow.counted(counts, ahead.shares);
        let gates = *self.gates.borrow();
        let goes_on = !gates.paused
            && !gates.limited
            && !*self.prioritised.borrow()
            && !self.stop.is_cancelled()
            && !self.wants_suspect();
        if goes_on {
            let coming = counts.iter().sum();
            let waiting = self.load.buffered.load(Ordering::Acquire) + coming;
            let room = self.load.room_beside(coming).min(self.gate.room(waiting));
            let room = room.min(config::BATCH_BYTES_MAX / self.payload_bytes);
            self.ahead = self.send_ahead(room.min(config::BATCH_JOBS_MAX));
        }
        Ok(came.entries())
    }

    /// The same for a queue whose jobs have priorities: the claim looks at the lanes in their order and counts over all of them. Only
    /// when it finds none a read waits for whatever comes first; as above, jobs that come into several lanes in the moment between
    /// the two may be more than there is room for, by three at most.
    async fn read_by_priority(
        &mut self,
        room: usize,
        block: Duration,
    ) -> std::result::Result<Option<Vec<RawEntry>>, ReadFailure> {
        let asked = Instant::now();
        let once = Patience::brief(Duration::ZERO);
        let claimed = self
            .broker
            .claim_by_priority(&self.consumer, self.turn, room, once)
            .await;
        self.count_turn(claimed.as_deref().unwrap_or_default());
        if self.take_claimed(claimed, asked).await? > 0 {
            return Ok(None);
        }
        let lanes = Lane::BY_PRIORITY;
        let share = (room / lanes.len()).max(1);
        let entries = self.read_waiting(&lanes, share, block).await?;
        self.turn += entries.len();
        Ok(Some(entries))
    }

    /// The same for a queue whose concurrency or rate is limited: nothing is delivered but by the claim, and whoever finds nothing
    /// waits for an entry that he then claims like everybody else.
    async fn read_limited(
        &mut self,
        room: usize,
        block: Duration,
    ) -> std::result::Result<Option<Vec<RawEntry>>, ReadFailure> {
        let asked = Instant::now();
        let once = Patience::brief(Duration::ZERO);
        let claimed = self
            .broker
            .claim_limited(&self.consumer, self.turn, room, once)
            .await;
        let (claimed, in_the_way) = match claimed {
            Ok((claimed, in_the_way)) => (Ok(claimed), in_the_way),
            Err(error) => (Err(error), InTheWay::Running),
        };
        self.count_turn(claimed.as_deref().unwrap_or_default());
        if self.take_claimed(claimed, asked).await? > 0 {
            return Ok(None);
        }
        let wait = match in_the_way {
            InTheWay::Nothing(last) => {
                self.wait_for_entry(&last, block).await?;
                return Ok(Some(Vec::new()));
            }
            // What this worker has finished is running until that is confirmed.
            InTheWay::Running if self.load.unsettled.load(Ordering::Acquire) > 0 => CONFIRMED_SOON,
            InTheWay::Running => jittered(LOOK_AGAIN),
            InTheWay::Rate(wait) => wait.min(LOOK_AT_MOST),
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.load.eased.notified() => {}
            () = self.stop.cancelled() => {}
            _ = self.gates.changed() => {}
        }
        Ok(None)
    }

    /// Waits until there is an entry behind `last`, or for `block`, or until the worker stops or pauses.
    async fn wait_for_entry(
        &mut self,
        last: &[(Lane, String)],
        block: Duration,
    ) -> std::result::Result<(), ReadFailure> {
        let of = |lane: Lane| last.iter().find(|(of, _)| *of == lane);
        let behind = Lane::BY_PRIORITY.map(|lane| of(lane).map_or("$", |(_, id)| id).to_owned());
        let streams = self.broker.lane_keys(Lane::BY_PRIORITY);
        let wait = self.reader.wait_for_entry(&streams, &behind, block);
        tokio::pin!(wait);
        let interrupted = async {
            tokio::select! {
                () = self.stop.cancelled() => {}
                _ = self.gates.wait_for(|gates| gates.paused || !gates.limited) => {}
                () = self.gate.opened() => {}
                () = self.leases.suspect_wanted().notified() => self.look_for_suspect = true,
            }
        };
        tokio::select! {
            ended = &mut wait => return ended,
            () = interrupted => {}
        }
        // As below; nothing is delivered here, so a wait that does not hear of it is simply given up.
        for _ in 0..UNBLOCK_TRIES {
            self.reader.unblock(&self.broker.redis, streams[0]).await;
            if let Ok(ended) = tokio::time::timeout(UNBLOCK_AGAIN, &mut wait).await {
                return ended;
            }
        }
        self.reader.reconnect().await;
        Ok(())
    }

    /// A read that waits for the first job, and ends when the worker stops or pauses.
    async fn read_waiting<const N: usize>(
        &mut self,
        lanes: &[Lane; N],
        share: usize,
        block: Duration,
    ) -> std::result::Result<Vec<RawEntry>, ReadFailure> {
        let streams = self.broker.lane_keys(*lanes);
        let reads_all = lanes.len() == Lane::BY_PRIORITY.len();
        let of_all = |mut entries: Vec<RawEntry>| {
            for entry in &mut entries {
                entry.stream = lanes[entry.stream].index();
            }
            entries
        };
        let read = self.reader.read(&streams, &self.consumer, share, block);
        tokio::pin!(read);
        // The read is never dropped: what it brings after it was told to end is ours.
        let interrupted = async {
            tokio::select! {
                () = self.stop.cancelled() => {}
                _ = self.gates.wait_for(|gates| gates.paused || gates.limited) => {}
                () = self.gate.opened() => {}
                () = self.leases.suspect_wanted().notified() => self.look_for_suspect = true,
                _ = self.prioritised.wait_for(|prioritised| *prioritised && !reads_all) => {}
            }
        };
        tokio::select! {
            entries = &mut read => return entries.map(of_all),
            () = interrupted => {}
        }
        // The order may overtake a read that is still on its way, and then ends nothing; and a client that has just
        // reconnected may not know whom to wake. So it is said until it is heard, and in the end the connection is cut:
        // what was on its way through it is found again among the own deliveries.
        for _ in 0..UNBLOCK_TRIES {
            self.reader.unblock(&self.broker.redis, streams[0]).await;
            tokio::select! {
                entries = &mut read => return entries.map(of_all),
                () = tokio::time::sleep(UNBLOCK_AGAIN) => {}
            }
        }
        tokio::select! {
            entries = &mut read => entries.map(of_all),
            () = self.reader.reconnect() => read.await.map(of_all),
        }
    }

    /// Takes what a claim brought; returns how many.
    async fn take_claimed(
        &self,
        claimed: Result<impl IntoIterator<Item = Delivery>>,
        asked: Instant,
    ) -> std::result::Result<usize, ReadFailure> {
        let claimed = claimed.map_err(|error| match is_no_group(&error) {
            true => ReadFailure::NoGroup,
            false => ReadFailure::Lost(error.to_string()),
        })?;
        Ok(self.take_all(claimed, asked).await)
    }

    /// Takes deliveries that were asked for at `asked`; returns how many.
    async fn take_all(
        &self,
        deliveries: impl IntoIterator<Item = Delivery>,
        asked: Instant,
    ) -> usize {
        let mut deliveries: Vec<Delivery> = deliveries.into_iter().collect();
        if asked.elapsed() > self.lease / 2 {
            self.keep_live(&mut deliveries).await;
        }
        let count = deliveries.len();
        // From here on the jobs are in our hands: their leases are renewed, and a stop hands them back.
        let now = Instant::now();
        let since = if self.strict { asked } else { now };
        let grips = self
            .leases
            .hold_all(deliveries.iter().map(Delivery::place), since, now);
        self.load.buffered.fetch_add(count, Ordering::AcqRel);
        let work = deliveries
            .into_iter()
            .zip(grips)
            .map(|(delivery, grip)| Work {
                delivery: Arc::new(delivery),
                grip,
            });
        self.feed.push(work);
        (self.staff)();
        count
    }

    /// An answer that was long in coming may have lain there unread, because this process or its machine was frozen: what
    /// it brought may be running elsewhere by now, so it is renewed before any of it starts.
    async fn keep_live(&self, deliveries: &mut Vec<Delivery>) {
        for lane in Lane::ALL {
            let of_lane = deliveries.iter().filter(|delivery| delivery.lane == lane);
            let entries: Vec<EntryId> = of_lane.map(|delivery| delivery.entry).collect();
            if entries.is_empty() {
                continue;
            }
            let patience = Patience::brief(self.lease / 6);
            match self
                .broker
                .extend(lane, &self.consumer, &entries, patience)
                .await
            {
                Ok(lost) => {
                    let is_lost = |delivery: &Delivery| {
                        delivery.lane == lane && lost.contains(&delivery.entry)
                    };
                    deliveries.retain(|delivery| !is_lost(delivery));
                    if !lost.is_empty() {
                        tracing::warn!(queue = %self.broker.queue, jobs = lost.len(), "read too late: the jobs were reclaimed or cancelled");
                    }
                }
                // As for those that run already, the next renewal decides.
                Err(error) => {
                    tracing::warn!(queue = %self.broker.queue, %error, "cannot tell whether what was read late is still ours");
                }
            }
        }
    }

    /// After a failure: makes missing groups, and a new connection when the own list could not be read on the old one.
    async fn heal(&mut self, failure: &ReadFailure, unseen: bool) {
        match failure {
            ReadFailure::NoGroup => {
                if let Err(error) = self
                    .broker
                    .create_groups(Patience::brief(Duration::from_secs(2)))
                    .await
                {
                    // The reason once; that it goes on is told by every read that fails.
                    if unseen {
                        tracing::debug!(queue = %self.broker.queue, %error, "still cannot create the consumer group");
                    } else {
                        tracing::warn!(queue = %self.broker.queue, %error, "cannot create the consumer group");
                    }
                }
            }
            ReadFailure::Lost(_) if unseen => self.reader.reconnect().await,
            ReadFailure::Lost(_) => {}
        }
    }

    /// What was delivered to this consumer and never seen, because the connection broke on the way; in pages of so many.
    async fn read_unseen(&self, page: usize) -> std::result::Result<Vec<RawEntry>, ReadFailure> {
        // What is known before Redis answers is ours already, even if it is settled by the time the answer is read.
        let known: HashSet<Place> = self.leases.places().into_iter().collect();
        let mut unseen = Vec::new();
        for lane in Lane::ALL {
            let mut after = "0".to_owned();
            loop {
                let page = self
                    .reader
                    .read_own(self.broker.keys.lane(lane), &self.consumer, page, &after)
                    .await?;
                let Some(last) = page.last() else { break };
                after = last.id.to_string();
                unseen.extend(page.into_iter().filter_map(|mut raw| {
                    raw.stream = lane.index();
                    let place = (lane, raw.id.parse().ok()?);
                    (!known.contains(&place) && !self.leases.holds(place)).then_some(raw)
                }));
            }
        }
        Ok(unseen)
    }
}
