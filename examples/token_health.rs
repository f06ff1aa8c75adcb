//! A nightly check of every token, at 03:00 in Bucharest: never twice, however many workers there are, and never while the
//! last one is still at work. Set at every start; the same again changes nothing.
//!
//! Nobody wants to wait for the night, so beside it the same check runs every second, slowly, on three workers at once.
//!
//! ```text
//! cargo run --example token_health
//! cargo run --example token_health -- redis://127.0.0.1:6379
//! ```
//!
//! Without a URL, here or in `MILLSTREAM_REDIS_URL`, it starts a Redis of its own; that needs only a redis-server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millstream::private_redis::{Options, PrivateRedis};
use millstream::schedule::{Missed, Overlap, Schedule};
use millstream::{Context, JobError, Millstream, NewJob};
use tokio::sync::mpsc;

/// Longer than the second between two slots.
const CHECK_TAKES: Duration = Duration::from_millis(1_300);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, _redis) = redis()?;
    let millstream = Millstream::connect(&url).await?;
    let schedules = millstream.schedules("tokens")?;

    let check = || {
        NewJob::raw("token-health", "")
            .max_attempts(3)
            .timeout(Duration::from_secs(600))
    };
    let nightly = Schedule::cron("0 3 * * *", check())
        .zone("Europe/Bucharest")
        .missed(Missed::Once)
        .overlap(Overlap::Skip);
    schedules.set("nightly", nightly).await?;
    let view = schedules.get("nightly", 3).await?;
    println!("the next nights, unix ms: {:?}", view.next_runs_ms);

    let often = Schedule::every(Duration::from_secs(1), check()).overlap(Overlap::Skip);
    schedules.set("often", often).await?;

    let (tell, mut told) = mpsc::unbounded_channel();
    let at_once = Arc::new(AtomicUsize::new(0));
    let mut workers = Vec::new();
    for worker in 1..=3 {
        let (tell, at_once) = (tell.clone(), Arc::clone(&at_once));
        let handler = move |job: Context| {
            let (tell, at_once) = (tell.clone(), Arc::clone(&at_once));
            async move {
                let running = at_once.fetch_add(1, Ordering::SeqCst) + 1;
                println!(
                    "worker {worker} checks every token for {}",
                    job.slot().unwrap_or("?")
                );
                tokio::time::sleep(CHECK_TAKES).await;
                at_once.fetch_sub(1, Ordering::SeqCst);
                let _ = tell.send((job.slot().map(str::to_owned), running));
                Ok::<(), JobError>(())
            }
        };
        workers.push(
            millstream
                .worker("tokens")?
                .handle_raw("token-health", handler)
                .start()
                .await?,
        );
    }

    let (mut slots, mut most) = (BTreeSet::new(), 0);
    for _ in 0..3 {
        let (slot, running) = told.recv().await.ok_or("the workers are gone")?;
        most = most.max(running);
        if !slots.insert(slot.clone()) {
            return Err(format!("{slot:?} was checked twice").into());
        }
    }
    schedules.remove("often").await?;
    for worker in workers {
        worker.stop().await;
    }
    println!("3 checks, each for a slot of its own, {most} at a time");
    if most == 1 {
        Ok(())
    } else {
        Err("checks overlapped".into())
    }
}

/// The Redis at the URL that was given, or one of our own that goes with the guard.
fn redis() -> Result<(String, Option<PrivateRedis>), millstream::Error> {
    let given = std::env::args().nth(1);
    if let Some(url) = given.or_else(|| std::env::var("MILLSTREAM_REDIS_URL").ok()) {
        return Ok((url, None));
    }
    let redis = PrivateRedis::start(Options::default())?;
    Ok((redis.url(), Some(redis)))
}
