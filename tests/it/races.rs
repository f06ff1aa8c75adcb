//! Two that settle or take away the same delivery at the same moment: one of them wins, and the other one is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream::broker::{Broker, Caller, DeathReason, Delivery, Done, Sweep};
use millstream::job::state::State;
use millstream::{Error, JobId, JobUpdate, Result};
use tokio::sync::Barrier;

use crate::support::verbs::plain;
use crate::support::{Fixture, LATER, LEASE, PATIENCE, upkeeper};

/// Deliveries that each pair is set upon.
const ROUNDS: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Move {
    Complete,
    Retry,
    DeadLetter,
    Release,
    Cancel,
    Reclaim,
    /// Ends no delivery: too late for what runs, and in time for what the winner left waiting.
    Update,
}

const MOVES: [Move; 6] = [
    Move::Complete,
    Move::Retry,
    Move::DeadLetter,
    Move::Release,
    Move::Cancel,
    Move::Reclaim,
];

/// What a move was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It found the delivery live and ended it.
    Won,
    /// It came too late, was told so, and changed nothing.
    Lost,
    /// A cancel or an update of what the winner had left, which said so.
    Followed,
}

/// One who moves jobs, with a connection of its own.
struct Hand {
    broker: Broker,
    caller: Caller,
}

impl Hand {
    async fn new(t: &Fixture) -> Self {
        let broker = Broker::connect(&t.url, "millstream", &t.queue).await;
        Self {
            broker: broker.unwrap(),
            caller: t.caller(),
        }
    }

