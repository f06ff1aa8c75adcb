//! Groups: how many jobs of one may be ready or running, in which order they come, and that no slot is lost on any way out

use millstream::NewJob;
use millstream::broker::{Delivery, Promotion};
use millstream::inspect::GroupLimits;
use millstream::job::state::State;
use millstream::{Error, JobId, JobUpdate};

use crate::support::verbs::plain;
use crate::support::{Fixture, LATER, PATIENCE};

fn of(group: &str) -> NewJob {
    plain().group(group)
}

/// A queue with so many slots for each group.
async fn limited(concurrency: usize) -> Fixture {
    let t = Fixture::new().await;
    t.limit_groups(concurrency).await;
    t
}

impl Fixture {
    fn assert_slots(&self, group: &str, taken: i64) {
        assert_eq!(self.slots_of(group), taken, "slots of {group}");
        self.assert_every_job_has_one_home();
    }

    async fn enqueue_of(&self, group: &str, count: usize) -> Vec<JobId> {
        let jobs = self.try_enqueue(&vec![of(group); count]).await.unwrap();
        jobs.into_iter().map(|job| job.id).collect()
    }
}

#[tokio::test]
async fn a_group_has_no_more_jobs_ready_or_running_than_its_concurrency() {
    let t = limited(2).await;

    let jobs = t.enqueue_of("a", 5).await;

    let states: Vec<_> = jobs.iter().map(|id| t.state_of(id).unwrap()).collect();
    use State::{Held, Ready};
    assert_eq!(states, [Ready, Ready, Held, Held, Held]);
    t.assert_slots("a", 2);
    t.assert_stats_agree().await;
    assert_eq!(t.claim(10).await.len(), 2);
    t.assert_slots("a", 2);
}

#[tokio::test]
async fn groups_do_not_wait_for_each_other_and_others_for_none() {
    let t = limited(1).await;
    let jobs = [
        of("a"),
        of("a"),
        of("b"),
        plain(),
        of("a"),
        of("ab"),
        of("a b"),
    ];
    let jobs = t.try_enqueue(&jobs).await.unwrap();

    let claimed = t.claim(10).await;

    let expected = [0, 2, 3, 5, 6].map(|nth: usize| &jobs[nth].id);
    assert_eq!(
        claimed.iter().map(|job| &job.id).collect::<Vec<_>>(),
        expected
    );
    t.complete(&claimed.iter().collect::<Vec<_>>()).await;
    assert_eq!(t.claim_one().await.id, jobs[1].id);
    t.assert_slots("a", 1);
}

#[tokio::test]
async fn without_a_limit_nothing_is_counted() {
    let t = Fixture::new().await;
    t.enqueue_of("a", 3).await;
    let claimed = t.claim(10).await;

    assert_eq!(claimed.len(), 3);
    t.complete(&claimed.iter().collect::<Vec<_>>()).await;
    let keys = t.redis(&["EXISTS", &t.key("held"), &t.key("groups"), &t.key("jobs")]);
    assert_eq!(keys.int(), 0);
}

#[tokio::test]
async fn jobs_of_a_group_with_one_slot_run_in_the_order_in_which_they_came() {
    let t = limited(1).await;
    let mut expected = t.enqueue_of("a", 7).await;
    expected.extend(t.enqueue_of("a", 7).await);

    let mut ran = Vec::new();
    while let Some(job) = t.claim(5).await.pop() {
        t.assert_slots("a", 1);
        assert_eq!(t.complete(&[&job]).await, []);
        ran.push(job.id);
    }

    assert_eq!(ran, expected);
    t.assert_slots("a", 0);
    assert_eq!(
        t.redis(&["EXISTS", &t.key("groups"), &t.key("held")]).int(),
        0
    );
}

/// One job of a full group running, and one held; then the way out.
async fn full() -> (Fixture, Delivery, JobId) {
    let t = limited(1).await;
    let running = t.running(of("a").unique("k")).await;
    let held = t.enqueue(of("a")).await;
    assert_eq!(t.state_of(&held), Some(State::Held));
    (t, running, held)
}

