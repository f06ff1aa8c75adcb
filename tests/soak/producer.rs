//! A producer process: enqueues jobs of every kind at a steady pace, and, as an operator would, cancels some, runs some
//! now, and gives dead ones another life. Each call is noted before it is made and after it was answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millstream::inspect::Inspector;
use millstream::job::state::State;
use millstream::{Enqueued, Error, JobId, Millstream, NewJob, Queue};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::jobs::{Key, Kind};
use crate::plan::{CALLS_PER_SECOND, QUEUE};
use crate::process::Part;
use crate::random::Random;
use crate::record::Record;

/// Callers of one process, so that calls travel together.
const CALLERS: u32 = 16;
/// One call in so many carries many jobs.
const BULK_ONE_IN: usize = 100;

/// What the tasks of a producer share.
pub(crate) struct Producer {
    name: String,
    record: Record,
    queue: Queue,
    inspector: Inspector,
    calls: AtomicU64,
    stop: CancellationToken,
}

pub(crate) async fn run(part: Part) {
    let mut terminate = signal(SignalKind::terminate()).expect("a signal handler");
    let record = part.record();
    record.note("up");
    let connected = tokio::select! {
        connected = Producer::connect(&part.redis, &part.name, record) => connected,
        _ = terminate.recv() => return,
    };
    let producer = Arc::new(connected);
    let mut tasks = JoinSet::new();
    for caller in 0..CALLERS {
        let random = Random::new(part.seed, &format!("{} {caller}", part.name));
        tasks.spawn(Arc::clone(&producer).produce(random));
    }
    let random = Random::new(part.seed, &format!("{} operator", part.name));
    tasks.spawn(Arc::clone(&producer).operate(random));
    terminate.recv().await;
    producer.stop.cancel();
    // Every call gets its answer.
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a task of the producer does not panic");
    }
    producer.record.note("down");
}

impl Producer {
    /// Until it works: Redis may be away.
    pub(crate) async fn connect(redis: &str, name: &str, record: Record) -> Self {
        let client = loop {
            match Millstream::connect(redis).await {
                Ok(client) => break client,
                Err(error) => tracing::warn!(%error, "not connected yet"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        Self {
            name: name.to_owned(),
            record,
            queue: client.queue(QUEUE).expect("a good name"),
            inspector: client.inspect(QUEUE).expect("a good name"),
            calls: AtomicU64::new(0),
            stop: CancellationToken::new(),
        }
    }

    /// Enqueues jobs of this kind with one call; their ids if it was answered.
    pub(crate) async fn enqueue(
        &self,
        kinds: &[Kind],
        random: &mut Random,
    ) -> Option<Vec<Enqueued>> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let keys: Vec<Key> = kinds
            .iter()
            .enumerate()
            .map(|(nth, kind)| Key::new(*kind, &self.name, call * 1000 + nth as u64, random))
            .collect();
        let named: Vec<&str> = keys.iter().map(|key| key.0.as_str()).collect();
        self.record
            .note(format_args!("call {call} {}", named.join(" ")));
        let mut jobs: Vec<NewJob> = keys.iter().map(Key::job).collect();
        let answer = match jobs.len() {
            1 => {
                let enqueued = self.queue.enqueue(jobs.remove(0)).await;
                enqueued.map(|enqueued| vec![enqueued])
            }
            _ => self.queue.enqueue_all(jobs).await,
        };
        match answer {
            Ok(enqueued) => {
                let ids: Vec<String> = enqueued.iter().map(shown).collect();
                self.record
                    .note(format_args!("ok {call} {}", ids.join(" ")));
                Some(enqueued)
            }
            Err(error @ Error::Ambiguous { .. }) => {
                self.record.note(format_args!("ambiguous {call} {error}"));
                None
            }
            Err(error) => {
                self.record.note(format_args!("refused {call} {error}"));
                None
            }
        }
    }

    async fn produce(self: Arc<Self>, mut random: Random) {
        let mut pace = tokio::time::interval(Duration::from_secs(1) * CALLERS / CALLS_PER_SECOND);
        // After an outage it goes on as before, and does not make up for it.
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = pace.tick() => {}
            }
            let kinds = match random.below(BULK_ONE_IN) {
                0 => vec![Kind::Quick; 2 + random.below(60)],
                _ => vec![Kind::any(&mut random)],
            };
            self.enqueue(&kinds, &mut random).await;
        }
    }

    /// Goes on until told to stop; a call is not cut short.
    async fn operate(self: Arc<Self>, mut random: Random) {
        let mut pace = tokio::time::interval(Duration::from_millis(150));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut cancelling = JoinSet::new();
        while !self.stop.is_cancelled() {
            pace.tick().await;
            match random.below(3) {
                0 => self.redrive(&mut random).await,
                1 => self.run_now(&mut random).await,
                _ => {
                    let Some(enqueued) = self.enqueue(&[Kind::Doomed], &mut random).await else {
                        continue;
                    };
                    let wait = random.between(Duration::ZERO, Duration::from_millis(3_500));
                    let (id, this) = (enqueued[0].id.clone(), Arc::clone(&self));
                    cancelling.spawn(async move {
                        tokio::time::sleep(wait).await;
                        this.cancel(&id).await;
                    });
                }
            }
        }
        while cancelling.join_next().await.is_some() {}
    }

    async fn cancel(&self, id: &JobId) {
        self.record.note(format_args!("cancel {id}"));
        match self.inspector.cancel(id).await {
            Ok(before) => self.record.note(format_args!("cancelled {id} {before}")),
            Err(error) => self.record.note(format_args!("uncancelled {id} {error}")),
        };
    }

    /// One at a time, so that the event names it.
    async fn redrive(&self, random: &mut Random) {
        let Ok(mut dead) = self.inspector.list(Some(State::Dead), 50).await else {
            return;
        };
        // A poison job comes back to kill again; once is enough.
        dead.retain(|job| job.reason.as_deref() != Some("crash_loop"));
        if dead.is_empty() {
            return;
        }
        let id = dead.swap_remove(random.below(dead.len())).id;
        self.record.note(format_args!("redrive {id}"));
        match self.inspector.redrive(std::slice::from_ref(&id)).await {
            Ok(count) => self.record.note(format_args!("redriven {id} {count}")),
            Err(error) => self.record.note(format_args!("unredriven {id} {error}")),
        };
    }

    async fn run_now(&self, random: &mut Random) {
        let Ok(mut waiting) = self.inspector.list(Some(State::Scheduled), 50).await else {
            return;
        };
        if waiting.is_empty() {
            return;
        }
        let id = waiting.swap_remove(random.below(waiting.len())).id;
        self.record.note(format_args!("hasten {id}"));
        let answer = self.inspector.run_now(&id).await;
        let word = if answer.is_ok() {
            "hastened"
        } else {
            "unhastened"
        };
        self.record.note(format_args!("{word} {id}"));
    }
}

fn shown(enqueued: &Enqueued) -> String {
    let mark = if enqueued.duplicate { "=" } else { "" };
    format!("{mark}{}", enqueued.id)
}
