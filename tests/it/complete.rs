//! running -> completed

use millstream::JobUpdate;
use millstream::broker::{Caller, Delivery, Done, Lane};
use millstream::private_redis::{Options, PrivateRedis};
use std::time::Duration;

use crate::support::verbs::plain;
use crate::support::{Fixture, LATER, PATIENCE};

fn done(deliveries: &[Delivery]) -> Vec<Done<'_>> {
    let took = Duration::from_millis(7);
    let done = deliveries.iter().map(|delivery| Done::new(delivery, took));
    done.collect()
}

#[tokio::test]
async fn a_completed_job_leaves_nothing_behind_but_a_count() {
    let t = Fixture::new().await;
    let delivery = t.running(plain().unique("k")).await;
    let delivery = t.fail_once(&delivery, "boom").await;
    let delivery = t.take_over(&delivery).await;

    assert_eq!(t.complete(&[&delivery]).await, []);

    assert!(t.scan().homes.is_empty());
    assert_eq!(t.unique_holder("k"), None);
    assert_eq!(t.counter("completed"), 1);
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
}

/// With a history a completion goes the long way, and with none the short one.
const WAYS: [usize; 2] = [0, 100];

#[tokio::test]
async fn a_completion_by_a_stale_worker_settles_nothing() {
    for history in WAYS {
        let t = Fixture::new().await;
        let first = t.running(plain()).await;
        let second = t.take_over(&first).await;
        let before = t.state_hash();

        assert_eq!(t.complete_keeping(&[&first], history).await, [first.entry]);

        // That a lease was lost is counted, and the call is remembered; of the jobs nothing has changed.
        let books = ["stats", "producers"];
        assert_eq!(t.state_hash().without(&books), before.without(&books));
        assert_eq!((t.counter("completed"), t.counter("lease_lost")), (0, 1));
        assert_eq!(t.complete(&[&second]).await, []);
        t.assert_every_job_has_one_home();
    }
}

