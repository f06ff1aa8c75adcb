//! All records of a soak put together: what became of every job, and what befell everybody.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::str::SplitWhitespace;

use crate::jobs::{Key, Kind};
use crate::plan::{Fault, Plan};
use crate::record;

/// What its producer knows of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Stored(String),
    /// The unique key was held by the job of this id.
    Duplicate(String),
    /// Nothing was stored.
    Refused,
    /// The call was not answered, or its producer died over it.
    Unknown,
}

#[derive(Clone, Debug)]
pub(crate) struct Enqueue {
    pub(crate) called_us: u64,
    pub(crate) answered_us: u64,
    pub(crate) answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) at_us: u64,
    /// `worker-0.3`
    pub(crate) process: String,
    pub(crate) attempt: u32,
    pub(crate) stalls: u32,
    /// When the handler was through, if it was.
    pub(crate) ended_us: Option<u64>,
}

/// One id's life.
#[derive(Clone, Debug, Default)]
pub(crate) struct Job {
    pub(crate) key: Option<Key>,
    pub(crate) starts: Vec<Start>,
    pub(crate) snoozes: u32,
    pub(crate) garbled: bool,
    /// The times by Redis's clock of what the engine said.
    pub(crate) completed_us: Vec<u64>,
    pub(crate) retried_us: Vec<u64>,
    pub(crate) stalled_us: Vec<u64>,
    pub(crate) cancelled_us: Vec<u64>,
    pub(crate) redriven_us: Vec<u64>,
    pub(crate) deaths: Vec<(u64, String)>,
    /// When the answer to a cancel came, and where it found the job.
    pub(crate) called_off: Option<(u64, String)>,
    /// Somebody may have wanted it to run at once.
    pub(crate) hastened: bool,
}

impl Job {
    /// When it was taken for one that kills its worker, though it is none.
    pub(crate) fn died_innocent_us(&self) -> Option<u64> {
        let guilty = self
            .key
            .as_ref()
            .is_some_and(|key| key.kind() == Kind::Poison);
        let crash_loop = self
            .deaths
            .iter()
            .find(|(_, reason)| reason == "crash_loop");
        crash_loop.filter(|_| !guilty).map(|(died_us, _)| *died_us)
    }

