//! One queue for many shops. A noisy one leaves a backlog; a quiet one sends a single job after it. With a limit per group the
//! quiet one's job starts as soon as one of those that run is done, however long the backlog; without it, it is the last.
//!
//! ```text
//! cargo run --example multi_tenant
//! cargo run --example multi_tenant -- redis://127.0.0.1:6379
//! ```
//!
//! Without a URL, here or in `MILLSTREAM_REDIS_URL`, it starts a Redis of its own; that needs only a redis-server.

use std::time::{Duration, Instant};

use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, Millstream, NewJob};
use tokio::sync::mpsc;

/// What the noisy shop leaves waiting.
const BACKLOG: usize = 400;
/// How long a job takes.
const WORK: Duration = Duration::from_millis(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, _redis) = redis()?;
    let millstream = Millstream::connect(&url).await?;
    for limit in [0, 2] {
        let place = place_of_the_quiet_shop(&millstream, limit).await?;
        let limit = match limit {
            0 => "without a limit".to_owned(),
            jobs => format!("with group_concurrency = {jobs}"),
        };
        println!(
            "{limit}: the quiet shop's job was number {place} of {}",
            BACKLOG + 1
        );
    }
    Ok(())
}

/// How many jobs ran before the quiet shop's was through, itself included.
async fn place_of_the_quiet_shop(
    millstream: &Millstream,
    limit: usize,
) -> Result<usize, Box<dyn std::error::Error>> {
    let name = format!("webhooks-{limit}");
    let queue = millstream.queue(&name)?;
    let (tell, mut told) = mpsc::unbounded_channel();
    let worker = millstream
        .worker(&name)?
        .concurrency(4)
        .prefetch(0)
        // Kept in Redis from here on: it counts for jobs that come from now on, whoever enqueues them.
        .group_concurrency(limit)
        .handle_raw("order", move |job: Context| {
            let tell = tell.clone();
            async move {
                tokio::time::sleep(WORK).await;
                let _ = tell.send(job.group().unwrap_or_default().to_owned());
                Ok(())
            }
        })
        .start()
        .await?;

    let noisy = (0..BACKLOG).map(|_| NewJob::raw("order", "a catalogue").group("noisy.example"));
    queue.enqueue_all(noisy.collect()).await?;
    queue
        .enqueue(NewJob::raw("order", "one order").group("quiet.example"))
        .await?;

    let began = Instant::now();
    let mut place = 0;
    let mut quiet = 0;
    while place < BACKLOG + 1 {
        let shop = told.recv().await.ok_or("the worker has ended")?;
        place += 1;
        if shop == "quiet.example" {
            quiet = place;
        }
    }
    println!("{} jobs in {:?}", place, began.elapsed());
    worker.stop().await;
    Ok(quiet)
}

/// The Redis that was asked for, or one of our own, which ends with this program.
fn redis() -> millstream::Result<(String, Option<PrivateRedis>)> {
    let asked = std::env::args().nth(1);
    if let Some(url) = asked.or_else(|| std::env::var("MILLSTREAM_REDIS_URL").ok()) {
        return Ok((url, None));
    }
    let redis = PrivateRedis::start(Options::default())?;
    Ok((redis.url(), Some(redis)))
}
