//! How many jobs a second, and what each costs Redis: the engine beside a bare client that does only what must be done.
//!
//! `cargo bench --bench throughput` measures; the ratio at the end is what counts, for both halves ran on the same
//! machine in turns. `cargo bench --bench throughput -- --test` runs everything once.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use fred::clients::Client;
use fred::interfaces::{ClientLike, LuaInterface, StreamsInterface};
use fred::types::{InfoKind, Value};
use futures_util::future::join_all;
use millstream::{Context, NewJob};
use support::{Arena, GROUP, QUEUE, STREAM};
use tokio::sync::Notify;

/// Calls that wait for their answers at once, where jobs are enqueued one by one.
const CALLERS: u64 = 64;
/// Jobs in one call of the bare client.
const BARE_BATCH: u64 = 100;
/// Turns of the final comparison.
const TURNS: usize = 9;

const BARE_ONE: &str = "return redis.call('XADD', KEYS[1], '*', 'name', ARGV[1], 'payload', ARGV[2], 'attempt', '1', 'meta', '')";
const BARE_MANY: &str = "local ids = {}
for i = 1, #ARGV, 2 do
  ids[#ids + 1] = redis.call('XADD', KEYS[1], '*', 'name', ARGV[i], 'payload', ARGV[i + 1], 'attempt', '1', 'meta', '')
end
return table.concat(ids, ' ')";

/// What is measured, by the engine and by the bare client.
#[derive(Clone, Copy)]
enum Scenario {
    /// 64 tasks that each enqueue one job after the other through one `Queue`; bare: one script call a job.
    EnqueueOneByOne,
    /// One `enqueue_all` of 1,000 jobs after the other; bare: ten calls of 100 jobs, pipelined.
    EnqueueBulk,
    /// A worker with 100 slots and a handler that does nothing empties a full queue, from its start to the last settlement;
    /// bare: reads 100, settles them with XACK and XDEL while the next are read.
    Drain,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Millstream,
    Bare,
}

struct Row {
    name: &'static str,
    scenario: Scenario,
    /// Jobs in one measurement: enough for some tens of milliseconds.
    jobs: u64,
    /// Jobs when run once, in a debug build.
    jobs_once: u64,
}

const SCENARIOS: [Row; 3] = [
    Row {
        name: "enqueue_one_by_one_x64",
        scenario: Scenario::EnqueueOneByOne,
        jobs: 6_400,
        jobs_once: 640,
    },
    Row {
        name: "enqueue_bulk_1000",
        scenario: Scenario::EnqueueBulk,
        jobs: 10_000,
        jobs_once: 1_000,
    },
    Row {
        name: "drain_x100_noop",
        scenario: Scenario::Drain,
        jobs: 20_000,
        jobs_once: 1_000,
    },
];

impl Row {
    fn jobs(&self) -> u64 {
        if support::once() {
            self.jobs_once
        } else {
            self.jobs
        }
    }
}

/// One measurement.
struct Cost {
    elapsed: Duration,
    redis_cpu: Duration,
}

async fn measure(arena: &Arena, scenario: Scenario, by: By, jobs: u64) -> Cost {
    arena.clear().await;
    match (scenario, by) {
        (Scenario::EnqueueOneByOne, By::Millstream) => enqueue_one_by_one(arena, jobs).await,
        (Scenario::EnqueueOneByOne, By::Bare) => bare_one_by_one(arena, jobs).await,
        (Scenario::EnqueueBulk, By::Millstream) => enqueue_bulk(arena, jobs).await,
        (Scenario::EnqueueBulk, By::Bare) => bare_bulk(arena, jobs).await,
        (Scenario::Drain, By::Millstream) => drain(arena, jobs).await,
        (Scenario::Drain, By::Bare) => bare_drain(arena, jobs).await,
    }
}

/// Measures `work`.
async fn costs(arena: &Arena, work: impl Future<Output = ()>) -> Cost {
    let cpu = redis_cpu(&arena.bare).await;
    let began = Instant::now();
    work.await;
    let elapsed = began.elapsed();
    let redis_cpu = redis_cpu(&arena.bare).await - cpu;
    Cost { elapsed, redis_cpu }
}

/// What Redis has used of the processor so far.
async fn redis_cpu(bare: &Client) -> Duration {
    let info: String = bare.info(Some(InfoKind::Cpu)).await.expect("INFO cpu");
    let seconds = |field: &str| -> f64 {
        let line = info.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|value| value.trim().parse().ok())
            .expect("a number of seconds")
    };
    Duration::from_secs_f64(seconds("used_cpu_sys:") + seconds("used_cpu_user:"))
}

