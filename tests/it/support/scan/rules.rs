//! What must hold among the keys of a queue. Each rule notes a fault in words.

use std::collections::BTreeMap;

use millstream::job::state::State;
use serde_json::Value as Json;

use super::{Exceptions, Scan};

/// At this number of stalls a job is dead.
const STALLS_MAX: u64 = 3;
/// A record keeps this many errors, the newest.
const ERRORS_KEPT: usize = 10;
/// Of what its handlers log, the newest.
const LINES_KEPT: usize = 100;
/// Every kind of event that the engine writes.
const EVENTS: &[&str] = &[
    "retried",
    "dead",
    "stalled",
    "cancelled",
    "updated",
    "redriven",
    "purged",
    "paused",
    "resumed",
    "orphaned",
    "fired",
    "skipped",
    "limited",
    "mended",
    "progress",
];

impl Scan {
    pub(super) fn check(&mut self, exceptions: &Exceptions) {
        self.check_records();
        self.check_lanes();
        self.check_progress();
        self.check_budgets();
        self.check_uniques(exceptions);
        self.check_groups(exceptions.unfilled);
        self.check_consumers();
        self.check_callers();
        self.check_events();
        self.check_schedules();
        self.check_books(exceptions.unbooked);
    }

    /// A job off the streams has a record and a payload; one that came back has a record that says where; no other has any.
    fn check_records(&mut self) {
        let mut faults = Vec::new();
        for (id, homes) in &self.homes {
            let home = &homes[0];
            let (record, payload) = (self.records.get(id), self.payloads.get(id));
            let Some((lane, entry)) = &home.at else {
                match (record, payload) {
                    (Some(record), Some(payload)) => {
                        if record["state"] != home.state.name() {
                            faults.push(format!("{id} is {}, its record: {record}", home.state));
                        }
                        if record["payload_bytes"] != payload.len() {
                            faults.push(format!("{id}: {} bytes, {record}", payload.len()));
                        }
                        if !record["entry"].is_null() || !record["lane"].is_null() {
                            faults.push(format!("{id} is off the streams, its record: {record}"));
                        }
                    }
                    _ => faults.push(format!("{id} is {} without record or payload", home.state)),
                }
                continue;
            };
            if payload.is_some() {
                faults.push(format!("{id} is on {lane} and has a stored payload"));
            }
            // Entry ids repeat from lane to lane, so an id alone does not tell whether the job ever left.
            let left = self.meta_of(id)["id"].is_string();
            let at_home = |record: &Json| {
                let at = record["lane"].as_str();
                record["state"] == "ready"
                    && record["entry"] == **entry
                    && at.is_some_and(|at| at.ends_with(&format!(":{lane}")))
            };
            match record {
                None if !left && id == entry && lane == "ready" => {}
                Some(record) if left && at_home(record) => {}
                _ => faults.push(format!("{id} is {entry} of {lane}, its record: {record:?}")),
            }
        }
        for id in self.records.keys().chain(self.payloads.keys()) {
            if !self.homes.contains_key(id) {
                faults.push(format!("{id} has a record or payload and no home"));
            }
        }
        self.faults.extend(faults);
    }

    /// Each job waits and runs on the lane of its priority; one that was handed back or stalled on a lane of those.
    fn check_lanes(&mut self) {
        let mut faults = Vec::new();
        for (id, homes) in &self.homes {
            let Some((lane, _)) = &homes[0].at else {
                continue;
            };
            let meta = self.meta_of(id);
            let lane_of = match meta["priority"].as_str() {
                None => "ready",
                Some("high") => "ready:high",
                Some("low") => "ready:low",
                Some(other) => {
                    faults.push(format!("{id} has the priority {other}"));
                    continue;
                }
            };
            if lane != lane_of && !["ready:next", "ready:suspect"].contains(&lane.as_str()) {
                faults.push(format!("{id} is on {lane} and belongs on {lane_of}"));
            }
        }
        self.faults.extend(faults);
    }

    /// What handlers have told is bounded, and kept only of jobs that are unfinished or dead.
    fn check_progress(&mut self) {
        let mut faults = Vec::new();
        for (id, told) in &self.progress {
            let lines = told["lines"].as_array().map_or(0, Vec::len);
            if !told.is_object() || lines > LINES_KEPT {
                faults.push(format!("{id} has told {told}"));
            }
            if !self.homes.contains_key(id) {
                faults.push(format!("{id} has told something and has no home"));
            }
        }
        self.faults.extend(faults);
    }

