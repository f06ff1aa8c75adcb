//! Reading a request's body: in time, at a rate that is worth waiting for, and never more of it than there is room for.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::reply::Reply;
use crate::gateway::GatewaySettings;

/// Reserved ahead for a body of declared length, bytes.
const RESERVE_MAX: usize = 64 << 10;
/// A body up to this is read without asking for room. Most webhooks are far smaller.
pub(super) const SMALL: usize = 16 << 10;
/// Room for larger bodies while they are read, all together, bytes. Nobody knows yet who sends them, so it is little; whoever
/// finds none left waits, and the sender with him, for TCP tells it to.
const LARGE_TOTAL: usize = 8 << 20;
/// What the room is counted in, bytes.
const UNIT: usize = 1 << 10;
/// How often a sender's rate is looked at.
pub(super) const WINDOW: Duration = Duration::from_secs(2);

/// A body, as far as it is here.
pub(super) enum Arriving {
    Whole(Bytes),
    Coming(Incoming),
}

/// The bounds that all bodies share.
pub(super) struct Intake {
    /// Largest body, bytes.
    max: usize,
    timeout: Duration,
    /// Least bytes per [`WINDOW`]; zero: any.
    least: usize,
    /// Most bytes in memory at once, those included that were read and are being stored.
    buffered_max: usize,
    buffered: AtomicUsize,
    /// Room for large bodies, in [`UNIT`]s.
    pub(super) large: Semaphore,
}

impl Intake {
    pub(super) fn new(settings: &GatewaySettings) -> Self {
        let rate = usize::try_from(settings.body_rate_min).unwrap_or(usize::MAX);
        Self {
            max: settings.max_body,
            timeout: settings.body_timeout,
            least: rate.saturating_mul(WINDOW.as_secs() as usize),
            buffered_max: settings.buffered_max,
            buffered: AtomicUsize::new(0),
            large: Semaphore::new(LARGE_TOTAL.max(settings.max_body).div_ceil(UNIT)),
        }
    }

    /// The whole body, if it comes in time and within the bounds.
    pub(super) async fn read(&self, body: Arriving) -> Result<Buffered<'_>, Reply> {
        let mut read = Buffered {
            bytes: Bytes::new(),
            charged: 0,
            total: &self.buffered,
        };
        let mut body = match body {
            Arriving::Coming(body) => body,
            Arriving::Whole(bytes) => {
                read.take(bytes.len(), self.max, self.buffered_max)
                    .map_err(|refusal| refusal())?;
                read.bytes = bytes;
                return Ok(read);
            }
        };
        let declared = body.size_hint().lower();
        if declared > u64::try_from(self.max).unwrap_or(u64::MAX) {
            return Err(Reply::too_large());
        }
        // Most bodies came whole with their headers: for them no clock is asked, and they are passed on without a copy.
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
        let first = match first {
            Poll::Ready(None) => return Ok(read),
            Poll::Ready(Some(frame)) => Some(frame.map_err(|_| Reply::bad_request())?),
            Poll::Pending => None,
        };
        if body.is_end_stream()
            && let Some(data) = first.as_ref().and_then(Frame::data_ref)
        {
            read.take(data.len(), self.max, self.buffered_max)
                .map_err(|refusal| refusal())?;
            read.bytes = data.clone();
            return Ok(read);
        }
        // On the heap, as it is large, and would be in every request that waits for its job.
        Box::pin(self.gather(body, first, read)).await
    }

    /// The rest of the body, behind the `first` frame if that is here.
    async fn gather<'a>(
        &'a self,
        mut body: Incoming,
        mut first: Option<Frame<Bytes>>,
        mut read: Buffered<'a>,
    ) -> Result<Buffered<'a>, Reply> {
        let mut gathered = BytesMut::new();
        let mut room = None;
        let mut pace = Pace::new(self.timeout, self.least);
        pace.came = first
            .as_ref()
            .and_then(Frame::data_ref)
            .map_or(0, Bytes::len);
        loop {
            let frame = match first.take() {
                Some(frame) => frame,
                None => match pace.next(&mut body).await? {
                    Some(frame) => frame,
                    None => break,
                },
            };
            let Ok(data) = frame.into_data() else {
                continue; // trailers say nothing that is signed
            };
            let length = read.take(data.len(), self.max, self.buffered_max);
            let length = length.map_err(|refusal| refusal())?;
            // In one piece, which is passed on without a copy.
            if body.is_end_stream() && gathered.is_empty() {
                read.bytes = data;
                return Ok(read);
            }
            let more = usize::try_from(body.size_hint().lower()).unwrap_or(0);
            if room.is_none() && length + more > SMALL {
                // For all that may come: who waited for more with some in hand could wait for others who do the same.
                let whole = body.size_hint().upper().is_some();
                room = Some(
                    self.room(if whole { length + more } else { self.max }, &mut pace)
                        .await?,
                );
            }
            if gathered.is_empty() {
                // What the client declares is reserved only as far as a page or two: it may never come.
                gathered.reserve(data.len() + more.min(RESERVE_MAX));
            }
            gathered.extend_from_slice(&data);
        }
        read.bytes = gathered.freeze();
        Ok(read)
    }

    /// Waits for room for a large body. The sender is not to blame for the wait, but must come again if it takes too long.
    async fn room(&self, bytes: usize, pace: &mut Pace) -> Result<SemaphorePermit<'_>, Reply> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let permit = timeout_at(pace.deadline, self.large.acquire_many(units)).await;
        pace.rest();
        permit
            .map_err(|_| Reply::busy())?
            .map_err(|_| Reply::busy())
    }
}

/// Whether a body comes fast enough.
struct Pace {
    deadline: Instant,
    least: usize,
    /// End of the current window, and what came in it.
    until: Instant,
    came: usize,
}

impl Pace {
    fn new(timeout: Duration, least: usize) -> Self {
        let now = Instant::now();
        Self {
            deadline: now + timeout,
            least,
            until: now + WINDOW,
            came: 0,
        }
    }

    /// Begins a new window.
    fn rest(&mut self) {
        self.until = Instant::now() + WINDOW;
        self.came = 0;
    }

    async fn next(&mut self, body: &mut Incoming) -> Result<Option<Frame<Bytes>>, Reply> {
        loop {
            match timeout_at(self.until.min(self.deadline), body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => {
                    self.came += frame.data_ref().map_or(0, Bytes::len);
                    return Ok(Some(frame));
                }
                Ok(Some(Err(_))) => return Err(Reply::bad_request()),
                Err(_) if self.deadline <= self.until || self.came < self.least => {
                    return Err(Reply::body_timeout());
                }
                Err(_) => self.rest(),
            }
        }
    }
}

/// Makes the answer to a body that there is no room for.
type Refusal = fn() -> Reply;

/// A body, and its share of the memory that all bodies may use; given back when dropped.
pub(super) struct Buffered<'a> {
    pub(super) bytes: Bytes,
    charged: usize,
    total: &'a AtomicUsize,
}

impl Buffered<'_> {
    /// Takes `bytes` more, of which a body may have `max` and all together `total_max`; says how many it has then.
    fn take(&mut self, bytes: usize, max: usize, total_max: usize) -> Result<usize, Refusal> {
        let length = self.charged + bytes;
        if length > max {
            return Err(Reply::too_large);
        }
        self.charged = length;
        if self.total.fetch_add(bytes, Ordering::Relaxed) + bytes > total_max {
            return Err(Reply::busy);
        }
        Ok(length)
    }
}

impl Drop for Buffered<'_> {
    fn drop(&mut self) {
        self.total.fetch_sub(self.charged, Ordering::Relaxed);
    }
}
