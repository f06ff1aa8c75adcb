//! A worker process: runs every job as its key says, and notes each start and end before the engine hears of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream::{Backoff, Context, JobError, Millstream, Worker};
use tokio::signal::unix::{SignalKind, signal};

use crate::jobs::{Deed, Key};
use crate::plan::{CONCURRENCY, GRACE, LEASE, PREFETCH, QUEUE, SWEEP};
use crate::process::Part;
use crate::random::Random;
use crate::record::{Record, now_us};

/// A beat of the clock that shows how long the process did not run.
const BEAT: Duration = Duration::from_millis(50);
/// A pause that the machine made, and not the engine.
const GAP: Duration = Duration::from_millis(400);

pub(crate) async fn run(part: Part) {
    let mut terminate = signal(SignalKind::terminate()).expect("a signal handler");
    let record = Arc::new(part.record());
    record.note("up");
    std::thread::spawn({
        let record = Arc::clone(&record);
        move || note_gaps(&record)
    });
    let worker = tokio::select! {
        worker = start(&part, &record) => worker,
        _ = terminate.recv() => {
            record.note("down 0 0");
            return;
        }
    };
    record.note("working");
    terminate.recv().await;
    let drained = worker.stop().await;
    record.note(format_args!(
        "down {} {}",
        drained.finished, drained.released
    ));
}

/// Until it works: a worker may be started while Redis is away.
async fn start(part: &Part, record: &Arc<Record>) -> Worker {
    loop {
        match try_start(part, record).await {
            Ok(worker) => return worker,
            Err(error) => tracing::warn!(%error, "not started yet"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn try_start(part: &Part, record: &Arc<Record>) -> millstream::Result<Worker> {
    let client = Millstream::connect(&part.redis).await?;
    let record = Arc::clone(record);
    client
        .worker(QUEUE)?
        .concurrency(CONCURRENCY)
        .prefetch(PREFETCH)
        .lease(LEASE)
        .sweep(SWEEP)
        .shutdown_timeout(GRACE)
        .backoff(Backoff::Fixed(Duration::from_millis(300)))
        // The history is how the soak learns what was completed.
        .retain_completed(Duration::from_secs(24 * 3600))
        .fallback(move |job: Context| handle(job, Arc::clone(&record)))
        .start()
        .await
}

async fn handle(job: Context, record: Arc<Record>) -> Result<(), JobError> {
    let (id, attempt) = (job.id(), job.attempt());
    let end = |outcome: &str| record.note(format_args!("end {id} {outcome}"));
    let key = match Key::read(job.payload()) {
        Ok(key) => key,
        Err(problem) => {
            end("garbled");
            return Err(JobError::refuse(problem));
        }
    };
    let began = record.note(format_args!(
        "start {id} {} {attempt} {}",
        key.0,
        job.stalls()
    ));
    let mut deed = key.deed(attempt);
    if deed == Deed::PerhapsSnooze {
        deed = match Random::new(began, &key.0).percent(50) {
            true => Deed::PerhapsSnooze,
            false => Deed::Succeed {
                after: Duration::ZERO,
            },
        };
    }
    match deed {
        Deed::Succeed { after } => {
            tokio::select! {
                () = tokio::time::sleep(after) => {}
                () = job.cancelled().cancelled() => {
                    end("cut");
                    return Err(JobError::failed("no longer wanted"));
                }
            }
            end("done");
            Ok(())
        }
        Deed::Fail => {
            end("failed");
            Err(JobError::failed("as drawn"))
        }
        Deed::Panic => {
            end("panicked");
            panic!("as drawn");
        }
        Deed::Refuse => {
            end("refused");
            Err(JobError::refuse("as drawn"))
        }
        Deed::PerhapsSnooze => {
            end("snoozed");
            Err(JobError::snooze(Duration::from_millis(100)))
        }
        Deed::Abort => {
            // The others of this worker have begun by then: it takes them with it.
            tokio::time::sleep(Duration::from_millis(30)).await;
            end("aborted");
            std::process::abort();
        }
    }
}

/// Notes when this process was not given the machine: then a lease may run out, and nobody is to blame.
fn note_gaps(record: &Record) {
    loop {
        let slept = Instant::now();
        std::thread::sleep(BEAT);
        if slept.elapsed() > GAP {
            let gap_us = slept.elapsed().as_micros() as u64;
            record.note(format_args!("gap {}", now_us() - gap_us));
        }
    }
}