    /// A job that may still run has budget left; a dead one has a reason, and one that crash-looped has the stalls.
    fn check_budgets(&mut self) {
        let mut faults = Vec::new();
        for (id, homes) in &self.homes {
            let stalls = self.meta_of(id)["stalls"].as_u64().unwrap_or_default();
            let Some(record) = self.records.get(id) else {
                if stalls > 0 {
                    faults.push(format!("{id} stalled and has no record"));
                }
                continue;
            };
            let reason = record["reason"].as_str();
            let fits = match (homes[0].state, reason) {
                (State::Dead, Some("crash_loop")) => stalls >= STALLS_MAX,
                (State::Dead, reason) => reason.is_some() && stalls < STALLS_MAX,
                (_, reason) => reason.is_none() && stalls < STALLS_MAX,
            };
            let errors = record["errors"].as_array().map_or(0, Vec::len);
            if !fits || errors > ERRORS_KEPT || record["attempt"].as_u64().unwrap_or_default() == 0
            {
                let state = homes[0].state;
                faults.push(format!("{id} is {state} with {stalls} stalls: {record}"));
            }
        }
        self.faults.extend(faults);
    }

    /// A unique key is held by the unfinished job that claims it, and by nobody else.
    fn check_uniques(&mut self, exceptions: &Exceptions) {
        let mut claims = BTreeMap::new();
        let mut faults = Vec::new();
        for (id, homes) in &self.homes {
            let unfinished = homes[0].state != State::Dead;
            let Some(key) = self.meta_of(id)["unique"].as_str().map(str::to_owned) else {
                continue;
            };
            if !unfinished || exceptions.windows.contains(&key) {
                continue;
            }
            // A key that counts only while its job waits may be another's by the time that it waits again.
            let may_have_lost_it = self.meta_of(id)["unique_waiting"] == true;
            if self.uniques.get(&key) != Some(id) {
                if may_have_lost_it {
                    continue;
                }
                let holder = self.uniques.get(&key);
                faults.push(format!("{id} claims {key:?}, held by {holder:?}"));
            }
            claims.insert(key, id);
        }
        for (key, holder) in &self.uniques {
            if !claims.contains_key(key) && !exceptions.windows.contains(key) {
                faults.push(format!(
                    "{key:?} is held for {holder}, which does not claim it"
                ));
            }
        }
        self.faults.extend(faults);
    }

    /// The slots of a group that are counted are those that its jobs have: ready or running ones, and in a group that keeps its
    /// order those that wait for a retry. A job is held in its own group, and only while that is full.
    fn check_groups(&mut self, unfilled: bool) {
        let mut slots: BTreeMap<String, i64> = BTreeMap::new();
        let mut faults = Vec::new();
        for (id, homes) in &self.homes {
            let (meta, home) = (self.meta_of(id), &homes[0]);
            let group = meta["group"].as_str().unwrap_or_default();
            let has_slot = meta["slot"] == true;
            match home.state {
                State::Held => {
                    let turn = String::from_utf8_lossy(&home.fields[0]);
                    let record = self.records.get(id);
                    let told = record.and_then(|record| record["turn"].as_str());
                    let here = (group.to_owned(), id.clone());
                    if told != Some(&*turn) || !self.held.contains(&here) || has_slot {
                        faults.push(format!("{id} is held at {turn}, its record: {record:?}"));
                    }
                }
                State::Dead if has_slot => faults.push(format!("{id} is dead and has a slot")),
                _ => {}
            }
            if has_slot {
                *slots.entry(group.to_owned()).or_default() += 1;
            }
        }
        if slots != self.groups {
            faults.push(format!(
                "slots {:?} are counted, {slots:?} found",
                self.groups
            ));
        }
        let number = |text: &String| text.parse::<i64>().ok();
        let of_all = self.limits.get("group_concurrency").and_then(number);
        for (group, id) in &self.held {
            let own = self.limits.get(&format!("group:{group}"));
            let own = own.and_then(|own| serde_json::from_str::<Json>(own).ok());
            if own.as_ref().is_some_and(|own| !own["paused"].is_null()) {
                continue;
            }
            let is_rated = own.as_ref().is_some_and(|own| !own["rate"].is_null())
                || self.limits.contains_key("group_rate");
            let own = own.and_then(|own| own["concurrency"].as_i64());
            let taken = slots.get(group).copied().unwrap_or_default();
            if unfilled || own.or(of_all).is_some_and(|most| taken >= most) {
                continue;
            }
            if is_rated && !self.timed.contains(group) {
                faults.push(format!(
                    "{id} is held, its group {group} has a rate and no time to come"
                ));
            } else if !is_rated {
                faults.push(format!("{id} is held, and its group {group} has room"));
            }
        }
        self.faults.extend(faults);
    }

