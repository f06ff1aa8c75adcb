//! Targets that are down, misbehave or ask for mercy: what becomes of the jobs, and who is told.

use std::time::Duration;

use millstream::deliver::{Forward, ForwardSettings};
use millstream::inspect::EventKind;
use millstream::job::state::State;
use millstream::{Backoff, Circuit, NewJob, SharedLimit, Worker, WorkerBuilder};
use serde_json::json;

use crate::support::target::{Mode, Target};
use crate::support::{Place, QUEUE, eventually};

const HOUR: Duration = Duration::from_secs(3600);
const CONCURRENCY: usize = 4;
const FAILURES: u32 = 5;

fn forward(target: &Target) -> Forward {
    Forward::new(ForwardSettings::new(target.url())).unwrap()
}

/// A worker that tries each job every hour, with a circuit whose pause is `pause`.
fn builder(place: &Place, target: &Target, pause: Duration) -> WorkerBuilder {
    let handler = forward(target);
    let circuit = Circuit::new(handler.target());
    let worker = place.client.worker(QUEUE).unwrap();
    worker
        .concurrency(CONCURRENCY)
        .max_attempts(3)
        .backoff(Backoff::Fixed(HOUR))
        .circuit(circuit.failures(FAILURES).pause(Backoff::Fixed(pause)))
        .fallback(handler)
}

async fn enqueue(place: &Place, queue: &str, count: usize) {
    let jobs = (0..count).map(|n| NewJob::raw("job", n.to_string()));
    let queue = place.client.queue(queue).unwrap();
    queue.enqueue_all(jobs.collect()).await.unwrap();
}

async fn open(place: &Place) {
    eventually("the circuit is open", async || {
        !place.stats().await.open_circuits.is_empty()
    })
    .await;
}

async fn events(place: &Place) -> Vec<EventKind> {
    let events = place.inspect().recent_events(500).await.unwrap();
    let of_circuits =
        |kind: &EventKind| matches!(kind, EventKind::CircuitOpened | EventKind::CircuitClosed);
    let kinds = events.into_iter().map(|event| event.event);
    kinds.filter(of_circuits).collect()
}

#[tokio::test]
async fn a_target_that_is_down_costs_a_few_attempts_and_not_every_jobs() {
    let place = Place::new().await;
    let target = Target::that(Mode::Resets).await;
    enqueue(&place, QUEUE, 100).await;
    let worker = builder(&place, &target, HOUR).start().await.unwrap();
    let inbox = place.gateway_with(vec![worker.health()], |_| {}).await;

    open(&place).await;
    enqueue(&place, QUEUE, 10).await;
    // What was claimed goes back as it came, and nothing more is claimed.
    eventually("nothing runs", async || place.stats().await.running == 0).await;

    let stats = place.stats().await;
    // Those that were under way when it opened were tried as well.
    let tried = u64::from(FAILURES)..u64::from(FAILURES) + CONCURRENCY as u64;
    assert!(tried.contains(&stats.failed_total), "{stats:?}");
    assert_eq!((stats.dead, stats.scheduled), (0, stats.failed_total));
    assert_eq!(stats.ready, 110 - stats.failed_total);
    assert_eq!(target.requests() as u64, stats.failed_total);
    for job in place.inspect().list(Some(State::Ready), 500).await.unwrap() {
        assert_eq!((job.attempt, job.errors.len()), (1, 0), "{job:?}");
    }

    // Told wherever one looks.
    let [circuit] = stats.open_circuits.try_into().unwrap();
    assert_eq!(circuit.target, target.address.to_string());
    let workers = place.inspect().workers().await.unwrap();
    assert_eq!(circuit.worker, workers[0].worker);
    assert_eq!(events(&place).await, [EventKind::CircuitOpened]);
    let events = place.inspect().recent_events(500).await.unwrap();
    let opened = events
        .into_iter()
        .find(|event| event.event == EventKind::CircuitOpened)
        .unwrap();
    let address = target.address.to_string();
    assert!(
        opened.detail.contains(&address) && opened.detail.contains("5 failures in a row"),
        "{opened:?}"
    );
    // The inbox goes on taking webhooks.
    let answer = inbox.get("/health/ready").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["checks"]["circuit_webhooks"], "open");
    assert_eq!(answer.json()["status"], "ok");

    // A worker that leaves takes its word with it.
    worker.stop().await;
    assert_eq!(place.stats().await.open_circuits, []);
}

