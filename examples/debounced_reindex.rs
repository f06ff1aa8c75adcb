//! A search index that is rebuilt once per burst of changes: each change of a product takes the place of the reindex that
//! waits, and puts it off. A change that comes while the reindex runs is not lost: it makes the next one. Beside it, stock
//! levels are sent on at most once per second and product, and the last level always arrives.
//!
//! ```text
//! cargo run --example debounced_reindex
//! cargo run --example debounced_reindex -- redis://127.0.0.1:6379
//! ```
//!
//! Without a URL, here or in `MILLSTREAM_REDIS_URL`, it starts a Redis of its own; that needs only a redis-server.

use std::time::Duration;

use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, Millstream, NewJob};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// A product rests this long before it is indexed.
const REST: Duration = Duration::from_millis(300);
/// One stock level per product in this time.
const STOCK_EVERY: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize)]
struct Reindex {
    product: u64,
    /// The newest revision; the older ones need no index.
    revision: u32,
}

#[derive(Serialize, Deserialize)]
struct Stock {
    product: u64,
    left: u32,
}

fn reindex(product: u64, revision: u32) -> millstream::Result<NewJob> {
    let job = NewJob::new("reindex", &Reindex { product, revision })?;
    Ok(job.debounce(format!("reindex:{product}"), REST))
}

fn stock(product: u64, left: u32) -> millstream::Result<NewJob> {
    let job = NewJob::new("stock", &Stock { product, left })?;
    Ok(job.throttle(format!("stock:{product}"), STOCK_EVERY))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, _redis) = redis()?;
    let millstream = Millstream::connect(&url).await?;
    let queue = millstream.queue("search")?;

    let (tell, mut told) = mpsc::unbounded_channel();
    let (indexed, sent) = (tell.clone(), tell);
    let worker = millstream
        .worker("search")?
        .handle("reindex", move |change: Reindex, _job: Context| {
            let indexed = indexed.clone();
            async move {
                let Reindex { product, revision } = change;
                println!("indexing product {product} at revision {revision}");
                indexed.send(format!("reindex {product}@{revision}"))?;
                // Long enough for a change to come while it runs.
                tokio::time::sleep(Duration::from_millis(400)).await;
                Ok(())
            }
        })
        .handle("stock", move |stock: Stock, _job: Context| {
            let sent = sent.clone();
            async move {
                let Stock { product, left } = stock;
                println!("product {product}: {left} left");
                Ok(sent.send(format!("stock {product}: {left}"))?)
            }
        })
        .start()
        .await?;

    let mut made = 0;
    for revision in 1..=50 {
        made += u32::from(!queue.enqueue(reindex(7, revision)?).await?.duplicate);
        queue.enqueue(stock(7, 100 - revision)?).await?;
    }
    println!("50 changes of product 7 made {made} reindex");

    let mut seen = Vec::new();
    let wanted = ["reindex 7@50", "reindex 7@51", "stock 7: 99", "stock 7: 50"];
    let all = async {
        while let Some(what) = told.recv().await {
            // The 51st comes while the 50th is being indexed.
            if what == "reindex 7@50" {
                queue.enqueue(reindex(7, 51)?).await?;
            }
            seen.push(what);
            if wanted
                .iter()
                .all(|wanted| seen.iter().any(|seen| seen == wanted))
            {
                break;
            }
        }
        Ok::<(), millstream::Error>(())
    };
    tokio::select! {
        done = all => done?,
        _ = tokio::signal::ctrl_c() => println!("stopping early"),
    }
    println!("{} handler calls for 101 enqueues", seen.len());
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
