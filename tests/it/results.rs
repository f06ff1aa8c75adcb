//! What handlers give back, and those who wait for it in another process.

use std::time::Duration;

use millstream::job::codec::Codec;
use millstream::job::state::State;
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, Error, JobError, JobId, Millstream, NewJob, Queue};
use serde::{Deserialize, Serialize};

use crate::support::program::{Program, SLACK};
use crate::support::proxy::Proxy;
use crate::support::resp::Value;
use crate::support::{Fixture, LATER};

const HOUR: Duration = Duration::from_secs(3600);
const MOMENT: Duration = Duration::from_millis(50);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Sum {
    of: Vec<u64>,
    total: u64,
}

fn add(numbers: &[u64]) -> NewJob {
    NewJob::new("add", numbers).unwrap()
}

/// Another process: a client of its own.
async fn elsewhere(p: &Program) -> Queue {
    let client = Millstream::connect(&p.t.url).await.unwrap();
    client.queue(&p.t.queue).unwrap()
}

async fn adding(p: &Program) -> millstream::Worker {
    let add = |numbers: Vec<u64>, _: Context| async move {
        if numbers.is_empty() {
            return Err(JobError::refuse("nothing to add"));
        }
        let total = numbers.iter().sum();
        Ok(Sum { of: numbers, total })
    };
    let none = |_: Context| async { Ok(()) };
    let raw = |job: Context| async move { Ok(job.set_result_raw(b"\xff\0bytes".to_vec())?) };
    let large = |job: Context| async move { Ok(job.set_result_raw(vec![0; (1 << 20) + 1])?) };
    let worker = p.worker().max_attempts(1).handle_with_result("add", add);
    let worker = worker.handle_raw("none", none).handle_raw("raw", raw);
    worker.handle_raw("large", large).start().await.unwrap()
}

fn kept(p: &Program, id: &JobId) -> bool {
    p.t.redis(&["EXISTS", &p.t.key(&format!("result:{id}"))])
        .int()
        == 1
}

