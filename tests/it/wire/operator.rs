//! What operators call: it looks right, or it has moved each job once and says so.

use std::time::{Duration, Instant};

use millstream::job::state::State;
use millstream::{Error, JobId, JobUpdate, Millstream, Result};

use super::{Case, FAULTS, Scene, job, run_all, server};
use crate::support::LATER;
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::resp::Value;

/// What an operator waits for one answer of Redis at most, and a loaded machine's share. No call asks more than one that
/// meets the fault.
const IN_TIME: Duration = Duration::from_secs(5 + 2 + 5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Stats,
    List,
    Show,
    Dead,
    Completed,
    Keys,
    Queues,
    CheckWritable,
    Cancel,
    RunNow,
    Update,
    Redrive,
    Purge,
    Prune,
    DryPrune,
    Pause,
    Resume,
}

impl Call {
    const ALL: [Self; 17] = [
        Self::Stats,
        Self::List,
        Self::Show,
        Self::Dead,
        Self::Completed,
        Self::Keys,
        Self::Queues,
        Self::CheckWritable,
        Self::Cancel,
        Self::RunNow,
        Self::Update,
        Self::Redrive,
        Self::Purge,
        Self::Prune,
        Self::DryPrune,
        Self::Pause,
        Self::Resume,
    ];

    fn on(self) -> &'static str {
        match self {
            Self::Stats => "stats",
            Self::List => "XPENDING",
            Self::Show => "HGET",
            Self::Dead => "ZRANGE",
            Self::Completed => "XRANGE",
            Self::Keys => "TYPE",
            Self::Queues => "SCAN",
            Self::CheckWritable => "SET",
            Self::Cancel => "cancel",
            Self::RunNow => "run_now",
            Self::Update => "update",
            Self::Redrive => "redrive",
            Self::Purge => "purge",
            Self::Prune => "prune",
            Self::DryPrune => "ZCOUNT",
            Self::Pause | Self::Resume => "pause",
        }
    }

    /// Makes the call, and says what it was told in a word or a number.
    async fn make(self, stage: &Stage) -> Result<String> {
        let inspector = &stage.scene.inspector;
        let one = std::slice::from_ref(&stage.scheduled);
        Ok(match self {
            Self::Stats => inspector.stats().await?.dead.to_string(),
            Self::List => inspector.list(None, 100).await?.len().to_string(),
            Self::Show => inspector.show(&one[0]).await?.state.to_string(),
            Self::Dead => inspector
                .list(Some(State::Dead), 100)
                .await?
                .len()
                .to_string(),
            Self::Completed => inspector.completed(None, 100).await?.len().to_string(),
            Self::Keys => {
                let keys = inspector.keys().await?;
                let dead = keys.iter().find(|key| key.key.ends_with(":dead"));
                dead.map(|key| key.size).unwrap_or_default().to_string()
            }
            Self::Queues => {
                let queues = stage.scene.client.queues().await?;
                queues.contains(&stage.scene.t.queue).to_string()
            }
            Self::CheckWritable => {
                let timeout = Duration::from_secs(5);
                stage.scene.client.check_writable(timeout).await?;
                String::new()
            }
            Self::Cancel => inspector.cancel(&one[0]).await?.to_string(),
            Self::RunNow => inspector.run_now(&one[0]).await.map(|()| String::new())?,
            Self::Update => {
                let update = JobUpdate::new().payload("new");
                inspector.update(&one[0], &update).await?.to_string()
            }
            Self::Redrive => inspector.redrive(&stage.dead).await?.to_string(),
            Self::Purge => inspector.purge(&stage.dead).await?.to_string(),
            Self::Prune | Self::DryPrune => {
                let dry = self == Self::DryPrune;
                let pruned = inspector.prune(None, Some(Duration::ZERO), dry).await?;
                pruned.dead.to_string()
            }
            Self::Pause => inspector.pause().await.map(|()| String::new())?,
            Self::Resume => inspector.resume().await.map(|()| String::new())?,
        })
    }

    /// What a call that succeeds is told.
    fn truth(self) -> &'static str {
        match self {
            Self::Stats | Self::Dead | Self::Keys | Self::DryPrune => "3",
            Self::Prune | Self::Redrive | Self::Purge => "3",
            Self::List => "4",
            Self::Show | Self::Cancel | Self::Update => "scheduled",
            Self::Completed => "0",
            Self::Queues => "true",
            Self::CheckWritable | Self::RunNow | Self::Pause | Self::Resume => "",
        }
    }

    /// What it is to bring about.
    fn is_done(self, stage: &Stage) -> bool {
        let t = &stage.scene.t;
        let all_dead = |state| stage.dead.iter().all(|id| t.state_of(id) == state);
        let scheduled = t.state_of(&stage.scheduled);
        let paused = || t.redis(&["HGET", &t.key("limits"), "paused"]) != Value::Nil;
        match self {
            Self::Cancel => scheduled.is_none(),
            Self::RunNow => scheduled == Some(State::Ready),
            Self::Update => t.scan().payloads[stage.scheduled.as_str()] == b"new",
            Self::Redrive => all_dead(Some(State::Ready)),
            Self::Purge => all_dead(None),
            Self::Prune => all_dead(None),
            Self::Pause => paused(),
            Self::Resume => !paused(),
            _ => true,
        }
    }
}