    /// What a consumer is said to hold are the entries that it holds.
    fn check_consumers(&mut self) {
        let mut held: BTreeMap<(&str, &str), i64> = BTreeMap::new();
        for home in self.homes.values().flatten() {
            if let (Some((lane, _)), Some(consumer)) = (&home.at, &home.consumer) {
                *held.entry((lane, consumer)).or_default() += 1;
            }
        }
        let mut faults = Vec::new();
        for (lane, consumers) in &self.consumers {
            for (consumer, holds) in consumers {
                let found = held.remove(&(lane, consumer)).unwrap_or_default();
                if found != *holds {
                    faults.push(format!("{consumer} holds {holds} of {lane}, {found} found"));
                }
            }
        }
        for ((lane, consumer), _) in held {
            faults.push(format!(
                "{lane} has no consumer {consumer}, which holds jobs"
            ));
        }
        self.faults.extend(faults);
    }

    /// A caller's last call has a number and a time.
    fn check_callers(&mut self) {
        let mut faults = Vec::new();
        for (caller, last) in &self.callers {
            let mut parts = last.splitn(3, ' ');
            let mut number = || parts.next()?.parse::<u64>().ok();
            if number().is_none() || number().is_none() || parts.next().is_none() {
                faults.push(format!("caller {caller}: {last:?}"));
            }
        }
        self.faults.extend(faults);
    }

    /// A job ends once: nothing is told of it after it was cancelled, and it dies again only after a redrive.
    fn check_events(&mut self) {
        let mut ended: BTreeMap<&str, &str> = BTreeMap::new();
        let mut faults = Vec::new();
        for event in &self.events {
            let field = |name: &str| event.get(name).map_or("", String::as_str);
            let (kind, job) = (field("event"), field("job"));
            if !EVENTS.contains(&kind) {
                faults.push(format!("an event {event:?}"));
            }
            if kind == "redriven" && job.is_empty() {
                // Several at once, and the event does not say which.
                ended.retain(|_, end| *end != "dead");
            }
            match (ended.get(job).copied(), kind) {
                (Some("dead"), "redriven" | "purged") => drop(ended.remove(job)),
                // What a doctor does to the dead leaves them dead.
                (Some("dead"), "orphaned" | "mended") => {}
                (Some(end), kind) => faults.push(format!("{job} is {kind} after it was {end}")),
                (None, "dead" | "cancelled") => drop(ended.insert(job, kind)),
                _ => {}
            }
        }
        self.faults.extend(faults);
    }

    /// A schedule has a due time, a definition, a payload and a state that names its version.
    fn check_schedules(&mut self) {
        let mut faults = Vec::new();
        for id in self.cron_due.keys() {
            if !self.cron.contains_key(id) {
                faults.push(format!("schedule {id} is due and is not defined"));
            }
        }
        for (field, value) in &self.cron {
            // The parts of a schedule, and the mark of a sync.
            if field.contains(' ') {
                continue;
            }
            let part = |part: &str| self.cron.get(&format!("{field} {part}"));
            let state = part("state").and_then(|state| serde_json::from_str::<Json>(state).ok());
            let paused = state.as_ref().is_some_and(|state| state["paused"] == true);
            let due = self.cron_due.get(field);
            let is_sound = serde_json::from_str::<Json>(value).is_ok()
                && part("payload").is_some()
                && state.is_some_and(|state| state["version"].is_string())
                && due.is_some_and(|due| !paused || due == "inf");
            if !is_sound {
                faults.push(format!(
                    "schedule {field}: {value}, due {due:?}, {:?}",
                    part("state")
                ));
            }
        }
        self.faults.extend(faults);
    }

    /// What came in is still here or is accounted for.
    fn check_books(&mut self, unbooked: i64) {
        let total = |name: &str| self.counters.get(name).copied().unwrap_or_default();
        let gone = total("completed") + total("cancelled") + total("purged");
        let due = total("enqueued") - gone + unbooked;
        let died = total("dead") - total("redriven") - total("purged") + unbooked.max(0);
        let homes = || self.homes.values().flatten();
        let found = homes().count() as i64;
        let dead = homes().filter(|home| home.state == State::Dead).count() as i64;
        let counters = &self.counters;
        let mut faults = Vec::new();
        if due != found {
            faults.push(format!(
                "{found} jobs found, {due} expected after {counters:?}"
            ));
        }
        if dead > died {
            faults.push(format!(
                "{dead} dead jobs found, {died} expected at most after {counters:?}"
            ));
        }
        self.faults.extend(faults);
    }
}
