//! Groups as an operator sees them: how many jobs of each are at work and how many wait, what limits them, and how everything of
//! one is removed.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::filter::JobFilter;
use super::read::{list, of};
use super::{Inspector, PATIENCE};
use crate::config;
use crate::error::{Error, Result};
use crate::job::state::State;
use crate::job::{JobId, check_name};
use crate::keys::Key;
use crate::rate::Rate;
use crate::redis::reply::{Value, text_of};
use crate::upkeep;

/// Fields or groups per look at Redis.
const PAGE: usize = 500;
/// What the field of a group in `limits` begins with.
const FIELD: &str = "group:";

/// One group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GroupView {
    /// Its name.
    pub group: String,
    /// Jobs that are ready or running, as far as they count against a limit.
    pub active: u64,
    /// Jobs that wait for their turn.
    pub held: u64,
    /// The limit in force on `active`; `None` without one.
    pub concurrency: Option<u64>,
    /// The limit is the group's own, and not that of all groups.
    pub own_limit: bool,
    /// The rate in force; `None` without one.
    pub rate: Option<Rate>,
    /// Jobs or points that may start at once after a quiet time; `None` without a rate.
    pub burst: Option<u32>,
    /// How many of its jobs may be held; `None` without a limit.
    pub max_backlog: Option<u64>,
    /// None of its held jobs is admitted.
    pub paused: bool,
}

/// The groups of a queue that have limits of their own or jobs that count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GroupPage {
    /// Those with most held jobs first, then those with most active ones, then by name.
    pub groups: Vec<GroupView>,
    /// How many there are in all.
    pub total: u64,
    /// The limit of all groups that have none of their own.
    pub concurrency: Option<u64>,
    /// The rate of all groups that have none of their own.
    pub rate: Option<Rate>,
    /// The burst that goes with it.
    pub burst: Option<u32>,
    /// How many jobs may be held of a group that has no such limit of its own.
    pub max_backlog: Option<u64>,
}

/// What is to be changed about a group, or about all; what is not said stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupLimits {
    concurrency: Option<Option<usize>>,
    max_backlog: Option<Option<u64>>,
    rate: Option<Option<Rate>>,
    burst: Option<Option<u32>>,
    paused: Option<bool>,
}

impl GroupLimits {
    /// Changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// So many jobs ready or running at once, 1 to 100,000; `None` takes the limit away: of one group, so that the one of all groups
    /// counts again; of all groups, so that there is none.
    #[must_use]
    pub fn concurrency(mut self, jobs: Option<usize>) -> Self {
        self.concurrency = Some(jobs);
        self
    }

    /// So many jobs held at most, 1 to 10¹²: an enqueue that would hold more is refused whole ([`Error::GroupFull`]). `None` takes the
    /// limit away, as for [`GroupLimits::concurrency`].
    #[must_use]
    pub fn max_backlog(mut self, jobs: Option<u64>) -> Self {
        self.max_backlog = Some(jobs);
        self
    }

    /// So many jobs, or points, in so much time; jobs beyond it are held until there are tokens for them. `None` takes the rate away,
    /// as for [`GroupLimits::concurrency`].
    #[must_use]
    pub fn rate(mut self, rate: Option<Rate>) -> Self {
        self.rate = Some(rate);
        self
    }

    /// So many at once after a quiet time, 1 to 100,000; `None`: what comes in a second, at least 1.
    #[must_use]
    pub fn burst(mut self, jobs: Option<u32>) -> Self {
        self.burst = Some(jobs);
        self
    }

    /// Holds every job of the group that is not ready yet, or ends that. Not for all groups: pause the queue instead.
    #[must_use]
    pub fn paused(mut self, paused: bool) -> Self {
        self.paused = Some(paused);
        self
    }

    /// Takes away all that one group has of its own.
    #[must_use]
    pub fn clear(self) -> Self {
        self.concurrency(None)
            .max_backlog(None)
            .rate(None)
            .burst(None)
            .paused(false)
    }

