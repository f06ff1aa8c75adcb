//! How long one job takes while nothing else goes on: the engine beside a bare round trip.
//!
//! `cargo bench --bench latency` measures; the ratio at the end is what counts, for all rows ran on the same machine in
//! turns. `cargo bench --bench latency -- --test` runs everything once.

mod support;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use fred::interfaces::{ClientLike, StreamsInterface};
use fred::types::Value;
use millstream::inspect::Inspector;
use millstream::{Context, Worker};
use support::{Arena, GROUP, QUEUE, STREAM};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Turns of the final comparison, and calls in each.
const TURNS: u64 = 10;
const CALLS: u64 = 300;

/// What is measured.
#[derive(Clone, Copy)]
enum Scenario {
    /// `Queue::enqueue` by one caller.
    Enqueue,
    /// The same entry by XADD alone.
    Xadd,
    /// The shortest round trip there is.
    Ping,
    /// From the call of `Queue::enqueue` to the handler of a worker that has nothing else to do.
    Dequeue,
    /// From XADD to the answer of an XREADGROUP that waits on another connection.
    XaddToRead,
}

/// Scenarios that are compared with each other, the engine first.
type Rows = [(&'static str, Scenario)];
const ENQUEUE: &Rows = &[
    ("millstream", Scenario::Enqueue),
    ("bare_xadd", Scenario::Xadd),
    ("bare_ping", Scenario::Ping),
];
const DEQUEUE: &Rows = &[
    ("millstream", Scenario::Dequeue),
    ("bare_xadd_to_read", Scenario::XaddToRead),
];

/// The far end of the dequeue scenarios: when each job arrived there.
struct Arrivals {
    inspector: Inspector,
    handled: Mutex<UnboundedReceiver<Instant>>,
    read: Mutex<UnboundedReceiver<Instant>>,
    /// Works as long as it is kept.
    _worker: Worker,
}

impl Arrivals {
    async fn start(arena: &Arena) -> Self {
        let (arrived, handled) = unbounded_channel();
        let worker = arena.millstream.worker(QUEUE).expect("a good name");
        let handler = move |_: Context| {
            // Here and not in the future: this is where the handler begins.
            let _ = arrived.send(Instant::now());
            std::future::ready(Ok(()))
        };
        let started = worker.handle_raw("noop", handler).start().await;
        let read = Self::start_reader(arena).await;
        Self {
            inspector: arena.millstream.inspect(QUEUE).expect("a good name"),
            handled: handled.into(),
            read: read.into(),
            _worker: started.expect("starts"),
        }
    }

    async fn start_reader(arena: &Arena) -> UnboundedReceiver<Instant> {
        let _: Value = arena
            .bare
            .xgroup_create(STREAM, GROUP, "0", true)
            .await
            .expect("makes the group");
        let reader = support::connect_bare(&arena.redis).await;
        let (arrived, read) = unbounded_channel();
        tokio::spawn(async move {
            // Ends with the server.
            while reader
                .xreadgroup::<Value, _, _, _, _>(
                    GROUP,
                    "bare",
                    Some(1),
                    Some(0),
                    false,
                    STREAM,
                    ">",
                )
                .await
                .is_ok()
            {
                let _ = arrived.send(Instant::now());
            }
        });
        read
    }

    /// Nothing must be under way when the next job is sent.
    async fn wait_until_settled(&self) {
        loop {
            let stats = self.inspector.stats().await.expect("stats");
            if stats.ready + stats.running == 0 {
                break;
            }
        }
    }
}

/// How long each of `calls` took, one after the other.
async fn measure(
    arena: &Arena,
    arrivals: Option<&Arrivals>,
    scenario: Scenario,
    calls: u64,
) -> Vec<Duration> {
    if arrivals.is_none() {
        arena.clear().await;
    }
    let mut took = Vec::with_capacity(calls as usize);
    for call in 0..calls {
        took.push(match (scenario, arrivals) {
            (Scenario::Enqueue, _) => {
                let job = support::job(call);
                let began = Instant::now();
                arena.queue.enqueue(job).await.expect("enqueues");
                began.elapsed()
            }
            (Scenario::Xadd, _) => {
                let entry = fields(call);
                let began = Instant::now();
                xadd(arena, entry).await;
                began.elapsed()
            }
            (Scenario::Ping, _) => {
                let began = Instant::now();
                let _: Value = arena.bare.ping(None).await.expect("PONG");
                began.elapsed()
            }
            (Scenario::Dequeue, Some(arrivals)) => {
                let job = support::job(call);
                let mut handled = arrivals.handled.lock().await;
                let began = Instant::now();
                arena.queue.enqueue(job).await.expect("enqueues");
                let arrived = handled.recv().await.expect("the worker runs");
                arrivals.wait_until_settled().await;
                arrived - began
            }
            (Scenario::XaddToRead, Some(arrivals)) => {
                let entry = fields(call);
                let mut read = arrivals.read.lock().await;
                let began = Instant::now();
                let id = xadd(arena, entry).await;
                let arrived = read.recv().await.expect("the reader reads");
                let settled: u64 = arena
                    .bare
                    .xack(STREAM, GROUP, id.as_str())
                    .await
                    .expect("acks");
                assert_eq!(settled, 1);
                let _: u64 = arena.bare.xdel(STREAM, id).await.expect("deletes");
                arrived - began
            }
            (Scenario::Dequeue | Scenario::XaddToRead, None) => {
                unreachable!("nobody is at the far end")
            }
        });
    }
    took
}

/// The four fields of a job's entry, as the bare client adds them.
fn fields(index: u64) -> Vec<(&'static str, Value)> {
    vec![
        ("name", "noop".into()),
        ("payload", Value::Bytes(support::payload(index).into())),
        ("attempt", "1".into()),
        ("meta", "".into()),
    ]
}

async fn xadd(arena: &Arena, entry: Vec<(&'static str, Value)>) -> String {
    let id = arena.bare.xadd(STREAM, false, None, "*", entry).await;
    id.expect("adds")
}

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    let arena = Arena::start(&runtime);
    let mut criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let mut bench = |name, rows, arrivals| {
        bench_group(&mut criterion, &runtime, &arena, name, rows, arrivals);
        let report = support::wants_report();
        report.then(|| runtime.block_on(compare(&arena, name, rows, arrivals)))
    };
    let enqueue = bench("enqueue_latency", ENQUEUE, None);
    // The worker and the reader stand on consumer groups, which a clearing would take away.
    runtime.block_on(arena.clear());
    let arrivals = runtime.block_on(Arrivals::start(&arena));
    let dequeue = bench("dequeue_latency", DEQUEUE, Some(&arrivals));
    criterion.final_summary();
    for line in [enqueue, dequeue].into_iter().flatten() {
        print!("\n{line}");
    }
}

fn bench_group(
    criterion: &mut Criterion,
    runtime: &Runtime,
    arena: &Arena,
    name: &str,
    rows: &Rows,
    arrivals: Option<&Arrivals>,
) {
    let mut group = criterion.benchmark_group(name);
    for &(row, scenario) in rows {
        group.bench_function(BenchmarkId::from_parameter(row), |bencher| {
            bencher.to_async(runtime).iter_custom(|calls| async move {
                let took = measure(arena, arrivals, scenario, calls).await;
                took.iter().sum()
            });
        });
    }
    group.finish();
}

/// All rows in turns, so that a noisy neighbour slows each: medians, and the engine's ratio to the others.
async fn compare(arena: &Arena, name: &str, rows: &Rows, arrivals: Option<&Arrivals>) -> String {
    let (turns, calls) = if support::once() {
        (1, 3)
    } else {
        (TURNS, CALLS)
    };
    let mut took = vec![Vec::new(); rows.len()];
    for _ in 0..turns {
        for (took, (_, scenario)) in took.iter_mut().zip(rows) {
            let calls = measure(arena, arrivals, *scenario, calls).await;
            took.extend(calls.iter().map(|took| took.as_secs_f64() * 1e6));
        }
    }
    let ours = support::quantile(&mut took[0], 0.5);
    let mut table = format!(
        "{name:<24} {:>10} {:>10} {:>18}\n",
        "p50", "p99", "millstream / this"
    );
    for (took, (row, _)) in took.iter_mut().zip(rows) {
        let (p50, p99) = (support::quantile(took, 0.5), support::quantile(took, 0.99));
        table += &format!(
            "  {row:<22} {p50:>7.1} µs {p99:>7.1} µs {:>18.2}\n",
            ours / p50
        );
    }
    table
}
