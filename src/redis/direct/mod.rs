//! A connection for what has to be quick: the scripts, and the reads that block.
//!
//! The client library knows where Redis is, through every failover, and carries whatever is rare. On the way of each job it would be
//! half of what a worker's thread does: five trees for a reply, four tasks for a call. Here a caller writes to the socket himself,
//! and an entry is read where it lies in the reply. Which server that is, and when there is a new one, the library says.
//!
//! Serves a single server or the primary that the sentinels name. A cluster's nodes go through the library.

mod dial;
mod frame;
mod pipe;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use fred::error::Error as FredError;
use fred::interfaces::ClientLike as _;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::link::Link;
use super::{Address, away, jittered};
use crate::config;
use crate::metrics::handles::Calls;
use dial::{Dial, Place};
pub(super) use frame::{Frame, Lying, encode};
pub(super) use pipe::{Answer, Pipe};

/// Least time between two tries to connect, twice as long after each that fails: whoever calls meanwhile is told that there is no
/// connection.
const DIAL_PAUSE_MIN: Duration = Duration::from_millis(50);
const DIAL_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The connection as it is, and a new one in its place when it broke.
pub(super) struct Direct {
    dial: Dial,
    /// Where the connection lives.
    runtime: Handle,
    live: ArcSwapOption<Pipe>,
    /// That of the client library's connection with which it was made: where that one was made anew, this one has to be, for it may
    /// lead to another server now.
    generation: AtomicU64,
    /// One connects at a time; and when the next may, after one that failed.
    failed: Mutex<Option<Failed>>,
    counted: Calls,
}

/// The last try to connect failed.
struct Failed {
    /// Until when there is no other.
    until: Instant,
    pause: Duration,
}

impl Direct {
    /// `None` where the client library has to do. Connects when it is first asked for, and lives on the current runtime.
    pub(super) fn to(address: &Address, counted: &Calls) -> Option<Self> {
        Some(Self {
            dial: Dial::to(address)?,
            runtime: Handle::current(),
            live: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
            failed: Mutex::new(None),
            counted: counted.clone(),
        })
    }

    /// The connection; a new one if need be, to the server that `link` leads to.
    pub(super) async fn pipe(&self, link: &Link) -> Result<Arc<Pipe>, FredError> {
        match self.live(link) {
            Some(pipe) => Ok(pipe),
            // On the heap: hardly a call comes here, and each would carry it about.
            None => Box::pin(self.connect(link)).await,
        }
    }

    /// The connection, if there is one to the server that `link` leads to.
    pub(super) fn live(&self, link: &Link) -> Option<Arc<Pipe>> {
        let is_of_now = self.generation.load(Ordering::Acquire) == link.generation();
        self.open().filter(|_| is_of_now)
    }

    /// The connection, if there is one.
    pub(super) fn open(&self) -> Option<Arc<Pipe>> {
        self.live.load_full().filter(|pipe| pipe.is_open())
    }

    async fn connect(&self, link: &Link) -> Result<Arc<Pipe>, FredError> {
        let mut failed = self.failed.lock().await;
        // Another caller may have come first.
        if let Some(pipe) = self.live(link) {
            return Ok(pipe);
        }
        let generation = link.generation();
        let is_early = failed
            .as_ref()
            .is_some_and(|failed| Instant::now() < failed.until);
        if !link.is_connected() || is_early {
            return Err(away());
        }
        let place = match &self.dial.place {
            Some(known) => known.clone(),
            None => Place::Host(link.client().active_connections().pop().ok_or_else(away)?),
        };
        let dialled = tokio::time::timeout(config::COMMAND_TIMEOUT, self.dial.clone().open(place));
        // Where the connection is to live, whoever calls.
        let dialled = self.runtime.spawn(dialled).await.map_err(|_| away())?;
        match dialled.unwrap_or_else(|_| Err(away())) {
            Ok(pipe) => {
                *failed = None;
                let pipe = Arc::new(pipe);
                self.generation.store(generation, Ordering::Release);
                // Whoever waits for an answer of the one before still gets it, if it comes.
                if self.live.swap(Some(Arc::clone(&pipe))).is_some() {
                    self.counted.reconnected();
                }
                Ok(pipe)
            }
            Err(error) => {
                let longer = failed.as_ref().map(|failed| failed.pause * 2);
                let pause = longer.map_or(DIAL_PAUSE_MIN, |pause| pause.min(DIAL_PAUSE_MAX));
                let until = Instant::now() + jittered(pause);
                *failed = Some(Failed { until, pause });
                Err(error)
            }
        }
    }

    /// Gives the connection up; what waits for an answer learns that there will be none. The next call makes a new one.
    pub(super) fn cut(&self) {
        if let Some(pipe) = self.open() {
            pipe.close("the connection was given up");
        }
    }
}
