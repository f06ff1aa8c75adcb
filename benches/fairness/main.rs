//! How long a tenant's fresh job waits for its start beside one tenant with half a million of them.
//!
//! `cargo bench --bench fairness` fills a queue with the backlog of one tenant, then sends single jobs of new tenants and measures
//! from the call to the start of the handler, with a limit per group and, as a yardstick, with no backlog at all. It prints p50, p99
//! and a plot; `cargo bench --bench fairness -- --svg docs/fairness.svg` draws the one that docs/groups.md shows. With `--test` it does
//! everything once with a small backlog.

mod plot;

use std::time::{Duration, Instant};

use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, JobError, Millstream, NewJob};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

type Failure = Box<dyn std::error::Error>;

/// Jobs of the noisy tenant.
const BACKLOG: usize = 500_000;
const BACKLOG_ONCE: usize = 2_000;
/// Fresh jobs that are measured, each of another tenant.
const FRESH: usize = 300;
const FRESH_ONCE: usize = 20;
/// Between two of them.
const APART: Duration = Duration::from_millis(10);
/// Of a group at once, and of the worker.
const OF_A_GROUP: usize = 4;
const AT_ONCE: usize = 10;
/// How long a job takes.
const WORK: Duration = Duration::from_millis(5);
/// Widest bar of the plot.
const WIDTH: usize = 50;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let once = std::env::args().any(|arg| arg == "--test");
    let (backlog, fresh) = match once {
        true => (BACKLOG_ONCE, FRESH_ONCE),
        false => (BACKLOG, FRESH),
    };
    let redis = PrivateRedis::start(Options::default())?;
    let client = Millstream::connect(&redis.url()).await?;
    let mut curves = Vec::new();
    for waiting in [0, backlog] {
        let waits = measure(&client, waiting, fresh).await?;
        show(waiting, &waits);
        curves.push((waiting, waits));
    }
    let mut args = std::env::args().skip_while(|arg| arg != "--svg");
    if let Some(path) = args.nth(1) {
        std::fs::write(&path, plot::drawn(&curves))?;
        println!("drawn: {path}");
    }
    Ok(())
}

/// The waits of the fresh jobs, the shortest first.
async fn measure(
    client: &Millstream,
    waiting: usize,
    fresh: usize,
) -> Result<Vec<Duration>, Failure> {
    let name = format!("fairness-{waiting}");
    let queue = client.queue(&name)?;
    let (tell, mut told) = unbounded_channel();
    let builder = || {
        let tell = tell.clone();
        let worker = client.worker(&name)?.concurrency(AT_ONCE);
        let worker = worker.group_concurrency(OF_A_GROUP);
        Ok::<_, Failure>(worker.handle_raw("job", move |job: Context| {
            if job.group() != Some("noisy") {
                let _ = tell.send(Instant::now());
            }
            async {
                tokio::time::sleep(WORK).await;
                Ok::<(), JobError>(())
            }
        }))
    };
    // Sets the limit before there is anything to limit.
    builder()?.start().await?.stop().await;
    let noisy = NewJob::raw("job", vec![b'x'; 200]).group("noisy");
    for from in (0..waiting).step_by(1_000) {
        let jobs = vec![noisy.clone(); 1_000.min(waiting - from)];
        queue.enqueue_all(jobs).await?;
    }
    let worker = builder()?.start().await?;
    let mut waits = Vec::with_capacity(fresh);
    for tenant in 0..fresh {
        tokio::time::sleep(APART).await;
        let job = NewJob::raw("job", "x").group(format!("tenant-{tenant}"));
        let sent = Instant::now();
        queue.enqueue(job).await?;
        waits.push(started(&mut told).await?.duration_since(sent));
    }
    worker.stop().await;
    waits.sort_unstable();
    Ok(waits)
}

async fn started(told: &mut UnboundedReceiver<Instant>) -> Result<Instant, Failure> {
    let started = tokio::time::timeout(Duration::from_secs(60), told.recv()).await?;
    Ok(started.ok_or("the worker is gone")?)
}

fn show(waiting: usize, waits: &[Duration]) {
    let at = |percent: usize| waits[(waits.len() * percent / 100).min(waits.len() - 1)];
    println!(
        "{waiting} jobs of one tenant wait: a fresh job of another starts after p50 {:.1?}, p99 {:.1?}",
        at(50),
        at(99)
    );
    let mut edges = vec![Duration::from_micros(500)];
    while edges
        .last()
        .is_some_and(|edge| *edge < waits[waits.len() - 1])
    {
        edges.push(edges[edges.len() - 1] * 2);
    }
    let mut from = Duration::ZERO;
    for edge in edges {
        let here = waits.iter().filter(|wait| (from..edge).contains(wait));
        let here = here.count();
        println!(
            "{:>9.1?} {:>4} {}",
            edge,
            here,
            "#".repeat(here * WIDTH / waits.len())
        );
        from = edge;
    }
}
