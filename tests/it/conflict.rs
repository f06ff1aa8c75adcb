//! What an enqueue does when another job holds its unique key: refuse, replace (debounce), throttle.

use std::sync::Arc;
use std::time::Duration;

use millstream::broker::{Caller, Lane, Promotion};
use millstream::job::state::State;
use millstream::{Context, Enqueued, JobError, NewJob, OnConflict};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::unbounded_channel;

use crate::support::program::{Program, next};
use crate::support::verbs::{WORKER, plain};
use crate::support::{Fixture, LATER, PATIENCE};

fn saying(payload: &str) -> NewJob {
    NewJob::raw("job", payload.to_owned())
}

fn debounced(payload: &str) -> NewJob {
    saying(payload).debounce("k", LATER)
}

fn throttled(payload: &str) -> NewJob {
    saying(payload).throttle("k", LATER)
}

impl Fixture {
    async fn put(&self, job: NewJob) -> Enqueued {
        let mut enqueued = self.try_enqueue(&[job]).await.expect("an enqueue");
        enqueued.pop().expect("an answer")
    }

    fn payload_of(&self, id: &millstream::JobId) -> String {
        let scan = self.scan();
        let home = &scan.homes[id.as_str()][0];
        let bytes = match home.at {
            Some(_) => &home.fields[3],
            None => &scan.payloads[id.as_str()],
        };
        String::from_utf8(bytes.clone()).expect("text")
    }
}

