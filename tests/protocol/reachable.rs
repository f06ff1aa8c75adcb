//! From which states a goal can still be reached. Walks the whole graph itself: a checker of properties looks at one
//! state at a time, or follows one path.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

use stateright::Model;

/// More are a model without bounds.
const STATES_MAX: usize = 1_000_000;

/// How many states there are, and those of them from which no path leads to the goal.
pub(crate) fn stuck<M>(model: &M, goal: fn(&M::State) -> bool) -> (usize, Vec<M::State>)
where
    M: Model,
    M::State: Hash,
{
    // By hash alone, as the checker does.
    let hash = |state: &M::State| BuildHasherDefault::<DefaultHasher>::default().hash_one(state);
    let mut states = model.init_states();
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); states.len()];
    let mut numbers: HashMap<u64, usize> = states.iter().map(hash).zip(0..).collect();
    let mut next = 0;
    while next < states.len() {
        assert!(states.len() < STATES_MAX, "there is no end of states");
        let mut actions = Vec::new();
        model.actions(&states[next], &mut actions);
        for action in actions {
            let Some(reached) = model.next_state(&states[next], action) else {
                continue;
            };
            let number = *numbers.entry(hash(&reached)).or_insert_with(|| {
                states.push(reached);
                before.push(Vec::new());
                states.len() - 1
            });
            before[number].push(next);
        }
        next += 1;
    }

    let mut leads_there: Vec<bool> = states.iter().map(goal).collect();
    let mut open: Vec<usize> = (0..states.len()).filter(|of| leads_there[*of]).collect();
    while let Some(number) = open.pop() {
        for earlier in &before[number] {
            if !std::mem::replace(&mut leads_there[*earlier], true) {
                open.push(*earlier);
            }
        }
    }
    let count = states.len();
    let mut number = 0..;
    states.retain(|_| !leads_there[number.next().expect("endless")]);
    (count, states)
}
