//! What must hold when a soak is over. Each rule reads the history and the remains, and says what offends it.

mod causes;
mod suspects;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use millstream::job::state::State;

use crate::history::{Answer, History, Job};
use crate::jobs::{Key, Kind, MAX_ATTEMPTS};

/// What is left in Redis at the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remains {
    /// What the scanner of all keys found wrong.
    pub(crate) faults: Vec<String>,
    pub(crate) homes: BTreeMap<String, State>,
    /// Of the dead jobs, by id.
    pub(crate) payloads: BTreeMap<String, Vec<u8>>,
    pub(crate) counters: BTreeMap<String, u64>,
    /// Of the lane that has most.
    pub(crate) consumers: usize,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offence {
    /// The rule, in one or two words.
    pub(crate) rule: &'static str,
    pub(crate) job: Option<String>,
    pub(crate) what: String,
}

/// Redis's clock is read in whole milliseconds, and its difference to ours once.
const CLOCKS_US: u64 = 20_000;

/// After a fault: 5 s, another fault of up to two leases on top, and what a loaded machine adds.
const WORKS_AGAIN: Duration = Duration::from_secs(5 + 6 + 5);

pub(crate) struct Check<'a> {
    pub(crate) history: &'a History,
    pub(crate) remains: &'a Remains,
    offences: Vec<Offence>,
}

/// Every rule.
pub(crate) fn offences(history: &History, remains: &Remains) -> Vec<Offence> {
    let mut check = Check {
        history,
        remains,
        offences: Vec::new(),
    };
    check.nothing_is_lost();
    check.one_call_makes_one_job();
    check.unique_keys_are_held_by_one();
    check.every_job_ends_once();
    check.jobs_end_as_their_keys_say();
    check.nothing_runs_early_or_when_called_off();
    check.deliveries_are_started_once();
    check.poison_is_found();
    check.suspects_run_alone();
    check.no_innocent_dies_beside_a_suspect();
    check.leases_are_lost_for_a_cause();
    check.nothing_stands_still();
    check.counters_agree();
    check.nothing_is_left();
    check.offences
}

