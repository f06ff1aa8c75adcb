//! Handlers that panic in every place where one can: each costs an attempt and nothing else.

use std::sync::Arc;

use millstream::{Context, JobError, NewJob};
use tokio::sync::Barrier;

use crate::support::program::Program;

const SLOTS: usize = 8;
/// What the handler does is the first byte of the payload.
const WAYS: [&str; 4] = ["before", "within", "in a drop", "on a thread"];

/// Panics when it is dropped.
struct Tripwire;

impl Drop for Tripwire {
    fn drop(&mut self) {
        // A second panic while the first one unwinds would end the process.
        if !std::thread::panicking() {
            panic!("in a drop");
        }
    }
}

async fn panic_in(way: &str) -> Result<(), JobError> {
    let _tripwire = (way == "in a drop").then(|| Tripwire);
    assert!(way != "within", "within");
    if way == "on a thread" {
        tokio::task::spawn_blocking(|| panic!("on a thread")).await?;
    }
    tokio::task::yield_now().await;
    Ok(())
}

/// Ten thousand backtraces take longer than all else; every other panic is told as before.
fn tell_of_no_expected_panic() {
    let as_before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<&str>();
        let expected = said.is_some_and(|said| WAYS.contains(said));
        if !expected {
            as_before(panic);
        }
    }));
}

#[tokio::test]
async fn ten_thousand_panics_leave_the_worker_at_work_with_all_its_slots() {
    const PANICS: usize = 10_000;
    tell_of_no_expected_panic();
    let p = Program::new().await;
    let all_slots = Arc::new(Barrier::new(SLOTS));
    let worker = p
        .worker()
        .concurrency(SLOTS)
        .handle_raw("bad", |job: Context| {
            let way = WAYS[usize::from(job.payload()[0])];
            // Before there is a future at all.
            assert!(way != "before", "before");
            panic_in(way)
        })
        .handle_raw("good", move |_: Context| {
            let all_slots = Arc::clone(&all_slots);
            async move {
                all_slots.wait().await;
                Ok(())
            }
        })
        .start()
        .await
        .unwrap();

    let bad = (0..PANICS).map(|n| NewJob::raw("bad", vec![(n % 4) as u8]).max_attempts(1));
    let enqueued = p.queue.enqueue_all(bad.collect()).await.unwrap();
    p.until("all are dead", |t| t.counter("dead") == PANICS as i64)
        .await;

    p.queue
        .enqueue_all(vec![NewJob::raw("good", ""); SLOTS])
        .await
        .unwrap();
    p.until("all slots are taken at once", |t| {
        t.counter("completed") == SLOTS as i64
    })
    .await;
    let scan = p.t.scan();
    assert_eq!(scan.faults, [""; 0]);
    for (job, way) in enqueued.iter().zip(WAYS) {
        let error = &scan.records[job.id.as_str()]["errors"][0]["error"];
        // What a thread panicked with is not told on.
        let said = if way == "on a thread" {
            "panicked"
        } else {
            way
        };
        let told = error.as_str().unwrap();
        assert!(told.contains(said), "{told}, not {way}");
    }
    worker.stop().await;
}
