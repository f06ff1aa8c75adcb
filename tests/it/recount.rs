//! The slots of groups, counted anew while the queue is at work.

use std::collections::BTreeSet;
use std::time::Duration;

use millstream::broker::Lane;
use millstream::broker::doctor::{Part, Recounted, SlotHolder};
use millstream::inspect::Level;
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, Error, JobError, NewJob, Priority};
use tokio_util::sync::CancellationToken;

use crate::support::program::Program;
use crate::support::verbs::plain;
use crate::support::{Fixture, LATER, PATIENCE};

/// How many jobs the large queue has besides; `MILLSTREAM_BULK_JOBS` says otherwise.
const BULK_JOBS: usize = 5_000;

fn of(group: &str) -> NewJob {
    plain().group(group)
}

/// What a walk has found of one group, and where the lanes ended.
struct Walked {
    holders: BTreeSet<SlotHolder>,
    tails: Vec<String>,
}

impl Fixture {
    async fn walk_over(&self, group: &str) -> Walked {
        let mut holders = BTreeSet::new();
        let kept = self.broker.audit(Part::Kept, None, 1000, PATIENCE).await;
        let kept = kept.unwrap().slots.into_iter();
        holders.extend(kept.filter(|(of, _)| of == group).map(|(_, id)| (None, id)));
        let mut tails = Vec::new();
        for lane in Lane::ALL {
            let part = Part::Slots(lane);
            let step = self.broker.audit(part, None, 1000, PATIENCE).await.unwrap();
            let here = step.slots.into_iter().filter(|(of, _)| of == group);
            holders.extend(here.map(|(_, id)| (Some(lane), id)));
            tails.push(step.cursor.unwrap_or_else(|| "0-0".to_owned()));
        }
        Walked { holders, tails }
    }

    async fn recount(
        &self,
        walked: &Walked,
        group: &str,
        kept: Option<u64>,
        come: usize,
    ) -> Option<Recounted> {
        let group = group.to_owned();
        let found = [(&group, &walked.holders)];
        let judged = self
            .broker
            .recount(kept, true, come, &walked.tails, &found, PATIENCE);
        Some(judged.await.unwrap()?.remove(0))
    }
}

fn counted(told: &str, counted: u64) -> Option<Recounted> {
    Some(Recounted {
        told: Some(told.to_owned()),
        counted: Some(counted),
    })
}

