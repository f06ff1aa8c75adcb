//! What Redis's errors mean to callers and workers, error by error: who is told what, and that work goes on by itself when
//! the error is gone. An error of the server is never the fault of a job.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millstream::{Context, Error, JobError, Millstream, Worker};
use tokio::time::sleep;

use super::{Case, RECOVERED, SLACK, Scene, job, run_all};
use crate::support::proxy::{Fault, Rule};

/// How long an error lasts.
const LASTS: Duration = Duration::from_millis(1_500);
/// What the caller of an enqueue waits for at most.
const BRIEF: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(1);

/// What the caller of an enqueue is told while the error lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Nothing: there is a way around.
    Nothing,
    /// After its patience: refused, nothing was stored.
    RefusedInTheEnd,
    /// At once: refused, nothing was stored.
    RefusedAtOnce,
    /// At once: something is wrong that waiting will not mend.
    Broken,
}

pub(super) struct Row {
    error: &'static str,
    told: Told,
}

const fn row(error: &'static str, told: Told) -> Row {
    Row { error, told }
}

use Told::{Broken, Nothing, RefusedAtOnce, RefusedInTheEnd};

const TABLE: [Row; 21] = [
    row(
        "LOADING Redis is loading the dataset in memory",
        RefusedInTheEnd,
    ),
    row(
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        RefusedInTheEnd,
    ),
    row(
        "READONLY You can't write against a read only replica.",
        RefusedInTheEnd,
    ),
    row(
        "ERR READONLY You can't write against a read only replica.",
        RefusedInTheEnd,
    ),
    // As Redis 6.2 tells it from within a script.
    row(
        "ERR Error running script (call to f_5f1c): @user_script:7: -READONLY You can't write against a read only replica.",
        RefusedInTheEnd,
    ),
    row(
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        RefusedInTheEnd,
    ),
    row("CLUSTERDOWN The cluster is down", RefusedInTheEnd),
    row(
        "TRYAGAIN Multiple keys request during rehashing of slot",
        RefusedInTheEnd,
    ),
    row("MOVED 3999 127.0.0.1:6381", RefusedInTheEnd),
    row("ERR max number of clients reached", RefusedInTheEnd),
    row(
        "OOM command not allowed when used memory > 'maxmemory'.",
        RefusedAtOnce,
    ),
    row(
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        RefusedAtOnce,
    ),
    row(
        "NOREPLICAS Not enough good replicas to write.",
        RefusedAtOnce,
    ),
    row(
        "NOPERM this user has no permissions to run the 'evalsha' command",
        RefusedAtOnce,
    ),
    row("NOAUTH Authentication required.", RefusedAtOnce),
    row("NOSCRIPT No matching script. Please use EVAL.", Nothing),
    row(
        "NOGROUP No such key 'ready' or consumer group 'workers' in XREADGROUP with GROUP option",
        Broken,
    ),
    row("UNBLOCKED the stream key no longer exists", Broken),
    row(
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        Broken,
    ),
    row(
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        Broken,
    ),
    row(
        "ERR something that no version of Redis has said so far",
        Broken,
    ),
];

