//! The scanner: reads every key of a queue and says what is wrong with them. It knows the table of `src/keys.rs` and the
//! rules of the engine, and shares no code with it.

use std::collections::BTreeMap;

use millstream::JobId;
use millstream::job::state::State;
use serde_json::Value as Json;

use super::{Fixture, PATIENCE, Pending, StoredKey};

/// Everything a queue has, by what it means.
#[derive(Default)]
pub(crate) struct Scan {
    pub(crate) homes: BTreeMap<String, Vec<Home>>,
    pub(crate) records: BTreeMap<String, Json>,
    pub(crate) payloads: BTreeMap<String, Vec<u8>>,
    uniques: BTreeMap<String, String>,
    counters: BTreeMap<String, i64>,
    pub(crate) faults: Vec<String>,
}

/// Where a job is, and what is written there.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) state: State,
    /// The lane and the entry id, for a job on a stream.
    pub(crate) at: Option<(String, String)>,
    /// The worker that holds it.
    pub(crate) consumer: Option<String>,
    /// The entry's fields, for a job on a stream; the engine's own have eight.
    pub(crate) fields: Vec<Vec<u8>>,
    /// Unix ms, for a scheduled or dead job.
    pub(crate) score: i64,
}

impl Fixture {
    /// Reads the queue and notes what does not fit.
    pub(crate) fn scan(&self) -> Scan {
        let mut scan = Scan::default();
        for (suffix, stored) in self.stored() {
            scan.take(suffix, stored);
        }
        scan.check_records();
        let windows = self.windows.lock().expect("no test panics here");
        scan.check_uniques(&windows);
        drop(windows);
        scan.check_books(self.unbooked.load(std::sync::atomic::Ordering::Relaxed));
        scan
    }

    /// Where the job is; `None` when it is nowhere.
    pub(crate) fn home_of(&self, id: &JobId) -> Option<Home> {
        self.scan().homes.get(id.as_str())?.first().cloned()
    }

    /// The state of an unfinished or dead job.
    pub(crate) fn state_of(&self, id: &JobId) -> Option<State> {
        self.home_of(id).map(|home| home.state)
    }

    /// The record of a job that is, or once was, off the streams.
    pub(crate) fn record_of(&self, id: &JobId) -> Option<Json> {
        self.scan().records.remove(id.as_str())
    }

    /// Every rule about what lives where, at a moment when nobody works on the queue.
    #[track_caller]
    pub(crate) fn assert_every_job_has_one_home(&self) {
        let faults = self.scan().faults;
        assert!(faults.is_empty(), "{}:\n{}", self.queue, faults.join("\n"));
    }

    /// The counts that the engine tells are those that the scanner finds.
    pub(crate) async fn assert_stats_agree(&self) {
        let told = self.broker.stats(PATIENCE).await.expect("stats");
        let scan = self.scan();
        let homes = || scan.homes.values().flatten();
        let found = |state| homes().filter(|home| home.state == state).count() as u64;
        assert_eq!(
            (told.ready, told.running, told.scheduled, told.dead),
            (
                found(State::Ready),
                found(State::Running),
                found(State::Scheduled),
                found(State::Dead)
            ),
            "ready, running, scheduled, dead as told and as found"
        );
    }
}

impl Scan {
    fn fault(&mut self, fault: impl Into<String>) {
        self.faults.push(fault.into());
    }

    fn settle_in(&mut self, id: String, home: Home) {
        let homes = self.homes.entry(id.clone()).or_default();
        homes.push(home);
        if homes.len() > 1 {
            let fault = format!("job {id} has several homes: {homes:?}");
            self.fault(fault);
        }
    }

    fn take(&mut self, suffix: String, stored: StoredKey) {
        match (suffix.as_str(), stored) {
            (
                "ready" | "ready:next" | "ready:suspect",
                StoredKey::Stream {
                    entries, groups, ..
                },
            ) => {
                self.take_lane(&suffix, entries, groups);
            }
            ("scheduled", StoredKey::Pairs(ids)) => self.take_parked(State::Scheduled, ids),
            ("dead", StoredKey::Pairs(ids)) => self.take_parked(State::Dead, ids),
            ("jobs", StoredKey::Pairs(records)) => {
                for (id, record) in records {
                    match serde_json::from_slice(&record) {
                        Ok(record) => drop(self.records.insert(text(&id), record)),
                        Err(error) => {
                            self.fault(format!("record of {} is no JSON: {error}", text(&id)));
                        }
                    }
                }
            }
            ("payloads", StoredKey::Pairs(payloads)) => {
                let payloads = payloads.into_iter();
                self.payloads = payloads.map(|(id, bytes)| (text(&id), bytes)).collect();
            }
            ("stats", StoredKey::Pairs(counters)) => {
                for (name, value) in counters {
                    match text(&value).parse::<i64>() {
                        Ok(value) if value >= 0 => {
                            self.counters.insert(text(&name), value);
                        }
                        _ => self.fault(format!("counter {}: {}", text(&name), text(&value))),
                    }
                }
            }
            ("limits" | "producers", StoredKey::Pairs(_))
            | ("events" | "completed", StoredKey::Stream { .. }) => {}
            ("upkeep", StoredKey::Text { expires_ms, .. }) if expires_ms > 0 => {}
            (unique, StoredKey::Text { value, expires_ms }) if unique.starts_with("unique:") => {
                if expires_ms < 0 {
                    self.fault(format!("{unique} never expires"));
                }
                let key = unique["unique:".len()..].to_owned();
                self.uniques.insert(key, text(&value));
            }
            (unknown, stored) => {
                let fault = format!("{unknown} is not a key of a queue, or not of this type: ");
                self.fault(fault + &format!("{stored:?}"));
            }
        }
    }

