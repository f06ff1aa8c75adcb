//! The scanner: reads every key of a queue and says what is wrong with them. It knows the table of `src/keys.rs` and the
//! rules of the engine, and shares no code with it.
//!
//! Here keys are read by what they mean; [`stored`] fetches them, [`rules`] says what must hold among them. It needs a
//! connection and the keys' prefix and nothing else, so that a test crate without a fixture can take this folder and
//! `resp.rs` by `#[path]`.

mod rules;
pub(crate) mod stored;

use std::collections::{BTreeMap, BTreeSet};

use millstream::job::state::State;
use serde_json::Value as Json;

use super::resp::Connection;
use stored::{Group, Stored, StoredKey};

/// Everything a queue has, by what it means.
#[derive(Default)]
pub(crate) struct Scan {
    /// Redis's clock at the time of the scan, unix ms.
    pub(crate) now_ms: i64,
    pub(crate) homes: BTreeMap<String, Vec<Home>>,
    pub(crate) records: BTreeMap<String, Json>,
    pub(crate) payloads: BTreeMap<String, Vec<u8>>,
    /// What handlers have told of their jobs.
    pub(crate) progress: BTreeMap<String, Json>,
    /// Unique key -> the job that holds it.
    pub(crate) uniques: BTreeMap<String, String>,
    /// Unique key -> the end of its hold, unix ms.
    pub(crate) unique_until: BTreeMap<String, i64>,
    pub(crate) counters: BTreeMap<String, i64>,
    /// Lane -> consumer -> how many entries it holds.
    pub(crate) consumers: BTreeMap<String, BTreeMap<String, i64>>,
    /// The fields of each event, oldest first.
    pub(crate) events: Vec<BTreeMap<String, String>>,
    /// The fields of each job in the history, oldest first.
    pub(crate) history: Vec<BTreeMap<String, String>>,
    /// Caller -> number, second and answer of its last call.
    pub(crate) callers: BTreeMap<String, String>,
    pub(crate) limits: BTreeMap<String, String>,
    /// Groups whose next held job has a time to come.
    pub(crate) timed: BTreeSet<String>,
    /// Group -> how many of its jobs are said to have a slot.
    pub(crate) groups: BTreeMap<String, i64>,
    /// Held jobs in the order of their turns: group and job.
    pub(crate) held: Vec<(String, String)>,
    /// The worker that does the upkeep.
    pub(crate) upkeeper: Option<String>,
    /// Field -> value: what is kept of schedules.
    pub(crate) cron: BTreeMap<String, String>,
    /// Schedule -> when it is due.
    pub(crate) cron_due: BTreeMap<String, String>,
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

/// What a test did past the engine, so that it is no fault.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exceptions {
    /// Jobs that came, or with a minus went, past the counters: put in by hand, or pruned.
    pub(crate) unbooked: i64,
    /// Unique keys that may be held without a job that claims them.
    pub(crate) windows: BTreeSet<String>,
    /// A limit was changed, and nobody has admitted since who may go now.
    pub(crate) unfilled: bool,
}

impl Scan {
    /// Reads the queue whose keys begin with `prefix`, while nobody works on it, and notes what does not fit.
    pub(crate) fn of(connection: &mut Connection, prefix: &str, exceptions: &Exceptions) -> Self {
        let stored = Stored::read(connection, prefix);
        let mut scan = Self {
            now_ms: stored.now_ms,
            ..Self::default()
        };
        for (suffix, stored) in stored.keys {
            scan.take(suffix, stored);
        }
        scan.check(exceptions);
        scan
    }

    /// A bucket is full later than now or forgotten by the next look, and a timer is for the future or for the next look.
    fn take_rates(&mut self, rates: BTreeMap<Vec<u8>, Vec<u8>>) {
        for (member, score) in texts(rates) {
            let score = score.parse::<f64>().unwrap_or_default();
            match member.split_once('\u{1f}') {
                Some(("full", _)) if score < 0.0 => {}
                Some(("next", group)) if score > 0.0 => drop(self.timed.insert(group.to_owned())),
                _ => self.fault(format!("rates: {member:?} at {score}")),
            }
        }
    }

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
        let expiry = match stored {
            StoredKey::Text { expires_ms, .. } => expires_ms,
            _ => -1,
        };
        match (suffix.as_str(), stored) {
            (
                "ready" | "ready:next" | "ready:suspect" | "ready:high" | "ready:low",
                StoredKey::Stream {
                    entries, groups, ..
                },
            ) => self.take_lane(&suffix, entries, groups),
            ("scheduled", StoredKey::Pairs(ids)) => self.take_parked(State::Scheduled, ids),
            ("dead", StoredKey::Pairs(ids)) => self.take_parked(State::Dead, ids),
            ("held", StoredKey::Pairs(members)) => self.take_held(members),
            ("groups", StoredKey::Pairs(groups)) => {
                for (group, slots) in texts(groups) {
                    match slots.parse() {
                        Ok(slots) if slots > 0 => drop(self.groups.insert(group, slots)),
                        _ => self.fault(format!("group {group}: {slots} slots")),
                    }
                }
            }
            ("jobs", StoredKey::Pairs(records)) => self.take_records(records),
            ("payloads", StoredKey::Pairs(payloads)) => {
                let payloads = payloads.into_iter();
                self.payloads = payloads.map(|(id, bytes)| (text(&id), bytes)).collect();
            }
            ("progress", StoredKey::Pairs(told)) => {
                let told = told.into_iter();
                let read = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or_default();
                self.progress = told.map(|(id, told)| (text(&id), read(&told))).collect();
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
            ("limits", StoredKey::Pairs(limits)) => self.limits = texts(limits),
            ("rates", StoredKey::Pairs(rates)) => self.take_rates(rates),
            ("producers", StoredKey::Pairs(callers)) => {
                let callers = texts(callers).into_iter();
                self.callers = callers
                    .map(|(caller, last)| (caller, with_second(last)))
                    .collect();
            }
            ("events", StoredKey::Stream { entries, .. }) => self.events = named(entries),
            ("completed", StoredKey::Stream { entries, .. }) => self.history = named(entries),
            // What workers say of themselves, and no job depends on.
            ("circuits", StoredKey::Pairs(_)) => {}
            ("cron", StoredKey::Pairs(fields)) => self.cron = texts(fields),
            ("cron:due", StoredKey::Pairs(dues)) => self.cron_due = texts(dues),
            ("upkeep", StoredKey::Text { value, .. }) if expiry > 0 => {
                self.upkeeper = Some(text(&value));
            }
            ("results", StoredKey::Stream { .. }) => {}
            (kept, StoredKey::Text { value, .. }) if kept.starts_with("progress:") => {
                if expiry < 0 || !value.starts_with(b"{") {
                    self.fault(format!("{kept} never expires, or is no JSON"));
                }
            }
            (result, StoredKey::Text { value, .. }) if result.starts_with("result:") => {
                if expiry < 0 || !value.starts_with(b"{") {
                    self.fault(format!("{result} never expires, or has no head"));
                }
            }
            (unique, StoredKey::Text { value, .. }) if unique.starts_with("unique:") => {
                if expiry < 0 {
                    self.fault(format!("{unique} never expires"));
                }
                let key = unique["unique:".len()..].to_owned();
                self.unique_until.insert(key.clone(), expiry);
                self.uniques.insert(key, text(&value));
            }
            (unknown, stored) => {
                let fault = format!("{unknown} is not a key of a queue, or not of this type: ");
                self.fault(fault + &format!("{stored:?}"));
            }
        }
    }

