//! A queue as a program sees it, beside the one that looks into Redis.

use std::time::Duration;

use millstream::{Backoff, Context, JobError, Millstream, NewJob, Queue, WorkerBuilder};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::Fixture;
use super::resp::Value;

/// What a loaded machine may take for a thing that takes milliseconds.
pub(crate) const SLACK: Duration = Duration::from_secs(30);
/// Long enough to see that something does not happen, where no event tells.
pub(crate) const MOMENT: Duration = Duration::from_millis(300);
pub(crate) const QUICK: Backoff = Backoff::Fixed(Duration::from_millis(1));

/// A queue, and what a program has of it.
pub(crate) struct Program {
    pub(crate) t: Fixture,
    pub(crate) client: Millstream,
    pub(crate) queue: Queue,
}

impl Program {
    pub(crate) async fn new() -> Self {
        Self::over(Fixture::new().await).await
    }

    pub(crate) async fn over(t: Fixture) -> Self {
        let client = Millstream::connect(&t.url).await.unwrap();
        let queue = client.queue(&t.queue).unwrap();
        Self { t, client, queue }
    }

    pub(crate) fn worker(&self) -> WorkerBuilder {
        self.client.worker(&self.t.queue).unwrap().backoff(QUICK)
    }

    pub(crate) async fn enqueue(&self, job: NewJob) -> millstream::JobId {
        self.queue.enqueue(job).await.unwrap().id
    }

    /// Waits until Redis shows what the test waits for.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Fixture) -> bool) {
        let shown = async {
            while !is_so(&self.t) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(SLACK, shown).await;
        in_time.unwrap_or_else(|_| panic!("not within {SLACK:?}: {what}"));
    }

    pub(crate) async fn until_dead(&self, id: &millstream::JobId) -> serde_json::Value {
        let is_dead = |t: &Fixture| t.redis(&["ZSCORE", &t.key("dead"), id.as_str()]) != Value::Nil;
        self.until("the job is dead", is_dead).await;
        self.t.record_of(id).unwrap()
    }

    pub(crate) async fn until_completed(&self, jobs: i64) {
        self.until("completed", |t| t.counter("completed") == jobs)
            .await;
        self.t.assert_every_job_has_one_home();
    }
}

pub(crate) async fn next<T>(hear: &mut UnboundedReceiver<T>) -> T {
    let heard = tokio::time::timeout(SLACK, hear.recv()).await;
    heard
        .expect("a handler was called")
        .expect("the worker lives")
}

/// A handler that tells which attempt it was called for, and succeeds.
pub(crate) fn telling(
    tell: &UnboundedSender<u32>,
) -> impl Fn(Context) -> std::future::Ready<Result<(), JobError>> + use<> {
    let tell = tell.clone();
    move |job| {
        let _ = tell.send(job.attempt());
        std::future::ready(Ok(()))
    }
}
