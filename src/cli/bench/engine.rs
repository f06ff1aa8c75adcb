//! The scenarios, done by Millstream with its defaults.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::try_join_all;
use millstream::{Context, Queue, Worker};
use tokio::sync::Notify;

use super::Scenario;
use super::arena::{Arena, BULK};
use super::latency::{Times, open_loop};
use super::report::Cost;

/// Pause between two looks whether all is settled.
const POLL: Duration = Duration::from_millis(1);
/// Longest wait for the last settlements.
const SETTLE: Duration = Duration::from_secs(30);

pub(super) async fn throughput(arena: &Arena, scenario: Scenario) -> anyhow::Result<Cost> {
    let queue = arena.new_queue().await?;
    let (jobs, depth) = (arena.load.jobs, arena.load.depth);
    let before = arena.redis_memory().await?;
    fill(arena, &queue, 0..depth).await?;
    match scenario {
        Scenario::Enqueue | Scenario::Bulk => {
            let work = async {
                match scenario {
                    Scenario::Bulk => fill(arena, &queue, depth..depth + jobs).await,
                    _ => one_by_one(arena, &queue, depth..depth + jobs).await,
                }
            };
            let mut cost = Cost::of(arena, jobs, work).await?;
            let stats = arena.client.inspect(queue.name().as_str())?.stats().await?;
            if stats.ready != depth + jobs || stats.enqueued_total != depth + jobs {
                let (ready, all) = (stats.ready, depth + jobs);
                cost.problem(format!("{ready} jobs are ready after {all} were enqueued"));
            }
            let after = arena.redis_memory().await?;
            cost.bytes_per_job = Some((after - before) / (depth + jobs) as f64);
            Ok(cost)
        }
        _ => drain(arena, &queue, scenario).await,
    }
}

/// Enqueues the jobs with these numbers in calls of 1,000.
async fn fill(arena: &Arena, queue: &Queue, jobs: std::ops::Range<u64>) -> anyhow::Result<()> {
    for from in jobs.clone().step_by(BULK as usize) {
        let chunk = from..jobs.end.min(from + BULK);
        let jobs = chunk.map(|index| arena.job(index)).collect();
        queue.enqueue_all(jobs).await?;
    }
    Ok(())
}

