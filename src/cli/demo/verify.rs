//! The verdict: what was sent and answered, what Redis says became of it, and what the handler noted, held against each
//! other. Pure: nothing here counts for itself while the demo runs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use millstream::inspect::Stats;

use super::plan::{Behaviour, MAX_ATTEMPTS, Plan};
use super::receiver::{Record, digest};
use super::send::Answer;

/// What is held against each other.
pub(super) struct Facts<'a> {
    pub(super) plan: &'a Plan,
    /// The gateway's answers, in the order of the plan's requests.
    pub(super) answers: &'a [Answer],
    /// Job ids in Redis's history of completed jobs, one for each completion.
    pub(super) completed: &'a [String],
    /// Job ids in Redis's dead letter.
    pub(super) dead: &'a [String],
    /// Redis's counts.
    pub(super) counts: Counts,
    /// What the handler noted.
    pub(super) records: &'a [Record],
    pub(super) workers_killed: u32,
}

/// What the verdict needs of a queue's counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Jobs that are neither completed nor dead.
    pub(super) unfinished: u64,
    pub(super) completed_total: u64,
    pub(super) dead_total: u64,
    pub(super) retried_total: u64,
}

impl From<&Stats> for Counts {
    fn from(stats: &Stats) -> Self {
        Self {
            unfinished: stats.ready + stats.scheduled + stats.held + stats.running,
            completed_total: stats.completed_total,
            dead_total: stats.dead_total,
            retried_total: stats.retried_total,
        }
    }
}

/// What came out.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Requests that were answered.
    pub(super) sent: usize,
    /// Webhooks that were stored as a job.
    pub(super) accepted: usize,
    /// Requests that were refused.
    pub(super) refused: usize,
    /// Requests that were told: known already.
    pub(super) duplicates: usize,
    /// Accepted jobs that Redis has as completed.
    pub(super) completed: usize,
    /// Failed attempts after which the job was tried again.
    pub(super) retried: usize,
    /// Accepted jobs that Redis has as dead.
    pub(super) dead: usize,
    /// Accepted jobs without an end, or whose end the handler knows nothing of.
    pub(super) lost: Vec<String>,
    /// Jobs with more than one end.
    pub(super) doubled: Vec<String>,
    /// Attempts that were begun more than once.
    pub(super) repeated: usize,
    pub(super) workers_killed: u32,
    /// From stored to begun, ms: the first delivery of each job.
    pub(super) start_ms: Option<Percentiles>,
    /// Whatever else is not as it should be, for people.
    pub(super) problems: Vec<String>,
}

