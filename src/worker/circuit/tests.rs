use futures_util::FutureExt;

use super::*;
use crate::worker::handler::JobError;

const HOUR: Duration = Duration::from_secs(3600);

fn gate(failures: u32, pause: Duration) -> Gate {
    let circuit = Circuit::new("t:1")
        .failures(failures)
        .pause(Backoff::Fixed(pause));
    Gate::new(&QueueName::new("q").unwrap(), Some(circuit), None)
}

fn pass(gate: &Gate) -> Option<Pass> {
    gate.pass().now_or_never().expect("nothing to wait for")
}

fn down() -> Outcome {
    Outcome::Failed(JobError::unavailable("refused"))
}

fn ends(gate: &Gate, outcome: Outcome) {
    pass(gate).expect("not open").report(&outcome);
}

#[test]
fn it_opens_after_failures_in_a_row_and_only_then() {
    let gate = gate(3, HOUR);
    for outcome in [
        down(),
        down(),
        Outcome::Done,
        down(),
        down(),
        // The target answered, if not as one would wish.
        Outcome::Failed(JobError::failed("404")),
        down(),
        down(),
        // Says nothing, and ends no row.
        Outcome::Interrupted,
    ] {
        ends(&gate, outcome);
        assert_eq!(gate.state(), Some(CircuitState::Closed));
        assert_eq!(gate.room(5), usize::MAX);
    }
    ends(&gate, down());

    assert_eq!(gate.state(), Some(CircuitState::Open));
    assert_eq!(gate.room(0), 0);
    assert!(pass(&gate).is_none());
}

#[test]
fn one_job_tries_and_the_others_wait_for_its_word() {
    for (word, after) in [
        (Outcome::Done, CircuitState::Closed),
        (
            Outcome::Failed(JobError::failed("422")),
            CircuitState::Closed,
        ),
        (down(), CircuitState::Open),
    ] {
        let gate = gate(1, Duration::from_nanos(1));
        ends(&gate, down());
        std::thread::yield_now();
        assert_eq!(gate.room(1), 0, "one in hand is one to try");
        assert_eq!(gate.state(), Some(CircuitState::HalfOpen));
        assert_eq!(gate.room(0), 1);

        let first = pass(&gate).expect("may try");
        let mut second = std::pin::pin!(gate.pass());
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(gate.room(0), 0);
        first.report(&word);

        assert_eq!(gate.state(), Some(after));
        let second = gate.pass().now_or_never().expect("heard the word");
        assert_eq!(second.is_some(), after == CircuitState::Closed);
    }
}

#[test]
fn a_job_that_did_not_try_leaves_it_to_the_next() {
    let gate = gate(1, Duration::from_nanos(1));
    ends(&gate, down());
    std::thread::yield_now();
    gate.room(0);
    for _ in 0..2 {
        ends(&gate, Outcome::Interrupted);
        assert_eq!(gate.room(0), 1);
    }
    drop(pass(&gate).unwrap());
    assert_eq!(gate.room(0), 1);
}

#[test]
fn what_began_before_it_opened_says_nothing_afterwards() {
    let gate = gate(1, Duration::from_nanos(1));
    let (late_well, late_down, later_down) = (pass(&gate), pass(&gate), pass(&gate));
    ends(&gate, down());
    late_well.unwrap().report(&Outcome::Done);
    assert_ne!(gate.state(), Some(CircuitState::Closed));
    std::thread::yield_now();
    gate.room(0);
    late_down.unwrap().report(&down());
    ends(&gate, Outcome::Done);
    assert_eq!(gate.state(), Some(CircuitState::Closed));
    later_down.unwrap().report(&down());
    assert_eq!(gate.state(), Some(CircuitState::Closed));
}

#[test]
fn a_limit_is_shared_by_all_gates_that_have_it() {
    let limit = SharedLimit::new(2);
    let queue = QueueName::new("q").unwrap();
    let [a, b] = [0, 1].map(|_| Gate::new(&queue, None, Some(limit.clone())));
    let first = pass(&a);
    let _second = pass(&b);
    assert!(a.pass().now_or_never().is_none());
    drop(first);
    assert!(pass(&b).is_some());
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    for (name, refused) in [
        ("circuit_failures", Circuit::new("t").failures(0).check()),
        ("target_concurrency", SharedLimit::new(0).check()),
        ("target_concurrency", SharedLimit::new(usize::MAX).check()),
    ] {
        match refused {
            Err(Error::Setting { name: named, .. }) => assert_eq!(named, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}
