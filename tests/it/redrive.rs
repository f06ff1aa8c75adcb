//! dead -> ready

use millstream::broker::Caller;
use millstream::job::state::State;
use millstream::{JobId, NewJob};

use crate::support::verbs::{FOREIGN, awkward_payloads, plain};
use crate::support::{Fixture, LATER, PATIENCE};

#[tokio::test]
async fn a_redriven_job_has_all_its_attempts_again_and_its_errors_still() {
    let t = Fixture::new().await;
    let job = plain()
        .header("h", "v")
        .group("g")
        .max_attempts(4)
        .expires(LATER)
        .unique("k");
    let delivery = t.running(job).await;
    let delivery = t.fail_once(&delivery, "first").await;
    let delivery = t.take_over(&delivery).await;
    t.dead_letter(&delivery, "second").await.unwrap();
    let id = delivery.id;

    assert_eq!(
        t.broker
            .redrive(&mut t.caller(), std::slice::from_ref(&id), PATIENCE)
            .await
            .unwrap(),
        1
    );

    assert_eq!(t.state_of(&id), Some(State::Ready));
    let record = t.record_of(&id).unwrap();
    assert_eq!(record["errors"].as_array().unwrap().len(), 2);
    assert!(record["reason"].is_null());
    // Neither the key nor the expiry of the first life, nor its stalls.
    let meta = serde_json::json!({"id": id, "codec": "raw", "group": "g", "headers": {"h": "v"}, "max_attempts": 4});
    assert_eq!(t.scan().meta_of(id.as_str()), meta);
    let again = t.claim_one().await;
    assert_eq!((again.id, again.attempt), (id.clone(), 1));
    assert_eq!(t.counter("redriven"), 1);
    assert_eq!(
        t.events().last(),
        Some(&("redriven".to_owned(), id.to_string()))
    );
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
}

#[tokio::test]
async fn payloads_come_back_from_the_dead_byte_for_byte() {
    let t = Fixture::new().await;
    for payload in awkward_payloads() {
        let id = t.dead(NewJob::raw("a", payload.clone())).await;
        t.broker
            .redrive(&mut t.caller(), &[id], PATIENCE)
            .await
            .unwrap();
        let again = t.claim_one().await;
        assert!(again.payload == payload, "{} bytes changed", payload.len());
    }
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn what_is_not_dead_is_passed_over() {
    let t = Fixture::new().await;
    let dead = t.dead(plain()).await;
    let scheduled = t.enqueue(plain().delay(LATER)).await;
    let ready = t.enqueue(plain()).await;
    let ids = [
        scheduled.clone(),
        ready.clone(),
        "no such job".into(),
        dead.clone(),
        dead.clone(),
    ];

    assert_eq!(
        t.broker
            .redrive(&mut t.caller(), &ids, PATIENCE)
            .await
            .unwrap(),
        1
    );

    assert_eq!(t.state_of(&scheduled), Some(State::Scheduled));
    t.assert_every_job_has_one_home();
    let before = t.state_hash();
    assert_eq!(
        t.broker
            .redrive(&mut t.caller(), &ids, PATIENCE)
            .await
            .unwrap(),
        0
    );
    assert_eq!(t.state_hash(), before);
}

#[tokio::test]
async fn a_thousand_dead_jobs_come_back_in_one_call() {
    let t = Fixture::new().await;
    t.enqueue_many(1000).await;
    let mut ids: Vec<JobId> = Vec::new();
    for delivery in t.claim(1000).await {
        t.dead_letter(&delivery, "no").await.unwrap();
        ids.push(delivery.id);
    }

    assert_eq!(
        t.broker
            .redrive(&mut t.caller(), &ids, PATIENCE)
            .await
            .unwrap(),
        1000
    );

    let again = t.claim_ids(1000).await;
    assert_eq!(again, ids);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn foreign_entries_can_be_redriven_and_die_again() {
    let t = Fixture::new().await;
    for fields in FOREIGN {
        let id = t.add_by_hand(fields);
        let delivery = t.claim_one().await;
        t.dead_letter(&delivery, "not ours").await.unwrap();
        assert_eq!(
            t.broker
                .redrive(&mut t.caller(), std::slice::from_ref(&id), PATIENCE)
                .await
                .unwrap(),
            1
        );
        let again = t.claim_one().await;
        assert_eq!((&again.id, again.name.as_str()), (&id, "foreign entry"));
        t.dead_letter(&again, "still not ours").await.unwrap();
        assert_eq!(t.state_of(&id), Some(State::Dead));
    }
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_redrive_sent_again_acts_once_and_answers_the_same() {
    let t = Fixture::new().await;
    let ids = [t.dead(plain()).await, t.dead(plain()).await];
    let (mut first, mut again) = (Caller::new("o"), Caller::new("o"));

    assert_eq!(
        t.broker.redrive(&mut first, &ids, PATIENCE).await.unwrap(),
        2
    );
    let after = t.state_hash();
    assert_eq!(
        t.broker.redrive(&mut again, &ids, PATIENCE).await.unwrap(),
        2
    );

    assert_eq!(t.state_hash(), after);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_record_that_somebody_broke_does_not_keep_the_others_dead() {
    let t = Fixture::new().await;
    let (broken, whole) = (t.dead(plain()).await, t.dead(plain()).await);
    let record = r#"{"state":"dead","name":"a","attempt":1,"meta":"no json"}"#;
    t.redis(&["HSET", &t.key("jobs"), broken.as_str(), record]);

    let ids = [broken.clone(), whole.clone()];
    let redriven = t.broker.redrive(&mut t.caller(), &ids, PATIENCE).await;

    assert_eq!(redriven.unwrap(), 1);
    assert_eq!(t.claim_one().await.id, whole);
    let score = t.redis(&["ZSCORE", &t.key("dead"), broken.as_str()]);
    assert_ne!(score, crate::support::resp::Value::Nil);
}