#[tokio::test]
async fn when_the_target_is_back_every_job_is_done() {
    let place = Place::new().await;
    let target = Target::that(Mode::Says(
        "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n",
    ));
    let target = target.await;
    enqueue(&place, QUEUE, 100).await;
    let worker = builder(&place, &target, Duration::from_millis(40))
        .backoff(Backoff::Fixed(Duration::from_millis(20)))
        .start()
        .await
        .unwrap();
    open(&place).await;
    let before = target.requests();
    eventually("a few jobs tried", async || target.requests() > before + 3).await;
    assert!(!place.stats().await.open_circuits.is_empty());

    target.now(Mode::Well);

    eventually("all are completed", async || {
        place.stats().await.completed_total == 100
    })
    .await;
    eventually("the circuit is closed", async || {
        place.stats().await.open_circuits.is_empty()
    })
    .await;
    let told = events(&place).await;
    assert_eq!(told, [EventKind::CircuitOpened, EventKind::CircuitClosed]);
    let stats = place.stats().await;
    assert_eq!((stats.dead_total, stats.ready, stats.scheduled), (0, 0, 0));
    let worker: Worker = worker;
    worker.stop().await;
}

#[tokio::test]
async fn what_no_other_job_would_survive_opens_the_circuit() {
    for mode in [
        Mode::Resets,
        Mode::BreaksOff,
        Mode::Hangs,
        Mode::Says("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"),
        Mode::Says("HTTP/1.1 503 Oh\r\nretry-after: 5\r\ncontent-length: 0\r\n\r\n"),
        Mode::Says("SSH-2.0-OpenSSH_9.2\r\n"),
    ] {
        let place = Place::new().await;
        let target = Target::that(mode).await;
        enqueue(&place, QUEUE, 20).await;
        let worker = builder(&place, &target, HOUR);
        let worker = worker.timeout(Duration::from_millis(100));
        let worker = worker.start().await.unwrap();
        eventually(&format!("{mode:?} opens it"), async || {
            !place.stats().await.open_circuits.is_empty()
        })
        .await;
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_target_that_answers_is_not_down_however_rude() {
    const JOBS: usize = 20;
    for (mode, completed) in [
        (
            Mode::Says("HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n"),
            0,
        ),
        (
            Mode::Says("HTTP/1.1 429 Slow\r\ncontent-length: 0\r\n\r\n"),
            0,
        ),
        (
            Mode::Says(
                "HTTP/1.1 302 There\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
            ),
            0,
        ),
        (Mode::Floods, JOBS),
        (Mode::Drips, JOBS),
    ] {
        let place = Place::new().await;
        let target = Target::that(mode).await;
        enqueue(&place, QUEUE, JOBS).await;
        let worker = builder(&place, &target, HOUR).concurrency(JOBS);
        let worker = worker.start().await.unwrap();
        eventually(&format!("{mode:?}: each was tried once"), async || {
            let stats = place.stats().await;
            stats.failed_total + stats.completed_total == JOBS as u64
        })
        .await;
        let stats = place.stats().await;
        assert_eq!(stats.completed_total, completed as u64, "{mode:?}");
        assert_eq!(target.requests(), JOBS, "{mode:?}");
        assert_eq!((stats.dead, stats.open_circuits), (0, vec![]), "{mode:?}");
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_storm_of_429_comes_back_when_it_was_asked_to() {
    let place = Place::new().await;
    let target = Target::that(Mode::Says(
        "HTTP/1.1 429 Slow\r\nretry-after: 1800\r\ncontent-length: 0\r\n\r\n",
    ));
    let target = target.await;
    enqueue(&place, QUEUE, 50).await;
    let worker = builder(&place, &target, HOUR).start().await.unwrap();
    eventually("all are put off", async || {
        place.stats().await.scheduled == 50
    })
    .await;

    let now_ms = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_millis() as u64;
    let jobs = place.inspect().list(Some(State::Scheduled), 50).await;
    for job in jobs.unwrap() {
        let wait = job.due_ms.unwrap().saturating_sub(now_ms);
        assert!((1_700_000..=1_800_000).contains(&wait), "{wait} ms");
    }
    assert_eq!(target.requests(), 50);
    worker.stop().await;
}

#[tokio::test]
async fn queues_with_the_same_target_share_its_limit_and_a_wait_costs_no_time() {
    let place = Place::new().await;
    let target = Target::that(Mode::Hangs).await;
    let limit = SharedLimit::new(3);
    let mut workers = Vec::new();
    for queue in ["a", "b"] {
        enqueue(&place, queue, 10).await;
        let worker = place.client.worker(queue).unwrap();
        let worker = worker.shared_limit(limit.clone()).timeout(HOUR);
        let worker = worker.concurrency(10).fallback(forward(&target));
        workers.push(worker.start().await.unwrap());
    }
    eventually("the limit is used", async || target.at_once() == 3).await;

    target.now(Mode::Well);

    eventually("all are completed", async || {
        let mut completed = 0;
        for queue in ["a", "b"] {
            let stats = place.client.inspect(queue).unwrap().stats().await.unwrap();
            completed += stats.completed_total;
        }
        completed == 20
    })
    .await;
    assert_eq!(target.most_at_once(), 3);
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_private_address_behind_a_name_is_not_connected_to() {
    let place = Place::new().await;
    let target = Target::that(Mode::Well).await;
    let port = target.address.port();
    let settings = ForwardSettings::new(format!("http://localhost:{port}/")).refuse_private(true);
    let worker = place.client.worker(QUEUE).unwrap();
    let worker = worker
        .max_attempts(1)
        .fallback(Forward::new(settings).unwrap())
        .start()
        .await
        .unwrap();
    enqueue(&place, QUEUE, 1).await;
    eventually("it is dead", async || place.stats().await.dead == 1).await;

    let job = place.only_job().await;
    let error = &job.errors[0].error;
    assert!(
        error.contains("private address") && error.contains("refuse_private"),
        "{error}"
    );
    assert_eq!(target.requests(), 0);
    worker.stop().await;
}

#[tokio::test]
async fn a_paused_queue_stays_paused_when_its_circuit_closes() {
    let place = Place::new().await;
    let target = Target::that(Mode::Resets).await;
    enqueue(&place, QUEUE, 20).await;
    let worker = builder(&place, &target, Duration::from_millis(20));
    let worker = worker.start().await.unwrap();
    let inbox = place.gateway_with(vec![worker.health()], |_| {}).await;
    open(&place).await;
    place.inspect().pause().await.unwrap();
    eventually("nothing is tried", async || {
        let before = target.requests();
        tokio::time::sleep(Duration::from_millis(100)).await;
        target.requests() == before
    })
    .await;
    target.now(Mode::Well);
    // Open or waiting for a job to try with: told all the same.
    let checks = inbox.get("/health/ready").await.json()["checks"].clone();
    assert_ne!(checks["circuit_webhooks"], json!(null));

    place.inspect().resume().await.unwrap();

    eventually("the rest is done", async || {
        let stats = place.stats().await;
        stats.ready == 0 && stats.running == 0 && stats.open_circuits.is_empty()
    })
    .await;
    worker.stop().await;
}
