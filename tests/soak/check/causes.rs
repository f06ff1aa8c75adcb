//! Leases are lost for a cause: each job that was taken from a worker must have been with one that was dead, frozen, cut off
//! from Redis or stopped. A Redis that was away for everybody is no cause: living workers keep what they hold.

use crate::history::{Job, Start, Strike};
use crate::plan::{CONCURRENCY, Kind, LEASE, PREFETCH, SWEEP};

use super::{CLOCKS_US, Check};

/// How far back the cause of a stall may lie: the lease must run out and a sweep come by, after an outage later.
const BEFORE_US: u64 = (LEASE.as_micros() * 3 + SWEEP.as_micros() * 2 + 2_000_000) as u64;
/// Jobs that one lost worker or connection can cost: those in hand, and as many whose settlement is on its way.
const IN_HAND: usize = 2 * (CONCURRENCY + PREFETCH);

impl Check<'_> {
    pub(super) fn leases_are_lost_for_a_cause(&mut self) {
        let mut stalls = 0;
        for (id, job) in &self.history.jobs {
            for at_us in &job.stalled_us {
                stalls += 1;
                if let Some(what) = self.uncaused(job, *at_us) {
                    self.offend("lease lost without cause", Some(id), what);
                }
            }
        }
        let strikes = self.history.strikes.values();
        let causes =
            strikes.filter(|strike| may_cost_leases(strike)).count() + self.history.aborts();
        let gaps = self
            .history
            .processes
            .values()
            .map(|process| process.gaps_us.len());
        let bound = (causes + gaps.sum::<usize>()) * IN_HAND;
        if stalls > bound {
            let what = format!("{stalls} stalls, {causes} causes of at most {IN_HAND} each");
            self.offend("lease lost without cause", None, what);
        }
    }

    /// What is strange about this stall; `None` when it had a cause.
    fn uncaused(&self, job: &Job, at_us: u64) -> Option<String> {
        let from_us = at_us.saturating_sub(BEFORE_US);
        let before = |start: &&Start| start.at_us < at_us;
        let started = job
            .starts
            .iter()
            .filter(before)
            .max_by_key(|start| start.at_us);
        // Of a delivery that was never started nobody knows who held it. One that a settlement followed is not this one.
        let held_since = started.filter(|start| {
            let ended =
                |times: &[u64], from_us| times.iter().any(|at| (from_us..at_us).contains(at));
            // Redis's clock may tell of a retry before this start: nothing is retried twice in so short a time.
            !ended(&job.retried_us, start.at_us.saturating_sub(CLOCKS_US))
                && !ended(&job.redriven_us, start.at_us)
                && !ended(&job.stalled_us, start.at_us)
                && job.snoozes == 0
        });
        let Some(start) = held_since else {
            let any = self
                .history
                .strikes
                .values()
                .any(|strike| touches(strike, from_us, at_us));
            let aborted = self.history.processes.values().any(|process| {
                process
                    .ended_us
                    .is_some_and(|ended| (from_us..at_us).contains(&ended))
            });
            return (!any && !aborted).then(|| "nothing had happened".to_owned());
        };
        let process = self.history.processes.get(&start.process)?;
        let gone = process
            .ended_us
            .or(process.stopping_us)
            .is_some_and(|gone| gone < at_us);
        let gaps = process.gaps_us.iter();
        let slept = gaps
            .clone()
            .any(|(from, to)| *from < at_us && *to > from_us);
        let place = place_of(&start.process);
        let cut_off = self.history.strikes.values().any(|strike| {
            is_of_one(strike.fault.kind)
                && Some(strike.fault.target) == place
                && touches(strike, from_us, at_us)
        });
        let outages_us: u64 = self
            .history
            .strikes
            .values()
            .filter(|strike| strike.fault.kind.is_outage() && touches(strike, from_us, at_us))
            .map(|strike| strike.to_us.min(at_us) - strike.from_us.max(from_us))
            .sum();
        let long_away = outages_us > 2 * LEASE.as_micros() as u64;
        let what = format!(
            "taken from {}, which lived and held it since {} ({} µs of outages)",
            start.process, start.at_us, outages_us
        );
        (!gone && !slept && !cut_off && !long_away).then_some(what)
    }
}

fn touches(strike: &Strike, from_us: u64, to_us: u64) -> bool {
    strike.from_us < to_us && strike.to_us > from_us
}

/// It keeps one process from renewing, and no other.
fn is_of_one(kind: Kind) -> bool {
    let of_all = matches!(kind, Kind::KillClients | Kind::FlushScripts | Kind::Poison);
    !of_all && !kind.is_outage()
}

/// Even one that keeps nobody from renewing: a read whose answer was lost delivers jobs that nobody sees for a while.
fn may_cost_leases(strike: &Strike) -> bool {
    !matches!(strike.fault.kind, Kind::FlushScripts | Kind::Poison)
}

/// `worker-2.5` is in place 2.
fn place_of(process: &str) -> Option<usize> {
    process
        .strip_prefix("worker-")?
        .split('.')
        .next()?
        .parse()
        .ok()
}
