//! scheduled -> scheduled, ready -> ready | scheduled: an operator changes a job that waits

use std::time::Duration;

use millstream::broker::{Caller, Lane};
use millstream::job::state::State;
use millstream::{Error, JobId, JobUpdate, Result};

use crate::support::program::Program;
use crate::support::verbs::{FOREIGN, WORKER, plain};
use crate::support::{Fixture, LATER, PATIENCE};

fn saying(payload: &'static str) -> JobUpdate {
    JobUpdate::new().payload(payload)
}

impl Fixture {
    async fn update(&self, id: &JobId, update: &JobUpdate) -> Result<State> {
        let name = self.scan().homes.get(id.as_str()).and_then(|homes| {
            let name = homes[0].fields.get(1).cloned();
            name.map(|name| String::from_utf8(name).expect("text"))
        });
        let name = name.unwrap_or_else(|| "job".to_owned());
        let mut caller = self.caller();
        let updated = self.broker.update(&mut caller, id, &name, update, PATIENCE);
        Ok(updated.await?.expect("the name is right"))
    }
}

#[tokio::test]
async fn a_scheduled_job_is_given_another_payload_or_another_time() {
    let t = Fixture::new().await;
    let id = t.enqueue(plain().delay(LATER).unique("k")).await;
    let due = t.home_of(&id).unwrap().score;

    assert_eq!(
        t.update(&id, &saying("new")).await.unwrap(),
        State::Scheduled
    );
    assert_eq!(t.home_of(&id).unwrap().score, due, "its time is as it was");
    assert_eq!(t.scan().payloads[id.as_str()], b"new");
    let later = JobUpdate::new().delay(2 * LATER);
    assert_eq!(t.update(&id, &later).await.unwrap(), State::Scheduled);
    assert!(t.home_of(&id).unwrap().score > due);
    assert_eq!(t.unique_holder("k").as_deref(), Some(id.as_str()));
    t.assert_every_job_has_one_home();

    let mut heard = t.listen();
    let now = JobUpdate::new().delay(Duration::ZERO);
    assert_eq!(t.update(&id, &now).await.unwrap(), State::Scheduled);
    assert_eq!(heard.message(), "due");
    while t.state_of(&id) != Some(State::Ready) {
        t.promote().await;
    }
    assert_eq!(&t.claim_one().await.payload[..], b"new");
    let updates = t.events().into_iter().filter(|(kind, _)| kind == "updated");
    assert_eq!(updates.count(), 3);
}

#[tokio::test]
async fn a_ready_job_keeps_its_lane_and_goes_to_its_end_or_waits() {
    let t = Fixture::new().await;
    let fresh = t.enqueue(plain()).await;
    let other = t.enqueue(plain()).await;

    assert_eq!(
        t.update(&fresh, &saying("new")).await.unwrap(),
        State::Ready
    );
    assert_eq!(t.claim_one().await.id, other);
    let running = t.claim_one().await;
    assert_eq!((&running.id, &running.payload[..]), (&fresh, &b"new"[..]));
    assert_eq!(t.release(&running).await, []);
    assert_eq!(
        t.update(&fresh, &saying("next")).await.unwrap(),
        State::Ready
    );
    assert_eq!(t.home_of(&fresh).unwrap().at.unwrap().0, "ready:next");
    t.assert_every_job_has_one_home();
    let now = JobUpdate::new().delay(Duration::ZERO);
    let before = t.home_of(&fresh).unwrap().at;
    assert_eq!(t.update(&fresh, &now).await.unwrap(), State::Ready);
    assert_eq!(t.home_of(&fresh).unwrap().at, before, "it is there already");
    let later = saying("later").delay(LATER);
    assert_eq!(t.update(&fresh, &later).await.unwrap(), State::Scheduled);
    assert_eq!(t.scan().payloads[fresh.as_str()], b"later");
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
}

