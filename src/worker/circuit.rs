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
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::worker::handler::JobError;

    const HOUR: Duration = Duration::from_secs(3600);

    fn gate(failures: u32, pause: Duration) -> Gate {
        let circuit = Circuit::new("t:1")
            .failures(failures)
            .pause(Backoff::Fixed(pause));
        Gate::new(&QueueName::new("q").unwrap(), Some(circuit), None)
    }

    fn pass(gate: &Gate) -> Option<Pass> {
        gate.pass().now_or_never().expect("nothing to wait for")
    }

    fn down() -> Outcome {
        Outcome::Failed(JobError::unavailable("refused"))
    }

    fn ends(gate: &Gate, outcome: Outcome) {
        pass(gate).expect("not open").report(&outcome);
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_only_then() {
        let gate = gate(3, HOUR);
        for outcome in [
            down(),
            down(),
            Outcome::Done,
            down(),
            down(),
            // The target answered, if not as one would wish.
            Outcome::Failed(JobError::failed("404")),
            down(),
            down(),
            // Says nothing, and ends no row.
            Outcome::Interrupted,
        ] {
            ends(&gate, outcome);
            assert_eq!(gate.state(), Some(CircuitState::Closed));
            assert_eq!(gate.room(5), usize::MAX);
        }
        ends(&gate, down());

        assert_eq!(gate.state(), Some(CircuitState::Open));
        assert_eq!(gate.room(0), 0);
        assert!(pass(&gate).is_none());
    }

    #[test]
    fn one_job_tries_and_the_others_wait_for_its_word() {
        for (word, after) in [
            (Outcome::Done, CircuitState::Closed),
            (
                Outcome::Failed(JobError::failed("422")),
                CircuitState::Closed,
            ),
            (down(), CircuitState::Open),
        ] {
            let gate = gate(1, Duration::from_nanos(1));
            ends(&gate, down());
            std::thread::yield_now();
            assert_eq!(gate.room(1), 0, "one in hand is one to try");
            assert_eq!(gate.state(), Some(CircuitState::HalfOpen));
            assert_eq!(gate.room(0), 1);

            let first = pass(&gate).expect("may try");
            let mut second = std::pin::pin!(gate.pass());
            assert!(second.as_mut().now_or_never().is_none());
            assert_eq!(gate.room(0), 0);
            first.report(&word);

            assert_eq!(gate.state(), Some(after));
            let second = gate.pass().now_or_never().expect("heard the word");
            assert_eq!(second.is_some(), after == CircuitState::Closed);
        }
    }

    #[test]
    fn a_job_that_did_not_try_leaves_it_to_the_next() {
        let gate = gate(1, Duration::from_nanos(1));
        ends(&gate, down());
        std::thread::yield_now();
        gate.room(0);
        for _ in 0..2 {
            ends(&gate, Outcome::Interrupted);
            assert_eq!(gate.room(0), 1);
        }
        drop(pass(&gate).unwrap());
        assert_eq!(gate.room(0), 1);
    }

    #[test]
    fn what_began_before_it_opened_says_nothing_afterwards() {
        let gate = gate(1, Duration::from_nanos(1));
        let (late_well, late_down, later_down) = (pass(&gate), pass(&gate), pass(&gate));
        ends(&gate, down());
        late_well.unwrap().report(&Outcome::Done);
        assert_ne!(gate.state(), Some(CircuitState::Closed));
        std::thread::yield_now();
        gate.room(0);
        late_down.unwrap().report(&down());
        ends(&gate, Outcome::Done);
        assert_eq!(gate.state(), Some(CircuitState::Closed));
        later_down.unwrap().report(&down());
        assert_eq!(gate.state(), Some(CircuitState::Closed));
    }

    #[test]
    fn a_limit_is_shared_by_all_gates_that_have_it() {
        let limit = SharedLimit::new(2);
        let queue = QueueName::new("q").unwrap();
        let [a, b] = [0, 1].map(|_| Gate::new(&queue, None, Some(limit.clone())));
        let first = pass(&a);
        let _second = pass(&b);
        assert!(a.pass().now_or_never().is_none());
        drop(first);
        assert!(pass(&b).is_some());
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        for (name, refused) in [
            ("circuit_failures", Circuit::new("t").failures(0).check()),
            ("target_concurrency", SharedLimit::new(0).check()),
            ("target_concurrency", SharedLimit::new(usize::MAX).check()),
        ] {
            match refused {
                Err(Error::Setting { name: named, .. }) => assert_eq!(named, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
