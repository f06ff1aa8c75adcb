//! All that a queue holds, in a form that the model and Redis can both be asked for and that can be compared.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};

use serde_json::Value as Json;

use crate::support::scan::{Scan, parts_of};

/// A queue at one moment. Times are Redis's, unix ms.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Picture {
    /// The lanes' entries in order.
    pub(super) lanes: BTreeMap<String, Vec<Entry>>,
    /// Job -> due.
    pub(super) scheduled: BTreeMap<String, i64>,
    /// Job -> died at.
    pub(super) dead: BTreeMap<String, i64>,
    /// Group and job, in the order of the turns.
    pub(super) held: Vec<(String, String)>,
    /// Group -> slots taken.
    pub(super) groups: BTreeMap<String, i64>,
    /// All limits but the pause.
    pub(super) limits: BTreeMap<String, String>,
    pub(super) records: BTreeMap<String, Record>,
    pub(super) payloads: BTreeMap<String, Vec<u8>>,
    /// Unique key -> the job that holds it, and until when.
    pub(super) uniques: BTreeMap<String, (String, i64)>,
    /// Job, name and attempt of each completed job that is kept.
    pub(super) history: Vec<[String; 3]>,
    pub(super) counters: BTreeMap<String, i64>,
    /// Job -> how many quarters its handlers say are done.
    pub(super) progress: BTreeMap<String, u64>,
    /// Kind, job and detail.
    pub(super) events: Vec<[String; 3]>,
    /// Caller -> number, time and answer of its last call.
    pub(super) callers: BTreeMap<String, String>,
    pub(super) paused: bool,
    pub(super) upkeeper: Option<String>,
    /// When somebody last asked to sweep, and the end of the grace that was given.
    pub(super) sweeps: [Option<i64>; 2],
}

/// A job on a lane.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) job: String,
    pub(super) holder: Option<String>,
    pub(super) name: String,
    pub(super) payload: Vec<u8>,
    pub(super) attempt: u32,
    pub(super) meta: Json,
}

/// What is kept of a job that is, or once was, off the streams.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) state: String,
    pub(super) name: String,
    pub(super) attempt: u32,
    pub(super) meta: Json,
    pub(super) errors: Vec<(i64, u32, String)>,
    pub(super) reason: Option<String>,
}

impl Picture {
    /// What Redis holds.
    pub(super) fn of(scan: &Scan) -> Self {
        let mut picture = Self::default();
        let mut lanes: BTreeMap<String, BTreeMap<(u64, u64), Entry>> = BTreeMap::new();
        for (job, homes) in &scan.homes {
            for home in homes {
                let Some((lane, entry)) = &home.at else {
                    let parked = match home.state.name() {
                        "held" => continue,
                        "scheduled" => &mut picture.scheduled,
                        _ => &mut picture.dead,
                    };
                    parked.insert(job.clone(), home.score);
                    continue;
                };
                let field = |index: usize| home.fields.get(index).cloned().unwrap_or_default();
                let text = |index: usize| String::from_utf8_lossy(&field(index)).into_owned();
                let lane = lanes.entry(lane.clone()).or_default();
                let at = parts_of(entry).expect("an entry id");
                let entry = Entry {
                    job: job.clone(),
                    holder: home.consumer.clone(),
                    name: text(1),
                    payload: field(3),
                    attempt: text(5).parse().expect("an attempt"),
                    meta: meta(&text(7)),
                };
                lane.insert(at, entry);
            }
        }
        let in_order = |entries: BTreeMap<_, Entry>| entries.into_values().collect();
        let lanes = lanes.into_iter();
        picture.lanes = lanes.map(|(lane, at)| (lane, in_order(at))).collect();
        let records = scan.records.iter();
        picture.records = records
            .map(|(job, json)| (job.clone(), record(json)))
            .collect();
        picture.held.clone_from(&scan.held);
        picture.groups.clone_from(&scan.groups);
        // Lua writes the members of an object in any order.
        let limits = scan.limits.iter().map(|(name, value)| {
            let own = name.starts_with("group:").then(|| meta(value).to_string());
            (name.clone(), own.unwrap_or_else(|| value.clone()))
        });
        picture.limits = limits.collect();
        picture.limits.remove("paused");
        picture.payloads.clone_from(&scan.payloads);
        let uniques = scan.uniques.iter().zip(scan.unique_until.values());
        picture.uniques = uniques
            .map(|((key, job), until)| (key.clone(), (job.clone(), *until)))
            .collect();
        picture.history = rows(&scan.history, ["job", "name", "attempt"]);
        picture.events = rows(&scan.events, ["event", "job", "detail"]);
        let counters = scan.counters.iter();
        picture.counters = counters
            .filter(|(name, count)| !name.ends_with("_ms") && **count != 0)
            .map(|(name, count)| (name.clone(), *count))
            .collect();
        let progress = scan.progress.iter();
        picture.progress = progress
            .filter_map(|(job, told)| Some((job.clone(), told["done"].as_str()?.parse().ok()?)))
            .collect();
        // An answer that is JSON has its members in any order too.
        let callers = scan.callers.iter().map(|(caller, last)| {
            let json = last.find(" {").map(|at| last.split_at(at + 1));
            let last = json.map(|(head, json)| format!("{head}{}", meta(json)));
            (
                caller.clone(),
                last.unwrap_or_else(|| scan.callers[caller].clone()),
            )
        });
        picture.callers = callers.collect();
        picture.paused = scan.limits.contains_key("paused");
        picture.upkeeper.clone_from(&scan.upkeeper);
        picture.sweeps =
            ["swept_ms", "grace_until_ms"].map(|time| scan.counters.get(time).copied());
        picture
    }

