//! What the engine counts, beside what Redis holds after a run in which everything happens.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use millstream::job::state::State;
use millstream::metrics::{BUCKETS_SECONDS, QueueGauges};
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, JobError, Millstream, NewJob};

use crate::support::program::{Program, QUICK};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::{Fixture, LATER};

/// The recorder of this process. Other tests connect before it is there and count nothing, or have queues of their own.
fn recorder() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| {
        let builder = PrometheusBuilder::new().set_buckets(BUCKETS_SECONDS);
        builder.unwrap().install_recorder().unwrap()
    })
}

/// The series of one queue: name, and the other label's value where there is one.
fn samples(page: &str, queue: &str) -> BTreeMap<String, f64> {
    let label = format!("queue=\"{queue}\"");
    page.lines()
        .filter(|line| !line.starts_with('#') && line.contains(&label))
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.strip_suffix('}')?.split_once('{')?;
            let mut others = labels.split(',').filter(|other| *other != label);
            let key = match others.next() {
                Some(other) => format!("{name} {}", other.split('"').nth(1)?),
                None => name.to_owned(),
            };
            let name = key.strip_prefix("millstream_")?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

#[tokio::test]
async fn after_a_run_the_metrics_agree_with_what_redis_holds() {
    let recorder = recorder();
    let p = Program::new().await;
    let times = std::sync::Arc::new(AtomicU32::new(0));
    let counted = times.clone();
    let worker = p
        .worker()
        .max_attempts(2)
        .concurrency(8)
        .handle_raw("job", move |job: Context| {
            let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                assert!(!first, "the first one panics");
                match &job.payload()[..] {
                    b"fail" => Err(JobError::failed("no")),
                    b"once" if job.attempt() == 1 => Err(JobError::failed("not yet")),
                    b"refuse" => Err(JobError::refuse("never")),
                    b"snooze" => Err(JobError::snooze(LATER)),
                    b"later" => Err(JobError::retry_after(LATER, "busy")),
                    _ => Ok(()),
                }
            }
        })
        .start()
        .await
        .unwrap();
    let mut jobs = Vec::new();
    for payload in ["done", "fail", "once", "refuse", "snooze", "later"] {
        jobs.extend((0..20).map(|_| NewJob::raw("job", payload)));
    }
    jobs.extend((0..5).map(|_| NewJob::raw("job", "done").delay(Duration::from_millis(20))));
    jobs.extend((0..5).map(|_| NewJob::raw("job", "done").delay(LATER)));
    jobs.push(NewJob::raw("job", "x").unique_for("k", LATER));
    p.t.expect_window("k");
    p.queue.enqueue_all(jobs).await.unwrap();
    for _ in 0..3 {
        let duplicate = NewJob::raw("job", "x").unique_for("k", LATER);
        assert!(p.queue.enqueue(duplicate).await.unwrap().duplicate);
    }
    p.until("all is settled", |t| {
        let scan = t.scan();
        let homes = scan.homes.values().flatten();
        homes
            .filter(|home| matches!(home.state, State::Ready | State::Running))
            .count()
            == 0
            && t.counter("completed") > 0
            && t.counter("enqueued") == 131
            && t.counter("dead") == 40
            && t.counter("snoozed") == 20
    })
    .await;
    worker.stop().await;
    p.t.assert_every_job_has_one_home();

    let gauges = QueueGauges::new(&p.client, [p.t.queue.as_str()]).unwrap();
    recorder.run_upkeep();
    let page = recorder.render() + &gauges.render().await;
    let samples = samples(&page, &p.t.queue);
    let of = |series: &str| samples.get(series).copied().unwrap_or_default();

    // The lifetime counters of the store.
    for (series, counter) in [
        ("enqueued_jobs_total", "enqueued"),
        ("settled_attempts_total completed", "completed"),
        ("settled_attempts_total retried", "retried"),
        ("settled_attempts_total snoozed", "snoozed"),
        ("settled_attempts_total dead", "dead"),
        ("stalled_jobs_total", "stalled"),
    ] {
        let stored = p.t.counter(counter) as f64;
        assert_eq!(of(series), stored, "{series}: {samples:#?}");
    }
    assert_eq!(of("duplicate_jobs_total"), 3.0);
    assert_eq!(of("dead_jobs_total attempts"), 20.0);
    assert_eq!(of("dead_jobs_total refused"), 20.0);
    let outcomes = [
        "completed",
        "retried",
        "snoozed",
        "dead",
        "released",
        "lost",
    ];
    let settled = outcomes.map(|outcome| of(&format!("settled_attempts_total {outcome}")));
    assert_eq!(settled.iter().sum::<f64>(), of("started_attempts_total"));
    assert_eq!(
        f64::from(times.load(Ordering::SeqCst)),
        of("started_attempts_total")
    );
    for histogram in ["handler_seconds_count", "queue_wait_seconds_count"] {
        assert_eq!(of(histogram), of("started_attempts_total"), "{histogram}");
    }
    assert!(of("promoted_jobs_total") >= 25.0 && of("promotion_lateness_seconds_count") >= 1.0);
    // The clocks are the same here, and nothing took a minute.
    assert!(of("queue_wait_seconds_sum") < 60.0 * of("queue_wait_seconds_count"));
    assert_eq!((of("worker_running_jobs"), of("worker_slots")), (0.0, 0.0));

    // What the scanner sees.
    let scan = p.t.scan();
    for (state, name) in [
        (State::Ready, "ready"),
        (State::Running, "running"),
        (State::Scheduled, "scheduled"),
        (State::Dead, "dead"),
    ] {
        let homes = scan.homes.values().flatten();
        let seen = homes.filter(|home| home.state == state).count();
        assert_eq!(of(&format!("queue_jobs {name}")), seen as f64, "{name}");
    }
    assert_eq!(
        (of("queue_paused"), of("queue_overdue_seconds")),
        (0.0, 0.0)
    );
}

