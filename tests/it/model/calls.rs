//! What each call does to the reference, and what it must be answered.

use std::collections::BTreeMap;

use millstream::broker::{EntryId, Lane};
use millstream::job::state::{State, Transition};
use millstream::{JobId, Priority};
use serde_json::json;

use super::operation::{Conflict, Order, Reason, Until, Wait};
use super::reference::{Answer, Job, LastCall, Model, Moment, Reply, Stored};
use super::translate;
use super::turns::{IN_FRONT, IN_LINE};

/// A call that a caller numbers, so that it may be sent again.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Enqueue(Vec<Order>),
    /// Deliveries of one lane, and whether a history is kept.
    Complete(Lane, Vec<usize>, bool),
    /// With an error, or `None` for a snooze.
    Retry(usize, Option<String>),
    DeadLetter(usize, Reason),
    /// Deliveries of one lane.
    Release(Lane, Vec<usize>),
    /// With the unique key that the job was seen to hold.
    Cancel(Option<usize>, Option<String>),
    RunNow(Option<usize>),
    /// With another payload, at another time (at once, or later with `true`), of another priority.
    Update(Option<usize>, Option<u8>, Option<bool>, Option<Priority>),
    Redrive(Vec<usize>),
    Purge(Vec<usize>),
    /// Those that are of the group.
    GroupPurge(String, Vec<usize>),
}

impl Model {
    /// Carries out a numbered call once. `ids`: what Redis calls the new jobs.
    pub(super) fn call(&mut self, caller: &str, number: i64, call: &Call, ids: &[JobId]) -> Reply {
        if let Some(last) = self.callers.get(caller) {
            if number == last.number {
                return last.reply.clone();
            }
            if number < last.number {
                return Reply::Old;
            }
        }
        let (reply, answer) = match call {
            Call::Enqueue(orders) => self.enqueue(orders, ids),
            Call::Complete(lane, deliveries, keep) => self.complete(*lane, deliveries, *keep),
            Call::Retry(delivery, error) => self.retry(*delivery, error.as_deref()),
            Call::DeadLetter(delivery, reason) => self.dead_letter(*delivery, *reason),
            Call::Release(_, deliveries) => self.release(deliveries),
            Call::Cancel(job, key) => self.cancel(*job, key.as_ref()),
            Call::RunNow(job) => self.run_now(*job),
            Call::Update(job, payload, later, priority) => {
                self.update(*job, *payload, *later, *priority)
            }
            Call::Redrive(jobs) => self.redrive(jobs),
            Call::Purge(jobs) => self.purge(jobs),
            Call::GroupPurge(group, jobs) => self.group_purge(group, jobs),
        };
        // Only what was carried out is remembered; a refusal changes nothing, so it may be given again.
        if let Some(answer) = answer {
            let last = LastCall {
                number,
                at: Moment::later(self.now_ms, 0),
                reply: reply.clone(),
                answer,
            };
            self.callers.insert(caller.to_owned(), last);
        }
        reply
    }

    fn enqueue(&mut self, orders: &[Order], ids: &[JobId]) -> (Reply, Option<Answer>) {
        let unfinished = |job: &&Job| job.state.is_some_and(|state| state != State::Dead);
        let depth = self.jobs.iter().filter(unfinished).count();
        let is_new = |order: &&Order| match self.in_the_way(order) {
            // The one that comes at the end of the window.
            Some(holder) if translate::conflict(order) == Conflict::Throttle => {
                self.jobs[holder].state != Some(State::Scheduled)
            }
            holder => holder.is_none(),
        };
        let wanted = depth + orders.iter().filter(is_new).count();
        if self.max_depth.is_some_and(|max| wanted as u64 > max) {
            return (Reply::Full(depth as u64), None);
        }
        if let Some(refusal) = self.full_group(orders) {
            return (refusal, None);
        }
        let mut ids = ids.iter().cloned();
        let (mut reply, mut left) = (Vec::new(), Vec::new());
        for order in orders {
            let id = ids.next().unwrap_or_else(|| "unnamed".into());
            reply.push(self.enqueue_one(order, id, &mut left));
            left.append(&mut self.left);
        }
        self.admit_next(&left);
        let text = reply.iter().map(|(id, kind)| match kind {
            Stored::New => id.to_string(),
            Stored::Duplicate => format!("={id}"),
            Stored::Replaced => format!("~{id}"),
        });
        let answer = Answer::Text(text.collect::<Vec<_>>().join(" "));
        (Reply::Jobs(reply), Some(answer))
    }