/// Three dead jobs and one that is scheduled.
struct Stage {
    scene: Scene,
    dead: Vec<JobId>,
    scheduled: JobId,
}

impl Stage {
    async fn set(call: Call) -> Self {
        let scene = Scene::new().await;
        let mut dead = Vec::new();
        for _ in 0..3 {
            dead.push(scene.t.dead(job()).await);
        }
        let scheduled = scene.t.enqueue(job().delay(LATER).unique("k")).await;
        if call == Call::Resume {
            let limits = scene.t.key("limits");
            scene.t.redis(&["HSET", &limits, "paused", "1"]);
        }
        Self {
            scene,
            dead,
            scheduled,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn an_operators_call_that_meets_any_fault_is_carried_out_once_and_answered_in_time() {
    let cases = Call::ALL.into_iter().flat_map(|call| {
        FAULTS.into_iter().map(move |(name, fault)| -> Case {
            (format!("{call:?}, {name}"), Box::pin(case(call, fault)))
        })
    });
    run_all(cases).await;
}

async fn case(call: Call, fault: Fault) {
    let stage = Stage::set(call).await;
    let scene = &stage.scene;
    let before = scene.t.state_hash();
    let struck = scene.arm(call.on(), 1, &fault);

    let began = Instant::now();
    let answer = call.make(&stage).await;
    let took = began.elapsed();

    assert_eq!(struck.count(), 1, "the fault did not strike: {answer:?}");
    assert!(took < IN_TIME, "answered after {took:?}");
    scene.works_again().await;
    let done = call.is_done(&stage);
    if call == Call::Prune && done {
        scene.t.expect_unbooked(-3);
    }
    scene.is_sound().await;
    match answer {
        Ok(told) => {
            assert!(done, "told {told:?}, but it is not done");
            // What a prune removed before its answer was lost is not counted again.
            if call != Call::Prune {
                assert_eq!(told, call.truth());
            }
        }
        Err(Error::Ambiguous { .. }) => {
            let untouched = || scene.t.state_hash() == before;
            assert!(done || untouched(), "half done");
        }
        Err(error) => panic!("{error:?}"),
    }
    // The next one does what there is left to do.
    if !done {
        call.make(&stage).await.unwrap();
        assert!(call.is_done(&stage), "done at the second call");
        if call == Call::Prune {
            scene.t.expect_unbooked(-3);
        }
    }
    scene.is_sound().await;
    let redriven = if call == Call::Redrive { 3 } else { 0 };
    assert_eq!(scene.t.counter("redriven"), redriven);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_first_connection_that_meets_any_fault_is_made_or_refused_in_time() {
    let cases = FAULTS.into_iter().map(|(name, fault)| -> Case {
        let case = async move {
            let proxy = Proxy::to(server());
            let struck = proxy.arm(Rule::once("INFO", fault));
            let began = Instant::now();
            let connected = Millstream::connect(&proxy.url()).await;
            let took = began.elapsed();
            assert_eq!(struck.count(), 1, "the fault did not strike");
            assert!(took < IN_TIME + IN_TIME, "{connected:?} after {took:?}");
            match connected {
                Ok(_) | Err(Error::Unreachable { .. } | Error::Ambiguous { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
            Millstream::connect(&proxy.url()).await.unwrap();
        };
        (name.to_owned(), Box::pin(case))
    });
    run_all(cases).await;
}