    fn take_lane(
        &mut self,
        lane: &str,
        entries: Vec<(String, Vec<Vec<u8>>)>,
        groups: Vec<(String, String, Pending)>,
    ) {
        let mut pending = BTreeMap::new();
        for (group, _, of_group) in groups {
            if group == "workers" {
                pending = of_group;
            } else {
                self.fault(format!("{lane} has a group {group:?}"));
            }
        }
        for (entry, fields) in entries {
            let consumer = pending.remove(&entry).map(|(consumer, _)| consumer);
            let id = id_of(&entry, &fields);
            let state = match consumer {
                Some(_) => State::Running,
                None => State::Ready,
            };
            let home = Home {
                state,
                at: Some((lane.to_owned(), entry)),
                consumer,
                fields,
                score: 0,
            };
            self.settle_in(id, home);
        }
        for entry in pending.keys() {
            self.fault(format!("{lane}: {entry} is pending and does not exist"));
        }
    }

    fn take_parked(&mut self, state: State, ids: BTreeMap<Vec<u8>, Vec<u8>>) {
        for (id, score) in ids {
            let home = Home {
                state,
                at: None,
                consumer: None,
                fields: Vec::new(),
                score: text(&score).parse::<f64>().expect("a score") as i64,
            };
            self.settle_in(text(&id), home);
        }
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
                        if !record["entry"].is_null() {
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
                record["state"] == "ready"
                    && record["entry"] == **entry
                    && record["lane"].as_str().is_some_and(|at| at.ends_with(lane))
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

    /// A unique key is held by the unfinished job that claims it, and by nobody else.
    fn check_uniques(&mut self, windows: &[String]) {
        let mut claims = BTreeMap::new();
        for (id, homes) in &self.homes {
            let unfinished = homes[0].state != State::Dead;
            if let Some(key) = self.meta_of(id)["unique"].as_str().filter(|_| unfinished) {
                claims.insert(key.to_owned(), id.clone());
            }
        }
        let uniques = std::mem::take(&mut self.uniques);
        for (key, id) in &claims {
            if uniques.get(key) != Some(id) {
                self.fault(format!(
                    "{id} claims {key:?}, held by {:?}",
                    uniques.get(key)
                ));
            }
        }
        for (key, holder) in uniques {
            if !claims.contains_key(&key) && !windows.contains(&key) {
                self.fault(format!(
                    "{key:?} is held for {holder}, which does not claim it"
                ));
            }
        }
    }

    /// What came in is still here or is accounted for.
    fn check_books(&mut self, unbooked: i64) {
        let total = |name: &str| self.counters.get(name).copied().unwrap_or_default();
        let gone = total("completed") + total("cancelled") + total("purged");
        let (due, found) = (total("enqueued") - gone + unbooked, self.homes.len() as i64);
        if due != found {
            let counters = &self.counters;
            self.fault(format!(
                "{found} jobs found, {due} expected after {counters:?}"
            ));
        }
    }

    /// What is stored beside the job's payload.
    pub(crate) fn meta_of(&self, id: &str) -> Json {
        let home = self.homes.get(id).and_then(|homes| homes.first());
        let on_stream = home.and_then(|home| Some(text(home.fields.get(7)?)));
        let in_record = || Some(self.records.get(id)?["meta"].as_str()?.to_owned());
        let meta = on_stream.or_else(in_record).unwrap_or_default();
        serde_json::from_str(&meta).unwrap_or_default()
    }
}

/// The job id of an entry: what its meta says, else its own.
fn id_of(entry: &str, fields: &[Vec<u8>]) -> String {
    let meta = fields
        .get(7)
        .and_then(|meta| serde_json::from_slice::<Json>(meta).ok());
    let id = meta.and_then(|meta| Some(meta["id"].as_str()?.to_owned()));
    id.unwrap_or_else(|| entry.to_owned())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
