//! A checker that has never found anything proves nothing: one story for each rule, with and without what offends it.

use std::time::Duration;

use super::*;
use crate::plan::{Fault, Kind as FaultKind, Plan};

/// Records as the processes write them, `name: µs word word …`.
struct Story {
    history: History,
    remains: Remains,
}

impl Story {
    /// The plan's faults: 0 kills worker 0, 1 takes Redis away.
    fn new(lines: &str) -> Self {
        let fault = |kind| Fault {
            at: Duration::ZERO,
            kind,
            target: 0,
            lasts: Duration::ZERO,
        };
        let plan = Plan {
            seed: 0,
            load: Duration::ZERO,
            faults: vec![fault(FaultKind::KillWorker), fault(FaultKind::KillRedis)],
        };
        let mut history = History::default();
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (name, event) = line.split_once(": ").expect("name: event");
            let mut words = event.split_whitespace();
            let at = words.next().and_then(|at| at.parse().ok());
            let word = words.next().expect("a word");
            history.take(&plan, name, at.expect("a time"), word, words);
        }
        let mut remains = Remains::default();
        for job in history.jobs.values() {
            let mut count = |name: &str, times: usize| {
                *remains.counters.entry(name.to_owned()).or_default() += times as u64;
            };
            count("enqueued", 1);
            count("completed", job.completed_us.len());
            count("dead", job.deaths.len());
            count("cancelled", job.cancelled_us.len());
            count("redriven", job.redriven_us.len());
            count("retried", job.retried_us.len());
            count("stalled", job.stalled_us.len());
        }
        for (id, job) in &history.jobs {
            if job.deaths.len() > job.redriven_us.len() {
                remains.homes.insert(id.clone(), State::Dead);
            }
        }
        Self { history, remains }
    }

    #[track_caller]
    fn offends(&self, rules: &[&str]) {
        let offences = offences(&self.history, &self.remains);
        let mut found: Vec<&str> = offences.iter().map(|offence| offence.rule).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, rules, "{offences:#?}");
    }
}

const ENQUEUED: &str = "producer-0.1: 1 call 0 quick:producer-0.1:0:0
    producer-0.1: 2 ok 0 1-0";
const RUN: &str = "worker-0.1: 3 start 1-0 quick:producer-0.1:0:0 1 0
    worker-0.1: 4 end 1-0 done";
const COMPLETED: &str = "audit: 5 completed 5 1-0 1";

fn story(parts: &[&str]) -> Story {
    Story::new(&parts.join("\n"))
}

#[test]
fn a_good_life_offends_nothing() {
    story(&[ENQUEUED, RUN, COMPLETED]).offends(&[]);
}

#[test]
fn an_acknowledged_job_that_never_ended_is_lost() {
    story(&[ENQUEUED]).offends(&["ended once", "lost"]);
    let mut lost = story(&[ENQUEUED]);
    lost.history.jobs.clear();
    lost.remains.counters.clear();
    lost.offends(&["lost"]);
}

#[test]
fn a_job_that_two_calls_or_none_made_is_noticed() {
    let twice = "worker-0.1: 6 start 2-0 quick:producer-0.1:0:0 1 0
        audit: 7 completed 7 2-0 1";
    story(&[ENQUEUED, RUN, COMPLETED, twice]).offends(&["doubled", "unexpected"]);
    story(&[RUN, COMPLETED]).offends(&["unexpected"]);
    story(&["audit: 5 dead 5 1-0 expired"]).offends(&["unexpected"]);
    let refused = "producer-0.1: 1 call 0 quick:producer-0.1:0:0
        producer-0.1: 2 refused 0 full";
    story(&[refused, RUN, COMPLETED]).offends(&["unexpected"]);
    let unheard = "producer-0.1: 1 call 0 quick:producer-0.1:0:0";
    story(&[unheard, RUN, COMPLETED]).offends(&[]);
    story(&[unheard]).offends(&[]);
}

#[test]
fn a_standstill_after_a_fault_is_noticed_while_there_is_load() {
    let killed = "faults: 4 begin 0
        faults: 5 end 0";
    let late = |us: u64| format!("audit: 1 completed {us} 1-0 1");
    let load_ended = |us: u64| format!("faults: {us} unloaded");
    let long = 60_000_000;
    story(&[ENQUEUED, RUN, killed, &late(9), &load_ended(long)]).offends(&[]);
    story(&[ENQUEUED, RUN, killed, &late(long), &load_ended(long)]).offends(&["standstill"]);
    story(&[ENQUEUED, RUN, killed, &late(long), &load_ended(6)]).offends(&[]);
}