    /// Where `found` differs from what was expected, in words; empty when it does not.
    pub(super) fn compare(&self, found: &Self) -> String {
        let mut faults = String::new();
        if self == found {
            return faults;
        }
        let mut look = |what: &str, expected: &dyn Debug, found: &dyn Debug| {
            let (expected, found) = (format!("{expected:?}"), format!("{found:?}"));
            if expected != found {
                writeln!(faults, "{what}\n  expected {expected}\n  found    {found}")
                    .expect("a string takes it");
            }
        };
        for lane in self.lanes.keys().chain(found.lanes.keys()) {
            look(lane, &self.lanes.get(lane), &found.lanes.get(lane));
        }
        look("scheduled", &self.scheduled, &found.scheduled);
        look("dead", &self.dead, &found.dead);
        look("held", &self.held, &found.held);
        look("groups", &self.groups, &found.groups);
        look("limits", &self.limits, &found.limits);
        for job in self.records.keys().chain(found.records.keys()) {
            let (expected, found) = (self.records.get(job), found.records.get(job));
            look(&format!("record of {job}"), &expected, &found);
        }
        look("payloads", &self.payloads, &found.payloads);
        look("unique keys", &self.uniques, &found.uniques);
        look("history", &self.history, &found.history);
        look("counters", &self.counters, &found.counters);
        look("progress", &self.progress, &found.progress);
        look("events", &self.events, &found.events);
        look("callers", &self.callers, &found.callers);
        look("paused", &self.paused, &found.paused);
        look("upkeeper", &self.upkeeper, &found.upkeeper);
        look("sweeps", &self.sweeps, &found.sweeps);
        faults
    }
}

/// What is stored beside a payload.
fn meta(stored: &str) -> Json {
    match stored {
        "" => Json::Object(serde_json::Map::new()),
        stored => serde_json::from_str(stored).unwrap_or(Json::Null),
    }
}

fn record(json: &Json) -> Record {
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let number = |value: &Json| value.as_i64().unwrap_or(-1);
    let attempt = |value: &Json| u32::try_from(number(value)).unwrap_or_default();
    let errors = json["errors"].as_array().into_iter().flatten();
    Record {
        state: text(&json["state"]),
        name: text(&json["name"]),
        attempt: attempt(&json["attempt"]),
        meta: meta(&text(&json["meta"])),
        errors: errors
            .map(|error| {
                let (at, message) = (number(&error["at_ms"]), text(&error["error"]));
                (at, attempt(&error["attempt"]), message)
            })
            .collect(),
        reason: json["reason"].as_str().map(str::to_owned),
    }
}

fn rows<const N: usize>(rows: &[BTreeMap<String, String>], fields: [&str; N]) -> Vec<[String; N]> {
    let field = |row: &BTreeMap<String, String>, name: &str| row.get(name).cloned();
    let rows = rows.iter();
    rows.map(|row| fields.map(|name| field(row, name).unwrap_or_default()))
        .collect()
}
