//! new -> ready | scheduled

use std::time::Duration;

use millstream::NewJob;
use millstream::broker::{Broker, Caller, Promotion};
use millstream::job::state::State;

use crate::support::verbs::{awkward_payloads, plain};
use crate::support::{Fixture, LATER, PATIENCE};

#[tokio::test]
async fn an_enqueued_job_is_ready_and_keeps_all_it_was_given() {
    let t = Fixture::new().await;
    let job = NewJob::json("shop/orders/create", &["é", "\u{7f}"])
        .unwrap()
        .max_attempts(3)
        .timeout(Duration::from_secs(9))
        .header("topic", "orders/\"create\"");
    let payload = job.payload().clone();

    let id = t.enqueue(job).await;

    assert_eq!(t.state_of(&id), Some(State::Ready));
    let meta = t.scan().meta_of(id.as_str());
    let expected = serde_json::json!({
        "max_attempts": 3, "timeout_ms": 9000, "codec": "json", "headers": {"topic": "orders/\"create\""},
    });
    assert_eq!(meta, expected);
    let delivery = t.claim_one().await;
    assert_eq!(
        (delivery.name.as_str(), delivery.attempt),
        ("shop/orders/create", 1)
    );
    assert_eq!(delivery.payload, payload);
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
}

#[tokio::test]
async fn jobs_are_claimed_in_the_order_in_which_they_were_enqueued() {
    let t = Fixture::new().await;
    let mut ids = t.enqueue_many(300).await;
    ids.extend(t.enqueue_many(1).await);

    let claimed = t.claim_ids(500).await;

    assert_eq!(claimed, ids);
}

