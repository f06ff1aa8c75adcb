//! What can happen next in a state.

use crate::action::{Action, Reply};
use crate::model::{State, WORKERS, Worker};
use crate::redis::{Call, Caller, Delivery, Ended, Pending, Script};

impl State {
    /// Everything that can happen next.
    pub(crate) fn choices(&self, choices: &mut Vec<Action>) {
        self.calls(choices);
        self.repeats(choices);
        self.arrivals(choices);
        self.claims(choices);
        self.leases(choices);
        self.troubles(choices);
        let due = self.redis.scheduled.keys();
        choices.extend(due.map(|job| Action::Promote(*job)));
    }

    fn calls(&self, sends: &mut Vec<Action>) {
        if self.enqueue.is_none() && self.enqueues < self.jobs {
            let (caller, number) = (Caller::Producer, self.enqueues + 1);
            let script = Script::Enqueue(self.enqueues);
            sends.push(Action::Send(Call {
                caller,
                number,
                script,
            }));
        }
        for worker in 0..WORKERS {
            let Worker {
                held, call, calls, ..
            } = &self.workers[usize::from(worker)];
            if call.is_some() {
                continue;
            }
            let mut send = |script| {
                sends.push(Action::Send(Call {
                    caller: Caller::Worker(self.consumer(worker)),
                    number: calls + 1,
                    script,
                }));
            };
            if held.len() > 1 {
                send(Script::Complete(held.clone()));
            }
            for delivery in held {
                send(Script::Complete(vec![*delivery]));
                if self.setbacks > 0 {
                    send(Script::Retry(*delivery));
                    send(Script::Release(*delivery));
                }
            }
        }
    }

    fn repeats(&self, repeats: &mut Vec<Action>) {
        let awaited = self.workers.iter().map(|worker| &worker.call);
        for call in awaited.chain([&self.enqueue]).flatten() {
            let copies = self.wire.iter().filter(|of| *of == call).count();
            // The first copy may only be late. To send again costs nothing where none is left.
            if copies == 0 || (copies == 1 && self.faults > 0) {
                repeats.push(Action::SendAgain(call.clone()));
            }
        }
    }

    fn arrivals(&self, arrivals: &mut Vec<Action>) {
        for (index, call) in self.wire.iter().enumerate() {
            if index > 0 && self.wire[index - 1] == *call {
                continue;
            }
            arrivals.push(Action::Arrive(call.clone(), Reply::Heard));
            if self.faults > 0 && self.awaited(call.caller) == Some(call) {
                arrivals.push(Action::Arrive(call.clone(), Reply::Lost));
            }
        }
        arrivals.extend((0..self.half_done.len()).map(Action::Finish));
    }

    fn claims(&self, claims: &mut Vec<Action>) {
        for worker in 0..WORKERS {
            let by = self.consumer(worker);
            for entry in self.redis.ready() {
                claims.push(Action::Claim(by, entry, Reply::Heard));
                if self.faults > 0 {
                    claims.push(Action::Claim(by, entry, Reply::Lost));
                }
            }
            for (entry, pending) in &self.redis.pending {
                if pending.consumer == by && !self.is_held(*entry) {
                    claims.push(Action::ReadOwn(by, *entry));
                }
            }
        }
    }

    fn leases(&self, leases: &mut Vec<Action>) {
        for (entry, pending) in &self.redis.pending {
            // The leases of the dead lapse, and the living renew theirs. Anything else is a fault.
            match (pending.silent, self.is_held(*entry)) {
                (false, held) if !held || self.faults > 0 => leases.push(Action::Lapse(*entry)),
                (true, held) if held || self.faults > 0 => leases.push(Action::Extend(*entry)),
                _ => {}
            }
            if pending.silent
                && let Some(fields) = self.redis.entries.get(entry)
            {
                leases.push(Action::Reclaim(Delivery {
                    entry: *entry,
                    job: fields.job,
                }));
            }
        }
        for (worker, Worker { held, call, .. }) in self.workers.iter().enumerate() {
            let settling = call.as_ref().map_or(&[][..], Call::deliveries);
            for delivery in held.iter().filter(|of| !settling.contains(of)) {
                if !self.redis.pending.contains_key(&delivery.entry) {
                    leases.push(Action::Told(worker as u8, *delivery));
                }
            }
        }
    }

    fn troubles(&self, troubles: &mut Vec<Action>) {
        if self.faults == 0 {
            return;
        }
        for worker in 0..WORKERS {
            let Worker { held, call, .. } = &self.workers[usize::from(worker)];
            if call.is_some() {
                troubles.push(Action::GiveUp(worker));
            }
            let by = self.consumer(worker);
            let owns = |of: &Pending| of.consumer == by;
            let is_busy = |(call, _): &(Call, Ended)| call.caller == Caller::Worker(by);
            // The death of a worker that has nothing to do changes nothing.
            if call.is_some()
                || !held.is_empty()
                || self.redis.pending.values().any(owns)
                || self.half_done.iter().any(is_busy)
            {
                troubles.push(Action::Crash(worker));
            }
        }
    }
}
