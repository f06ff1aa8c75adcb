//! Batches that cost no latency: while a call is under way, jobs gather; when one returns, they go together.
//!
//! A lone caller sends at once and waits for one round trip. Under load the cost of a call is shared by the whole batch: a call
//! overlaps another only when it is no smaller, so that many callers do not end up in many small calls.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, oneshot};
use tokio::time::timeout;

use crate::backlog::{Backlog, Underway};
use crate::broker::Broker;
use crate::callers::{Callers, Slot};
use crate::config;
use crate::error::{Error, Result};
use crate::job::durability::Durability;
use crate::job::{Enqueued, NewJob};
use crate::metrics::handles::Producing;
use crate::queue::chunk_len;
use crate::redis::{Patience, Redis};

/// A call whose patience ends gives its own answer a moment later, and that says more than the clock does.
const LAST_WORD: Duration = Duration::from_millis(250);

/// Gathers the enqueue calls of one queue.
#[derive(Debug)]
pub(crate) struct Coalescer {
    broker: Broker,
    patience: Patience,
    durability: Durability,
    /// For calls that wait for replicas or the disk: the broker over a connection that serves nothing else.
    waiting: OnceCell<Broker>,
    callers: Callers,
    backlog: Arc<Backlog>,
    gathered: Mutex<Gathered>,
    counted: Producing,
}

#[derive(Debug, Default)]
struct Gathered {
    jobs: Vec<(NewJob, Caller)>,
    /// A task is about to take them.
    flush_pending: bool,
    /// Calls under way that were made of single jobs, and the jobs in them.
    calls: usize,
    jobs_under_way: usize,
}

impl Gathered {
    /// Whether to send what has gathered, rather than wait for more until a call returns. Beside others, a call has to be as large
    /// as these are on average; a Redis that works on them would not come to it sooner.
    fn is_worth_a_call(&self) -> bool {
        let waiting = self.jobs.len();
        waiting > 0 && !self.flush_pending && waiting * self.calls >= self.jobs_under_way
    }
}

/// A call under way. When it ends, in whatever way, what has gathered meanwhile may go.
#[derive(Debug)]
struct UnderWay<'a> {
    coalescer: &'a Arc<Coalescer>,
    jobs: usize,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut gathered = self.coalescer.gathered();
        gathered.calls -= 1;
        gathered.jobs_under_way -= self.jobs;
        self.coalescer.send_if_worth(gathered);
    }
}

/// Who waits for a job's answer.
#[derive(Debug)]
struct Caller {
    answer: oneshot::Sender<Result<Enqueued>>,
    /// Counts as long as the job is kept here, also when its caller has gone.
    _underway: Underway,
}

/// How a job goes.
enum Turn<'a> {
    /// In a call of its own, which its caller makes.
    Alone(Slot, Box<(NewJob, Underway)>, UnderWay<'a>),
    /// With those of others; the answer comes here.
    Together(oneshot::Receiver<Result<Enqueued>>),
}

impl Coalescer {
    pub(crate) fn new(broker: Broker, durability: Durability, patience: Patience) -> Self {
        let callers = Callers::new(
            &uuid::Uuid::now_v7().simple().to_string(),
            config::ENQUEUES_IN_FLIGHT,
        );
        let counted = Producing::new(&broker.queue);
        Self {
            broker,
            patience,
            durability,
            waiting: OnceCell::new(),
            callers,
            backlog: Arc::new(Backlog::new()),
            gathered: Mutex::default(),
            counted,
        }
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        // Nothing panics while it is held, and a list of jobs stays valid anyway.
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, slot: &mut Slot, jobs: &[NewJob]) -> Result<Vec<Enqueued>> {
        let sent = self.send_once(slot, jobs).await;
        self.counted.sent(&sent);
        if !matches!(
            sent,
            Err(Error::Ambiguous { .. } | Error::Unreachable { .. })
        ) {
            self.backlog.answered();
        }
        sent
    }

    async fn send_once(&self, slot: &mut Slot, jobs: &[NewJob]) -> Result<Vec<Enqueued>> {
        if self.durability == Durability::Memory {
            return self
                .broker
                .enqueue(slot.caller(), jobs, self.patience)
                .await;
        }
        let connected = self.waiting.get_or_try_init(|| async {
            // Where the other connection lives, and not on the caller's runtime, which may end before this queue.
            let connecting = Self::connect(self.broker.clone(), self.durability, self.patience);
            let runtime = self.broker.redis.runtime();
            runtime.spawn(connecting).await.map_err(|_| stopped())?
        });
        let broker = connected.await?;
        broker
            .enqueue_durably(slot.caller(), jobs, self.durability, self.patience)
            .await
    }

