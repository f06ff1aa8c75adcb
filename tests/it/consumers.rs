//! Consumers, the names under which workers are known to Redis: no two workers share one, and those of workers that are
//! gone are forgotten, unless they hold a job.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream::broker::Lane;
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, NewJob};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::unbounded_channel;

use crate::support::program::{Program, next, telling};
use crate::support::{Fixture, PATIENCE};

impl Fixture {
    /// The names of all consumers, lane by lane.
    fn consumers(&self) -> Vec<String> {
        let of_lane = |lane| {
            let consumers = self.redis(&["XINFO", "CONSUMERS", &self.lane_key(lane), "workers"]);
            let names = consumers.list().iter();
            names
                .map(|consumer| consumer.field("name").text().to_owned())
                .collect::<Vec<_>>()
        };
        Lane::ALL.into_iter().flat_map(of_lane).collect()
    }

    /// The workers that hold jobs.
    fn holders(&self) -> HashSet<String> {
        let scan = self.scan();
        let homes = scan.homes.values().flatten();
        homes.filter_map(|home| home.consumer.clone()).collect()
    }
}

#[tokio::test]
async fn no_two_workers_share_a_consumer_name_not_even_one_that_follows_another() {
    const WORKERS: usize = 5;
    let p = Program::new().await;
    let go = Arc::new(Semaphore::new(0));
    let mut names = HashSet::new();
    for generation in 1..=3 {
        let mut workers = Vec::new();
        for _ in 0..WORKERS {
            let gate = Arc::clone(&go);
            let held_up = move |_: Context| {
                let gate = Arc::clone(&gate);
                async move {
                    gate.acquire().await?.forget();
                    Ok(())
                }
            };
            let one_at_a_time = p.worker().concurrency(1).prefetch(0);
            let worker = one_at_a_time.handle_raw("a", held_up).start().await;
            workers.push(worker.unwrap());
            p.enqueue(NewJob::raw("a", "")).await;
        }
        p.until("each holds a job", |t| t.holders().len() == WORKERS)
            .await;
        names.extend(p.t.holders());
        assert_eq!(names.len(), generation * WORKERS, "{names:?}");

        go.add_permits(WORKERS);
        for worker in workers {
            worker.stop().await;
        }
    }
    p.until_completed(3 * WORKERS as i64).await;
}

#[tokio::test]
async fn workers_that_stop_leave_no_consumer_behind() {
    let p = Program::new().await;
    let (tell, mut hear) = unbounded_channel();
    for ran in 1..=20 {
        let builder = p.worker().handle_raw("a", telling(&tell));
        let worker = builder.start().await.unwrap();
        p.enqueue(NewJob::raw("a", "")).await;
        next(&mut hear).await;
        worker.stop().await;
        assert_eq!(p.t.consumers(), [""; 0], "after {ran} workers");
    }
    p.until_completed(20).await;
}

#[tokio::test]
async fn of_two_hundred_workers_that_vanished_only_those_that_hold_a_job_are_remembered() {
    let t = Fixture::new().await;
    t.enqueue_many(200).await;
    let mut held = Vec::new();
    for number in 0..200 {
        let worker = format!("gone-{number}");
        let delivery = t.claim_as(&worker, 1).await.remove(0);
        if number % 20 == 0 {
            held.push((worker, delivery));
        } else {
            assert_eq!(t.complete(&[&delivery]).await, []);
        }
    }
    // Valkey knows a reader in each lane that it reads, Redis where it was given something.
    let known = t.consumers();
    assert_eq!(known.iter().collect::<HashSet<_>>().len(), 200);

    let forgotten = t.broker.retire(None, Duration::ZERO, PATIENCE).await;

    assert_eq!(forgotten.unwrap() as usize, known.len() - held.len());
    let remembered: HashSet<_> = t.consumers().into_iter().collect();
    let holders = held.iter().map(|(worker, _)| worker.clone()).collect();
    assert_eq!(remembered, holders);
    for (_, delivery) in &held {
        t.let_lease_lapse(delivery);
    }
    assert_eq!(t.sweep().await, (10, 0), "what they held runs again");
    t.assert_every_job_has_one_home();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_given_a_job_while_the_idle_are_forgotten_keeps_it() {
    const JOBS: usize = 1_500;
    let t = Fixture::new().await;
    t.enqueue_many(JOBS).await;
    let through = Arc::new(AtomicBool::new(false));
    let forgetting = {
        let (broker, through) = (t.broker.clone(), Arc::clone(&through));
        tokio::spawn(async move {
            let mut forgotten = 0;
            while !through.load(Ordering::SeqCst) {
                let retired = broker.retire(None, Duration::ZERO, PATIENCE).await;
                forgotten += retired.unwrap();
            }
            forgotten
        })
    };

    let mut left = Vec::new();
    for number in 0..JOBS {
        let worker = format!("worker-{}", number % 7);
        let delivery = t.claim_as(&worker, 1).await.remove(0);
        // Some of them vanish with the job.
        match number % 10 {
            0 => left.push(delivery),
            _ => assert_eq!(t.complete(&[&delivery]).await, []),
        }
    }
    through.store(true, Ordering::SeqCst);

    assert!(forgetting.await.unwrap() > 0, "nobody was forgotten");
    t.assert_stats_agree().await;
    for delivery in &left {
        t.let_lease_lapse(delivery);
    }
    let (mut reclaimed, mut sweeps) = (0, 0);
    while reclaimed < left.len() as u64 && sweeps < 10 {
        reclaimed += t.sweep().await.0;
        sweeps += 1;
    }
    assert_eq!(reclaimed, left.len() as u64);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_worker_that_does_the_upkeep_looks_for_consumers_that_are_gone() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let p = Program::over(Fixture::on(&redis).await).await;
    let (tell, _hear) = unbounded_channel();
    let often = p.worker().sweep(Duration::from_millis(100));
    let worker = often.handle_raw("a", telling(&tell)).start().await.unwrap();

    p.until("it has looked", |t| {
        let stats = t.redis(&["INFO", "commandstats"]);
        stats.text().contains("cmdstat_xinfo|consumers")
    })
    .await;
    worker.stop().await;
}
