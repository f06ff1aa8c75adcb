//! How safe a job is when its enqueue returns, and that no more is claimed than was reached.

use std::time::Duration;

use millstream::private_redis::{Options, Persistence, PrivateRedis};
use millstream::{Durability, Error, Millstream, NewJob};

async fn client(redis: &PrivateRedis) -> Millstream {
    Millstream::connect(&redis.url()).await.unwrap()
}

fn job() -> NewJob {
    NewJob::raw("a", "payload")
}

/// A primary and a replica that has caught up.
async fn pair() -> (PrivateRedis, PrivateRedis) {
    let args = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect();
    let primary = PrivateRedis::start(Options {
        tcp: true,
        args: args(&["--repl-diskless-sync-delay", "0"]),
        ..Options::default()
    })
    .unwrap();
    let port = primary.port().unwrap().to_string();
    let replica = PrivateRedis::start(Options {
        args: args(&["--replicaof", "127.0.0.1", &port]),
        ..Options::default()
    })
    .unwrap();
    let queue = client(&primary)
        .await
        .queue("probe")
        .unwrap()
        .with_durability(Durability::Replicas(1));
    for _ in 0..50 {
        if queue.enqueue(job()).await.unwrap().durability == Durability::Replicas(1) {
            return (primary, replica);
        }
    }
    panic!("the replica never caught up");
}

#[tokio::test]
async fn a_job_in_memory_is_told_to_be_in_memory() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let enqueued = client(&redis)
        .await
        .queue("q")
        .unwrap()
        .enqueue(job())
        .await
        .unwrap();
    assert_eq!(enqueued.durability, Durability::Memory);
}

#[tokio::test]
async fn a_replica_that_does_not_answer_is_not_counted_and_the_job_is_stored() {
    let (primary, replica) = pair().await;
    let client = client(&primary).await;
    let queue = client
        .queue("q")
        .unwrap()
        .with_durability(Durability::Replicas(1));
    assert_eq!(
        queue.enqueue(job()).await.unwrap().durability,
        Durability::Replicas(1)
    );

    replica.freeze().unwrap();
    let enqueued = queue.enqueue(job()).await.unwrap();

    assert_eq!(enqueued.durability, Durability::Memory);
    assert_eq!(client.inspect("q").unwrap().stats().await.unwrap().ready, 2);
    replica.thaw().unwrap();
}

#[tokio::test]
async fn many_callers_share_the_wait_for_replicas() {
    let (primary, _replica) = pair().await;
    let client = client(&primary).await;
    let queue = client
        .queue("q")
        .unwrap()
        .with_durability(Durability::Replicas(1));

    let calls = (0..200).map(|_| {
        let queue = queue.clone();
        tokio::spawn(async move { queue.enqueue(job()).await.unwrap().durability })
    });

    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), Durability::Replicas(1));
    }
    assert_eq!(
        client.inspect("q").unwrap().stats().await.unwrap().ready,
        200
    );
}

#[tokio::test]
async fn fsync_is_refused_before_anything_is_stored_where_the_server_cannot_confirm_it() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let client = client(&redis).await;
    let queue = client
        .queue("q")
        .unwrap()
        .with_durability(Durability::Fsync);

    let refused = tokio::time::timeout(Duration::from_secs(10), queue.enqueue(job()))
        .await
        .unwrap();

    // Redis 7.0 has no WAITAOF; a later server has it, and this one writes no append-only file.
    assert!(
        matches!(&refused, Err(Error::Unfit { reason, .. }) if reason.contains("fsync")),
        "{refused:?}"
    );
    assert_eq!(client.inspect("q").unwrap().stats().await.unwrap().ready, 0);
}

#[tokio::test]
async fn fsync_is_confirmed_where_the_server_can() {
    let redis = PrivateRedis::start(Options {
        persistence: Persistence::AofEverysec,
        ..Options::default()
    })
    .unwrap();
    let queue = client(&redis)
        .await
        .queue("q")
        .unwrap()
        .with_durability(Durability::Fsync);

    let answer = queue.enqueue(job()).await;

    let version: Vec<u32> = redis
        .version()
        .split('.')
        .filter_map(|part| part.parse().ok())
        .collect();
    let has_waitaof = version.as_slice() >= &[7, 2][..];
    match answer {
        Ok(enqueued) => assert!(
            has_waitaof && enqueued.durability == Durability::Fsync,
            "{enqueued:?}"
        ),
        Err(error) => assert!(
            !has_waitaof && error.to_string().contains("WAITAOF"),
            "{error}"
        ),
    }
}
