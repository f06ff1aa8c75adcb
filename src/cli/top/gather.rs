//! What `top` shows, gathered in the background: one look at a time, and the last one stays on the screen while Redis is away.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use millstream::inspect::{EventKind, EventView, JobFilter, JobView, Stats, WorkerView};
use millstream::job::state::State;
use millstream::{Millstream, Result};

use super::super::stats::Rates;

/// Looks of which a sparkline shows one column each.
const HISTORY: usize = 60;
/// Running jobs and events that are fetched.
const ROWS: usize = 50;
/// To find queues is a scan of all keys, so it is done at every so-manieth look.
const QUEUES_EVERY: u32 = 10;

/// Everything of one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) queues: Vec<Stats>,
    pub(super) detail: Detail,
}

/// More about the selected queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Detail {
    pub(super) queue: String,
    pub(super) running: Vec<JobView>,
    pub(super) workers: Vec<WorkerView>,
    /// Retried, stalled and dead, the newest first.
    pub(super) failures: Vec<EventView>,
}

/// What is known of a queue from look to look.
#[derive(Debug, Default)]
pub(super) struct Trend {
    pub(super) rates: Option<Rates>,
    /// Jobs completed between two looks.
    pub(super) completed: VecDeque<u64>,
}

/// The trends of all queues.
#[derive(Default)]
pub(super) struct Trends {
    before: Option<(Instant, Vec<Stats>)>,
    pub(super) of: HashMap<String, Trend>,
}

/// Looks, again and again.
pub(super) struct Gatherer {
    client: Millstream,
    only: Option<String>,
    names: Vec<String>,
    looks: u32,
}

impl Gatherer {
    pub(super) fn new(client: Millstream, only: Option<String>) -> Self {
        Self {
            client,
            only,
            names: Vec::new(),
            looks: 0,
        }
    }

    /// One look; `selected` is the queue of which more is wanted.
    pub(super) async fn look(&mut self, selected: Option<&str>) -> Result<Look> {
        match &self.only {
            Some(only) => self.names = vec![only.clone()],
            None if self.looks.is_multiple_of(QUEUES_EVERY) => {
                self.names = self.client.queues().await?
            }
            None => {}
        }
        // A queue that comes up is looked for again soon while there is none.
        self.looks = if self.names.is_empty() {
            0
        } else {
            self.looks.wrapping_add(1)
        };
        let mut look = Look::default();
        for name in &self.names {
            look.queues.push(self.client.inspect(name)?.stats().await?);
        }
        let selected = selected.filter(|name| self.names.iter().any(|known| known == name));
        if let Some(name) = selected.or(self.names.first().map(String::as_str)) {
            look.detail = self.detail(name).await?;
        }
        Ok(look)
    }

    async fn detail(&self, name: &str) -> Result<Detail> {
        let queue = self.client.inspect(name)?;
        let running = JobFilter::new().state(State::Running);
        let mut failures = queue.recent_events(500).await?;
        failures.retain(|event| {
            matches!(
                event.event,
                EventKind::Retried | EventKind::Dead | EventKind::Stalled | EventKind::Orphaned
            )
        });
        failures.reverse();
        failures.truncate(ROWS);
        Ok(Detail {
            queue: name.to_owned(),
            running: queue.page(&running, None, ROWS).await?.jobs,
            workers: queue.workers().await?,
            failures,
        })
    }
}

impl Trends {
    pub(super) fn take(&mut self, look: &Look) {
        let now = Instant::now();
        if let Some((then, old)) = &self.before {
            for rates in Rates::between(old, &look.queues, now - *then) {
                let trend = self.of.entry(rates.queue.clone()).or_default();
                let done = rates.completed * (now - *then).as_secs_f64();
                trend.completed.push_back(done.round() as u64);
                if trend.completed.len() > HISTORY {
                    trend.completed.pop_front();
                }
                trend.rates = Some(rates);
            }
        }
        self.before = Some((now, look.queues.clone()));
    }
}
