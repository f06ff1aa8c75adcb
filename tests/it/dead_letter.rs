//! running -> dead

use std::time::Duration;

use millstream::broker::{Caller, DeathReason};
use millstream::job::state::State;
use millstream::{Error, NewJob};

use crate::support::verbs::{FOREIGN, awkward_payloads, plain};
use crate::support::{Fixture, LATER, PATIENCE};

#[tokio::test]
async fn a_dead_job_keeps_its_payload_its_reason_and_its_errors() {
    let t = Fixture::new().await;
    for payload in awkward_payloads() {
        let delivery = t
            .running(NewJob::raw("a", payload.clone()).header("h", "v"))
            .await;
        let delivery = t.fail_once(&delivery, "first").await;
        let before_ms = t.now_us() / 1000;

        assert!(t.dead_letter(&delivery, "second").await.unwrap());

        let home = t.home_of(&delivery.id).unwrap();
        assert_eq!(home.state, State::Dead);
        assert!((before_ms..=t.now_us() / 1000).contains(&home.score));
        let record = t.record_of(&delivery.id).unwrap();
        assert_eq!(
            (&record["reason"], &record["attempt"]),
            (&"refused".into(), &2.into())
        );
        let errors = record["errors"].as_array().unwrap();
        assert_eq!(
            (&errors[0]["error"], &errors[1]["error"]),
            (&"first".into(), &"second".into())
        );
        assert!(t.scan().payloads[delivery.id.as_str()] == payload);
        assert_eq!(t.scan().meta_of(delivery.id.as_str())["headers"]["h"], "v");
    }
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
}

#[tokio::test]
async fn a_dead_job_gives_up_its_unique_key() {
    let t = Fixture::new().await;
    let delivery = t.running(plain().unique("k")).await;

    t.dead_letter(&delivery, "no").await.unwrap();

    assert_eq!(t.unique_holder("k"), None);
    let next = t.enqueue(plain().unique("k")).await;
    assert_ne!(next, delivery.id);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_unique_key_that_meanwhile_belongs_to_another_job_is_left_alone() {
    let t = Fixture::new().await;
    let delivery = t.running(plain().unique("k")).await;
    t.redis(&["DEL", &t.key("unique:k")]);
    let other = t.enqueue(plain().unique("k")).await;

    t.dead_letter(&delivery, "no").await.unwrap();

    assert_eq!(t.unique_holder("k").as_deref(), Some(other.as_str()));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn dead_letter_by_a_stale_worker_changes_nothing() {
    let t = Fixture::new().await;
    let first = t.running(plain().unique("k")).await;
    let second = t.take_over(&first).await;
    let before = t.state_hash();

    let reply = t.dead_letter(&first, "no").await;

    assert!(matches!(reply, Err(Error::LeaseLost { .. })), "{reply:?}");
    assert_eq!(t.state_hash(), before);
    assert_eq!(t.state_of(&second.id), Some(State::Running));
}

#[tokio::test]
async fn a_dead_letter_sent_again_acts_once() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;
    let (mut first, mut again) = (Caller::new("w"), Caller::new("w"));
    let reason = DeathReason::Attempts;
    let broker = &t.broker;
    broker
        .dead_letter(&mut first, &delivery, reason, "no", PATIENCE)
        .await
        .unwrap();
    let before = t.state_hash();

    let second = broker
        .dead_letter(&mut again, &delivery, reason, "no", PATIENCE)
        .await;

    assert!(second.unwrap());
    assert_eq!(t.state_hash(), before);
    assert_eq!((t.counter("dead"), t.counter("failed")), (1, 1));
}

#[tokio::test]
async fn a_job_expires_only_when_the_clock_of_redis_says_so() {
    let t = Fixture::new().await;
    let expire = async |delivery| {
        let reason = DeathReason::Expired;
        t.broker
            .dead_letter(&mut t.caller(), delivery, reason, "late", PATIENCE)
            .await
            .unwrap()
    };
    let fresh = t.running(plain().expires(LATER)).await;
    let never = t.running(plain()).await;
    let before = t.state_hash();
    assert!(!expire(&fresh).await && !expire(&never).await);
    assert_eq!(t.state_hash(), before);
    let late = t.running(plain().expires(Duration::from_millis(1))).await;
    while t.now_us() / 1000
        < t.scan().meta_of(late.id.as_str())["expires_at_ms"]
            .as_i64()
            .unwrap()
    {}

    assert!(expire(&late).await);

    assert_eq!(t.record_of(&late.id).unwrap()["reason"], "expired");
    assert_eq!((t.counter("dead"), t.counter("failed")), (1, 0));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn foreign_entries_end_dead_with_all_they_said() {
    let t = Fixture::new().await;
    let not_utf8: &[&[u8]] = &[
        b"name", b"\xff", b"payload", b"", b"attempt", b"1", b"meta", b"",
    ];
    let meta_not_utf8: &[&[u8]] = &[
        b"name",
        b"a",
        b"payload",
        b"",
        b"attempt",
        b"1",
        b"meta",
        b"{\"id\":\"\xc3\"}",
    ];
    let mut entries: Vec<Vec<Vec<u8>>> = Vec::new();
    entries.extend(FOREIGN.iter().map(|fields| {
        fields
            .iter()
            .map(|field| field.as_bytes().to_vec())
            .collect()
    }));
    for fields in [not_utf8, meta_not_utf8] {
        entries.push(fields.iter().map(|field| field.to_vec()).collect());
    }
    for fields in entries {
        let id = t.add_by_hand(&fields);
        let delivery = t.claim_one().await;
        assert!(delivery.foreign);

        t.dead_letter(&delivery, "not ours").await.unwrap();

        assert_eq!(t.state_of(&id), Some(State::Dead), "{fields:?}");
        let said = t.scan().payloads[id.as_str()].clone();
        for field in &fields {
            let is_kept = field.is_empty() || said.windows(field.len()).any(|part| part == field);
            assert!(is_kept, "{field:?} of {fields:?} is lost");
        }
        assert_eq!(t.record_of(&id).unwrap()["name"], "foreign entry");
    }
    t.assert_every_job_has_one_home();
}
