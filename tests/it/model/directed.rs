//! Walks that somebody chose, and what shows that a walk can fail.

use millstream::job::state::{State, TRANSITIONS, Transition};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestCaseError;

use super::operation::{Age, Operation, Order, PLAIN, Pick, Reason, Until, Wait, Which, walk};
use super::run::World;
use super::{runner, told};
use crate::support::Fixture;
use Operation::*;

const DELAYED: Order = Order {
    delayed: true,
    ..PLAIN
};

/// Out of time before it is due.
const EXPIRING: Order = Order {
    expires: Some(Wait::Short),
    ..DELAYED
};

const TENANT: Order = Order {
    group: Some(0),
    ..PLAIN
};

const TENANT_DELAYED: Order = Order {
    delayed: true,
    ..TENANT
};

const fn unique(key: u8) -> Order {
    Order {
        unique: Some((key, Until::Finished)),
        ..PLAIN
    }
}

/// Walks, and must get to the end.
async fn walk_to_the_end<'a>(t: &'a Fixture, operations: &[Operation]) -> World<'a> {
    let mut world = World::new(t).await;
    if let Err(fault) = world.walk(operations).await {
        panic!("{fault}");
    }
    world
}

#[tokio::test]
async fn every_arrow_of_the_state_machine_is_walked() {
    let first = || Pick::Live(0);
    let any_dead = || vec![Which::In(State::Dead, 0)];
    let t = Fixture::new().await;
    let world = walk_to_the_end(
        &t,
        &[
            Enqueue(0, vec![PLAIN, DELAYED, DELAYED]),
            MakeDue(0),
            Promote(0, 1),
            RunNow(0, Which::In(State::Scheduled, 0)),
            Update(0, Which::In(State::Ready, 0), Some(1), None, None),
            Update(0, Which::In(State::Ready, 0), None, Some(true), None),
            Update(0, Which::In(State::Scheduled, 0), Some(2), None, None),
            RunNow(0, Which::In(State::Scheduled, 0)),
            Claim(0, 3),
            Extend(vec![first()]),
            Complete(0, vec![first()], true),
            Retry(0, first()),
            Release(0, vec![first()]),
            Cancel(0, Which::In(State::Ready, 0)),
            Cancel(0, Which::In(State::Scheduled, 0)),
            Enqueue(0, vec![EXPIRING]),
            Promote(0, 1),
            Purge(0, any_dead()),
            Enqueue(0, vec![PLAIN, PLAIN]),
            Claim(0, 2),
            Cancel(0, Which::In(State::Running, 0)),
            DeadLetter(0, first(), Reason::Refused),
            Redrive(0, any_dead()),
            Claim(0, 1),
            DeadLetter(0, first(), Reason::Attempts),
            Purge(0, any_dead()),
            Enqueue(0, vec![unique(0)]),
            Claim(0, 1),
            Crash(0),
            Sweep(0, true),
            Claim(0, 1),
            Crash(0),
            Sweep(0, true),
            ClaimSuspect(0),
            Crash(0),
            Sweep(0, true),
            Limit(None, 1),
            Enqueue(
                0,
                vec![TENANT, TENANT, TENANT, TENANT_DELAYED, TENANT_DELAYED],
            ),
            RunNow(0, Which::In(State::Scheduled, 0)),
            RunNow(0, Which::In(State::Held, 0)),
            Enqueue(0, vec![TENANT]),
            Update(0, Which::In(State::Held, 0), Some(1), None, None),
            Update(0, Which::In(State::Held, 0), None, Some(true), None),
            MakeDue(0),
            Promote(0, 3),
            Cancel(0, Which::In(State::Held, 0)),
            Cancel(0, Which::In(State::Held, 0)),
            Cancel(0, Which::In(State::Held, 0)),
            Limit(None, 2),
            RunNow(0, Which::In(State::Held, 0)),
            Admit,
            Enqueue(0, vec![TENANT]),
            Claim(0, 1),
            DeadLetter(0, first(), Reason::Refused),
            Redrive(0, vec![Which::In(State::Dead, 1)]),
            Prune([Age::All; 3]),
        ],
    )
    .await;
    let arrows = TRANSITIONS.iter().enumerate();
    let missed = arrows.filter(|(arrow, _)| !world.model.walked.contains(arrow));
    let missed = missed.map(|(_, (_, by, _))| *by);
    // Schedules and the purge of a group have test files of their own: no walk has one.
    let elsewhere = [Transition::CronFire, Transition::GroupPurge];
    let missed: Vec<_> = missed.filter(|by| !elsewhere.contains(by)).collect();
    assert_eq!(missed, []);
}

#[tokio::test]
async fn a_late_release_of_a_dead_jobs_key_leaves_the_next_holder_alone() {
    let t = Fixture::new().await;
    let mut walk = vec![Enqueue(0, vec![unique(0)])];
    for claim in [Claim(0, 1), Claim(0, 1), ClaimSuspect(0)] {
        walk.extend([claim, Crash(0), Sweep(0, false)]);
    }
    walk.extend([
        Enqueue(0, vec![unique(0)]),
        Unlock,
        Enqueue(1, vec![unique(0)]),
    ]);
    walk_to_the_end(&t, &walk).await;
}

#[tokio::test]
async fn a_call_sent_again_after_its_caller_was_forgotten_meets_the_fence() {
    let t = Fixture::new().await;
    let walk = [
        Enqueue(0, vec![PLAIN]),
        Claim(0, 1),
        Complete(0, vec![Pick::Live(0)], true),
        Prune([Age::Untouched, Age::Untouched, Age::All]),
        Again(0),
    ];
    walk_to_the_end(&t, &walk).await;
}

