//! Enqueues: exactly once when they said so, at most once when they could not say.

use std::time::{Duration, Instant};

use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Durability, Enqueued, Error, NewJob, Result};

use super::{Case, FAULTS, Scene, assert_ambiguous, job, run_all, server};
use crate::support::proxy::Fault;
use crate::support::{LATER, PATIENCE};

/// What an enqueue waits for at most, all tries together, and a loaded machine's share.
const IN_TIME: Duration = Duration::from_secs(4 + 4);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Plain,
    Delayed,
    Unique,
    /// Plain, on a queue with a maximum depth: the fault meets the short way, which is not its own.
    Limited,
    /// The same; the fault meets the way that is.
    LimitedAfterAll,
    /// Three chunks, of which the second meets the fault.
    Chunks,
    /// The fault meets the script.
    Replicas,
    /// The fault meets the wait behind it.
    WaitForReplicas,
    /// Refused by the servers that the tests run on; the fault meets the question whether they can.
    Fsync,
}

impl Call {
    const ALL: [Self; 9] = [
        Self::Plain,
        Self::Delayed,
        Self::Unique,
        Self::Limited,
        Self::LimitedAfterAll,
        Self::Chunks,
        Self::Replicas,
        Self::WaitForReplicas,
        Self::Fsync,
    ];

    fn on(self) -> (&'static str, u32) {
        match self {
            Self::Plain | Self::Delayed | Self::Unique | Self::Limited | Self::Replicas => {
                ("enqueue", 1)
            }
            Self::Chunks | Self::LimitedAfterAll => ("enqueue", 2),
            Self::WaitForReplicas => ("WAIT", 1),
            Self::Fsync => ("COMMAND", 1),
        }
    }

    fn jobs(self) -> Vec<NewJob> {
        match self {
            Self::Delayed => vec![job().delay(LATER)],
            Self::Unique => vec![job().unique("k")],
            // Two fit into the bytes of one call.
            Self::Chunks => vec![NewJob::raw("a", vec![0; 400 << 10]); 5],
            _ => vec![job()],
        }
    }

    async fn make(self, scene: &Scene) -> Result<Vec<Enqueued>> {
        let queue = &scene.queue;
        let one = |enqueued: Enqueued| vec![enqueued];
        let mut jobs = self.jobs();
        match self {
            Self::Chunks => queue.enqueue_all(jobs).await,
            Self::Replicas | Self::WaitForReplicas => {
                let queue = queue.with_durability(Durability::Replicas(1));
                queue.enqueue(jobs.remove(0)).await.map(one)
            }
            Self::Fsync => {
                let queue = queue.with_durability(Durability::Fsync);
                queue.enqueue(jobs.remove(0)).await.map(one)
            }
            _ => queue.enqueue(jobs.remove(0)).await.map(one),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn an_enqueue_that_meets_any_fault_is_made_once_and_answered_in_time() {
    let port = server().port().unwrap().to_string();
    let _replica = PrivateRedis::start(Options {
        args: vec!["--replicaof".into(), "127.0.0.1".into(), port],
        ..Options::default()
    });
    let cases = Call::ALL.into_iter().flat_map(|call| {
        FAULTS.into_iter().map(move |(name, fault)| -> Case {
            (format!("{call:?}, {name}"), Box::pin(case(call, fault)))
        })
    });
    run_all(cases).await;
}

async fn case(call: Call, fault: Fault) {
    let scene = Scene::new().await;
    if matches!(call, Call::Limited | Call::LimitedAfterAll) {
        let limited = scene.t.broker.set_max_depth(Some(100), PATIENCE).await;
        limited.unwrap();
    }
    let (on, nth) = call.on();
    let struck = scene.arm(on, nth, &fault);

    let began = Instant::now();
    let answer = call.make(&scene).await;
    let took = began.elapsed();

    assert_eq!(struck.count(), 1, "the fault did not strike: {answer:?}");
    let chunks = if call == Call::Chunks { 3 } else { 1 };
    assert!(took < IN_TIME * chunks, "answered after {took:?}");
    scene.works_again().await;
    scene.is_sound().await;
    let stored = scene.t.scan().homes;
    match answer {
        Ok(enqueued) => {
            let told: Vec<&str> = enqueued.iter().map(|job| job.id.as_str()).collect();
            assert!(enqueued.iter().all(|job| !job.duplicate), "{enqueued:?}");
            assert!(told.iter().all(|id| stored.contains_key(*id)), "{told:?}");
            assert_eq!((told.len(), stored.len()), (call.jobs().len(), told.len()));
        }
        Err(Error::Unfit { .. }) if call == Call::Fsync => assert_eq!(stored.len(), 0),
        Err(error) => {
            assert_ambiguous(&error);
            let allowed: &[usize] = match call {
                Call::Chunks => &[2, 4],
                Call::Fsync => &[0],
                _ => &[0, 1],
            };
            assert!(
                allowed.contains(&stored.len()),
                "{} jobs after {error}",
                stored.len()
            );
        }
    }
    // The same queue handle takes jobs as before.
    let next = scene.queue.enqueue(job()).await.unwrap();
    assert!(!next.duplicate && !stored.contains_key(next.id.as_str()));
    scene.is_sound().await;
}