#[tokio::test]
async fn every_way_out_admits_the_next_of_the_group() {
    for way in ["complete", "retry", "snooze", "dead_letter", "cancel"] {
        let (t, running, held) = full().await;
        match way {
            "complete" => assert_eq!(t.complete(&[&running]).await, []),
            "retry" => t.retry(&running, LATER, "boom").await.unwrap(),
            "snooze" => t.snooze(&running, LATER).await.unwrap(),
            "dead_letter" => assert!(t.dead_letter(&running, "no").await.unwrap()),
            _ => {
                let caller = &mut t.caller();
                let cancelled = t.broker.cancel(caller, &running.id, Some("k"), PATIENCE);
                assert_eq!(cancelled.await.unwrap(), State::Running);
            }
        }
        assert_eq!(t.state_of(&held), Some(State::Ready), "{way}");
        t.assert_slots("a", 1);
        assert_eq!(t.claim_one().await.id, held, "{way}");
    }
}

#[tokio::test]
async fn a_job_that_is_ready_again_keeps_its_slot() {
    let (t, running, held) = full().await;

    assert_eq!(t.release(&running).await, []);
    t.assert_slots("a", 1);
    let again = t.claim_one().await;
    assert_eq!(again.id, running.id);
    let again = t.take_over(&again).await;
    t.assert_slots("a", 1);
    assert_eq!(t.state_of(&held), Some(State::Held));
    assert_eq!(t.complete(&[&again]).await, []);
    assert_eq!(t.claim_one().await.id, held);
}

#[tokio::test]
async fn a_job_that_crash_loops_gives_up_its_slot() {
    let (t, running, held) = full().await;
    let second = t.take_over(&running).await;
    let third = t.take_over(&second).await;
    t.let_lease_lapse(&third);

    assert_eq!(t.sweep().await, (0, 1));

    assert_eq!(t.state_of(&running.id), Some(State::Dead));
    assert_eq!(t.claim_one().await.id, held);
    t.assert_slots("a", 1);
}

#[tokio::test]
async fn a_stale_delivery_gives_up_no_slot() {
    let (t, running, held) = full().await;
    let live = t.take_over(&running).await;

    assert_eq!(t.complete(&[&running]).await, [running.entry]);
    let lost = t.retry(&running, LATER, "boom").await;
    assert!(matches!(lost, Err(Error::LeaseLost { .. })), "{lost:?}");

    t.assert_slots("a", 1);
    assert_eq!(t.state_of(&held), Some(State::Held));
    t.complete(&[&live]).await;
    assert_eq!(t.claim_one().await.id, held);
}

#[tokio::test]
async fn a_delivery_that_is_no_longer_live_frees_no_slot_while_nobody_waits() {
    let t = limited(3).await;
    t.enqueue_of("a", 3).await;
    let first = t.claim(3).await;
    let second = t.take_over(&first[0]).await;

    let lost = t.complete(&[&first[0], &first[1]]).await;

    assert_eq!(lost, [first[0].entry]);
    t.assert_slots("a", 2);
    t.complete(&[&first[2]]).await;
    assert_eq!(t.complete(&[&second]).await, []);
    t.assert_slots("a", 0);
}

#[tokio::test]
async fn a_call_with_jobs_of_many_groups_gives_each_what_it_may_have() {
    let t = limited(2).await;
    t.limit(Some("c"), "concurrency", "1").await;
    let groups = ["a", "b", "a", "*", "#", "a", "c", "c", "b"];
    let jobs: Vec<NewJob> = groups.iter().map(|group| of(group)).collect();

    // Once with room for all, on the short way, and once without.
    let alone = t.try_enqueue(&jobs[3..6]).await.unwrap();
    let all = t.try_enqueue(&jobs).await.unwrap();

    let states = |jobs: &[millstream::Enqueued]| -> Vec<_> {
        jobs.iter()
            .map(|job| t.state_of(&job.id).unwrap())
            .collect()
    };
    use State::{Held, Ready};
    assert_eq!(states(&alone), [Ready; 3]);
    let expected = [Ready, Ready, Held, Ready, Ready, Held, Ready, Held, Ready];
    assert_eq!(states(&all), expected);
    for (job, group) in all.iter().zip(groups) {
        assert_eq!(t.scan().meta_of(job.id.as_str())["group"], group);
    }
    t.assert_slots("a", 2);
}

