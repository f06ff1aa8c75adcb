//! Whose turn it is, in the reference.

use std::collections::BTreeSet;

use millstream::broker::Lane;
use millstream::job::state::{State, Transition};

use super::reference::Model;

/// How a job comes among the held.
pub(super) const IN_FRONT: char = '0';
pub(super) const IN_LINE: char = '5';

impl Model {
    pub(super) fn backlog(&self, group: &str) -> Option<u64> {
        let own = self.backlogs.get(&Some(group.to_owned()));
        own.or(self.backlogs.get(&None)).copied()
    }

    fn burst(&self, group: &str) -> Option<u32> {
        let own = self.bursts.get(&Some(group.to_owned()));
        own.or(self.bursts.get(&None)).copied()
    }

    /// Tokens that are missing in the bucket of a group; 0 without one.
    pub(super) fn missing_in(&self, group: &str) -> u32 {
        let missing = self.missing.get(group).copied().unwrap_or_default();
        missing.min(self.burst(group).unwrap_or_default())
    }

    /// How many are missing once a job of that cost has taken its own, `None` when there are too few.
    pub(super) fn charged(&self, group: &str, missing: u32, cost: u32) -> Option<u32> {
        let Some(burst) = self.burst(group) else {
            return Some(missing);
        };
        let missing = missing + cost.min(burst);
        (missing <= burst && !self.paused).then_some(missing)
    }

    fn charge(&mut self, group: &str, job: usize) -> bool {
        let cost = self.cost(job);
        let Some(missing) = self.charged(group, self.missing_in(group), cost) else {
            return false;
        };
        if self.burst(group).is_some() {
            self.missing.insert(group.to_owned(), missing);
        }
        true
    }

    fn cost(&self, job: usize) -> u32 {
        let cost = self.jobs[job].meta["cost"].as_u64();
        cost.map_or(1, |cost| u32::try_from(cost).expect("a small number"))
    }

    pub(super) fn most(&self, group: &str) -> Option<usize> {
        if self.paused_groups.contains(group) {
            return Some(0);
        }
        let own = self.limits.get(&Some(group.to_owned()));
        own.or(self.limits.get(&None)).copied()
    }

    pub(super) fn slots(&self, group: &str) -> usize {
        let jobs = self.jobs.iter();
        jobs.filter(|job| job.slot && job.group.as_deref() == Some(group))
            .count()
    }

    /// The group's held jobs in the order of their turns.
    pub(super) fn held_of(&self, group: &str) -> Vec<usize> {
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
        if let Some(group) = group.clone().filter(|_| self.jobs[job].slot)
            && (self.paused_groups.contains(&group) || !self.charge(&group, job))
        {
            let mut left = Vec::new();
            self.vacate(job, &mut left);
            self.left.append(&mut left);
            return self.hold(job, IN_FRONT);
        }
        if let Some(group) = group.filter(|_| !self.jobs[job].slot) {
            let most = self.most(&group);
            let has_room = most.is_none_or(|most| self.slots(&group) < most);
            let others_wait = self.held_of(&group).iter().any(|other| *other != job);
            if !has_room || others_wait || !self.charge(&group, job) {
                return self.hold(job, kind);
            }
            self.jobs[job].slot = most.is_some();
        }
        self.place(job, lane);
        State::Ready
    }

    fn hold(&mut self, job: usize, kind: char) -> State {
        self.count("held", 1);
        let turn = format!("{kind}{:016}", self.counters["held"]);
        (self.jobs[job].left, self.jobs[job].turn) = (true, turn);
        State::Held
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
        let jobs = self.jobs.iter().enumerate();
        let mut held = jobs.filter(|(_, job)| job.state == Some(State::Held));
        held.any(|(number, job)| {
            let group = job.group.as_deref().expect("only with a group");
            let is_first = self.held_of(group).first() == Some(&number);
            let has_tokens = self.charged(group, self.missing_in(group), self.cost(number));
            let has_slot = self.most(group).is_none_or(|most| self.slots(group) < most);
            is_first && has_slot && has_tokens.is_some()
        })
    }

    /// Gives what was left to those who wait, group by group.
    pub(super) fn admit_next(&mut self, groups: &[String]) {
        for group in groups {
            for job in self.held_of(group) {
                let most = self.most(group);
                if most.is_some_and(|most| self.slots(group) >= most) || !self.charge(group, job) {
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
        self.unfilled = false;
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
