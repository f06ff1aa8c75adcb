//! How the reference looks from outside: the picture that Redis must give, and the times that it takes from there.

use std::collections::BTreeMap;

use millstream::Priority;
use millstream::broker::Lane;
use millstream::job::state::State;
use serde_json::{Value as Json, json};

use super::operation::GROUPS;
use super::picture::{Entry, Picture, Record};
use super::reference::{Answer, Job, Model, lane_name, lane_number};
use super::translate;

/// What Redis holds as the number of a call that has none before it: all have the same length.
const NUMBERED_FROM: i64 = 1_000_000_000_000_000;

impl Model {
    /// Takes over the times that Redis chose, where they can be right.
    pub(super) fn learn(&mut self, seen: &Picture, now_ms: i64) {
        for job in &mut self.jobs {
            let id = job.id.as_str();
            let parked = seen.scheduled.get(id).or_else(|| seen.dead.get(id));
            job.since.learn(parked.copied(), now_ms);
            let record = seen.records.get(id);
            let errors = record.map_or(&[][..], |record| &record.errors);
            for ((at, ..), (read, ..)) in job.errors.iter_mut().zip(errors) {
                at.learn(Some(*read), now_ms);
            }
            if job.expires.is_none() && job.deadline.is_none() {
                continue;
            }
            let mut entries = seen.lanes.values().flatten();
            let entry = entries.find(|entry| entry.job == id);
            let meta = entry.map(|entry| &entry.meta);
            let meta = meta.or(record.map(|record| &record.meta));
            let times = [
                (&mut job.expires, "expires_at_ms"),
                (&mut job.deadline, "deadline_at_ms"),
            ];
            for (time, field) in times {
                if let Some((_, at)) = time {
                    at.learn(meta.and_then(|meta| meta[field].as_i64()), now_ms);
                }
            }
        }
        for (key, (_, until)) in &mut self.uniques {
            let read = seen.uniques.get(key);
            until.learn(read.map(|(_, until)| *until), now_ms);
        }
        for (moment, read) in [&mut self.swept, &mut self.grace]
            .into_iter()
            .zip(seen.sweeps)
        {
            if let Some(moment) = moment {
                moment.learn(read, now_ms);
            }
        }
        for (caller, last) in &mut self.callers {
            let read = seen
                .callers
                .get(caller)
                .and_then(|last| last.split(' ').nth(1));
            last.at
                .learn_second(read.and_then(|second| second.parse().ok()), now_ms);
            if let Answer::Moment(job) = last.answer {
                last.answer = Answer::Text(self.jobs[job].since.ms.to_string());
            }
        }
        self.now_ms = now_ms;
    }