    /// Sends jobs of several callers, and answers each. Where the queue or a group has no room for all of them it takes the first
    /// ones.
    async fn send_fitting(
        &self,
        slot: &mut Slot,
        mut jobs: Vec<NewJob>,
        mut answer: impl FnMut(usize, Result<Enqueued>),
    ) {
        let mut places: Vec<usize> = (0..jobs.len()).collect();
        while !jobs.is_empty() {
            let error = match self.send(slot, &jobs).await {
                Ok(enqueued) => {
                    // Whoever has his answer can use the memory of his job again.
                    drop(jobs);
                    let answers = places.into_iter().zip(enqueued);
                    return answers.for_each(|(place, enqueued)| answer(place, Ok(enqueued)));
                }
                Err(error) => error,
            };
            let fits = fitting(&jobs, &error);
            let mut kept = fits.iter();
            jobs.retain(|_| *kept.next().unwrap_or(&false));
            let (staying, leaving): (Vec<_>, Vec<_>) =
                places.into_iter().zip(fits).partition(|(_, fits)| *fits);
            for (place, _) in leaving {
                answer(place, Err(shared(&error)));
            }
            places = staying.into_iter().map(|(place, _)| place).collect();
        }
    }

    async fn connect(broker: Broker, durability: Durability, patience: Patience) -> Result<Broker> {
        let redis = Redis::connect_to_wait(broker.redis.address(), patience.total).await?;
        redis.check_durability(durability).await?;
        Ok(broker.over(redis))
    }

    /// Sends `jobs` as one call of their own.
    pub(crate) async fn enqueue_chunk(&self, jobs: &[NewJob]) -> Result<Vec<Enqueued>> {
        let _underway = self.backlog.admit(jobs)?;
        // On the heap, as in `enqueue`.
        let sent = Box::pin(async {
            let mut slot = self.callers.take().await;
            self.send(&mut slot, jobs).await
        });
        self.in_time(sent).await
    }

    /// [`Coalescer::submit`], with an answer in time.
    pub(crate) fn enqueue(
        self: &Arc<Self>,
        job: NewJob,
    ) -> impl Future<Output = Result<Enqueued>> + Send + '_ {
        self.in_time(self.submit(job))
    }

    /// Sends `job` at once when nobody else is sending, together with others when somebody is. How long that may take is the
    /// caller's business.
    ///
    /// The job is on its way when this returns, so that nobody who waits carries it about.
    pub(crate) fn submit(
        self: &Arc<Self>,
        job: NewJob,
    ) -> impl Future<Output = Result<Enqueued>> + Send + '_ {
        let admitted = self.backlog.admit(std::slice::from_ref(&job));
        let turn = admitted.map(|underway| self.turn_of(job, underway));
        async move {
            match turn? {
                // On the heap: a call is large, and would be in everyone who waits for an answer.
                Turn::Alone(slot, alone, _under_way) => {
                    Box::pin(self.send_alone(slot, alone)).await
                }
                Turn::Together(answered) => answered.await.map_err(|_| stopped())?,
            }
        }
    }

    /// The patience is the caller's, so it counts from the caller's call: while Redis is silent, the wait for those before it is
    /// as long as its own.
    async fn in_time<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let waited = self.patience.total + LAST_WORD;
        match timeout(waited, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Ambiguous {
                operation: "enqueue",
                waited,
                reason: "no answer".to_owned(),
            }),
        }
    }

    fn turn_of(self: &Arc<Self>, job: NewJob, underway: Underway) -> Turn<'_> {
        let mut gathered = self.gathered();
        let alone = self.callers.are_idle() && gathered.jobs.is_empty();
        if alone && let Some(slot) = self.callers.try_take() {
            let under_way = self.begin(&mut gathered, 1);
            drop(gathered);
            return Turn::Alone(slot, Box::new((job, underway)), under_way);
        }
        let (answer, answered) = oneshot::channel();
        let caller = Caller {
            answer,
            _underway: underway,
        };
        gathered.jobs.push((job, caller));
        self.send_if_worth(gathered);
        Turn::Together(answered)
    }

    fn begin<'a>(self: &'a Arc<Self>, gathered: &mut Gathered, jobs: usize) -> UnderWay<'a> {
        gathered.calls += 1;
        gathered.jobs_under_way += jobs;
        UnderWay {
            coalescer: self,
            jobs,
        }
    }

    fn send_if_worth(self: &Arc<Self>, mut gathered: MutexGuard<'_, Gathered>) {
        if gathered.is_worth_a_call() {
            gathered.flush_pending = true;
            drop(gathered);
            self.spawn_flush();
        }
    }

    async fn send_alone(&self, mut slot: Slot, alone: Box<(NewJob, Underway)>) -> Result<Enqueued> {
        let (job, _underway) = &*alone;
        let mut enqueued = self.send(&mut slot, std::slice::from_ref(job)).await?;
        enqueued.pop().ok_or_else(stopped)
    }

    fn spawn_flush(self: &Arc<Self>) {
        // Not on the caller's runtime, which may end before the others have their answers.
        self.broker.redis.runtime().spawn(Arc::clone(self).flush());
    }

    /// Waits for a slot, then sends what has gathered.
    async fn flush(self: Arc<Self>) {
        let mut slot = self.callers.take().await;
        let (jobs, callers, under_way) = {
            let mut gathered = self.gathered();
            // Whoever stopped waiting has been told that the job may not be stored, and may be sending it again.
            gathered
                .jobs
                .retain(|(_, caller)| !caller.answer.is_closed());
            let fitting =
                chunk_len(gathered.jobs.iter().map(|(job, _)| job)).min(gathered.jobs.len());
            let later = if fitting < gathered.jobs.len() {
                gathered.jobs.split_off(fitting)
            } else {
                // As many as that will gather again.
                Vec::with_capacity(fitting)
            };
            gathered.flush_pending = !later.is_empty();
            if gathered.flush_pending {
                self.spawn_flush();
            }
            let taken = std::mem::replace(&mut gathered.jobs, later);
            let under_way = self.begin(&mut gathered, taken.len());
            drop(gathered);
            let (jobs, callers): (Vec<NewJob>, Vec<_>) = taken.into_iter().unzip();
            (jobs, callers, under_way)
        };
        if jobs.is_empty() {
            return;
        }
        let mut callers: Vec<Option<Caller>> = callers.into_iter().map(Some).collect();
        let answer = |place: usize, answer: Result<Enqueued>| {
            if let Some(caller) = callers[place].take() {
                let _ = caller.answer.send(answer);
            }
        };
        self.send_fitting(&mut slot, jobs, answer).await;
        // The slot is free when what has gathered goes.
        drop((slot, under_way));
    }
}

