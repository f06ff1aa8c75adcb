//! What happens to a queue without a call: time passes, workers die. Done to Redis by hand, so that no walk has to wait.

use millstream::job::state::State;

use super::care::LONG_AGO;
use super::operation::{Operation, Which};
use super::reference::{Moment, lane_name};
use super::run::{World, worker};
use super::translate;

/// Longer than any lease.
const SILENT_MS: &str = "7200000";

impl World<'_> {
    pub(super) fn happen(&mut self, operation: &Operation) {
        match operation {
            Operation::Lapse(pick) => {
                if let Some(delivery) = self.delivery(*pick) {
                    self.lapse(delivery);
                }
            }
            Operation::Crash(by) => {
                let worker = worker(*by);
                for delivery in self.live() {
                    if self.model.deliveries[delivery].worker == worker {
                        self.lapse(delivery);
                    }
                }
            }
            Operation::MakeDue(nth) => {
                if let Some(job) = self.job(Which::In(State::Scheduled, *nth)) {
                    self.due += 1;
                    let (key, due) = (self.t.key("scheduled"), self.due.to_string());
                    self.t
                        .redis(&["ZADD", &key, "XX", &due, self.id(Some(job)).as_str()]);
                    self.model.jobs[job].since = Moment::at(self.due);
                }
            }
            Operation::LoseLock => {
                self.t.redis(&["DEL", &self.t.key("upkeep")]);
                self.model.upkeeper = None;
            }
            Operation::Silence(ever) => {
                let stats = self.t.key("stats");
                self.model.swept = (!ever).then_some(LONG_AGO);
                match self.model.swept {
                    Some(at) => {
                        let ms = at.ms.to_string();
                        self.t.redis(&["HSET", &stats, "swept_ms", &ms])
                    }
                    None => self.t.redis(&["HDEL", &stats, "swept_ms"]),
                };
            }
            Operation::EndGrace => {
                self.t
                    .redis(&["HDEL", &self.t.key("stats"), "grace_until_ms"]);
                self.model.grace = None;
            }
            Operation::EndWindow(number) => {
                let key = translate::key(*number);
                self.t
                    .redis(&["DEL", &self.t.key(&format!("unique:{key}"))]);
                self.model.uniques.remove(&key);
            }
            call => unreachable!("{call:?} is done by a call"),
        }
    }

    fn lapse(&mut self, delivery: usize) {
        let Some(place) = self.model.place_of(delivery) else {
            return;
        };
        place.lapsed = true;
        let held = &self.model.deliveries[delivery];
        let (lane, entry) = (self.t.key(lane_name(held.lane)), held.entry.to_string());
        self.t.redis(&[
            "XCLAIM",
            &lane,
            "workers",
            &held.worker,
            "0",
            &entry,
            "IDLE",
            SILENT_MS,
            "JUSTID",
        ]);
    }
}
