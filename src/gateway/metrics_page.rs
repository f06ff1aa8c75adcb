//! `GET /metrics`: what the program's recorder has to say, made at most once a second whoever asks.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;

/// How long a page is good for: the route is open to whoever reaches the gateway, and must not become a load on Redis.
const FRESH: Duration = Duration::from_secs(1);

/// Writes the page of `GET /metrics`, in Prometheus's text format. Cheap to clone.
#[derive(Clone)]
pub struct MetricsPage {
    write: Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>,
    last: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

impl fmt::Debug for MetricsPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsPage").finish_non_exhaustive()
    }
}

impl MetricsPage {
    /// A page that `write` writes: what an exporter renders, and [`crate::metrics::QueueGauges::render`].
    pub fn new<F, Fut>(write: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = String> + Send + 'static,
    {
        Self {
            write: Arc::new(move || write().boxed()),
            last: Arc::default(),
        }
    }

    /// Who asks while the page is being written waits for it.
    pub(super) async fn read(&self) -> Bytes {
        let mut last = self.last.lock().await;
        if let Some((at, page)) = &*last
            && at.elapsed() <= FRESH
        {
            return page.clone();
        }
        let page = Bytes::from((self.write)().await);
        *last = Some((Instant::now(), page.clone()));
        page
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn many_who_ask_at_once_share_one_page() {
        let written = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&written);
        let page = MetricsPage::new(move || {
            let number = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::task::yield_now().await;
                format!("page {number}")
            }
        });
        let pages = futures_util::future::join_all((0..50).map(|_| page.read())).await;
        assert!(pages.iter().all(|page| page == "page 0"));
        assert_eq!(written.load(Ordering::SeqCst), 1);
    }
}
