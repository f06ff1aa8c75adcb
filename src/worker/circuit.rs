//! A worker's fuse: while what its jobs need is down it claims nothing, instead of burning every job's attempts.
//!
//! Closed, it counts the attempts in a row that found their target down. When they are too many it opens: nothing is claimed,
//! and what was claimed already goes back as it came. After a pause one job goes through; it decides whether the circuit closes,
//! or opens again for longer. The state is this worker's own: each process finds out for itself, and one that still reaches
//! the target goes on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::settle::Outcome;
use crate::backoff::Backoff;
use crate::broker::{Broker, CircuitEvent};
use crate::config;
use crate::error::{Error, Result};
use crate::job::QueueName;
use crate::metrics::handles::OfCircuit;
use crate::redis::{Patience, luck};

/// How long Redis remembers an open circuit that is not confirmed: then its worker is gone.
const HOLD: Duration = Duration::from_secs(30);
/// How often it is confirmed.
const CONFIRM: Duration = Duration::from_secs(10);
/// Pause after Redis could not be told.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// When a worker stops claiming because what its jobs need is down; see [`crate::WorkerBuilder::circuit`].
#[derive(Clone, Debug)]
pub struct Circuit {
    target: String,
    failures: u32,
    pause: Backoff,
}

impl Circuit {
    /// A circuit for what `target` names, for people: `api.example.com:443`. No secrets: it is shown in counts, events and logs.
    pub fn new(target: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            failures: config::CIRCUIT_FAILURES_DEFAULT,
            pause: config::CIRCUIT_PAUSE_DEFAULT,
        }
    }

    /// Opens after this many attempts in a row that found the target down, 1 to 1,000,000. Default 10.
    #[must_use]
    pub fn failures(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// How long to wait before one job tries again; grows with every one that fails. Default `exponential(1s, 30s)`.
    #[must_use]
    pub fn pause(mut self, pause: Backoff) -> Self {
        self.pause = pause;
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        if !(1..=config::CIRCUIT_FAILURES_MAX).contains(&self.failures) {
            return Err(Error::setting(
                "circuit_failures",
                self.failures,
                format!("1 to {}", config::CIRCUIT_FAILURES_MAX),
            ));
        }
        Ok(())
    }
}

/// A number of handlers at once that several workers share: all that are given a clone of it, in one program.
#[derive(Clone, Debug)]
pub struct SharedLimit {
    permits: Arc<Semaphore>,
    at_once: usize,
}

impl SharedLimit {
    /// Up to `at_once` handlers, 1 to 100,000; [`crate::WorkerBuilder::check`] refuses others.
    pub fn new(at_once: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(at_once.min(config::CONCURRENCY_MAX))),
            at_once,
        }
    }

    /// How many handlers may run at once.
    pub fn at_once(&self) -> usize {
        self.at_once
    }

    pub(crate) fn check(&self) -> Result<()> {
        if !(1..=config::CONCURRENCY_MAX).contains(&self.at_once) {
            return Err(Error::setting(
                "target_concurrency",
                self.at_once,
                format!("1 to {}", config::CONCURRENCY_MAX),
            ));
        }
        Ok(())
    }
}

/// How a circuit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CircuitState {
    /// All is well: jobs are claimed.
    Closed,
    /// The target is down: nothing is claimed.
    Open,
    /// One job is about to try, or is trying.
    HalfOpen,
}

impl CircuitState {
    /// `closed`, `open` or `half-open`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// What decides, and until when.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed {
        /// In a row.
        failures: u32,
    },
    Open {
        until: Instant,
        /// Openings in a row, from 1.
        round: u32,
    },
    HalfOpen {
        round: u32,
        /// Some job is trying.
        taken: bool,
    },
}

#[derive(Debug)]
struct Inner {
    queue: QueueName,
    settings: Circuit,
    counted: OfCircuit,
    now: Mutex<Now>,
    state: watch::Sender<News>,
}

#[derive(Debug)]
struct Now {
    phase: Phase,
    /// Counts the closings: an attempt that began before one says nothing about what came after.
    generation: u64,
}

/// What the others are to know.
#[derive(Clone, Debug)]
struct News {
    state: CircuitState,
    /// Why it opened, for people.
    reason: String,
}

/// What every attempt of a worker passes before its handler is called, and what its claiming obeys. Cheap to clone; without a
/// circuit and a limit it costs nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    circuit: Option<Arc<Inner>>,
    limit: Option<SharedLimit>,
}

