//! Sealed payloads: Redis never holds the plain text, wherever the job goes; whoever has the key reads it, nobody else does.

use millstream::private_redis::PrivateRedis;
use millstream::{Context, JobError, KeyRing, Millstream, NewJob};
use tokio::sync::mpsc::unbounded_channel;

use crate::support::Fixture;
use crate::support::program::{Program, QUICK, next};

const OLD: &str = "2025:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const NEW: &str = "2026:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const PLAIN: &[u8] = b"card 4111 1111 1111 1111 \xff\0";

/// The client of one who has these keys.
async fn client(t: &Fixture, keys: &[&str]) -> Millstream {
    let builder = Millstream::builder(&t.url);
    let builder = builder.encrypt(&t.queue, KeyRing::new(keys).unwrap());
    builder.connect().await.unwrap()
}

async fn holding(t: Fixture, keys: &[&str]) -> Program {
    let client = client(&t, keys).await;
    let queue = client.queue(&t.queue).unwrap();
    Program { t, client, queue }
}

/// Whether Redis holds these bytes anywhere: in a key, a stream, a hash, or the file that it writes.
fn is_anywhere(redis: &PrivateRedis, t: &Fixture, wanted: &[u8]) -> bool {
    t.redis(&["SAVE"]);
    let dump = redis.dir().join("dump.rdb");
    let dump = std::fs::read(dump).expect("the file that SAVE wrote");
    dump.windows(wanted.len()).any(|bytes| bytes == wanted)
}

