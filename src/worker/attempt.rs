//! One attempt at a job, on the runtime of the program that owns the handlers: pick the handler, run it under its
//! deadline, and say how it ended.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use once_cell::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::circuit::Gate;
use super::handler::{Attempt, Context, Handler, JobError};
use super::journal::Scribe;
use super::lease::Grip;
use super::settle::Outcome;
use crate::broker::{Broker, DeathReason, Delivery, Expiry};
use crate::callers::Callers;
use crate::error::Error;
use crate::metrics::handles::Working;
use crate::redis::Patience;
use crate::results::Kept;
use crate::spans;

/// How long a handler that was told to give up may tidy up before it is dropped.
const TIDY_UP: Duration = Duration::from_millis(500);

/// The handlers of a worker by job name.
#[derive(Default)]
pub(crate) struct Handlers {
    pub(crate) by_name: HashMap<String, Arc<dyn Handler>>,
    pub(crate) fallback: Option<Arc<dyn Handler>>,
}

impl Handlers {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.fallback.is_none()
    }

    fn find(&self, name: &str) -> Option<&Arc<dyn Handler>> {
        self.by_name.get(name).or(self.fallback.as_ref())
    }

    fn names(&self) -> String {
        let mut names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
        names.sort_unstable();
        names.join(", ")
    }
}

/// A job on its way to a handler.
pub(crate) struct Work {
    /// Large, and handed on many times.
    pub(crate) delivery: Arc<Delivery>,
    pub(crate) grip: Arc<Grip>,
}

/// A job that came back from its handler.
pub(crate) struct Finished {
    pub(crate) delivery: Arc<Delivery>,
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
    pub(crate) max_attempts: u32,
    /// What is kept of it.
    pub(crate) result: Option<Kept>,
    /// It has told how far it was, or logged something.
    pub(crate) told: bool,
}

/// What every attempt of a worker shares.
pub(crate) struct Runner {
    pub(crate) handlers: Handlers,
    pub(crate) broker: Broker,
    pub(crate) callers: Callers,
    pub(crate) gate: Gate,
    pub(crate) counted: Working,
    pub(crate) scribe: Scribe,
    pub(crate) timeout: Duration,
    pub(crate) max_attempts: u32,
    /// Fires when the worker's patience with running jobs is at its end.
    pub(crate) give_up: CancellationToken,
}

impl Runner {
    pub(crate) async fn run(&self, work: Work) -> Finished {
        let began = Instant::now();
        let Work { delivery, grip } = work;
        let max_attempts = delivery.meta.max_attempts.unwrap_or(self.max_attempts);
        let mut kept = None;
        let outcome = self
            .outcome(&delivery, &grip, max_attempts, &mut kept)
            .await;
        grip.end();
        let took = began.elapsed();
        let journal = kept
            .as_ref()
            .and_then(|context| context.inner.journal.get());
        let journal = journal.cloned();
        let (outcome, result) = self.with_result(&delivery, outcome, kept, took);
        if let Some(journal) = &journal {
            let is_moot = match &outcome {
                Outcome::Done => result.is_none(),
                Outcome::Gone | Outcome::Settled => true,
                Outcome::Failed(_) | Outcome::Interrupted => false,
            };
            journal.finish(&self.broker, is_moot).await;
        }
        Finished {
            delivery,
            outcome,
            took,
            max_attempts,
            result,
            told: journal.is_some(),
        }
    }

    /// What is kept of a job whose producer asked for that. It is no success if it cannot be.
    fn with_result(
        &self,
        delivery: &Delivery,
        outcome: Outcome,
        context: Option<Context>,
        took: Duration,
    ) -> (Outcome, Option<Kept>) {
        let (Outcome::Done, Some(ttl_ms), Some(context)) =
            (&outcome, delivery.meta.result_ms, context)
        else {
            return (outcome, None);
        };
        let given = context.inner.result.lock();
        let value = given.unwrap_or_else(PoisonError::into_inner).take();
        let (name, attempt) = (&delivery.name, delivery.attempt);
        match Kept::new(&self.broker, name, attempt, took, value, ttl_ms) {
            Ok(kept) => (outcome, Some(kept)),
            Err(error) => (Outcome::Failed(error.into()), None),
        }
    }