#[tokio::test]
async fn what_becomes_due_or_is_redriven_waits_its_turn() {
    let t = limited(1).await;
    let dead = t.dead(of("a")).await;
    let due = t.enqueue(of("a").delay(LATER)).await;
    let running = t.running(of("a")).await;
    t.make_due(&due);

    assert!(matches!(
        t.promote().await,
        Promotion::Promoted { count: 1, .. }
    ));
    let (caller, ids) = (&mut t.caller(), [dead.clone()]);
    let redriven = t.broker.redrive(caller, &ids, PATIENCE);
    assert_eq!(redriven.await.unwrap(), 1);

    assert_eq!(
        [&due, &dead].map(|id| t.state_of(id)),
        [Some(State::Held); 2]
    );
    t.assert_slots("a", 1);
    t.complete(&[&running]).await;
    let next = t.claim_one().await;
    assert_eq!(next.id, due);
    t.complete(&[&next]).await;
    assert_eq!(t.claim_one().await.id, dead);
    t.assert_slots("a", 1);
}

#[tokio::test]
async fn a_job_that_is_to_run_now_runs_next_in_its_group() {
    let t = limited(1).await;
    let running = t.running(of("a")).await;
    let held = t.enqueue_of("a", 3).await;
    let later = t.enqueue(of("a").delay(LATER)).await;

    for id in [&held[2], &later] {
        let caller = &mut t.caller();
        t.broker.run_now(caller, id, PATIENCE).await.unwrap();
        assert_eq!(t.state_of(id), Some(State::Held));
        t.assert_slots("a", 1);
    }

    let mut job = running;
    for expected in [&held[2], &later, &held[0], &held[1]] {
        t.complete(&[&job]).await;
        job = t.claim_one().await;
        assert_eq!(job.id, *expected);
        t.assert_slots("a", 1);
    }
}

#[tokio::test]
async fn a_held_job_can_be_cancelled_and_another_group_gets_nothing_of_it() {
    let (t, running, held) = full().await;
    let others = t.enqueue_of("b", 2).await;

    let caller = &mut t.caller();
    let before = t.broker.cancel(caller, &held, None, PATIENCE).await;

    assert_eq!(before.unwrap(), State::Held);
    t.assert_slots("a", 1);
    t.complete(&[&running]).await;
    t.assert_slots("a", 0);
    assert_eq!(t.state_of(&others[1]), Some(State::Held));
}

#[tokio::test]
async fn a_group_that_keeps_its_order_waits_for_a_retry() {
    let (t, running, held) = full().await;
    t.limit(None, "group_order", "block").await;

    t.retry(&running, LATER, "boom").await.unwrap();

    t.assert_slots("a", 1);
    assert_eq!(t.state_of(&held), Some(State::Held));
    t.make_due(&running.id);
    t.promote().await;
    let again = t.claim_one().await;
    assert_eq!((&again.id, again.attempt), (&running.id, 2));
    t.assert_slots("a", 1);
    t.complete(&[&again]).await;
    assert_eq!(t.claim_one().await.id, held);
}

#[tokio::test]
async fn a_slot_that_waits_for_a_retry_is_free_once_the_job_is_cancelled() {
    let (t, running, held) = full().await;
    t.limit(None, "group_order", "block").await;
    t.snooze(&running, LATER).await.unwrap();

    let caller = &mut t.caller();
    let cancelled = t.broker.cancel(caller, &running.id, Some("k"), PATIENCE);
    assert_eq!(cancelled.await.unwrap(), State::Scheduled);

    t.assert_slots("a", 1);
    assert_eq!(t.claim_one().await.id, held);
}

#[tokio::test]
async fn a_group_may_have_a_limit_of_its_own() {
    let t = limited(1).await;
    t.limit(Some("big"), "concurrency", "3").await;

    t.enqueue_of("big", 5).await;
    t.enqueue_of("small", 5).await;

    t.assert_slots("big", 3);
    t.assert_slots("small", 1);
    t.limit(Some("big"), "concurrency", "").await;
    let claimed = t.claim(10).await;
    t.complete(&claimed.iter().collect::<Vec<_>>()).await;
    // Back to what all groups have, however many were running.
    t.assert_slots("big", 1);
}

