//! A worker's life, step by step: whatever is lost on the way, each job runs as often as it should and is settled once.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millstream::broker::Lane;
use millstream::job::state::State;
use millstream::{Backoff, Context, JobError, Millstream, NewJob, Worker, WorkerBuilder};
use tokio::time::{sleep, timeout};

use super::{Case, FAULTS, RECOVERED, SLACK, Scene, run_all};
use crate::support::proxy::Fault;
use crate::support::{Fixture, LATER};

/// Until a job is settled whose step met a fault. The longest way: a blocked read into a dead connection, its block and
/// two seconds, then the look at the own deliveries, two seconds again, and a new connection.
const SETTLED: Duration = Duration::from_secs(30);
/// With `slow`, which runs for longer, the heartbeat must come through in time although one call was lost.
const SHORT_LEASE: Duration = Duration::from_secs(9);
const SLOW: Duration = Duration::from_secs(11);
const GRACE: Duration = Duration::from_millis(300);

/// The step that meets the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    CreateGroups,
    Subscribe,
    LookAtLimits,
    /// A read that finds a job at once.
    Read,
    /// A read that waits for one.
    BlockedRead,
    /// The look at the own deliveries, after a read whose answer was lost.
    ReadOwn,
    /// The exact claim of a worker with one place.
    ClaimOne,
    Complete,
    Retry,
    Snooze,
    DeadLetter,
    Extend,
    Promote,
    Reclaim,
    // From here on, the worker is told to stop.
    Resign,
    OwnAtStop,
    HandBack,
    Interrupt,
    Retire,
}

impl Step {
    const ALL: [Self; 19] = [
        // Slow ones first: the others run beside them.
        Self::Extend,
        Self::BlockedRead,
        Self::Read,
        Self::ReadOwn,
        Self::CreateGroups,
        Self::Subscribe,
        Self::LookAtLimits,
        Self::ClaimOne,
        Self::Complete,
        Self::Retry,
        Self::Snooze,
        Self::DeadLetter,
        Self::Promote,
        Self::Reclaim,
        Self::Resign,
        Self::OwnAtStop,
        Self::HandBack,
        Self::Interrupt,
        Self::Retire,
    ];

    /// What goes by on the wire, and which one of them.
    fn on(self) -> (&'static str, u32) {
        match self {
            Self::CreateGroups => ("XGROUP", 1),
            Self::Subscribe => ("SUBSCRIBE", 1),
            Self::LookAtLimits => ("HGET", 1),
            Self::Read | Self::BlockedRead => ("read", 1),
            Self::ReadOwn | Self::OwnAtStop => ("own", 1),
            Self::ClaimOne => ("claim", 1),
            Self::Complete => ("complete", 1),
            Self::Retry | Self::Snooze => ("retry", 1),
            Self::DeadLetter => ("dead_letter", 1),
            Self::Extend => ("extend", 1),
            Self::Promote => ("promote", 1),
            Self::Reclaim => {
                let lanes_before = Lane::ALL.iter().position(|lane| *lane == Lane::Ready);
                ("reclaim", lanes_before.unwrap() as u32 + 1)
            }
            Self::Resign => ("unlock", 1),
            Self::HandBack | Self::Interrupt => ("release", 1),
            Self::Retire => ("retire", 1),
        }
    }

    fn stops(self) -> bool {
        let stopping = [
            Self::Resign,
            Self::OwnAtStop,
            Self::HandBack,
            Self::Interrupt,
            Self::Retire,
        ];
        stopping.contains(&self)
    }

