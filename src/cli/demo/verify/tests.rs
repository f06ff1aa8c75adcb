//! A history in which all went well, and every way to spoil it: a verdict that cannot fail proves nothing.

use hyper::StatusCode;

use super::*;

/// A demo whose every part can be tampered with.
struct History {
    plan: Plan,
    answers: Vec<Answer>,
    completed: Vec<String>,
    dead: Vec<String>,
    counts: Counts,
    records: Vec<Record>,
}

fn id_of(delivery: usize) -> String {
    format!("{}-0", 1_700_000_000_000 + delivery)
}

/// Forty webhooks, all as it should be.
fn good() -> History {
    let plan = Plan::new(40);
    let mut seen = HashSet::new();
    let answers = plan
        .requests
        .iter()
        .map(|&number| match plan.deliveries[number].genuine {
            true => Answer::Stored {
                id: id_of(number),
                duplicate: !seen.insert(number),
            },
            false => Answer::Refused(StatusCode::UNAUTHORIZED),
        });
    let answers = answers.collect();
    let mut history = History {
        answers,
        completed: vec![],
        dead: vec![],
        counts: Counts::default(),
        records: vec![],
        plan,
    };
    for (number, delivery) in history
        .plan
        .deliveries
        .iter()
        .enumerate()
        .filter(|(_, d)| d.genuine)
    {
        for attempt in 1..=MAX_ATTEMPTS {
            let status = delivery.behaviour.status(attempt);
            let record = Record {
                at_ms: 1_700_000_000_000 + number as u64 + 10 * u64::from(attempt),
                worker: "worker-1".into(),
                job: id_of(number),
                attempt,
                delivery: delivery.id.clone(),
                body: digest(delivery.body),
                answer: None,
            };
            history.records.push(record.clone());
            history.records.push(Record {
                answer: Some(status),
                ..record
            });
            if status == 200 {
                history.completed.push(id_of(number));
                history.counts.completed_total += 1;
                break;
            } else if attempt == MAX_ATTEMPTS {
                history.dead.push(id_of(number));
                history.counts.dead_total += 1;
            } else {
                history.counts.retried_total += 1;
            }
        }
    }
    history
}

impl History {
    fn verdict(&self) -> Verdict {
        verify(&Facts {
            plan: &self.plan,
            answers: &self.answers,
            completed: &self.completed,
            dead: &self.dead,
            counts: self.counts,
            records: &self.records,
            workers_killed: 1,
        })
    }
}

/// The verdict on a good history after `spoil` has been at it.
fn spoiled(spoil: impl FnOnce(&mut History)) -> Verdict {
    let mut history = good();
    spoil(&mut history);
    let verdict = history.verdict();
    assert!(!verdict.is_good(), "nothing was noticed");
    verdict
}

#[test]
fn a_history_without_fault_is_good() {
    let verdict = good().verdict();
    assert!(verdict.is_good(), "{verdict:#?}");
    assert_eq!(
        (verdict.accepted, verdict.refused, verdict.duplicates),
        (40, 1, 2)
    );
    assert_eq!(
        (verdict.completed, verdict.dead, verdict.retried),
        (39, 1, 2 * 2 + 3)
    );
    assert_eq!(
        verdict.sent,
        verdict.accepted + verdict.refused + verdict.duplicates
    );
    assert_eq!(verdict.start_ms, Some(Percentiles { p50: 10, p99: 10 }));
}

#[test]
fn a_job_without_an_end_is_lost() {
    let verdict = spoiled(|history| drop(history.completed.remove(5)));
    assert_eq!(verdict.lost.len(), 1);
}

#[test]
fn a_job_that_the_handler_never_saw_is_lost_whatever_redis_says() {
    let verdict = spoiled(|history| history.records.retain(|record| record.job != id_of(0)));
    assert_eq!(verdict.lost, [id_of(0)]);
}