/// Which of `jobs` may be tried again after `error`: those that there is room for, and never all of them.
fn fitting(jobs: &[NewJob], error: &Error) -> Vec<bool> {
    match error {
        Error::QueueFull {
            depth, max_depth, ..
        } => {
            let room = usize::try_from(max_depth.saturating_sub(*depth)).unwrap_or(usize::MAX);
            let fitting = room.min(jobs.len() - 1);
            (0..jobs.len()).map(|nth| nth < fitting).collect()
        }
        Error::GroupFull { group, fitting, .. } => {
            let mut of_group = 0;
            let fits = jobs.iter().map(|job| {
                let counts = job.delay.is_none() && job.meta.group.as_ref() == Some(group);
                of_group += u64::from(counts);
                !counts || of_group <= *fitting
            });
            let mut fits: Vec<bool> = fits.collect();
            // Never the same again, whatever the queue says.
            if fits.iter().all(|fits| *fits) {
                fits.pop();
                fits.push(false);
            }
            fits
        }
        _ => vec![false; jobs.len()],
    }
}

fn stopped() -> Error {
    Error::Stopped {
        what: "the runtime that this queue was sending from",
    }
}

/// The failure of a batch as each of its callers hears it.
fn shared(error: &Error) -> Error {
    match error {
        Error::Ambiguous {
            operation,
            waited,
            reason,
        } => Error::Ambiguous {
            operation,
            waited: *waited,
            reason: reason.clone(),
        },
        Error::Unfit { server, reason } => Error::Unfit {
            server: server.clone(),
            reason: reason.clone(),
        },
        Error::Unreachable { server, reason } => Error::Unreachable {
            server: server.clone(),
            reason: reason.clone(),
        },
        Error::QueueFull {
            queue,
            depth,
            max_depth,
        } => Error::QueueFull {
            queue: queue.clone(),
            depth: *depth,
            max_depth: *max_depth,
        },
        Error::GroupFull {
            queue,
            group,
            held,
            max_backlog,
            fitting,
        } => Error::GroupFull {
            queue: queue.clone(),
            group: group.clone(),
            held: *held,
            max_backlog: *max_backlog,
            fitting: *fitting,
        },
        Error::Refused { operation, reason } => Error::Refused {
            operation,
            reason: reason.clone(),
        },
        other => Error::Protocol {
            operation: "enqueue",
            reason: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_goes_beside_others_only_when_it_is_no_smaller() {
        for (waiting, calls, jobs_under_way, goes) in [
            (0, 0, 0, false),
            (1, 0, 0, true),
            (1, 1, 1, true),
            (1, 1, 2, false),
            (29, 1, 30, false),
            (30, 1, 30, true),
            (15, 2, 31, false),
            (16, 2, 31, true),
        ] {
            let gathered = Gathered {
                jobs: (0..waiting).map(|_| waiter()).collect(),
                flush_pending: false,
                calls,
                jobs_under_way,
            };
            let case = format!("{waiting} beside {jobs_under_way} in {calls}");
            assert_eq!(gathered.is_worth_a_call(), goes, "{case}");
            let pending = Gathered {
                flush_pending: true,
                ..gathered
            };
            assert!(!pending.is_worth_a_call(), "{case}");
        }
    }

    fn waiter() -> (NewJob, Caller) {
        let job = NewJob::raw("a", "x");
        let admitted = Arc::new(Backlog::new()).admit(std::slice::from_ref(&job));
        let caller = Caller {
            answer: oneshot::channel().0,
            _underway: admitted.expect("nothing waits"),
        };
        (job, caller)
    }
}