    /// What the handler is to do with the job.
    fn payload(self) -> &'static str {
        match self {
            Self::Retry => "fail once",
            Self::Snooze => "snooze once",
            Self::DeadLetter => "refuse",
            Self::Extend => "slow",
            step if step.stops() => "hang once",
            _ => "done",
        }
    }

    /// How its attempts are numbered, start by start.
    fn attempts(self) -> &'static [u32] {
        match self {
            Self::Retry => &[1, 2],
            Self::Snooze => &[1, 1],
            step if step.stops() => &[1, 1],
            _ => &[1],
        }
    }

    fn settings(self, worker: WorkerBuilder) -> WorkerBuilder {
        let worker = worker
            .backoff(Backoff::Fixed(Duration::from_millis(1)))
            .sweep(Duration::from_millis(200))
            .shutdown_timeout(GRACE);
        match self {
            Self::ClaimOne => worker.concurrency(1).prefetch(0),
            Self::HandBack => worker.concurrency(1).prefetch(3),
            Self::Extend => worker.lease(SHORT_LEASE),
            _ => worker,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_a_workers_life_that_meets_any_fault_is_taken_once_and_the_worker_goes_on() {
    let cases = Step::ALL.into_iter().flat_map(|step| {
        FAULTS.into_iter().map(move |(name, fault)| -> Case {
            (format!("{step:?}, {name}"), Box::pin(case(step, fault)))
        })
    });
    run_all(cases).await;
}

async fn case(step: Step, fault: Fault) {
    let mut stage = Stage::set(step).await;
    let (on, nth) = step.on();
    if step == Step::ReadOwn {
        stage.scene.arm("read", 1, &Fault::DropAfter);
    }
    let worker;
    let mut struck;
    if step.stops() {
        let first = stage.start(&stage.scene.client).await;
        stage.all_in_hand().await;
        struck = stage.scene.arm(on, nth, &fault);
        stage.stop(first).await;
        stage.let_leases_lapse();
        let beside = Millstream::connect(&stage.scene.t.url).await.unwrap();
        worker = stage.start(&beside).await;
    } else {
        struck = stage.scene.arm(on, nth, &fault);
        worker = stage.start(&stage.scene.client).await;
    }
    if step == Step::BlockedRead {
        stage.enqueue(step.payload()).await;
    }

    stage.until_settled(SETTLED).await;
    let strikes = timeout(SLACK, struck.first()).await;
    strikes.expect("the fault strikes");
    // What was lost was lost alone: a fresh job runs as before.
    stage.enqueue("fresh").await;
    stage.until_settled(RECOVERED + SLACK).await;
    worker.stop().await;

    stage.scene.is_sound().await;
    stage.check_starts();
}

/// One start of a job, as its handler saw it.
#[derive(Debug)]
struct Start {
    payload: String,
    attempt: u32,
    stalls: u32,
}

struct Stage {
    step: Step,
    scene: Scene,
    jobs: i64,
    starts: Arc<Mutex<Vec<Start>>>,
}

impl Stage {
    async fn set(step: Step) -> Self {
        let mut stage = Self {
            step,
            scene: Scene::new().await,
            jobs: 0,
            starts: Arc::default(),
        };
        match step {
            Step::BlockedRead => {}
            Step::Promote => {
                let id = stage
                    .scene
                    .t
                    .enqueue(job(step.payload()).delay(LATER))
                    .await;
                stage.scene.t.make_due(&id);
                stage.jobs = 1;
            }
            Step::Reclaim => {
                let held = stage.scene.t.running(job(step.payload())).await;
                stage.scene.t.let_lease_lapse(&held);
                stage.jobs = 1;
            }
            Step::HandBack => {
                for payload in [step.payload(), "done", "done"] {
                    stage.enqueue(payload).await;
                }
            }
            _ => stage.enqueue(step.payload()).await,
        }
        stage
    }

    async fn enqueue(&mut self, payload: &'static str) {
        self.scene.t.enqueue(job(payload)).await;
        self.jobs += 1;
    }

    /// A worker whose handler does what the payload says; started again while the fault hinders it.
    async fn start(&self, client: &Millstream) -> Worker {
        let began = Instant::now();
        loop {
            let starts = Arc::clone(&self.starts);
            let handler = move |job: Context| obey(job, Arc::clone(&starts));
            let worker = client.worker(&self.scene.t.queue).unwrap();
            match self
                .step
                .settings(worker)
                .handle_raw("a", handler)
                .start()
                .await
            {
                Ok(worker) => return worker,
                Err(error) => assert!(began.elapsed() < SETTLED, "does not start: {error}"),
            }
        }
    }

    /// Waits until one job runs and the others were delivered.
    async fn all_in_hand(&self) {
        self.until("a job has started", SETTLED, |_| {
            !self.starts.lock().unwrap().is_empty()
        })
        .await;
        self.until("every job is in hand", SETTLED, |t| {
            let homes = t.scan().homes;
            let running = homes
                .values()
                .filter(|home| home[0].state == State::Running);
            running.count() as i64 == self.jobs
        })
        .await;
    }

    async fn stop(&self, worker: Worker) {
        let began = Instant::now();
        worker.stop().await;
        let took = began.elapsed();
        assert!(
            took < GRACE + Duration::from_secs(2) + SLACK,
            "stopped after {took:?}"
        );
    }

    /// What the worker could not hand back is reclaimed: the wait for it is cut short.
    fn let_leases_lapse(&self) {
        for home in self.scene.t.scan().homes.values().flatten() {
            if let (Some((lane, entry)), Some(worker)) = (&home.at, &home.consumer) {
                let lane = self.scene.t.key(lane);
                let words = ["workers", worker, "0", entry, "IDLE", "3600000", "JUSTID"];
                let words: Vec<&str> = ["XCLAIM", &lane].into_iter().chain(words).collect();
                self.scene.t.redis(&words);
            }
        }
    }

    async fn until_settled(&self, bound: Duration) {
        self.until("every job is settled", bound, |t| {
            t.counter("completed") + t.counter("dead") == self.jobs
        })
        .await;
    }

    async fn until(&self, what: &str, bound: Duration, is_so: impl Fn(&Fixture) -> bool) {
        let began = Instant::now();
        while !is_so(&self.scene.t) {
            sleep(Duration::from_millis(50)).await;
            let found = || (self.scene.t.scan().homes, self.starts.lock().unwrap());
            let in_time = began.elapsed() < bound;
            assert!(in_time, "not within {bound:?}: {what}: {:?}", found());
        }
    }

    /// No job ran more often than it should, and none was charged for the fault.
    fn check_starts(&self) {
        let starts = self.starts.lock().unwrap();
        let mut attempts = Vec::new();
        let (mut others, mut stalls) = (0, 0);
        for start in starts.iter() {
            match start.payload == self.step.payload() {
                true => attempts.push(start.attempt),
                false => others += 1,
            }
            stalls += start.stalls;
        }
        assert_eq!(attempts, self.step.attempts(), "{starts:?}");
        let fresh = 1;
        let waiting = if self.step == Step::HandBack { 2 } else { 0 };
        assert_eq!(others, waiting + fresh, "{starts:?}");
        if !self.step.stops() {
            assert_eq!(stalls, u32::from(self.step == Step::Reclaim), "{starts:?}");
        }
    }
}

fn job(payload: &'static str) -> NewJob {
    NewJob::raw("a", payload)
}

/// Does what the job says, and notes that it was told to.
async fn obey(job: Context, starts: Arc<Mutex<Vec<Start>>>) -> Result<(), JobError> {
    let payload = String::from_utf8_lossy(job.payload()).into_owned();
    let first = {
        let mut starts = starts.lock().unwrap();
        let first = starts.iter().all(|start| start.payload != payload);
        starts.push(Start {
            payload: payload.clone(),
            attempt: job.attempt(),
            stalls: job.stalls(),
        });
        first
    };
    match payload.as_str() {
        "fail once" if first => Err(JobError::failed("told to")),
        "snooze once" if first => Err(JobError::snooze(Duration::from_millis(1))),
        "hang once" if first => std::future::pending().await,
        "refuse" => Err(JobError::refuse("told to")),
        "slow" => {
            sleep(SLOW).await;
            Ok(())
        }
        _ => Ok(()),
    }
}