async fn one_by_one(
    arena: &Arena,
    queue: &Queue,
    jobs: std::ops::Range<u64>,
) -> anyhow::Result<()> {
    let producers = arena.load.producers;
    // Each caller is a task of its own, as in a program that serves many.
    let callers = (0..producers).map(|caller| {
        let (queue, jobs) = (queue.clone(), jobs.clone());
        let payload_bytes = arena.load.payload_bytes;
        tokio::spawn(async move {
            for index in (jobs.start + caller..jobs.end).step_by(producers as usize) {
                queue.enqueue(Arena::job_of(payload_bytes, index)).await?;
            }
            anyhow::Ok(())
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await??;
    }
    Ok(())
}

/// How often each job ran.
struct Runs {
    runs: Vec<AtomicU8>,
    left: AtomicU64,
    enough: Notify,
}

/// Starts the workers with a handler that only counts.
async fn start(arena: &Arena, queue: &Queue, runs: &Arc<Runs>) -> anyhow::Result<Vec<Worker>> {
    let runs = Arc::clone(runs);
    let handler = move |job: Context| {
        let runs = Arc::clone(&runs);
        async move {
            let number = job
                .payload()
                .first_chunk()
                .map(|bytes| u64::from_le_bytes(*bytes));
            let ran = number.and_then(|number| runs.runs.get(usize::try_from(number).ok()?));
            if let Some(ran) = ran {
                ran.fetch_add(1, Ordering::Relaxed);
            }
            // Beyond zero it goes on from the top: then enough have run already.
            if runs.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                runs.enough.notify_one();
            }
            Ok(())
        }
    };
    let workers = (0..arena.load.workers).map(|_| async {
        let worker = arena.client.worker(queue.name().as_str())?;
        let worker = worker.concurrency(arena.load.concurrency);
        anyhow::Ok(worker.handle_raw("noop", handler.clone()).start().await?)
    });
    try_join_all(workers).await
}

async fn drain(arena: &Arena, queue: &Queue, scenario: Scenario) -> anyhow::Result<Cost> {
    let (jobs, depth) = (arena.load.jobs, arena.load.depth);
    let all = depth + jobs;
    if scenario == Scenario::Drain {
        fill(arena, queue, depth..all).await?;
    }
    let runs = Arc::new(Runs {
        runs: (0..all).map(|_| AtomicU8::new(0)).collect(),
        left: AtomicU64::new(jobs),
        enough: Notify::new(),
    });
    let inspector = arena.client.inspect(queue.name().as_str())?;
    let mut workers = Vec::new();
    let mut cost = Cost::of(arena, jobs, async {
        workers = start(arena, queue, &runs).await?;
        if scenario == Scenario::Both {
            fill(arena, queue, depth..all).await?;
        }
        runs.enough.notified().await;
        let began = Instant::now();
        while inspector.stats().await?.completed_total < jobs {
            anyhow::ensure!(
                began.elapsed() < SETTLE,
                "not all jobs were settled in time"
            );
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    })
    .await?;
    for worker in workers {
        worker.stop().await;
    }
    let ran = |times| {
        runs.runs
            .iter()
            .filter(move |runs| runs.load(Ordering::Relaxed) == times)
    };
    let (once, never) = (ran(1).count() as u64, ran(0).count() as u64);
    let stats = inspector.stats().await?;
    let is_exact = once + never == all
        && stats.completed_total == once
        && stats.ready == never
        && stats.running + stats.scheduled + stats.dead == 0;
    if !is_exact {
        cost.problem(format!(
            "of {all} jobs {once} ran once and {never} never; {} are completed, {} ready, {} running, {} scheduled, {} dead",
            stats.completed_total, stats.ready, stats.running, stats.scheduled, stats.dead
        ));
    }
    Ok(cost)
}

/// How long each of `count` calls of a lone caller took, ns.
pub(super) async fn calls(arena: &Arena, count: usize) -> anyhow::Result<Vec<i64>> {
    let queue = arena.new_queue().await?;
    let mut took = Vec::with_capacity(count);
    for index in 0..count {
        let job = arena.job(index as u64);
        let called = Instant::now();
        queue.enqueue(job).await?;
        took.push(i64::try_from(called.elapsed().as_nanos())?);
    }
    Ok(took)
}

/// How long after its enqueue each handler started, ns; for jobs with a delay, how long after they were due.
pub(super) async fn starts(
    arena: &Arena,
    rate: u32,
    jobs: usize,
    delay: Option<Duration>,
) -> anyhow::Result<Vec<i64>> {
    let queue = arena.new_queue().await?;
    let times = Times::new(jobs);
    let arrivals = times.clone();
    let handler = move |job: Context| {
        // Here and not in the future: this is where the handler begins.
        arrivals.arrive(job.payload());
        std::future::ready(Ok(()))
    };
    let worker = arena.client.worker(queue.name().as_str())?;
    let worker = worker.concurrency(arena.load.concurrency);
    let worker = worker.handle_raw("noop", handler).start().await?;
    fill_scheduled(arena, &queue).await?;
    let sends = times.clone();
    let payload_bytes = arena.load.payload_bytes;
    let send = move |index: usize| {
        let (queue, times) = (queue.clone(), sends.clone());
        async move {
            let job = Arena::job_of(payload_bytes, index as u64);
            let job = delay.map_or(job.clone(), |delay| job.delay(delay));
            times.send(index);
            queue.enqueue(job).await?;
            Ok(())
        }
    };
    open_loop(rate, jobs, send).await?;
    let took = times.all(delay.unwrap_or_default()).await;
    worker.stop().await;
    let took = took?;
    let soonest = took.iter().min().context("no job was sent")?;
    anyhow::ensure!(*soonest >= 0, "a job ran {} ns before it was due", -soonest);
    Ok(took)
}

/// Jobs that are due tomorrow, as many as are to wait.
async fn fill_scheduled(arena: &Arena, queue: &Queue) -> anyhow::Result<()> {
    let tomorrow = Duration::from_secs(24 * 3600);
    for from in (0..arena.load.depth).step_by(BULK as usize) {
        let chunk = from..arena.load.depth.min(from + BULK);
        let jobs = chunk.map(|index| arena.job(u64::MAX - index).delay(tomorrow));
        queue.enqueue_all(jobs.collect()).await?;
    }
    Ok(())
}
