//! A job that runs while its server is in trouble.

use std::sync::Arc;
use std::time::Duration;

use millstream::inspect::Stats;
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, JobError, Millstream, NewJob, Worker, WorkerBuilder};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::program::SLACK;

/// The shortest lease, so that a server can outlast it within a test.
pub(crate) const LEASE: Duration = Duration::from_secs(1);

/// A job that runs while the server is in trouble: its worker has the shortest lease.
pub(crate) struct LongJob {
    pub(crate) server: PrivateRedis,
    pub(crate) client: Millstream,
    worker: Worker,
    heard: UnboundedReceiver<&'static str>,
    pub(crate) go_on: Arc<Notify>,
}

impl LongJob {
    /// Returns when the job runs.
    pub(crate) async fn start() -> Self {
        Self::start_on(|worker| worker).await
    }

    /// The same with more settings of the worker.
    pub(crate) async fn start_on(settings: fn(WorkerBuilder) -> WorkerBuilder) -> Self {
        let server = PrivateRedis::start(Options::default()).unwrap();
        let client = Millstream::connect(&server.url()).await.unwrap();
        let (tell, heard) = unbounded_channel();
        let go_on = Arc::new(Notify::new());
        let waiting = Arc::clone(&go_on);
        let handler = move |job: Context| {
            let (tell, waiting) = (tell.clone(), Arc::clone(&waiting));
            async move {
                let _ = tell.send("began");
                tokio::select! {
                    () = waiting.notified() => Ok(()),
                    () = job.cancelled().cancelled() => {
                        let _ = tell.send("cancelled");
                        Err(JobError::failed("cancelled"))
                    }
                }
            }
        };
        let worker = settings(client.worker("q").unwrap().lease(LEASE));
        let worker = worker.handle_raw("a", handler).start().await.unwrap();
        let queue = client.queue("q").unwrap();
        queue.enqueue(NewJob::raw("a", "")).await.unwrap();
        let mut job = Self {
            server,
            client,
            worker,
            heard,
            go_on,
        };
        assert_eq!(job.next().await, "began");
        job
    }

    pub(crate) async fn next(&mut self) -> &'static str {
        let heard = timeout(SLACK, self.heard.recv()).await;
        heard.expect("word of the handler").unwrap()
    }

    /// Lets the handler finish and sees that it ran once, undisturbed.
    pub(crate) async fn finishes_undisturbed(mut self, what: &str) {
        self.go_on.notify_one();
        let inspector = self.client.inspect("q").unwrap();
        let settled = async {
            loop {
                match inspector.stats().await {
                    Ok(stats) if stats.completed_total == 1 => return stats,
                    _ => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let stats: Stats = timeout(SLACK, settled).await.expect("the job is settled");
        assert_eq!(stats.stalled_total, 0, "{what}");
        assert_eq!(self.heard.try_recv().ok(), None, "{what}");
        self.worker.stop().await;
    }
}
