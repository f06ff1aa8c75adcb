//! What a Redis that is killed in the middle of everything still has afterwards, mode by mode.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream::broker::Broker;
use millstream::private_redis::{Options, Persistence, PrivateRedis};
use millstream::{Backoff, Context, JobError, Millstream, NewJob};
use tokio::time::timeout;

use crate::support::program::SLACK;
use crate::support::{Fixture, PATIENCE};

/// Enqueues, and jobs that complete, fail or come later, until the server is killed in the middle. Returns the ids that
/// were acknowledged.
async fn kill_under_load(redis: &PrivateRedis, queue: &str) -> BTreeSet<String> {
    let client = Millstream::builder(&redis.url()).enqueue_timeout(Duration::from_millis(500));
    let client = client.connect().await.unwrap();
    let moody = |job: Context| {
        let sum: usize = job.id().as_str().bytes().map(usize::from).sum();
        std::future::ready(match sum % 3 {
            0 => Ok(()),
            1 => Err(JobError::failed("moody")),
            _ => Err(JobError::snooze(Duration::from_millis(20))),
        })
    };
    let worker = client
        .worker(queue)
        .unwrap()
        .backoff(Backoff::Fixed(Duration::from_millis(5)));
    let worker = worker.max_attempts(3).shutdown_timeout(Duration::ZERO);
    let worker = worker.handle_raw("a", moody).start().await.unwrap();
    let killed = Arc::new(AtomicBool::new(false));
    let producers: Vec<_> = (0..4)
        .map(|_| {
            let (queue, killed) = (client.queue(queue).unwrap(), Arc::clone(&killed));
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    let job = NewJob::raw("a", "payload");
                    let job = match number % 2 {
                        0 => job,
                        _ => job.delay(Duration::from_millis(30)),
                    };
                    match queue.enqueue(job).await {
                        Ok(enqueued) => acknowledged.push(enqueued.id.to_string()),
                        Err(_) if killed.load(Ordering::SeqCst) => break,
                        Err(_) => {}
                    }
                }
                acknowledged
            })
        })
        .collect();
    let inspector = client.inspect(queue).unwrap();
    let busy = async {
        while inspector.stats().await.unwrap().completed_total < 50 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SLACK, busy).await.expect("a busy queue");
    redis.kill().unwrap();
    killed.store(true, Ordering::SeqCst);
    worker.stop().await;
    let mut acknowledged = BTreeSet::new();
    for producer in producers {
        acknowledged.extend(producer.await.unwrap());
    }
    acknowledged
}

/// Kills a server under load and starts it anew: what is there then is whole, and the books agree. Returns how many of the jobs that
/// were acknowledged are neither there nor counted as completed.
async fn lost_by_a_kill(persistence: Persistence) -> i64 {
    let redis = PrivateRedis::start(Options {
        persistence,
        ..Options::default()
    })
    .unwrap();
    let acknowledged = kill_under_load(&redis, "q").await;
    redis.restart().unwrap();

    let t = Fixture::over(&redis, "q").await;
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
    let kept: BTreeSet<String> = t.scan().homes.into_keys().collect();
    let completed = t.counter("completed");
    let gone = acknowledged.difference(&kept).count() as i64;
    assert!(acknowledged.len() > 50);
    assert_eq!(t.counter("enqueued"), kept.len() as i64 + completed);
    // What is not there any more was completed, and the server remembers that.
    gone - completed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_with_an_append_only_file_has_every_acknowledged_job_and_none_of_them_half()
{
    assert!(lost_by_a_kill(Persistence::AofAlways).await <= 0);
}

/// While the disk is busy with a sync, such a server answers and keeps what it has to write to itself, for two seconds at most. So there
/// is no telling how much is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_that_syncs_once_a_second_has_no_half_of_a_job() {
    lost_by_a_kill(Persistence::AofEverysec).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_of_the_append_only_file_costs_the_last_calls_and_no_half_of_any() {
    let redis = PrivateRedis::start(Options {
        persistence: Persistence::AofAlways,
        args: ["--aof-load-truncated", "yes"].map(str::to_owned).to_vec(),
        ..Options::default()
    })
    .unwrap();
    kill_under_load(&redis, "q").await;
    let tail = last_append_only_file(&redis);
    let length = std::fs::metadata(&tail).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(&tail).unwrap();
    file.set_len(length - 37).unwrap();
    redis.restart().unwrap();

    let t = Fixture::over(&redis, "q").await;

    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
}

/// The file that the server was appending to.
fn last_append_only_file(redis: &PrivateRedis) -> std::path::PathBuf {
    let files = std::fs::read_dir(redis.dir().join("appendonlydir")).unwrap();
    let mut tails: Vec<_> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".incr.aof"))
        .collect();
    tails.sort();
    tails.pop().expect("an append-only file")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_without_persistence_comes_back_empty_and_is_used_again_at_once() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    kill_under_load(&redis, "q").await;
    redis.restart().unwrap();

    let broker = Broker::connect(&redis.url(), "millstream", "q")
        .await
        .unwrap();
    assert_eq!(broker.stats(PATIENCE).await.unwrap().ready, 0);
    let queue = Millstream::connect(&redis.url())
        .await
        .unwrap()
        .queue("q")
        .unwrap();
    queue.enqueue(NewJob::raw("a", "")).await.unwrap();
    assert_eq!(broker.stats(PATIENCE).await.unwrap().ready, 1);
}
