//! A worker's life, step by step: whatever is lost on the way, each job runs as often as it should and is settled once.

mod stage;
mod step;

use std::time::Duration;

use millstream::Millstream;
use tokio::time::timeout;

use super::{Case, FAULTS, RECOVERED, SLACK, run_all};
use crate::support::proxy::Fault;
use stage::Stage;
use step::Step;

/// Until a job is settled whose step met a fault. The longest way: a blocked read into a dead connection, its block and
/// two seconds, then the look at the own deliveries, two seconds again, and a new connection.
const SETTLED: Duration = Duration::from_secs(30);
/// With `slow`, which runs for longer, the heartbeat must come through in time although one call was lost.
const SHORT_LEASE: Duration = Duration::from_secs(9);
const SLOW: Duration = Duration::from_secs(11);
const GRACE: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
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
