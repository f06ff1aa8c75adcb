//! What becomes of jobs that do not succeed at once: a failure is retried after its backoff, a snooze costs no attempt, a
//! refusal goes straight to the dead letter, and so does a job whose attempts are used up. Then the operator's part: look at
//! the dead letter, mend the cause, redrive.
//!
//! ```text
//! cargo run --example retries
//! cargo run --example retries -- redis://127.0.0.1:6379
//! ```
//!
//! Without a URL, here or in `MILLSTREAM_REDIS_URL`, it starts a Redis of its own; that needs only a redis-server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream::inspect::{Inspector, JobView};
use millstream::job::state::State;
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Backoff, Context, Error, Handler, JobError, JobId, Millstream, NewJob};

/// A service that our jobs depend on, down at first.
type Bank = Arc<AtomicBool>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, _redis) = redis()?;
    let millstream = Millstream::connect(&url).await?;
    let queue = millstream.queue("retries")?;
    let jobs = ["flaky", "early", "payment", "nonsense"].map(|name| NewJob::raw(name, "42"));
    let ids: Vec<JobId> = queue
        .enqueue_all(jobs.into())
        .await?
        .into_iter()
        .map(|enqueued| enqueued.id)
        .collect();

    let bank = Bank::default();
    let worker = millstream
        .worker("retries")?
        .max_attempts(3)
        .backoff(Backoff::Fixed(Duration::from_millis(300)))
        .handle_raw("flaky", flaky)
        .handle_raw("early", early())
        .handle_raw("payment", payment(bank.clone()))
        .handle_raw("nonsense", nonsense)
        .start()
        .await?;

    let inspector = millstream.inspect("retries")?;
    wait_until_settled(&inspector, &ids).await?;
    println!("\nthe dead letter:");
    let mut redrive = Vec::new();
    for id in &ids {
        let Some(job) = find(&inspector, id).await? else {
            continue;
        };
        let reason = job.reason.unwrap_or_default();
        println!(
            "  {} died of {reason:?} at attempt {}",
            job.name, job.attempt
        );
        for failed in &job.errors {
            println!("    attempt {}: {}", failed.attempt, failed.error);
        }
        if reason == "attempts" {
            redrive.push(id.clone());
        }
    }

    println!("\nthe bank is back; what it failed is redriven, with all its attempts:");
    bank.store(true, Ordering::Relaxed);
    let redriven = inspector.redrive(&redrive).await?;
    wait_until_settled(&inspector, &redrive).await?;
    // What can never succeed is for a person to look at, and then to purge.
    let dead: Vec<JobId> = ids.into_iter().filter(|id| !redrive.contains(id)).collect();
    let purged = inspector.purge(&dead).await?;
    println!("\n{redriven} redriven, {purged} purged");
    worker.stop().await;
    if (redriven, purged) == (1, 1) {
        Ok(())
    } else {
        Err("expected one of each".into())
    }
}

/// Any error of the `?` kind is a failed attempt, and so is this.
async fn flaky(job: Context) -> Result<(), JobError> {
    println!("flaky: attempt {}", job.attempt());
    if job.attempt() < 3 {
        return Err(JobError::failed("the network blinked"));
    }
    println!("flaky: done");
    Ok(())
}

/// Not now is no failure: the attempt stays the first one.
fn early() -> impl Handler {
    let called_before = Arc::new(AtomicBool::new(false));
    move |job: Context| {
        let called_before = called_before.swap(true, Ordering::Relaxed);
        async move {
            println!("early: attempt {}", job.attempt());
            if !called_before {
                return Err(JobError::snooze(Duration::from_millis(500)));
            }
            println!("early: done");
            Ok(())
        }
    }
}

/// Fails while the bank is down. A bank that says when to come back would be `JobError::retry_after`.
fn payment(bank: Bank) -> impl Handler {
    move |job: Context| {
        let is_open = bank.load(Ordering::Relaxed);
        async move {
            println!("payment: attempt {}", job.attempt());
            if !is_open {
                return Err(JobError::failed("the bank does not answer"));
            }
            println!("payment: done");
            Ok(())
        }
    }
}

/// More attempts would not help.
async fn nonsense(job: Context) -> Result<(), JobError> {
    println!("nonsense: attempt {}", job.attempt());
    Err(JobError::refuse("an order for -1 pieces"))
}

/// Waits until each job is dead or gone. Jobs that completed are gone: nobody asked for a history.
async fn wait_until_settled(
    inspector: &Inspector,
    ids: &[JobId],
) -> Result<(), Box<dyn std::error::Error>> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    for id in ids {
        while find(inspector, id)
            .await?
            .is_some_and(|job| job.state != State::Dead)
        {
            if tokio::time::Instant::now() > deadline {
                return Err(format!("job {id} is not settled").into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

async fn find(inspector: &Inspector, id: &JobId) -> millstream::Result<Option<JobView>> {
    match inspector.show(id).await {
        Ok(job) => Ok(Some(job)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
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