#[tokio::test]
async fn a_raised_limit_is_filled_and_a_lifted_one_holds_nobody() {
    let t = limited(1).await;
    t.enqueue_of("a", 700).await;
    t.enqueue_of("b", 3).await;
    t.limit_groups(5).await;

    assert_eq!(t.admit().await, 4 + 2, "those that have room");

    t.assert_slots("a", 5);
    t.assert_slots("b", 3);
    t.limit(None, "group_concurrency", "").await;
    let newest = t.enqueue(of("a")).await;
    assert_eq!(
        t.state_of(&newest),
        Some(State::Held),
        "it has overtaken others"
    );
    let (mut admitted, mut from) = t.broker.admit(None, 100, PATIENCE).await.unwrap();
    assert_eq!(
        (admitted, from.as_deref()),
        (100, Some("a")),
        "a bounded step"
    );
    while let Some(group) = from {
        let (more, next) = t.broker.admit(Some(&group), 100, PATIENCE).await.unwrap();
        (admitted, from) = (admitted + more, next);
    }
    assert_eq!(admitted, 696);
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
    // Those that were admitted under a limit have a slot; they give it back as they go.
    for lane_full in [500, 204, 0] {
        let claimed = t.claim(500).await;
        assert_eq!(claimed.len(), lane_full);
        if let [_, ..] = claimed[..] {
            t.complete(&claimed.iter().collect::<Vec<_>>()).await;
        }
    }
    t.assert_slots("a", 0);
}

#[tokio::test]
async fn a_lowered_limit_lets_those_go_on_that_run() {
    let t = limited(3).await;
    t.enqueue_of("a", 5).await;
    let running = t.claim(3).await;
    t.limit_groups(1).await;

    t.complete(&[&running[0], &running[1]]).await;
    t.assert_slots("a", 1);
    t.complete(&[&running[2]]).await;
    t.assert_slots("a", 1);
    assert_eq!(t.claim(10).await.len(), 1);
}

#[tokio::test]
async fn a_call_that_is_sent_again_takes_and_frees_no_slot_twice() {
    let t = limited(1).await;
    let mut caller = millstream::broker::Caller::new("p");
    let jobs = [of("a"), of("a")];
    let first = t
        .broker
        .enqueue(&mut caller, &jobs, PATIENCE)
        .await
        .unwrap();
    let mut again = millstream::broker::Caller::new("p");
    let second = t.broker.enqueue(&mut again, &jobs, PATIENCE).await.unwrap();
    assert_eq!(first, second);
    t.assert_slots("a", 1);

    let job = t.claim_one().await;
    for _ in 0..2 {
        let mut caller = millstream::broker::Caller::after("w", 6);
        let took = std::time::Duration::ZERO;
        let done = [millstream::broker::Done::new(&job, took)];
        let lost = t.broker.complete(&mut caller, job.lane, &done, 0, PATIENCE);
        assert_eq!(lost.await.unwrap(), []);
        t.assert_slots("a", 1);
    }
}

#[tokio::test]
async fn a_held_job_that_somebody_broke_is_kept_to_be_looked_at_and_holds_up_nobody() {
    let (t, running, broken) = full().await;
    let next = t.enqueue(of("a")).await;
    t.redis(&["HDEL", &t.key("payloads"), broken.as_str()]);

    t.complete(&[&running]).await;
    assert_eq!(t.slots_of("a"), 0);
    assert_eq!(t.admit().await, 1);

    assert_eq!(t.state_of(&broken), Some(State::Dead));
    assert_eq!(t.claim_one().await.id, next);
    t.assert_slots("a", 1);
    assert_eq!(t.counter("orphaned"), 1);
}

#[tokio::test]
async fn unique_keys_and_expiry_go_with_a_held_job() {
    let t = limited(1).await;
    let running = t.running(of("a")).await;
    let held = t.enqueue(of("a").unique("k").expires(LATER)).await;

    let again = t.try_enqueue(&[of("a").unique("k")]).await.unwrap();
    assert_eq!((&again[0].id, again[0].duplicate), (&held, true));
    t.complete(&[&running]).await;
    let job = t.claim_one().await;
    assert_eq!((&job.id, job.unique()), (&held, Some("k")));
    let meta = t.scan().meta_of(held.as_str());
    assert!(meta["expires_at_ms"].is_number(), "{meta}");
    t.complete(&[&job]).await;
    t.assert_slots("a", 0);
}

