//! A few identities for calls that must be carried out once; each has one call under way at a time.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::broker::Caller;

/// Bounds the calls under way, and numbers them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Callers {
    calls: usize,
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Caller>>>,
}

/// The right to make one call at a time. Gives its caller back when dropped, also in the middle of a call: the next call
/// has a higher number, so a late arrival of the abandoned one changes nothing.
#[derive(Debug)]
pub(crate) struct Slot {
    caller: Option<Caller>,
    idle: Arc<Mutex<Vec<Caller>>>,
    _permit: OwnedSemaphorePermit,
}

impl Callers {
    /// Up to `calls` at once. `name` must be new for every process start: numbers begin again.
    pub(crate) fn new(name: &str, calls: usize) -> Self {
        let idle = (0..calls)
            .map(|slot| Caller::new(format!("{name}/{slot}")))
            .collect();
        Self {
            calls,
            permits: Arc::new(Semaphore::new(calls)),
            idle: Arc::new(Mutex::new(idle)),
        }
    }

    /// True while no call is under way.
    pub(crate) fn are_idle(&self) -> bool {
        self.permits.available_permits() == self.calls
    }

    /// Waits for its turn.
    pub(crate) async fn take(&self) -> Slot {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        self.slot(permit)
    }

    /// A slot, if one is free.
    pub(crate) fn try_take(&self) -> Option<Slot> {
        Arc::clone(&self.permits)
            .try_acquire_owned()
            .ok()
            .map(|permit| self.slot(permit))
    }

    fn slot(&self, permit: OwnedSemaphorePermit) -> Slot {
        let caller = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        debug_assert!(caller.is_some(), "there are as many callers as permits");
        Slot {
            caller,
            idle: Arc::clone(&self.idle),
            _permit: permit,
        }
    }
}

impl Slot {
    pub(crate) fn caller(&mut self) -> &mut Caller {
        self.caller.as_mut().expect("taken only when dropped")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(caller) = self.caller.take() {
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(caller);
        }
    }
}
