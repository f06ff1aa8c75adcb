//! The reference: what every transition means, in plain memory. It is told the names that Redis gives to new jobs and
//! entries and works out all the rest by itself.
//!
//! Here are the things it keeps and what happens to one job. What calls do with them is in [`super::calls`], what workers
//! read in [`super::reads`], what upkeep does in [`super::care`], and how all of it looks from outside in [`super::view`].

use std::collections::{BTreeMap, BTreeSet};

use millstream::broker::{EntryId, Lane};
use millstream::job::state::{State, TRANSITIONS, Transition};
use millstream::{JobId, Priority};
use serde_json::Value as Json;

use super::operation::Wait;

/// A row of [`TRANSITIONS`].
pub(super) type Arrow = (Option<State>, Transition, Option<State>);

/// At this number of stalls a job is dead.
const STALLS_MAX: u64 = 3;
/// From this number on it waits on a lane of its own.
const SUSPECT_STALLS: u64 = 2;
/// A record keeps this many errors, the newest.
const ERRORS_KEPT: usize = 10;

/// A moment between two looks at Redis's clock, or, once it was read somewhere, the very millisecond.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Moment {
    pub(super) ms: i64,
    /// The wait that is included, as long as the moment is not known.
    after: Option<i64>,
}

impl Moment {
    pub(super) const fn at(ms: i64) -> Self {
        Self { ms, after: None }
    }

    /// `wait` after a call that was made between `since` and the next look.
    pub(super) fn later(since: i64, wait: i64) -> Self {
        Self {
            ms: since + wait,
            after: Some(wait),
        }
    }

    /// Takes over what was read, if it can be right.
    pub(super) fn learn(&mut self, read: Option<i64>, now_ms: i64) {
        if let (Some(wait), Some(read)) = (self.after, read)
            // Waits are rounded up to the next millisecond.
            && (self.ms..=now_ms + wait + 1).contains(&read)
        {
            *self = Self::at(read);
        }
    }

    /// The same for a moment that is kept to the second.
    pub(super) fn learn_second(&mut self, read: Option<i64>, now_ms: i64) {
        let since = self.ms / 1000;
        if let (Some(_), Some(read)) = (self.after, read)
            && (since..=now_ms / 1000).contains(&read)
        {
            *self = Self::at(read * 1000);
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) id: JobId,
    /// `None` when it is gone for good.
    pub(super) state: Option<State>,
    pub(super) name: String,
    pub(super) payload: Vec<u8>,
    pub(super) attempt: u32,
    pub(super) stalls: u64,
    pub(super) unique: Option<String>,
    pub(super) expires: Option<(Wait, Moment)>,
    pub(super) deadline: Option<(Wait, Moment)>,
    pub(super) group: Option<String>,
    pub(super) priority: Priority,
    /// It counts among those of its group that are ready or running.
    pub(super) slot: bool,
    /// Its place among the held.
    pub(super) turn: String,
    /// The rest of its meta, which no transition touches.
    pub(super) meta: Json,
    /// It has a record and carries its id: it has been off the streams, or on another lane.
    pub(super) left: bool,
    pub(super) errors: Vec<(Moment, u32, String)>,
    pub(super) reason: Option<&'static str>,
    /// Due, or died at.
    pub(super) since: Moment,
    /// It is scheduled for the end of a window, and waits for that even if it is out of time before.
    pub(super) at_window_end: bool,
}

/// An entry of a lane.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) job: usize,
    /// The delivery, once it is delivered.
    pub(super) delivery: Option<usize>,
    /// Nobody has renewed its lease for longer than it lasts.
    pub(super) lapsed: bool,
}

/// A delivery, as its worker remembers it for ever.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) job: usize,
    pub(super) lane: Lane,
    pub(super) entry: EntryId,
    pub(super) worker: String,
    /// The unique key that it carried.
    pub(super) unique: Option<String>,
    /// Whether it had a slot of its group.
    pub(super) slot: bool,
}

/// What a call was answered, as far as both sides know it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    Done,
    Old,
    /// How many unfinished jobs there are.
    Full(u64),
    /// The group, its held jobs, how many more there was room for.
    GroupFull(String, u64, u64),
    NotFound,
    WrongState(String),
    LeaseLost,
    NotYet,
    Standby,
    /// Each job, or the one that holds the unique key.
    Jobs(Vec<(JobId, Stored)>),
    /// Deliveries that were not live.
    Lost(Vec<EntryId>),
    Was(State),
    Counts(Vec<u64>),
    /// Reclaimed, dead, and the unique keys to be released.
    Swept(u64, u64, Vec<(String, JobId)>),
    /// How many, whether more is due (now, later, never), and the unique keys to be released.
    Promoted(u64, &'static str, Vec<(String, JobId)>),
    Given(Vec<Given>),
    /// How many, and the unique keys to be released.
    Purged(u64, Vec<(String, JobId)>),
}

/// What became of a job that was enqueued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    New,
    /// Another holds its key.
    Duplicate,
    /// Another holds its key, and has become what this one is.
    Replaced,
}