async fn enqueue_one_by_one(arena: &Arena, jobs: u64) -> Cost {
    costs(arena, async {
        let callers = (0..CALLERS).map(|caller| {
            let queue = arena.queue.clone();
            tokio::spawn(async move {
                for index in (caller..jobs).step_by(CALLERS as usize) {
                    queue.enqueue(support::job(index)).await.expect("enqueues");
                }
            })
        });
        join_all(callers.collect::<Vec<_>>())
            .await
            .into_iter()
            .for_each(|caller| caller.expect("no panic"));
    })
    .await
}

async fn bare_one_by_one(arena: &Arena, jobs: u64) -> Cost {
    let sha: String = arena.bare.script_load(BARE_ONE).await.expect("loads");
    costs(arena, async {
        let callers = (0..CALLERS).map(|caller| {
            let (bare, sha) = (arena.bare.clone(), sha.clone());
            tokio::spawn(async move {
                for index in (caller..jobs).step_by(CALLERS as usize) {
                    let args = vec![
                        Value::from("noop"),
                        Value::Bytes(support::payload(index).into()),
                    ];
                    let _: String = bare
                        .evalsha(sha.as_str(), STREAM, args)
                        .await
                        .expect("adds");
                }
            })
        });
        join_all(callers.collect::<Vec<_>>())
            .await
            .into_iter()
            .for_each(|caller| caller.expect("no panic"));
    })
    .await
}

async fn enqueue_bulk(arena: &Arena, jobs: u64) -> Cost {
    costs(arena, async {
        for from in (0..jobs).step_by(1_000) {
            let jobs: Vec<NewJob> = (from..jobs.min(from + 1_000)).map(support::job).collect();
            arena.queue.enqueue_all(jobs).await.expect("enqueues");
        }
    })
    .await
}

async fn bare_bulk(arena: &Arena, jobs: u64) -> Cost {
    let sha: String = arena.bare.script_load(BARE_MANY).await.expect("loads");
    costs(arena, async {
        for from in (0..jobs).step_by(1_000) {
            let calls = (from..jobs.min(from + 1_000))
                .step_by(BARE_BATCH as usize)
                .map(|from| bare_add(&arena.bare, &sha, from, BARE_BATCH));
            join_all(calls).await;
        }
    })
    .await
}

/// Adds `count` jobs to the bare stream in one call.
async fn bare_add(bare: &Client, sha: &str, from: u64, count: u64) {
    let args: Vec<Value> = (from..from + count)
        .flat_map(|index| {
            [
                Value::from("noop"),
                Value::Bytes(support::payload(index).into()),
            ]
        })
        .collect();
    let _: String = bare.evalsha(sha, STREAM, args).await.expect("adds");
}

async fn drain(arena: &Arena, jobs: u64) -> Cost {
    for from in (0..jobs).step_by(1_000) {
        let jobs = (from..jobs.min(from + 1_000)).map(support::job).collect();
        arena.queue.enqueue_all(jobs).await.expect("enqueues");
    }
    let runs: Arc<[AtomicU8]> = (0..jobs).map(|_| AtomicU8::new(0)).collect();
    let (left, all_ran) = (Arc::new(AtomicU64::new(jobs)), Arc::new(Notify::new()));
    let handler = {
        let (runs, all_ran) = (Arc::clone(&runs), Arc::clone(&all_ran));
        move |job: Context| {
            let (runs, left, all_ran) =
                (Arc::clone(&runs), Arc::clone(&left), Arc::clone(&all_ran));
            async move {
                let index = u64::from_le_bytes(job.payload()[..8].try_into()?);
                runs[index as usize].fetch_add(1, Ordering::Relaxed);
                if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                    all_ran.notify_one();
                }
                Ok(())
            }
        }
    };
    let worker = arena
        .millstream
        .worker(QUEUE)
        .expect("a good name")
        .concurrency(100)
        .handle_raw("noop", handler);
    let inspector = arena.millstream.inspect(QUEUE).expect("a good name");
    let mut started = None;
    let cost = costs(arena, async {
        started = Some(worker.start().await.expect("starts"));
        all_ran.notified().await;
        loop {
            let stats = inspector.stats().await.expect("stats");
            if stats.ready + stats.running == 0 {
                assert_eq!(stats.completed_total, jobs, "every job is settled once");
                break;
            }
        }
    })
    .await;
    if let Some(worker) = started {
        worker.stop().await;
    }
    let once = runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1);
    assert!(once, "every job ran once");
    cost
}

