//! Whose turn it is, in the reference.

use std::collections::BTreeSet;

use millstream::broker::Lane;
use millstream::job::state::{State, Transition};

use super::reference::Model;

/// How a job comes among the held.
pub(super) const IN_FRONT: char = '0';
pub(super) const IN_LINE: char = '5';

impl Model {
    fn most(&self, group: &str) -> Option<usize> {
        let own = self.limits.get(&Some(group.to_owned()));
        own.or(self.limits.get(&None)).copied()
    }

    pub(super) fn slots(&self, group: &str) -> usize {
        let jobs = self.jobs.iter();
        jobs.filter(|job| job.slot && job.group.as_deref() == Some(group))
            .count()
    }

    /// The group's held jobs in the order of their turns.
    fn held_of(&self, group: &str) -> Vec<usize> {
        let jobs = self.jobs.iter().enumerate();
        let held = jobs.filter(|(_, job)| {
            job.state == Some(State::Held) && job.group.as_deref() == Some(group)
        });
        let mut held: Vec<usize> = held.map(|(job, _)| job).collect();
        held.sort_by_key(|job| self.jobs[*job].turn.clone());
        held
    }

    pub(super) fn place_in_turn(&mut self, job: usize, by: Transition, lane: Lane, kind: char) {
        let to = self.turn(job, lane, kind);
        self.go(job, by, Some(to));
    }

    /// Puts a job on the lane, or among the held when it is not its turn.
    pub(super) fn turn(&mut self, job: usize, lane: Lane, kind: char) -> State {
        let group = self.jobs[job].group.clone();
        if let Some(group) = group.filter(|_| !self.jobs[job].slot) {
            let most = self.most(&group);
            let has_room = most.is_none_or(|most| self.slots(&group) < most);
            let others_wait = self.held_of(&group).iter().any(|other| *other != job);
            if !has_room || others_wait {
                self.count("held", 1);
                let turn = format!("{kind}{:016}", self.counters["held"]);
                (self.jobs[job].left, self.jobs[job].turn) = (true, turn);
                return State::Held;
            }
            self.jobs[job].slot = most.is_some();
        }
        self.place(job, lane);
        State::Ready
    }

    /// The job leaves the lanes; the next of its group is admitted once this call has done its own.
    pub(super) fn vacate(&mut self, job: usize, left: &mut Vec<String>) {
        let job = &mut self.jobs[job];
        if std::mem::take(&mut job.slot) {
            let group = job.group.clone().expect("only with a group");
            if !left.contains(&group) {
                left.push(group);
            }
        }
    }

    /// Whether some job is held though its group has room: a limit was changed, and nobody has admitted anybody since.
    pub(super) fn is_unfilled(&self) -> bool {
        let jobs = self.jobs.iter();
        let mut held = jobs.filter(|job| job.state == Some(State::Held));
        held.any(|job| {
            let group = job.group.as_deref().expect("only with a group");
            self.most(group).is_none_or(|most| self.slots(group) < most)
        })
    }

    /// Gives what was left to those who wait, group by group.
    pub(super) fn admit_next(&mut self, groups: &[String]) {
        for group in groups {
            for job in self.held_of(group) {
                let most = self.most(group);
                if most.is_some_and(|most| self.slots(group) >= most) {
                    break;
                }
                self.jobs[job].slot = most.is_some();
                self.go(job, Transition::Admit, Some(State::Ready));
                self.place(job, Lane::Ready);
            }
        }
    }

    /// The same for all groups.
    pub(super) fn admit(&mut self) -> u64 {
        let held = |model: &Self| {
            let jobs = model.jobs.iter();
            let held = jobs.filter(|job| job.state == Some(State::Held));
            held.filter_map(|job| job.group.clone()).collect::<Vec<_>>()
        };
        let before = held(self);
        let groups: BTreeSet<String> = before.iter().cloned().collect();
        self.admit_next(&groups.into_iter().collect::<Vec<_>>());
        (before.len() - held(self).len()) as u64
    }
}