/// A delivery as its worker gets it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Given {
    pub(super) job: JobId,
    pub(super) lane: Lane,
    pub(super) worker: String,
    pub(super) name: String,
    pub(super) payload: Vec<u8>,
    pub(super) attempt: u32,
    pub(super) unique: Option<String>,
}

/// The text that Redis keeps for a caller that asks again.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Text(String),
    /// The job's moment, which is not known yet.
    Moment(usize),
}

#[derive(Clone, Debug)]
pub(super) struct LastCall {
    pub(super) number: i64,
    pub(super) at: Moment,
    pub(super) reply: Reply,
    pub(super) answer: Answer,
}

#[derive(Default)]
pub(super) struct Model {
    /// All that ever were.
    pub(super) jobs: Vec<Job>,
    /// All that ever were.
    pub(super) deliveries: Vec<Held>,
    pub(super) lanes: BTreeMap<usize, Vec<Place>>,
    /// Key -> the job that holds it, and until when.
    pub(super) uniques: BTreeMap<String, (usize, Moment)>,
    pub(super) history: Vec<[String; 3]>,
    pub(super) counters: BTreeMap<&'static str, i64>,
    pub(super) events: Vec<[String; 3]>,
    pub(super) callers: BTreeMap<String, LastCall>,
    pub(super) paused: bool,
    /// Most jobs of a group at once; of all groups for `None`.
    pub(super) limits: BTreeMap<Option<String>, usize>,
    /// A job that is to be tried again keeps its slot.
    pub(super) blocks: bool,
    pub(super) max_depth: Option<u64>,
    /// Most jobs that run.
    pub(super) concurrency: Option<usize>,
    /// Most held jobs of a group; of all groups for `None`.
    pub(super) backlogs: BTreeMap<Option<String>, u64>,
    /// What the bucket of a group holds that fills up too slowly for any walk; of all groups for `None`.
    pub(super) bursts: BTreeMap<Option<String>, u32>,
    /// Tokens that are missing in a bucket.
    pub(super) missing: BTreeMap<String, u32>,
    /// The same for the queue, and what is missing there.
    pub(super) queue_burst: Option<u32>,
    pub(super) queue_missing: u32,
    /// Job -> the delivery that told how far it is, and the quarters.
    pub(super) progress: BTreeMap<usize, (usize, u8)>,
    /// The last job of each schedule, and whether people were told that it is in the way.
    pub(super) fired: BTreeMap<u8, (usize, bool)>,
    pub(super) paused_groups: BTreeSet<String>,
    /// Limits were changed, and nobody has looked since who may go now.
    pub(super) unfilled: bool,
    /// Groups of jobs that gave up their slots because they may not go on.
    pub(super) left: Vec<String>,
    pub(super) upkeeper: Option<String>,
    /// When somebody last asked to sweep.
    pub(super) swept: Option<Moment>,
    /// Until then the living have time to renew, even if that moment has not come: a walk ends it by hand.
    pub(super) grace: Option<Moment>,
    pub(super) pruned: i64,
    /// Redis's clock when it was last looked at.
    pub(super) now_ms: i64,
    /// The rows of [`TRANSITIONS`] that were taken.
    pub(super) walked: BTreeSet<usize>,
}

impl Model {
    pub(super) fn lane(&mut self, lane: Lane) -> &mut Vec<Place> {
        self.lanes.entry(lane_number(lane)).or_default()
    }

    pub(super) fn count(&mut self, counter: &'static str, by: usize) {
        *self.counters.entry(counter).or_default() += by as i64;
    }

    pub(super) fn tell(&mut self, kind: &str, job: &str, detail: String) {
        let event = [kind.to_owned(), job.to_owned(), detail];
        self.events.push(event);
    }

    /// Puts the job into another state. There must be an arrow for it.
    pub(super) fn go(&mut self, job: usize, by: Transition, to: Option<State>) {
        let from = self.jobs[job].state;
        self.walk((from, by, to));
        let finished = [Some(State::Completed), Some(State::Cancelled)];
        self.jobs[job].state = to.filter(|_| !finished.contains(&to));
        if self.jobs[job].state.is_none() {
            self.progress.remove(&job);
        }
    }

    pub(super) fn walk(&mut self, arrow: Arrow) {
        let row = TRANSITIONS.iter().position(|row| *row == arrow);
        self.walked
            .insert(row.unwrap_or_else(|| panic!("there is no arrow {arrow:?}")));
    }

    /// Where a live delivery's entry stands.
    fn position(&self, delivery: usize) -> Option<(usize, usize)> {
        let lanes = self.lanes.iter();
        lanes.clone().find_map(|(lane, places)| {
            let mut places = places.iter();
            let at = places.position(|place| place.delivery == Some(delivery))?;
            Some((*lane, at))
        })
    }

    pub(super) fn is_live(&self, delivery: usize) -> bool {
        self.position(delivery).is_some()
    }

    pub(super) fn place_of(&mut self, delivery: usize) -> Option<&mut Place> {
        let (lane, at) = self.position(delivery)?;
        self.lanes.get_mut(&lane)?.get_mut(at)
    }