    /// The first group that would have more held jobs than it may.
    fn full_group(&self, orders: &[Order]) -> Option<Reply> {
        // Of each group: slots taken, tokens missing, jobs that would be ready, and held.
        let mut plans: BTreeMap<String, (usize, u32, u64, u64)> = BTreeMap::new();
        for order in orders {
            let group = order.group.map(translate::group);
            let Some(group) = group.filter(|_| !order.delayed && self.in_the_way(order).is_none())
            else {
                continue;
            };
            let Some(most) = self.backlog(&group) else {
                continue;
            };
            let held = self.held_of(&group).len() as u64;
            let start = || (self.slots(&group), self.missing_in(&group), 0, 0);
            let plan = plans.entry(group.clone()).or_insert_with(start);
            let has_slot = self.most(&group).is_none_or(|slots| plan.0 < slots);
            let missing = self.charged(&group, plan.1, translate::cost(order));
            match missing.filter(|_| held == 0 && plan.3 == 0 && has_slot) {
                Some(missing) => (plan.0, plan.1, plan.2) = (plan.0 + 1, missing, plan.2 + 1),
                None => plan.3 += 1,
            }
            let room = most.saturating_sub(held);
            if plan.3 > room {
                return Some(Reply::GroupFull(group, held, plan.2 + room));
            }
        }
        None
    }

    /// The job that is in the way of `order`.
    fn in_the_way(&self, order: &Order) -> Option<usize> {
        let (key, until) = order.unique?;
        let holder = self.holder(&translate::key(key))?;
        let state = self.jobs[holder].state;
        let counts = match until {
            Until::Window => true,
            Until::Finished => !matches!(state, None | Some(State::Dead)),
            Until::Waiting => matches!(state, Some(State::Scheduled | State::Held | State::Ready)),
        };
        counts.then_some(holder)
    }

    fn enqueue_one(&mut self, order: &Order, id: JobId, left: &mut Vec<String>) -> (JobId, Stored) {
        let key = order
            .unique
            .map(|(key, until)| (translate::key(key), until));
        let mut wait = order.delayed.then_some(translate::LATER_MS);
        let times = [
            order.expires.map(translate::expiry),
            order.deadline.map(translate::deadline),
        ];
        let ends = times.into_iter().flatten().min();
        let ends = ends.map_or(i64::MAX, |ends| ends.as_millis() as i64);
        let mut hold = key.as_ref().map_or(0, |(_, until)| {
            translate::hold(*until, order.delayed).as_millis() as i64
        });
        let mut at_window_end = false;
        if let Some(holder) = self.in_the_way(order) {
            let (key, _) = key.as_ref().expect("something is in the way");
            let (at, state) = (self.jobs[holder].id.clone(), self.jobs[holder].state);
            let waits = matches!(state, Some(State::Scheduled | State::Held | State::Ready));
            match translate::conflict(order) {
                Conflict::Throttle if state == Some(State::Scheduled) => {
                    self.replace(holder, order, None, left);
                    self.jobs[holder].at_window_end = true;
                    return (at, Stored::Replaced);
                }
                Conflict::Throttle => {
                    let rest = self.uniques[key].1.ms - self.now_ms;
                    wait = wait.max(Some(rest));
                    hold += wait.unwrap_or_default();
                    at_window_end = true;
                }
                Conflict::Replace if waits => {
                    let until = Moment::later(self.now_ms, hold);
                    self.uniques.insert(key.clone(), (holder, until));
                    let wait = wait.map(|wait| wait.min(ends));
                    self.replace(holder, order, Some(wait), left);
                    return (at, Stored::Replaced);
                }
                _ => return (at, Stored::Duplicate),
            }
        }
        let number = self.jobs.len();
        let mut job = self.job(order, id.clone());
        let wait_at_most = if at_window_end { i64::MAX } else { ends };
        job.since = Moment::later(self.now_ms, wait.unwrap_or_default().min(wait_at_most));
        job.at_window_end = at_window_end;
        job.left = wait.is_some();
        self.jobs.push(job);
        if wait.is_some() {
            self.go(number, Transition::Enqueue, Some(State::Scheduled));
        } else {
            self.place_in_turn(number, Transition::Enqueue, Lane::Ready, IN_LINE);
            let is_normal = order.priority == Priority::Normal;
            self.jobs[number].left = !is_normal || self.jobs[number].state == Some(State::Held);
        }
        if let Some((key, _)) = key {
            let until = Moment::later(self.now_ms, hold);
            self.uniques.insert(key, (number, until));
        }
        self.count("enqueued", 1);
        (id, Stored::New)
    }