#[test]
fn two_ends_of_one_job_are_noticed() {
    story(&[ENQUEUED, RUN, COMPLETED, COMPLETED]).offends(&["ended once"]);
    let cancelled = "audit: 6 cancelled 6 1-0 running";
    story(&[ENQUEUED, RUN, COMPLETED, cancelled]).offends(&["ended once"]);
    let mut there = story(&[ENQUEUED, RUN, COMPLETED]);
    there.remains.homes.insert("1-0".to_owned(), State::Running);
    there.offends(&["ended once"]);
}

#[test]
fn a_redriven_job_may_die_again() {
    let lives = "producer-0.1: 1 call 0 refused:producer-0.1:0:0
        producer-0.1: 2 ok 0 1-0
        worker-0.1: 3 start 1-0 refused:producer-0.1:0:0 1 0
        audit: 4 dead 4 1-0 refused
        audit: 5 redriven 5 1-0 1 jobs
        worker-0.1: 6 start 1-0 refused:producer-0.1:0:0 1 0
        audit: 7 dead 7 1-0 refused";
    story(&[lives]).offends(&[]);
    story(&[lives, "audit: 8 dead 8 1-0 refused"]).offends(&["ended once"]);
}

#[test]
fn a_death_or_a_retry_that_the_key_does_not_say_is_noticed() {
    let dead = "audit: 5 dead 5 1-0 attempts";
    story(&[ENQUEUED, RUN, dead]).offends(&["outcome"]);
    let retried = "audit: 4 retried 4 1-0 attempt 1 failed
        worker-0.1: 5 start 1-0 quick:producer-0.1:0:0 2 0";
    story(&[ENQUEUED, RUN, retried, COMPLETED]).offends(&["outcome"]);
}

#[test]
fn a_delayed_job_that_runs_early_is_noticed_unless_somebody_was_in_a_hurry() {
    let early = "producer-0.1: 1 call 0 late:producer-0.1:0:5
        producer-0.1: 2 ok 0 x
        worker-0.1: 5000 start x late:producer-0.1:0:5 1 0
        audit: 6000 completed 6000 x 1";
    story(&[early]).offends(&["early"]);
    story(&[early, "producer-0.1: 4000 hasten x"]).offends(&[]);
    let in_time = early.replace(": 5000 start", ": 5001 start");
    story(&[&in_time]).offends(&[]);
}

#[test]
fn a_job_that_runs_after_it_was_called_off_is_noticed() {
    let called_off = "producer-0.1: 1 cancelled 1-0 ready
        audit: 2 cancelled 2 1-0 ready";
    story(&[ENQUEUED, called_off]).offends(&[]);
    story(&[ENQUEUED, called_off, RUN]).offends(&["called off"]);
}

#[test]
fn a_second_start_needs_a_second_delivery() {
    let again = "worker-1.1: 4 start 1-0 quick:producer-0.1:0:0 1 0";
    story(&[ENQUEUED, RUN, again, COMPLETED]).offends(&["started twice"]);
    let mut released = story(&[ENQUEUED, RUN, again, COMPLETED]);
    released.remains.counters.insert("released".to_owned(), 1);
    released.offends(&[]);
}

#[test]
fn a_lease_may_be_lost_by_a_dead_worker_and_not_by_a_living_one() {
    let stalled = "audit: 4000004 stalled 4000004 1-0 stall 1
        worker-1.1: 4000005 start 1-0 quick:producer-0.1:0:0 1 1
        audit: 4000006 completed 4000006 1-0 1";
    let killed = "faults: 4 begin 0
        faults: 5 ended worker-0.1 killed signal: 9
        faults: 6 end 0";
    let outage = "faults: 4 begin 1
        faults: 2000000 end 1";
    let lived = "faults: 9000000 ended worker-0.1 stopped exit status: 0";
    story(&[ENQUEUED, RUN, killed, stalled]).offends(&[]);
    story(&[ENQUEUED, RUN, outage, stalled, lived]).offends(&["lease lost without cause"]);
    let frozen = "worker-0.1: 3900000 gap 10";
    story(&[ENQUEUED, RUN, outage, frozen, stalled, lived]).offends(&[]);
    // Not started, so nobody knows where it was; but something must have happened.
    let unseen = [ENQUEUED, stalled, lived];
    story(&unseen).offends(&["lease lost without cause"]);
    story(&[ENQUEUED, outage, stalled, lived]).offends(&[]);
}

