//! Workers that die between any two steps of a job's life: another one completes it, and it is completed once.
//!
//! A worker talks to Redis through a [`Line`]. Cutting that, at a moment of one's choice and for ever, is a death as Redis
//! sees it: the connections end, and nothing is handed back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, Millstream, NewJob, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Semaphore, watch};

use crate::support::Fixture;
use crate::support::program::{Program, QUICK, next};

/// The unique key, payload and name that mark a job on the wire.
const MARK: &str = "MARKED";
/// Long enough for a worker on a loaded machine to renew it.
const LEASE: Duration = Duration::from_secs(2);

/// When a line goes dead by itself. The mark is looked for in one chunk: it is small, and travels whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// At the call that bears the mark, which Redis never gets.
    BeforeCall,
    /// At the call that bears the mark, which Redis gets and whose answer nobody hears.
    AfterCall,
    /// At the answer that bears the mark, which the worker never hears.
    BeforeAnswer,
    /// Only when the test says so.
    ByHand,
}

/// The way between one worker and Redis.
#[derive(Clone)]
struct Line {
    cut: Cut,
    armed: Arc<AtomicBool>,
    dead: watch::Sender<bool>,
}

impl Line {
    /// Returns the line, and the address at which a worker finds it.
    async fn to(redis: &PrivateRedis, cut: Cut) -> (Self, String) {
        let line = Self {
            cut,
            armed: Arc::default(),
            dead: watch::Sender::new(false),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let (port, accepting) = (redis.port().unwrap(), line.clone());
        tokio::spawn(async move {
            while let Ok((worker, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
                    return;
                };
                let (calls, to_worker) = worker.into_split();
                let (answers, to_server) = server.into_split();
                tokio::spawn(accepting.clone().carry(calls, to_server, true));
                tokio::spawn(accepting.clone().carry(answers, to_worker, false));
            }
        });
        (line, url)
    }

    /// Carries calls or answers until the death of the line; then both connections end with this.
    async fn carry(self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, calls: bool) {
        let mut bytes = vec![0; 1 << 16];
        let mut dead = self.dead.subscribe();
        loop {
            let length = tokio::select! {
                biased;
                _ = dead.wait_for(|dead| *dead) => return,
                length = from.read(&mut bytes) => length.unwrap_or(0),
            };
            let chunk = &bytes[..length];
            let marked = chunk
                .windows(MARK.len())
                .any(|bytes| bytes == MARK.as_bytes());
            let hit = marked
                && calls == matches!(self.cut, Cut::BeforeCall | Cut::AfterCall)
                && self.armed.load(Ordering::SeqCst);
            if hit {
                self.dead.send_replace(true);
            }
            let passes = length > 0 && (!hit || self.cut == Cut::AfterCall);
            if !passes || to.write_all(chunk).await.is_err() {
                return;
            }
        }
    }
}

/// A worker that dies, and what it was given.
struct Scene {
    p: Program,
    redis: PrivateRedis,
    line: Line,
    victim: Worker,
    /// Job names, as the victim's handler is called.
    began: UnboundedReceiver<String>,
    go_on: Arc<Semaphore>,
    /// How often the marked job was begun, by anybody.
    runs: Arc<AtomicUsize>,
}

impl Scene {
    async fn new(cut: Cut) -> Self {
        let redis = PrivateRedis::start(Options {
            tcp: true,
            ..Options::default()
        })
        .unwrap();
        let p = Program::over(Fixture::on(&redis).await).await;
        let (line, url) = Line::to(&redis, cut).await;
        let (tell, began) = unbounded_channel();
        let (go_on, runs) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let handler = {
            let (gate, runs) = (Arc::clone(&go_on), Arc::clone(&runs));
            move |job: Context| {
                let (gate, tell) = (Arc::clone(&gate), tell.clone());
                if job.name() == MARK {
                    runs.fetch_add(1, Ordering::SeqCst);
                }
                async move {
                    let _ = tell.send(job.name().to_owned());
                    gate.acquire().await?.forget();
                    Ok(())
                }
            }
        };
        let client = Millstream::connect(&url).await.unwrap();
        let builder = client.worker(&p.t.queue).unwrap().backoff(QUICK);
        let builder = builder.concurrency(1).prefetch(1).lease(LEASE);
        let builder = builder.shutdown_timeout(Duration::ZERO).fallback(handler);
        let victim = builder.start().await.unwrap();
        Self {
            p,
            redis,
            line,
            victim,
            began,
            go_on,
            runs,
        }
    }

    fn arm(&self) {
        self.line.armed.store(true, Ordering::SeqCst);
    }

    fn cut(&self) {
        self.line.dead.send_replace(true);
    }

    async fn enqueue(&self, name: &str) {
        let job = NewJob::raw(name, name.to_owned()).unique(name);
        self.p.enqueue(job).await;
    }

    async fn begins(&mut self, name: &str) {
        assert_eq!(next(&mut self.began).await, name);
    }

    /// Waits for the death, and lets another worker do what is left; returns how often the marked job was begun.
    async fn ends_with(self, jobs: i64, stalls: i64) -> usize {
        let dead = &self.line.dead;
        self.p
            .until("the worker is cut off", |_| *dead.borrow())
            .await;
        let runs = Arc::clone(&self.runs);
        let healthy = move |job: Context| {
            if job.name() == MARK {
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
    let scene = Scene::new(Cut::BeforeAnswer).await;
    scene.arm();
    scene.enqueue(MARK).await;

    assert_eq!(scene.ends_with(1, 1).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_waited_for_a_slot_when_its_worker_died_is_completed_by_another_one() {
    let mut scene = Scene::new(Cut::ByHand).await;
    scene.enqueue("first").await;
    scene.begins("first").await;
    scene.enqueue(MARK).await;
    let pending = |t: &Fixture| t.redis(&["XPENDING", &t.key("ready"), "workers"]).list()[0].int();
    scene.p.until("both are in hand", |t| pending(t) == 2).await;
    scene.cut();

    assert_eq!(scene.ends_with(2, 2).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_ran_when_its_worker_died_runs_again_elsewhere_and_is_completed_once() {
    let mut scene = Scene::new(Cut::ByHand).await;
    scene.enqueue(MARK).await;
    scene.begins(MARK).await;
    scene.cut();

    assert_eq!(scene.ends_with(1, 1).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_done_and_not_yet_settled_when_its_worker_died_is_completed_once() {
    let mut scene = Scene::new(Cut::BeforeCall).await;
    scene.enqueue(MARK).await;
    scene.begins(MARK).await;
    scene.arm();
    scene.go_on.add_permits(1);

    assert_eq!(scene.ends_with(1, 1).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_worker_died_before_it_heard_of_the_settlement_does_not_run_again() {
    let mut scene = Scene::new(Cut::AfterCall).await;
    // Redis must know the script: a call that it has to be told again would never be carried out.
    scene.enqueue("first").await;
    scene.begins("first").await;
    scene.go_on.add_permits(1);
    scene.p.until_completed(1).await;
    scene.enqueue(MARK).await;
    scene.begins(MARK).await;
    scene.arm();
    scene.go_on.add_permits(1);

    assert_eq!(scene.ends_with(2, 0).await, 1);
}