#[tokio::test]
async fn what_comes_and_goes_after_the_walk_is_counted() {
    let t = Fixture::new().await;
    t.limit_groups(10).await;
    t.try_enqueue(&vec![of("a"); 4]).await.unwrap();
    let running = t.claim(3).await;
    let walked = t.walk_over("a").await;
    assert_eq!(walked.holders.len(), 4);

    t.complete(&[&running[0]]).await;
    t.release(&running[1]).await;
    t.retry(&running[2], LATER, "boom").await.unwrap();
    t.try_enqueue(&vec![of("a"); 3]).await.unwrap();
    t.try_enqueue(&[of("b"), plain()]).await.unwrap();
    t.redis(&["HSET", &t.key("groups"), "a", "9"]);

    // Six have come to the lanes.
    assert_eq!(t.recount(&walked, "a", None, 5).await, None);
    assert_eq!(t.recount(&walked, "a", None, 6).await, counted("9", 5));
    assert_eq!(t.slots_of("a"), 5);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_retry_that_keeps_its_slot_puts_the_count_in_doubt() {
    let t = Fixture::new().await;
    t.limit_groups(10).await;
    t.limit(None, "group_order", "block").await;
    let first = t.running(of("a")).await;
    t.retry(&first, LATER, "boom").await.unwrap();
    let second = t.running(of("a")).await;
    let third = t.running(of("a")).await;
    let walked = t.walk_over("a").await;
    assert_eq!(walked.holders.len(), 3);
    t.redis(&["HSET", &t.key("groups"), "a", "7"]);

    t.make_due(&first.id);
    t.promote().await;
    t.complete(&[&second]).await;
    assert_eq!(t.recount(&walked, "a", Some(1), 100).await, counted("6", 2));
    t.snooze(&third, LATER).await.unwrap();
    let doubt = t.recount(&walked, "a", Some(1), 100).await;
    assert_eq!(doubt.map(|judged| judged.counted), Some(None));
    // Also when the order has changed meanwhile, either way.
    t.limit(None, "group_order", "").await;
    let doubt = t.recount(&walked, "a", Some(1), 100).await;
    assert_eq!(doubt.map(|judged| judged.counted), Some(None));

    assert_eq!(t.slots_of("a"), 2);
    t.assert_every_job_has_one_home();
}

/// Of a queue at work, while jobs of many groups come and go, each wrong number is found and put right, and no right one is touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn slots_are_counted_right_on_a_large_queue_while_workers_run() {
    let jobs = std::env::var("MILLSTREAM_BULK_JOBS").ok();
    let jobs = jobs.map_or(BULK_JOBS, |jobs| jobs.parse().expect("a number of jobs"));
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let p = Program::over(Fixture::on(&redis).await).await;
    p.t.limit_groups(2).await;
    p.t.limit(None, "group_max_backlog", "50").await;
    for from in (0..jobs).step_by(1_000) {
        let some = 1_000.min(jobs - from);
        p.queue
            .enqueue_all(vec![plain().delay(LATER); some])
            .await
            .unwrap();
        let slow = NewJob::raw("slow", "x").priority(Priority::Low);
        p.queue.enqueue_all(vec![slow; some / 2]).await.unwrap();
    }
    let is_over = CancellationToken::new();
    let over = is_over.clone();
    let worker = p.worker().concurrency(30);
    let worker = worker.fallback(move |job: Context| {
        let over = over.clone();
        async move {
            match job.name() {
                "long" => over.cancelled().await,
                "slow" => tokio::time::sleep(Duration::from_millis(20)).await,
                _ => {}
            }
            Ok::<(), JobError>(())
        }
    });
    let worker = worker.start().await.unwrap();
    let long = NewJob::raw("long", "x").group("long").timeout(LATER);
    p.queue.enqueue_all(vec![long; 2]).await.unwrap();
    let (queue, over) = (p.queue.clone(), is_over.clone());
    let traffic = tokio::spawn(async move {
        let mut sent = 0;
        while !over.is_cancelled() {
            let jobs = (sent..sent + 4).map(|nth| of(&format!("g{}", nth % 57)));
            sent += 4;
            match queue.enqueue_all(jobs.collect::<Vec<_>>()).await {
                // A group that leaks slots fills up, and at the end all of it has to be done.
                Ok(_) | Err(Error::GroupFull { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    p.until("the long ones run", |t| t.slots_of("long") == 2)
        .await;
    p.until("jobs come and go", |t| t.counter("completed") > 500)
        .await;
    let groups = p.t.key("groups");
    for group in ["g3", "g50", "ghost"] {
        p.t.redis(&["HINCRBY", &groups, group, "2"]);
    }
    p.t.redis(&["HSET", &groups, "long", "1"]);

    let mut most = 0;
    let mut before = 0;
    let doctor = p.client.doctor().queues([p.t.queue.clone()]).repair(true);
    let found = doctor.run(|_, looked| {
        most = most.max(looked - before);
        before = looked;
    });
    let found = found.await.unwrap().findings;

    let slots: Vec<_> = found
        .iter()
        .filter(|one| one.level > Level::Note && one.queue.is_some())
        .collect();
    let counts = slots.iter().map(|one| (one.code, one.count, one.repaired));
    assert_eq!(
        counts.collect::<Vec<_>>(),
        [("group-slots", 4, 4)],
        "{slots:?}"
    );
    let mut named = slots[0].examples.clone();
    named.sort();
    assert_eq!(named, ["g3", "g50", "ghost", "long"]);
    assert!(most <= 600, "{most} in one step");
    assert_eq!(p.t.slots_of("long"), 2);
    assert_eq!(p.t.slots_of("ghost"), 0);
    is_over.cancel();
    traffic.await.unwrap();
    p.until("nobody is held or at work", |t| {
        t.redis(&["ZCARD", &t.key("held")]).int() + t.redis(&["HLEN", &t.key("groups")]).int() == 0
    })
    .await;
    worker.stop().await;
    p.t.assert_every_job_has_one_home();
}
