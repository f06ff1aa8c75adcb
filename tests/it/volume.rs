//! Many jobs: Redis is never held up for long, and gets its memory back.

use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, NewJob};

use crate::support::program::Program;
use crate::support::verbs::plain;
use crate::support::{Fixture, LATER};

/// How many jobs are drained; `MILLSTREAM_DRAIN_JOBS` says otherwise.
const DRAIN_JOBS: usize = 50_000;
const PAYLOAD_BYTES: usize = 200;

fn drain_jobs() -> usize {
    let given = std::env::var("MILLSTREAM_DRAIN_JOBS").ok();
    given.map_or(DRAIN_JOBS, |jobs| jobs.parse().expect("a number of jobs"))
}

impl Fixture {
    /// What the jobs take, bytes: `used_memory` has the scripts' own memory in it, on some servers.
    fn memory(&self) -> i64 {
        let info = self.redis(&["INFO", "memory"]);
        let line = info
            .text()
            .lines()
            .find_map(|line| line.strip_prefix("used_memory_dataset:"));
        line.expect("Redis tells").parse().expect("bytes")
    }

    fn key_names(&self) -> Vec<String> {
        let keys = self.redis(&["KEYS", "*"]);
        let names = keys.list().iter().map(|key| key.text().to_owned());
        // Who does the upkeep at the moment comes and goes.
        let mut names: Vec<_> = names.filter(|name| !name.ends_with(":upkeep")).collect();
        names.sort();
        names
    }
}

async fn succeed(_: Context) -> Result<(), millstream::JobError> {
    Ok(())
}

async fn alone(redis: &PrivateRedis) -> Program {
    Program::over(Fixture::on(redis).await).await
}

/// How often a command was called, and what a call took on average, µs.
fn calls(t: &Fixture, command: &str) -> (u64, f64) {
    let stats = t.redis(&["INFO", "commandstats"]);
    let of_command = format!("cmdstat_{command}:");
    let line = stats
        .text()
        .lines()
        .find_map(|line| line.strip_prefix(&*of_command));
    let number = |name: &str| {
        let value = line?.split(',').find_map(|pair| pair.strip_prefix(name));
        value?.parse::<f64>().ok()
    };
    let calls = number("calls=").unwrap_or(0.0);
    (calls as u64, number("usec_per_call=").unwrap_or(0.0))
}

#[tokio::test]
async fn twenty_thousand_jobs_that_fall_due_together_are_promoted_without_holding_redis_up() {
    const JOBS: usize = 20_000;
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let p = alone(&redis).await;
    let jobs = vec![plain().delay(LATER); JOBS];
    p.queue.enqueue_all(jobs).await.unwrap();
    let all_due = "for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZADD', KEYS[1], 1, id) end";
    p.t.redis(&["EVAL", all_due, "1", &p.t.key("scheduled")]);
    p.t.redis(&["CONFIG", "RESETSTAT"]);

    let worker = p.worker().concurrency(100).fallback(succeed);
    let worker = worker.start().await.unwrap();
    p.until_completed(JOBS as i64).await;

    // Every promotion looks once for what is due.
    let (steps, _) = calls(&p.t, "zrangebyscore");
    assert!(steps >= JOBS as u64 / 1_000, "only {steps} steps");
    // A few ms are allowed. The longest one cannot be told from a time in which a loaded machine did not run Redis at all.
    let (_, mean_us) = calls(&p.t, "evalsha");
    assert!(mean_us < 10_000.0, "{mean_us} µs a script");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_many_jobs_are_drained_keys_and_memory_are_back_where_they_were() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let p = alone(&redis).await;
    let job = || NewJob::raw("job", vec![7; PAYLOAD_BYTES]);
    let worker = p.worker().concurrency(100).fallback(succeed);
    let worker = worker.start().await.unwrap();
    // Whatever is made once, is made now.
    p.queue.enqueue_all(vec![job(); 1_000]).await.unwrap();
    p.until_completed(1_000).await;
    let (keys, memory) = (p.t.key_names(), p.t.memory());

    let jobs = drain_jobs();
    let (mut enqueued, mut most) = (0, memory);
    while enqueued < jobs {
        let count = (jobs - enqueued).min(10_000);
        p.queue.enqueue_all(vec![job(); count]).await.unwrap();
        enqueued += count;
        most = most.max(p.t.memory());
    }
    let all = 1_000 + jobs as i64;
    loop {
        let before = p.t.counter("completed");
        if before == all {
            break;
        }
        p.until("it goes on", |t| t.counter("completed") > before)
            .await;
    }
    p.until_completed(all).await;

    let now = p.t.memory();
    println!("{jobs} jobs: {memory} bytes before, {most} at most, {now} after");
    assert_eq!(p.t.key_names(), keys);
    assert!(now <= memory + memory / 20 + (8 << 20), "{memory}, {now}");
    worker.stop().await;
}

#[tokio::test]
async fn one_job_in_a_hundred_that_stays_costs_a_bounded_overhead() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let p = alone(&redis).await;
    let before = p.t.memory();
    let jobs = drain_jobs() / 2;
    let job = NewJob::raw("job", vec![7; PAYLOAD_BYTES]);
    for _ in 0..jobs / 1_000 {
        p.t.try_enqueue(&vec![job.clone(); 1_000]).await.unwrap();
    }
    let mut stay = 0;
    for _ in 0..jobs / 1_000 {
        let claimed = p.t.claim(1_000).await;
        let (staying, done): (Vec<_>, Vec<_>) = claimed
            .iter()
            .enumerate()
            .partition(|(number, _)| number % 100 == 0);
        stay += staying.len() as i64;
        let done: Vec<_> = done.into_iter().map(|(_, delivery)| delivery).collect();
        assert_eq!(p.t.complete(&done).await, []);
    }

    let overhead = p.t.memory() - before;
    println!("{stay} of {jobs} jobs stay: {overhead} bytes");
    assert_eq!(p.t.redis(&["XLEN", &p.t.key("ready")]).int(), stay);
    // A node of 4 KiB that each of them pins, its place among the pending, and what the server takes for itself.
    assert!(overhead < stay * (6 << 10) + (2 << 20), "{overhead} bytes");
    p.t.assert_every_job_has_one_home();
}
