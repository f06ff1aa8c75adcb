//! What must hold at every moment, and what must be possible at all.

use stateright::Property;

use crate::history::Event;
use crate::model::{Protocol, State};

pub(crate) const ENDS_ONCE: &str = "a job ends once";
pub(crate) const ONE_HOME: &str = "a stored job that has not ended has one home, and only it";
pub(crate) const LIVE_ONLY: &str = "only the live delivery is settled";
pub(crate) const TRUE_ANSWERS: &str = "a caller that hears an answer hears the truth";
pub(crate) const STORED_ONCE: &str = "one enqueue call makes one job";
pub(crate) const CHARGED_ONCE: &str = "a stall is charged once";

/// A model in which one of these cannot happen does not check what it should.
pub(crate) const POSSIBLE: [&str; 5] = [
    "a settlement that comes too late is refused",
    "a call that is sent again gets its answer",
    "a call that was overtaken is refused",
    "a job dies of a crash loop",
    "every job is completed and nothing is left",
];

pub(crate) fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(ENDS_ONCE, |_, state: &State| {
            jobs_of(state).all(|job| state.history.completed[job] + state.history.died[job] <= 1)
        }),
        Property::always(ONE_HOME, |_, state: &State| {
            state.redis.dangling().is_empty() && jobs_of(state).all(|job| has_its_home(state, job))
        }),
        Property::always(LIVE_ONLY, |_, state: &State| !state.history.late_accepted),
        Property::always(TRUE_ANSWERS, |_, state: &State| !state.history.told_untruth),
        Property::always(STORED_ONCE, |_, state: &State| {
            state.history.stored.iter().all(|times| *times <= 1)
        }),
        Property::always(CHARGED_ONCE, |_, state: &State| {
            jobs_of(state).all(|job| {
                let mut homes = state.redis.homes(job as u8);
                homes.all(|fields| fields.stalls == state.history.stalls[job])
            })
        }),
        Property::sometimes(POSSIBLE[0], |_, state: &State| {
            state.history.happened == Some(Event::LateRefused)
        }),
        Property::sometimes(POSSIBLE[1], |_, state: &State| {
            state.history.happened == Some(Event::AnsweredAgain)
        }),
        Property::sometimes(POSSIBLE[2], |_, state: &State| {
            state.history.happened == Some(Event::Overtaken)
        }),
        Property::sometimes(POSSIBLE[3], |_, state: &State| {
            state.history.died.iter().any(|times| *times > 0)
        }),
        Property::sometimes(POSSIBLE[4], |_, state: &State| {
            jobs_of(state).all(|job| state.history.completed[job] == 1)
                && state.wire.is_empty()
                && state.redis.entries.is_empty()
        }),
    ]
}

/// Every job has been enqueued and has ended.
pub(crate) fn is_over(state: &State) -> bool {
    jobs_of(state).all(|job| state.history.completed[job] + state.history.died[job] > 0)
}

fn jobs_of(state: &State) -> impl Iterator<Item = usize> + use<> {
    0..usize::from(state.jobs)
}

fn has_its_home(state: &State, job: usize) -> bool {
    let is_somewhere = state.history.stored[job] > 0 && state.history.completed[job] == 0;
    // A worker that lives will still do the second half.
    let half_done = state.half_done.iter();
    let on_the_way = half_done.filter(|(_, ended)| usize::from(ended.taken.job) == job);
    state.redis.homes(job as u8).count() + on_the_way.count() == usize::from(is_somewhere)
}