#[tokio::test]
async fn who_waits_in_another_process_gets_what_the_handler_gave_back() {
    let p = Program::new().await;
    let other = elsewhere(&p).await;
    let id = p.enqueue(add(&[1, 2, 3]).keep_result(HOUR)).await;
    let waiting = {
        let (other, id) = (other.clone(), id.clone());
        tokio::spawn(async move { other.wait::<Sum>(&id, SLACK).await })
    };

    let worker = adding(&p).await;

    let sum = waiting.await.unwrap().unwrap();
    assert_eq!((sum.of, sum.total), (vec![1, 2, 3], 6));
    // It is kept: whoever comes later gets it at once, also where nothing more happens.
    worker.stop().await;
    let result = other
        .wait_result(&id, Duration::from_millis(1))
        .await
        .unwrap();
    assert_eq!(
        (result.name.as_str(), result.attempt, result.codec),
        ("add", 1, Codec::MsgPack)
    );
    let ttl =
        p.t.redis(&["PTTL", &p.t.key(&format!("result:{id}"))])
            .int();
    assert!((1..=3_600_000).contains(&ttl), "{ttl}");
    p.t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_handler_that_gives_nothing_back_or_bytes_is_waited_for_as_well() {
    let p = Program::new().await;
    let worker = adding(&p).await;

    let none = p.enqueue(NewJob::raw("none", "").keep_result(HOUR)).await;
    p.queue.wait::<()>(&none, SLACK).await.unwrap();
    assert_eq!(
        p.queue.wait::<Option<u8>>(&none, SLACK).await.unwrap(),
        None
    );
    let raw = p.enqueue(NewJob::raw("raw", "").keep_result(HOUR)).await;
    let result = p.queue.wait_result(&raw, SLACK).await.unwrap();
    assert_eq!(
        (result.codec, result.value.as_deref()),
        (Codec::Raw, Some(&b"\xff\0bytes"[..]))
    );
    assert!(matches!(
        p.queue.wait::<u8>(&raw, SLACK).await,
        Err(Error::Decode { .. })
    ));

    worker.stop().await;
}

#[tokio::test]
async fn what_nobody_asked_for_is_not_kept() {
    let p = Program::new().await;
    let worker = adding(&p).await;

    let id = p.enqueue(add(&[1])).await;
    p.until_completed(1).await;

    assert!(!kept(&p, &id));
    assert_eq!(p.t.redis(&["EXISTS", &p.t.key("results")]).int(), 0);
    let waited = p.queue.wait::<Sum>(&id, SLACK).await;
    assert!(
        matches!(waited, Err(Error::NoResult { ref job, .. }) if *job == id),
        "{waited:?}"
    );
    worker.stop().await;
}

#[tokio::test]
async fn whoever_waits_is_told_of_death_and_cancellation_at_once() {
    let p = Program::new().await;
    let dies = p.enqueue(add(&[]).keep_result(HOUR)).await;
    let cancelled = p.enqueue(add(&[1]).keep_result(HOUR).delay(LATER)).await;
    let wait = |id: &JobId| {
        let (queue, id) = (p.queue.clone(), id.clone());
        tokio::spawn(async move { queue.wait::<Sum>(&id, 10 * SLACK).await })
    };
    let (first, second) = (wait(&dies), wait(&cancelled));
    let worker = adding(&p).await;

    let died = first.await.unwrap();
    p.client
        .inspect(&p.t.queue)
        .unwrap()
        .cancel(&cancelled)
        .await
        .unwrap();
    let called_off = second.await.unwrap();

    match died {
        Err(Error::JobDied { reason, error, .. }) => assert_eq!(
            (reason.as_str(), error.as_str()),
            ("refused", "nothing to add")
        ),
        other => panic!("{other:?}"),
    }
    assert!(
        matches!(called_off, Err(Error::NoResult { .. })),
        "{called_off:?}"
    );
    // Dead already.
    assert!(matches!(
        p.queue.wait::<Sum>(&dies, SLACK).await,
        Err(Error::JobDied { .. })
    ));
    worker.stop().await;
}

#[tokio::test]
async fn a_wait_ends_in_time_and_the_job_goes_on() {
    let p = Program::new().await;
    let id = p.enqueue(add(&[1]).keep_result(HOUR)).await;

    let waited = p.queue.wait::<Sum>(&id, MOMENT).await;

    assert!(
        matches!(waited, Err(Error::NotYet { waited, .. }) if waited == MOMENT),
        "{waited:?}"
    );
    let nobody = p.queue.wait::<Sum>(&"0-1".into(), SLACK).await;
    assert!(matches!(nobody, Err(Error::NoResult { .. })), "{nobody:?}");
    let worker = adding(&p).await;
    assert_eq!(p.queue.wait::<Sum>(&id, SLACK).await.unwrap().total, 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_result_that_is_too_large_is_a_failed_attempt() {
    let p = Program::new().await;
    let worker = adding(&p).await;

    let id = p.enqueue(NewJob::raw("large", "").keep_result(HOUR)).await;

    let waited = p.queue.wait::<()>(&id, SLACK).await;
    match waited {
        Err(Error::JobDied { error, .. }) => assert!(error.contains("1048576"), "{error}"),
        other => panic!("{other:?}"),
    }
    // For a job whose producer does not want it, it does not matter.
    p.enqueue(NewJob::raw("large", "")).await;
    p.until_completed(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn what_was_cancelled_before_its_handler_was_through_leaves_no_result() {
    let p = Program::new().await;
    let stubborn = |_: u64, job: Context| async move {
        job.cancelled().cancelled().await;
        Ok::<u64, JobError>(7)
    };
    let worker = p.worker().handle_with_result("late", stubborn);
    let worker = worker.start().await.unwrap();
    let late = NewJob::new("late", &7u64).unwrap().keep_result(HOUR);
    let id = p.enqueue(late).await;
    p.until("it runs", |t| t.state_of(&id) == Some(State::Running))
        .await;

    let inspector = p.client.inspect(&p.t.queue).unwrap();
    inspector.cancel(&id).await.unwrap();

    // Its handler succeeds all the same, and is told that it came too late.
    p.until("it was late", |t| t.counter("lease_lost") == 1)
        .await;
    assert!(!kept(&p, &id));
    worker.stop().await;
}

#[tokio::test]
async fn a_wait_outlives_lost_connections() {
    let redis = PrivateRedis::start(Options {
        tcp: true,
        ..Options::default()
    })
    .unwrap();
    let p = Program::over(Fixture::on(&redis).await).await;
    let proxy = Proxy::to(&redis);
    let client = Millstream::connect(&proxy.url()).await.unwrap();
    let queue = client.queue(&p.t.queue).unwrap();
    let id = p.enqueue(add(&[2, 3]).keep_result(HOUR)).await;
    let waiting = {
        let id = id.clone();
        tokio::spawn(async move { queue.wait::<Sum>(&id, 10 * SLACK).await })
    };
    let is_blocked = |t: &Fixture| t.redis(&["CLIENT", "LIST"]).text().contains("cmd=xread ");
    p.until("somebody waits", is_blocked).await;

    proxy.cut();
    p.until("somebody waits again", is_blocked).await;
    let worker = adding(&p).await;

    assert_eq!(waiting.await.unwrap().unwrap().total, 5);
    worker.stop().await;
    assert_eq!(p.t.redis(&["XLEN", &p.t.key("results")]), Value::Int(1));
}
