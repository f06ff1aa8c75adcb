//! Handlers that take several jobs at a time, and settle each on its own.
//!
//! Every job keeps its own attempt: its slot, lease, time limit and cancellation are those of a single job, and nothing outside
//! this file knows that it shares a call. The attempt puts its job into the next batch and waits for its word. The batch goes
//! when it is full, or when its first job has waited long enough: a clock runs only while a job waits.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::Instrument as _;

use super::handler::{Context, Handler, HandlerFuture, JobError};
use crate::config;
use crate::error::{Error, Result};
use crate::spans;

/// How large a batch may be, and how long its first job waits for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSettings {
    /// Jobs at a time, 1 to 1,000. A worker's concurrency bounds it as well: each job of a batch takes a slot.
    pub max_jobs: usize,
    /// How long the first job of a batch waits for others, at most, 0 to 1 h. Counts towards its time limit.
    pub max_wait: Duration,
}

impl BatchSettings {
    pub(crate) fn check(&self) -> Result<()> {
        if !(1..=config::BATCH_JOBS_MAX).contains(&self.max_jobs) {
            let range = format!("1 to {}", config::BATCH_JOBS_MAX);
            return Err(Error::setting("max_jobs", self.max_jobs, range));
        }
        if self.max_wait > Duration::from_secs(3600) {
            let given = humantime::format_duration(self.max_wait);
            return Err(Error::setting("max_wait", given, "0 to 1h"));
        }
        Ok(())
    }
}

/// What a job's attempt waits for.
type Word = oneshot::Sender<std::result::Result<(), JobError>>;

/// One job of a batch. Settle it by [`BatchJob::done`] or [`BatchJob::fail`] as soon as its fate is known; what the handler has
/// not settled when it returns ends as the handler does.
pub struct BatchJob<T> {
    /// The decoded payload.
    pub payload: T,
    context: Context,
    word: Arc<Mutex<Option<Word>>>,
}

impl<T> BatchJob<T> {
    /// The job and its attempt.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The job is done: it is completed at once, whatever becomes of the others.
    pub fn done(self) {
        say(&self.word, Ok(()));
    }

    /// The job failed, or is to be tried later, or refused, as a single one whose handler returns this.
    pub fn fail(self, error: impl Into<JobError>) {
        say(&self.word, Err(error.into()));
    }
}

impl<T: fmt::Debug> fmt::Debug for BatchJob<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchJob")
            .field("payload", &self.payload)
            .field("context", &self.context)
            .finish()
    }
}

/// Says it unless something was said before. A job that was cut off hears nothing any more.
fn say(word: &Mutex<Option<Word>>, result: std::result::Result<(), JobError>) {
    let word = word.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(word) = word {
        let _ = word.send(result);
    }
}

type Call<T> = dyn Fn(Vec<BatchJob<T>>) -> Pin<Box<dyn Future<Output = std::result::Result<(), JobError>> + Send>>
    + Send
    + Sync;

/// Gathers jobs and calls the handler.
pub(crate) struct Batches<T> {
    settings: BatchSettings,
    call: Arc<Call<T>>,
    gathered: Arc<Mutex<Gathered<T>>>,
}

struct Gathered<T> {
    jobs: Vec<BatchJob<T>>,
    /// Which batch this is, so that a clock that is late does not send the next one.
    number: u64,
}

impl<T> Batches<T> {
    pub(crate) fn new<F, Fut>(settings: BatchSettings, handler: F) -> Self
    where
        F: Fn(Vec<BatchJob<T>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = std::result::Result<(), JobError>> + Send + 'static,
    {
        Self {
            settings,
            call: Arc::new(move |jobs| Box::pin(handler(jobs))),
            gathered: Arc::new(Mutex::new(Gathered {
                jobs: Vec::new(),
                number: 0,
            })),
        }
    }
}

impl<T: Send + 'static> Batches<T> {
    /// Puts a job into the batch; returns the batch if that is to go now, and else, for its first job, its number.
    fn gather(&self, job: BatchJob<T>) -> (Option<Vec<BatchJob<T>>>, Option<u64>) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        // An attempt that was cut off while it waited has no use for an answer.
        gathered
            .jobs
            .retain(|job| !job.context.inner.cancel.is_cancelled());
        gathered.jobs.push(job);
        if gathered.jobs.len() >= self.settings.max_jobs || self.settings.max_wait.is_zero() {
            return (Some(gathered.take()), None);
        }
        let number = gathered.number;
        (None, (gathered.jobs.len() == 1).then_some(number))
    }
}

impl<T> Gathered<T> {
    fn take(&mut self) -> Vec<BatchJob<T>> {
        self.number += 1;
        std::mem::take(&mut self.jobs)
    }
}

/// Calls the handler, and says for it what it has not said.
fn send<T: Send + 'static>(call: Arc<Call<T>>, jobs: Vec<BatchJob<T>>) {
    let words: Vec<Arc<Mutex<Option<Word>>>> =
        jobs.iter().map(|job| Arc::clone(&job.word)).collect();
    tokio::spawn(async move {
        // In a task of its own: a panic of the handler ends that alone.
        let span = jobs.first().map_or_else(tracing::Span::none, |first| {
            let metas = jobs.iter().map(|job| &job.context.inner.delivery.meta);
            spans::batch(first.context.queue(), jobs.len(), metas)
        });
        let called = tokio::spawn(async move { call(jobs).await }.instrument(span));
        let result = match called.await {
            Ok(result) => result,
            Err(error) => Err(JobError::failed(match error.try_into_panic() {
                Ok(panic) => format!(
                    "the handler panicked: {}",
                    super::attempt::panic_text(&*panic)
                ),
                Err(_) => "the program ends".to_owned(),
            })),
        };
        for word in words {
            say(
                &word,
                match &result {
                    Ok(()) => Ok(()),
                    Err(error) => Err(error.again()),
                },
            );
        }
    });
}

impl<T: serde::de::DeserializeOwned + Send + 'static> Handler for Batches<T> {
    fn run(&self, context: Context) -> HandlerFuture {
        let payload = match context.decode::<T>() {
            Ok(payload) => payload,
            // Alone to blame: the others of the batch do not hear of it.
            Err(error) => return Box::pin(std::future::ready(Err(error.into()))),
        };
        let (word, said) = oneshot::channel();
        let job = BatchJob {
            payload,
            context,
            word: Arc::new(Mutex::new(Some(word))),
        };
        let (full, first) = self.gather(job);
        if let Some(jobs) = full {
            send(Arc::clone(&self.call), jobs);
        }
        if let Some(number) = first {
            let (gathered, call) = (Arc::clone(&self.gathered), Arc::clone(&self.call));
            let wait = self.settings.max_wait;
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                let jobs = {
                    let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
                    if gathered.number == number {
                        gathered.take()
                    } else {
                        Vec::new()
                    }
                };
                if !jobs.is_empty() {
                    send(call, jobs);
                }
            });
        }
        Box::pin(async move {
            said.await.unwrap_or_else(|_| {
                Err(JobError::failed(
                    "the batch was dropped before this job was settled",
                ))
            })
        })
    }
}
