//! A queue with one producer, two workers and one that reclaims, over a wire on which calls are late, sent twice, or
//! left without an answer.

use stateright::{Model, Property};

use crate::action::{Action, Reply};
use crate::history::History;
use crate::properties;
use crate::redis::{
    Answer, Call, Caller, Consumer, Delivery, Ended, EntryId, Redis, Rules, Script,
};

pub(crate) const JOBS: u8 = 2;
pub(crate) const WORKERS: u8 = 2;

/// The protocol under some rules, and how much may go wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Protocol {
    pub(crate) rules: Rules,
    /// Crashes, leases that lapse in the hands of the living, lost answers, calls sent twice, calls given up: so many
    /// together, in any mixture and at any moment.
    pub(crate) faults: u8,
    /// At most [`JOBS`].
    pub(crate) jobs: u8,
    /// Attempts that end in `retry` or `release`.
    pub(crate) setbacks: u8,
}

/// One worker process.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Worker {
    /// How often it was started again.
    pub(crate) start: u8,
    /// The leases that it renews: from the delivery until the settlement is confirmed.
    pub(crate) held: Vec<Delivery>,
    /// The call whose answer it waits for.
    pub(crate) call: Option<Call>,
    pub(crate) calls: u8,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) redis: Redis,
    pub(crate) workers: [Worker; WORKERS as usize],
    /// The call whose answer the producer waits for, and how many it has made. Call `n` enqueues job `n - 1`.
    pub(crate) enqueue: Option<Call>,
    pub(crate) enqueues: u8,
    /// Calls under way, in no order.
    pub(crate) wire: Vec<Call>,
    /// Deliveries that were ended by a call whose second half is still to come. Only where the rules are broken.
    pub(crate) half_done: Vec<(Call, Ended)>,
    pub(crate) jobs: u8,
    pub(crate) faults: u8,
    pub(crate) setbacks: u8,
    pub(crate) history: History,
}

impl State {
    pub(crate) fn consumer(&self, worker: u8) -> Consumer {
        let start = self.workers[usize::from(worker)].start;
        Consumer { worker, start }
    }

    /// The call whose answer `caller` waits for.
    pub(crate) fn awaited(&self, caller: Caller) -> Option<&Call> {
        match caller {
            Caller::Producer => self.enqueue.as_ref(),
            Caller::Worker(by) if by == self.consumer(by.worker) => {
                self.workers[usize::from(by.worker)].call.as_ref()
            }
            Caller::Worker(_) => None,
        }
    }

    /// Whether somebody who lives takes care of the pending entry.
    pub(crate) fn is_held(&self, entry: EntryId) -> bool {
        self.redis.pending.get(&entry).is_some_and(|pending| {
            let by = pending.consumer;
            let held = &self.workers[usize::from(by.worker)].held;
            by == self.consumer(by.worker) && held.iter().any(|of| of.entry == entry)
        })
    }

    fn put_on_wire(&mut self, call: Call) {
        let place = self.wire.partition_point(|other| *other <= call);
        self.wire.insert(place, call);
    }

    fn take_from_wire(&mut self, call: &Call) {
        let place = self.wire.iter().position(|other| other == call);
        self.wire.remove(place.expect("a call that is under way"));
    }

    /// A call runs in Redis, and its answer goes to whoever still waits for it.
    fn carry_out(&mut self, rules: Rules, call: &Call, reply: Reply) {
        let answer = match self.redis.settle(rules, call) {
            Err(answer) => {
                self.history.note_repeat(&answer);
                answer
            }
            Ok((ended, answer)) => {
                self.history.note_call(call, &ended, &answer);
                for end in ended {
                    if rules.one_step {
                        self.redis.place(&call.script, end.taken);
                    } else if !matches!(call.script, Script::Complete(_)) {
                        self.half_done.push((call.clone(), end));
                    }
                }
                answer
            }
        };
        if reply == Reply::Lost {
            self.faults -= 1;
        } else if self.awaited(call.caller) == Some(call) {
            self.hear(call, &answer);
        }
    }

    fn hear(&mut self, call: &Call, answer: &Answer) {
        self.history.note_heard(call, answer);
        match call.caller {
            Caller::Producer => self.enqueue = None,
            Caller::Worker(by) => {
                let worker = &mut self.workers[usize::from(by.worker)];
                worker.call = None;
                let settled = call.deliveries();
                worker.held.retain(|of| !settled.contains(of));
            }
        }
    }

    fn hold(&mut self, by: Consumer, delivery: Delivery) {
        let held = &mut self.workers[usize::from(by.worker)].held;
        held.push(delivery);
        held.sort_unstable();
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let state = State {
            jobs: self.jobs,
            faults: self.faults,
            setbacks: self.setbacks,
            ..State::default()
        };
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.choices(actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        next.history.happened = None;
        match action {
            Action::Send(call) => {
                match call.caller {
                    Caller::Producer => {
                        next.enqueues += 1;
                        next.enqueue = Some(call.clone());
                    }
                    Caller::Worker(by) => {
                        let worker = &mut next.workers[usize::from(by.worker)];
                        worker.calls += 1;
                        worker.call = Some(call.clone());
                    }
                }
                if matches!(call.script, Script::Retry(_) | Script::Release(_)) {
                    next.setbacks -= 1;
                }
                next.put_on_wire(call);
            }
            Action::SendAgain(call) => {
                next.faults -= u8::from(next.wire.contains(&call));
                next.put_on_wire(call);
            }
            Action::GiveUp(worker) => {
                next.faults -= 1;
                let Worker { held, call, .. } = &mut next.workers[usize::from(worker)];
                let call = call.take()?;
                held.retain(|of| !call.deliveries().contains(of));
            }
            Action::Arrive(call, reply) => {
                next.take_from_wire(&call);
                next.carry_out(self.rules, &call, reply);
            }
            Action::Finish(index) => {
                let (call, end) = next.half_done.remove(index);
                next.redis.place(&call.script, end.taken);
            }
            Action::Claim(by, entry, reply) => {
                let delivery = next.redis.claim(entry, by);
                match reply {
                    Reply::Heard => next.hold(by, delivery),
                    Reply::Lost => next.faults -= 1,
                }
            }
            Action::ReadOwn(by, entry) => {
                let job = next.redis.entries.get(&entry)?.job;
                next.hold(by, Delivery { entry, job });
            }
            Action::Lapse(entry) => {
                next.faults -= u8::from(last.is_held(entry));
                next.redis.pending.get_mut(&entry)?.silent = true;
            }
            Action::Extend(entry) => {
                next.faults -= u8::from(!last.is_held(entry));
                next.redis.extend(entry);
            }
            Action::Told(worker, lost) => {
                let held = &mut next.workers[usize::from(worker)].held;
                held.retain(|delivery| *delivery != lost);
            }
            Action::Crash(worker) => {
                next.faults -= 1;
                let by = Caller::Worker(last.consumer(worker));
                next.half_done.retain(|(call, _)| call.caller != by);
                let start = last.consumer(worker).start + 1;
                next.workers[usize::from(worker)] = Worker {
                    start,
                    ..Worker::default()
                };
            }
            Action::Promote(job) => next.redis.promote(job),
            Action::Reclaim(delivery) => {
                let fields = next.redis.reclaim(self.rules, delivery)?;
                next.history.note_stall(fields);
            }
        }
        let forgotten: Vec<_> = next.history.forgettable(&next);
        next.history.forget(&forgotten);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