/// A change by hand after which something does not fit: the scanner knows it without a model.
const BROKEN: &[&[&str]] = &[
    &["XTRIM", "ready", "MAXLEN", "1"],
    &["XTRIM", "ready:next", "MAXLEN", "0"],
    &[
        "XADD", "ready", "*", "name", "a", "payload", "b", "attempt", "1", "meta", "",
    ],
    &["XGROUP", "DELCONSUMER", "ready", "workers", "worker-0"],
    &["XGROUP", "SETID", "ready", "workers", "$"],
    &["XGROUP", "CREATE", "ready", "others", "0"],
    &["ZREMRANGEBYRANK", "scheduled", "0", "0"],
    &["ZADD", "scheduled", "99", "nobody"],
    &["ZREMRANGEBYRANK", "dead", "0", "0"],
    &["DEL", "jobs"],
    &["HSET", "jobs", "nobody", "{}"],
    &["DEL", "payloads"],
    &["HSET", "payloads", "nobody", "left behind"],
    &["HINCRBY", "stats", "completed", "1"],
    &["HINCRBY", "stats", "enqueued", "-1"],
    &["HINCRBY", "stats", "dead", "-1"],
    &["HINCRBY", "stats", "retried", "-100"],
    &["DEL", "unique:key 0"],
    &["PERSIST", "unique:key 0"],
    &["SET", "unique:key 0", "nobody", "PX", "100000"],
    &["SET", "unique:key 1", "nobody", "PX", "100000"],
    &["HSET", "producers", "caller-0", "no number"],
    &["HINCRBY", "groups", "shop", "1"],
    &["DEL", "groups"],
    &["HSET", "groups", "nobody", "0"],
    &["DEL", "held"],
    &[
        "ZADD",
        "held",
        "0",
        "shop 1\u{1f}50000000000000009\u{1f}nobody",
    ],
    &["HSET", "limits", "group_concurrency", "9"],
    &[
        "XADD", "events", "*", "event", "vanished", "job", "nobody", "detail", "",
    ],
    &["PERSIST", "upkeep"],
    &["ZADD", "cron:due", "5", "nobody"],
    &["HSET", "cron", "nobody", "{}"],
    &["SET", "stray", "key"],
    &["RPUSH", "ready:later", "a type of its own"],
];

/// A change by hand that leaves the queue sound: only who knows what has happened can tell.
const MOVED: &[&[&str]] = &[
    &["HINCRBY", "stats", "retried", "1"],
    &["HDEL", "producers", "caller-0"],
    &["HSET", "producers", "caller-0", "1000000000000100 1 answer"],
    &["PEXPIRE", "unique:key 0", "1000000"],
    &["ZINCRBY", "scheduled", "1000", "JOB"],
    &["DEL", "completed"],
    &["DEL", "events"],
    &["HSET", "limits", "paused", "1"],
    &["SET", "upkeep", "somebody", "PX", "100000"],
];

#[tokio::test]
async fn a_change_that_no_transition_made_is_noticed() {
    let t = Fixture::new().await;
    let stage = [
        Enqueue(
            0,
            vec![PLAIN, PLAIN, PLAIN, PLAIN, unique(0), PLAIN, DELAYED],
        ),
        Limit(None, 1),
        Enqueue(1, vec![TENANT, TENANT]),
        Claim(0, 5),
        Complete(1, vec![Pick::Live(0)], true),
        Retry(0, Pick::Live(0)),
        Release(0, vec![Pick::Live(0)]),
        DeadLetter(0, Pick::Live(0), Reason::Refused),
        Sweep(0, true),
    ];
    let broken = BROKEN.iter().map(|change| (change, true));
    let moved = MOVED.iter().map(|change| (change, false));
    for (change, is_broken) in broken.chain(moved) {
        let mut world = walk_to_the_end(&t, &stage).await;
        let due = world
            .model
            .jobs
            .iter()
            .find(|job| job.state == Some(State::Scheduled));
        let due = due.expect("a scheduled job").id.to_string();
        let words = change.iter().map(|word| word.replace("JOB", &due));
        let mut command: Vec<String> = words.collect();
        let key = if change[0] == "XGROUP" { 2 } else { 1 };
        command[key] = t.key(change[key]);
        t.redis(&command);
        assert_eq!(
            !t.scan().faults.is_empty(),
            is_broken,
            "{change:?}: what the scanner says"
        );
        let verdict = world.walk(&[Resign(1)]).await;
        assert!(verdict.is_err(), "{change:?} went unnoticed");
    }
}

#[test]
fn a_seed_repeats_its_walk_and_another_takes_another() {
    let drawn = |seed| {
        let tree = walk(60).new_tree(&mut runner(seed)).expect("a walk");
        format!("{:?}", tree.current())
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
}

#[test]
fn a_walk_that_fails_is_shrunk_and_told_with_its_seed() {
    let verdict =
        |operations: Vec<Operation>| match operations.iter().any(|o| matches!(o, Claim(..))) {
            true => Err(TestCaseError::fail("somebody claimed")),
            false => Ok(()),
        };
    // A story shrinks by a step only, so some walk must have its claim elsewhere.
    let errors = (0..20).filter_map(|seed| runner(seed).run(&walk(60), verdict).err());
    let mut told = errors.map(|error| told(7, error));
    let told = told
        .find(|told| told.contains("[\n    Claim(0, 1),\n]"))
        .expect("a walk shrunk to a claim");
    assert!(told.contains("MILLSTREAM_MODEL_SEED=7"), "{told}");
}
