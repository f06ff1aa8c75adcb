//! The protocol of leases and settlements, checked exhaustively on a small model: two jobs, two workers, one that
//! reclaims, and a few faults, each at any moment. What a script does in one step is one action.
//!
//! The same model with a rule left out must fail: so the rules are needed, and the checks notice when one is missing.
//! `cargo test --test protocol -- --nocapture` prints the number of states and these counterexamples;
//! `cargo test --release --test protocol -- --ignored --nocapture` goes deeper.

mod action;
mod canonical;
mod choices;
mod history;
mod model;
mod properties;
mod reachable;
mod redis;

use std::collections::BTreeSet;

use model::Protocol;
use properties::{ENDS_ONCE, LIVE_ONLY, ONE_HOME, POSSIBLE, STORED_ONCE, TRUE_ANSWERS};
use redis::Rules;
use stateright::{Checker, HasDiscoveries, Model};

const SOUND: Rules = Rules {
    fence: true,
    one_step: true,
    numbers: true,
};

/// Two jobs that get in each other's way, and one fault.
const WIDE: Protocol = Protocol {
    rules: SOUND,
    jobs: 2,
    faults: 1,
    setbacks: 1,
};

/// One job, and faults on top of faults.
const DEEP: Protocol = Protocol {
    jobs: 1,
    faults: 2,
    ..WIDE
};

/// Where the search for a counterexample ends.
const STEPS_MAX: usize = 15;

/// Checks all properties, and returns what was seen of that which must be possible.
fn check(protocol: Protocol, states_min: usize) -> BTreeSet<&'static str> {
    let until = HasDiscoveries::AnyFailures;
    let checker = protocol.checker().threads(2).finish_when(until);
    let checker = checker.spawn_bfs().join();
    let (states, steps) = (checker.unique_state_count(), checker.max_depth());
    println!("{states} states, up to {steps} steps from the first: {protocol:?}");
    let mut seen = BTreeSet::new();
    for (property, path) in checker.discoveries() {
        if POSSIBLE.contains(&property) {
            seen.insert(property);
        } else {
            panic!("broken: {property}\n{}", told(&path.into_actions()));
        }
    }
    assert!(states >= states_min, "only {states} states visited");
    seen
}

/// One step per line.
fn told(actions: &[action::Action]) -> String {
    let steps = actions.iter().enumerate();
    let lines = steps.map(|(step, action)| format!("{:4}. {action}\n", step + 1));
    lines.collect()
}

#[test]
fn no_job_is_lost_doubled_or_settled_twice() {
    let mut seen = check(WIDE, 15_000);
    seen.append(&mut check(DEEP, 8_000));

    assert_eq!(seen, BTreeSet::from(POSSIBLE));
}

#[test]
fn from_every_state_every_job_can_still_end() {
    for (protocol, states_min) in [
        (
            Protocol {
                setbacks: 0,
                ..WIDE
            },
            4_000,
        ),
        (DEEP, 8_000),
    ] {
        let (states, stuck) = reachable::stuck(&protocol, properties::is_over);

        println!("{states} states: {protocol:?}");
        assert!(stuck.is_empty(), "{}: {:#?}", stuck.len(), stuck[0]);
        assert!(states >= states_min, "only {states} states visited");
    }
}

#[test]
#[ignore = "takes half a minute"]
fn one_job_survives_three_faults() {
    check(Protocol { faults: 3, ..DEEP }, 100_000);
}

#[test]
#[ignore = "takes minutes, and wants --release"]
fn two_jobs_survive_two_faults() {
    check(Protocol { faults: 2, ..WIDE }, 1_000_000);
}

/// Asserts that the broken protocol breaks these properties, and prints how with the fewest faults in the fewest steps.
fn assert_breaks(protocol: Protocol, broken: &[&'static str]) {
    for property in broken {
        let within = |(faults, steps)| {
            let protocol = Protocol { faults, ..protocol };
            let checker = protocol.checker().target_max_depth(steps);
            let checker = checker.finish_when(HasDiscoveries::AllOf(BTreeSet::from([*property])));
            checker.spawn_bfs().join().discovery(property)
        };
        let bounds = (0..=protocol.faults)
            .flat_map(|faults| (1..=STEPS_MAX).map(move |steps| (faults, steps)));
        let path = bounds.into_iter().find_map(within);
        let path = path.unwrap_or_else(|| panic!("nothing breaks {property:?}"));
        println!("not so: {property}\n{}", told(&path.into_actions()));
    }
}

#[test]
fn without_the_fence_a_late_worker_settles_the_delivery_of_another() {
    let fence = false;
    let rules = Rules { fence, ..SOUND };

    assert_breaks(Protocol { rules, ..DEEP }, &[LIVE_ONLY]);
}

#[test]
fn with_the_ack_in_a_step_of_its_own_a_crash_loses_the_job() {
    let one_step = false;
    let rules = Rules { one_step, ..SOUND };

    assert_breaks(Protocol { rules, ..DEEP }, &[ONE_HOME]);

    let (_, stuck) = reachable::stuck(&Protocol { rules, ..DEEP }, properties::is_over);
    assert!(!stuck.is_empty(), "every job can still end");
}

#[test]
fn without_numbers_a_lost_answer_doubles_a_job_and_denies_a_settlement() {
    let numbers = false;
    let rules = Rules { numbers, ..SOUND };
    let broken = [STORED_ONCE, ENDS_ONCE, TRUE_ANSWERS];

    assert_breaks(Protocol { rules, ..DEEP }, &broken);
}
