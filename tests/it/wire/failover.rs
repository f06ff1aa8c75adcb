//! Another server takes over behind a stable address: workers and callers follow by themselves, and what was replicated
//! is there.

use std::time::{Duration, Instant};

use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, JobError, Millstream, NewJob};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use super::{RECOVERED, SLACK};
use crate::support::Fixture;
use crate::support::proxy::Proxy;
use crate::support::resp::Connection;

/// How the first server loses its place.
#[derive(Clone, Copy, Debug)]
enum Fall {
    /// It dies.
    Killed,
    /// It becomes a replica of the other; its connections stay open.
    Demoted,
}

fn server() -> PrivateRedis {
    let options = Options {
        tcp: true,
        args: vec!["--repl-diskless-sync-delay".into(), "0".into()],
        ..Options::default()
    };
    PrivateRedis::start(options).unwrap()
}

fn order(redis: &PrivateRedis, words: &[&str]) -> String {
    let reply = Connection::open(&redis.socket()).send(words).unwrap();
    String::from_utf8_lossy(reply.bytes()).into_owned()
}

fn follow(redis: &PrivateRedis, leader: &PrivateRedis) {
    let port = leader.port().unwrap().to_string();
    order(redis, &["REPLICAOF", "127.0.0.1", &port]);
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let waited = began.elapsed();
        assert!(waited < RECOVERED + SLACK, "{what}: not after {waited:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_follows_a_failover_after_the_primary_died() {
    failover(Fall::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_follows_a_failover_that_only_demoted_the_primary() {
    failover(Fall::Demoted).await;
}

async fn failover(fall: Fall) {
    let (first, second) = (server(), server());
    follow(&second, &first);
    let linked = || order(&second, &["INFO", "replication"]).contains("master_link_status:up");
    until("the replica is linked", linked).await;
    let proxy = Proxy::to(&first);
    let before = Fixture::on(&first).await;
    let client = Millstream::connect(&proxy.url()).await.unwrap();
    let queue = client.queue(&before.queue).unwrap();
    let (tell, mut ran) = unbounded_channel();
    let handler = move |job: Context| {
        let _ = tell.send((job.payload().to_vec(), job.stalls()));
        async { Ok::<(), JobError>(()) }
    };
    let worker = client.worker(&before.queue).unwrap();
    let worker = worker.handle_raw("a", handler).start().await.unwrap();
    queue.enqueue(NewJob::raw("a", "before")).await.unwrap();
    assert_eq!(ran.recv().await, Some((b"before".to_vec(), 0)));
    until("the job is settled", || before.counter("completed") == 1).await;
    let offset = |redis| {
        let info = order(redis, &["INFO", "replication"]);
        let line = info
            .lines()
            .find(|line| line.starts_with("master_repl_offset"));
        line.unwrap().to_owned()
    };
    until("the replica has it", || offset(&first) == offset(&second)).await;

    order(&second, &["REPLICAOF", "NO", "ONE"]);
    proxy.retarget(&second);
    match fall {
        Fall::Killed => first.kill().unwrap(),
        Fall::Demoted => follow(&first, &second),
    }

    let began = Instant::now();
    let again = || NewJob::raw("a", "after").unique_for("after", Duration::from_secs(600));
    while let Err(error) = queue.enqueue(again()).await {
        let waited = began.elapsed();
        assert!(waited < RECOVERED + SLACK, "{error} after {waited:?}");
    }
    let after = timeout(RECOVERED + SLACK, ran.recv()).await;
    let after = after.unwrap_or_else(|_| panic!("{fall:?}: the worker does not follow"));
    assert_eq!(after, Some((b"after".to_vec(), 0)));
    let completed = ["HGET", &before.key("stats"), "completed"];
    until("the job is settled", || order(&second, &completed) == "2").await;
    worker.stop().await;
}