    /// A job as its producer described it.
    pub(super) fn job(&self, order: &Order, id: JobId) -> Job {
        let claims = order.unique.filter(|(_, until)| *until != Until::Window);
        Job {
            id,
            state: None,
            name: translate::name(order.name),
            payload: translate::payload(order.payload),
            attempt: 1,
            stalls: 0,
            unique: claims.map(|(key, _)| translate::key(key)),
            expires: order.expires.map(|wait| {
                let after = translate::expiry(wait).as_millis() as i64;
                (wait, Moment::later(self.now_ms, after))
            }),
            deadline: order.deadline.map(|wait| {
                let after = translate::deadline(wait).as_millis() as i64;
                (wait, Moment::later(self.now_ms, after))
            }),
            group: order.group.map(translate::group),
            priority: order.priority,
            slot: false,
            turn: String::new(),
            meta: translate::meta(order),
            left: false,
            errors: Vec::new(),
            reason: None,
            since: Moment::at(0),
            at_window_end: false,
        }
    }

    /// A waiting job becomes what `order` says and keeps its id, its errors and its stalls. `wait`: `None` leaves its due time.
    fn replace(
        &mut self,
        holder: usize,
        order: &Order,
        wait: Option<Option<i64>>,
        left: &mut Vec<String>,
    ) {
        let old = self.jobs[holder].clone();
        let new = self.job(order, old.id.clone());
        // Whoever waits on for his time keeps his place in the group.
        let slot = old.slot && wait.is_none() && old.group == new.group;
        if !slot {
            self.vacate(holder, left);
        }
        self.jobs[holder] = Job {
            slot,
            state: old.state,
            stalls: old.stalls,
            left: true,
            errors: old.errors,
            since: old.since,
            ..new
        };
        self.count("replaced", 1);
        let Some(wait) = wait else { return };
        let lanes = self.lanes.values_mut();
        lanes.for_each(|lane| lane.retain(|place| place.job != holder));
        let to = match wait {
            Some(wait) => {
                self.jobs[holder].since = Moment::later(self.now_ms, wait);
                State::Scheduled
            }
            None => self.turn(holder, Lane::Ready, IN_LINE),
        };
        self.jobs[holder].state = Some(to);
    }

    fn complete(
        &mut self,
        lane: Lane,
        deliveries: &[usize],
        keep: bool,
    ) -> (Reply, Option<Answer>) {
        let (mut lost, mut left) = (Vec::new(), Vec::new());
        // Those of one kind are in front, and so in the answer.
        let (slots, others): (Vec<usize>, Vec<_>) = deliveries
            .iter()
            .partition(|delivery| !keep && self.leaves_only_a_slot(**delivery));
        for delivery in slots.into_iter().chain(others) {
            let held = self.deliveries[delivery].clone();
            assert_eq!(held.lane, lane, "one call settles one lane");
            let Some(job) = self.take(delivery) else {
                lost.push(held.entry);
                continue;
            };
            self.go(job, Transition::Complete, Some(State::Completed));
            self.vacate(job, &mut left);
            self.unlock(held.unique.as_ref(), job);
            self.count("completed", 1);
            if keep {
                let job = &self.jobs[job];
                let row = [
                    job.id.to_string(),
                    job.name.clone(),
                    job.attempt.to_string(),
                ];
                self.history.push(row);
            }
        }
        self.admit_next(&left);
        self.count("lease_lost", lost.len());
        let answer = Answer::Text(joined(&lost));
        (Reply::Lost(lost), Some(answer))
    }