    fn settings(&self, group: Option<&str>) -> Result<Vec<(&'static str, String)>> {
        if let Some(Some(jobs)) = self.concurrency
            && !(1..=config::GROUP_CONCURRENCY_MAX).contains(&jobs)
        {
            let reason = format!("1 to {}", config::GROUP_CONCURRENCY_MAX);
            return Err(Error::setting("concurrency", jobs, reason));
        }
        if let Some(Some(jobs)) = self.max_backlog
            && !(1..=config::DEPTH_MAX).contains(&jobs)
        {
            let reason = format!("1 to {}", config::DEPTH_MAX);
            return Err(Error::setting("max_backlog", jobs, reason));
        }
        if let Some(Some(rate)) = self.rate {
            rate.check("rate")?;
        }
        if let Some(Some(jobs)) = self.burst
            && !(1..=config::BURST_MAX).contains(&jobs)
        {
            let reason = format!("1 to {}", config::BURST_MAX);
            return Err(Error::setting("burst", jobs, reason));
        }
        if group.is_none() && self.paused.is_some() {
            let reason = "name a group, or pause the queue";
            return Err(Error::setting("paused", "all groups", reason));
        }
        fn text<T: ToString>(setting: Option<Option<T>>) -> Option<String> {
            setting.map(|value| value.map_or_else(String::new, |value| value.to_string()))
        }
        let name = |own, of_all| if group.is_some() { own } else { of_all };
        let paused = self.paused.map(|paused| paused.then_some(1));
        let settings = [
            (
                name("concurrency", "group_concurrency"),
                text(self.concurrency),
            ),
            (
                name("max_backlog", "group_max_backlog"),
                text(self.max_backlog),
            ),
            (name("rate", "group_rate"), text(self.rate)),
            (name("burst", "group_burst"), text(self.burst)),
            ("paused", text(paused)),
        ];
        let settings = settings.into_iter();
        Ok(settings
            .filter_map(|(name, value)| Some((name, value?)))
            .collect())
    }
}

/// What a purge removed, by the state in which it found the jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GroupPurged {
    /// Jobs that waited for their turn.
    pub held: u64,
    /// Jobs that were due later.
    pub scheduled: u64,
    /// Dead jobs.
    pub dead: u64,
    /// Jobs that were ready.
    pub ready: u64,
    /// Jobs that were running: their handlers were told to stop.
    pub running: u64,
    /// Entries of the completed history.
    pub completed: u64,
}

impl GroupPurged {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.held + self.scheduled + self.dead + self.ready + self.running + self.completed
    }

    fn count(&mut self, state: State, by: u64) {
        *match state {
            State::Held => &mut self.held,
            State::Scheduled => &mut self.scheduled,
            State::Dead => &mut self.dead,
            State::Ready => &mut self.ready,
            State::Running => &mut self.running,
            State::Completed | State::Cancelled => &mut self.completed,
        } += by;
    }
}

/// In which order a purge goes over the states: those that cannot move by themselves first, and what is ready before what runs, so
/// that nothing of the group starts on the way.
const ORDER: [State; 5] = [
    State::Held,
    State::Scheduled,
    State::Dead,
    State::Ready,
    State::Running,
];
/// Times that a purge goes over all states when jobs have moved meanwhile; a producer that never ends must not keep it for ever.
const ROUNDS_MAX: u32 = 5;

/// A purge under way. Made by [`Inspector::walk_group_purge`].
#[derive(Clone, Debug)]
pub struct GroupPurge {
    inspector: Inspector,
    group: String,
    dry_run: bool,
    place: usize,
    after: Option<String>,
    round: u32,
    /// What this round has removed.
    removed: u64,
    purged: GroupPurged,
    is_over: bool,
}

impl GroupPurge {
    /// What was removed so far, or with a dry run would be.
    pub fn purged(&self) -> GroupPurged {
        self.purged
    }

    /// Takes one bounded step. `false` at the end, which an event tells.
    ///
    /// # Errors
    /// As [`Inspector::stats`]. The walk stands where it stood: call again to go on.
    pub async fn step(&mut self) -> Result<bool> {
        self.step_of(config::OPERATOR_BATCH).await
    }

    /// The same, for who keeps to a rate: a step that removes up to `limit` jobs, at most 100.
    ///
    /// # Errors
    /// As [`GroupPurge::step`].
    pub async fn step_of(&mut self, limit: usize) -> Result<bool> {
        if self.is_over {
            return Ok(false);
        }
        let limit = limit.clamp(1, config::OPERATOR_BATCH);
        match ORDER.get(self.place) {
            Some(state) => self.step_through(*state, limit).await?,
            None => self.step_through_history().await?,
        }
        Ok(true)
    }