/// Connections are cut, answers are lost and workers vanish with their jobs in hand, all while jobs run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_chaos_the_gauges_agree_with_the_scanner_and_no_counter_is_ahead_of_the_store() {
    const JOBS: usize = 400;
    let recorder = recorder();
    let tcp = Options {
        tcp: true,
        ..Options::default()
    };
    let redis = PrivateRedis::start(tcp).unwrap();
    let mut p = Program::over(Fixture::on(&redis).await).await;
    // The series go by the queue's name, which other tests may have on their servers.
    p.t = Fixture::over(&redis, "chaos").await;
    p.queue = p.client.queue("chaos").unwrap();
    let proxy = Proxy::to(&redis);
    let away = Millstream::connect(&proxy.url()).await.unwrap();
    let worker = away.worker("chaos").unwrap().backoff(QUICK).max_attempts(2);
    let worker = worker
        .lease(Duration::from_secs(1))
        .sweep(Duration::from_millis(100));
    let worker = worker
        .concurrency(8)
        .handle_raw("job", async |job: Context| {
            tokio::time::sleep(Duration::from_millis(5)).await;
            match &job.payload()[..] {
                b"fail" => Err(JobError::failed("no")),
                b"refuse" => Err(JobError::refuse("never")),
                b"later" => Err(JobError::snooze(LATER)),
                _ => Ok(()),
            }
        });
    let worker = worker.start().await.unwrap();
    let payloads = ["done", "done", "fail", "refuse", "later"];
    for batch in 0..8 {
        let jobs = (0..JOBS / 8).map(|n| NewJob::raw("job", payloads[n % payloads.len()]));
        p.queue.enqueue_all(jobs.collect::<Vec<_>>()).await.unwrap();
        // Somebody who takes jobs and is never heard of again.
        if batch % 2 == 0 {
            p.t.claim_as(&format!("gone-{batch}"), 3).await;
        }
        for script in ["complete", "retry", "dead_letter", "EVALSHA"] {
            proxy.arm(Rule::once(script, Fault::DropAfter));
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        proxy.cut();
    }
    proxy.heal();
    let (dead, later) = (JOBS as i64 * 2 / 5, JOBS as u64 / 5);
    p.until("all is settled", |t| {
        let scan = t.scan();
        let homes: Vec<_> = scan
            .homes
            .values()
            .flatten()
            .map(|home| home.state)
            .collect();
        let of = |state: State| homes.iter().filter(|home| **home == state).count() as u64;
        let at_work = of(State::Ready) + of(State::Running);
        t.counter("completed") + dead == JOBS as i64 - later as i64
            && at_work == 0
            && of(State::Scheduled) == later
    })
    .await;
    worker.stop().await;
    p.t.assert_every_job_has_one_home();

    let gauges = QueueGauges::new(&p.client, ["chaos"]).unwrap();
    let samples = samples(&(recorder.render() + &gauges.render().await), "chaos");
    let of = |series: &str| samples.get(series).copied().unwrap_or_default();
    let scan = p.t.scan();
    for (state, name) in [
        (State::Ready, "ready"),
        (State::Running, "running"),
        (State::Scheduled, "scheduled"),
        (State::Held, "held"),
        (State::Dead, "dead"),
    ] {
        let homes = scan.homes.values().flatten();
        let seen = homes.filter(|home| home.state == state).count();
        assert_eq!(
            of(&format!("queue_jobs {name}")),
            seen as f64,
            "{name}: {samples:#?}"
        );
    }
    assert_eq!(of("enqueued_jobs_total"), JOBS as f64);
    assert!(
        of("stalled_jobs_total") >= 1.0,
        "nobody vanished: {samples:#?}"
    );
    // What was carried out and whose answer was lost may count as lost, and nothing counts that was not.
    for (series, counter) in [
        ("settled_attempts_total completed", "completed"),
        ("settled_attempts_total retried", "retried"),
        ("settled_attempts_total dead", "dead"),
        ("stalled_jobs_total", "stalled"),
    ] {
        let (counted, stored) = (of(series), p.t.counter(counter) as f64);
        assert!(
            counted <= stored,
            "{series}: {counted} of {stored}: {samples:#?}"
        );
    }
    let outcomes = [
        "completed",
        "retried",
        "snoozed",
        "dead",
        "released",
        "lost",
    ];
    let settled = outcomes.map(|outcome| of(&format!("settled_attempts_total {outcome}")));
    assert_eq!(
        settled.iter().sum::<f64>(),
        of("started_attempts_total"),
        "{samples:#?}"
    );
    assert_eq!((of("worker_running_jobs"), of("worker_slots")), (0.0, 0.0));
}