    fn leaves_only_a_slot(&self, delivery: usize) -> bool {
        let held = &self.deliveries[delivery];
        let has_told = self.progress.values().any(|(by, _)| *by == delivery);
        held.slot && held.unique.is_none() && !has_told
    }

    fn retry(&mut self, delivery: usize, error: Option<&str>) -> (Reply, Option<Answer>) {
        let Some(job) = self.take(delivery) else {
            return (Reply::LeaseLost, None);
        };
        // It waits no longer than until its deadline.
        let is_late = matches!(self.jobs[job].deadline, Some((Wait::Short, _)));
        let wait = if is_late { 0 } else { translate::LATER_MS };
        if let Some(error) = error {
            let attempt = self.jobs[job].attempt;
            self.add_error(job, error);
            self.jobs[job].attempt += 1;
            self.count("failed", 1);
            self.count("retried", 1);
            let next = format!("attempt {attempt} failed, next in {wait} ms");
            let id = self.jobs[job].id.to_string();
            self.tell("retried", &id, next);
        } else {
            self.count("snoozed", 1);
        }
        self.go(job, Transition::Retry, Some(State::Scheduled));
        let since = Moment::later(self.now_ms, wait);
        let parked = &mut self.jobs[job];
        // It has started in time; expiry is about the wait before that.
        (parked.left, parked.since, parked.expires) = (true, since, None);
        if !self.blocks {
            let mut left = Vec::new();
            self.vacate(job, &mut left);
            self.admit_next(&left);
        }
        (Reply::Done, Some(Answer::Moment(job)))
    }

    fn dead_letter(&mut self, delivery: usize, reason: Reason) -> (Reply, Option<Answer>) {
        let held = self.deliveries[delivery].clone();
        let out_of_time = self.out_of_time(held.job);
        if reason == Reason::Expired && self.is_live(delivery) && out_of_time.is_none() {
            return (Reply::NotYet, None);
        }
        let Some(job) = self.take(delivery) else {
            return (Reply::LeaseLost, None);
        };
        if reason != Reason::Expired {
            self.count("failed", 1);
        }
        let why = translate::reason(reason);
        let error = out_of_time.filter(|_| reason == Reason::Expired);
        let error = error.unwrap_or(translate::ERROR);
        self.bury(job, Transition::DeadLetter, why, error);
        let mut left = Vec::new();
        self.vacate(job, &mut left);
        self.admit_next(&left);
        self.unlock(held.unique.as_ref(), job);
        (Reply::Done, Some(Answer::Moment(job)))
    }

    fn release(&mut self, deliveries: &[usize]) -> (Reply, Option<Answer>) {
        let mut lost = Vec::new();
        for &delivery in deliveries {
            let Some(job) = self.take(delivery) else {
                lost.push(self.deliveries[delivery].entry);
                continue;
            };
            self.go(job, Transition::Release, Some(State::Ready));
            self.place(job, Lane::Next);
            self.count("released", 1);
        }
        let answer = (lost.len() < deliveries.len()).then(|| Answer::Text(joined(&lost)));
        (Reply::Lost(lost), answer)
    }

    fn cancel(&mut self, job: Option<usize>, key: Option<&String>) -> (Reply, Option<Answer>) {
        let Some((job, before)) = job.and_then(|job| Some((job, self.jobs[job].state?))) else {
            return (Reply::NotFound, None);
        };
        if before == State::Dead {
            return (Reply::WrongState("dead".to_owned()), None);
        }
        self.go(job, Transition::Cancel, Some(State::Cancelled));
        let mut left = Vec::new();
        self.vacate(job, &mut left);
        let lanes = self.lanes.values_mut();
        lanes.for_each(|lane| lane.retain(|place| place.job != job));
        self.admit_next(&left);
        self.unlock(key, job);
        self.count("cancelled", 1);
        let id = self.jobs[job].id.to_string();
        self.tell("cancelled", &id, before.name().to_owned());
        (
            Reply::Was(before),
            Some(Answer::Text(before.name().to_owned())),
        )
    }