    async fn make(&mut self, what: Move, delivery: &Delivery) -> Answer {
        let Self { broker, caller } = self;
        let (lane, entries) = (delivery.lane, &[delivery.entry]);
        match what {
            Move::Complete => {
                let done = [Done::new(delivery, std::time::Duration::from_millis(7))];
                let lost = broker.complete(caller, lane, &done, 0, PATIENCE).await;
                won_unless(lost.unwrap() == entries)
            }
            Move::Retry => {
                let retried = broker.retry(caller, delivery, LATER, Some("boom"), PATIENCE);
                settled(retried.await)
            }
            Move::DeadLetter => {
                let reason = DeathReason::Refused;
                let died = broker.dead_letter(caller, delivery, reason, "boom", PATIENCE);
                settled(died.await.map(drop))
            }
            Move::Release => {
                let lost = broker.release(caller, lane, entries, PATIENCE).await;
                won_unless(lost.unwrap() == entries)
            }
            Move::Cancel => match broker.cancel(caller, &delivery.id, None, PATIENCE).await {
                Ok(State::Running) => Answer::Won,
                Ok(_) => Answer::Followed,
                Err(Error::NotFound { .. } | Error::WrongState { .. }) => Answer::Lost,
                Err(error) => panic!("{error}"),
            },
            Move::Update => {
                let update = JobUpdate::new().delay(LATER);
                let updated = broker.update(caller, &delivery.id, "job", &update, PATIENCE);
                match updated.await {
                    Ok(Some(State::Scheduled)) => Answer::Followed,
                    Err(Error::NotFound { .. } | Error::WrongState { .. }) => Answer::Lost,
                    other => panic!("{other:?}"),
                }
            }
            Move::Reclaim => {
                // Under one name, so that the lock keeps neither away.
                let by = upkeeper("upkeep");
                let swept = broker.reclaim(&by, LEASE, None, PATIENCE).await;
                match swept.unwrap() {
                    Sweep::Swept {
                        reclaimed, dead: 0, ..
                    } => won_unless(reclaimed == 0),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

fn won_unless(lost: bool) -> Answer {
    if lost { Answer::Lost } else { Answer::Won }
}

fn settled(answer: Result<()>) -> Answer {
    match answer {
        Ok(()) => Answer::Won,
        Err(Error::LeaseLost { .. }) => Answer::Lost,
        Err(error) => panic!("{error}"),
    }
}

/// Where a job is after `winner` had it.
fn left_by(winner: Move) -> Option<State> {
    match winner {
        Move::Complete | Move::Cancel => None,
        Move::Retry | Move::Update => Some(State::Scheduled),
        Move::DeadLetter => Some(State::Dead),
        Move::Release | Move::Reclaim => Some(State::Ready),
    }
}

/// The lifetime counter of a move.
fn counter_of(what: Move) -> &'static str {
    match what {
        Move::Complete => "completed",
        Move::Retry => "retried",
        Move::DeadLetter => "dead",
        Move::Release => "released",
        Move::Cancel => "cancelled",
        Move::Reclaim => "stalled",
        Move::Update => "updated",
    }
}

/// Sets `pair` upon [`ROUNDS`] deliveries: in this order, in the other order, and twice at the same moment.
async fn race(pair: [Move; 2]) {
    let t = Fixture::new().await;
    let mut hands = [Hand::new(&t).await, Hand::new(&t).await];
    t.enqueue_many(ROUNDS).await;
    let (mut expected, mut made) = (BTreeMap::new(), BTreeMap::<Move, i64>::new());
    for (round, delivery) in t.claim(ROUNDS).await.into_iter().enumerate() {
        if pair.contains(&Move::Reclaim) {
            t.let_lease_lapse(&delivery);
        }
        let [one, two] = &mut hands;
        let answers = match round % 4 {
            0 => {
                let first = one.make(pair[0], &delivery).await;
                [first, two.make(pair[1], &delivery).await]
            }
            1 => {
                let second = two.make(pair[1], &delivery).await;
                [one.make(pair[0], &delivery).await, second]
            }
            2 => tokio::join!(one.make(pair[0], &delivery), two.make(pair[1], &delivery)).into(),
            _ => {
                let both = tokio::join!(two.make(pair[1], &delivery), one.make(pair[0], &delivery));
                [both.1, both.0]
            }
        };

        let winners = answers.iter().filter(|answer| **answer == Answer::Won);
        assert_eq!(winners.count(), 1, "{pair:?}, round {round}: {answers:?}");
        let winner = usize::from(answers[1] == Answer::Won);
        if round % 4 < 2 && pair[1] != Move::Update {
            assert_eq!(winner, round % 4, "{pair:?}: the first one lost");
        }
        let mut left = left_by(pair[winner]);
        *made.entry(pair[winner]).or_default() += 1;
        if answers.contains(&Answer::Followed) {
            assert!(left == Some(State::Scheduled) || left == Some(State::Ready));
            let follower = pair[usize::from(answers[1] == Answer::Followed)];
            left = left_by(follower);
            if follower == Move::Cancel {
                *made.entry(Move::Cancel).or_default() += 1;
            }
        }
        expected.insert(delivery.id.to_string(), left);
    }

    let scan = t.scan();
    assert_eq!(scan.faults, [""; 0], "{pair:?}");
    for (id, left) in expected {
        let found = scan.homes.get(&id).map(|homes| homes[0].state);
        assert_eq!(found, left, "{pair:?}: {id}");
    }
    for what in MOVES {
        let (made, name) = (made.get(&what).copied().unwrap_or(0), counter_of(what));
        assert_eq!(t.counter(name), made, "{pair:?}: {name}");
    }
    t.assert_stats_agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_end_one_delivery_at_the_same_moment_exactly_one_wins() {
    let few = Arc::new(tokio::sync::Semaphore::new(3));
    let mut races = tokio::task::JoinSet::new();
    for (index, one) in MOVES.into_iter().enumerate() {
        for two in MOVES[index..].iter().chain([&Move::Update]) {
            let (pair, few) = ([one, *two], Arc::clone(&few));
            races.spawn(async move {
                let _turn = few.acquire().await;
                race(pair).await;
            });
        }
    }
    while let Some(raced) = races.join_next().await {
        raced.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_sweepers_at_once_count_one_stall_and_redeliver_each_job_once() {
    let t = Fixture::new().await;
    let ids = t.enqueue_many(300).await;
    for delivery in t.claim(300).await {
        t.let_lease_lapse(&delivery);
    }
    let mut sweepers = tokio::task::JoinSet::new();
    let start = Arc::new(Barrier::new(10));
    for _ in 0..10 {
        let (hand, start) = (Hand::new(&t).await, Arc::clone(&start));
        sweepers.spawn(async move {
            start.wait().await;
            let (mut total, mut from) = (0, None);
            loop {
                // Under one name, so that the lock keeps none away.
                let by = upkeeper("upkeep");
                let swept = hand.broker.reclaim(&by, LEASE, from.as_ref(), PATIENCE);
                let Ok(Sweep::Swept {
                    next,
                    reclaimed,
                    dead: 0,
                    ..
                }) = swept.await
                else {
                    panic!("a sweep without a death");
                };
                total += reclaimed;
                match next {
                    Some(next) => from = Some(next),
                    None => return total,
                }
            }
        });
    }

    let swept: u64 = sweepers.join_all().await.into_iter().sum();

    assert_eq!((swept, t.counter("stalled")), (300, 300));
    let scan = t.scan();
    let stalled_once = |id: &JobId| scan.meta_of(id.as_str())["stalls"] == 1;
    assert!(ids.iter().all(stalled_once));
    t.enqueue(plain()).await;
    let again: Vec<_> = t.claim(1000).await;
    assert_eq!(again.len(), 301, "each once, and then the next");
    t.assert_every_job_has_one_home();
}
