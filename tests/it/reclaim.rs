//! running -> ready | dead

use millstream::NewJob;
use millstream::broker::{Lane, Sweep};
use millstream::job::state::State;

use crate::support::verbs::{FOREIGN, awkward_payloads, plain};
use crate::support::{Fixture, LEASE, PATIENCE, upkeeper};

#[tokio::test]
async fn a_silent_workers_job_runs_next_and_has_used_no_attempt() {
    let t = Fixture::new().await;
    let first = t.running(plain()).await;
    t.enqueue_many(2).await;
    t.let_lease_lapse(&first);

    assert_eq!(t.sweep().await, (1, 0));

    assert_eq!(t.state_of(&first.id), Some(State::Ready));
    let second = t.claim_one().await;
    assert_eq!(
        (&second.id, second.attempt, second.lane),
        (&first.id, 1, Lane::Next)
    );
    assert_eq!(t.scan().meta_of(first.id.as_str())["stalls"], 1);
    assert_eq!((t.counter("stalled"), t.counter("failed")), (1, 0));
    assert_eq!(t.events(), [("stalled".to_owned(), first.id.to_string())]);
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
}

#[tokio::test]
async fn a_worker_within_its_lease_keeps_its_job() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;

    assert_eq!(t.sweep().await, (0, 0));

    assert_eq!(t.complete(&[&delivery]).await, []);
}

#[tokio::test]
async fn the_third_stall_is_a_crash_loop_and_ends_dead_with_everything_kept() {
    let t = Fixture::new().await;
    for payload in awkward_payloads() {
        let mut delivery = t
            .running(NewJob::raw("a", payload.clone()).unique("k"))
            .await;
        let id = delivery.id.clone();
        for _ in 0..2 {
            delivery = t.take_over(&delivery).await;
            assert!(delivery.payload == payload);
        }
        t.let_lease_lapse(&delivery);

        assert_eq!(t.sweep().await, (0, 1));

        let record = t.record_of(&id).unwrap();
        assert_eq!(
            (&record["state"], &record["reason"]),
            (&"dead".into(), &"crash_loop".into())
        );
        assert!(t.scan().payloads[id.as_str()] == payload);
        assert_eq!(t.unique_holder("k"), None);
        t.assert_every_job_has_one_home();
    }
    t.assert_stats_agree().await;
}

#[tokio::test]
async fn the_key_of_a_crash_looped_job_is_released_only_for_its_holder() {
    let t = Fixture::new().await;
    let first = t.running(plain().unique("k")).await;
    let second = t.take_over(&first).await;
    let third = t.take_over(&second).await;
    t.let_lease_lapse(&third);
    let swept = t.sweep_step(&upkeeper("upkeep"), None).await;
    let Sweep::Swept {
        dead: 1, unlock, ..
    } = swept
    else {
        panic!("{swept:?}");
    };
    assert_eq!(unlock, [("k".to_owned(), first.id.clone())]);
    // Before its key is released, somebody else enqueues: a dead job's key does not count.
    let other = t.enqueue(plain().unique("k")).await;

    t.broker.unlock(&unlock, PATIENCE).await.unwrap();

    assert_eq!(t.unique_holder("k").as_deref(), Some(other.as_str()));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn after_a_long_silence_of_everybody_the_living_get_time_to_renew() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;
    assert_eq!(t.sweep().await, (0, 0));
    t.let_lease_lapse(&delivery);
    // Nobody has swept for more than half a lease: Redis was away, or every worker was.
    let lease_ms = i64::try_from(LEASE.as_millis()).unwrap();
    let long_ago = t.now_us() / 1000 - lease_ms / 2 - 1000;
    t.redis(&["HSET", &t.key("stats"), "swept_ms", &long_ago.to_string()]);

    assert_eq!(t.sweep().await, (0, 0), "taken without grace");
    assert_eq!(
        t.sweep().await,
        (0, 0),
        "the grace ended with the next sweep"
    );

    let grace = t.counter("grace_until_ms") - t.now_us() / 1000;
    assert!(
        (lease_ms / 2 - 5000..=lease_ms / 2).contains(&grace),
        "{grace} ms"
    );
    t.redis(&["HSET", &t.key("stats"), "grace_until_ms", "1"]);
    assert_eq!(t.sweep().await, (1, 0));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn the_end_of_the_worker_that_swept_is_no_silence_of_all() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;
    assert_eq!(t.sweep().await, (0, 0));
    t.let_lease_lapse(&delivery);
    let a_while_ago = t.now_us() / 1000 - i64::try_from(LEASE.as_millis()).unwrap() / 3;
    let a_while_ago_ms = a_while_ago.to_string();
    t.redis(&["HSET", &t.key("stats"), "swept_ms", &a_while_ago_ms]);
    // It still holds the upkeep, and another one asks: from then on the silence counts.
    let asked = t.sweep_step(&upkeeper("another"), None).await;
    assert_eq!(asked, Sweep::Standby);

    assert!(t.counter("swept_ms") > a_while_ago);
    assert_eq!(t.sweep().await, (1, 0));
}