    async fn step_through(&mut self, state: State, limit: usize) -> Result<()> {
        let filter = JobFilter::new().state(state).group(&self.group);
        let after = self.after.as_deref();
        let page = self.inspector.page(&filter, after, limit).await?;
        let ids: Vec<JobId> = page.jobs.into_iter().map(|job| job.id).collect();
        let mut purged = ids.len() as u64;
        if !self.dry_run && !ids.is_empty() {
            purged = self.inspector.purge_of_group(&self.group, &ids, 0).await?;
            self.removed += purged;
        }
        self.purged.count(state, purged);
        self.after = page.next;
        if self.after.is_none() {
            self.place += 1;
            let again = self.removed > 0 && self.round < ROUNDS_MAX;
            if self.place == ORDER.len() && again {
                (self.place, self.round, self.removed) = (0, self.round + 1, 0);
            }
        }
        Ok(())
    }

    async fn step_through_history(&mut self) -> Result<()> {
        let inspector = &self.inspector;
        let page = inspector.completed(self.after.as_deref(), PAGE).await?;
        let of_group = page
            .iter()
            .filter(|job| job.group.as_ref() == Some(&self.group));
        let entries: Vec<Value> = of_group.map(|job| job.entry.as_str().into()).collect();
        let found = entries.len() as u64;
        if found > 0 && !self.dry_run {
            let mut args = vec![of(&inspector.broker.keys.completed)];
            args.extend(entries);
            inspector.ask("XDEL", args).await?;
        }
        self.purged.count(State::Completed, found);
        self.after = page.last().map(|last| last.entry.clone());
        if self.after.is_none() {
            let total = self.purged.total();
            if total > 0 && !self.dry_run {
                inspector.purge_of_group(&self.group, &[], total).await?;
            }
            self.is_over = true;
        }
        Ok(())
    }
}

/// What an operator has set for one group.
#[derive(Default, Deserialize)]
struct Own {
    concurrency: Option<u64>,
    max_backlog: Option<u64>,
    rate: Option<Rate>,
    burst: Option<u32>,
    paused: Option<u8>,
}

/// Whether this is what is stored of the limits that a group has of its own.
pub(super) fn is_own_limits(field: &str, value: &str) -> Option<bool> {
    let is_read = || serde_json::from_str::<Own>(value).is_ok();
    field.strip_prefix(FIELD).map(|_| is_read())
}

impl Inspector {
    /// The groups that have limits of their own, jobs that count against a limit or jobs that wait for a rate, the first `limit` of them.
    ///
    /// # Errors
    /// As [`Inspector::stats`].
    pub async fn groups(&self, limit: usize) -> Result<GroupPage> {
        let keys = &self.broker.keys;
        let active = self.fields(&keys.groups).await?;
        let limits = self.fields(&keys.limits).await?;
        let number = |name: &str| limits.get(name)?.parse::<u64>().ok();
        let of_all = number("group_concurrency");
        let backlog_of_all = number("group_max_backlog");
        let rate_of_all: Option<Rate> = limits.get("group_rate").and_then(|rate| rate.parse().ok());
        let burst_of_all = number("group_burst").and_then(|jobs| u32::try_from(jobs).ok());
        let own = limits.iter().filter_map(|(field, own)| {
            let own: Own = serde_json::from_str(own).ok()?;
            Some((field.strip_prefix(FIELD)?.to_owned(), own))
        });
        let mut own: HashMap<String, Own> = own.collect();
        let mut names: Vec<String> = active.keys().chain(own.keys()).cloned().collect();
        names.append(&mut self.waiting_for_tokens().await?);
        names.sort_unstable();
        names.dedup();
        let mut groups = Vec::with_capacity(names.len());
        for names in names.chunks(PAGE) {
            let held = self.broker.backlog(names, PATIENCE).await?;
            for (name, held) in names.iter().zip(held) {
                let active = active.get(name).and_then(|jobs| jobs.parse().ok());
                let own = own.remove(name).unwrap_or_default();
                // A burst belongs to its rate, as `lua/lib/groups.lua` has it.
                let rate = own.rate.or(rate_of_all);
                let burst = match own.rate {
                    Some(_) => own.burst,
                    None => own.burst.or(burst_of_all),
                };
                groups.push(GroupView {
                    group: name.clone(),
                    active: active.unwrap_or_default(),
                    held,
                    concurrency: own.concurrency.or(of_all),
                    own_limit: own.concurrency.is_some(),
                    rate,
                    burst: rate.map(|rate| burst.unwrap_or_else(|| rate.burst_default())),
                    max_backlog: own.max_backlog.or(backlog_of_all),
                    paused: own.paused.is_some(),
                });
            }
        }
        let total = groups.len() as u64;
        groups.sort_by(|a, b| (b.held, b.active, &a.group).cmp(&(a.held, a.active, &b.group)));
        groups.truncate(limit);
        Ok(GroupPage {
            groups,
            total,
            concurrency: of_all,
            rate: rate_of_all,
            burst: rate_of_all.map(|rate| burst_of_all.unwrap_or_else(|| rate.burst_default())),
            max_backlog: backlog_of_all,
        })
    }