    /// From each stall that another life followed, to what came next of the job.
    pub(crate) fn waits_after_stalls(&self) -> impl Iterator<Item = (u64, u64)> {
        let deadly = |at: &&u64| !self.deaths.iter().any(|(death, _)| death == *at);
        self.stalled_us.iter().filter(deadly).map(|stalled| {
            let starts = self.starts.iter().map(|start| start.at_us);
            let deaths = self.deaths.iter().map(|(death, _)| *death);
            let others = self
                .stalled_us
                .iter()
                .chain(&self.cancelled_us)
                .copied()
                .chain(deaths);
            // A worker that wakes runs what it had before it learns that it no longer has it; and clocks are read apart.
            let next = starts.chain(others).filter(|at| at > stalled).min();
            (*stalled, next.unwrap_or(u64::MAX))
        })
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Process {
    pub(crate) ended_us: Option<u64>,
    pub(crate) aborted: bool,
    pub(crate) stopping_us: Option<u64>,
    /// From and to: the machine or a signal kept it from running.
    pub(crate) gaps_us: Vec<(u64, u64)>,
}

/// A fault that struck, and when.
#[derive(Clone, Debug)]
pub(crate) struct Strike {
    pub(crate) fault: Fault,
    pub(crate) from_us: u64,
    pub(crate) to_us: u64,
}

#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) enqueues: HashMap<Key, Enqueue>,
    pub(crate) jobs: HashMap<String, Job>,
    pub(crate) processes: BTreeMap<String, Process>,
    pub(crate) strikes: BTreeMap<usize, Strike>,
    /// What the processes themselves did wrong.
    pub(crate) unruly: Vec<String>,
    /// The producers were told to stop.
    pub(crate) unloaded_us: u64,
    /// The calls under way, by process and number.
    calls: HashMap<(String, String), Vec<Key>>,
}

impl History {
    pub(crate) fn read(dir: &Path, plan: &Plan) -> Self {
        let mut history = Self::default();
        for entry in std::fs::read_dir(dir).expect("the directory of the soak") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let name = path
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                record::read(&path, |at, word, words| {
                    history.take(plan, &name, at, word, words)
                });
            }
        }
        history
    }

    /// One event of the record `name`.
    pub(crate) fn take(
        &mut self,
        plan: &Plan,
        name: &str,
        at: u64,
        word: &str,
        words: SplitWhitespace<'_>,
    ) {
        match name.split('-').next() {
            Some("producer") => self.take_producer(name, at, word, words),
            Some("worker") => self.take_worker(name, at, word, words),
            Some("audit") => self.take_audit(word, words),
            _ => self.take_fault(plan, at, word, words),
        }
    }

    fn job(&mut self, id: &str) -> &mut Job {
        self.jobs.entry(id.to_owned()).or_default()
    }

    fn take_producer(&mut self, name: &str, at: u64, word: &str, mut words: SplitWhitespace<'_>) {
        let first = words.next().unwrap_or_default();
        let call = (name.to_owned(), first.to_owned());
        match word {
            "call" => {
                let keys: Vec<Key> = words.map(|key| Key(key.to_owned())).collect();
                for key in &keys {
                    let enqueue = Enqueue {
                        called_us: at,
                        answered_us: u64::MAX,
                        answer: Answer::Unknown,
                    };
                    self.enqueues.insert(key.clone(), enqueue);
                }
                self.calls.insert(call, keys);
            }
            "ok" => {
                for (key, id) in self
                    .calls
                    .remove(&call)
                    .unwrap_or_default()
                    .into_iter()
                    .zip(words)
                {
                    let answer = match id.strip_prefix('=') {
                        Some(holder) => Answer::Duplicate(holder.to_owned()),
                        None => {
                            self.name_job(id, &key);
                            Answer::Stored(id.to_owned())
                        }
                    };
                    self.answer(&key, at, answer);
                }
            }
            "refused" => {
                for key in self.calls.remove(&call).unwrap_or_default() {
                    self.answer(&key, at, Answer::Refused);
                }
            }
            "cancelled" => {
                let before = words.next().unwrap_or_default().to_owned();
                self.job(first).called_off = Some((at, before));
            }
            "hasten" => self.job(first).hastened = true,
            _ => {}
        }
    }

    fn answer(&mut self, key: &Key, at: u64, answer: Answer) {
        if let Some(enqueue) = self.enqueues.get_mut(key) {
            (enqueue.answered_us, enqueue.answer) = (at, answer);
        }
    }

    /// What Redis still has of a job.
    pub(crate) fn take_payload(&mut self, id: &str, payload: &[u8]) {
        match Key::read(payload) {
            Ok(key) => self.name_job(id, &key),
            Err(_) => self.job(id).garbled = true,
        }
    }

    fn name_job(&mut self, id: &str, key: &Key) {
        let job = self.job(id);
        match &job.key {
            Some(other) if other != key => {
                let fault = format!("job {id} is {} and {}", other.0, key.0);
                self.unruly.push(fault);
            }
            _ => job.key = Some(key.clone()),
        }
    }

    fn take_worker(&mut self, name: &str, at: u64, word: &str, mut words: SplitWhitespace<'_>) {
        let first = words.next().unwrap_or_default();
        match word {
            "start" => {
                let key = Key(words.next().unwrap_or_default().to_owned());
                self.name_job(first, &key);
                let mut number = || words.next().and_then(|number| number.parse().ok());
                let (attempt, stalls) =
                    (number().unwrap_or_default(), number().unwrap_or_default());
                self.job(first).starts.push(Start {
                    at_us: at,
                    process: name.to_owned(),
                    attempt,
                    stalls,
                    ended_us: None,
                });
            }
            "end" => {
                let job = self.job(first);
                let mut of_process = job.starts.iter_mut().filter(|start| start.process == name);
                if let Some(start) = of_process.find(|start| start.ended_us.is_none()) {
                    start.ended_us = Some(at);
                }
                match words.next() {
                    Some("snoozed") => job.snoozes += 1,
                    Some("garbled") => job.garbled = true,
                    _ => {}
                }
            }
            "gap" => {
                let from = first.parse().unwrap_or(at);
                self.process(name).gaps_us.push((from, at));
            }
            _ => {}
        }
    }

    fn process(&mut self, name: &str) -> &mut Process {
        self.processes.entry(name.to_owned()).or_default()
    }

    fn take_audit(&mut self, word: &str, mut words: SplitWhitespace<'_>) {
        let at = words
            .next()
            .and_then(|at| at.parse().ok())
            .unwrap_or_default();
        let id = words.next().unwrap_or_default();
        if id == "-" {
            return;
        }
        let job = self.job(id);
        match word {
            "completed" => job.completed_us.push(at),
            "retried" => job.retried_us.push(at),
            "stalled" => job.stalled_us.push(at),
            "cancelled" => job.cancelled_us.push(at),
            "redriven" => job.redriven_us.push(at),
            "dead" => {
                let reason = words.next().unwrap_or_default().to_owned();
                if reason == "crash_loop" {
                    job.stalled_us.push(at);
                }
                job.deaths.push((at, reason));
            }
            _ => {}
        }
    }

    fn take_fault(&mut self, plan: &Plan, at: u64, word: &str, mut words: SplitWhitespace<'_>) {
        let first = words.next().unwrap_or_default();
        let nth = || first.parse::<usize>().ok();
        match word {
            "begin" => {
                if let Some(nth) = nth() {
                    let fault = plan.faults[nth];
                    let strike = Strike {
                        fault,
                        from_us: at,
                        to_us: u64::MAX,
                    };
                    self.strikes.insert(nth, strike);
                }
            }
            "end" => {
                if let Some(strike) = nth().and_then(|nth| self.strikes.get_mut(&nth)) {
                    strike.to_us = at;
                }
            }
            "stopping" => self.process(first).stopping_us = Some(at),
            "ended" => {
                let how = words.next();
                let process = self.process(first);
                process.ended_us = Some(at);
                process.aborted = how == Some("aborted");
            }
            "unruly" => {
                let rest: Vec<&str> = words.collect();
                self.unruly.push(format!("{first} {}", rest.join(" ")));
            }
            "unloaded" => self.unloaded_us = at,
            _ => {}
        }
    }

    /// Processes that a job killed.
    pub(crate) fn aborts(&self) -> usize {
        self.processes
            .values()
            .filter(|process| process.aborted)
            .count()
    }
}