#[tokio::test]
async fn after_a_long_silence_the_living_get_time_to_renew_also_when_one_who_stands_by_asks_first()
{
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;
    t.let_lease_lapse(&delivery);
    let long_ago = t.now_us() / 1000 - i64::try_from(LEASE.as_millis()).unwrap();
    t.redis(&["HSET", &t.key("stats"), "swept_ms", &long_ago.to_string()]);
    // When Redis is back, the leader promotes before it sweeps, and that renews its lock.
    t.promote().await;
    let asked = t.sweep_step(&upkeeper("another"), None).await;
    assert_eq!(asked, Sweep::Standby);

    assert_eq!(t.sweep().await, (0, 0), "taken without grace");
    assert_eq!(t.extend(&delivery).await, []);
}

#[tokio::test]
async fn a_lane_that_is_gone_keeps_no_job_of_the_others_from_its_end() {
    let t = Fixture::new().await;
    let stalled = t.running(plain()).await;
    t.let_lease_lapse(&stalled);
    // Somebody deleted it, and no worker has made its group anew yet.
    t.redis(&["DEL", &t.key("ready:suspect")]);

    assert_eq!(t.sweep().await, (1, 0));

    assert_eq!(
        (t.counter("stalled"), t.state_of(&stalled.id)),
        (1, Some(State::Ready))
    );
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn where_nobody_ever_swept_the_living_get_time_to_renew() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;
    t.let_lease_lapse(&delivery);
    // Its worker had just begun when Redis was away.
    t.redis(&["HDEL", &t.key("stats"), "swept_ms"]);

    assert_eq!(t.sweep().await, (0, 0));
    assert_eq!(t.extend(&delivery).await, []);
}

#[tokio::test]
async fn a_sweep_stands_by_while_another_worker_does_the_upkeep() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;
    assert_eq!(t.sweep().await, (0, 0));
    t.let_lease_lapse(&delivery);
    // Only that it asked is noted.
    let before = t.state_hash().without(&["stats"]);

    let sweep = t.sweep_step(&upkeeper("another"), None).await;

    assert_eq!(sweep, Sweep::Standby);
    assert_eq!(t.state_hash().without(&["stats"]), before);
    t.redis(&["DEL", &t.key("upkeep")]);
    let sweep = t.sweep_step(&upkeeper("another"), None).await;
    assert!(
        matches!(sweep, Sweep::Swept { reclaimed: 1, .. }),
        "{sweep:?}"
    );
}

#[tokio::test]
async fn a_sweep_goes_in_bounded_steps_and_finds_every_job() {
    let t = Fixture::new().await;
    let ids = t.enqueue_many(250).await;
    for delivery in t.claim(250).await {
        t.let_lease_lapse(&delivery);
    }

    let step = t.sweep_step(&upkeeper("upkeep"), None).await;

    let Sweep::Swept {
        next: Some(next),
        reclaimed,
        ..
    } = step
    else {
        panic!("{step:?}");
    };
    assert_eq!(reclaimed, 100);
    let step = t.sweep_step(&upkeeper("upkeep"), Some(&next)).await;
    assert!(
        matches!(step, Sweep::Swept { reclaimed: 100, .. }),
        "{step:?}"
    );
    assert_eq!(t.sweep().await, (50, 0));
    let again = t.claim_ids(1000).await;
    assert_eq!(again, ids);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn foreign_entries_do_not_stop_a_sweep() {
    let t = Fixture::new().await;
    let mut ids = Vec::new();
    for fields in FOREIGN {
        ids.push(t.add_by_hand(fields));
    }
    ids.push(t.enqueue(plain()).await);
    for delivery in t.claim(100).await {
        t.let_lease_lapse(&delivery);
    }

    assert_eq!(t.sweep().await, (ids.len() as u64, 0));

    let again = t.claim_ids(100).await;
    assert_eq!(again, ids);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn an_entry_that_was_deleted_by_hand_while_it_ran_is_counted_and_forgotten() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;
    t.let_lease_lapse(&delivery);
    t.redis(&["XDEL", &t.key("ready"), &delivery.entry.to_string()]);
    t.expect_unbooked(-1);

    assert_eq!(t.sweep().await, (0, 0));

    assert_eq!(t.counter("orphaned"), 1);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_grace_from_before_the_clock_was_set_back_holds_nothing_up() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;
    assert_eq!(t.sweep().await, (0, 0));
    t.let_lease_lapse(&delivery);
    // Given while the clock was an hour ahead.
    let ahead = (t.now_us() / 1000 + 3_600_000).to_string();
    let stats = t.key("stats");
    t.redis(&["HSET", &stats, "swept_ms", &ahead, "grace_until_ms", &ahead]);

    assert_eq!(t.sweep().await, (1, 0));
}

#[tokio::test]
async fn what_somebody_wrote_over_the_times_of_a_sweep_stops_none() {
    let t = Fixture::new().await;
    let delivery = t.running(plain()).await;
    t.let_lease_lapse(&delivery);
    let stats = t.key("stats");
    t.redis(&["HSET", &stats, "swept_ms", "soon", "grace_until_ms", "{}"]);

    // What is no time proves nothing, so the living get theirs; then everything is as before.
    assert_eq!(t.sweep().await, (0, 0));
    t.redis(&["HSET", &stats, "grace_until_ms", "1"]);
    assert_eq!(t.sweep().await, (1, 0));
}
