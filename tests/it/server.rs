//! What a server may do to its clients without going away: pause, refuse, forget, become a replica.

use std::time::Duration;

use millstream::private_redis::{Persistence, PrivateRedis};
use millstream::{Error, NewJob};
use tokio::time::timeout;

use crate::outage::Scene;
use crate::support::long_job::{LEASE, LongJob};
use crate::support::program::SLACK;
use crate::support::resp::{Connection, Value};

/// Any command, on a connection of its own.
fn redis(server: &PrivateRedis, words: &[&str]) -> Value {
    let answer = Connection::open(&server.socket()).send(words);
    answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_pauses_its_clients_for_up_to_two_leases_costs_no_living_worker_its_job() {
    let paused = async |mode: &'static str, halves: u32| {
        let job = LongJob::start().await;
        let pause = LEASE / 2 * halves;
        let ms = pause.as_millis().to_string();
        redis(&job.server, &["CLIENT", "PAUSE", &ms, mode]);
        tokio::time::sleep(pause).await;
        job.finishes_undisturbed(&format!("{mode} for {pause:?}"))
            .await;
    };
    let pauses =
        ["ALL", "WRITE"].map(|mode| [1, 2, 4].map(|halves| Box::pin(paused(mode, halves))));
    futures_util::future::join_all(pauses.into_iter().flatten()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_script_that_holds_the_server_costs_no_living_worker_its_job() {
    let job = LongJob::start().await;
    redis(
        &job.server,
        &["CONFIG", "SET", "busy-reply-threshold", "100"],
    );
    // It has written, so it cannot be killed.
    let script = "redis.call('SET', KEYS[1], '1')
        local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end
        local from = now()
        while now() - from < 2000 do end";
    let socket = job.server.socket();
    let holding = std::thread::spawn(move || {
        Connection::open(&socket).send(&["EVAL", script, "1", "foreign"])
    });

    holding.join().unwrap().expect("the script runs to its end");

    job.finishes_undisturbed("BUSY for two leases").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_becomes_a_replica_for_a_while_is_worked_for_again_and_lost_nothing() {
    let mut scene = Scene::new(Persistence::None).await;
    scene.enqueue(1).await;
    scene.expect(1).await;

    // Of a primary that does not exist, so that it keeps what it has.
    redis(&scene.redis, &["REPLICAOF", "127.0.0.1", "1"]);
    let refused = scene.queue.enqueue(NewJob::new("a", &2u32).unwrap()).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    redis(&scene.redis, &["REPLICAOF", "NO", "ONE"]);

    scene.enqueue(3).await;
    scene.expect(3).await;
    scene.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_memory_refuses_new_jobs_and_still_lets_the_old_ones_end() {
    let job = LongJob::start().await;
    let queue = job.client.queue("q").unwrap();
    redis(&job.server, &["CONFIG", "SET", "maxmemory", "1"]);
    let refused = queue.enqueue(NewJob::raw("b", "")).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");

    // Heartbeats, sweeps and the settlement go on.
    tokio::time::sleep(LEASE * 2).await;
    job.go_on.notify_one();
    let inspector = job.client.inspect("q").unwrap();
    let settled = async {
        while inspector.stats().await.unwrap().completed_total == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SLACK, settled)
        .await
        .expect("settled without memory to spare");
    assert_eq!(inspector.stats().await.unwrap().stalled_total, 0);

    redis(&job.server, &["CONFIG", "SET", "maxmemory", "0"]);
    queue.enqueue(NewJob::raw("b", "")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_write_its_disk_refuses_new_jobs_and_takes_them_again_afterwards() {
    let mut scene = Scene::new(Persistence::None).await;
    scene.enqueue(1).await;
    scene.expect(1).await;
    let server = &scene.redis;
    // A snapshot that cannot get its name fails, and from then on the server refuses writes.
    std::fs::create_dir(server.dir().join("dump.rdb")).unwrap();
    redis(server, &["CONFIG", "SET", "save", "3600 1"]);
    redis(server, &["BGSAVE"]);
    let refuses = async {
        loop {
            match scene.queue.enqueue(NewJob::new("a", &9u32).unwrap()).await {
                Err(Error::Refused { reason, .. }) if reason.contains("MISCONF") => return,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(SLACK, refuses).await.expect("MISCONF");

    redis(
        server,
        &["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"],
    );

    scene.enqueue(2).await;
    loop {
        // Some that were stored before the disk was full may run first.
        match timeout(SLACK, scene.ran.recv())
            .await
            .expect("the worker works")
        {
            Some(2) => break,
            other => assert_eq!(other, Some(9)),
        }
    }
    scene.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_no_room_for_connections_is_worked_for_as_soon_as_there_is_some() {
    let mut scene = Scene::new(Persistence::None).await;
    scene.enqueue(1).await;
    scene.expect(1).await;
    let mut admin = Connection::open(&scene.redis.socket());
    let mut ask = |words: &[&str]| admin.send(words).unwrap();

    // Whoever is thrown out does not come in again.
    ask(&["CONFIG", "SET", "maxclients", "1"]);
    ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let refused = scene.queue.enqueue(NewJob::new("a", &2u32).unwrap()).await;
    assert!(
        matches!(
            refused,
            Err(Error::Ambiguous { .. } | Error::Unreachable { .. })
        ),
        "{refused:?}"
    );
    ask(&["CONFIG", "SET", "maxclients", "1000"]);

    // What its caller was told has failed is not carried out afterwards.
    scene.enqueue(3).await;
    scene.expect(3).await;
    scene.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_blocked_in_a_read_survives_whatever_is_done_to_its_streams() {
    let ready = "millstream:{q}:ready";
    let undo: &[&str] = &["DEL", ready];
    let nothing: &[&str] = &["PING"];
    let deeds: [(&[&str], &[&str]); 5] = [
        (&["DEL", ready, "millstream:{q}:ready:next"], nothing),
        (&["XGROUP", "DESTROY", ready, "workers"], nothing),
        (&["RENAME", ready, "elsewhere"], nothing),
        (&["RPUSH", ready, "in the way"], undo),
        (&["FLUSHALL"], nothing),
    ];
    for (number, (deed, undo)) in deeds.into_iter().enumerate() {
        let mut scene = Scene::new(Persistence::None).await;
        scene.enqueue(100).await;
        scene.expect(100).await;
        scene.is_empty().await;
        if deed[0] == "RPUSH" {
            redis(&scene.redis, &["DEL", ready]);
        }

        redis(&scene.redis, deed);
        redis(&scene.redis, undo);

        let number = u32::try_from(number).unwrap();
        scene.enqueue(number).await;
        scene.expect(number).await;
        scene.is_empty().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_storm_of_killed_connections_and_forgotten_scripts_nothing_is_lost_or_doubled() {
    let mut scene = Scene::new(Persistence::None).await;
    let socket = scene.redis.socket();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let storm = std::thread::spawn(move || {
        let mut admin = Connection::open(&socket);
        let moment = Duration::from_millis(10);
        for round in 0.. {
            if stopped.recv_timeout(moment) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            admin.send(&["SCRIPT", "FLUSH"]).unwrap();
            if round % 20 == 0 {
                let kill = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
                admin.send(&kill).unwrap();
            }
        }
    });

    for number in 0..300 {
        scene.enqueue(number).await;
    }
    drop(stop);
    storm.join().unwrap();
    scene.is_empty().await;

    let mut ran = Vec::new();
    while let Ok(number) = scene.ran.try_recv() {
        ran.push(number);
    }
    ran.sort_unstable();
    assert_eq!(ran, (0..300).collect::<Vec<u32>>());
    let stats = scene.client.inspect("q").unwrap().stats().await.unwrap();
    assert_eq!((stats.enqueued_total, stats.completed_total), (300, 300));
}