impl Gate {
    pub(crate) fn new(
        queue: &QueueName,
        circuit: Option<Circuit>,
        limit: Option<SharedLimit>,
    ) -> Self {
        let circuit = circuit.map(|settings| {
            let (state, _) = watch::channel(News {
                state: CircuitState::Closed,
                reason: String::new(),
            });
            Arc::new(Inner {
                queue: queue.clone(),
                settings,
                counted: OfCircuit::new(queue),
                now: Mutex::new(Now {
                    phase: Phase::Closed { failures: 0 },
                    generation: 0,
                }),
                state,
            })
        });
        Self { circuit, limit }
    }

    /// `None` without a circuit.
    pub(crate) fn state(&self) -> Option<CircuitState> {
        let circuit = self.circuit.as_ref()?;
        Some(circuit.state.borrow().state)
    }

    /// How many more jobs may be claimed, when `waiting` of those in hand have not passed yet.
    pub(crate) fn room(&self, waiting: usize) -> usize {
        self.circuit
            .as_ref()
            .map_or(usize::MAX, |circuit| circuit.room(waiting))
    }

    /// Returns when the circuit is open; never without one.
    pub(crate) async fn opened(&self) {
        match &self.circuit {
            Some(circuit) => {
                let mut news = circuit.state.subscribe();
                let _ = news.wait_for(|news| news.state == CircuitState::Open).await;
            }
            None => std::future::pending().await,
        }
    }

    /// Returns when the pause of an open circuit is over, or as soon as it is not open.
    pub(crate) async fn pause_over(&self) {
        let Some(circuit) = &self.circuit else {
            return std::future::pending().await;
        };
        let mut news = circuit.state.subscribe();
        let phase = { circuit.now().phase };
        let until = match phase {
            Phase::Open { until, .. } => until,
            // It closes, or opens again, by the word of the job that tries.
            Phase::HalfOpen { .. } => {
                let _ = news.changed().await;
                return;
            }
            Phase::Closed { .. } => return std::future::pending().await,
        };
        tokio::time::sleep_until(until.into()).await;
    }

    /// Waits for the turn of one job; `None` when the circuit is open, and the job is to go back.
    pub(crate) async fn pass(&self) -> Option<Pass> {
        if self.state() == Some(CircuitState::Open) {
            return None;
        }
        let permit = match &self.limit {
            // Never closed.
            Some(limit) => Arc::clone(&limit.permits).acquire_owned().await.ok(),
            None => None,
        };
        let trial = match &self.circuit {
            Some(circuit) => Some(circuit.admit().await?),
            None => None,
        };
        Some(Pass {
            trial,
            _permit: permit,
        })
    }
}

impl Inner {
    fn now(&self) -> MutexGuard<'_, Now> {
        // Nothing panics while it is held.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn room(&self, waiting: usize) -> usize {
        let mut now = self.now();
        match now.phase {
            Phase::Closed { .. } => usize::MAX,
            Phase::Open { until, .. } if Instant::now() < until => 0,
            Phase::Open { round, .. } => {
                now.phase = Phase::HalfOpen {
                    round,
                    taken: false,
                };
                self.tell(CircuitState::HalfOpen, None);
                1_usize.saturating_sub(waiting)
            }
            Phase::HalfOpen { taken: true, .. } => 0,
            Phase::HalfOpen { taken: false, .. } => 1_usize.saturating_sub(waiting),
        }
    }

    /// Waits while another job is trying.
    async fn admit(self: &Arc<Self>) -> Option<Trial> {
        let mut news = self.state.subscribe();
        loop {
            {
                let mut now = self.now();
                let generation = now.generation;
                let trial = |probe| {
                    Some(Trial {
                        circuit: Arc::clone(self),
                        generation,
                        probe,
                    })
                };
                match &mut now.phase {
                    Phase::Closed { .. } => return trial(false),
                    Phase::Open { .. } => return None,
                    Phase::HalfOpen { taken, .. } if !*taken => {
                        *taken = true;
                        return trial(true);
                    }
                    Phase::HalfOpen { .. } => {}
                }
                // Under the lock, so that no news comes between this look and the wait.
                news.mark_unchanged();
            }
            let _ = news.changed().await;
        }
    }

    fn tell(&self, state: CircuitState, reason: Option<String>) {
        self.state.send_modify(|news| {
            news.state = state;
            if let Some(reason) = reason {
                news.reason = reason;
            }
        });
    }

    /// Takes down how an attempt ended; `down`: that it found the target down, and in which words.
    fn report(&self, trial: &Trial, down: Option<&str>) {
        let mut now = self.now();
        let now = &mut *now;
        let (queue, target) = (&self.queue, &self.settings.target);
        match (&mut now.phase, down) {
            (Phase::Closed { failures }, None) => *failures = 0,
            (Phase::Closed { failures }, Some(error)) if trial.generation == now.generation => {
                *failures = failures.saturating_add(1);
                if *failures >= self.settings.failures {
                    let failures = *failures;
                    let pause = self.open(now, 1);
                    self.counted.opened();
                    tracing::warn!(%queue, target, failures, error, ?pause, "circuit opened: nothing is claimed while the target is down");
                    let reason =
                        format!("{target}: {failures} failures in a row, the last: {error}");
                    self.tell(CircuitState::Open, Some(reason));
                }
            }
            (Phase::HalfOpen { .. }, None) if trial.probe => {
                now.phase = Phase::Closed { failures: 0 };
                now.generation += 1;
                self.counted.closed();
                tracing::info!(%queue, target, "circuit closed: the target is back");
                self.tell(CircuitState::Closed, None);
            }
            (&mut Phase::HalfOpen { round, .. }, Some(error)) if trial.probe => {
                let pause = self.open(now, round.saturating_add(1));
                tracing::debug!(%queue, target, error, ?pause, "circuit opened again");
                self.tell(CircuitState::Open, None);
            }
            // The others began before it opened: what they say is old.
            _ => {}
        }
    }

    /// The circuit is open from now on; returns for how long.
    fn open(&self, now: &mut Now, round: u32) -> Duration {
        let pause = self.settings.pause.delay(round, luck());
        now.phase = Phase::Open {
            until: Instant::now() + pause,
            round,
        };
        pause
    }

    /// The job that was to try did not: another may.
    fn free(&self) {
        if let Phase::HalfOpen { taken, .. } = &mut self.now().phase {
            *taken = false;
            self.tell(CircuitState::HalfOpen, None);
        }
    }
}

