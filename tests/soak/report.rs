//! What a soak says at its end: a table, one line of JSON, and when something is wrong, the whole story of the first job.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use crate::check::{Offence, Remains};
use crate::history::{Answer, History};
use crate::plan::Plan;

/// The numbers, by name and in order.
pub(crate) struct Report {
    seed: u64,
    numbers: Vec<(&'static str, u64)>,
    faults: BTreeMap<String, u64>,
}

impl Report {
    pub(crate) fn new(
        plan: &Plan,
        history: &History,
        remains: &Remains,
        offences: &[Offence],
        drained_ms: u64,
    ) -> Self {
        let answers = || history.enqueues.values().map(|enqueue| &enqueue.answer);
        let count = |is: fn(&Answer) -> bool| answers().filter(|answer| is(answer)).count() as u64;
        let counter = |name: &str| remains.counters.get(name).copied().unwrap_or_default();
        let against = |rule: &str| {
            offences
                .iter()
                .filter(|offence| offence.rule == rule)
                .count() as u64
        };
        let keys = history.jobs.values().filter_map(|job| job.key.as_ref());
        let unknown = |key: &&crate::jobs::Key| {
            history
                .enqueues
                .get(key)
                .is_some_and(|enqueue| enqueue.answer == Answer::Unknown)
        };
        let recovered = keys.filter(unknown).count() as u64;
        let starts: usize = history.jobs.values().map(|job| job.starts.len()).sum();
        let started = history
            .jobs
            .values()
            .filter(|job| !job.starts.is_empty())
            .count();
        let again = counter("retried") + counter("snoozed") + counter("redriven");
        let mut completions: Vec<u64> = history
            .jobs
            .values()
            .flat_map(|job| job.completed_us.clone())
            .collect();
        completions.sort_unstable();
        let under_load = completions
            .windows(2)
            .filter(|pair| pair[1] < history.unloaded_us);
        let silence_us = under_load
            .map(|pair| pair[1] - pair[0])
            .max()
            .unwrap_or_default();
        let waits = history
            .jobs
            .values()
            .flat_map(|job| job.waits_after_stalls());
        let waited_us = waits
            .map(|(from, to)| to.saturating_sub(from))
            .max()
            .unwrap_or_default();
        let innocent = history
            .jobs
            .values()
            .filter(|job| job.died_innocent_us().is_some())
            .count() as u64;
        let numbers = vec![
            ("seconds", plan.load.as_secs()),
            ("attempted", answers().count() as u64),
            (
                "acknowledged",
                count(|answer| matches!(answer, Answer::Stored(_))),
            ),
            (
                "not_unique",
                count(|answer| matches!(answer, Answer::Duplicate(_))),
            ),
            ("refused", count(|answer| *answer == Answer::Refused)),
            ("ambiguous", count(|answer| *answer == Answer::Unknown)),
            ("recovered", recovered),
            ("completed", counter("completed")),
            (
                "dead",
                counter("dead") - counter("redriven").min(counter("dead")),
            ),
            ("cancelled", counter("cancelled")),
            ("lost", against("lost")),
            ("unexpected", against("unexpected")),
            ("doubled", against("doubled")),
            ("retried", counter("retried")),
            ("snoozed", counter("snoozed")),
            ("redriven", counter("redriven")),
            ("stalled", counter("stalled")),
            ("released", counter("released")),
            (
                "started_again",
                (starts - started) as u64 - again.min((starts - started) as u64),
            ),
            ("workers_killed_by_jobs", history.aborts() as u64),
            ("innocents_killed", innocent),
            ("longest_silence_ms", silence_us / 1000),
            ("longest_wait_after_stall_ms", waited_us / 1000),
            ("drained_ms", drained_ms),
            ("offences", offences.len() as u64),
        ];
        let mut faults = BTreeMap::new();
        for strike in history.strikes.values() {
            *faults
                .entry(format!("{:?}", strike.fault.kind))
                .or_default() += 1;
        }
        Self {
            seed: plan.seed,
            numbers,
            faults,
        }
    }

    pub(crate) fn table(&self) -> String {
        let mut table = format!("{:<28}{:>8}\n", "seed", self.seed);
        for (name, number) in &self.numbers {
            let _ = writeln!(table, "{:<28}{number:>8}", name.replace('_', " "));
        }
        for (kind, count) in &self.faults {
            let _ = writeln!(table, "{:<28}{count:>8}", format!("fault {kind}"));
        }
        table
    }

    pub(crate) fn json(&self) -> String {
        let mut line = json!({ "seed": self.seed, "faults": self.faults });
        for (name, number) in &self.numbers {
            line[*name] = json!(number);
        }
        line.to_string()
    }
}

/// Every line of every record that speaks of the job, in the order in which it happened.
pub(crate) fn story(dir: &Path, history: &History, id: &str) -> String {
    let key = history.jobs.get(id).and_then(|job| job.key.as_ref());
    let call = key.map(|key| key.0.split(':').nth(2).unwrap_or_default().to_owned());
    let call = call.and_then(|number| Some((number.parse::<u64>().ok()? / 1000).to_string()));
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(process) = name.strip_suffix(".log") else {
            continue;
        };
        let of_producer = key.is_some_and(|key| key.0.contains(&format!(":{process}:")));
        let text = std::fs::read(entry.path()).unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines() {
            let mut words = line.split_whitespace();
            let (at, word, third) = (words.next(), words.next(), words.next());
            let is_call = of_producer
                && third == call.as_deref()
                && matches!(word, Some("call" | "ok" | "ambiguous" | "refused"));
            let of_job = line
                .split_whitespace()
                .any(|word| word.trim_start_matches('=') == id);
            let of_process = process == "faults" && !line.contains("started");
            if is_call || of_job || of_process {
                let at: u64 = at.and_then(|at| at.parse().ok()).unwrap_or_default();
                lines.push((at, format!("{process}: {line}")));
            }
        }
    }
    lines.sort();
    let about = |line: &str| !line.starts_with("faults");
    let first = lines
        .iter()
        .position(|(_, line)| about(line))
        .unwrap_or_default();
    let last = lines
        .iter()
        .rposition(|(_, line)| about(line))
        .unwrap_or_default();
    // What befell everybody matters from a little before the job's time to its end.
    let from = first.saturating_sub(6);
    let shown = lines.get(from..=last).unwrap_or_default();
    shown
        .iter()
        .map(|(_, line)| format!("  {line}\n"))
        .collect()
}
