//! What each transition costs by itself, and against the size of its batch and of its queue.
//!
//! `cargo bench --bench scripts` measures one call after the other, from its arguments to its typed answer, so the round trip
//! is in every number: `scripts/ping` says how much that is. `cargo bench --bench scripts -- --test` runs everything once.

#[allow(dead_code, reason = "the other benches use the rest")]
mod support;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use fred::interfaces::ClientLike;
use fred::types::Value;
use millstream::NewJob;
use millstream::broker::{Broker, Caller, DeathReason, Delivery, Done, EntryId, Lane, Patience};
use millstream::broker::{Promotion, Upkeeper};
use support::Arena;
use tokio::runtime::Runtime;

const PATIENCE: Patience = Patience::brief(Duration::from_secs(10));
const WORKER: &str = "bench-worker";
/// Jobs of a batch.
const BATCHES: [usize; 3] = [1, 100, 1_000];
/// Jobs that wait in the queue meanwhile.
const WAITING: [usize; 3] = [0, 10_000, 1_000_000];
const WAITING_ONCE: [usize; 2] = [0, 1_000];

/// A transition, made for a whole batch in one call, or one job after the other where a script takes only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Enqueue,
    Schedule,
    Promote,
    Claim,
    Extend,
    Complete,
    Release,
    Retry,
    DeadLetter,
}

const BATCH_STEPS: [Step; 7] = [
    Step::Enqueue,
    Step::Schedule,
    Step::Promote,
    Step::Claim,
    Step::Extend,
    Step::Complete,
    Step::Release,
];
const SINGLE_STEPS: [Step; 2] = [Step::Retry, Step::DeadLetter];
/// What must not grow with the queue: the hot path with the jobs that are ready, and delayed jobs with those that are scheduled.
const LIFE: [Step; 5] = [
    Step::Enqueue,
    Step::Claim,
    Step::Complete,
    Step::Schedule,
    Step::Promote,
];
/// Longer than any bench takes.
const LATER: Duration = Duration::from_secs(3600);

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Enqueue => "enqueue",
            Self::Schedule => "enqueue_delayed",
            Self::Promote => "promote",
            Self::Claim => "claim",
            Self::Extend => "extend",
            Self::Complete => "complete",
            Self::Release => "release",
            Self::Retry => "retry",
            Self::DeadLetter => "dead_letter",
        }
    }
}

/// A queue of its own for every measurement.
struct Stage {
    broker: Broker,
    caller: Caller,
}

impl Stage {
    /// An empty server, and a queue with `waiting` jobs on it, of the kind that `step` has to do with.
    async fn set(arena: &Arena, step: Step, waiting: usize) -> Self {
        arena.clear().await;
        let url = arena.redis.url();
        let broker = Broker::connect(&url, "millstream", "scripts").await;
        let broker = broker.expect("connects");
        broker.create_groups(PATIENCE).await.expect("makes groups");
        let caller = Caller::new("bench");
        let mut stage = Self { broker, caller };
        for from in (0..waiting).step_by(1_000) {
            let scheduled = matches!(step, Step::Schedule | Step::Promote);
            let count = waiting.min(from + 1_000) - from;
            stage.enqueue(count, scheduled.then_some(LATER)).await;
        }
        stage
    }

    async fn enqueue(&mut self, count: usize, delay: Option<Duration>) {
        let job = |index| match delay {
            None => support::job(index),
            Some(delay) => support::job(index).delay(delay),
        };
        let jobs: Vec<NewJob> = (0..count as u64).map(job).collect();
        let stored = self.broker.enqueue(&mut self.caller, &jobs, PATIENCE).await;
        assert_eq!(stored.expect("enqueues").len(), count);
    }

    async fn claim(&self, count: usize) -> Vec<Delivery> {
        let claimed = self.broker.claim(WORKER, count, PATIENCE).await;
        let claimed = claimed.expect("claims");
        assert_eq!(claimed.len(), count);
        claimed
    }

    async fn complete(&mut self, deliveries: &[Delivery]) {
        for lane in Lane::ALL {
            let of_lane = deliveries.iter().filter(|delivery| delivery.lane == lane);
            let done: Vec<Done<'_>> = of_lane
                .map(|delivery| Done::new(delivery, Duration::ZERO))
                .collect();
            if !done.is_empty() {
                let (broker, caller) = (&self.broker, &mut self.caller);
                let lost = broker.complete(caller, lane, &done, 0, PATIENCE).await;
                assert_eq!(lost.expect("completes"), []);
            }
        }
    }

