//! States that differ only in names are one: which worker is which, which job, how large an entry id is, and numbers that
//! nobody will compare again. The checker tells states apart by their hash, so they are hashed without their names.

use std::hash::{Hash, Hasher};

use crate::model::State;
use crate::redis::{Answer, Call, Caller, Consumer, Delivery, EntryId, Fields, Job, Script};

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let entries = self.entry_ids();
        let numbers = self.numbers();
        let is_enqueue = |call: &Call| matches!(call.script, Script::Enqueue(_));
        // Jobs are enqueued in order; after that one is like the other.
        let jobs_alike = self.enqueues == self.jobs
            && self.enqueue.is_none()
            && !self.wire.iter().any(is_enqueue);
        let names = [(0, 0), (1, 0), (0, 1), (1, 1)];
        let names = names.iter().filter(|(_, job)| *job == 0 || jobs_alike);
        let written = names.map(|(worker, job)| {
            let mut text = Text {
                entries: &entries,
                numbers: &numbers,
                starts: self.workers.each_ref().map(|worker| worker.start),
                worker: *worker,
                job: *job,
                bytes: Vec::with_capacity(128),
            };
            text.state(self);
            text.bytes
        });
        written.min().expect("at least one way").hash(hasher);
    }
}

impl State {
    /// Calls that are waited for or under way.
    fn calls_alive(&self) -> impl Iterator<Item = &Call> {
        let awaited = self.workers.iter().map(|worker| &worker.call);
        let awaited = awaited.chain([&self.enqueue]).flatten();
        awaited.chain(&self.wire)
    }

    /// The last answers that somebody may still ask for. All other callers call next with a number that is new anyway.
    fn answers(&self) -> impl Iterator<Item = (Caller, u8, Option<&Answer>)> {
        let producers = self.redis.producers.iter();
        producers.filter_map(|(caller, (last, answer))| {
            let alive = self.calls_alive().filter(|call| call.caller == *caller);
            let asking = alive
                .map(|call| call.number)
                .filter(|number| number <= last);
            let newest = asking.max()?;
            Some((*caller, *last, (newest == *last).then_some(answer)))
        })
    }