#[tokio::test]
async fn a_worker_that_went_silent_is_counted_by_who_finds_it() {
    recorder();
    let p = Program::new().await;
    let silent = p.t.running(NewJob::raw("job", "x")).await;
    p.t.let_lease_lapse(&silent);
    let worker = p.worker().sweep(Duration::from_millis(100));
    let worker = worker
        .fallback(async |_: Context| Ok(()))
        .start()
        .await
        .unwrap();
    p.until_completed(1).await;
    worker.stop().await;

    let samples = samples(&recorder().render(), &p.t.queue);
    assert_eq!(samples["stalled_jobs_total"], 1.0);
    assert_eq!(samples["settled_attempts_total completed"], 1.0);
    // Too late: counted where it is settled by a worker, and by the store.
    assert_eq!(p.t.complete(&[&silent]).await, [silent.entry]);
    assert_eq!(p.t.counter("stalled"), 1);
}

#[tokio::test]
async fn the_oldest_ready_and_the_most_overdue_job_tell_their_age() {
    let p = Program::new().await;
    let gauges = QueueGauges::new(&p.client, [p.t.queue.as_str()]).unwrap();
    let queue = p.t.queue.clone();
    let look = async || samples(&gauges.render().await, &queue);
    let empty = look().await;
    assert_eq!(empty["queue_oldest_ready_seconds"], 0.0);
    assert_eq!(empty["queue_jobs ready"], 0.0);

    p.t.enqueue(NewJob::raw("job", "x")).await;
    let delayed = p.t.enqueue(NewJob::raw("job", "x").delay(LATER)).await;
    let minute_ago = (p.t.now_us() / 1000 - 60_000).to_string();
    let scheduled = p.t.key("scheduled");
    p.t.redis(&["ZADD", &scheduled, &minute_ago, delayed.as_str()]);
    p.t.broker
        .pause(true, crate::support::PATIENCE)
        .await
        .unwrap();

    let samples = look().await;
    assert!(
        (60.0..90.0).contains(&samples["queue_overdue_seconds"]),
        "{samples:?}"
    );
    assert!((0.0..30.0).contains(&samples["queue_oldest_ready_seconds"]));
    assert!((0.0..30.0).contains(&samples["queue_upkeep_lag_seconds"]));
    assert_eq!(samples["queue_paused"], 1.0);
    assert_eq!(samples["queue_jobs ready"], 1.0);
}
