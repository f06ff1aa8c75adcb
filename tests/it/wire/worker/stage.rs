//! A queue with what a step needs, and a worker that does what its jobs say and notes each start.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millstream::job::state::State;
use millstream::{Context, JobError, Millstream, NewJob, Worker};
use tokio::time::sleep;

use super::super::{SLACK, Scene};
use super::step::Step;
use super::{GRACE, SETTLED, SLOW};
use crate::support::{Fixture, LATER};

/// One start of a job, as its handler saw it.
#[derive(Debug)]
struct Start {
    payload: String,
    attempt: u32,
    stalls: u32,
}

pub(super) struct Stage {
    step: Step,
    pub(super) scene: Scene,
    jobs: i64,
    starts: Arc<Mutex<Vec<Start>>>,
}

impl Stage {
    pub(super) async fn set(step: Step) -> Self {
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

    pub(super) async fn enqueue(&mut self, payload: &'static str) {
        self.scene.t.enqueue(job(payload)).await;
        self.jobs += 1;
    }

    /// A worker whose handler does what the payload says; started again while the fault hinders it.
    pub(super) async fn start(&self, client: &Millstream) -> Worker {
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
    pub(super) async fn all_in_hand(&self) {
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

    pub(super) async fn stop(&self, worker: Worker) {
        let began = Instant::now();
        worker.stop().await;
        let took = began.elapsed();
        assert!(
            took < GRACE + Duration::from_secs(2) + SLACK,
            "stopped after {took:?}"
        );
    }

    /// What the worker could not hand back is reclaimed: the wait for it is cut short.
    pub(super) fn let_leases_lapse(&self) {
        for home in self.scene.t.scan().homes.values().flatten() {
            if let (Some((lane, entry)), Some(worker)) = (&home.at, &home.consumer) {
                let lane = self.scene.t.key(lane);
                let words = ["workers", worker, "0", entry, "IDLE", "3600000", "JUSTID"];
                let words: Vec<&str> = ["XCLAIM", &lane].into_iter().chain(words).collect();
                self.scene.t.redis(&words);
            }
        }
    }

    pub(super) async fn until_settled(&self, bound: Duration) {
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
    pub(super) fn check_starts(&self) {
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
