//! Whole lives of jobs through the public API: what handlers get, and what becomes of what they say.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millstream::job::state::State;
use millstream::private_redis::PrivateRedis;
use millstream::{Context, JobError, NewJob};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::unbounded_channel;

use crate::support::Fixture;
use crate::support::program::{Program, next, telling};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    note: Option<String>,
}

#[tokio::test]
async fn jobs_of_every_codec_reach_the_handler_of_their_name() {
    let p = Program::new().await;
    let order = || Order {
        id: u64::MAX,
        note: Some("ü\0".into()),
    };
    let (tell, mut hear) = unbounded_channel();
    let typed = move |order: Order, job: Context| {
        let tell = tell.clone();
        async move {
            tell.send((job.name().to_owned(), order))?;
            Ok(())
        }
    };
    let (tell_raw, mut hear_raw) = unbounded_channel();
    let worker =
        p.worker()
            .handle("msgpack", typed.clone())
            .handle("json", typed)
            .handle_raw("raw", move |job: Context| {
                let tell = tell_raw.clone();
                async move {
                    Ok(tell.send((job.payload().clone(), job.header("h").map(str::to_owned)))?)
                }
            })
            .start()
            .await
            .unwrap();

    p.enqueue(NewJob::new("msgpack", &order()).unwrap()).await;
    assert_eq!(next(&mut hear).await, ("msgpack".to_owned(), order()));
    p.enqueue(NewJob::json("json", &order()).unwrap()).await;
    assert_eq!(next(&mut hear).await, ("json".to_owned(), order()));
    p.enqueue(NewJob::raw("raw", vec![0, 255]).header("h", "v"))
        .await;
    let (payload, header) = next(&mut hear_raw).await;
    assert_eq!(
        (&payload[..], header.as_deref()),
        (&[0, 255][..], Some("v"))
    );

    p.until_completed(3).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_payload_that_does_not_decode_is_dead_at_once_with_its_bytes_untouched() {
    let p = Program::new().await;
    let never = |_: Order, _: Context| async { panic!("called with a payload that is no order") };
    let worker = p.worker().handle("order", never).start().await.unwrap();
    let secret = b"\xc1 card 4111".to_vec();

    let id = p.enqueue(NewJob::raw("order", secret.clone())).await;

    let record = p.until_dead(&id).await;
    assert_eq!(
        (&record["reason"], &record["attempt"]),
        (&"refused".into(), &1.into())
    );
    let message = record["errors"][0]["error"].as_str().unwrap();
    assert!(
        message.contains("order") && !message.contains("4111"),
        "{message}"
    );
    assert_eq!(p.t.scan().payloads[id.as_str()], secret);
    p.t.assert_every_job_has_one_home();
    worker.stop().await;
}

#[tokio::test]
async fn a_job_of_an_unknown_name_is_retried_and_then_dead_and_says_which_names_are_known() {
    let p = Program::new().await;
    let (tell, _hear) = unbounded_channel();
    let builder = p
        .worker()
        .handle_raw("welcome", telling(&tell))
        .handle_raw("goodbye", telling(&tell));
    let worker = builder.start().await.unwrap();

    let id = p.enqueue(NewJob::raw("wellcome", "").max_attempts(3)).await;

    let record = p.until_dead(&id).await;
    assert_eq!(
        (&record["reason"], &record["attempt"]),
        (&"attempts".into(), &3.into())
    );
    assert_eq!(record["errors"].as_array().unwrap().len(), 3);
    let message = record["errors"][0]["error"].as_str().unwrap();
    assert!(
        ["\"wellcome\"", "welcome", "goodbye"]
            .iter()
            .all(|name| message.contains(name)),
        "{message}"
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_handler_that_hangs_is_told_and_ended_and_its_job_is_retried() {
    let p = Program::new().await;
    let (tell, mut hear) = unbounded_channel();
    let worker = p
        .worker()
        .handle_raw("a", move |job: Context| {
            let tell = tell.clone();
            async move {
                if job.attempt() == 1 {
                    job.cancelled().cancelled().await;
                    let _ = tell.send("told");
                    std::future::pending::<()>().await;
                }
                let _ = tell.send("done");
                Ok(())
            }
        })
        .start()
        .await
        .unwrap();

    p.enqueue(NewJob::raw("a", "").timeout(Duration::from_millis(50)))
        .await;

    assert_eq!(next(&mut hear).await, "told");
    assert_eq!(next(&mut hear).await, "done");
    p.until_completed(1).await;
    assert_eq!(p.t.counter("failed"), 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_cancelled_jobs_handler_is_told_and_the_job_is_not_retried() {
    let p = Program::new().await;
    let (tell, mut hear) = unbounded_channel();
    let worker = p
        .worker()
        .handle_raw("a", move |job: Context| {
            let tell = tell.clone();
            async move {
                tell.send("started")?;
                job.cancelled().cancelled().await;
                tell.send("told")?;
                Err(JobError::failed("interrupted"))
            }
        })
        .start()
        .await
        .unwrap();
    let id = p.enqueue(NewJob::raw("a", "").unique("k")).await;
    assert_eq!(next(&mut hear).await, "started");

    let before = p.client.inspect(&p.t.queue).unwrap().cancel(&id).await;

    assert_eq!(before.unwrap(), State::Running);
    // Sooner than the next renewal of its lease, which would tell it as well.
    let told = tokio::time::timeout(Duration::from_secs(8), hear.recv()).await;
    assert_eq!(told, Ok(Some("told")));
    worker.stop().await;
    assert_eq!((p.t.counter("cancelled"), p.t.counter("failed")), (1, 0));
    assert_eq!((p.t.state_of(&id), p.t.unique_holder("k")), (None, None));
    p.t.assert_every_job_has_one_home();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_handler_that_blocks_the_runtime_for_three_leases_keeps_its_job() {
    let p = Program::new().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let lease = Duration::from_secs(1);
    let build = || {
        let counted = Arc::clone(&counted);
        let blocking = move |_: Context| {
            counted.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(lease * 3 + lease / 2);
            std::future::ready(Ok(()))
        };
        p.worker()
            .lease(lease)
            .sweep(lease / 10)
            .concurrency(1)
            .handle_raw("a", blocking)
    };
    // A second worker is ready to take over; both have threads of their own, and sweep on.
    let workers = [
        build().start().await.unwrap(),
        build().start().await.unwrap(),
    ];

    p.enqueue(NewJob::raw("a", "")).await;
    p.until_completed(1).await;

    assert_eq!(
        (runs.load(Ordering::SeqCst), p.t.counter("stalled")),
        (1, 0)
    );
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_never_returns_loses_its_job_to_another_worker_and_its_late_result_counts_for_nothing()
 {
    let p = Program::new().await;
    let (tell, mut started) = unbounded_channel();
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(std::sync::Mutex::new(held));
    let calls = Arc::new(AtomicUsize::new(0));
    let handler = move |_: Context| {
        let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
        let _ = tell.send(first);
        if first {
            // No await: neither its timeout nor a cancellation can reach it.
            let _ = held.lock().unwrap().recv();
        }
        std::future::ready(Ok(()))
    };
    let worker = || {
        let short = p
            .worker()
            .lease(Duration::from_secs(1))
            .timeout(Duration::from_millis(50));
        short.handle_raw("a", handler.clone()).start()
    };
    let (one, two) = (worker().await.unwrap(), worker().await.unwrap());
    p.enqueue(NewJob::raw("a", "")).await;
    assert!(next(&mut started).await);

    assert!(
        !next(&mut started).await,
        "the job runs again while the first call is stuck"
    );
    p.until_completed(1).await;
    drop(let_go);

    p.until("the late result is refused", |t| {
        t.counter("lease_lost") == 1
    })
    .await;
    assert_eq!((p.t.counter("completed"), p.t.counter("stalled")), (1, 1));
    tokio::join!(one.stop(), two.stop());
}

/// How many scripts Redis has run.
fn script_calls(t: &Fixture) -> u64 {
    let stats = t.redis(&["INFO", "commandstats"]);
    let mut lines = stats.text().lines();
    let calls = lines.find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn what_gathers_behind_a_larger_call_goes_when_that_returns() {
    let redis = PrivateRedis::start(Default::default()).unwrap();
    let p = Program::over(Fixture::on(&redis).await).await;
    let before = script_calls(&p.t);
    p.t.redis(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    let enqueue = |payload| p.queue.enqueue(NewJob::raw("a", payload));
    let late = async {
        // The first is on its way by now, and the next two are in a call beside it.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let mut late = std::pin::pin!(enqueue("late"));
        assert!(futures_util::poll!(&mut late).is_pending());
        p.t.redis(&["CLIENT", "UNPAUSE"]);
        late.await
    };

    let (first, second, third, late) = tokio::join!(enqueue("1"), enqueue("2"), enqueue("3"), late);

    for told in [first, second, third, late] {
        assert!(!told.unwrap().duplicate);
    }
    assert_eq!(script_calls(&p.t) - before, 3);
    assert_eq!(p.t.counter("enqueued"), 4);
}

#[tokio::test]
async fn what_many_tasks_enqueue_at_once_travels_together() {
    let redis = PrivateRedis::start(Default::default()).unwrap();
    let p = Program::over(Fixture::on(&redis).await).await;
    let before = script_calls(&p.t);

    let tasks = (0..64).map(|task| {
        let queue = p.queue.clone();
        tokio::spawn(async move {
            let mut told = Vec::new();
            for job in 0..50 {
                let payload = format!("{task}/{job}");
                let enqueued = queue.enqueue(NewJob::raw("a", payload.clone())).await;
                told.push((enqueued.unwrap().id.to_string(), payload.into_bytes()));
            }
            told
        })
    });
    let mut told = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        told.extend(task.await.unwrap());
    }

    let made = script_calls(&p.t) - before;
    assert!(made <= 800, "{made} calls for 3,200 jobs");
    // Each was told the id of its own job.
    let entries = p.t.redis(&["XRANGE", &p.t.key("ready"), "-", "+"]);
    let entries = entries.list().iter().map(|entry| {
        let payload = entry.list()[1].field("payload");
        (entry.list()[0].text().to_owned(), payload.bytes().to_vec())
    });
    told.sort_unstable();
    let mut stored: Vec<_> = entries.collect();
    stored.sort_unstable();
    assert!(told == stored, "an id belongs to another job");
    assert_eq!(stored.len(), 3200);
    p.t.assert_every_job_has_one_home();
}