    fn run_now(&mut self, job: Option<usize>) -> (Reply, Option<Answer>) {
        let refusal = match job.and_then(|job| Some((job, self.jobs[job].state?))) {
            Some((job, State::Scheduled | State::Held)) => {
                self.place_in_turn(job, Transition::RunNow, Lane::Next, IN_FRONT);
                let left = std::mem::take(&mut self.left);
                self.admit_next(&left);
                return (Reply::Done, Some(Answer::Text(String::new())));
            }
            Some((_, State::Dead)) => Reply::WrongState("dead".to_owned()),
            Some((job, _)) if self.jobs[job].left => Reply::WrongState("ready".to_owned()),
            _ => Reply::NotFound,
        };
        (refusal, None)
    }

    fn update(
        &mut self,
        job: Option<usize>,
        payload: Option<u8>,
        later: Option<bool>,
        priority: Option<Priority>,
    ) -> (Reply, Option<Answer>) {
        let Some((job, before)) = job.and_then(|job| Some((job, self.jobs[job].state?))) else {
            return (Reply::NotFound, None);
        };
        if !matches!(before, State::Scheduled | State::Held | State::Ready) {
            return (Reply::WrongState(before.name().to_owned()), None);
        }
        if let Some(payload) = payload {
            self.jobs[job].payload = translate::payload(payload);
        }
        self.jobs[job].priority = priority.unwrap_or(self.jobs[job].priority);
        let is_changed = payload.is_some() || priority.is_some();
        let on_lane = before == State::Ready;
        let after = match later {
            None | Some(false) => before,
            Some(true) => State::Scheduled,
        };
        self.go(job, Transition::Update, Some(after));
        let mut left = Vec::new();
        if on_lane && after == State::Scheduled {
            self.vacate(job, &mut left);
        }
        if on_lane && (after == State::Scheduled || is_changed) {
            let lane = Lane::ALL
                .into_iter()
                .find(|lane| self.lane(*lane).iter().any(|place| place.job == job));
            let lane = lane.expect("a ready job is on a lane");
            self.lane(lane).retain(|place| place.job != job);
            self.jobs[job].left = true;
            if after == State::Ready {
                // One that was handed back stays among those.
                let is_next = lane == Lane::Next;
                self.place(job, if is_next { lane } else { Lane::Ready });
            }
        }
        self.admit_next(&left);
        if let Some(later) = later.filter(|_| after == State::Scheduled) {
            let wait = if later { translate::LATER_MS } else { 0 };
            let wait = wait.min(self.time_left(job)).max(0);
            self.jobs[job].since = Moment::later(self.now_ms, wait);
        }
        let changed = [
            payload.map(|_| "payload"),
            priority.map(|_| "priority"),
            later.map(|_| "due"),
        ];
        let changed: Vec<_> = changed.into_iter().flatten().collect();
        let id = self.jobs[job].id.to_string();
        self.tell("updated", &id, changed.join(", "));
        let answer = Answer::Text(after.name().to_owned());
        (Reply::Was(after), Some(answer))
    }

    fn redrive(&mut self, jobs: &[usize]) -> (Reply, Option<Answer>) {
        let mut redriven = Vec::new();
        for &job in jobs {
            if self.jobs[job].state != Some(State::Dead) {
                continue;
            }
            let alive = &mut self.jobs[job];
            (alive.attempt, alive.stalls, alive.reason) = (1, 0, None);
            (alive.unique, alive.expires, alive.deadline) = (None, None, None);
            self.place_in_turn(job, Transition::Redrive, Lane::Ready, IN_LINE);
            redriven.push(job);
        }
        let left = std::mem::take(&mut self.left);
        self.admit_next(&left);
        let (reply, answer) = self.moved("redriven", &redriven);
        // And how many ids it got through: all, with the one that no job has.
        let looked = jobs.len() + 1;
        let answer = answer.map(|_| Answer::Text(format!("{} {looked}", redriven.len())));
        (reply, answer)
    }