#[test]
fn a_job_that_completed_without_the_handlers_success_is_lost() {
    let verdict = spoiled(|history| {
        history
            .records
            .retain(|r| r.job != id_of(0) || r.answer.is_none())
    });
    assert_eq!(verdict.lost, [id_of(0)]);
}

#[test]
fn a_job_that_died_before_its_attempts_were_used_up_is_lost() {
    let verdict = spoiled(|history| {
        let dead = history.dead[0].clone();
        history
            .records
            .retain(|record| record.job != dead || record.attempt < MAX_ATTEMPTS);
    });
    assert_eq!(verdict.lost.len(), 1);
}

#[test]
fn a_job_that_completed_twice_is_doubled() {
    let verdict = spoiled(|history| history.completed.push(id_of(0)));
    assert_eq!(verdict.doubled, [id_of(0)]);
}

#[test]
fn a_job_that_completed_and_died_is_doubled() {
    let verdict = spoiled(|history| history.completed.push(history.dead[0].clone()));
    assert_eq!(verdict.doubled.len(), 1);
}

#[test]
fn an_attempt_that_began_again_because_of_the_kill_is_counted_and_is_no_fault() {
    let mut history = good();
    let again = history.records[0].clone();
    history.records.push(Record {
        worker: "worker-2".into(),
        at_ms: again.at_ms + 4_000,
        ..again
    });
    let verdict = history.verdict();
    assert!(verdict.is_good(), "{verdict:#?}");
    assert_eq!(verdict.repeated, 1);
}

#[test]
fn everything_else_that_is_wrong_is_told() {
    let told = |spoil: fn(&mut History), word: &str| {
        let problems = spoiled(spoil).problems.join("\n");
        assert!(problems.contains(word), "{word:?} is not in {problems:?}");
    };
    let forged = |history: &History| {
        history
            .answers
            .iter()
            .position(|answer| matches!(answer, Answer::Refused(_)))
    };
    assert!(forged(&good()).is_some());
    told(
        |history| {
            for answer in &mut history.answers {
                if matches!(answer, Answer::Refused(_)) {
                    *answer = Answer::Stored {
                        id: "9-9".into(),
                        duplicate: false,
                    };
                }
            }
        },
        "forged",
    );
    told(
        |history| {
            for answer in &mut history.answers {
                if let Answer::Stored { duplicate, .. } = answer {
                    *duplicate = false;
                }
            }
        },
        "stored 2 times",
    );
    told(
        |history| {
            let again = history.answers.iter_mut().find(|a| {
                matches!(
                    a,
                    Answer::Stored {
                        duplicate: true,
                        ..
                    }
                )
            });
            *again.unwrap() = Answer::Stored {
                id: "9-9".into(),
                duplicate: true,
            };
        },
        "became job",
    );
    told(
        |history| history.records[0].body = digest(b"other"),
        "other bytes",
    );
    told(
        |history| history.records[0].job = "9-9".into(),
        "nobody was told of",
    );
    told(
        |history| history.completed.push("9-9".into()),
        "nobody was told of",
    );
    told(|history| history.counts.unfinished = 1, "not ended");
    told(
        |history| history.counts.completed_total += 1,
        "jobs that ended",
    );
    told(|history| history.counts.retried_total -= 1, "retried");
    told(|history| drop(history.answers.pop()), "were planned");
    told(
        |history| {
            let genuine = history.answers.iter_mut().find(|a| {
                matches!(
                    a,
                    Answer::Stored {
                        duplicate: false,
                        ..
                    }
                )
            });
            *genuine.unwrap() = Answer::Refused(StatusCode::UNAUTHORIZED);
        },
        "genuine: true",
    );
}

#[test]
fn percentiles_are_of_the_nearest_rank() {
    assert_eq!(
        percentiles((1..=100).collect()),
        Some(Percentiles { p50: 50, p99: 99 })
    );
    assert_eq!(percentiles(vec![7]), Some(Percentiles { p50: 7, p99: 7 }));
    assert_eq!(percentiles(vec![]), None);
}