#[test]
fn a_retry_ends_the_holding_also_by_a_clock_of_whole_milliseconds() {
    let enqueued = "producer-0.1: 30000 call 0 flaky:producer-0.1:0:0
        producer-0.1: 30001 ok 0 1-0
        worker-1.1: 40500 start 1-0 flaky:producer-0.1:0:0 1 0
        worker-1.1: 40600 end 1-0 failed";
    let lived = "faults: 9000000 ended worker-1.1 stopped exit status: 0";
    // Whoever was given the second attempt died before its handler began.
    let died = "faults: 500000 begin 0
        faults: 500001 ended worker-0.1 killed signal: 9
        faults: 500002 end 0";
    let stalled = "audit: 4000004 stalled 4000004 1-0 stall 1";
    let offences = |retried: &str| {
        let lines = [enqueued, retried, died, stalled, lived].join("\n");
        let mut check = Check {
            history: &Story::new(&lines).history,
            remains: &Remains::default(),
            offences: Vec::new(),
        };
        check.leases_are_lost_for_a_cause();
        check.offences.len()
    };
    assert_eq!(offences("audit: 41000 retried 40000 1-0 attempt 1"), 0);
    assert_eq!(offences("audit: 41000 failed 40000 1-0 attempt 1"), 1);
}

#[test]
fn poison_must_die_of_what_it_does() {
    let poison = "producer-0.1: 1 call 0 poison:producer-0.1:0:0
        producer-0.1: 2 ok 0 1-0
        faults: 2 begin 0
        worker-0.1: 3 start 1-0 poison:producer-0.1:0:0 1 0
        faults: 4 ended worker-0.1 aborted";
    let found = "audit: 3000005 dead 3000005 1-0 crash_loop";
    story(&[poison, found]).offends(&[]);
    story(&[poison, "audit: 5 completed 5 1-0 1"]).offends(&["poison"]);
}

#[test]
fn two_suspects_in_one_worker_are_noticed() {
    let other = "producer-0.1: 1 call 1 quick:producer-0.1:1000:0
        producer-0.1: 2 ok 1 2-0
        worker-0.1: 13 start 2-0 quick:producer-0.1:1000:0 1 2
        worker-0.1: 14 end 2-0 done
        audit: 15 completed 15 2-0 1";
    let first = "worker-0.1: 12 start 1-0 quick:producer-0.1:0:0 1 2
        worker-0.1: 16 end 1-0 done
        audit: 17 completed 17 1-0 1";
    story(&[ENQUEUED, first, other]).offends(&["suspects"]);
    story(&[ENQUEUED, first, &other.replace("worker-0.1", "worker-1.1")]).offends(&[]);
    story(&[ENQUEUED, first, &other.replace("1 2\n", "1 1\n")]).offends(&[]);
    let before = first.replace(" 16 end", " 12 end");
    story(&[ENQUEUED, &before, other]).offends(&[]);
}

#[test]
fn a_suspect_that_takes_an_innocent_with_it_is_noticed() {
    let dead = |stalls: u32| {
        format!(
            "faults: 2 begin 0
            worker-0.1: 12 start 1-0 quick:producer-0.1:0:0 1 2
            producer-0.1: 1 call 1 poison:producer-0.1:1000:0
            producer-0.1: 2 ok 1 2-0
            worker-0.1: 13 start 2-0 poison:producer-0.1:1000:0 1 {stalls}
            faults: 14 ended worker-0.1 aborted
            audit: 3000015 dead 3000015 1-0 crash_loop
            audit: 3000015 dead 3000015 2-0 crash_loop"
        )
    };
    story(&[ENQUEUED, &dead(2)]).offends(&["innocent", "suspects"]);
    story(&[ENQUEUED, &dead(1)]).offends(&[]);
    // It survived that, and died with another worker, which was frozen before its handler began.
    let survived = dead(2).replace(
        "1-0 quick:producer-0.1:0:0 1 2",
        "1-0 quick:producer-0.1:0:0 1 1",
    );
    let stalled = "audit: 1000014 stalled 1000014 1-0 stall 2";
    story(&[ENQUEUED, &survived]).offends(&["innocent"]);
    story(&[ENQUEUED, &survived, stalled]).offends(&[]);
}

#[test]
fn a_unique_key_has_one_holder() {
    let pair = "producer-0.1: 1 call 0 unique:producer-0.1:0:7
        producer-0.1: 2 ok 0 1-0
        producer-0.1: 3 call 1 unique:producer-0.1:1000:7
        producer-0.1: 4 ok 1 2-0";
    let ends =
        |first: u64| format!("audit: 1 completed {first} 1-0 1\naudit: 1 completed 900000 2-0 1");
    story(&[pair, &ends(3)]).offends(&[]);
    story(&[pair, &ends(500_000)]).offends(&["unique"]);
}

#[test]
fn counters_leftovers_and_unruly_processes_are_noticed() {
    let mut wrong = story(&[ENQUEUED, RUN, COMPLETED]);
    wrong.remains.counters.insert("completed".to_owned(), 2);
    wrong.offends(&["counters"]);
    let mut left = story(&[ENQUEUED, RUN, COMPLETED]);
    left.remains.faults.push("a key".to_owned());
    left.offends(&["left over"]);
    story(&[
        ENQUEUED,
        RUN,
        COMPLETED,
        "faults: 9 unruly worker-0.1 ended by itself",
    ])
    .offends(&["processes"]);
}
