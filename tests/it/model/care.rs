//! What upkeep does, in the reference.

use millstream::broker::Lane;
use millstream::job::state::{State, Transition};
use millstream::{JobId, Priority};
use serde_json::Value as Json;

use super::operation::{Age, Order, PLAIN};
use super::reference::{Job, Model, Moment, Place, Reply};
use super::translate;
use super::turns::IN_LINE;

/// When somebody last swept, if nobody has for long.
pub(super) const LONG_AGO: Moment = Moment::at(1);

impl Model {
    pub(super) fn leads(&mut self, worker: &str) -> bool {
        let leader = self.upkeeper.get_or_insert_with(|| worker.to_owned());
        leader == worker
    }

    pub(super) fn sweep(&mut self, worker: &str) -> Reply {
        let silent = self.swept.is_none_or(|at| at == LONG_AGO);
        self.swept = Some(Moment::later(self.now_ms, 0));
        if silent {
            self.grace = Some(Moment::later(self.now_ms, translate::GRACE_MS));
        }
        if !self.leads(worker) {
            return Reply::Standby;
        }
        let (mut reclaimed, mut dead, mut unlock) = (0, 0, Vec::new());
        let mut left = Vec::new();
        for lane in Lane::ALL {
            if self.grace.is_some() {
                continue;
            }
            let lapsed = |place: &&Place| place.lapsed;
            let lapsed = self.lane(lane).iter().filter(lapsed);
            let lapsed: Vec<_> = lapsed.filter_map(|place| place.delivery).collect();
            for delivery in lapsed {
                let job = self.take(delivery).expect("it was there");
                if !self.stall(job, &mut left) {
                    reclaimed += 1;
                    continue;
                }
                dead += 1;
                let job = &self.jobs[job];
                unlock.extend(job.unique.clone().map(|key| (key, job.id.clone())));
            }
        }
        self.admit_next(&left);
        Reply::Swept(reclaimed, dead, unlock)
    }

    /// Releases the keys of jobs that a sweep buried.
    pub(super) fn release_keys(&mut self, keys: &[(String, JobId)]) {
        for (key, id) in keys {
            let job = self.jobs.iter().position(|job| job.id == *id);
            self.unlock(Some(key), job.expect("a job that died"));
        }
    }

    /// Whether a job is due so soon that it depends on the moment of the next step.
    pub(super) fn is_about_due(&self) -> bool {
        let about_now = self.now_ms - 1..=self.now_ms + 1;
        let is_about =
            |job: &Job| job.state == Some(State::Scheduled) && about_now.contains(&job.since.ms);
        self.jobs.iter().any(is_about)
    }

    pub(super) fn promote(&mut self, worker: &str, limit: usize) -> Reply {
        if !self.leads(worker) {
            return Reply::Standby;
        }
        let scheduled = |(_, job): &(usize, &Job)| job.state == Some(State::Scheduled);
        let due = self.jobs.iter().enumerate().filter(scheduled);
        // What is out of time is due by the next step at the latest.
        let is_due = |(at, job): &(usize, &Job)| {
            let ends_sooner = !job.at_window_end && self.out_of_time(*at).is_some();
            job.since.ms <= self.now_ms + 1 || ends_sooner
        };
        let due = due.filter(is_due);
        let mut due: Vec<_> = due
            .map(|(number, job)| (job.since.ms, job.id.clone(), number))
            .collect();
        due.sort_unstable();
        due.truncate(limit);
        let (mut promoted, mut unlock, mut left) = (0, Vec::new(), Vec::new());
        for (_, id, job) in &due {
            let job = *job;
            if let Some(reason) = self.out_of_time(job) {
                self.bury(job, Transition::Promote, "expired", reason);
                self.vacate(job, &mut left);
                unlock.extend(self.jobs[job].unique.clone().map(|key| (key, id.clone())));
                continue;
            }
            self.place_in_turn(job, Transition::Promote, Lane::Ready, IN_LINE);
            promoted += 1;
        }
        left.append(&mut self.left);
        self.admit_next(&left);
        let mut jobs = self.jobs.iter();
        let next = match jobs.any(|job| job.state == Some(State::Scheduled)) {
            _ if due.len() == limit => "now",
            true => "later",
            false => "never",
        };
        Reply::Promoted(promoted, next, unlock)
    }

    pub(super) fn prune(&mut self, [history, dead, callers]: [Age; 3]) -> Reply {
        let (mut gone, mut buried) = ([0; 3], Vec::new());
        if history == Age::All {
            if !self.history.is_empty() {
                self.walk((Some(State::Completed), Transition::Prune, None));
            }
            gone[0] = std::mem::take(&mut self.history).len();
        }
        if dead == Age::All {
            let jobs = self.jobs.iter().enumerate();
            let jobs = jobs.filter(|(_, job)| job.state == Some(State::Dead));
            buried.extend(jobs.map(|(job, _)| job));
            gone[1] = buried.len();
        }
        for job in buried {
            self.go(job, Transition::Prune, None);
            self.pruned += 1;
        }
        if callers == Age::All {
            gone[2] = std::mem::take(&mut self.callers).len();
        }
        Reply::Counts(gone.map(|count| count as u64).to_vec())
    }

    /// A slot is fired. `id`: what Redis calls the new job, and `meta` what it stores beside it, of which the times are taken over.
    pub(super) fn fire(&mut self, schedule: u8, id: Option<String>, meta: Option<Json>) -> Reply {
        let (overlaps, group, priority) = translate::schedule_kind(schedule);
        let name = translate::schedule_id(schedule);
        if let Some((last, told)) = self.fired.get(&schedule).copied()
            && !overlaps
            && self.jobs[last]
                .state
                .is_some_and(|state| state != State::Dead)
        {
            // Once, and not again while the same job goes on.
            if !told {
                let last = self.jobs[last].id.to_string();
                self.tell(
                    "skipped",
                    &last,
                    format!("{name}: its last job is unfinished"),
                );
            }
            self.fired.insert(schedule, (last, true));
            return Reply::Counts(vec![0]);
        }
        let order = Order {
            group,
            priority,
            ..PLAIN
        };
        let number = self.jobs.len();
        let mut job = self.job(&order, id.unwrap_or_default().as_str().into());
        "tick".clone_into(&mut job.name);
        job.payload = translate::payload(schedule);
        let headers = meta.map(|meta| meta["headers"].clone()).unwrap_or_default();
        job.meta["headers"] = headers;
        self.jobs.push(job);
        self.place_in_turn(number, Transition::CronFire, Lane::Ready, IN_LINE);
        self.jobs[number].left =
            priority != Priority::Normal || self.jobs[number].state == Some(State::Held);
        self.count("enqueued", 1);
        let id = self.jobs[number].id.to_string();
        self.tell("fired", &id, name);
        self.fired.insert(schedule, (number, false));
        Reply::Counts(vec![1])
    }
}