impl Verdict {
    pub(super) fn is_good(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty() && self.problems.is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Percentiles {
    pub(super) p50: u64,
    pub(super) p99: u64,
}

/// Judges.
pub(super) fn verify(facts: &Facts<'_>) -> Verdict {
    let mut verdict = Verdict {
        workers_killed: facts.workers_killed,
        ..Verdict::default()
    };
    let accepted = judge_answers(facts, &mut verdict);
    let noted = Noted::new(facts.records);
    judge_ends(facts, &accepted, &noted, &mut verdict);
    judge_records(facts, &accepted, &noted, &mut verdict);
    judge_counts(facts, &noted, &mut verdict);
    verdict
}

/// Job id → the delivery that it was accepted for.
type Accepted = BTreeMap<String, usize>;

/// What the gateway answered: each genuine webhook one job, its repetition the same job, nothing for a forged one.
fn judge_answers(facts: &Facts<'_>, verdict: &mut Verdict) -> Accepted {
    let mut accepted = Accepted::new();
    let mut first: HashMap<usize, &str> = HashMap::new();
    let mut made: HashMap<usize, usize> = HashMap::new();
    verdict.sent = facts.answers.len();
    if verdict.sent != facts.plan.requests.len() {
        verdict.problems.push(format!(
            "{} requests were planned, {} answered",
            facts.plan.requests.len(),
            verdict.sent
        ));
    }
    for (&number, answer) in facts.plan.requests.iter().zip(facts.answers) {
        let delivery = &facts.plan.deliveries[number];
        match answer {
            Answer::Refused(status) => {
                verdict.refused += 1;
                if delivery.genuine || status.as_u16() != 401 {
                    verdict.problems.push(format!(
                        "webhook {} (genuine: {}) was answered {status}",
                        delivery.id, delivery.genuine
                    ));
                }
            }
            Answer::Stored { id, duplicate } => {
                if !delivery.genuine {
                    verdict.problems.push(format!(
                        "webhook {} is forged and was accepted as job {id}",
                        delivery.id
                    ));
                }
                verdict.duplicates += usize::from(*duplicate);
                *made.entry(number).or_default() += usize::from(!*duplicate);
                if *first.entry(number).or_insert(id) != id {
                    verdict.problems.push(format!(
                        "webhook {} became job {} and job {id}",
                        delivery.id, first[&number]
                    ));
                }
                if let Some(other) = accepted
                    .insert(id.clone(), number)
                    .filter(|other| *other != number)
                {
                    let other = &facts.plan.deliveries[other].id;
                    verdict.problems.push(format!(
                        "webhooks {} and {other} became the same job {id}",
                        delivery.id
                    ));
                }
            }
        }
    }
    for (number, jobs) in made {
        if jobs > 1 {
            verdict.problems.push(format!(
                "webhook {} was stored {jobs} times",
                facts.plan.deliveries[number].id
            ));
        }
    }
    verdict.accepted = accepted.len();
    accepted
}

/// What the handler noted, by job.
struct Noted<'a> {
    /// Job → its deliveries, as they came.
    begun: HashMap<&'a str, Vec<&'a Record>>,
    /// (Job, attempt) → the answers to it.
    answered: HashMap<(&'a str, u32), BTreeSet<u16>>,
    /// Jobs that the handler answered with success.
    done: HashSet<&'a str>,
}

impl<'a> Noted<'a> {
    fn new(records: &'a [Record]) -> Self {
        let mut noted = Self {
            begun: HashMap::new(),
            answered: HashMap::new(),
            done: HashSet::new(),
        };
        for record in records {
            match record.answer {
                None => noted.begun.entry(&record.job).or_default().push(record),
                Some(status) => {
                    noted
                        .answered
                        .entry((&record.job, record.attempt))
                        .or_default()
                        .insert(status);
                    if status == 200 {
                        noted.done.insert(&record.job);
                    }
                }
            }
        }
        noted
    }

    /// True when the handler saw the job's last attempt and never said that it was done. Not every attempt need have been
    /// answered: one whose connection broke has failed as well.
    fn failed_for_good(&self, job: &str) -> bool {
        let last = |record: &&Record| record.attempt == MAX_ATTEMPTS;
        let seen = self
            .begun
            .get(job)
            .is_some_and(|records| records.iter().any(last));
        seen && !self.done.contains(job)
    }
}

/// Each accepted job has exactly one end in Redis, and the handler agrees with it.
fn judge_ends(facts: &Facts<'_>, accepted: &Accepted, noted: &Noted<'_>, verdict: &mut Verdict) {
    let mut ends: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for id in facts.completed {
        ends.entry(id).or_default().0 += 1;
    }
    for id in facts.dead {
        ends.entry(id).or_default().1 += 1;
    }
    for (id, number) in accepted {
        let delivery = &facts.plan.deliveries[*number];
        let (completed, dead) = ends.get(id.as_str()).copied().unwrap_or_default();
        verdict.completed += usize::from(completed > 0);
        verdict.dead += usize::from(dead > 0);
        let known = (completed > 0 && noted.done.contains(id.as_str()))
            || (dead > 0 && noted.failed_for_good(id));
        if !known {
            verdict.lost.push(id.clone());
        }
        if (completed > 0) == (delivery.behaviour == Behaviour::FailsAlways) && completed + dead > 0
        {
            verdict.problems.push(format!(
                "job {id} ended as it should not: its handler {:?}",
                delivery.behaviour
            ));
        }
    }
    for (id, (completed, dead)) in ends {
        if completed + dead > 1 {
            verdict.doubled.push(id.to_owned());
        }
        if !accepted.contains_key(id) {
            verdict.problems.push(format!(
                "Redis has the end of job {id}, which nobody was told of"
            ));
        }
    }
}

/// The handler saw accepted jobs alone, each with the bytes that were sent.
fn judge_records(facts: &Facts<'_>, accepted: &Accepted, noted: &Noted<'_>, verdict: &mut Verdict) {
    let mut digests: HashMap<*const u8, String> = HashMap::new();
    let mut starts = Vec::new();
    for (job, records) in &noted.begun {
        let Some(&number) = accepted.get(*job) else {
            verdict.problems.push(format!(
                "the handler was given job {job}, which nobody was told of"
            ));
            continue;
        };
        let delivery = &facts.plan.deliveries[number];
        let sent = digests
            .entry(delivery.body.as_ptr())
            .or_insert_with(|| digest(delivery.body));
        if records
            .iter()
            .any(|record| record.body != *sent || record.delivery != delivery.id)
        {
            verdict.problems.push(format!(
                "job {job} reached the handler with other bytes than were sent"
            ));
        }
        let attempts: BTreeSet<u32> = records.iter().map(|record| record.attempt).collect();
        verdict.repeated += records.len() - attempts.len();
        if let (Some(stored), Some(begun)) = (
            stored_ms(job),
            records.iter().map(|record| record.at_ms).min(),
        ) {
            starts.push(begun.saturating_sub(stored));
        }
    }
    verdict.start_ms = percentiles(starts);
}

/// Redis's own totals agree with what was found one by one.
fn judge_counts(facts: &Facts<'_>, noted: &Noted<'_>, verdict: &mut Verdict) {
    let answered = noted
        .answered
        .iter()
        .filter(|((_, attempt), statuses)| *attempt < MAX_ATTEMPTS && statuses.contains(&500))
        .count();
    let counts = facts.counts;
    let ended = (verdict.completed + verdict.dead) as u64;
    for (what, redis, found) in [
        ("jobs that have not ended", counts.unfinished, 0),
        (
            "jobs that ended",
            counts.completed_total + counts.dead_total,
            ended,
        ),
    ] {
        if redis != found {
            verdict
                .problems
                .push(format!("Redis counts {redis} {what}, {found} were found"));
        }
    }
    // On a busy machine an attempt may also fail without an answer: its connection broke, or its time was up.
    verdict.retried = counts.retried_total as usize;
    if verdict.retried < answered {
        verdict.problems.push(format!(
            "Redis counts {} attempts that were retried, {answered} were answered with a failure",
            verdict.retried
        ));
    }
}

/// When a job was stored: the first part of its id, unix ms on Redis's clock.
fn stored_ms(job: &str) -> Option<u64> {
    job.split_once('-')?.0.parse().ok()
}

/// By the nearest rank.
fn percentiles(mut values: Vec<u64>) -> Option<Percentiles> {
    values.sort_unstable();
    let last = values.len().checked_sub(1)?;
    let rank = |percent: usize| {
        values[(values.len() * percent)
            .div_ceil(100)
            .saturating_sub(1)
            .min(last)]
    };
    Some(Percentiles {
        p50: rank(50),
        p99: rank(99),
    })
}

#[cfg(test)]
mod tests;
