//! Calls to an API that gives each customer a budget of points. A job says what its call costs; the bucket of its customer decides when
//! it starts, over all workers. One customer's big import waits for its own budget and for nobody else's, and nobody's holds it up.
//!
//! ```text
//! cargo run --example rate_limited
//! cargo run --example rate_limited -- redis://127.0.0.1:6379
//! ```
//!
//! Without a URL, here or in `MILLSTREAM_REDIS_URL`, it starts a Redis of its own; that needs only a redis-server.

use std::time::Instant;

use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, Millstream, NewJob, Rate};
use tokio::sync::mpsc;

/// Points a second, and how many may be spent at once after a quiet time.
const POINTS: u32 = 100;
const BURST: u32 = 50;
/// Each call of the import costs so much.
const COST: u32 = 10;
const CALLS: usize = 15;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, _redis) = redis()?;
    let millstream = Millstream::connect(&url).await?;
    let queue = millstream.queue("calls")?;
    let (tell, mut told) = mpsc::unbounded_channel();
    let worker = millstream
        .worker("calls")?
        // Kept in Redis from here on, for all workers and customers.
        .group_rate(Some(Rate::per_second(POINTS)))
        .group_burst(BURST)
        // What may be ready or running at once, so that nothing gathers while workers are busy.
        .group_concurrency(5)
        .handle_raw("call", move |job: Context| {
            let tell = tell.clone();
            async move {
                // Here the API would be called.
                let _ = tell.send(job.group().unwrap_or_default().to_owned());
                Ok(())
            }
        })
        .start()
        .await?;

    let began = Instant::now();
    let call = |customer: &str| NewJob::raw("call", "").group(customer);
    queue
        .enqueue_all(vec![call("importer").cost(COST); CALLS])
        .await?;
    queue.enqueue(call("other")).await?;
    let mut calls = 0;
    while calls < CALLS {
        let customer = told.recv().await.ok_or("the worker is gone")?;
        let ms = began.elapsed().as_millis();
        if customer == "other" {
            println!("{ms:>5} ms  the other customer's call, after {calls} of the import");
        } else {
            calls += 1;
            println!("{ms:>5} ms  call {calls} of the import, {COST} points");
        }
    }
    let (all, budget) = (CALLS as u32 * COST, POINTS);
    println!("{all} points at {budget} a second, {BURST} of them at once");
    worker.stop().await;
    Ok(())
}

/// Where Redis is: as given, or one of our own, which lives as long as the guard.
fn redis() -> millstream::Result<(String, Option<PrivateRedis>)> {
    let given = std::env::args().nth(1);
    let given = given.or_else(|| std::env::var("MILLSTREAM_REDIS_URL").ok());
    if let Some(url) = given {
        return Ok((url, None));
    }
    let redis = PrivateRedis::start(Options::default())?;
    Ok((redis.url(), Some(redis)))
}