    /// Sets limits of one group, or of all that have none of their own (`None`), and admits what has room by then. They stay until
    /// they are changed again. Returns how many jobs were admitted.
    ///
    /// # Errors
    /// [`Error::Setting`], [`Error::InvalidJob`]: out of range, nothing was changed. Else as [`Inspector::stats`].
    pub async fn set_group_limits(&self, group: Option<&str>, limits: &GroupLimits) -> Result<u64> {
        if let Some(group) = group {
            check_name("group", group, config::GROUP_BYTES_MAX)?;
        }
        let settings = limits.settings(group)?;
        self.broker.limit(group, &settings, PATIENCE).await?;
        upkeep::groups::admit(&self.broker, group).await
    }

    /// Begins to remove everything of a group: jobs that wait in any way, dead ones, the history; those that run are cancelled. A
    /// purge that is broken off has done whole steps, and a new one does the rest. With `dry_run` it only counts.
    ///
    /// # Errors
    /// [`Error::InvalidJob`]: no group has such a name.
    pub fn walk_group_purge(&self, group: &str, dry_run: bool) -> Result<GroupPurge> {
        check_name("group", group, config::GROUP_BYTES_MAX)?;
        Ok(GroupPurge {
            inspector: self.clone(),
            group: group.to_owned(),
            dry_run,
            place: 0,
            after: None,
            round: 1,
            removed: 0,
            purged: GroupPurged::default(),
            is_over: false,
        })
    }

    async fn purge_of_group(&self, group: &str, ids: &[JobId], total: u64) -> Result<u64> {
        let mut slot = self.callers.take().await;
        let caller = slot.caller();
        let (mut purged, mut rest) = (0, ids);
        loop {
            let step = self
                .broker
                .group_purge(caller, group, rest, total, PATIENCE)
                .await?;
            if !step.unlock.is_empty() {
                self.broker.unlock(&step.unlock, PATIENCE).await?;
            }
            purged += step.purged;
            rest = rest.get(step.looked..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(purged);
            }
        }
    }

    /// Groups whose next job waits for the rate, read in steps.
    async fn waiting_for_tokens(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for from in (0..).step_by(PAGE) {
            let (offset, count) = (from.to_string(), PAGE.to_string());
            let mut args = vec![of(&self.broker.keys.rates)];
            let range = ["0", "+inf", "BYSCORE", "LIMIT", &offset, &count];
            args.extend(range.into_iter().map(Value::from));
            let page = list(self.ask("ZRANGE", args).await?);
            let members = page.iter().filter_map(text_of);
            names.extend(
                members.filter_map(|member| Some(member.split_once('\u{1f}')?.1.to_owned())),
            );
            if page.len() < PAGE {
                break;
            }
        }
        Ok(names)
    }

    /// All fields of a hash, read in steps.
    async fn fields(&self, key: &Key) -> Result<BTreeMap<String, String>> {
        let (mut fields, mut cursor) = (BTreeMap::new(), "0".to_owned());
        loop {
            let count = PAGE.to_string();
            let args = vec![
                of(key),
                cursor.as_str().into(),
                "COUNT".into(),
                count.into(),
            ];
            let mut page = list(self.ask("HSCAN", args).await?).into_iter();
            let next = page.next();
            let next = next.as_ref().and_then(text_of).unwrap_or("0").to_owned();
            let pairs = page.next().map(list).unwrap_or_default();
            for pair in pairs.chunks_exact(2) {
                if let (Some(field), Some(value)) = (text_of(&pair[0]), text_of(&pair[1])) {
                    fields.insert(field.to_owned(), value.to_owned());
                }
            }
            if next == "0" {
                return Ok(fields);
            }
            cursor = next;
        }
    }
}