    /// `kept`: the context of the job once its handler is called, for afterwards.
    async fn outcome(
        &self,
        delivery: &Arc<Delivery>,
        grip: &Grip,
        max_attempts: u32,
        kept: &mut Option<Context>,
    ) -> Outcome {
        let cancel = &grip.cancel;
        if cancel.is_cancelled() {
            // Lost or cancelled while it waited for a slot.
            return self.unwanted();
        }
        if delivery.foreign {
            let advice =
                "this entry was not written by Millstream: its fields are kept as the payload";
            return self.unhandled(delivery, JobError::refuse(advice));
        }
        let mut deadline = None;
        if delivery.meta.expires_at_ms.is_some() || delivery.meta.deadline_at_ms.is_some() {
            let expiry = tokio::select! {
                expiry = self.expiry(delivery) => expiry,
                // While Redis is away, nobody can tell; a worker that must stop does not wait for it.
                () = cancel.cancelled() => return self.unwanted(),
            };
            match expiry {
                Expiry::Expired => return Outcome::Settled,
                Expiry::In(left) => deadline = left,
            }
        }
        let Some(handler) = self.handlers.find(&delivery.name) else {
            // Not refused: during a deploy, a worker that knows the name may be about to start.
            let known = self.handlers.names();
            let message = format!(
                "no handler for job name {:?}; this worker handles: {known}",
                delivery.name
            );
            return self.unhandled(delivery, JobError::failed(message));
        };
        let payload = match delivery.opened(&self.broker) {
            Ok(payload) => payload,
            // Nor is this the job's end: the worker that has the key may be about to start.
            Err(error) => return self.unhandled(delivery, JobError::failed(error.to_string())),
        };
        // Before the attempt begins: a wait for others is no part of its time.
        let pass = tokio::select! {
            biased;
            () = cancel.cancelled() => return self.unwanted(),
            pass = self.gate.pass() => pass,
        };
        let Some(pass) = pass else {
            // Its target is down. It goes back as it came.
            return Outcome::Interrupted;
        };
        let timeout = delivery
            .meta
            .timeout_ms
            .map_or(self.timeout, Duration::from_millis);
        // What is cut off at the deadline is a failed attempt, and its retry finds the job out of time.
        let timeout = deadline.map_or(timeout, |left| timeout.min(left));
        let context = Context {
            inner: Arc::new(Attempt {
                delivery: Arc::clone(delivery),
                queue: self.broker.queue.clone(),
                payload,
                max_attempts,
                deadline: Instant::now() + timeout,
                result: Mutex::new(None),
                journal: OnceCell::new(),
                scribe: self.scribe.clone(),
                cancel: cancel.clone(),
                handed_out: OnceCell::new(),
            }),
        };
        *kept = Some(context.clone());
        grip.begin(timeout);
        self.counted.started(delivery.entry);
        let called = Instant::now();
        let span = self.span(delivery);
        let outcome = self
            .guarded(handler.as_ref(), context, cancel, timeout)
            .instrument(span.clone())
            .await;
        spans::attempted(&span, outcome.name(), outcome.fault());
        self.counted.ended(called.elapsed());
        pass.report(&outcome);
        outcome
    }

    fn span(&self, delivery: &Delivery) -> tracing::Span {
        let Delivery { id, name, .. } = delivery;
        let (attempt, meta) = (delivery.attempt, &delivery.meta);
        spans::attempt(&self.broker.queue, id, name, attempt, meta)
    }

    /// How an attempt ends that no handler can be called for.
    fn unhandled(&self, delivery: &Delivery, error: JobError) -> Outcome {
        let outcome = Outcome::Failed(error);
        spans::attempted(&self.span(delivery), outcome.name(), outcome.fault());
        outcome
    }

    /// How an attempt ends that was told to give up.
    fn unwanted(&self) -> Outcome {
        match self.give_up.is_cancelled() {
            true => Outcome::Interrupted,
            false => Outcome::Gone,
        }
    }

    /// Runs the handler so that neither a panic nor a hang leaves this function.
    async fn guarded(
        &self,
        handler: &dyn Handler,
        context: Context,
        cancel: &CancellationToken,
        timeout: Duration,
    ) -> Outcome {
        // The call itself may panic as well as the future that it returns.
        let mut running =
            Box::pin(AssertUnwindSafe(async move { handler.run(context).await }).catch_unwind());
        let outcome = self.awaited(&mut running, cancel, timeout).await;
        // A handler that is cut off may panic while it is dropped: that must not end the slot.
        let _ = std::panic::catch_unwind(AssertUnwindSafe(|| drop(running)));
        outcome
    }

    /// Waits for the handler, its deadline, or word that its work is no longer wanted.
    async fn awaited(
        &self,
        mut running: impl Future<Output = std::thread::Result<Result<(), JobError>>> + Unpin,
        cancel: &CancellationToken,
        timeout: Duration,
    ) -> Outcome {
        let result = tokio::select! {
            biased;
            result = &mut running => Some(result),
            () = cancel.cancelled() => None,
            () = tokio::time::sleep(timeout) => {
                cancel.cancel();
                let _ = tokio::time::timeout(TIDY_UP, &mut running).await;
                let message = format!("timed out after {}", humantime::format_duration(timeout));
                return Outcome::Failed(JobError::unavailable(message));
            }
        };
        let result = match result {
            Some(result) => result,
            // Told to give up: what it still says within a moment counts, for the job may be done all the same.
            None => match tokio::time::timeout(TIDY_UP, &mut running).await {
                Ok(Ok(Ok(()))) => return Outcome::Done,
                _ => return self.unwanted(),
            },
        };
        match result {
            Ok(Ok(())) => Outcome::Done,
            // It stopped because it was told to: that is not the job's fault.
            _ if cancel.is_cancelled() => self.unwanted(),
            Ok(Err(error)) => Outcome::Failed(error),
            Err(panic) => Outcome::Failed(JobError::failed(format!(
                "the handler panicked: {}",
                panic_text(&*panic)
            ))),
        }
    }

    /// Asks Redis, whose clock alone decides, whether the job is out of time; if so it is dead afterwards.
    async fn expiry(&self, delivery: &Delivery) -> Expiry {
        let mut slot = self.callers.take().await;
        let asked = self
            .broker
            .expire(slot.caller(), delivery, Patience::ENDLESS);
        match asked.await {
            Ok(expiry) => {
                if expiry == Expiry::Expired {
                    self.counted.settled("dead", 1);
                    self.counted.dead(DeathReason::Expired);
                }
                expiry
            }
            Err(Error::LeaseLost { .. }) => Expiry::Expired,
            Err(error) => {
                tracing::warn!(queue = %self.broker.queue, job = %delivery.id, %error, "cannot tell whether the job has expired; running it");
                Expiry::In(None)
            }
        }
    }
}

/// The message of a panic, if it has one.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
