//! A job that is one stall short of a crash loop is a suspect. A worker holds one suspect at a time, so that the one which
//! kills its worker is alone to blame.

use std::collections::BTreeMap;

use crate::history::{Job, Start};
use crate::jobs::Kind;

use super::Check;

/// Stalls that make a job a suspect.
const SUSPECT: u32 = 2;

impl Check<'_> {
    pub(super) fn suspects_run_alone(&mut self) {
        let mut by_process: BTreeMap<&str, Vec<(u64, u64, &str)>> = BTreeMap::new();
        for (id, job) in &self.history.jobs {
            for start in job.starts.iter().filter(|start| start.stalls >= SUSPECT) {
                let run = (start.at_us, self.held_until_us(job, start), id.as_str());
                by_process.entry(&start.process).or_default().push(run);
            }
        }
        for (process, mut runs) in by_process {
            runs.sort_unstable();
            for pair in runs.windows(2) {
                let ((_, until, first), (from, _, second)) = (pair[0], pair[1]);
                if from < until && first != second {
                    self.offend(
                        "suspects",
                        Some(second),
                        format!("beside {first} in {process}"),
                    );
                }
            }
        }
    }

    /// Until its handler was through, its process gone, or the job somebody else's: a worker that was frozen learns that late.
    fn held_until_us(&self, job: &Job, start: &Start) -> u64 {
        let process = self.history.processes.get(&start.process);
        let gone = process.and_then(|process| process.ended_us);
        let taken = job.stalled_us.iter().chain(&job.cancelled_us).copied();
        let taken = taken.filter(|at| *at > start.at_us).min();
        [start.ended_us, gone, taken]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Three deaths of its worker make a crash loop, whoever causes them; but the last is not to be the deed of a known suspect.
    fn killer_in(&self, process: &str) -> Option<&Start> {
        let poison = self.history.jobs.values().filter(|job| {
            job.key
                .as_ref()
                .is_some_and(|key| key.kind() == Kind::Poison)
        });
        let starts = poison.flat_map(|job| &job.starts);
        starts
            .filter(|start| start.process == process)
            .max_by_key(|start| start.at_us)
    }

    pub(super) fn no_innocent_dies_beside_a_suspect(&mut self) {
        for (id, job) in &self.history.jobs {
            let Some(died_us) = job.died_innocent_us() else {
                continue;
            };
            let starts = job.starts.iter().filter(|start| start.at_us < died_us);
            let Some(last) = starts.max_by_key(|start| start.at_us) else {
                continue;
            };
            // Where it was taken from there, it died with a worker that was silent before its handler began: that one was frozen.
            let taken = |at: &u64| (last.at_us..died_us).contains(at);
            if job.stalled_us.iter().any(taken) {
                continue;
            }
            let process = self.history.processes.get(&last.process);
            let aborted = process.is_some_and(|process| {
                process.aborted && process.ended_us.is_some_and(|ended| ended < died_us)
            });
            let killer = self.killer_in(&last.process);
            if aborted && killer.is_some_and(|killer| killer.stalls >= SUSPECT) {
                self.offend(
                    "innocent",
                    Some(id),
                    format!("died with its killer in {}", last.process),
                );
            }
        }
    }
}