#[tokio::test]
async fn a_stale_completion_of_a_unique_job_leaves_the_key_to_who_has_the_job() {
    let t = Fixture::new().await;
    let first = t.running(plain().unique("k")).await;
    let second = t.take_over(&first).await;

    assert_eq!(t.complete(&[&first]).await, [first.entry]);

    assert_eq!(t.unique_holder("k").as_deref(), Some(first.id.as_str()));
    assert_eq!(t.complete(&[&second]).await, []);
    assert_eq!(t.unique_holder("k"), None);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_completion_sent_again_counts_once_and_answers_the_same() {
    for history in WAYS {
        let t = Fixture::new().await;
        t.enqueue_many(3).await;
        let deliveries = t.claim(3).await;
        t.complete(&[&deliveries[1]]).await;
        let (mut first, mut again) = (Caller::new("w"), Caller::new("w"));
        let (lane, done) = (deliveries[0].lane, done(&deliveries));
        let complete =
            async |by: &mut Caller| t.broker.complete(by, lane, &done, history, PATIENCE).await;
        let answer = complete(&mut first).await;
        let before = t.state_hash();

        let second = complete(&mut again).await;

        assert_eq!(answer.unwrap(), [deliveries[1].entry]);
        assert_eq!(
            second.unwrap(),
            [deliveries[1].entry],
            "told that its own settlement was lost"
        );
        assert_eq!(t.state_hash(), before);
        assert_eq!(t.counter("completed"), 3);
    }
}

#[tokio::test]
async fn a_completion_that_was_overtaken_settles_nothing() {
    for history in WAYS {
        let t = Fixture::new().await;
        t.enqueue_many(2).await;
        let deliveries = t.claim(2).await;
        let (mut current, mut late) = (Caller::new("w"), Caller::new("w"));
        let done = done(&deliveries);
        let complete = async |by: &mut Caller, done: &[Done<'_>]| {
            let lane = deliveries[0].lane;
            t.broker.complete(by, lane, done, history, PATIENCE).await
        };
        for _ in 0..2 {
            complete(&mut current, &done[..1]).await.unwrap();
        }
        let before = t.state_hash();

        assert!(complete(&mut late, &done[1..]).await.is_err());

        assert_eq!(t.state_hash(), before);
    }
}

#[tokio::test]
async fn stale_deliveries_among_many_are_named_and_the_rest_are_settled() {
    let t = Fixture::new().await;
    let jobs: Vec<_> = (0..1000)
        .map(|n| plain().unique(format!("key-{n}")))
        .collect();
    t.try_enqueue(&jobs).await.unwrap();
    let deliveries = t.claim(1000).await;
    for stale in [3, 998] {
        t.let_lease_lapse(&deliveries[stale]);
    }
    assert_eq!(t.sweep().await, (2, 0));

    let lost = t
        .complete_keeping(&deliveries.iter().collect::<Vec<_>>(), 5000)
        .await;

    assert_eq!(lost, [deliveries[3].entry, deliveries[998].entry]);
    assert_eq!(t.counter("completed"), 998);
    assert_eq!(t.unique_holder("key-0"), None);
    assert_eq!(
        t.unique_holder("key-3").as_deref(),
        Some(deliveries[3].id.as_str())
    );
    assert_eq!(t.redis(&["XLEN", &t.key("completed")]).int(), 998);
    assert_eq!(t.claim(10).await.len(), 2);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_unique_key_that_meanwhile_belongs_to_another_job_is_left_alone() {
    let t = Fixture::new().await;
    let delivery = t.running(plain().unique("k")).await;
    // The key ran out while the job was at work, and another job took it.
    t.redis(&["DEL", &t.key("unique:k")]);
    let other = t.enqueue(plain().unique("k")).await;

    t.complete(&[&delivery]).await;

    assert_eq!(t.unique_holder("k").as_deref(), Some(other.as_str()));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn the_history_says_what_was_done_and_is_written_only_on_request() {
    let t = Fixture::new().await;
    let first = t.running(plain()).await;
    t.complete(&[&first]).await;
    assert_eq!(t.redis(&["EXISTS", &t.key("completed")]).int(), 0);
    let second = t.running(plain()).await;

    t.complete_keeping(&[&second], 100).await;

    let history = t.redis(&["XRANGE", &t.key("completed"), "-", "+"]);
    let fields = &history.list()[0].list()[1];
    let told = ["job", "name", "attempt", "took_ms"].map(|name| fields.field(name).text());
    assert_eq!(told, [second.id.as_str(), "job", "1", "7"]);
}

#[tokio::test]
async fn the_history_does_not_grow_without_bound() {
    let t = Fixture::new().await;
    for _ in 0..5 {
        t.enqueue_many(1000).await;
        let deliveries = t.claim(1000).await;
        t.complete_keeping(&deliveries.iter().collect::<Vec<_>>(), 300)
            .await;
    }
    let kept = t.redis(&["XLEN", &t.key("completed")]).int();
    assert!((300..=500).contains(&kept), "{kept} entries");
}

#[tokio::test]
async fn a_job_handed_back_within_the_millisecond_of_its_enqueue_leaves_no_record() {
    let t = Fixture::new().await;
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
    t.expect_unbooked(1);
    let first = t.claim_one().await;
    t.release(&first).await;
    // Gives the job back the id that it is called by, which the clock does now and then.
    let next = t.key("ready:next");
    t.redis(&["DEL", &next]);
    t.redis(&[
        "XADD",
        &next,
        "7-0",
        "name",
        "a",
        "payload",
        "",
        "attempt",
        "1",
        "meta",
        r#"{"id":"7-0"}"#,
    ]);
    t.broker.create_groups(PATIENCE).await.unwrap();
    let again = t.claim_one().await;
    assert_eq!((again.lane, again.entry), (Lane::Next, first.entry));

    t.complete(&[&again]).await;

    assert_eq!(t.record_of(&first.id), None);
    assert!(t.scan().homes.is_empty());
}

/// The stream of a lane: how many entries it has.
fn entries(t: &Fixture) -> i64 {
    t.redis(&["XLEN", &t.lane_key(Lane::Ready)]).int()
}

#[tokio::test]
async fn a_batch_is_cut_off_as_far_as_nothing_else_is_in_front_of_it() {
    let t = Fixture::new().await;
    t.enqueue_many(200).await;
    let claimed = t.claim(180).await;
    let complete = async |done: &[&Delivery]| assert_eq!(t.complete(done).await, []);

    let all: Vec<&Delivery> = claimed.iter().collect();
    complete(&all[..60]).await;
    assert_eq!(entries(&t), 140);
    // One in their middle still runs, and two in front of the next.
    let gap = [&all[60..90], &all[91..120]].concat();
    complete(&gap).await;
    assert_eq!(entries(&t), 81);
    complete(&all[122..]).await;
    assert_eq!(entries(&t), 23);
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;

    complete(&[all[90], all[120], all[121]]).await;
    let rest = t.claim(20).await;
    complete(&rest.iter().collect::<Vec<_>>()).await;
    assert_eq!((entries(&t), t.counter("completed")), (0, 200));
    assert!(t.scan().homes.is_empty());
}

/// That the stream can be cut is told by what the server says of the group, and by each kind of server in its own way: where it cannot
/// be, all is the same but the price.
#[tokio::test]
async fn a_batch_goes_in_one_piece_whatever_server_it_is() {
    // Of its own, for its counts.
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let t = Fixture::on(&redis).await;
    t.enqueue_many(200).await;
    let claimed = t.claim(180).await;
    t.redis(&["CONFIG", "RESETSTAT"]);

    for done in claimed.chunks(60).take(2) {
        assert_eq!(t.complete(&done.iter().collect::<Vec<_>>()).await, []);
    }

    assert_eq!((t.commands("xtrim"), t.commands("xdel")), (2, 0));
    assert_eq!(entries(&t), 80);
}

/// A consumer that is deleted takes what it has out of the pending entries: nobody gets it any more, and `doctor` finds it.
#[tokio::test]
async fn what_was_stranded_by_hand_is_not_cut_off_with_what_is_completed() {
    let t = Fixture::new().await;
    t.enqueue_many(100).await;
    let stranded = t.broker.claim("gone", 1, PATIENCE).await.unwrap();
    let lane = t.lane_key(Lane::Ready);
    t.redis(&["XGROUP", "DELCONSUMER", &lane, "workers", "gone"]);
    let claimed = t.claim(80).await;

    let done: Vec<&Delivery> = claimed[..60].iter().collect();
    assert_eq!(t.complete(&done).await, []);

    assert_eq!(entries(&t), 40);
    let entry = stranded[0].entry.to_string();
    let found = t.redis(&["XRANGE", &lane, &entry, &entry]);
    assert_eq!(found.list().len(), 1, "the stranded entry is gone");
}

/// Redis 7.0 counts the job that is delivered behind a cancelled one as the next: of itself its lag is one too many for ever.
#[tokio::test]
async fn what_was_stranded_is_not_cut_off_after_as_many_waiting_jobs_were_called_off() {
    let t = Fixture::new().await;
    let stranded = t.enqueue_many(3).await;
    let called_off = t.enqueue_many(2).await;
    let purged = t.enqueue(plain().group("a")).await;
    t.enqueue_many(94).await;
    t.broker.claim("gone", 3, PATIENCE).await.unwrap();
    let lane = t.lane_key(Lane::Ready);
    t.redis(&["XGROUP", "DELCONSUMER", &lane, "workers", "gone"]);
    let (broker, mut caller) = (&t.broker, t.caller());
    let cancelled = broker.cancel(&mut caller, &called_off[0], None, PATIENCE);
    cancelled.await.unwrap();
    let later = JobUpdate::new().delay(LATER);
    let delayed = broker.update(&mut caller, &called_off[1], "job", &later, PATIENCE);
    delayed.await.unwrap();
    let ids = [purged];
    let purged = broker.group_purge(&mut caller, "a", &ids, 0, PATIENCE);
    assert_eq!(purged.await.unwrap().purged, 1);
    let claimed = t.claim(80).await;

    let done: Vec<&Delivery> = claimed[..60].iter().collect();
    assert_eq!(t.complete(&done).await, []);

    assert_eq!(entries(&t), 3 + 20 + 14);
    for id in stranded {
        let found = t.redis(&["XRANGE", &lane, id.as_str(), id.as_str()]);
        assert_eq!(found.list().len(), 1, "a stranded entry is gone");
    }
}