/// A case for every error.
pub(super) fn cases<F>(case: impl Fn(&'static Row) -> F) -> Vec<Case>
where
    F: Future<Output = ()> + Send + 'static,
{
    let named = |row: &'static Row| -> Case { (row.error.to_owned(), Box::pin(case(row))) };
    TABLE.iter().map(named).collect()
}

impl Row {
    /// NOSCRIPT is only ever said of a script that is called by its digest, and then its text is sent.
    pub(super) fn has_a_way_around(&self) -> bool {
        self.told == Nothing
    }
}

impl Scene {
    /// From now on Redis says nothing but this error to requests of these names.
    pub(super) fn refuse(&self, row: &Row, names: &[&'static str]) {
        for name in names {
            let on = if row.has_a_way_around() {
                "EVALSHA"
            } else {
                name
            };
            self.proxy.arm(Rule::always(on, Fault::Refuse(row.error)));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn an_enqueue_that_redis_refuses_is_told_so_in_time_and_stores_nothing() {
    run_all(cases(|row| async {
        let scene = Scene::new().await;
        let client = Millstream::builder(&scene.proxy.url()).enqueue_timeout(BRIEF);
        let queue = client
            .connect()
            .await
            .unwrap()
            .queue(&scene.t.queue)
            .unwrap();
        scene.refuse(row, &["enqueue"]);

        let mut tries = 3;
        let (answer, took) = loop {
            let began = Instant::now();
            let answer = queue.enqueue(job()).await;
            tries -= 1;
            // Right only when the last try was still under way when time was up, as on a very busy machine.
            let cut_short = matches!(answer, Err(Error::Ambiguous { .. }));
            if !cut_short || tries == 0 {
                break (answer, began.elapsed());
            }
        };

        let stored = scene.t.scan().homes.len();
        match (row.told, &answer) {
            (Nothing, Ok(_)) => assert_eq!(stored, 1),
            (RefusedInTheEnd | RefusedAtOnce, Err(Error::Refused { reason, .. }))
            | (Broken, Err(Error::Protocol { reason, .. })) => {
                assert_eq!((stored, reason.as_str()), (0, row.error));
            }
            // Some of these make the client connect anew, and then time was up before it was back.
            (RefusedInTheEnd, Err(Error::Unreachable { .. })) => assert_eq!(stored, 0),
            _ => panic!("{answer:?}"),
        }
        assert!(took < BRIEF + SLACK, "told after {took:?}");
        if row.told == RefusedInTheEnd {
            assert!(took > BRIEF / 4, "given up after {took:?}");
        }
        scene.proxy.heal();
        let before = Instant::now();
        while let Err(error) = queue.enqueue(job().unique("once")).await {
            let waited = before.elapsed();
            assert!(waited < RECOVERED + SLACK, "{error} after {waited:?}");
        }
        assert_eq!(scene.t.scan().homes.len(), stored + 1);
        scene.is_sound().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_worker_whose_reads_are_refused_reads_again_by_itself() {
    run_all(cases(|row| async {
        let scene = Scene::new().await;
        let starts = Starts::default();
        scene.refuse(row, &["read", "own", "claim"]);
        let worker = start(&scene, &starts).await;
        scene.t.enqueue(job()).await;
        sleep(LASTS).await;

        scene.proxy.heal();

        until_completed(&scene, 1).await;
        worker.stop().await;
        assert_eq!(*starts.lock().unwrap(), [(1, 0)], "attempt and stalls");
        scene.is_sound().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_settlement_that_is_refused_is_made_when_redis_takes_it_and_the_job_is_not_charged() {
    run_all(cases(|row| async {
        let scene = Scene::new().await;
        let starts = Starts::default();
        scene.refuse(row, &["complete"]);
        let worker = start(&scene, &starts).await;
        scene.t.enqueue(job()).await;
        sleep(LASTS).await;

        scene.proxy.heal();

        until_completed(&scene, 1).await;
        worker.stop().await;
        let starts = starts.lock().unwrap().clone();
        match row.told {
            // Another try would have ended the same: the job was left to its lease, and ran again.
            Broken => {
                assert!(starts.len() > 1, "{starts:?}");
                assert!(
                    starts.iter().all(|(attempt, _)| *attempt == 1),
                    "{starts:?}"
                );
            }
            _ => assert_eq!(starts, [(1, 0)], "attempt and stalls"),
        }
        scene.is_sound().await;
    }))
    .await;
}

/// Attempt and stalls of each start.
type Starts = Arc<Mutex<Vec<(u32, u32)>>>;

async fn start(scene: &Scene, starts: &Starts) -> Worker {
    let starts = Arc::clone(starts);
    let handler = move |job: Context| {
        starts.lock().unwrap().push((job.attempt(), job.stalls()));
        async { Ok::<(), JobError>(()) }
    };
    let worker = scene.client.worker(&scene.t.queue).unwrap();
    let worker = worker.lease(LEASE).sweep(LEASE / 5);
    worker.handle_raw("a", handler).start().await.unwrap()
}

pub(super) async fn until_completed(scene: &Scene, jobs: i64) {
    let began = Instant::now();
    while scene.t.counter("completed") < jobs {
        sleep(Duration::from_millis(50)).await;
        let waited = began.elapsed();
        assert!(waited < RECOVERED + SLACK, "no work after {waited:?}");
    }
}