#[tokio::test]
async fn a_suspect_stays_one_and_keeps_its_errors() {
    let t = Fixture::new().await;
    let first = t.running(plain()).await;
    let again = t.fail_once(&first, "boom").await;
    let second = t.take_over(&again).await;
    t.let_lease_lapse(&second);
    t.sweep().await;

    assert_eq!(
        t.update(&first.id, &saying("new")).await.unwrap(),
        State::Ready
    );

    let suspect = t.claim_suspect(WORKER).await.unwrap();
    assert_eq!(
        (suspect.lane, &suspect.payload[..]),
        (Lane::Suspect, &b"new"[..])
    );
    assert_eq!(
        t.record_of(&first.id).unwrap()["errors"][0]["error"],
        "boom"
    );
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn what_is_too_late_is_refused_with_the_state_and_changes_nothing() {
    let t = Fixture::new().await;
    let dead = t.dead(plain()).await;
    let done = t.running(plain()).await;
    t.complete(&[&done]).await;
    let running = t.running(plain()).await.id;
    let again = t.running(plain()).await;
    let again = t.fail_once(&again, "boom").await.id;
    let before = t.state_hash();

    for (id, expected) in [(&dead, "dead"), (&running, "running"), (&again, "running")] {
        let reply = t.update(id, &saying("new").delay(LATER)).await;
        assert!(
            matches!(reply, Err(Error::WrongState { ref state, .. }) if state == expected),
            "{expected}: {reply:?}"
        );
    }
    for unknown in [done.id.as_str(), "no such job", "", "9-9"] {
        let reply = t.update(&unknown.into(), &saying("new")).await;
        assert!(matches!(reply, Err(Error::NotFound { .. })), "{reply:?}");
    }

    assert_eq!(t.state_hash(), before);
}

#[tokio::test]
async fn a_job_that_was_replaced_under_another_name_is_not_given_a_payload_of_the_old_one() {
    let t = Fixture::new().await;
    let id = t.enqueue(plain().delay(LATER)).await;
    let before = t.state_hash();

    let mut caller = t.caller();
    let update = saying("new");
    let reply = t
        .broker
        .update(&mut caller, &id, "other", &update, PATIENCE);

    assert_eq!(reply.await.unwrap(), None);
    assert_eq!(t.state_hash(), before);
}

#[tokio::test]
async fn an_update_sent_again_acts_once_and_answers_the_same() {
    let t = Fixture::new().await;
    let id = t.enqueue(plain()).await;
    let (mut first, mut again) = (Caller::new("o"), Caller::new("o"));
    let update = saying("new").delay(LATER);

    let answer = t
        .broker
        .update(&mut first, &id, "job", &update, PATIENCE)
        .await;
    assert_eq!(answer.unwrap(), Some(State::Scheduled));
    let after = t.state_hash();
    let answer = t
        .broker
        .update(&mut again, &id, "job", &update, PATIENCE)
        .await;

    assert_eq!(answer.unwrap(), Some(State::Scheduled));
    assert_eq!(t.state_hash(), after);
}

#[tokio::test]
async fn a_delay_ends_when_the_job_is_out_of_time() {
    let t = Fixture::new().await;
    let id = t.enqueue(plain().expires(LATER)).await;

    let later = JobUpdate::new().delay(10 * LATER);
    assert_eq!(t.update(&id, &later).await.unwrap(), State::Scheduled);

    let expires = t.scan().meta_of(id.as_str())["expires_at_ms"]
        .as_i64()
        .unwrap();
    let due = t.home_of(&id).unwrap().score;
    assert!(
        (expires..=expires + 1).contains(&due),
        "{due} for {expires}"
    );
}

#[tokio::test]
async fn foreign_entries_can_be_put_off() {
    let t = Fixture::new().await;
    for fields in FOREIGN {
        let id = t.add_by_hand(fields);
        let later = JobUpdate::new().delay(LATER);
        assert_eq!(t.update(&id, &later).await.unwrap(), State::Scheduled);
    }
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn the_operators_door_checks_and_finds_jobs_that_never_left_their_stream() {
    let p = Program::new().await;
    let inspector = p.client.inspect(&p.t.queue).unwrap();
    let id = p.enqueue(plain()).await;

    let nothing = inspector.update(&id, &JobUpdate::new()).await;
    assert!(matches!(
        nothing,
        Err(Error::InvalidJob {
            field: "update",
            ..
        })
    ));
    let large = JobUpdate::new().payload(vec![0; (1 << 20) + 1]);
    let large = inspector.update(&id, &large).await;
    assert!(
        matches!(large, Err(Error::PayloadTooLarge { .. })),
        "{large:?}"
    );
    let changed = inspector.update(&id, &saying("new")).await;
    assert_eq!(changed.unwrap(), State::Ready);
    let job = inspector.show(&id).await.unwrap();
    assert_eq!(job.payload.as_deref(), Some(&b"new"[..]));
    p.t.assert_every_job_has_one_home();
}