#[tokio::test]
async fn held_jobs_are_listed_page_by_page_and_by_group() {
    let t = limited(1).await;
    let a = t.enqueue_of("a.example", 6).await;
    let b = t.enqueue_of("b", 4).await;
    let inspector = t.inspector().await;

    let filter = millstream::inspect::JobFilter::new().state(State::Held);
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = inspector.page(&filter, after.as_deref(), 2).await.unwrap();
        found.extend(page.jobs.into_iter().map(|job| job.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, [&a[1..], &b[1..]].concat());
    let of_b = filter.group("b");
    let page = inspector.page(&of_b, None, 100).await.unwrap();
    let ids: Vec<_> = page.jobs.into_iter().map(|job| job.id).collect();
    assert_eq!(ids, &b[1..]);
    let shown = inspector.show(&b[1]).await.unwrap();
    assert_eq!(
        (shown.state, shown.group.as_deref()),
        (State::Held, Some("b"))
    );
    assert_eq!(shown.payload.as_deref(), Some(&b"payload"[..]));
}

#[tokio::test]
async fn a_held_job_that_is_changed_keeps_its_turn_and_a_ready_one_that_is_put_off_gives_up_its_slot()
 {
    let t = limited(1).await;
    let jobs = t.enqueue_of("a", 3).await;
    let update = async |id: &JobId, update: JobUpdate| {
        let caller = &mut t.caller();
        let updated = t.broker.update(caller, id, "job", &update, PATIENCE).await;
        updated.unwrap().unwrap()
    };

    let state = update(&jobs[1], JobUpdate::new().payload("new")).await;
    assert_eq!(state, State::Held);
    let state = update(&jobs[0], JobUpdate::new().delay(LATER)).await;
    assert_eq!(state, State::Scheduled);

    t.assert_slots("a", 1);
    let next = t.claim_one().await;
    assert_eq!((&next.id, &next.payload[..]), (&jobs[1], &b"new"[..]));
    let state = update(&jobs[2], JobUpdate::new().delay(LATER)).await;
    assert_eq!(state, State::Scheduled);
    t.complete(&[&next]).await;
    t.assert_slots("a", 0);
}

#[tokio::test]
async fn a_paused_group_admits_nobody_and_the_others_go_on() {
    let t = limited(2).await;
    t.limit(None, "group_order", "block").await;
    let inspector = t.inspector().await;
    let waits = t.running(of("a")).await;
    t.retry(&waits, LATER, "boom").await.unwrap();
    t.make_due(&waits.id);
    let pause = GroupLimits::new().paused(true);
    assert_eq!(
        inspector.set_group_limits(Some("a"), &pause).await.unwrap(),
        0
    );

    let held = t.enqueue(of("a")).await;
    t.promote().await;

    assert_eq!(t.state_of(&held), Some(State::Held));
    assert_eq!(t.state_of(&waits.id), Some(State::Held), "it kept its slot");
    t.assert_slots("a", 0);
    let other = t.enqueue(of("b")).await;
    assert_eq!(t.claim_one().await.id, other);
    let resume = GroupLimits::new().paused(false);
    assert_eq!(
        inspector
            .set_group_limits(Some("a"), &resume)
            .await
            .unwrap(),
        2
    );
    assert_eq!(t.claim_one().await.id, waits.id, "it was first");
    assert_eq!(t.claim_one().await.id, held);
    t.assert_slots("a", 2);
}

#[tokio::test]
async fn groups_are_listed_with_what_they_have_and_what_limits_them() {
    let t = limited(1).await;
    t.enqueue_of("a", 3).await;
    t.enqueue_of("b", 1).await;
    let inspector = t.inspector().await;
    let own = GroupLimits::new().concurrency(Some(7)).paused(true);
    inspector.set_group_limits(Some("c"), &own).await.unwrap();
    t.enqueue_of("c", 1).await;

    let page = inspector.groups(2).await.unwrap();

    assert_eq!((page.total, page.concurrency), (3, Some(1)));
    let rows = page.groups.iter().map(|group| {
        let limit = (group.concurrency, group.own_limit, group.paused);
        (group.group.as_str(), group.active, group.held, limit)
    });
    let expected = [
        ("a", 1, 2, (Some(1), false, false)),
        ("c", 0, 1, (Some(7), true, true)),
    ];
    assert_eq!(rows.collect::<Vec<_>>(), expected);
    let clear = GroupLimits::new().clear();
    assert_eq!(
        inspector.set_group_limits(Some("c"), &clear).await.unwrap(),
        1
    );
    let all = inspector.groups(10).await.unwrap();
    assert!(
        all.groups
            .iter()
            .all(|group| !group.own_limit && !group.paused)
    );
    t.assert_every_job_has_one_home();
    for wrong in [
        GroupLimits::new().concurrency(Some(0)),
        GroupLimits::new().concurrency(Some(100_001)),
    ] {
        let refused = inspector.set_group_limits(Some("c"), &wrong).await;
        assert!(matches!(refused, Err(Error::Setting { .. })), "{refused:?}");
    }
    let all_paused = inspector
        .set_group_limits(None, &GroupLimits::new().paused(true))
        .await;
    assert!(
        matches!(all_paused, Err(Error::Setting { .. })),
        "{all_paused:?}"
    );
}

#[tokio::test]
async fn a_purge_removes_a_group_from_every_state_and_nothing_else() {
    let t = limited(1).await;
    let done = [t.running(of("a")).await, t.running(of("b")).await];
    for done in &done {
        t.complete_keeping(&[done], 100).await;
    }
    t.dead(of("a")).await;
    let other_dead = t.dead(of("b")).await;
    t.enqueue(of("a").delay(LATER).unique("due")).await;
    let running = t.running(of("a").unique("running")).await;
    t.try_enqueue(&vec![of("a"); 450]).await.unwrap();
    let held_key = t.enqueue(of("a").unique("held")).await;
    assert_eq!(t.state_of(&held_key), Some(State::Held));
    let other = t.enqueue_of("b", 2).await;
    t.release(&running).await;
    let running = t.claim_one().await;
    let inspector = t.inspector().await;

    let mut dry = inspector.walk_group_purge("a", true).unwrap();
    while dry.step().await.unwrap() {}
    let before = t.state_hash();
    let mut walk = inspector.walk_group_purge("a", false).unwrap();
    let mut steps = 0;
    while walk.step().await.unwrap() {
        steps += 1;
        t.assert_every_job_has_one_home();
    }

    assert_ne!(t.state_hash(), before);
    let purged = walk.purged();
    assert_eq!(dry.purged(), purged);
    let counts = (
        purged.held,
        purged.scheduled,
        purged.dead,
        purged.ready,
        purged.running,
    );
    assert_eq!((counts, purged.completed), ((451, 1, 1, 0, 1), 1));
    assert!(steps > 5, "{steps} steps");
    t.assert_slots("a", 0);
    let scan = t.scan();
    assert_eq!(scan.uniques.len(), 0, "{:?}", scan.uniques);
    let left: Vec<_> = scan.homes.keys().cloned().collect();
    let mut expected = [&other_dead, &other[0], &other[1]].map(ToString::to_string);
    expected.sort();
    assert_eq!(left, expected);
    assert_eq!(scan.history.len(), 1);
    let told = scan.events.last().unwrap();
    assert_eq!(
        (told["event"].as_str(), told["detail"].as_str()),
        ("purged", "group a: 455 jobs")
    );
    assert_eq!(
        t.complete(&[&running]).await,
        [running.entry],
        "it was cancelled"
    );
    let mut again = inspector.walk_group_purge("a", false).unwrap();
    while again.step().await.unwrap() {}
    assert_eq!(again.purged().total(), 0);
    t.assert_stats_agree().await;
}

#[tokio::test]
async fn a_purge_that_is_sent_again_counts_once_and_leaves_other_groups_alone() {
    let t = limited(1).await;
    let a = t.enqueue(of("a").unique("k")).await;
    let b = t.enqueue(of("b")).await;
    let ids = [a.clone(), b.clone(), "nobody".into()];
    let mut answers = Vec::new();
    for _ in 0..2 {
        let mut caller = millstream::broker::Caller::after("operator", 3);
        let purged = t.broker.group_purge(&mut caller, "a", &ids, 0, PATIENCE);
        answers.push(purged.await.unwrap());
    }

    let unlock = vec![("k".to_owned(), a)];
    assert_eq!((answers[0].purged, &answers[0].unlock), (1, &unlock));
    assert_eq!(answers[0], answers[1]);
    t.broker.unlock(&unlock, PATIENCE).await.unwrap();
    assert_eq!(t.state_of(&b), Some(State::Ready));
    t.assert_slots("a", 0);
    t.assert_slots("b", 1);
}
