//! The shortest whole program: typed jobs, one of them delayed, one of them unique, a worker with a handler for each kind,
//! and an orderly stop when all is done or on Ctrl-C.
//!
//! ```text
//! cargo run --example quickstart
//! cargo run --example quickstart -- redis://127.0.0.1:6379
//! ```
//!
//! Without a URL, here or in `MILLSTREAM_REDIS_URL`, it starts a Redis of its own; that needs only a redis-server.

use std::time::Duration;

use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, Millstream, NewJob};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

#[derive(Serialize, Deserialize)]
struct Welcome {
    name: String,
}

#[derive(Serialize, Deserialize)]
struct Remind {
    name: String,
    about: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, _redis) = redis()?;
    let millstream = Millstream::connect(&url).await?;
    println!("connected to {}", millstream.server());

    // Producing: ask for a queue once, and share it.
    let queue = millstream.queue("quickstart")?;
    let name = || "Ada".to_owned();
    let welcome = NewJob::new("welcome", &Welcome { name: name() })?;
    let about = "the mill".to_owned();
    let remind = NewJob::new(
        "remind",
        &Remind {
            name: name(),
            about,
        },
    )?
    .delay(Duration::from_secs(1))
    .unique("remind:ada");
    println!("welcome is job {}", queue.enqueue(welcome).await?.id);
    println!("remind is job {}", queue.enqueue(remind.clone()).await?.id);
    let again = queue.enqueue(remind).await?;
    println!(
        "remind again is job {} too: duplicate = {}",
        again.id, again.duplicate
    );

    // Consuming, here in the same process.
    let (done, mut finished) = mpsc::unbounded_channel();
    let (welcomed, reminded) = (done.clone(), done);
    let worker = millstream
        .worker("quickstart")?
        .concurrency(4)
        .handle("welcome", move |welcome: Welcome, _job: Context| {
            let welcomed = welcomed.clone();
            async move {
                println!("Welcome, {}!", welcome.name);
                Ok(welcomed.send("welcome")?)
            }
        })
        .handle("remind", move |remind: Remind, job: Context| {
            let reminded = reminded.clone();
            async move {
                println!(
                    "{}, think of {}! (attempt {} of {})",
                    remind.name,
                    remind.about,
                    job.attempt(),
                    job.max_attempts()
                );
                Ok(reminded.send("remind")?)
            }
        })
        .start()
        .await?;

    let both = async {
        let mut missing = vec!["welcome", "remind"];
        while !missing.is_empty() {
            let name = finished.recv().await;
            missing.retain(|missing| Some(*missing) != name);
        }
    };
    tokio::select! {
        () = both => {}
        _ = tokio::signal::ctrl_c() => println!("stopping early"),
    }
    // Claims no more, lets what runs finish, hands back the rest.
    let drained = worker.stop().await;
    println!("stopped: {drained:?}");
    Ok(())
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
