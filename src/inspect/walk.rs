//! Long work in short steps: through the dead letter, and through what is old enough to go. Whoever walks decides how large a
//! step is and how long to rest between two; one that is broken off has done whole steps, and a new walk does the rest.

use std::time::Duration;

use super::filter::JobFilter;
use super::page::{PAGE, Row};
use super::read::of;
use super::score::Score;
use super::view::Pruned;
use super::{Inspector, PATIENCE};
use crate::config;
use crate::error::Result;
use crate::job::state::State;
use crate::job::{JobId, millis};
use crate::redis::reply::{Value, number_of};
use crate::upkeep::STEP;

/// A walk through the dead jobs that fit a filter, in the order in which they died. Made by [`Inspector::walk_dead`].
#[derive(Clone, Debug)]
pub struct DeadWalk {
    inspector: Inspector,
    filter: JobFilter,
    /// When they died, on Redis's clock.
    died: (Score, Score),
    after: Option<Row>,
}

/// One step of a [`DeadWalk`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DeadStep {
    /// The jobs that fit.
    pub ids: Vec<JobId>,
    /// How many were looked at.
    pub looked: u64,
}

/// A walk that prunes. Made by [`Inspector::walk_prune`].
#[derive(Clone, Debug)]
pub struct PruneWalk {
    inspector: Inspector,
    completed: Option<Duration>,
    dead: Option<Duration>,
    /// `None` once all producers have been looked at.
    producers: Option<Duration>,
    cursor: Option<String>,
    is_over: bool,
}

impl Inspector {
    /// Begins a walk through the dead jobs that fit `filter`. Jobs that die from now on are no part of it, so a walk that makes
    /// them ready again ends, even if they die once more.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn walk_dead(&self, filter: &JobFilter) -> Result<DeadWalk> {
        let now = self.broker.now_ms(PATIENCE).await?;
        let ago = |age: Duration| now.saturating_sub(millis(age));
        Ok(DeadWalk {
            inspector: self.clone(),
            filter: filter.clone(),
            died: (
                Score::of_ms(filter.newer_than.map_or(0, ago)),
                Score::of_ms(filter.older_than.map_or(now, ago)),
            ),
            after: None,
        })
    }

    /// Begins a walk that removes completed and dead jobs that are older than given (`None`: leaves that kind alone), and
    /// forgets producers that no longer call.
    pub fn walk_prune(&self, completed: Option<Duration>, dead: Option<Duration>) -> PruneWalk {
        PruneWalk {
            inspector: self.clone(),
            completed,
            dead,
            producers: Some(config::PRODUCER_IDLE),
            cursor: None,
            is_over: false,
        }
    }

    /// Which of the jobs are in the dead letter.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn are_dead(&self, ids: &[JobId]) -> Result<Vec<bool>> {
        let mut dead = Vec::with_capacity(ids.len());
        for ids in ids.chunks(PAGE) {
            let mut args = vec![of(&self.broker.keys.dead)];
            args.extend(ids.iter().map(|id| Value::from(id.as_str())));
            let scores = super::read::list(self.ask("ZMSCORE", args).await?);
            dead.extend(scores.iter().map(|score| Score::of(score).is_some()));
        }
        Ok(dead)
    }
}

impl DeadWalk {
    /// How many jobs the walk looks at in all, as things stand: those that died at the right time, whether they fit
    /// otherwise or not.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn total(&self) -> Result<u64> {
        let (from, until) = self.died;
        let args = vec![
            of(&self.inspector.broker.keys.dead),
            from.to_string().into(),
            until.to_string().into(),
        ];
        let total = number_of(&self.inspector.ask("ZCOUNT", args).await?);
        Ok(total.unwrap_or_default().unsigned_abs())
    }

    /// Looks at up to `limit` further jobs, at most 500. `None` at the end.
    ///
    /// # Errors
    /// As [`Inspector::stats`]. The walk stands where it stood: call again to go on.
    pub async fn next(&mut self, limit: usize) -> Result<Option<DeadStep>> {
        let zset = self.inspector.parked_key(State::Dead);
        let limit = limit.clamp(1, PAGE);
        let rows = self
            .inspector
            .rows_after(zset, self.died, self.after.as_ref(), limit)
            .await?;
        let Some(last) = rows.last().cloned() else {
            return Ok(None);
        };
        let looked = rows.len() as u64;
        let ids = if self.filter.reads_jobs() {
            let jobs = self.inspector.parked_views(State::Dead, &rows).await?;
            let fit = jobs.into_iter().filter(|(_, job)| self.filter.takes(job));
            fit.map(|((_, id), _)| id).collect()
        } else {
            rows.into_iter().map(|(_, id)| id).collect()
        };
        self.after = Some(last);
        Ok(Some(DeadStep { ids, looked }))
    }
}

impl PruneWalk {
    /// Removes up to `limit` of each kind, at most 500; returns how many of which. `None` when nothing is old enough any more.
    ///
    /// # Errors
    /// As [`Inspector::stats`]. Call again to go on.
    pub async fn next(&mut self, limit: usize) -> Result<Option<Pruned>> {
        if self.is_over {
            return Ok(None);
        }
        let step = self
            .inspector
            .broker
            .prune(
                self.completed,
                self.dead,
                self.producers,
                self.cursor.as_deref(),
                limit.clamp(1, PAGE),
                STEP,
            )
            .await?;
        self.cursor = step.cursor;
        if self.cursor.is_none() {
            self.producers = None;
            self.is_over = !step.more;
        }
        Ok(Some(Pruned {
            completed: step.completed,
            dead: step.dead,
            producers: step.producers,
        }))
    }
}
