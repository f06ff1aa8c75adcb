//! running -> scheduled

use std::time::Duration;

use millstream::broker::Caller;
use millstream::job::state::State;
use millstream::{Error, NewJob};

use crate::support::verbs::{awkward_payloads, plain};
use crate::support::{Fixture, LATER, PATIENCE};

#[tokio::test]
async fn a_failed_job_waits_out_its_backoff_with_its_error_kept() {
    let t = Fixture::new().await;
    let delivery = t.running(plain().header("h", "v").max_attempts(3)).await;
    let before_us = t.now_us();

    t.retry(&delivery, LATER, "boom").await.unwrap();

    let home = t.home_of(&delivery.id).unwrap();
    assert_eq!(home.state, State::Scheduled);
    assert!(home.score * 1000 >= before_us + 3_600_000_000, "due early");
    let record = t.record_of(&delivery.id).unwrap();
    assert_eq!(record["attempt"], 2);
    assert_eq!(
        (
            &record["errors"][0]["error"],
            &record["errors"][0]["attempt"]
        ),
        (&"boom".into(), &1.into())
    );
    let meta = t.scan().meta_of(delivery.id.as_str());
    assert_eq!(
        meta,
        serde_json::json!({"id": delivery.id, "codec": "raw", "headers": {"h": "v"}, "max_attempts": 3})
    );
    assert_eq!((t.counter("failed"), t.counter("retried")), (1, 1));
    assert_eq!(
        t.events(),
        [("retried".to_owned(), delivery.id.to_string())]
    );
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
}

#[tokio::test]
async fn retry_by_a_stale_worker_changes_nothing() {
    let t = Fixture::new().await;
    let first = t.running(plain()).await;
    let second = t.take_over(&first).await;
    let before = t.state_hash();

    let reply = t.retry(&first, LATER, "boom").await;

    assert!(
        matches!(reply, Err(Error::LeaseLost { ref job }) if *job == first.id),
        "{reply:?}"
    );
    assert_eq!(t.state_hash(), before);
    assert_eq!(t.state_of(&second.id), Some(State::Running));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_retry_sent_again_succeeds_and_acts_once() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;
    let (mut first, mut again) = (Caller::new("w"), Caller::new("w"));
    let error = Some("boom");
    let broker = &t.broker;
    broker
        .retry(&mut first, &delivery, LATER, error, PATIENCE)
        .await
        .unwrap();
    let before = t.state_hash();

    broker
        .retry(&mut again, &delivery, LATER, error, PATIENCE)
        .await
        .unwrap();

    assert_eq!(t.state_hash(), before);
    assert_eq!(t.counter("failed"), 1);
}

#[tokio::test]
async fn a_job_that_was_handed_back_or_settled_cannot_be_retried() {
    let t = Fixture::new().await;
    let done = t.running(plain()).await;
    t.complete(&[&done]).await;
    let released = t.running(plain()).await;
    t.release(&released).await;
    let before = t.state_hash();

    for delivery in [&done, &released] {
        let reply = t.retry(delivery, LATER, "boom").await;
        assert!(matches!(reply, Err(Error::LeaseLost { .. })), "{reply:?}");
    }

    assert_eq!(t.state_hash(), before);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_snoozed_job_waits_without_a_failed_attempt() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;

    t.snooze(&delivery, LATER).await.unwrap();

    assert_eq!(t.state_of(&delivery.id), Some(State::Scheduled));
    assert!(t.record_of(&delivery.id).unwrap()["errors"].is_null());
    assert_eq!((t.counter("failed"), t.counter("snoozed")), (0, 1));
    t.make_due(&delivery.id);
    t.promote().await;
    assert_eq!(t.claim_one().await.attempt, 1);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn the_ten_newest_errors_are_kept_oldest_first() {
    let t = Fixture::new().await;
    let mut delivery = t.running(plain()).await;
    for attempt in 1..=13 {
        assert_eq!(delivery.attempt, attempt);
        delivery = t.fail_once(&delivery, &format!("error {attempt}")).await;
    }
    let record = t.record_of(&delivery.id).unwrap();
    let errors = record["errors"].as_array().unwrap();
    let kept: Vec<_> = errors
        .iter()
        .map(|error| error["error"].as_str().unwrap())
        .collect();
    let expected: Vec<_> = (4..=13).map(|attempt| format!("error {attempt}")).collect();
    assert_eq!(kept, expected);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_long_error_is_cut_at_a_character_below_4_kib() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;

    t.retry(&delivery, LATER, &format!("a{}", "é".repeat(10_000)))
        .await
        .unwrap();

    let record = t.record_of(&delivery.id).unwrap();
    let kept = record["errors"][0]["error"].as_str().unwrap();
    assert_eq!(kept.len(), 4095);
    assert!(kept.ends_with('é'));
}

#[tokio::test]
async fn payload_and_meta_come_through_every_step_untouched() {
    let t = Fixture::new().await;
    for payload in awkward_payloads() {
        let headers = [("h", "\"ü\u{1}\u{7f}/\\"), ("empty", "")];
        let mut job = NewJob::raw("ünïcode \"name\"", payload.clone()).timeout(LATER);
        for (name, value) in headers {
            job = job.header(name, value);
        }
        let mut delivery = t.running(job).await;
        let mut expected = t.scan().meta_of(delivery.id.as_str());
        for step in ["retry", "release", "reclaim", "snooze", "redrive"] {
            match step {
                "retry" => delivery = t.fail_once(&delivery, "boom").await,
                "release" => {
                    t.release(&delivery).await;
                    delivery = t.claim_one().await;
                }
                "reclaim" => delivery = t.take_over(&delivery).await,
                "snooze" => {
                    t.snooze(&delivery, LATER).await.unwrap();
                    t.broker
                        .run_now(&mut t.caller(), &delivery.id, PATIENCE)
                        .await
                        .unwrap();
                    delivery = t.claim_one().await;
                }
                _ => {
                    t.dead_letter(&delivery, "no").await.unwrap();
                    t.broker
                        .redrive(
                            &mut t.caller(),
                            std::slice::from_ref(&delivery.id),
                            PATIENCE,
                        )
                        .await
                        .unwrap();
                    delivery = t.claim_one().await;
                }
            }
            assert!(
                delivery.payload == payload,
                "{step} changed {} bytes",
                payload.len()
            );
            assert_eq!(delivery.name, "ünïcode \"name\"", "{step}");
            let meta = t.scan().meta_of(delivery.id.as_str());
            expected["id"] = delivery.id.as_str().into();
            if step == "reclaim" {
                expected["stalls"] = 1.into();
            } else if step == "redrive" {
                expected.as_object_mut().unwrap().remove("stalls");
            }
            assert_eq!(meta, expected, "{step}");
        }
        t.complete(&[&delivery]).await;
    }
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_retry_at_once_is_due_now_and_never_before() {
    let t = Fixture::new().await;
    // Often: a due time that is rounded down shows only when asking and storing fall into one millisecond.
    for _ in 0..30 {
        let delivery = t.running(plain()).await;
        let before_us = t.now_us();

        t.retry(&delivery, Duration::ZERO, "boom").await.unwrap();

        let due = t.redis(&["ZSCORE", &t.key("scheduled"), delivery.id.as_str()]);
        let due_us = due.text().parse::<f64>().unwrap() * 1000.0;
        assert!(due_us >= before_us as f64, "{due:?}, {before_us} us");
    }
}
