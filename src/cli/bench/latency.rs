//! Times: jobs sent at a fixed rate, whatever becomes of those before them, and when each arrived.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::Notify;

/// How long the last arrivals are waited for.
const ARRIVE: Duration = Duration::from_secs(30);

/// When each job was sent and when it arrived. Cheap to clone.
#[derive(Clone)]
pub(super) struct Times(Arc<Inner>);

struct Inner {
    began: Instant,
    /// Nanoseconds from `began`; 0 until then.
    sent: Vec<AtomicU64>,
    arrived: Vec<AtomicU64>,
    left: AtomicU64,
    all: Notify,
}

impl Times {
    pub(super) fn new(jobs: usize) -> Self {
        let none = || (0..jobs).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Inner {
            began: Instant::now(),
            sent: none(),
            arrived: none(),
            left: AtomicU64::new(jobs as u64),
            all: Notify::new(),
        }))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// To be called just before the job is handed over.
    pub(super) fn send(&self, index: usize) {
        self.0.sent[index].store(self.now(), Ordering::Release);
    }

    /// To be called first thing at the other end, with the payload.
    pub(super) fn arrive(&self, payload: &[u8]) {
        let now = self.now();
        let index = payload
            .first_chunk()
            .map(|bytes| u64::from_le_bytes(*bytes));
        let slot = index.and_then(|index| self.0.arrived.get(usize::try_from(index).ok()?));
        let Some(slot) = slot else { return };
        // Only the first time counts.
        let first = slot.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire);
        if first.is_ok() && self.0.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.all.notify_one();
        }
    }

    /// Waits for all, and tells how long each took beyond `allowed`; negative when it was sooner.
    pub(super) async fn all(&self, allowed: Duration) -> anyhow::Result<Vec<i64>> {
        let all = tokio::time::timeout(ARRIVE + allowed, self.0.all.notified()).await;
        let left = self.0.left.load(Ordering::Acquire);
        all.with_context(|| format!("{left} jobs did not arrive"))?;
        let allowed = i64::try_from(allowed.as_nanos())?;
        let took = self
            .0
            .sent
            .iter()
            .zip(&self.0.arrived)
            .map(|(sent, arrived)| {
                let took = arrived.load(Ordering::Acquire) - sent.load(Ordering::Acquire);
                i64::try_from(took).unwrap_or(i64::MAX) - allowed
            });
        Ok(took.collect())
    }
}

/// Calls `send` for each of `jobs` on this runtime, `rate` times a second, and does not wait for any before the next.
pub(super) async fn open_loop<F>(
    rate: u32,
    jobs: usize,
    send: impl Fn(usize) -> F + Send + 'static,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let runtime = tokio::runtime::Handle::current();
    // A thread of its own: the runtime's timers are a millisecond wide.
    let pace = move || {
        let began = Instant::now();
        let start = |index: usize| {
            let due = Duration::from_secs(index as u64) / rate;
            std::thread::sleep(due.saturating_sub(began.elapsed()));
            runtime.spawn(send(index))
        };
        (0..jobs).map(start).collect::<Vec<_>>()
    };
    for sent in tokio::task::spawn_blocking(pace).await? {
        sent.await??;
    }
    Ok(())
}
