//! Clients and workers behind a proxy that does to single commands what a bad network or a bad server does.
//!
//! `producer`, `operator` and `worker` sweep every public call, and every step of a worker's life, over every fault: a call
//! ends in time with what is true, and a job that was to move has moved once. `errors` does the same with what Redis
//! says when it refuses, and `logs` looks at what is written of it. `client` holds the Redis client to what the engine
//! counts on. `failover` and `lost_reads` are whole scenes.

mod client;
mod errors;
mod failover;
#[cfg(feature = "cli")]
mod logs;
mod lost_reads;
mod operator;
mod producer;
mod worker;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use millstream::inspect::Inspector;
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Error, Millstream, NewJob, Queue};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::Fixture;
use crate::support::proxy::{Fault, Hits, Proxy, Rule};

/// What happens to a request or to its answer.
const FAULTS: [(&str, Fault); 8] = [
    ("cut before it arrived", Fault::DropBefore),
    ("cut before the answer", Fault::DropAfter),
    ("reset before the answer", Fault::Reset),
    ("cut in the answer", Fault::Truncate),
    ("a slow answer", Fault::Delay(Duration::from_millis(300))),
    // Later than the client waits for one answer: it has asked again by then.
    ("a late answer", Fault::Delay(Duration::from_millis(2_600))),
    ("requests vanish", Fault::SwallowRequests),
    ("answers vanish", Fault::SwallowReplies),
];

/// Cases at once. They wait far more than they work.
const AT_ONCE: usize = 48;
/// No case takes this long, not even one that waits for every patience in turn on a loaded machine.
const HANGS: Duration = Duration::from_secs(90);
/// Until things work again once the fault is over.
const RECOVERED: Duration = Duration::from_secs(5);
/// What a loaded machine may add to a bound.
const SLACK: Duration = Duration::from_secs(5);

type Case = (String, Pin<Box<dyn Future<Output = ()> + Send>>);

/// Runs the cases, many at once, and names all that failed. Give it a runtime of some threads: those who look into Redis
/// block the one that they are on, and no connection is to wait for them.
async fn run_all(cases: impl IntoIterator<Item = Case>) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let (mut running, mut names) = (JoinSet::new(), std::collections::HashMap::new());
    for (name, case) in cases {
        let turns = Arc::clone(&turns);
        let task = running.spawn(async move {
            let _turn = turns.acquire_owned().await;
            timeout(HANGS, case).await.expect("hangs");
        });
        names.insert(task.id(), name);
    }
    let mut failed = Vec::new();
    while let Some(ended) = running.join_next_with_id().await {
        if let Err(error) = ended {
            let (name, panic) = (names[&error.id()].clone(), error.into_panic());
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            failed.push(format!("{name}: {}", text.unwrap_or_default()));
        }
    }
    let (count, list) = (failed.len(), failed.join("\n"));
    assert!(
        failed.is_empty(),
        "{count} of {} cases:\n{list}",
        names.len()
    );
}

/// The server of the whole sweep; every case has its own queue, and its own way there.
fn server() -> &'static PrivateRedis {
    static SERVER: OnceLock<PrivateRedis> = OnceLock::new();
    SERVER.get_or_init(|| {
        let options = Options {
            tcp: true,
            ..Options::default()
        };
        PrivateRedis::start(options).expect("a private Redis")
    })
}

/// A queue that is reached through a proxy, and once more beside it, for those who look.
struct Scene {
    t: Fixture,
    proxy: Proxy,
    client: Millstream,
    queue: Queue,
    inspector: Inspector,
}

impl Scene {
    async fn new() -> Self {
        let t = Fixture::on(server()).await;
        let proxy = Proxy::to(server());
        let client = Millstream::connect(&proxy.url()).await.unwrap();
        Self {
            queue: client.queue(&t.queue).unwrap(),
            inspector: client.inspect(&t.queue).unwrap(),
            t,
            proxy,
            client,
        }
    }

    /// The `nth` request of this name from now on suffers `fault`.
    fn arm(&self, on: &'static str, nth: u32, fault: &Fault) -> Hits {
        self.proxy.arm(Rule::once(on, fault.clone()).nth(nth))
    }

    /// Calls work again within a few seconds: what was lost on the way was lost alone.
    async fn works_again(&self) {
        let began = Instant::now();
        while let Err(error) = self.inspector.stats().await {
            let waited = began.elapsed();
            assert!(
                waited < RECOVERED + SLACK,
                "still {error} after {waited:?} without a fault"
            );
        }
        let waited = began.elapsed();
        assert!(waited < RECOVERED + SLACK, "worked again after {waited:?}");
    }

    /// Nothing is half done, counted twice, or told wrong.
    async fn is_sound(&self) {
        self.t.assert_every_job_has_one_home();
        self.t.assert_stats_agree().await;
    }
}

fn job() -> NewJob {
    NewJob::raw("a", "payload")
}

/// The only thing that a caller may be told of a connection that failed: it may or may not have been carried out.
#[track_caller]
fn assert_ambiguous(error: &Error) {
    assert!(matches!(error, Error::Ambiguous { .. }), "{error:?}");
}