/// One job's leave to run.
#[derive(Debug)]
pub(crate) struct Pass {
    trial: Option<Trial>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Pass {
    /// How the attempt ended.
    pub(crate) fn report(mut self, outcome: &Outcome) {
        let down = match outcome {
            Outcome::Done => None,
            Outcome::Failed(error) if error.unavailable => Some(error.message()),
            Outcome::Failed(_) => None,
            // It was not tried to its end, and says nothing.
            Outcome::Interrupted | Outcome::Gone | Outcome::Settled => return,
        };
        if let Some(mut trial) = self.trial.take() {
            trial.circuit.report(&trial, down);
            trial.probe = false;
        }
    }
}

/// One job's part in the circuit. Dropped without a report, it has said nothing.
#[derive(Debug)]
struct Trial {
    circuit: Arc<Inner>,
    generation: u64,
    /// It alone decides.
    probe: bool,
}

impl Drop for Trial {
    fn drop(&mut self) {
        if self.probe {
            self.circuit.free();
        }
    }
}

/// Tells Redis when the circuit opens and closes, for `stats` and the events; confirms one that stays open. Runs until it is dropped.
pub(crate) async fn tell(broker: Broker, worker: String, gate: Gate) {
    let Some(circuit) = &gate.circuit else {
        return;
    };
    let target = &circuit.settings.target;
    let mut news = circuit.state.subscribe();
    let mut told_open = false;
    loop {
        let News { state, reason } = news.borrow_and_update().clone();
        let open = state != CircuitState::Closed;
        let mut again = CONFIRM;
        if open || told_open {
            let event = match (open, told_open) {
                (true, true) => None,
                (true, false) => Some(CircuitEvent::Opened),
                (false, _) => Some(CircuitEvent::Closed),
            };
            let detail = if open { &reason } else { target };
            let hold = if open { HOLD } else { Duration::ZERO };
            let patience = Patience::brief(config::COMMAND_TIMEOUT);
            let told = broker
                .note_circuit(&worker, target, hold, event, detail, patience)
                .await;
            match told {
                Ok(()) => told_open = open,
                Err(error) => {
                    tracing::debug!(queue = %broker.queue, %error, "cannot tell of the circuit; trying again");
                    again = TELL_AGAIN;
                }
            }
        }
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(again) => {}
        }
    }
}

/// Takes an open circuit back that nobody will confirm any more, so that it is not shown until it lapses.
pub(crate) async fn take_back(broker: &Broker, worker: &str, gate: &Gate, patience: Duration) {
    let Some(circuit) = &gate.circuit else {
        return;
    };
    if circuit.state.borrow().state == CircuitState::Closed {
        return;
    }
    circuit.counted.closed();
    let target = &circuit.settings.target;
    let patience_of_call = Patience::brief(patience);
    let noted = broker.note_circuit(worker, target, Duration::ZERO, None, "", patience_of_call);
    let _ = tokio::time::timeout(patience, noted).await;
}

#[cfg(test)]
mod tests;