    /// What Redis must hold.
    pub(super) fn picture(&self) -> Picture {
        let mut picture = Picture::default();
        for lane in Lane::ALL {
            let places = self.lanes.get(&lane_number(lane)).into_iter().flatten();
            let entries = places.map(|place| {
                let job = &self.jobs[place.job];
                let holder = place.delivery.map(|at| self.deliveries[at].worker.clone());
                Entry {
                    job: job.id.to_string(),
                    holder,
                    name: job.name.clone(),
                    payload: job.payload.clone(),
                    attempt: job.attempt,
                    meta: job.stored_meta(),
                }
            });
            let entries: Vec<Entry> = entries.collect();
            if !entries.is_empty() {
                picture.lanes.insert(lane_name(lane).to_owned(), entries);
            }
        }
        let mut held = BTreeMap::new();
        for job in &self.jobs {
            let id = || job.id.to_string();
            let parked = match job.state {
                Some(State::Scheduled) => &mut picture.scheduled,
                Some(State::Dead) => &mut picture.dead,
                Some(State::Held) => {
                    let group = job.group.clone().expect("only with a group");
                    held.insert((group, job.turn.clone()), id());
                    picture.records.insert(id(), job.record("held"));
                    picture.payloads.insert(id(), job.payload.clone());
                    continue;
                }
                Some(_) if job.left => {
                    picture.records.insert(id(), job.record("ready"));
                    continue;
                }
                _ => continue,
            };
            parked.insert(id(), job.since.ms);
            let state = job.state.map_or("", State::name);
            picture.records.insert(id(), job.record(state));
            picture.payloads.insert(id(), job.payload.clone());
        }
        let held = held.into_iter();
        picture.held = held.map(|((group, _), job)| (group, job)).collect();
        for group in (0..GROUPS).map(translate::group) {
            let slots = self.slots(&group) as i64;
            if slots > 0 {
                picture.groups.insert(group, slots);
            }
        }
        let concurrency = self.limits.iter();
        let concurrency = concurrency.map(|(group, most)| (group, "concurrency", json!(most)));
        let backlogs = self.backlogs.iter();
        let backlogs = backlogs.map(|(group, most)| (group, "max_backlog", json!(most)));
        let rates = self
            .bursts
            .keys()
            .map(|group| (group, "rate", json!("1/h")));
        let bursts = self.bursts.iter();
        let bursts = bursts.map(|(group, burst)| (group, "burst", json!(burst)));
        let mut own: BTreeMap<&String, Json> = BTreeMap::new();
        for (group, name, value) in concurrency.chain(backlogs).chain(rates).chain(bursts) {
            if let Some(group) = group {
                own.entry(group).or_insert_with(|| json!({}))[name] = value;
                continue;
            }
            let text = value.as_str().map(str::to_owned);
            let text = text.unwrap_or_else(|| value.to_string());
            picture.limits.insert(format!("group_{name}"), text);
        }
        for group in &self.paused_groups {
            own.entry(group).or_insert_with(|| json!({}))["paused"] = json!(1);
        }
        for (group, own) in own {
            let limits = (format!("group:{group}"), own.to_string());
            picture.limits.insert(limits.0, limits.1);
        }
        if self.blocks {
            let order = ("group_order".to_owned(), "block".to_owned());
            picture.limits.insert(order.0, order.1);
        }
        if let Some(jobs) = self.concurrency {
            let limit = ("concurrency".to_owned(), jobs.to_string());
            picture.limits.insert(limit.0, limit.1);
        }
        if let Some(burst) = self.queue_burst {
            picture.limits.insert("rate".to_owned(), "1/h".to_owned());
            picture.limits.insert("burst".to_owned(), burst.to_string());
        }
        let progress = self.progress.iter();
        picture.progress = progress
            .map(|(job, (_, quarters))| (self.jobs[*job].id.to_string(), u64::from(*quarters)))
            .collect();
        if let Some(jobs) = self.max_depth {
            picture
                .limits
                .insert("max_depth".to_owned(), jobs.to_string());
        }
        let uniques = self.uniques.iter().map(|(key, (job, until))| {
            let holder = self.jobs[*job].id.to_string();
            (key.clone(), (holder, until.ms))
        });
        picture.uniques = uniques.collect();
        picture.history.clone_from(&self.history);
        let counters = self.counters.iter().filter(|(_, count)| **count != 0);
        let counters = counters.map(|(name, count)| ((*name).to_owned(), *count));
        picture.counters = counters.collect();
        picture.events.clone_from(&self.events);
        let callers = self.callers.iter().map(|(caller, last)| {
            let answer = match &last.answer {
                Answer::Text(text) => text.clone(),
                Answer::Moment(job) => self.jobs[*job].since.ms.to_string(),
            };
            (
                caller.clone(),
                format!(
                    "{} {} {answer}",
                    NUMBERED_FROM + last.number,
                    last.at.ms / 1000
                ),
            )
        });
        picture.callers = callers.collect();
        picture.paused = self.paused;
        picture.upkeeper.clone_from(&self.upkeeper);
        picture.sweeps = [self.swept, self.grace].map(|moment| Some(moment?.ms));
        picture
    }
}

impl Job {
    fn stored_meta(&self) -> Json {
        let mut meta = self.meta.clone();
        if self.left {
            meta["id"] = json!(self.id);
        }
        if let Some(unique) = &self.unique {
            meta["unique"] = json!(unique);
        }
        if let Some((_, at)) = self.expires {
            meta["expires_at_ms"] = json!(at.ms);
        }
        if let Some((_, at)) = self.deadline {
            meta["deadline_at_ms"] = json!(at.ms);
        }
        if self.slot {
            meta["slot"] = json!(true);
        }
        if self.priority != Priority::Normal {
            meta["priority"] = json!(self.priority.name());
        }
        if self.stalls > 0 {
            meta["stalls"] = json!(self.stalls);
        }
        meta
    }

    fn record(&self, state: &str) -> Record {
        let errors = self.errors.iter();
        Record {
            state: state.to_owned(),
            name: self.name.clone(),
            attempt: self.attempt,
            meta: self.stored_meta(),
            errors: errors
                .map(|(at, attempt, message)| (at.ms, *attempt, message.clone()))
                .collect(),
            reason: self.reason.map(str::to_owned),
        }
    }
}