    /// Ends a live delivery.
    pub(super) fn take(&mut self, delivery: usize) -> Option<usize> {
        let (lane, at) = self.position(delivery)?;
        Some(self.lanes.get_mut(&lane)?.remove(at).job)
    }

    /// On the usual lane each job goes to that of its priority.
    pub(super) fn place(&mut self, job: usize, lane: Lane) {
        self.jobs[job].left = true;
        let is_suspect = self.jobs[job].stalls >= SUSPECT_STALLS;
        let lane = match (lane, self.jobs[job].priority) {
            _ if is_suspect => Lane::Suspect,
            (Lane::Ready, Priority::High) => Lane::High,
            (Lane::Ready, Priority::Low) => Lane::Low,
            _ => lane,
        };
        self.lane(lane).push(Place {
            job,
            delivery: None,
            lapsed: false,
        });
    }

    pub(super) fn holder(&self, key: &str) -> Option<usize> {
        self.uniques.get(key).map(|(job, _)| *job)
    }

    pub(super) fn unlock(&mut self, key: Option<&String>, job: usize) {
        if let Some(key) = key.filter(|key| self.holder(key) == Some(job)) {
            self.uniques.remove(key);
        }
    }

    pub(super) fn add_error(&mut self, job: usize, message: &str) {
        let at = Moment::later(self.now_ms, 0);
        let job = &mut self.jobs[job];
        job.errors.push((at, job.attempt, message.to_owned()));
        if job.errors.len() > ERRORS_KEPT {
            job.errors.remove(0);
        }
    }

    /// What passed before the next step, if the job is out of time.
    pub(super) fn out_of_time(&self, job: usize) -> Option<&'static str> {
        let passed = |time: Option<(Wait, Moment)>| matches!(time, Some((Wait::Short, _)));
        let job = &self.jobs[job];
        if passed(job.deadline) {
            return Some("its deadline has passed");
        }
        passed(job.expires).then_some("it waited longer than its `expires` allows")
    }

    /// How long the job has until it is out of time, ms.
    pub(super) fn time_left(&self, job: usize) -> i64 {
        if self.out_of_time(job).is_some() {
            return 0;
        }
        let job = &self.jobs[job];
        let ends = [job.expires, job.deadline].into_iter().flatten();
        let ends = ends.map(|(_, at)| at.ms - self.now_ms).min();
        ends.unwrap_or(i64::MAX)
    }

    /// The job is given up.
    pub(super) fn bury(&mut self, job: usize, by: Transition, reason: &'static str, error: &str) {
        self.add_error(job, error);
        self.go(job, by, Some(State::Dead));
        self.count("dead", 1);
        let since = Moment::later(self.now_ms, 0);
        let job = &mut self.jobs[job];
        (job.left, job.since, job.reason) = (true, since, Some(reason));
        let id = job.id.to_string();
        self.tell("dead", &id, reason.to_owned());
    }

    /// Takes the job from a worker that went silent; `true` when it went silent once too often.
    pub(super) fn stall(&mut self, job: usize, left: &mut Vec<String>) -> bool {
        self.count("stalled", 1);
        self.jobs[job].stalls += 1;
        let stalls = self.jobs[job].stalls;
        if stalls >= STALLS_MAX {
            let error = format!("its worker went silent {stalls} times");
            self.bury(job, Transition::Reclaim, "crash_loop", &error);
            self.vacate(job, left);
            return true;
        }
        self.go(job, Transition::Reclaim, Some(State::Ready));
        self.place(job, Lane::Next);
        let id = self.jobs[job].id.to_string();
        self.tell("stalled", &id, format!("stall {stalls}"));
        false
    }

    /// The keys that may be held by a job which does not claim them, or claimed by one that does not hold them.
    pub(super) fn unclaimed(&self) -> BTreeSet<String> {
        let held = self.uniques.keys();
        let claimed = self.jobs.iter().filter_map(|job| job.unique.as_ref());
        let claims = |key: &String| {
            let claiming = |(_, job): &(usize, &Job)| {
                job.unique.as_ref() == Some(key) && job.state.is_some_and(|at| at != State::Dead)
            };
            let mut claiming = self.jobs.iter().enumerate().filter(claiming);
            (claiming.next().map(|(job, _)| job), claiming.next())
        };
        let odd = |key: &&String| match claims(key) {
            (Some(job), None) => self.holder(key) != Some(job),
            (None, _) => self.uniques.contains_key(*key),
            (Some(_), Some(_)) => true,
        };
        held.chain(claimed).filter(odd).cloned().collect()
    }
}

pub(super) fn lane_number(lane: Lane) -> usize {
    let number = Lane::ALL.iter().position(|of_all| *of_all == lane);
    number.expect("one of all lanes")
}

pub(super) fn lane_name(lane: Lane) -> &'static str {
    match lane {
        Lane::Next => "ready:next",
        Lane::Ready => "ready",
        Lane::Suspect => "ready:suspect",
        Lane::High => "ready:high",
        Lane::Low => "ready:low",
    }
}