    fn take_lane(&mut self, lane: &str, entries: Vec<(String, Vec<Vec<u8>>)>, groups: Vec<Group>) {
        let (mut pending, mut last_id) = (BTreeMap::new(), String::new());
        for group in groups {
            if group.name == "workers" {
                (pending, last_id) = (group.pending, group.last_id);
                self.consumers.insert(lane.to_owned(), group.consumers);
            } else {
                self.fault(format!("{lane} has a group {:?}", group.name));
            }
        }
        for (entry, fields) in entries {
            let consumer = pending.remove(&entry).map(|(consumer, _)| consumer);
            if consumer.is_none() && parts_of(&entry) <= parts_of(&last_id) {
                self.fault(format!("{lane}: {entry} was delivered and nobody holds it"));
            }
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
                score: text(&score).parse::<f64>().expect("a score").ceil() as i64,
            };
            self.settle_in(text(&id), home);
        }
    }

    /// `<group> US <turn> US <job id>`, in the order of the bytes.
    fn take_held(&mut self, members: BTreeMap<Vec<u8>, Vec<u8>>) {
        for (member, score) in members {
            let member = text(&member);
            let parts: Vec<&str> = member.split('\u{1f}').collect();
            let [group, turn, id] = parts[..] else {
                self.fault(format!("held: {member:?} has not three parts"));
                continue;
            };
            if text(&score) != "0" || turn.len() != 17 || turn.parse::<u64>().is_err() {
                self.fault(format!("held: {member:?} with score {}", text(&score)));
            }
            self.held.push((group.to_owned(), id.to_owned()));
            let home = Home {
                state: State::Held,
                at: None,
                consumer: None,
                fields: vec![turn.as_bytes().to_vec()],
                score: 0,
            };
            self.settle_in(id.to_owned(), home);
        }
    }

    fn take_records(&mut self, records: BTreeMap<Vec<u8>, Vec<u8>>) {
        for (id, record) in records {
            match serde_json::from_slice(&record) {
                Ok(record) => drop(self.records.insert(text(&id), record)),
                Err(error) => self.fault(format!("record of {} is no JSON: {error}", text(&id))),
            }
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

/// An entry id in the order of the stream; of a lane without a group, one before all.
pub(crate) fn parts_of(entry: &str) -> Option<(u64, u64)> {
    let (ms, seq) = entry.split_once('-')?;
    Some((ms.parse().ok()?, seq.parse().ok()?))
}

fn named(entries: Vec<(String, Vec<Vec<u8>>)>) -> Vec<BTreeMap<String, String>> {
    let entries = entries.into_iter().map(|(_, fields)| {
        let pairs = fields.chunks_exact(2);
        pairs.map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
    });
    entries.collect()
}

fn texts(pairs: BTreeMap<Vec<u8>, Vec<u8>>) -> BTreeMap<String, String> {
    let pairs = pairs.into_iter();
    pairs
        .map(|(name, value)| (text(&name), text(&value)))
        .collect()
}

/// A caller's last call as `<number> <unix seconds> <answer>`: where the answer begins with the id of a new entry, the time is left to
/// that, and elsewhere it is kept in milliseconds, though some scripts know no more than the second.
fn with_second(last: String) -> String {
    let told = last.split_once(' ').and_then(|(number, rest)| {
        let (first, answer) = rest.split_once(' ').unwrap_or((rest, ""));
        let (ms, answer) = match first.split_once('-') {
            Some((ms, _)) => (ms, rest),
            None => (first, answer),
        };
        let ms: u64 = ms.parse().ok()?;
        Some(format!("{number} {} {answer}", ms / 1000))
    });
    told.unwrap_or(last)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
