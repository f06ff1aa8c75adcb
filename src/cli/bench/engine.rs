//! The scenarios, done by Millstream with its defaults.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use millstream::{Context, Queue};

use super::Scenario;
use super::arena::{Arena, BULK, BULK_CALLERS, parts};
use super::crew::Crew;
use super::latency::{Times, open_loop};
use super::monitor;
use super::report::{Cost, Memory};

/// Pause between two looks whether all is settled; longer where the looks begin with the first job.
const POLL: Duration = Duration::from_millis(1);
const WATCH: Duration = Duration::from_millis(20);
/// Longest wait for the next settlement.
const SETTLE: Duration = Duration::from_secs(30);
/// Before an idle worker is watched: what it does at its start is done. And how long it is watched.
const CALM: Duration = Duration::from_secs(7);
const IDLE: Duration = Duration::from_secs(10);

pub(super) async fn throughput(arena: &Arena, scenario: Scenario) -> anyhow::Result<Cost> {
    let queues = arena.new_queues().await?;
    let (jobs, depth) = (arena.load.jobs, arena.load.depth);
    let before = arena.redis_memory().await?;
    fill(arena, &queues, 0..depth).await?;
    match scenario {
        Scenario::Enqueue | Scenario::Bulk => {
            let work = async {
                match scenario {
                    Scenario::Bulk => fill(arena, &queues, depth..depth + jobs).await,
                    _ => one_by_one(arena, &queues, depth..depth + jobs).await,
                }
            };
            let mut cost = Cost::of(arena, jobs, work).await?;
            let counts = Counts::of(arena, &queues).await?;
            if counts.ready != depth + jobs || counts.enqueued != depth + jobs {
                let (ready, all) = (counts.ready, depth + jobs);
                cost.problem(format!("{ready} jobs are ready after {all} were enqueued"));
            }
            let after = arena.redis_memory().await?;
            cost.bytes_per_job = Some((after - before) / (depth + jobs) as f64);
            Ok(cost)
        }
        _ => drain(arena, &queues, scenario).await,
    }
}

/// Enqueues the jobs with these numbers in calls of 1,000, by [`BULK_CALLERS`] at once.
async fn fill(arena: &Arena, queues: &[Queue], jobs: Range<u64>) -> anyhow::Result<()> {
    let payload_bytes = arena.load.payload_bytes;
    // Each has its own part, in order.
    let callers = parts(jobs, BULK_CALLERS).map(|part| {
        let calls: Vec<(usize, Range<u64>)> = arena.calls(part).collect();
        let queues = queues.to_vec();
        tokio::spawn(async move {
            for (queue, chunk) in calls {
                let jobs = chunk
                    .map(|index| Arena::job_of(payload_bytes, index))
                    .collect();
                queues[queue].enqueue_all(jobs).await?;
            }
            anyhow::Ok(())
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await??;
    }
    Ok(())
}

async fn one_by_one(arena: &Arena, queues: &[Queue], jobs: Range<u64>) -> anyhow::Result<()> {
    let producers = arena.load.producers;
    // Each caller is a task of its own, as in a program that serves many.
    let callers = (0..producers).map(|caller| {
        let queue = queues[caller as usize % queues.len()].clone();
        let jobs = jobs.clone();
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

/// What the queues hold, all together.
#[derive(Default)]
struct Counts {
    ready: u64,
    /// Running, scheduled or dead: nothing of the bench should end there.
    elsewhere: u64,
    completed: u64,
    enqueued: u64,
}

impl Counts {
    async fn of(arena: &Arena, queues: &[Queue]) -> anyhow::Result<Self> {
        let mut counts = Self::default();
        for queue in queues {
            let stats = arena.client.inspect(queue.name().as_str())?.stats().await?;
            counts.ready += stats.ready;
            counts.elsewhere += stats.running + stats.scheduled + stats.dead;
            counts.completed += stats.completed_total;
            counts.enqueued += stats.enqueued_total;
        }
        Ok(counts)
    }
}

async fn drain(arena: &Arena, queues: &[Queue], scenario: Scenario) -> anyhow::Result<Cost> {
    let (jobs, depth) = (arena.load.jobs, arena.load.depth);
    let all = depth + jobs;
    if scenario == Scenario::Drain {
        fill(arena, queues, depth..all).await?;
    }
    let mut crew = Crew::gather(arena, queues, all).await?;
    let mut memory = Memory::default();
    let mut cost = Cost::of(arena, jobs, async {
        crew.start(arena).await?;
        if scenario == Scenario::Both {
            fill(arena, queues, depth..all).await?;
        }
        crew.enough().await;
        settled(arena, queues, &crew, &mut memory).await
    })
    .await?;
    let runs = crew.stop(all).await?;
    let ran = |times| runs.iter().filter(move |runs| **runs == times).count() as u64;
    let (once, never) = (ran(1), ran(0));
    let counts = Counts::of(arena, queues).await?;
    let is_exact = once + never == all
        && counts.completed == once
        && counts.ready == never
        && counts.elsewhere == 0;
    if !is_exact {
        cost.problem(format!(
            "of {all} jobs {once} ran once and {never} never; {} are completed, {} ready, {} elsewhere",
            counts.completed, counts.ready, counts.elsewhere
        ));
    }
    cost.memory = memory;
    Ok(cost)
}

/// Returns when the jobs of the load are completed, and notes on the way what the workers have in memory.
async fn settled(
    arena: &Arena,
    queues: &[Queue],
    crew: &Crew,
    memory: &mut Memory,
) -> anyhow::Result<()> {
    let (jobs, all) = (arena.load.jobs, arena.load.jobs + arena.load.depth);
    let (mut completed, mut since) = (0, Instant::now());
    loop {
        let now = Counts::of(arena, queues).await?.completed;
        if let Some(bytes) = crew.resident_bytes(all) {
            memory.note(now as f64 / jobs as f64, bytes);
        }
        if now >= jobs {
            return Ok(());
        }
        if now > completed {
            (completed, since) = (now, Instant::now());
        }
        anyhow::ensure!(
            since.elapsed() < SETTLE,
            "no job was settled for {} s",
            SETTLE.as_secs()
        );
        let pause = if crew.is_elsewhere() { WATCH } else { POLL };
        tokio::time::sleep(pause).await;
    }
}

/// Commands that one worker with nothing to do sends in a second; on somebody else's server, `None`.
pub(super) async fn idle(arena: &Arena) -> anyhow::Result<Option<f64>> {
    let Some(address) = arena.private_address() else {
        return Ok(None);
    };
    let queue = arena.new_queue().await?;
    let worker = arena.client.worker(queue.name().as_str())?;
    let worker = worker.concurrency(arena.load.concurrency);
    let handler = |_: Context| std::future::ready(Ok(()));
    let worker = worker.handle_raw("noop", handler).start().await?;
    tokio::time::sleep(CALM).await;
    let commands = monitor::commands(address, IDLE).await?;
    worker.stop().await;
    Ok(Some(commands as f64 / IDLE.as_secs_f64()))
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
