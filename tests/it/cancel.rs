//! scheduled | ready | running -> cancelled

use millstream::Error;
use millstream::broker::Caller;
use millstream::job::state::State;

use crate::support::verbs::{FOREIGN, plain};
use crate::support::{Fixture, LATER, PATIENCE};

#[tokio::test]
async fn a_scheduled_job_is_called_off_with_all_it_had() {
    let t = Fixture::new().await;
    let id = t.enqueue(plain().delay(LATER).unique("k")).await;

    let before = t
        .broker
        .cancel(&mut t.caller(), &id, Some("k"), PATIENCE)
        .await;

    assert_eq!(before.unwrap(), State::Scheduled);
    assert_eq!((t.state_of(&id), t.unique_holder("k")), (None, None));
    assert_eq!(t.counter("cancelled"), 1);
    assert_eq!(t.events(), [("cancelled".to_owned(), id.to_string())]);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_ready_job_is_called_off_whether_or_not_it_ever_left_the_stream() {
    let t = Fixture::new().await;
    let fresh = t.enqueue(plain().unique("fresh")).await;
    assert_eq!(
        t.broker
            .cancel(&mut t.caller(), &fresh, Some("fresh"), PATIENCE)
            .await
            .unwrap(),
        State::Ready
    );
    let back = t.running(plain().unique("back")).await;
    t.release(&back).await;

    assert_eq!(
        t.broker
            .cancel(&mut t.caller(), &back.id, Some("back"), PATIENCE)
            .await
            .unwrap(),
        State::Ready
    );

    assert_eq!(t.claim(10).await.len(), 0);
    assert_eq!(
        (t.unique_holder("fresh"), t.unique_holder("back")),
        (None, None)
    );
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_running_job_is_called_off_and_its_worker_is_told_and_cannot_settle() {
    let t = Fixture::new().await;
    let mut heard = t.listen();
    let delivery = t.running(plain()).await;

    let before = t
        .broker
        .cancel(&mut t.caller(), &delivery.id, None, PATIENCE)
        .await;

    assert_eq!(before.unwrap(), State::Running);
    assert_eq!(
        heard.message(),
        format!("lost {} {}", delivery.entry, t.key("ready"))
    );
    assert_eq!(t.extend(&delivery).await, [delivery.entry]);
    let reply = t.retry(&delivery, LATER, "boom").await;
    assert!(matches!(reply, Err(Error::LeaseLost { .. })), "{reply:?}");
    assert_eq!(t.complete(&[&delivery]).await, [delivery.entry]);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_job_with_the_same_entry_id_on_the_other_lane_is_left_alone() {
    let t = Fixture::new().await;
    // As when one job is handed back in the millisecond in which the other is enqueued.
    t.redis(&[
        "XADD",
        &t.key("ready:next"),
        "7-0",
        "name",
        "b",
        "payload",
        "",
        "attempt",
        "1",
        "meta",
        r#"{"id":"5-0"}"#,
    ]);
    let lane = t.key("ready:next");
    let record = format!(
        r#"{{"state":"ready","name":"b","attempt":1,"meta":"{{\"id\":\"5-0\"}}","payload_bytes":0,"lane":"{lane}","entry":"7-0"}}"#
    );
    t.redis(&["HSET", &t.key("jobs"), "5-0", &record]);
    t.redis(&[
        "XADD",
        &t.key("ready"),
        "7-0",
        "name",
        "a",
        "payload",
        "",
        "attempt",
        "1",
        "meta",
        "",
    ]);
    t.expect_unbooked(2);
    t.assert_every_job_has_one_home();

    t.broker
        .cancel(&mut t.caller(), &"7-0".into(), None, PATIENCE)
        .await
        .unwrap();

    assert_eq!(t.state_of(&"7-0".into()), None);
    assert_eq!(t.state_of(&"5-0".into()), Some(State::Ready));
    t.assert_every_job_has_one_home();
    t.broker
        .cancel(&mut t.caller(), &"5-0".into(), None, PATIENCE)
        .await
        .unwrap();
    assert!(t.scan().homes.is_empty());
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn an_entry_id_is_no_name_for_the_job_that_came_back_under_it() {
    let t = Fixture::new().await;
    let id = t.enqueue(plain().delay(LATER)).await;
    t.make_due(&id);
    t.promote().await;
    let entry = t.home_of(&id).unwrap().at.unwrap().1;
    let before = t.state_hash();

    let reply = t
        .broker
        .cancel(&mut t.caller(), &entry.as_str().into(), None, PATIENCE)
        .await;

    assert!(matches!(reply, Err(Error::NotFound { .. })), "{reply:?}");
    assert_eq!(t.state_hash(), before);
}

#[tokio::test]
async fn a_dead_a_finished_and_an_unknown_job_cannot_be_called_off() {
    let t = Fixture::new().await;
    let dead = t.dead(plain()).await;
    let done = t.running(plain()).await;
    t.complete(&[&done]).await;
    let before = t.state_hash();

    let reply = t
        .broker
        .cancel(&mut t.caller(), &dead, None, PATIENCE)
        .await;
    assert!(
        matches!(reply, Err(Error::WrongState { ref state, .. }) if state == "dead"),
        "{reply:?}"
    );
    for unknown in [done.id.as_str(), "no such job", "", "1-", "9-9"] {
        let reply = t
            .broker
            .cancel(&mut t.caller(), &unknown.into(), None, PATIENCE)
            .await;
        assert!(
            matches!(reply, Err(Error::NotFound { .. })),
            "{unknown:?}: {reply:?}"
        );
    }

    assert_eq!(t.state_hash(), before);
}

#[tokio::test]
async fn a_unique_key_of_another_job_survives() {
    let t = Fixture::new().await;
    let holder = t.enqueue(plain().unique("k")).await;
    let id = t.enqueue(plain()).await;

    t.broker
        .cancel(&mut t.caller(), &id, Some("k"), PATIENCE)
        .await
        .unwrap();

    assert_eq!(t.unique_holder("k").as_deref(), Some(holder.as_str()));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn foreign_entries_can_be_called_off() {
    let t = Fixture::new().await;
    for fields in FOREIGN {
        let id = t.add_by_hand(fields);
        let before = t.broker.cancel(&mut t.caller(), &id, None, PATIENCE).await;
        assert_eq!(before.unwrap(), State::Ready, "{fields:?}");
    }
    assert_eq!(t.claim(100).await.len(), 0);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_cancel_sent_again_acts_once_and_answers_the_same() {
    let t = Fixture::new().await;
    let id = t.running(plain()).await.id;
    let (mut first, mut again) = (Caller::new("o"), Caller::new("o"));

    let before = t.broker.cancel(&mut first, &id, None, PATIENCE).await;
    assert_eq!(before.unwrap(), State::Running);
    let after = t.state_hash();
    let before = t.broker.cancel(&mut again, &id, None, PATIENCE).await;

    assert_eq!(before.unwrap(), State::Running);
    assert_eq!(t.state_hash(), after);
}
