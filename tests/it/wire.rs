//! Connections that break in the middle: what Redis delivered and nobody saw is found again by the worker that it was
//! delivered to, before anything new and without a stall.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, Millstream, NewJob, Queue, Worker, WorkerBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

/// Far longer than the 30 s lease after which a stranded job would run again with a stall.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the proxy does to answers, once it is armed.
#[derive(Clone, Copy)]
enum Fault {
    /// Cuts the connection instead of passing on the answer that holds these bytes; once.
    CutAt(&'static [u8]),
    /// Connections that were made before swallow everything and stay open.
    Blackhole,
}

/// Stands between clients and `redis` on a port of its own.
async fn proxy(redis: &PrivateRedis, fault: Fault, armed: Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, server) = (listener.local_addr().unwrap().port(), redis.port().unwrap());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
            tokio::spawn(pass(client, server, fault, Arc::clone(&armed)));
        }
    });
    format!("redis://127.0.0.1:{port}")
}

async fn pass(mut client: TcpStream, mut server: TcpStream, fault: Fault, armed: Arc<AtomicBool>) {
    let made_before = !armed.load(Ordering::SeqCst);
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let (length, answer) = tokio::select! {
            length = client.read(&mut asked) => (length.unwrap_or(0), false),
            length = server.read(&mut answered) => (length.unwrap_or(0), true),
        };
        if length == 0 {
            return;
        }
        match fault {
            Fault::Blackhole if made_before && armed.load(Ordering::SeqCst) => continue,
            Fault::CutAt(mark)
                if answer
                    && answered[..length]
                        .windows(mark.len())
                        .any(|bytes| bytes == mark)
                    && armed.swap(false, Ordering::SeqCst) =>
            {
                return;
            }
            _ => {}
        }
        let written = match answer {
            true => client.write_all(&answered[..length]).await,
            false => server.write_all(&asked[..length]).await,
        };
        if written.is_err() {
            return;
        }
    }
}

/// A worker behind the proxy that tells payload and stalls of each job as it starts and again as it ends; a job called
/// `slow` ends when it is told to. And the queue without the proxy.
struct Scene {
    queue: Queue,
    ran: UnboundedReceiver<(String, u32)>,
    go_on: Arc<tokio::sync::Notify>,
    _worker: Worker,
    _redis: PrivateRedis,
}

impl Scene {
    async fn new(
        fault: Fault,
        armed: &Arc<AtomicBool>,
        settings: fn(WorkerBuilder) -> WorkerBuilder,
    ) -> Self {
        let redis = PrivateRedis::start(Options {
            tcp: true,
            ..Options::default()
        })
        .unwrap();
        let url = proxy(&redis, fault, Arc::clone(armed)).await;
        let queue = Millstream::connect(&redis.url())
            .await
            .unwrap()
            .queue("q")
            .unwrap();
        let (tell, ran) = unbounded_channel();
        let go_on = Arc::new(tokio::sync::Notify::new());
        let waiting = Arc::clone(&go_on);
        let handler = move |job: Context| {
            let (tell, waiting) = (tell.clone(), Arc::clone(&waiting));
            async move {
                let payload = String::from_utf8_lossy(job.payload()).into_owned();
                let slow = payload == "slow";
                let _ = tell.send((payload, job.stalls()));
                if slow {
                    waiting.notified().await;
                }
                Ok(())
            }
        };
        let worker = Millstream::connect(&url)
            .await
            .unwrap()
            .worker("q")
            .unwrap();
        let worker = settings(worker)
            .handle_raw("a", handler)
            .start()
            .await
            .unwrap();
        Self {
            queue,
            ran,
            go_on,
            _worker: worker,
            _redis: redis,
        }
    }

    async fn enqueue(&self, payload: &'static str) {
        self.queue.enqueue(NewJob::raw("a", payload)).await.unwrap();
    }

    async fn next(&mut self) -> (String, u32) {
        timeout(PATIENCE, self.ran.recv())
            .await
            .expect("the job runs")
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_answer_is_lost_is_found_again_without_a_stall() {
    let armed = Arc::new(AtomicBool::new(false));
    let one_at_a_time = |worker: WorkerBuilder| worker.concurrency(1).prefetch(0);
    let mut scene = Scene::new(Fault::CutAt(b"MARKED"), &armed, one_at_a_time).await;
    scene.enqueue("slow").await;
    assert_eq!(scene.next().await, ("slow".to_owned(), 0));

    scene.enqueue("MARKED").await;
    armed.store(true, Ordering::SeqCst);
    scene.go_on.notify_one();

    assert_eq!(scene.next().await, ("MARKED".to_owned(), 0));
    assert!(!armed.load(Ordering::SeqCst), "the answer was cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_delivered_into_a_dead_connection_runs_before_later_ones_without_a_stall() {
    let armed = Arc::new(AtomicBool::new(false));
    let mut scene = Scene::new(Fault::Blackhole, &armed, |worker| worker).await;
    scene.enqueue("before").await;
    assert_eq!(scene.next().await, ("before".to_owned(), 0));

    // The read that is blocked on the server is given the job, and its answer goes nowhere.
    armed.store(true, Ordering::SeqCst);
    scene.enqueue("first").await;
    scene.enqueue("second").await;

    assert_eq!(scene.next().await, ("first".to_owned(), 0));
    assert_eq!(scene.next().await, ("second".to_owned(), 0));
}