async fn bare_drain(arena: &Arena, jobs: u64) -> Cost {
    let sha: String = arena.bare.script_load(BARE_MANY).await.expect("loads");
    for from in (0..jobs).step_by(BARE_BATCH as usize) {
        bare_add(&arena.bare, &sha, from, BARE_BATCH).await;
    }
    let bare = &arena.bare;
    let _: Value = bare
        .xgroup_create(STREAM, GROUP, "0", false)
        .await
        .expect("makes the group");
    let reader = support::connect_bare(&arena.redis).await;
    let cost = costs(arena, async {
        let settle = |ids: Vec<String>| async move {
            let (acked, deleted) = tokio::join!(
                bare.xack::<u64, _, _, _>(STREAM, GROUP, ids.clone()),
                bare.xdel::<u64, _, _>(STREAM, ids),
            );
            assert_eq!(acked.ok(), deleted.ok());
        };
        let mut ids = bare_read(&reader).await;
        while !ids.is_empty() {
            (ids, _) = tokio::join!(bare_read(&reader), settle(ids));
        }
    })
    .await;
    let _ = reader.quit().await;
    cost
}

/// The ids of up to 100 new entries; their fields are read as well.
async fn bare_read(reader: &Client) -> Vec<String> {
    type Entries = Vec<(String, Vec<(String, bytes::Bytes)>)>;
    let reply: Option<Vec<(String, Entries)>> = reader
        .xreadgroup(GROUP, "bare", Some(BARE_BATCH), None, false, STREAM, ">")
        .await
        .expect("reads");
    let entries = reply.into_iter().flatten().flat_map(|(_, entries)| entries);
    entries.map(|(id, _)| id).collect()
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let arena = Arena::start(&runtime);
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    for row in &SCENARIOS {
        let jobs = row.jobs();
        let mut group = criterion.benchmark_group(row.name);
        group
            .throughput(Throughput::Elements(jobs))
            .sampling_mode(SamplingMode::Flat);
        for (name, by) in [("millstream", By::Millstream), ("bare", By::Bare)] {
            let arena = &arena;
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.to_async(&runtime).iter_custom(|turns| async move {
                    let mut elapsed = Duration::ZERO;
                    for _ in 0..turns {
                        elapsed += measure(arena, row.scenario, by, jobs).await.elapsed;
                    }
                    elapsed
                });
            });
        }
        group.finish();
    }
    criterion.final_summary();
    if support::wants_report() {
        runtime.block_on(report(&arena));
    }
}

/// Both halves of each scenario in turns, so that a noisy neighbour slows both; medians.
async fn report(arena: &Arena) {
    let turns = if support::once() { 1 } else { TURNS };
    println!(
        "\n{:<24} {:>16} {:>12} {:>8} {:>24} {:>10}",
        "scenario", "millstream", "bare", "ratio", "Redis CPU: millstream", "bare"
    );
    for row in &SCENARIOS {
        let jobs = row.jobs();
        let (mut rates, mut cpu) = ([vec![], vec![]], [vec![], vec![]]);
        for _ in 0..turns {
            for (half, by) in [By::Millstream, By::Bare].into_iter().enumerate() {
                let cost = measure(arena, row.scenario, by, jobs).await;
                rates[half].push(jobs as f64 / cost.elapsed.as_secs_f64());
                cpu[half].push(cost.redis_cpu.as_secs_f64() * 1e6 / jobs as f64);
            }
        }
        let [ours, bare] = rates.map(|mut rates| support::quantile(&mut rates, 0.5));
        let [our_cpu, bare_cpu] = cpu.map(|mut cpu| support::quantile(&mut cpu, 0.5));
        println!(
            "{:<24} {:>10.1} k/s {:>8.1} k/s {:>8.2} {:>17.2} µs/job {:>6.2} µs",
            row.name,
            ours / 1e3,
            bare / 1e3,
            ours / bare,
            our_cpu,
            bare_cpu,
        );
    }
}
