//! completed | dead -> gone; producers and consumers forgotten

use std::time::Duration;

use millstream::broker::{Caller, Lane};

use crate::support::verbs::{WORKER, plain};
use crate::support::{Fixture, LATER, PATIENCE};

const NONE: Option<Duration> = None;

#[tokio::test]
async fn only_finished_jobs_that_are_old_enough_go() {
    let t = Fixture::new().await;
    let (old, young) = (t.dead(plain()).await, t.dead(plain()).await);
    let hours_ago = t.now_us() / 1000 - 2 * 3_600_000;
    t.redis(&["ZADD", &t.key("dead"), &hours_ago.to_string(), old.as_str()]);
    t.redis(&[
        "XADD",
        &t.key("completed"),
        &format!("{hours_ago}-0"),
        "job",
        "old",
    ]);
    let done = t.running(plain()).await;
    t.complete_keeping(&[&done], 100).await;
    let unfinished = [
        t.enqueue(plain()).await,
        t.enqueue(plain().delay(LATER)).await,
    ];
    t.expect_unbooked(-1);

    let step = t
        .broker
        .prune(Some(LATER), Some(LATER), NONE, None, 500, PATIENCE)
        .await
        .unwrap();

    assert_eq!(
        (step.completed, step.dead, step.producers, step.more),
        (1, 1, 0, false)
    );
    assert_eq!(t.state_of(&old), None);
    for kept in unfinished.iter().chain([&young]) {
        assert!(t.state_of(kept).is_some(), "{kept} is gone");
    }
    assert_eq!(t.redis(&["XLEN", &t.key("completed")]).int(), 1);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn an_age_that_is_not_given_leaves_that_kind_alone() {
    let t = Fixture::new().await;
    t.dead(plain()).await;
    let done = t.running(plain()).await;
    t.complete_keeping(&[&done], 100).await;
    let before = t.state_hash();

    let step = t
        .broker
        .prune(NONE, NONE, NONE, None, 500, PATIENCE)
        .await
        .unwrap();

    assert_eq!((step.completed, step.dead, step.producers), (0, 0, 0));
    assert_eq!(t.state_hash(), before);
}

#[tokio::test]
async fn a_step_is_bounded_and_says_that_there_is_more() {
    let t = Fixture::new().await;
    t.enqueue_many(601).await;
    for delivery in t.claim(1000).await {
        t.dead_letter(&delivery, "no").await.unwrap();
    }
    t.expect_unbooked(-601);
    let age = Some(Duration::ZERO);

    let first = t
        .broker
        .prune(NONE, age, NONE, None, 500, PATIENCE)
        .await
        .unwrap();
    let second = t
        .broker
        .prune(NONE, age, NONE, None, 500, PATIENCE)
        .await
        .unwrap();

    assert_eq!((first.dead, first.more), (500, true));
    assert_eq!((second.dead, second.more), (101, false));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn only_producers_that_no_longer_call_are_forgotten() {
    let t = Fixture::new().await;
    let held = || plain().unique_for("k", LATER);
    t.expect_window("k");
    for (name, job) in [("idle", plain()), ("busy", held()), ("busy too", held())] {
        let mut caller = Caller::new(name);
        let stored = t.broker.enqueue(&mut caller, &[job], PATIENCE).await;
        stored.unwrap();
    }
    let hours_ago = t.now_us() / 1000 - 2 * 3_600_000;
    for (caller, last) in [
        ("idle", format!("1 {hours_ago}-7")),
        ("idle too", format!("1 {hours_ago} =5-0")),
    ] {
        t.redis(&["HSET", &t.key("producers"), caller, &last]);
    }

    let step = t
        .broker
        .prune(NONE, NONE, Some(LATER), None, 500, PATIENCE)
        .await
        .unwrap();

    assert_eq!((step.producers, step.cursor), (2, None));
    let left = t.redis(&["HKEYS", &t.key("producers")]);
    let mut left: Vec<_> = left.list().iter().map(|caller| caller.text()).collect();
    left.sort_unstable();
    assert_eq!(left, ["busy", "busy too"]);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_thousand_idle_producers_are_forgotten_in_steps() {
    let t = Fixture::new().await;
    for n in 0..1000 {
        t.redis(&[
            "HSET",
            &t.key("producers"),
            &format!("idle-{n}"),
            &format!("1 1000 {n}-0"),
        ]);
    }
    let (mut cursor, mut forgotten, mut steps) = (None, 0, 0);
    loop {
        let step = t
            .broker
            .prune(NONE, NONE, Some(LATER), cursor.as_deref(), 500, PATIENCE)
            .await
            .unwrap();
        forgotten += step.producers;
        steps += 1;
        cursor = step.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(forgotten, 1000);
    assert!(steps > 1, "all in one step");
}

#[tokio::test]
async fn only_consumers_that_hold_nothing_are_forgotten() {
    let t = Fixture::new().await;
    let held = t.running(plain()).await;
    t.enqueue(plain()).await;
    let settled = t.claim_as("worker-b", 1).await;
    t.complete(&[&settled[0]]).await;
    let names = || {
        let consumers = t.redis(&["XINFO", "CONSUMERS", &t.lane_key(Lane::Ready), "workers"]);
        let names = consumers
            .list()
            .iter()
            .map(|consumer| consumer.field("name").text().to_owned());
        names.collect::<Vec<_>>()
    };

    t.broker.retire(None, LATER, PATIENCE).await.unwrap();
    assert_eq!(
        names(),
        [WORKER, "worker-b"],
        "neither has been silent for long"
    );
    t.broker
        .retire(Some(WORKER), LATER, PATIENCE)
        .await
        .unwrap();
    t.broker
        .retire(Some("worker-b"), LATER, PATIENCE)
        .await
        .unwrap();
    assert_eq!(names(), [WORKER], "one of them holds a job");
    t.broker
        .retire(None, Duration::ZERO, PATIENCE)
        .await
        .unwrap();
    assert_eq!(names(), [WORKER]);

    assert_eq!(t.complete(&[&held]).await, []);
    t.broker
        .retire(None, Duration::ZERO, PATIENCE)
        .await
        .unwrap();
    assert_eq!(names().len(), 0);
    t.assert_every_job_has_one_home();
}
