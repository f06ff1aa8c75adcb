//! Workers that die between any two steps of a job's life: another one completes it, and it is completed once.
//!
//! A worker talks to Redis through a proxy. When that cuts its connections and lets it make no new ones, the worker is dead
//! as Redis sees it: it ends without a word, and nothing is handed back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, Millstream, NewJob, Worker};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::support::Fixture;
use crate::support::program::{Program, QUICK, next};
use crate::support::proxy::{Fault, Proxy, Rule};

/// The job that the worker dies of.
const LAST: &str = "last";
/// Long enough for a worker on a loaded machine to renew it.
const LEASE: Duration = Duration::from_secs(2);

/// A worker that dies, and what it was given.
struct Scene {
    p: Program,
    redis: PrivateRedis,
    proxy: Proxy,
    victim: Worker,
    /// Job names, as the victim's handler is called.
    began: UnboundedReceiver<String>,
    go_on: Arc<Semaphore>,
    /// How often the last job was begun, by anybody.
    runs: Arc<AtomicUsize>,
}

impl Scene {
    async fn new() -> Self {
        let redis = PrivateRedis::start(Options {
            tcp: true,
            ..Options::default()
        })
        .unwrap();
        let p = Program::over(Fixture::on(&redis).await).await;
        let proxy = Proxy::to(&redis);
        let (tell, began) = unbounded_channel();
        let (go_on, runs) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let handler = {
            let (gate, runs) = (Arc::clone(&go_on), Arc::clone(&runs));
            move |job: Context| {
                let (gate, tell) = (Arc::clone(&gate), tell.clone());
                if job.name() == LAST {
                    runs.fetch_add(1, Ordering::SeqCst);
                }
                async move {
                    let _ = tell.send(job.name().to_owned());
                    gate.acquire().await?.forget();
                    Ok(())
                }
            }
        };
        let client = Millstream::connect(&proxy.url()).await.unwrap();
        let builder = client.worker(&p.t.queue).unwrap().backoff(QUICK);
        let builder = builder.concurrency(1).prefetch(1).lease(LEASE);
        let builder = builder.shutdown_timeout(Duration::ZERO).fallback(handler);
        let victim = builder.start().await.unwrap();
        Self {
            p,
            redis,
            proxy,
            victim,
            began,
            go_on,
            runs,
        }
    }

    /// The worker dies.
    fn die(&self) {
        self.proxy.refuse(true);
        self.proxy.cut();
    }

    /// The worker dies of the next call of this name, before or after Redis has carried it out. `trigger` makes it call.
    async fn die_of(&self, call: &'static str, fault: Fault, trigger: impl AsyncFnOnce(&Self)) {
        let mut hit = self.proxy.arm(Rule::once(call, fault));
        self.proxy.refuse(true);
        trigger(self).await;
        hit.first().await;
        self.die();
    }

    async fn enqueue(&self, name: &str) {
        let job = NewJob::raw(name, name.to_owned()).unique(name);
        self.p.enqueue(job).await;
    }

    async fn begins(&mut self, name: &str) {
        assert_eq!(next(&mut self.began).await, name);
    }

    /// Waits until the worker has so many jobs in hand.
    async fn holds(&self, jobs: i64) {
        let held = |t: &Fixture| t.redis(&["XPENDING", &t.key("ready"), "workers"]).list()[0].int();
        self.p.until("in its hands", |t| held(t) == jobs).await;
    }

    /// Lets another worker do what is left; returns how often the last job was begun.
    async fn ends_with(self, jobs: i64, stalls: i64) -> usize {
        let runs = Arc::clone(&self.runs);
        let healthy = move |job: Context| {
            if job.name() == LAST {
                runs.fetch_add(1, Ordering::SeqCst);
            }
            std::future::ready(Ok(()))
        };
        let builder = self.p.worker().lease(LEASE);
        let builder = builder.sweep(Duration::from_millis(100)).fallback(healthy);
        let survivor = builder.start().await.unwrap();

        self.p.until_completed(jobs).await;

        // What the dead one still says is not heard.
        drop(self.victim);
        let t = &self.p.t;
        assert_eq!((t.counter("stalled"), t.counter("failed")), (stalls, 0));
        assert_eq!(t.counter("lease_lost"), 0);
        survivor.stop().await;
        self.p.until_completed(jobs).await;
        drop(self.redis);
        self.runs.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_delivered_and_never_seen_is_completed_by_another_worker() {
    let mut scene = Scene::new().await;
    scene.enqueue("first").await;
    scene.begins("first").await;
    scene.enqueue("second").await;
    scene.holds(2).await;
    let trigger = async |scene: &Scene| {
        let reads = scene.proxy.seen("read");
        scene.go_on.add_permits(1);
        let waits = |_: &Fixture| scene.proxy.seen("read") > reads;
        scene.p.until("it waits for one more", waits).await;
        let settled = |t: &Fixture| t.counter("completed") == 1;
        scene.p.until("the first is settled", settled).await;
        scene.enqueue(LAST).await;
        scene.holds(2).await;
    };
    scene.die_of("read", Fault::DropAfter, trigger).await;

    assert_eq!(scene.ends_with(3, 2).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_waited_for_a_slot_when_its_worker_died_is_completed_by_another_one() {
    let mut scene = Scene::new().await;
    scene.enqueue("first").await;
    scene.begins("first").await;
    scene.enqueue(LAST).await;
    scene.holds(2).await;
    scene.die();

    assert_eq!(scene.ends_with(2, 2).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_ran_when_its_worker_died_runs_again_elsewhere_and_is_completed_once() {
    let mut scene = Scene::new().await;
    scene.enqueue(LAST).await;
    scene.begins(LAST).await;
    scene.die();

    assert_eq!(scene.ends_with(1, 1).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_done_and_not_yet_settled_when_its_worker_died_is_completed_once() {
    let mut scene = Scene::new().await;
    scene.enqueue(LAST).await;
    scene.begins(LAST).await;
    let trigger = async |scene: &Scene| scene.go_on.add_permits(1);
    scene.die_of("complete", Fault::DropBefore, trigger).await;

    assert_eq!(scene.ends_with(1, 1).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_worker_died_before_it_heard_of_the_settlement_does_not_run_again() {
    let mut scene = Scene::new().await;
    // Redis must know the script: a call that it has to be told again would never be carried out.
    scene.enqueue("first").await;
    scene.begins("first").await;
    scene.go_on.add_permits(1);
    scene.p.until_completed(1).await;
    scene.enqueue(LAST).await;
    scene.begins(LAST).await;
    let trigger = async |scene: &Scene| scene.go_on.add_permits(1);
    scene.die_of("complete", Fault::DropAfter, trigger).await;

    assert_eq!(scene.ends_with(2, 0).await, 1);
}