impl Check<'_> {
    fn offend(&mut self, rule: &'static str, job: Option<&str>, what: impl Into<String>) {
        self.offences.push(Offence {
            rule,
            job: job.map(str::to_owned),
            what: what.into(),
        });
    }

    /// Every job that was acknowledged completed, is dead, or was cancelled.
    fn nothing_is_lost(&mut self) {
        for (key, enqueue) in &self.history.enqueues {
            if let Answer::Stored(id) = &enqueue.answer {
                let job = self.history.jobs.get(id);
                if !job.is_some_and(is_finished) {
                    self.offend("lost", Some(id), format!("{} was acknowledged", key.0));
                }
            }
        }
    }

    /// Every job comes from a call, and no call made two.
    fn one_call_makes_one_job(&mut self) {
        let mut ids: HashMap<&Key, &str> = HashMap::new();
        for (id, job) in &self.history.jobs {
            if job.garbled {
                self.offend("bytes", Some(id), "its payload is not what was enqueued");
            }
            let Some(key) = &job.key else {
                self.offend("unexpected", Some(id), "nobody knows what it is");
                continue;
            };
            if let Some(other) = ids.insert(key, id) {
                self.offend("doubled", Some(id), format!("{} is {other} as well", key.0));
            }
            match self
                .history
                .enqueues
                .get(key)
                .map(|enqueue| &enqueue.answer)
            {
                None => self.offend("unexpected", Some(id), format!("nobody enqueued {}", key.0)),
                Some(Answer::Refused) => {
                    self.offend("unexpected", Some(id), format!("{} was refused", key.0));
                }
                Some(Answer::Duplicate(holder)) => {
                    self.offend("unexpected", Some(id), format!("{} is {holder}", key.0));
                }
                Some(Answer::Stored(told)) if told != id => {
                    self.offend("unexpected", Some(id), format!("{} is {told}", key.0));
                }
                Some(Answer::Stored(_) | Answer::Unknown) => {}
            }
        }
        for (key, enqueue) in &self.history.enqueues {
            if let Answer::Duplicate(holder) = &enqueue.answer
                && !self.history.jobs.contains_key(holder)
            {
                self.offend(
                    "unexpected",
                    Some(holder),
                    format!("said to hold the key of {}", key.0),
                );
            }
        }
    }

    /// No second job with a unique key was stored while the first was certainly unfinished.
    fn unique_keys_are_held_by_one(&mut self) {
        let mut holders: BTreeMap<String, Vec<(u64, u64, &str, u64)>> = BTreeMap::new();
        for (key, enqueue) in &self.history.enqueues {
            if let (Some(unique), Answer::Stored(id)) = (key.unique(), &enqueue.answer) {
                let job = self.history.jobs.get(id);
                let ended = job.and_then(finished_us).unwrap_or(u64::MAX);
                let times = (enqueue.called_us, enqueue.answered_us, id.as_str(), ended);
                holders.entry(unique).or_default().push(times);
            }
        }
        for (unique, mut jobs) in holders {
            jobs.sort_unstable();
            for pair in jobs.windows(2) {
                let ((_, stored, first, ended), (called, answered, second, _)) = (pair[0], pair[1]);
                if called > stored && answered + CLOCKS_US < ended {
                    self.offend(
                        "unique",
                        Some(second),
                        format!("{unique} was held by {first}"),
                    );
                }
            }
        }
    }

    /// A job ends once; only a dead one may have another life, which ends as well.
    fn every_job_ends_once(&mut self) {
        for (id, job) in &self.history.jobs {
            let (completed, cancelled) = (job.completed_us.len(), job.cancelled_us.len());
            let (dead, redriven) = (job.deaths.len(), job.redriven_us.len());
            let home = self.remains.homes.get(id);
            let is_dead = dead == redriven + 1;
            if completed + cancelled + dead != redriven + 1 || (dead != redriven && !is_dead) {
                let what = format!(
                    "completed {completed}, dead {dead}, cancelled {cancelled}, redriven {redriven} times"
                );
                self.offend("ended once", Some(id), what);
            } else if is_dead != (home == Some(&State::Dead)) || (!is_dead && home.is_some()) {
                self.offend("ended once", Some(id), format!("in Redis it is {home:?}"));
            }
        }
    }

    /// Attempts, retries, and why a job is dead follow from its key and nothing else: no stall, restart or lost answer
    /// costs an attempt.
    fn jobs_end_as_their_keys_say(&mut self) {
        for (id, job) in &self.history.jobs {
            let Some(key) = &job.key else { continue };
            let failures = key.failures();
            for (_, reason) in &job.deaths {
                let fits = *reason == key.kind().may_die_of()
                    && (reason != "attempts" || failures == MAX_ATTEMPTS);
                // A job that was in hand at three deaths of its worker cannot be told from one that causes them.
                if !fits && reason != "crash_loop" {
                    self.offend("outcome", Some(id), format!("{} died of {reason}", key.0));
                }
            }
            let retried = job.retried_us.len();
            if !job.completed_us.is_empty() && retried != failures as usize {
                let what = format!("completed after {retried} retries, its key draws {failures}");
                self.offend("outcome", Some(id), what);
            }
            if let Some(start) = job.starts.iter().find(|start| start.attempt > MAX_ATTEMPTS) {
                self.offend("outcome", Some(id), format!("attempt {}", start.attempt));
            }
        }
    }

    fn nothing_runs_early_or_when_called_off(&mut self) {
        for (id, job) in &self.history.jobs {
            let enqueue = job
                .key
                .as_ref()
                .and_then(|key| self.history.enqueues.get(key));
            let first = job.starts.iter().map(|start| start.at_us).min();
            if let (Some(key), Some(enqueue), Some(first), false) =
                (&job.key, enqueue, first, job.hastened)
            {
                let due_us = enqueue.called_us + key.delay().as_micros() as u64;
                if first < due_us {
                    self.offend(
                        "early",
                        Some(id),
                        format!("{} µs before it was due", due_us - first),
                    );
                }
            }
            if let Some((at_us, before)) = &job.called_off
                && before != "running"
                && job.starts.iter().any(|start| start.at_us > *at_us)
            {
                self.offend(
                    "called off",
                    Some(id),
                    format!("it was {before}, and ran afterwards"),
                );
            }
        }
    }

    /// A delivery ends in one way, and starts a handler at most once: so no job was started more often than deliveries of it
    /// ended. A handed-back delivery ends as well; those are told only by their number.
    fn deliveries_are_started_once(&mut self) {
        let mut excess = 0;
        let mut worst = (0, None);
        for (id, job) in &self.history.jobs {
            let over = self_started(job);
            excess += over;
            if over > worst.0 {
                worst = (over, Some(id.as_str()));
            }
        }
        let released = self.counter("released");
        if excess > released {
            let what = format!("{excess} starts too many, {released} deliveries handed back");
            self.offend("started twice", worst.1, what);
        }
    }

    /// A job that kills its worker is dead after three stalls, as what it is.
    fn poison_is_found(&mut self) {
        for (id, job) in &self.history.jobs {
            let is_poison = job
                .key
                .as_ref()
                .is_some_and(|key| key.kind() == Kind::Poison);
            let found = matches!(job.deaths.as_slice(), [(_, reason)] if reason == "crash_loop");
            if is_poison && !found {
                self.offend("poison", Some(id), format!("its deaths: {:?}", job.deaths));
            }
        }
    }

    /// While there is load, jobs are completed soon after every fault, other faults or not.
    fn nothing_stands_still(&mut self) {
        let completions = self.history.jobs.values().flat_map(|job| &job.completed_us);
        let mut completions: Vec<u64> = completions.copied().collect();
        completions.sort_unstable();
        for strike in self.history.strikes.values() {
            let healed = strike.to_us;
            let next = completions.partition_point(|at| *at <= healed);
            let next = completions.get(next).copied().unwrap_or(u64::MAX);
            let waited = next.saturating_sub(healed);
            let limit_us = WORKS_AGAIN.as_micros() as u64;
            if waited > limit_us && healed.saturating_add(limit_us) < self.history.unloaded_us {
                let what = format!("{:?}: nothing completed for {waited} µs", strike.fault);
                self.offend("standstill", None, what);
            }
        }
    }

    /// What the engine counts is what it said, event by event.
    fn counters_agree(&mut self) {
        let jobs = || self.history.jobs.values();
        let sum = |of: fn(&Job) -> usize| jobs().map(of).sum::<usize>() as u64;
        let told = [
            ("enqueued", jobs().count() as u64),
            ("completed", sum(|job| job.completed_us.len())),
            ("dead", sum(|job| job.deaths.len())),
            ("cancelled", sum(|job| job.cancelled_us.len())),
            ("redriven", sum(|job| job.redriven_us.len())),
            ("retried", sum(|job| job.retried_us.len())),
            ("stalled", sum(|job| job.stalled_us.len())),
        ];
        for (name, told) in told {
            let counted = self.counter(name);
            if counted != told {
                self.offend(
                    "counters",
                    None,
                    format!("{name}: counted {counted}, told {told}"),
                );
            }
        }
    }

    fn nothing_is_left(&mut self) {
        for fault in &self.remains.faults {
            self.offend("left over", None, fault.clone());
        }
        let processes = self.history.processes.len();
        if self.remains.consumers > processes {
            let what = format!(
                "{} consumers of {processes} processes",
                self.remains.consumers
            );
            self.offend("left over", None, what);
        }
        for unruly in &self.history.unruly {
            self.offend("processes", None, unruly.clone());
        }
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.remains.counters.get(name).copied().unwrap_or_default()
    }
}

/// Starts beyond the deliveries that are known to have ended by an event, a snooze or a completion.
fn self_started(job: &Job) -> u64 {
    let settled = job.completed_us.len() + job.deaths.len() + job.retried_us.len();
    // The death of a crash loop is a stall as well.
    let crash_loops = job
        .deaths
        .iter()
        .filter(|(_, reason)| reason == "crash_loop")
        .count();
    let lost = job.stalled_us.len() - crash_loops + job.cancelled_us.len();
    let ended = settled + lost + job.snoozes as usize;
    job.starts.len().saturating_sub(ended) as u64
}

fn is_finished(job: &Job) -> bool {
    job.completed_us.len() + job.cancelled_us.len() + job.deaths.len() > 0
}

fn finished_us(job: &Job) -> Option<u64> {
    let deaths = job.deaths.iter().map(|(at_us, _)| at_us);
    deaths
        .chain(&job.completed_us)
        .chain(&job.cancelled_us)
        .min()
        .copied()
}