    /// How long `step` takes for `count` jobs. What comes before it in their lives, and after it, is not measured.
    async fn time(&mut self, step: Step, count: usize) -> Duration {
        match step {
            Step::Enqueue | Step::Schedule => {
                let delay = (step == Step::Schedule).then_some(LATER);
                let began = Instant::now();
                self.enqueue(count, delay).await;
                return began.elapsed();
            }
            Step::Promote => {
                self.enqueue(count, Some(Duration::from_millis(1))).await;
                tokio::time::sleep(Duration::from_millis(3)).await;
                let by = Upkeeper {
                    worker: WORKER.into(),
                    lock: Duration::from_secs(60),
                };
                let began = Instant::now();
                let promoted = self.broker.promote(&by, count, PATIENCE).await;
                let took = began.elapsed();
                let promoted = promoted.expect("promotes");
                assert!(
                    matches!(promoted, Promotion::Promoted { count: moved, .. } if moved == count as u64)
                );
                return took;
            }
            _ => {}
        }
        self.enqueue(count, None).await;
        let began = Instant::now();
        let deliveries = self.claim(count).await;
        let claimed = began.elapsed();
        let entries: Vec<EntryId> = deliveries.iter().map(|delivery| delivery.entry).collect();
        let lane = deliveries[0].lane;
        let began = Instant::now();
        let (broker, caller) = (&self.broker, &mut self.caller);
        match step {
            Step::Claim => {
                self.complete(&deliveries).await;
                return claimed;
            }
            Step::Extend => {
                let lost = broker.extend(lane, WORKER, &entries, PATIENCE).await;
                let took = began.elapsed();
                assert_eq!(lost.expect("extends"), []);
                self.complete(&deliveries).await;
                return took;
            }
            Step::Release => {
                let lost = broker.release(caller, lane, &entries, PATIENCE).await;
                let took = began.elapsed();
                assert_eq!(lost.expect("hands back"), []);
                let again = self.claim(count).await;
                self.complete(&again).await;
                return took;
            }
            Step::Retry => {
                for delivery in &deliveries {
                    let retried = broker.retry(caller, delivery, LATER, Some("no"), PATIENCE);
                    retried.await.expect("retries");
                }
            }
            Step::DeadLetter => {
                for delivery in &deliveries {
                    let reason = DeathReason::Refused;
                    let dead = broker.dead_letter(caller, delivery, reason, "no", PATIENCE);
                    assert!(dead.await.expect("dead-letters"));
                }
            }
            _ => self.complete(&deliveries).await,
        }
        began.elapsed()
    }
}

fn bench(
    criterion: &mut Criterion,
    runtime: &Runtime,
    arena: &Arena,
    group: &str,
    rows: impl IntoIterator<Item = (BenchmarkId, Step, usize, usize)>,
) {
    let mut group = criterion.benchmark_group(group);
    group.sampling_mode(SamplingMode::Flat);
    for (id, step, count, waiting) in rows {
        group.throughput(Throughput::Elements(count as u64));
        // Once for all samples, but not for a row that is filtered out.
        let mut stage = None;
        group.bench_function(id, |bencher| {
            let set = || runtime.block_on(Stage::set(arena, step, waiting));
            let stage = stage.get_or_insert_with(set);
            bencher.iter_custom(|turns| {
                runtime.block_on(async {
                    let mut elapsed = Duration::ZERO;
                    for _ in 0..turns {
                        elapsed += stage.time(step, count).await;
                    }
                    elapsed
                })
            });
        });
    }
    group.finish();
}

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    let arena = Arena::start(&runtime);
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    criterion
        .benchmark_group("scripts")
        .bench_function("ping", |bencher| {
            bencher.to_async(&runtime).iter(|| async {
                let _: Value = arena.bare.ping(None).await.expect("answers");
            });
        });
    let batches = BATCH_STEPS.into_iter().flat_map(|step| {
        BATCHES.map(|count| (BenchmarkId::new(step.name(), count), step, count, 0))
    });
    let singles = SINGLE_STEPS.map(|step| (BenchmarkId::new(step.name(), 1), step, 1, 0));
    bench(
        &mut criterion,
        &runtime,
        &arena,
        "scripts",
        batches.chain(singles),
    );
    let waiting = if support::once() {
        &WAITING_ONCE[..]
    } else {
        &WAITING
    };
    let rows = waiting.iter().flat_map(|&waiting| {
        LIFE.map(|step| (BenchmarkId::new(step.name(), waiting), step, 100, waiting))
    });
    bench(
        &mut criterion,
        &runtime,
        &arena,
        "scripts_100_jobs_by_waiting",
        rows,
    );
    criterion.final_summary();
}