    /// Every number of a call that is written down somewhere and may be compared with another.
    fn numbers(&self) -> Vec<(Caller, u8)> {
        let alive = self.calls_alive().map(|call| (call.caller, call.number));
        let answers = self.answers().map(|(caller, last, _)| (caller, last));
        let ended = self.history.ended_by.iter();
        let ended = ended.map(|(_, caller, number)| (*caller, *number));
        let half_done = self.half_done.iter();
        let half_done = half_done.map(|(call, _)| (call.caller, call.number));
        let mut numbers: Vec<_> = alive.chain(answers).chain(ended).chain(half_done).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Every entry id that is written down somewhere, in order.
    fn entry_ids(&self) -> Vec<EntryId> {
        let mut ids: Vec<EntryId> = self.redis.entries.keys().copied().collect();
        for (_, _, answer) in self.answers() {
            if let Some(Answer::Ok { lost }) = answer {
                ids.extend(lost);
            }
        }
        for worker in &self.workers {
            ids.extend(worker.held.iter().map(|delivery| delivery.entry));
        }
        let awaited = self
            .workers
            .iter()
            .filter_map(|worker| worker.call.as_ref());
        let half_done = self.half_done.iter().map(|(call, _)| call);
        for call in awaited.chain(&self.wire).chain(half_done) {
            ids.extend(call.deliveries().iter().map(|delivery| delivery.entry));
        }
        ids.extend(self.redis.pending.keys());
        ids.extend(self.history.ended_by.iter().map(|(entry, ..)| entry));
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// A state written down under other names.
struct Text<'a> {
    entries: &'a [EntryId],
    numbers: &'a [(Caller, u8)],
    starts: [u8; 2],
    /// 1: the two workers change places.
    worker: u8,
    /// 1: the two jobs change places.
    job: u8,
    bytes: Vec<u8>,
}

impl Text<'_> {
    fn state(&mut self, state: &State) {
        self.bytes
            .extend([state.faults, state.setbacks, state.enqueues]);
        self.maybe_call(state.enqueue.as_ref());
        for index in [self.worker, self.worker ^ 1] {
            let worker = &state.workers[usize::from(index)];
            self.bytes.push(worker.held.len() as u8);
            worker.held.iter().for_each(|of| self.delivery(*of));
            self.maybe_call(worker.call.as_ref());
        }
        self.redis(state);
        self.sorted(state.wire.iter(), |text, call| text.call(call));
        self.sorted(state.half_done.iter(), |text, (call, ended)| {
            text.call(call);
            text.delivery(ended.delivery);
            text.fields(ended.taken);
        });
        self.history(state);
    }

    fn redis(&mut self, state: &State) {
        let redis = &state.redis;
        self.bytes.push(redis.entries.len() as u8);
        for (entry, fields) in &redis.entries {
            self.entry(*entry);
            self.fields(*fields);
        }
        self.bytes.push(redis.pending.len() as u8);
        for (entry, pending) in &redis.pending {
            self.entry(*entry);
            self.consumer(pending.consumer);
            self.bytes.push(u8::from(pending.silent));
        }
        for parked in [&redis.scheduled, &redis.dead] {
            self.sorted(parked.values(), |text, fields| text.fields(*fields));
        }
        let answers: Vec<_> = state.answers().collect();
        self.sorted(answers.into_iter(), |text, (caller, number, answer)| {
            text.number(caller, number);
            match answer {
                Some(Answer::Ok { lost }) => {
                    text.bytes.push(lost.len() as u8);
                    lost.iter().for_each(|entry| text.entry(*entry));
                }
                Some(Answer::Old) | None => text.bytes.push(u8::MAX),
            }
        });
    }

    fn history(&mut self, state: &State) {
        let history = &state.history;
        for job in [self.job, self.job ^ 1].map(usize::from) {
            let of = [
                &history.stored,
                &history.completed,
                &history.died,
                &history.stalls,
            ];
            self.bytes.extend(of.map(|count| count[job]));
        }
        let wrong = [history.late_accepted, history.told_untruth];
        self.bytes.extend(wrong.map(u8::from));
        self.bytes
            .push(history.happened.map_or(0, |event| 1 + event as u8));
        self.sorted(history.ended_by.iter(), |text, (entry, caller, number)| {
            text.entry(*entry);
            text.number(*caller, *number);
        });
    }

    /// Items in an order that does not depend on their names.
    fn sorted<T>(&mut self, items: impl Iterator<Item = T>, write: impl Fn(&mut Self, T)) {
        let begin = self.bytes.len();
        let mut written: Vec<Vec<u8>> = Vec::new();
        for item in items {
            write(self, item);
            written.push(self.bytes.split_off(begin));
        }
        written.sort_unstable();
        self.bytes.push(written.len() as u8);
        self.bytes.extend(written.into_iter().flatten());
    }

    fn entry(&mut self, id: EntryId) {
        let place = self.entries.binary_search(&id);
        self.bytes
            .push(place.expect("every entry id was collected") as u8);
    }

    fn job(&mut self, job: Job) {
        self.bytes.push(job ^ self.job);
    }

    fn fields(&mut self, fields: Fields) {
        self.job(fields.job);
        self.bytes.push(fields.stalls);
    }

    fn delivery(&mut self, Delivery { entry, job }: Delivery) {
        self.entry(entry);
        self.job(job);
    }

    fn consumer(&mut self, Consumer { worker, start }: Consumer) {
        // How many starts ago.
        let age = self.starts[usize::from(worker)] - start;
        self.bytes.extend([worker ^ self.worker, age]);
    }

    /// A number of a caller: how many smaller ones there are.
    fn number(&mut self, caller: Caller, number: u8) {
        match caller {
            Caller::Producer => self.bytes.push(u8::MAX),
            Caller::Worker(consumer) => self.consumer(consumer),
        }
        let smaller = |(of, other): &&(Caller, u8)| *of == caller && *other < number;
        let place = self.numbers.iter().filter(smaller).count();
        self.bytes.push(place as u8);
    }

    fn maybe_call(&mut self, call: Option<&Call>) {
        match call {
            Some(call) => self.call(call),
            None => self.bytes.push(u8::MAX - 1),
        }
    }

    fn call(&mut self, call: &Call) {
        self.number(call.caller, call.number);
        match call.script {
            Script::Enqueue(job) => {
                self.bytes.push(0);
                self.job(job);
            }
            Script::Complete(_) => self.bytes.push(1),
            Script::Retry(_) => self.bytes.push(2),
            Script::Release(_) => self.bytes.push(3),
        }
        self.bytes.push(call.deliveries().len() as u8);
        call.deliveries().iter().for_each(|of| self.delivery(*of));
    }
}
