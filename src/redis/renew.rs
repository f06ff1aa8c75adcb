//! When connections are made anew that look as if nothing were wrong with them: one that swallows commands, one to a server that
//! was demoted.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fred::error::{Error as FredError, ErrorKind};

use super::direct::Direct;
use super::fault::is_demoted;
use super::send::Request;
use super::{Redis, jittered};
use crate::config;

/// Longest pause between two times that connections are made anew.
const RENEW_PAUSE: Duration = Duration::from_secs(1);

/// What a connection has not answered since its last answer.
#[derive(Default)]
pub(super) struct Silence {
    /// Commands that were waited for as long as any.
    calls: AtomicU32,
    /// When the first command was sent.
    first: Mutex<Option<Instant>>,
    /// Whether there is a first, so that an answer hardly ever has to lock.
    any: AtomicBool,
}

impl Silence {
    fn first(&self) -> MutexGuard<'_, Option<Instant>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since when; since `sent`, if this is the first command.
    fn since(&self, sent: Instant) -> Instant {
        let mut first = self.first();
        self.any.store(true, Ordering::Relaxed);
        *first.get_or_insert(sent)
    }

    pub(super) fn end(&self) {
        self.calls.store(0, Ordering::Relaxed);
        if self.any.load(Ordering::Relaxed) {
            let mut first = self.first();
            self.any.store(false, Ordering::Relaxed);
            *first = None;
        }
    }
}

impl Redis {
    /// A server that was demoted, or that no longer knows us, says so to every call: then it is looked for anew. The client library does
    /// the same for what goes through it, unless it has ended.
    pub(super) fn heed(&self, error: &FredError) {
        let is_demoted = self.inner.direct.is_some() && is_demoted(error);
        if is_demoted || self.inner.link.has_ended() {
            self.renew();
        }
    }

    /// Of the connection that `request` goes through.
    pub(super) fn silence_of(&self, request: &Request) -> &Silence {
        let is_direct = matches!(request, Request::Script(_)) && self.inner.direct.is_some();
        &self.inner.silences[usize::from(is_direct)]
    }

    /// A connection that swallows commands shows nothing else: after two in a row a new one is made, or when none was answered for as
    /// long, whatever patience their callers had.
    pub(super) fn note_unanswered(&self, request: &Request, error: &FredError, sent: Instant) {
        let calls = match error.kind() {
            ErrorKind::Timeout => 1,
            ErrorKind::Canceled => 0,
            _ => return,
        };
        let silence = self.silence_of(request);
        let unanswered = silence.calls.fetch_add(calls, Ordering::Relaxed) + calls;
        let is_long = silence.since(sent).elapsed() >= 2 * config::COMMAND_TIMEOUT;
        if (unanswered >= 2 || is_long) && self.renew() {
            tracing::warn!(
                server = self.address().shown,
                unanswered,
                "redis does not answer; connecting anew"
            );
        }
    }

    /// Makes new connections. `false`: they are in the making, or were made just now.
    fn renew(&self) -> bool {
        if self.inner.reviving.swap(true, Ordering::Relaxed) {
            return false;
        }
        let inner = Arc::clone(&self.inner);
        // Where the connection lives: the caller's runtime may end before.
        self.runtime().spawn(async move {
            inner.direct.iter().for_each(Direct::cut);
            inner.link.revive().await;
            inner.silences.iter().for_each(Silence::end);
            // A server that refuses everything is not better off for a hundred new connections a second.
            tokio::time::sleep(jittered(RENEW_PAUSE)).await;
            inner.reviving.store(false, Ordering::Relaxed);
        });
        true
    }
}
