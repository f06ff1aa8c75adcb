//! What workers read and renew, in the reference. None of it is numbered: a delivery that nobody saw is still in the
//! worker's own list.

use millstream::broker::{EntryId, Lane};
use millstream::job::state::{State, Transition};

use super::reference::{Given, Held, Model, Reply};

impl Model {
    /// Gives the worker `limit` jobs of `lane`; `entries`: what Redis calls their entries.
    pub(super) fn deliver(
        &mut self,
        lane: Lane,
        worker: &str,
        limit: usize,
        entries: &mut impl Iterator<Item = EntryId>,
    ) -> Vec<Given> {
        let mut given = Vec::new();
        for at in 0..self.lane(lane).len() {
            let place = &self.lane(lane)[at];
            if given.len() == limit || place.delivery.is_some() {
                continue;
            }
            let (job, delivery) = (place.job, self.deliveries.len());
            self.lane(lane)[at].delivery = Some(delivery);
            self.go(job, Transition::Claim, Some(State::Running));
            self.deliveries.push(Held {
                job,
                lane,
                entry: entries.next().unwrap_or(EntryId { ms: 0, seq: 0 }),
                worker: worker.to_owned(),
                unique: self.jobs[job].unique.clone(),
                slot: self.jobs[job].slot,
            });
            given.push(self.given(delivery));
        }
        given
    }

    pub(super) fn given(&self, delivery: usize) -> Given {
        let held = &self.deliveries[delivery];
        let job = &self.jobs[held.job];
        Given {
            job: job.id.clone(),
            lane: held.lane,
            worker: held.worker.clone(),
            name: job.name.clone(),
            payload: job.payload.clone(),
            attempt: job.attempt,
            unique: held.unique.clone(),
        }
    }

    /// How many of `limit` jobs may start beside those that run.
    fn allowed(&self, limit: usize) -> usize {
        let running = self.lanes.values().flatten();
        let running = running.filter(|place| place.delivery.is_some()).count();
        let concurrency = self.concurrency.unwrap_or(usize::MAX);
        limit.min(concurrency.saturating_sub(running))
    }

    /// Whether a claim of so many looks into the bucket of the queue. Never more is missing there than it holds.
    fn looks(&mut self, most: usize) -> bool {
        let looks = !self.paused && most > 0;
        if let Some(burst) = self.queue_burst.filter(|_| looks) {
            self.queue_missing = self.queue_missing.min(burst);
        }
        looks
    }

    /// The same as `deliver`, as far as the queue has tokens; those that come back to the lanes by themselves take none.
    fn start(
        &mut self,
        lane: Lane,
        worker: &str,
        limit: usize,
        entries: &mut impl Iterator<Item = EntryId>,
    ) -> Vec<Given> {
        let is_free = matches!(lane, Lane::Next | Lane::Suspect);
        let Some(burst) = self.queue_burst.filter(|_| !is_free) else {
            return self.deliver(lane, worker, limit, entries);
        };
        let tokens = (burst - self.queue_missing) as usize;
        let given = self.deliver(lane, worker, limit.min(tokens), entries);
        self.queue_missing += given.len() as u32;
        given
    }

    pub(super) fn claim(&mut self, worker: &str, limit: usize, entries: Vec<EntryId>) -> Reply {
        let (mut given, mut entries) = (Vec::new(), entries.into_iter());
        let most = self.allowed(limit);
        let looks = self.looks(most);
        for lane in Lane::READ {
            if looks {
                let rest = most - given.len();
                given.extend(self.start(lane, worker, rest, &mut entries));
            }
        }
        Reply::Given(given)
    }

    /// Over the lanes of all priorities, by a worker that has taken `turn` jobs: of ten, the fifth is a normal and the tenth a low
    /// one, if there are any.
    pub(super) fn claim_by_priority(
        &mut self,
        worker: &str,
        turn: usize,
        limit: usize,
        entries: Vec<EntryId>,
    ) -> Reply {
        let (mut given, mut entries) = (Vec::new(), entries.into_iter());
        let most = self.allowed(limit);
        let looks = self.looks(most);
        let places = |place| (turn + 1..=turn + limit).filter(move |at| at % 10 == place);
        for (lane, share) in [
            (Lane::Next, limit),
            (Lane::Low, places(0).count()),
            (Lane::Ready, places(5).count()),
            (Lane::High, limit),
            (Lane::Ready, limit),
            (Lane::Low, limit),
        ] {
            if looks {
                let rest = share.min(most - given.len());
                given.extend(self.start(lane, worker, rest, &mut entries));
            }
        }
        Reply::Given(given)
    }

    /// One job of those that have stalled before.
    pub(super) fn claim_suspect(&mut self, worker: &str, entries: Vec<EntryId>) -> Reply {
        let most = self.allowed(1);
        let limit = if self.looks(most) { most } else { 0 };
        let given = self.deliver(Lane::Suspect, worker, limit, &mut entries.into_iter());
        Reply::Given(given)
    }

    /// The plain path, which counts per lane and leaves the pause to the worker; and then all that the worker holds.
    pub(super) fn read(&mut self, worker: &str, limit: usize, entries: Vec<EntryId>) -> Reply {
        let mut entries = entries.into_iter();
        for lane in Lane::READ {
            self.deliver(lane, worker, limit, &mut entries);
        }
        self.own(worker)
    }

    /// What the worker holds. Asking renews.
    pub(super) fn own(&mut self, worker: &str) -> Reply {
        let mut held = Vec::new();
        for lane in Lane::ALL {
            for at in 0..self.lane(lane).len() {
                let delivery = self.lane(lane)[at].delivery;
                let Some(delivery) = delivery.filter(|at| self.deliveries[*at].worker == worker)
                else {
                    continue;
                };
                self.lane(lane)[at].lapsed = false;
                held.push(self.given(delivery));
            }
        }
        Reply::Given(held)
    }

    pub(super) fn extend(&mut self, deliveries: &[usize]) -> Reply {
        let mut lost = Vec::new();
        for &delivery in deliveries {
            let Some(place) = self.place_of(delivery) else {
                lost.push(self.deliveries[delivery].entry);
                continue;
            };
            place.lapsed = false;
            let job = place.job;
            self.go(job, Transition::Extend, Some(State::Running));
        }
        Reply::Lost(lost)
    }

    /// A handler tells how far it is; of a quarter more, people are told.
    pub(super) fn note(&mut self, delivery: usize, quarters: u8) -> Reply {
        if !self.is_live(delivery) {
            return Reply::LeaseLost;
        }
        let job = self.deliveries[delivery].job;
        let before = self.progress.insert(job, (delivery, quarters));
        let before = before
            .filter(|(by, _)| *by == delivery)
            .map_or(0, |(_, quarters)| quarters);
        if quarters > before {
            let id = self.jobs[job].id.to_string();
            self.tell("progress", &id, format!("{}%", 25 * u32::from(quarters)));
        }
        Reply::Done
    }
}