#[tokio::test]
async fn a_debounced_job_waits_anew_with_the_newest_payload_under_its_id() {
    let t = Fixture::new().await;
    let first = t.put(debounced("one")).await;
    t.make_due(&first.id);
    let due = t.home_of(&first.id).unwrap().score;

    let second = t.put(debounced("two").max_attempts(3)).await;

    assert_eq!(
        (&second.id, second.duplicate, second.replaced),
        (&first.id, true, true)
    );
    let home = t.home_of(&first.id).unwrap();
    assert_eq!(home.state, State::Scheduled);
    assert!(home.score > due, "{} is no later than {due}", home.score);
    assert_eq!(t.payload_of(&first.id), "two");
    assert_eq!(t.scan().meta_of(first.id.as_str())["max_attempts"], 3);
    assert_eq!((t.counter("enqueued"), t.counter("replaced")), (1, 1));
    t.make_due(&first.id);
    t.promote().await;
    let delivery = t.claim_one().await;
    assert_eq!(
        (&delivery.id, &delivery.payload[..]),
        (&first.id, &b"two"[..])
    );
    assert_eq!(t.complete(&[&delivery]).await, []);
    assert_eq!(t.unique_holder("k"), None);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn what_changes_while_a_debounced_job_runs_is_a_job_of_its_own() {
    let t = Fixture::new().await;
    let first = t.put(debounced("one")).await;
    t.make_due(&first.id);
    t.promote().await;
    let running = t.claim_one().await;

    let second = t.put(debounced("two")).await;
    let third = t.put(debounced("three")).await;

    assert!(!second.duplicate && second.id != first.id);
    assert_eq!((third.id, third.replaced), (second.id.clone(), true));
    assert_eq!(t.unique_holder("k").as_deref(), Some(second.id.as_str()));
    // The first fails and waits again beside the second: it is not in its own way, nor does it take the key back.
    t.retry(&running, LATER, "boom").await.unwrap();
    t.assert_every_job_has_one_home();
    t.make_due(&first.id);
    t.promote().await;
    let again = t.claim_one().await;
    assert_eq!(t.complete(&[&again]).await, []);
    assert_eq!(t.unique_holder("k").as_deref(), Some(second.id.as_str()));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_job_that_waits_for_its_retry_takes_the_newest_payload_and_begins_anew() {
    let t = Fixture::new().await;
    let first = t.running(saying("one").unique_while_waiting("k")).await;
    t.retry(&first, LATER, "boom").await.unwrap();

    let second = t.put(debounced("two")).await;

    assert_eq!((&second.id, second.replaced), (&first.id, true));
    let record = t.record_of(&first.id).unwrap();
    assert_eq!(record["attempt"], 1);
    assert_eq!(record["errors"][0]["error"], "boom");
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_ready_job_is_replaced_wherever_it_stands_and_a_running_one_is_not() {
    let t = Fixture::new().await;
    let job = |payload| saying(payload).unique("k").on_conflict(OnConflict::Replace);
    let first = t.put(job("one")).await;
    let other = t.enqueue(plain()).await;

    assert!(t.put(job("two")).await.replaced);
    assert_eq!(t.payload_of(&first.id), "two");
    assert_eq!(
        t.claim_one().await.id,
        other,
        "it goes to the end of the line"
    );
    let running = t.claim_one().await;
    let refused = t.put(job("three")).await;
    assert_eq!((&refused.id, refused.replaced), (&first.id, false));
    assert_eq!(t.release(&running).await, []);
    let home = t.home_of(&first.id).unwrap();
    assert_eq!(home.at.unwrap().0, "ready:next");
    assert!(t.put(job("four").delay(LATER)).await.replaced);
    assert_eq!(t.state_of(&first.id), Some(State::Scheduled));
    assert!(t.put(job("five")).await.replaced);
    assert_eq!(t.state_of(&first.id), Some(State::Ready));
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
}

#[tokio::test]
async fn a_suspect_that_is_replaced_stays_one() {
    let t = Fixture::new().await;
    let suspect = t.suspect(saying("one").unique("k")).await;

    let replaced = t
        .put(saying("two").unique("k").on_conflict(OnConflict::Replace))
        .await;

    assert_eq!((&replaced.id, replaced.replaced), (&suspect.id, true));
    let delivery = t.claim_suspect(WORKER).await.unwrap();
    assert_eq!(
        (delivery.lane, &delivery.payload[..]),
        (Lane::Suspect, &b"two"[..])
    );
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn one_throttled_job_starts_per_window_and_the_last_payload_is_never_lost() {
    let t = Fixture::new().await;
    let first = t.put(throttled("one")).await;
    let running = t.claim_one().await;
    assert_eq!(running.id, first.id, "the first starts at once");
    assert_eq!(t.complete(&[&running]).await, []);
    t.expect_window("k");
    let end = t.scan().unique_until["k"];

    let second = t.put(throttled("two")).await;
    let third = t.put(throttled("three")).await;

    assert!(!second.duplicate);
    assert_eq!((&third.id, third.replaced), (&second.id, true));
    let home = t.home_of(&second.id).unwrap();
    assert_eq!(home.state, State::Scheduled);
    assert!(
        (end..=end + 1).contains(&home.score),
        "{} for {end}",
        home.score
    );
    assert_eq!(t.payload_of(&second.id), "three");
    // The next window ends a window later, whoever asks again meanwhile.
    let window = i64::try_from(LATER.as_millis()).unwrap();
    let until = t.scan().unique_until["k"];
    assert!((end + window..=end + window + 1).contains(&until));
    t.assert_every_job_has_one_home();
}

/// Were it dead before, the key would still be its own, and who comes later would wait for another window.
#[tokio::test]
async fn a_job_that_is_out_of_time_before_its_window_ends_keeps_its_place_for_who_comes_later() {
    let t = Fixture::new().await;
    t.put(throttled("one")).await;
    t.expect_window("k");
    let end = t.scan().unique_until["k"];
    let brief = |payload| throttled(payload).expires(Duration::from_millis(1));

    // The first for the end of the window, and one that takes its place.
    let second = t.put(brief("two")).await;
    let third = t.put(brief("three")).await;
    let put = t.now_us();
    while t.now_us() < put + 2_000 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(
        t.promote().await,
        Promotion::Promoted { count: 0, .. }
    ));
    let last = t.put(throttled("four")).await;

    assert_eq!((&third.id, &last.id), (&second.id, &second.id));
    let due = t.home_of(&last.id).unwrap().score;
    assert!((end..=end + 1).contains(&due), "{due} for {end}");
    t.make_due(&last.id);
    t.promote().await;
    assert_eq!(t.state_of(&last.id), Some(State::Ready));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_window_ends_at_its_moment_however_long_the_call_takes() {
    let t = Fixture::new().await;
    t.put(throttled("one")).await;
    t.expect_window("k");
    let end = t.scan().unique_until["k"];
    // So much work comes first that time goes on between the beginning of the script and its question about the window.
    let mut jobs = vec![saying("x").delay(LATER); 999];
    jobs.push(throttled("two"));

    let stored = t.try_enqueue(&jobs).await.unwrap();

    let due = t.home_of(&stored[999].id).unwrap().score;
    assert!((end..=end + 1).contains(&due), "{due} for {end}");
}

#[tokio::test]
async fn a_key_whose_holder_no_longer_exists_is_in_nobodys_way() {
    let t = Fixture::new().await;
    for on_conflict in [OnConflict::Refuse, OnConflict::Replace] {
        let jobs: [fn() -> NewJob; 2] = [
            || saying("x").unique("k"),
            || saying("x").unique_while_waiting("k"),
        ];
        for job in jobs {
            let gone = t.put(job()).await.id;
            t.redis(&["XDEL", &t.key("ready"), gone.as_str()]);
            t.expect_unbooked(-1);

            let next = t.put(job().on_conflict(on_conflict)).await;

            assert!(!next.duplicate && next.id != gone);
            let running = t.claim_one().await;
            t.dead_letter(&running, "no").await.unwrap();
            assert_eq!(t.unique_holder("k"), None);
        }
    }
}

#[tokio::test]
async fn a_replacement_sent_again_acts_once_and_answers_the_same() {
    let t = Fixture::new().await;
    t.put(debounced("one")).await;
    let (mut first, mut again) = (Caller::new("p"), Caller::new("p"));
    let job = [debounced("two")];

    let answer = t.broker.enqueue(&mut first, &job, PATIENCE).await.unwrap();
    let after = t.state_hash();

    assert_eq!(
        t.broker.enqueue(&mut again, &job, PATIENCE).await.unwrap(),
        answer
    );
    assert_eq!(t.state_hash(), after);
}

#[tokio::test]
async fn a_burst_of_debounced_jobs_runs_once_with_the_last_and_once_more_for_what_came_meanwhile() {
    let p = Program::new().await;
    let (tell, mut hear) = unbounded_channel();
    let go = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&go);
    let worker = p.worker().fallback(move |job: Context| {
        let (tell, gate) = (tell.clone(), Arc::clone(&gate));
        async move {
            tell.send(String::from_utf8_lossy(job.payload()).into_owned())?;
            gate.acquire().await?.forget();
            Ok::<(), JobError>(())
        }
    });
    let worker = worker.start().await.unwrap();
    let soon = Duration::from_millis(100);

    for number in 0..20 {
        p.enqueue(saying(&number.to_string()).debounce("k", soon))
            .await;
    }
    assert_eq!(next(&mut hear).await, "19");
    p.enqueue(saying("meanwhile").debounce("k", soon)).await;
    go.add_permits(2);
    assert_eq!(next(&mut hear).await, "meanwhile");

    p.until_completed(2).await;
    assert_eq!(p.t.unique_holder("k"), None);
    worker.stop().await;
}