#[tokio::test]
async fn the_handler_gets_the_plain_payload_and_redis_never_holds_it() {
    // Without compression, the file shows what it holds.
    let options = millstream::private_redis::Options {
        args: ["--rdbcompression", "no"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let redis = PrivateRedis::start(options).unwrap();
    let p = holding(Fixture::on(&redis).await, &[NEW]).await;
    p.queue
        .enqueue(NewJob::raw("canary", "in the clear"))
        .await
        .unwrap();
    p.enqueue(NewJob::raw("pay", PLAIN)).await;
    let ready = is_anywhere(&redis, &p.t, b"4111") || is_anywhere(&redis, &p.t, b"in the clear");
    assert!(!ready && is_anywhere(&redis, &p.t, b"canary"));

    let (tell, mut hear) = unbounded_channel();
    let worker = p
        .worker()
        .handle_raw("canary", |_: Context| async { Ok(()) })
        .handle_raw("pay", move |job: Context| {
            let tell = tell.clone();
            async move {
                tell.send((job.attempt(), job.payload().clone()))?;
                match job.attempt() {
                    1 => Err(JobError::failed("not yet")),
                    _ => Err(JobError::refuse("never")),
                }
            }
        })
        .start()
        .await
        .unwrap();
    assert_eq!(next(&mut hear).await, (1, PLAIN.into()));
    assert_eq!(next(&mut hear).await, (2, PLAIN.into()));
    worker.stop().await;

    assert_eq!(p.t.counter("dead"), 1);
    assert!(
        !is_anywhere(&redis, &p.t, b"4111"),
        "parked in the dead letter"
    );
    p.t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_worker_without_the_key_fails_the_attempt_and_the_one_that_has_it_does_the_job() {
    let p = holding(Fixture::new().await, &[OLD]).await;
    let id = p.enqueue(NewJob::raw("pay", PLAIN)).await;
    let without = Millstream::connect(&p.t.url).await.unwrap();
    let refusing = without
        .worker(&p.t.queue)
        .unwrap()
        .backoff(QUICK)
        .handle_raw("pay", |_: Context| async { Ok(()) })
        .max_attempts(100_000)
        .start()
        .await
        .unwrap();
    p.until("a failed attempt", |t| t.counter("failed") > 0)
        .await;
    refusing.stop().await;
    let record = p.t.record_of(&id).unwrap().to_string();
    assert!(
        record.contains("2025") && record.contains("key ring"),
        "{record}"
    );
    assert_eq!(p.t.counter("completed"), 0);

    // The key was rotated meanwhile; the old one is still there.
    let rotated = client(&p.t, &[NEW, OLD]).await;
    let (tell, mut hear) = unbounded_channel();
    let worker = rotated
        .worker(&p.t.queue)
        .unwrap()
        .max_attempts(100_000)
        .handle_raw("pay", move |job: Context| {
            let tell = tell.clone();
            async move { Ok(tell.send(job.payload().clone())?) }
        })
        .start()
        .await
        .unwrap();
    assert_eq!(next(&mut hear).await, PLAIN);
    p.until_completed(1).await;
    worker.stop().await;
}

#[tokio::test]
async fn an_operator_sees_the_payload_only_with_the_key() {
    let p = holding(Fixture::new().await, &[NEW]).await;
    let ready = p.enqueue(NewJob::raw("pay", PLAIN)).await;
    let later = NewJob::raw("pay", PLAIN).delay(crate::support::LATER);
    let scheduled = p.enqueue(later).await;
    let without = Millstream::connect(&p.t.url).await.unwrap();

    for id in [ready, scheduled] {
        let seen = p
            .client
            .inspect(&p.t.queue)
            .unwrap()
            .show(&id)
            .await
            .unwrap();
        assert_eq!(seen.payload.as_deref(), Some(PLAIN));
        let hidden = without
            .inspect(&p.t.queue)
            .unwrap()
            .show(&id)
            .await
            .unwrap();
        assert_eq!(
            (hidden.payload, hidden.sealed_with.as_deref()),
            (None, Some("2026"))
        );
    }
}

#[tokio::test]
async fn bytes_that_somebody_changed_in_redis_reach_no_handler() {
    let p = holding(Fixture::new().await, &[NEW]).await;
    let later = NewJob::raw("pay", PLAIN).delay(crate::support::LATER);
    let id = p.enqueue(later.max_attempts(1)).await;
    p.t.redis(&["HSET", &p.t.key("payloads"), id.as_str(), "forged"]);
    p.client
        .inspect(&p.t.queue)
        .unwrap()
        .run_now(&id)
        .await
        .unwrap();
    let worker = p
        .worker()
        .handle_raw("pay", |_: Context| async { Ok(()) })
        .start()
        .await
        .unwrap();

    let record = p.until_dead(&id).await;

    worker.stop().await;
    assert!(
        record.to_string().contains("not those that were sealed"),
        "{record}"
    );
    assert_eq!(p.t.counter("completed"), 0);
}

#[tokio::test]
async fn a_schedule_keeps_its_payload_sealed_and_the_same_one_again_changes_nothing() {
    use millstream::schedule::{Change, Schedule};
    let redis = PrivateRedis::start(Default::default()).unwrap();
    let p = holding(Fixture::on(&redis).await, &[OLD]).await;
    let pay = || {
        Schedule::every(
            std::time::Duration::from_secs(60),
            NewJob::raw("pay", PLAIN),
        )
    };
    let schedules = p.client.schedules(&p.t.queue).unwrap();
    schedules.set("pay", pay()).await.unwrap();
    assert_eq!(
        schedules.set("pay", pay()).await.unwrap().change,
        Change::Unchanged
    );
    // With a new key in front, it is sealed anew.
    let rotated = client(&p.t, &[NEW, OLD])
        .await
        .schedules(&p.t.queue)
        .unwrap();
    assert_eq!(
        rotated.set("pay", pay()).await.unwrap().change,
        Change::Changed
    );
    let due = (p.t.now_us() / 60_000_000 * 60_000).to_string();
    p.t.redis(&["ZADD", &p.t.key("cron:due"), &due, "pay"]);
    schedules.fire_due().await.unwrap();
    assert!(!is_anywhere(&redis, &p.t, b"4111"));

    let (tell, mut hear) = unbounded_channel();
    let worker = client(&p.t, &[NEW]).await.worker(&p.t.queue).unwrap();
    let handler = move |job: Context| {
        let _ = tell.send(job.payload().clone());
        std::future::ready(Ok::<(), JobError>(()))
    };
    let worker = worker.handle_raw("pay", handler).start().await.unwrap();
    assert_eq!(next(&mut hear).await, PLAIN);
    worker.stop().await;
}

#[tokio::test]
async fn what_a_handler_tells_of_its_job_is_sealed_as_well() {
    // Without compression, the file shows what it holds.
    let options = millstream::private_redis::Options {
        args: ["--rdbcompression", "no"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let redis = PrivateRedis::start(options).unwrap();
    let p = holding(Fixture::on(&redis).await, &[NEW]).await;
    let (tell, mut hear) = unbounded_channel();
    let worker = p
        .worker()
        .handle_raw("pay", move |job: Context| {
            job.progress((1, 4), "card 4111");
            job.log("cvc 737 of card 4111");
            let _ = tell.send(job.id().clone());
            std::future::ready(Err(JobError::refuse("never")))
        })
        .start()
        .await
        .unwrap();
    p.enqueue(NewJob::raw("pay", PLAIN)).await;
    let id = next(&mut hear).await;
    p.until_dead(&id).await;

    assert!(!is_anywhere(&redis, &p.t, b"4111"));
    let told = p.queue.progress(&id).await.unwrap().unwrap();
    assert_eq!(
        (told.percent(), told.note.as_deref()),
        (Some(25), Some("card 4111"))
    );
    assert_eq!(told.log[0].line, "cvc 737 of card 4111");
    // With another key it is there, and cannot be read.
    let other = client(&p.t, &[OLD]).await.queue(&p.t.queue).unwrap();
    let told = other.progress(&id).await.unwrap().unwrap();
    assert_eq!(told.percent(), Some(25));
    let shown = [told.note.unwrap(), told.log[0].line.clone()];
    assert!(
        shown
            .iter()
            .all(|text| text.contains("2026") && !text.contains("4111"))
    );
    worker.stop().await;
}
