//! What handlers tell of their jobs while these run: how far they are, and lines of a log.

use std::sync::Arc;
use std::time::Duration;

use millstream::broker::{Author, Delivery, Note};
use millstream::inspect::{EventDetail, EventKind};
use millstream::{Context, Error, HowFar, JobError, NewJob, Progress, Result};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::unbounded_channel;

use crate::support::program::{Program, next};
use crate::support::resp::Value;
use crate::support::verbs::plain;
use crate::support::{Fixture, LATER, PATIENCE};

impl Fixture {
    async fn note(
        &self,
        delivery: &Delivery,
        number: u64,
        percent: u64,
        lines: &[&str],
    ) -> Result<()> {
        let note = Note {
            number,
            told: Some((HowFar::of(percent, 100), format!("at {percent}"))),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        let author = Author::of(delivery);
        self.broker.note_progress(&author, &note, PATIENCE).await
    }
}

impl Program {
    async fn told(&self, delivery: &Delivery) -> Option<Progress> {
        self.queue.progress(&delivery.id).await.expect("an answer")
    }
}

fn lines(progress: &Progress) -> Vec<&str> {
    progress.log.iter().map(|line| &*line.line).collect()
}

#[tokio::test]
async fn what_a_running_job_tells_is_seen_until_it_is_completed() {
    let p = Program::new().await;
    let delivery = p.t.running(plain()).await;
    assert_eq!(p.told(&delivery).await, None);

    p.t.note(&delivery, 1, 40, &["one", "two"]).await.unwrap();
    p.t.note(&delivery, 2, 60, &["three"]).await.unwrap();

    let told = p.told(&delivery).await.unwrap();
    assert_eq!((told.done, told.total, told.percent()), (60, 100, Some(60)));
    assert_eq!((told.note.as_deref(), told.attempt), (Some("at 60"), 1));
    assert_eq!(lines(&told), ["one", "two", "three"]);
    let now_ms = (p.t.now_us() / 1000).unsigned_abs();
    assert!((now_ms - 60_000..=now_ms).contains(&told.told_ms.unwrap()));
    let inspect = p.client.inspect(&p.t.queue).unwrap();
    assert_eq!(
        inspect.show(&delivery.id).await.unwrap().progress,
        Some(told)
    );
    p.t.assert_every_job_has_one_home();

    // As the worker says it whose handler has told something.
    let done = [millstream::broker::Done {
        told: true,
        ..millstream::broker::Done::new(&delivery, Duration::ZERO)
    }];
    let mut caller = p.t.caller();
    let lost =
        p.t.broker
            .complete(&mut caller, delivery.lane, &done, 0, PATIENCE);
    assert_eq!(lost.await.unwrap(), []);
    assert_eq!(p.told(&delivery).await, None);
    assert_eq!(p.t.redis(&["EXISTS", &p.t.key("progress")]), Value::Int(0));
}

#[tokio::test]
async fn a_note_that_is_sent_again_is_written_once() {
    let p = Program::new().await;
    let delivery = p.t.running(plain()).await;
    for _ in 0..2 {
        p.t.note(&delivery, 1, 10, &["one"]).await.unwrap();
    }
    p.t.note(&delivery, 2, 50, &["two"]).await.unwrap();
    // It was on its way for long.
    p.t.note(&delivery, 1, 10, &["one"]).await.unwrap();

    let told = p.told(&delivery).await.unwrap();
    assert_eq!((told.done, lines(&told)), (50, vec!["one", "two"]));
}

#[tokio::test]
async fn a_delivery_that_is_no_longer_live_tells_nothing_more() {
    let p = Program::new().await;
    let stale = p.t.running(plain()).await;
    p.t.note(&stale, 1, 10, &["from the first"]).await.unwrap();
    let second = p.t.take_over(&stale).await;

    let told = p.t.note(&stale, 2, 90, &["too late"]).await;
    assert!(matches!(told, Err(Error::LeaseLost { .. })), "{told:?}");
    p.t.note(&second, 1, 20, &["from the second"])
        .await
        .unwrap();

    let told = p.told(&second).await.unwrap();
    assert_eq!(told.done, 20);
    assert_eq!(lines(&told), ["from the first", "from the second"]);

    p.t.complete(&[&second]).await;
    let told = p.t.note(&second, 2, 30, &["after the end"]).await;
    assert!(matches!(told, Err(Error::LeaseLost { .. })), "{told:?}");
    assert_eq!(p.told(&second).await, None);
    p.t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn the_newest_hundred_lines_are_kept() {
    let p = Program::new().await;
    let delivery = p.t.running(plain()).await;
    let all: Vec<String> = (0..250).map(|n| format!("line {n}")).collect();
    for (number, part) in all.chunks(50).enumerate() {
        let part: Vec<&str> = part.iter().map(String::as_str).collect();
        p.t.note(&delivery, number as u64 + 1, 1, &part)
            .await
            .unwrap();
    }
    let told = p.told(&delivery).await.unwrap();
    assert_eq!(lines(&told), &all[150..]);
    p.t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn what_was_told_outlives_retries_and_death_and_goes_with_the_job() {
    let p = Program::new().await;
    let inspect = p.client.inspect(&p.t.queue).unwrap();
    let first = p.t.running(plain()).await;
    p.t.note(&first, 1, 30, &["first"]).await.unwrap();
    let second = p.t.fail_once(&first, "boom").await;
    p.t.note(&second, 1, 60, &["second"]).await.unwrap();
    let told = p.told(&second).await.unwrap();
    let attempts: Vec<u32> = told.log.iter().map(|line| line.attempt).collect();
    assert_eq!(
        (lines(&told), attempts),
        (vec!["first", "second"], vec![1, 2])
    );
    p.t.dead_letter(&second, "no").await.unwrap();
    assert_eq!(p.told(&second).await.unwrap().done, 60);
    p.t.assert_every_job_has_one_home();
    assert_eq!(
        inspect
            .purge(std::slice::from_ref(&second.id))
            .await
            .unwrap(),
        1
    );
    assert_eq!(p.told(&second).await, None);

    let told = async |job: NewJob| {
        let delivery = p.t.running(job).await;
        p.t.note(&delivery, 1, 30, &["line"]).await.unwrap();
        delivery
    };
    let cancelled = told(plain()).await;
    inspect.cancel(&cancelled.id).await.unwrap();
    assert_eq!(p.told(&cancelled).await, None);

    let pruned = told(plain()).await;
    p.t.dead_letter(&pruned, "no").await.unwrap();
    let age = Some(Duration::ZERO);
    p.t.broker
        .prune(None, age, None, None, 10, PATIENCE)
        .await
        .unwrap();
    assert_eq!(p.told(&pruned).await, None);

    let purged = told(plain().group("g")).await;
    let ids = std::slice::from_ref(&purged.id);
    let caller = &mut p.t.caller();
    p.t.broker
        .group_purge(caller, "g", ids, 1, PATIENCE)
        .await
        .unwrap();
    assert_eq!(p.told(&purged).await, None);

    // Of one that came back, also when its last handler told nothing.
    let retried = told(plain()).await;
    let retried = p.t.fail_once(&retried, "boom").await;
    p.t.complete(&[&retried]).await;
    assert_eq!(p.told(&retried).await, None);
    assert_eq!(p.t.redis(&["EXISTS", &p.t.key("progress")]), Value::Int(0));
}

#[tokio::test]
async fn what_an_earlier_attempt_told_goes_with_a_job_of_a_group() {
    let t = Fixture::new().await;
    t.limit_groups(1).await;
    for others_wait in [false, true] {
        let told = t.running(plain().group("g")).await;
        t.note(&told, 1, 50, &[]).await.unwrap();
        let again = t.fail_once(&told, "boom").await;
        if others_wait {
            t.enqueue(plain().group("g")).await;
        }

        assert_eq!(t.complete(&[&again]).await, []);

        t.assert_every_job_has_one_home();
        assert_eq!(t.redis(&["EXISTS", &t.key("progress")]).int(), 0);
    }
}

#[tokio::test]
async fn the_doctor_removes_what_was_told_of_a_job_that_is_nowhere() {
    let t = Fixture::new().await;
    let running = t.running(plain()).await;
    let scheduled = t.enqueue(plain().delay(LATER)).await;
    t.note(&running, 1, 10, &["line"]).await.unwrap();
    for id in [scheduled.as_str(), "nobody", "1-1"] {
        t.redis(&["HSET", &t.key("progress"), id, "{}"]);
    }
    let part = millstream::broker::doctor::Part::Progress;
    let mut wrong = t
        .broker
        .audit(part, None, 100, PATIENCE)
        .await
        .unwrap()
        .wrong;
    wrong.sort();
    let kind = "orphan-progress".to_owned();
    assert_eq!(
        wrong,
        [
            (kind.clone(), "1-1".to_owned()),
            (kind, "nobody".to_owned())
        ]
    );

    let ids = ["nobody", "1-1", scheduled.as_str(), running.id.as_str()].map(str::to_owned);
    let mended = t.broker.mend(part, "orphan-progress", &ids, PATIENCE).await;

    assert_eq!(mended.unwrap(), 2);
    t.assert_every_job_has_one_home();
    assert_eq!(t.scan().progress.len(), 2);
}

#[tokio::test]
async fn the_events_tell_of_quarters_and_of_nothing_smaller() {
    let p = Program::new().await;
    let delivery = p.t.running(plain()).await;
    for (number, percent) in [1, 10, 26, 30, 49, 80, 60, 100, 100]
        .into_iter()
        .enumerate()
    {
        p.t.note(&delivery, number as u64 + 1, percent, &[])
            .await
            .unwrap();
    }
    let events = p.client.inspect(&p.t.queue).unwrap();
    let events = events.events(None, 100).await.unwrap().events;
    let told = events.iter().map(|event| {
        assert_eq!(
            (&event.event, &event.job),
            (&EventKind::Progress, &Some(delivery.id.clone()))
        );
        event.parsed()
    });
    let percent = |percent| EventDetail::Progress { percent };
    assert_eq!(
        told.collect::<Vec<_>>(),
        [percent(25), percent(75), percent(100)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chatty_handler_writes_little_and_its_last_word_before_the_job_is_settled() {
    let p = Program::new().await;
    let (tell, mut at_work) = unbounded_channel();
    let go_on = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&go_on);
    let handler = move |job: Context| {
        let (tell, gate) = (tell.clone(), Arc::clone(&gate));
        async move {
            for n in 0..10_000 {
                job.progress((n, 10_000), format!("step {n}"));
                job.log(format!("line {n}"));
            }
            let _ = tell.send(job.id().clone());
            gate.acquire().await?.forget();
            job.progress((10_000, 10_000), "through");
            job.log("the last line");
            Err(JobError::refuse("to be looked at"))
        }
    };
    let worker = p.worker().fallback(handler).start().await.unwrap();
    p.enqueue(plain()).await;
    let id = next(&mut at_work).await;
    // While it still runs, from another process.
    p.until("it has told something", |t| {
        t.scan().progress.contains_key(id.as_str())
    })
    .await;
    go_on.add_permits(1);
    p.until_dead(&id).await;

    let told = p.queue.progress(&id).await.unwrap().unwrap();
    assert_eq!(
        (told.percent(), told.note.as_deref()),
        (Some(100), Some("through"))
    );
    assert_eq!(told.log.len(), 100);
    assert_eq!(told.log.last().unwrap().line, "the last line");
    let number = p.t.scan().progress[id.as_str()]["number"].as_u64().unwrap();
    assert!(
        (1..100).contains(&number),
        "{number} writes for 20,000 words"
    );
    p.t.assert_every_job_has_one_home();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completed_job_leaves_nothing_unless_its_result_is_kept_and_then_as_long() {
    let p = Program::new().await;
    let handler = |job: Context| async move {
        job.progress(100, "done");
        job.log("a line");
        Ok::<u8, JobError>(7)
    };
    let builder = p.worker();
    let worker = builder
        .handle_with_result("a", move |_: u8, job: Context| handler(job))
        .start()
        .await
        .unwrap();
    let job = || NewJob::json("a", &1).unwrap();
    let gone = p.enqueue(job()).await;
    let kept = p.enqueue(job().keep_result(LATER)).await;
    let value: u8 = p.queue.wait(&kept, Duration::from_secs(30)).await.unwrap();
    p.until_completed(2).await;

    assert_eq!(value, 7);
    assert_eq!(p.queue.progress(&gone).await.unwrap(), None);
    let told = p.queue.progress(&kept).await.unwrap().unwrap();
    assert_eq!((told.percent(), lines(&told)), (Some(100), vec!["a line"]));
    assert!(p.t.scan().progress.is_empty());
    let ttl = |key: &str| {
        p.t.redis(&["PTTL", &p.t.key(&format!("{key}:{kept}"))])
            .int()
    };
    assert!((ttl("result") - ttl("progress")).abs() < 60_000 && ttl("progress") > 0);
    worker.stop().await;
}
