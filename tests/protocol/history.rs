//! What has happened, as an onlooker saw it who misses nothing: the measure for what the protocol says of itself.

use crate::model::{JOBS, State};
use crate::redis::{Answer, Call, Caller, Ended, EntryId, Fields, STALLS_MAX, Script};

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct History {
    /// How often each job was stored by an enqueue.
    pub(crate) stored: [u8; JOBS as usize],
    /// How often each job was completed.
    pub(crate) completed: [u8; JOBS as usize],
    /// How often each job died.
    pub(crate) died: [u8; JOBS as usize],
    /// How many deliveries of each job were taken from a silent worker.
    pub(crate) stalls: [u8; JOBS as usize],
    /// The call by which each of these deliveries was ended.
    pub(crate) ended_by: Vec<(EntryId, Caller, u8)>,
    /// A settlement was accepted though its delivery was not the live one.
    pub(crate) late_accepted: bool,
    /// A caller was told of a call that was carried out that it was not, or the reverse.
    pub(crate) told_untruth: bool,
    /// What the last action showed, if it showed anything.
    pub(crate) happened: Option<Event>,
}

/// What a model in which it never happens would not check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Event {
    /// A settlement by a delivery that was no longer live was refused.
    LateRefused,
    /// A call that was sent again got its first answer.
    AnsweredAgain,
    /// A call that was overtaken by a later one of its caller was refused.
    Overtaken,
}

impl History {
    /// A call was carried out.
    pub(crate) fn note_call(&mut self, call: &Call, ended: &[Ended], answer: &Answer) {
        if let Script::Enqueue(job) = call.script {
            self.stored[usize::from(job)] += 1;
        }
        for end in ended {
            self.late_accepted |= !end.was_live;
            self.ended_by
                .push((end.delivery.entry, call.caller, call.number));
            if matches!(call.script, Script::Complete(_)) {
                self.completed[usize::from(end.taken.job)] += 1;
            }
        }
        self.ended_by.sort_unstable();
        if matches!(answer, Answer::Ok { lost } if !lost.is_empty()) {
            self.happened = Some(Event::LateRefused);
        }
    }

    /// A call was not carried out, because it or a later one had been.
    pub(crate) fn note_repeat(&mut self, answer: &Answer) {
        self.happened = Some(match answer {
            Answer::Ok { .. } => Event::AnsweredAgain,
            Answer::Old => Event::Overtaken,
        });
    }

    /// A caller hears what became of the call that it waits for.
    pub(crate) fn note_heard(&mut self, call: &Call, answer: &Answer) {
        let Answer::Ok { lost } = answer else {
            self.told_untruth = true;
            return;
        };
        self.told_untruth |= call.deliveries().iter().any(|delivery| {
            let ended = self
                .ended_by
                .contains(&(delivery.entry, call.caller, call.number));
            ended == lost.contains(&delivery.entry)
        });
    }

    /// A delivery was taken from a silent worker.
    pub(crate) fn note_stall(&mut self, fields: Fields) {
        let job = usize::from(fields.job);
        self.stalls[job] += 1;
        self.died[job] += u8::from(fields.stalls >= STALLS_MAX);
    }

    /// What nobody will ask about any more, so that states which differ in nothing else are one.
    pub(crate) fn forgettable(&self, state: &State) -> Vec<EntryId> {
        let is_over = |(_, caller, number): &&(EntryId, Caller, u8)| {
            let awaited = state.awaited(*caller);
            awaited.is_none_or(|call| call.number != *number)
        };
        let over = self.ended_by.iter().filter(is_over);
        over.map(|(entry, ..)| *entry).collect()
    }

    pub(crate) fn forget(&mut self, entries: &[EntryId]) {
        self.ended_by.retain(|(entry, ..)| !entries.contains(entry));
    }
}