    fn purge(&mut self, jobs: &[usize]) -> (Reply, Option<Answer>) {
        let mut purged = Vec::new();
        for &job in jobs {
            if self.jobs[job].state == Some(State::Dead) {
                self.go(job, Transition::Purge, None);
                purged.push(job);
            }
        }
        let (reply, answer) = self.moved("purged", &purged);
        // And how many ids it got through: all, with the one that no job has.
        let looked = jobs.len() + 1;
        let answer = answer.map(|_| Answer::Text(format!("{} {looked}", purged.len())));
        (reply, answer)
    }

    fn group_purge(&mut self, group: &str, jobs: &[usize]) -> (Reply, Option<Answer>) {
        let (mut purged, mut left, mut unlock) = (0, Vec::new(), Vec::new());
        for &job in jobs {
            let Some(before) = self.jobs[job].state else {
                continue;
            };
            if self.jobs[job].group.as_deref() != Some(group) {
                continue;
            }
            self.go(job, Transition::GroupPurge, None);
            self.vacate(job, &mut left);
            let lanes = self.lanes.values_mut();
            lanes.for_each(|lane| lane.retain(|place| place.job != job));
            let id = self.jobs[job].id.clone();
            let is_dead = before == State::Dead;
            self.count(if is_dead { "purged" } else { "cancelled" }, 1);
            unlock.extend(
                self.jobs[job]
                    .unique
                    .clone()
                    .filter(|_| !is_dead)
                    .map(|key| (key, id)),
            );
            purged += 1;
        }
        self.admit_next(&left);
        // With the one that no job has.
        let mut answer = json!({ "purged": purged, "looked": jobs.len() + 1 });
        if !unlock.is_empty() {
            let words = unlock
                .iter()
                .flat_map(|(key, id)| [key.as_str(), id.as_str()]);
            answer["unlock"] = words.collect();
        }
        let answer = Answer::Text(answer.to_string());
        (Reply::Purged(purged, unlock), Some(answer))
    }

    /// A step right after one of its kind takes that one's place, unless it is the first event of all.
    fn tell_of_many(&mut self, kind: &'static str, count: usize) {
        let (mut jobs, mut steps) = (count, 1);
        if self.events.len() >= 2
            && let Some([before, job, detail]) = self.events.last()
            && before == kind
            && job.is_empty()
        {
            let told = told_of(detail);
            (jobs, steps) = (told.0 + count, told.1 + 1);
            self.events.pop();
        }
        let detail = match steps {
            1 => format!("{jobs} jobs"),
            steps => format!("{jobs} jobs in {steps} steps"),
        };
        self.tell(kind, "", detail);
    }

    fn moved(&mut self, kind: &'static str, jobs: &[usize]) -> (Reply, Option<Answer>) {
        let count = jobs.len();
        let reply = Reply::Counts(vec![count as u64]);
        if count == 0 {
            return (reply, None);
        }
        self.count(kind, count);
        match jobs {
            [one] => {
                let one = self.jobs[*one].id.to_string();
                self.tell(kind, &one, "1 jobs".to_owned());
            }
            _ => self.tell_of_many(kind, count),
        }
        (reply, Some(Answer::Text(count.to_string())))
    }
}

/// How many jobs an event is about, and in how many steps.
fn told_of(detail: &str) -> (usize, usize) {
    let number = |text: &str| text.parse::<usize>().ok();
    match *detail.split(' ').collect::<Vec<_>>() {
        [jobs, "jobs", "in", steps, "steps"] => number(jobs).zip(number(steps)),
        [jobs, "jobs"] => number(jobs).map(|jobs| (jobs, 1)),
        _ => None,
    }
    .unwrap_or((0, 1))
}

/// Entry ids as an answer has them.
fn joined(entries: &[EntryId]) -> String {
    let entries: Vec<_> = entries.iter().map(EntryId::to_string).collect();
    entries.join(" ")
}