#[tokio::test]
async fn a_delayed_job_is_scheduled_by_the_clock_of_redis_and_never_early() {
    let t = Fixture::new().await;
    let delay = Duration::from_millis(60);
    let before_us = t.now_us();

    let id = t.enqueue(plain().delay(delay)).await;

    let due_ms = t.home_of(&id).unwrap().score;
    assert!(
        due_ms * 1000 >= before_us + 60_000,
        "due {due_ms} ms, asked at {before_us} us"
    );
    t.assert_every_job_has_one_home();
    loop {
        let promotion = t.promote().await;
        let after_us = t.now_us();
        match promotion {
            Promotion::Promoted { count: 1, .. } => {
                assert!(
                    after_us >= before_us + 60_000,
                    "promoted {} us early",
                    before_us + 60_000 - after_us
                );
                break;
            }
            Promotion::Promoted {
                count: 0,
                next_due: Some(wait),
                ..
            } => tokio::time::sleep(wait).await,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(t.state_of(&id), Some(State::Ready));
}

#[tokio::test]
async fn only_a_new_earliest_due_time_is_announced() {
    let t = Fixture::new().await;
    let mut heard = t.listen();

    t.enqueue(plain().delay(LATER)).await;
    t.enqueue(plain().delay(LATER * 2)).await;
    t.enqueue(plain().delay(LATER / 2)).await;
    t.redis(&["PUBLISH", &t.key("wake"), "end"]);

    let messages = [heard.message(), heard.message(), heard.message()];
    assert_eq!(messages, ["due", "due", "end"]);
}

#[tokio::test]
async fn a_call_that_is_sent_again_stores_nothing_and_answers_the_same() {
    // Plain ones go a way of their own, and one by itself another.
    let jobs = [plain(), plain(), plain().delay(LATER), plain().unique("k")];
    for jobs in [&jobs[..1], &jobs[..2], &jobs[..]] {
        let t = Fixture::new().await;
        let (mut first, mut again) = (Caller::new("p"), Caller::new("p"));
        let answer = t.broker.enqueue(&mut first, jobs, PATIENCE).await.unwrap();
        let stored = t.state_hash();

        let second = t.broker.enqueue(&mut again, jobs, PATIENCE).await;

        assert_eq!(second.unwrap(), answer);
        assert_eq!(t.state_hash(), stored);
        t.assert_every_job_has_one_home();
    }
}

#[tokio::test]
async fn a_call_that_was_overtaken_by_a_later_one_stores_nothing() {
    let t = Fixture::new().await;
    let (mut current, mut late) = (Caller::new("p"), Caller::new("p"));
    for _ in 0..2 {
        let stored = t.broker.enqueue(&mut current, &[plain()], PATIENCE).await;
        stored.unwrap();
    }
    let stored = t.state_hash();

    let refused = t.broker.enqueue(&mut late, &[plain()], PATIENCE).await;

    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(t.state_hash(), stored);
}

/// Plain jobs go a short way, except on a queue with a maximum depth, and that may change between a call and its repetition.
#[tokio::test]
async fn a_plain_call_that_is_sent_again_the_other_way_answers_the_same() {
    let jobs = [plain(), plain().unique_for("k", LATER), plain()];
    let held = [plain().unique_for("k", LATER), plain()];
    for (jobs, limited) in [
        (&jobs[..], false),
        (&jobs[..1], false),
        (&held[..], false),
        (&jobs[..], true),
        (&jobs[..1], true),
        (&held[..], true),
    ] {
        let t = Fixture::new().await;
        t.expect_window("k");
        t.enqueue(plain().unique_for("k", LATER)).await;
        let limit = async |limited: bool| {
            let most = limited.then_some(100);
            t.broker.set_max_depth(most, PATIENCE).await.unwrap();
        };
        // Each with eyes of its own for whether there is a maximum.
        let broker = async || {
            Broker::connect(&t.url, "millstream", &t.queue)
                .await
                .unwrap()
        };
        let (mut first, mut again) = (Caller::new("p"), Caller::new("p"));
        limit(limited).await;
        let answer = broker().await.enqueue(&mut first, jobs, PATIENCE).await;
        limit(!limited).await;
        let stored = t.counter("enqueued");

        let second = broker().await.enqueue(&mut again, jobs, PATIENCE).await;

        assert_eq!(second.unwrap(), answer.unwrap(), "limited: {limited}");
        assert_eq!(t.counter("enqueued"), stored, "limited: {limited}");
        let next = broker().await.enqueue(&mut again, jobs, PATIENCE).await;
        assert_eq!(next.unwrap().len(), jobs.len(), "limited: {limited}");
        t.assert_every_job_has_one_home();
    }
}

#[tokio::test]
async fn callers_do_not_stand_in_each_others_way() {
    let t = Fixture::new().await;
    t.enqueue(plain()).await;
    t.enqueue(plain()).await;
    assert_eq!(t.claim(10).await.len(), 2);
}

#[tokio::test]
async fn a_thousand_jobs_are_stored_in_one_call_and_in_order() {
    let t = Fixture::new().await;
    let jobs: Vec<NewJob> = (0..1000)
        .map(|n| match n % 3 {
            0 => NewJob::raw(format!("job-{n}"), vec![n as u8; n]),
            1 => NewJob::raw(format!("job-{n}"), "").unique(format!("key-{n}")),
            _ => NewJob::raw(format!("job-{n}"), "x").delay(LATER),
        })
        .collect();

    let enqueued = t.try_enqueue(&jobs).await.unwrap();

    assert_eq!(enqueued.len(), 1000);
    assert_eq!(t.counter("enqueued"), 1000);
    t.assert_every_job_has_one_home();
    let claimed = t.claim(1000).await;
    assert_eq!(claimed.len(), 667);
    for delivery in claimed {
        let n: usize = delivery.name["job-".len()..].parse().unwrap();
        assert_eq!(
            (&delivery.id, delivery.payload),
            (&enqueued[n].id, jobs[n].payload().clone())
        );
    }
}

#[tokio::test]
async fn a_bulk_whose_last_job_cannot_be_stored_stores_none() {
    let t = Fixture::new().await;
    let mut jobs = vec![plain(); 999];
    jobs.push(plain().unique("k"));
    t.redis(&["RPUSH", &t.key("unique:k"), "not ours"]);
    let stored = t.state_hash();

    t.try_enqueue(&jobs).await.unwrap_err();

    assert_eq!(t.state_hash(), stored);
}

#[tokio::test]
async fn awkward_payloads_arrive_byte_for_byte() {
    let t = Fixture::new().await;
    for payload in awkward_payloads() {
        let delivery = t.running(NewJob::raw("a", payload.clone())).await;
        assert!(
            delivery.payload == payload,
            "{} bytes changed",
            payload.len()
        );
    }
}

#[tokio::test]
async fn a_duplicate_is_not_stored_and_names_the_holder() {
    let t = Fixture::new().await;
    let id = t.enqueue(plain().unique("order 7")).await;
    let both = [
        plain().unique("order 7"),
        plain().unique("order 8"),
        plain().unique("order 8"),
    ];

    let answer = t.try_enqueue(&both).await.unwrap();

    assert_eq!((&answer[0].id, answer[0].duplicate), (&id, true));
    assert!(!answer[1].duplicate);
    assert_eq!((&answer[2].id, answer[2].duplicate), (&answer[1].id, true));
    assert_eq!(t.counter("enqueued"), 2);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_unique_key_is_held_while_its_job_is_scheduled_ready_running_or_handed_back() {
    let t = Fixture::new().await;
    let id = t.enqueue(plain().unique("k").delay(LATER)).await;
    let is_held = async |when: &str| {
        let answer = t.try_enqueue(&[plain().unique("k")]).await.unwrap();
        assert_eq!((&answer[0].id, answer[0].duplicate), (&id, true), "{when}");
    };
    is_held("scheduled").await;
    t.make_due(&id);
    t.promote().await;
    is_held("ready").await;
    let delivery = t.claim_one().await;
    is_held("running").await;
    let delivery = t.take_over(&delivery).await;
    is_held("reclaimed").await;
    t.release(&delivery).await;
    is_held("handed back").await;
    let delivery = t.claim_one().await;
    t.retry(&delivery, LATER, "boom").await.unwrap();
    is_held("retrying").await;
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_job_does_not_conflict_with_its_own_retry() {
    let t = Fixture::new().await;
    let delivery = t.running(plain().unique("k")).await;
    let id = delivery.id.clone();

    let again = t.fail_once(&delivery, "boom").await;

    assert_eq!(again.attempt, 2);
    assert_eq!(t.unique_holder("k").as_deref(), Some(id.as_str()));
    assert_eq!(t.complete(&[&again]).await, []);
    assert_eq!(t.unique_holder("k"), None);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_window_outlives_the_job_it_was_opened_by() {
    let t = Fixture::new().await;
    t.expect_window("delivery-1");
    let webhook = || plain().unique_for("delivery-1", LATER);
    let delivery = t.running(webhook()).await;
    t.complete(&[&delivery]).await;

    let answer = t.try_enqueue(&[webhook()]).await.unwrap();

    assert_eq!((&answer[0].id, answer[0].duplicate), (&delivery.id, true));
    let rest = t.redis(&["PTTL", &t.key("unique:delivery-1")]).int();
    assert!((1..=3_600_000).contains(&rest), "{rest} ms");
    t.assert_every_job_has_one_home();
}

/// Whatever the call has beside them: nothing is limited, jobs have groups, or groups have limits.
#[tokio::test]
async fn webhooks_of_one_call_keep_what_is_their_own_and_make_one_job_each() {
    for (group, limited) in [(None, false), (Some("shop"), false), (Some("shop"), true)] {
        let t = Fixture::new().await;
        if limited {
            t.limit_groups(1).await;
        }
        let webhook = |id: &str| {
            let job = NewJob::raw("shop", id.to_owned()).header("id", id);
            let job = job.unique_for(id, LATER);
            group.map_or(job.clone(), |group| job.group(group))
        };
        for id in ["a", "b", "c", "d"] {
            t.expect_window(id);
        }
        let first = t.enqueue(webhook("a")).await;

        let jobs = [
            webhook("b"),
            webhook("a"),
            webhook("c"),
            webhook("b"),
            plain(),
            plain(),
            plain().header("id", "own"),
            webhook("d"),
        ];
        let told = t.try_enqueue(&jobs).await.unwrap();

        let case = format!("{group:?}, limited: {limited}");
        let duplicates: Vec<_> = told.iter().map(|told| told.duplicate).collect();
        let expected = [false, true, false, true, false, false, false, false];
        assert_eq!(duplicates, expected, "{case}");
        assert_eq!((&told[1].id, &told[3].id), (&first, &told[0].id), "{case}");
        let scan = t.scan();
        for (at, id) in [(0, "b"), (2, "c"), (6, "own"), (7, "d")] {
            let job = told[at].id.as_str();
            assert_eq!(scan.meta_of(job)["headers"]["id"], id, "{case}");
            if id != "own" {
                assert_eq!(t.unique_holder(id).as_deref(), Some(job), "{case}");
                let rest = t.redis(&["PTTL", &t.key(&format!("unique:{id}"))]).int();
                assert!((3_500_000..=3_600_000).contains(&rest), "{case}: {rest} ms");
            }
        }
        assert!(scan.meta_of(told[4].id.as_str())["headers"].is_null());
        assert_eq!(t.counter("enqueued"), 7, "{case}");
        t.assert_every_job_has_one_home();
    }
}

#[tokio::test]
async fn a_window_that_has_passed_lets_the_next_one_in() {
    let t = Fixture::new().await;
    t.expect_window("k");
    t.enqueue(plain().unique_for("k", LATER)).await;
    t.redis(&["PEXPIRE", &t.key("unique:k"), "0"]);

    t.enqueue(plain().unique_for("k", LATER)).await;

    assert_eq!(t.claim(10).await.len(), 2);
}

#[tokio::test]
async fn the_key_of_a_holder_that_vanished_does_not_block() {
    let t = Fixture::new().await;
    for gone in ["1-1", "0189abcd", "not an id at all"] {
        t.redis(&["SET", &t.key("unique:k"), gone, "PX", "1000000"]);

        let id = t.enqueue(plain().unique("k")).await;

        assert_eq!(
            t.unique_holder("k").as_deref(),
            Some(id.as_str()),
            "after {gone:?}"
        );
        let delivery = t.claim_one().await;
        t.complete(&[&delivery]).await;
    }
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn the_key_of_a_dead_holder_does_not_block() {
    let t = Fixture::new().await;
    let dead = t.dead(plain().unique("k")).await;
    // As it stands between a sweep that lets a job die and the release of its key.
    t.redis(&["SET", &t.key("unique:k"), dead.as_str(), "PX", "1000000"]);

    let id = t.enqueue(plain().unique("k")).await;

    assert_ne!(id, dead);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn an_expiry_is_set_by_the_clock_of_redis() {
    let t = Fixture::new().await;
    let before_ms = t.now_us() / 1000;

    let id = t.enqueue(plain().expires(LATER).header("h", "v")).await;

    let meta = t.scan().meta_of(id.as_str());
    let expires = meta["expires_at_ms"].as_i64().unwrap();
    let after_ms = t.now_us() / 1000;
    assert!(
        (before_ms + 3_600_000..=after_ms + 3_600_000).contains(&expires),
        "{meta}"
    );
    assert_eq!(meta["headers"]["h"], "v");
}
