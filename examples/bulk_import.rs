//! Many jobs at once: 10,000 rows enqueued in bulk as JSON, a worker that handles 100 at a time, and a check at the end that
//! every row was handled, and handled once.
//!
//! ```text
//! cargo run --release --example bulk_import
//! cargo run --release --example bulk_import -- redis://127.0.0.1:6379
//! ```
//!
//! Without a URL, here or in `MILLSTREAM_REDIS_URL`, it starts a Redis of its own; that needs only a redis-server.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, JobId, Millstream, NewJob};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

const ROWS: u64 = 10_000;

#[derive(Serialize, Deserialize)]
struct Row {
    number: u64,
    email: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, _redis) = redis()?;
    let millstream = Millstream::connect(&url).await?;

    let began = Instant::now();
    let rows = (1..=ROWS).map(|number| Row {
        number,
        email: format!("customer-{number}@example.com"),
    });
    let jobs: Vec<NewJob> = rows
        .map(|row| NewJob::json("import", &row))
        .collect::<Result<_, _>>()?;
    // Goes in calls of up to 1,000 jobs; each is stored whole or not at all.
    let enqueued = millstream.queue("import")?.enqueue_all(jobs).await?;
    println!(
        "{} jobs enqueued in {:.1?}",
        enqueued.len(),
        began.elapsed()
    );
    let mut runs: HashMap<JobId, u32> = enqueued.into_iter().map(|job| (job.id, 0)).collect();

    let began = Instant::now();
    let (imported, mut arrivals) = mpsc::unbounded_channel();
    let worker = millstream
        .worker("import")?
        .concurrency(100)
        .handle("import", move |row: Row, job: Context| {
            let imported = imported.clone();
            async move {
                // Here the row would be stored, under its number, so that a second run does no harm.
                tokio::time::sleep(Duration::from_millis(row.number % 5)).await;
                Ok(imported.send(job.id().clone())?)
            }
        })
        .start()
        .await?;

    let mut handled = 0;
    while handled < ROWS {
        let arrival = timeout(Duration::from_secs(20), arrivals.recv()).await?;
        let id = arrival.ok_or("the worker is gone")?;
        if count_run(&mut runs, &id) == 1 {
            handled += 1;
            if handled % 2_000 == 0 {
                println!("{handled} of {ROWS} handled after {:.1?}", began.elapsed());
            }
        }
    }
    // When this returns, every job that ran is settled.
    worker.stop().await;
    while let Ok(id) = arrivals.try_recv() {
        count_run(&mut runs, &id);
    }

    let repeated = runs.values().filter(|runs| **runs > 1).count();
    let stats = millstream.inspect("import")?.stats().await?;
    let left = stats.ready + stats.running + stats.scheduled;
    println!("{handled} rows handled, {repeated} more than once, {left} jobs left");
    if repeated > 0 || left > 0 {
        return Err("not every row was handled exactly once".into());
    }
    Ok(())
}

/// How often the job has run by now; 0 for a job that an earlier import left behind.
fn count_run(runs: &mut HashMap<JobId, u32>, id: &JobId) -> u32 {
    runs.get_mut(id).map_or(0, |runs| {
        *runs += 1;
        *runs
    })
}

/// The Redis that was asked for, or one that ends with this program.
fn redis() -> millstream::Result<(String, Option<PrivateRedis>)> {
    let asked = std::env::args().nth(1);
    if let Some(url) = asked.or_else(|| std::env::var("MILLSTREAM_REDIS_URL").ok()) {
        return Ok((url, None));
    }
    let redis = PrivateRedis::start(Options::default())?;
    Ok((redis.url(), Some(redis)))
}
