//! How jobs are found and read, wherever they are.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use super::page::PAGE;
use super::score::Score;
use super::view::{CompletedView, ErrorView, JobView, KeyView, Pruned};
use super::{Inspector, PATIENCE};
use crate::broker::{Delivery, EntryId};
use crate::error::{Error, Result};
use crate::job::state::State;
use crate::job::{JobId, Meta};
use crate::keys::{GROUP, Key, Lane, PURPOSES};
use crate::redis::Scan;
use crate::redis::is_no_group;
use crate::redis::reader::raw_entry;
use crate::redis::reply::{Value, bytes_of, number_of, text_of};

/// How often a job that moves is looked for. Each look is a few round trips, in which a job has to move to be missed.
const LOOKS_MAX: usize = 16;

/// What `lua/lib/record.lua` keeps of a job that is, or once was, off the streams.
#[derive(Deserialize)]
pub(super) struct Record {
    state: String,
    name: String,
    attempt: u32,
    meta: String,
    #[serde(default)]
    payload_bytes: u64,
    #[serde(default)]
    errors: Vec<ErrorView>,
    reason: Option<String>,
    entry: Option<String>,
}

impl Record {
    /// What is stored beside the payload; nothing when somebody broke it.
    fn meta(&self) -> Meta {
        Meta::from_stored(self.meta.as_bytes()).unwrap_or_default()
    }

    /// What differs once the job has moved.
    fn whereabouts(&self) -> (String, Option<String>, u32) {
        (self.state.clone(), self.entry.clone(), self.attempt)
    }

    /// Stands for a record that somebody broke: the job is listed, so that it can be purged.
    pub(super) fn unreadable() -> Self {
        Self {
            state: String::new(),
            name: "(unreadable record)".to_owned(),
            attempt: 0,
            meta: String::new(),
            payload_bytes: 0,
            errors: Vec::new(),
            reason: None,
            entry: None,
        }
    }
}

/// A delivery's owner.
pub(super) struct Pending {
    worker: String,
    idle_ms: u64,
}

impl Inspector {
    pub(super) async fn ask(&self, name: &'static str, args: Vec<Value>) -> Result<Value> {
        self.broker.redis.command(name, args, PATIENCE).await
    }

    pub(super) fn not_found(&self, id: &JobId) -> Error {
        Error::NotFound {
            queue: self.broker.queue.to_string(),
            job: id.clone(),
        }
    }

    async fn record(&self, id: &JobId) -> Result<Option<Record>> {
        let value = self
            .ask("HGET", vec![of(&self.broker.keys.jobs), id.as_str().into()])
            .await?;
        read_record(&value)
    }

    /// Where the job is, for those who wait for its end.
    pub(crate) async fn find_brief(&self, id: &JobId) -> Result<Option<JobView>> {
        self.find(id).await
    }

    /// Wherever the job is, with its payload. It is looked for in one place after the other, and a job that moves meanwhile may be
    /// in none of them when it is its turn: so it is looked for again as long as its record says that it has moved.
    pub(super) async fn find(&self, id: &JobId) -> Result<Option<JobView>> {
        let mut record = self.record(id).await?;
        for _ in 1..LOOKS_MAX {
            let found = self.find_once(id, record.as_ref()).await?;
            if found.as_ref().is_some_and(|(_, is_there)| *is_there) {
                return Ok(found.map(|(view, _)| view));
            }
            let before = record.as_ref().map(Record::whereabouts);
            let later = self.record(id).await?;
            if before == later.as_ref().map(Record::whereabouts) {
                return Ok(found.map(|(view, _)| view));
            }
            record = later;
        }
        let found = self.find_once(id, record.as_ref()).await?;
        Ok(found.map(|(view, _)| view))
    }

    /// The job where `record` says that it is, and whether it was still there.
    async fn find_once(
        &self,
        id: &JobId,
        record: Option<&Record>,
    ) -> Result<Option<(JobView, bool)>> {
        if let Some(record) = record
            && let Some(state) = parked_state(&record.state)
        {
            let at = match state {
                State::Held => Some(Score::FIRST),
                _ => {
                    let zset = match state {
                        State::Dead => &self.broker.keys.dead,
                        _ => &self.broker.keys.scheduled,
                    };
                    let args = vec![of(zset), id.as_str().into()];
                    Score::of(&self.ask("ZSCORE", args).await?)
                }
            };
            let args = vec![of(&self.broker.keys.payloads), id.as_str().into()];
            let payload = bytes_of(self.ask("HGET", args).await?);
            let mut view = parked_view(id.clone(), state, record, at.map_or(0, Score::ms));
            let meta = record.meta();
            view.payload = payload.and_then(|payload| self.opened(&view.name, &meta, &payload));
            return Ok(Some((view, at.is_some())));
        }
        let entry = record
            .and_then(|record| record.entry.as_deref())
            .unwrap_or(id.as_str());
        if entry.parse::<EntryId>().is_err() {
            return Ok(None);
        }
        for lane in Lane::ALL {
            let mut entries = self.entries(lane, entry, entry, 1).await?;
            // Each lane counts for itself: another job may have this entry id on the other one.
            if let Some(delivery) = entries.pop().filter(|delivery| delivery.id == *id) {
                let pending = self.pending(lane, entry, entry, 1).await?.pop();
                let mut view = stream_view(&delivery, pending.map(|(_, pending)| pending));
                view.payload = self.opened(&view.name, &delivery.meta, &delivery.payload);
                view.errors = record
                    .map(|record| record.errors.clone())
                    .unwrap_or_default();
                return Ok(Some((view, true)));
            }
        }
        Ok(None)
    }

    /// The payload as the producer gave it; nothing when it is sealed and its key is not at hand.
    fn opened(&self, name: &str, meta: &Meta, payload: &Bytes) -> Option<Bytes> {
        let (seal, queue) = (&self.broker.seal, &self.broker.queue);
        seal.open(queue, name, meta, payload).ok()
    }

    /// The unique key that the job will release when it finishes.
    pub(super) async fn unique_of(&self, id: &JobId) -> Result<Option<String>> {
        if let Some(record) = self.record(id).await? {
            return Ok(record.meta().unique);
        }
        if id.as_str().parse::<EntryId>().is_err() {
            return Ok(None);
        }
        for lane in Lane::ALL {
            let found = self.entries(lane, id.as_str(), id.as_str(), 1).await?.pop();
            if let Some(delivery) = found.filter(|delivery| delivery.id == *id) {
                return Ok(delivery.meta.unique);
            }
        }
        // It may have got its record since it was asked for.
        Ok(self
            .record(id)
            .await?
            .and_then(|record| record.meta().unique))
    }

    pub(super) async fn last_delivered(&self, lane: Lane) -> Result<Option<String>> {
        let groups = match self
            .ask("XINFO GROUPS", vec![of(self.broker.keys.lane(lane))])
            .await
        {
            Ok(groups) => list(groups),
            // No stream yet.
            Err(Error::Protocol { reason, .. }) if reason.contains("no such key") => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(groups.into_iter().map(list).find_map(|fields| {
            let field = |name: &str| {
                fields
                    .chunks_exact(2)
                    .find(|pair| text_of(&pair[0]) == Some(name))
            };
            let ours = text_of(&field("name")?[1]) == Some(GROUP);
            ours.then(|| text_of(&field("last-delivered-id")?[1]).map(str::to_owned))?
        }))
    }

    pub(super) async fn entries(
        &self,
        lane: Lane,
        from: &str,
        to: &str,
        limit: usize,
    ) -> Result<Vec<Delivery>> {
        let key = of(self.broker.keys.lane(lane));
        let args = vec![
            key,
            from.into(),
            to.into(),
            "COUNT".into(),
            limit.min(PAGE).to_string().into(),
        ];
        let entries = list(self.ask("XRANGE", args).await?);
        Ok(entries
            .into_iter()
            .filter_map(|entry| Delivery::read(lane, raw_entry(lane.index(), entry)?))
            .collect())
    }

    pub(super) async fn pending(
        &self,
        lane: Lane,
        from: &str,
        to: &str,
        limit: usize,
    ) -> Result<Vec<(String, Pending)>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let key = of(self.broker.keys.lane(lane));
        let args = vec![
            key,
            GROUP.into(),
            from.into(),
            to.into(),
            limit.min(PAGE).to_string().into(),
        ];
        let rows = match self.ask("XPENDING", args).await {
            Ok(rows) => list(rows),
            // No worker has come yet.
            Err(error) if is_no_group(&error) => Vec::new(),
            Err(error) => return Err(error),
        };
        let row = |row: Value| {
            let row = list(row);
            let idle_ms = number_of(row.get(2)?)?.unsigned_abs();
            Some((
                text_of(row.first()?)?.to_owned(),
                Pending {
                    worker: text_of(row.get(1)?)?.to_owned(),
                    idle_ms,
                },
            ))
        };
        Ok(rows.into_iter().filter_map(row).collect())
    }

    /// What a prune would remove.
    pub(super) async fn prunable(
        &self,
        completed: Option<Duration>,
        dead: Option<Duration>,
    ) -> Result<Pruned> {
        let now = self.broker.now_ms(PATIENCE).await?;
        let before =
            |age: Duration| now.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let mut pruned = Pruned::default();
        if let Some(age) = dead {
            let args = vec![
                of(&self.broker.keys.dead),
                "-inf".into(),
                before(age).to_string().into(),
            ];
            pruned.dead = number_of(&self.ask("ZCOUNT", args).await?)
                .unwrap_or_default()
                .unsigned_abs();
        }
        if let Some(age) = completed {
            let end = before(age);
            let mut after: Option<String> = None;
            loop {
                let page = self.history(after.as_deref(), PAGE).await?;
                let old = |view: &&CompletedView| {
                    view.entry
                        .parse::<EntryId>()
                        .is_ok_and(|entry| entry.ms < end)
                };
                let count = page.iter().take_while(old).count();
                pruned.completed += count as u64;
                match page.last() {
                    Some(last) if count == PAGE => after = Some(last.entry.clone()),
                    _ => break,
                }
            }
        }
        Ok(pruned)
    }

    pub(super) async fn history(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<CompletedView>> {
        let from = after.map_or("-".to_owned(), |entry| format!("({entry}"));
        let key = of(&self.broker.keys.completed);
        let args = vec![
            key,
            from.into(),
            "+".into(),
            "COUNT".into(),
            limit.min(PAGE).to_string().into(),
        ];
        let entries = list(self.ask("XRANGE", args).await?);
        Ok(entries.into_iter().filter_map(completed_view).collect())
    }

    pub(super) async fn key_views(&self) -> Result<Vec<KeyView>> {
        let mut views = Vec::with_capacity(PURPOSES.len());
        for purpose in PURPOSES {
            let key = self.broker.keys.with_suffix(purpose.suffix);
            let kind = self.ask("TYPE", vec![of(&key)]).await?;
            let kind = text_of(&kind).unwrap_or("none").to_owned();
            let size = match kind.as_str() {
                "stream" => Some("XLEN"),
                "zset" => Some("ZCARD"),
                "hash" => Some("HLEN"),
                _ => None,
            };
            let size = match size {
                Some(command) => number_of(&self.ask(command, vec![of(&key)]).await?)
                    .unwrap_or_default()
                    .unsigned_abs(),
                None => u64::from(kind != "none"),
            };
            // Some servers do not offer it.
            let memory = self.ask("MEMORY USAGE", vec![of(&key)]).await.ok();
            views.push(KeyView {
                size,
                memory_bytes: memory.as_ref().and_then(number_of).map(i64::unsigned_abs),
                holds: purpose.holds,
                look: purpose.look.replace("KEY", &format!("'{}'", key.as_str())),
                key: key.as_str().to_owned(),
                kind: if kind == "none" {
                    format!("none ({})", purpose.kind)
                } else {
                    kind
                },
            });
        }
        views.push(self.unique_view().await?);
        Ok(views)
    }

    /// The keys `unique:*` as one: there may be a million of them. Found by a scan of all keys of the server, in short steps.
    async fn unique_view(&self) -> Result<KeyView> {
        let pattern = pattern_of(self.broker.keys.with_suffix("unique:").as_str());
        let mut size = 0;
        let mut scan = self.scan(pattern.clone());
        while let Some(keys) = scan.next().await? {
            size += keys.len() as u64;
        }
        Ok(KeyView {
            key: pattern.clone(),
            kind: "string".to_owned(),
            holds: "unique key -> the job that holds it; lapses by itself",
            size,
            memory_bytes: None,
            look: format!("SCAN 0 MATCH '{pattern}' COUNT 1000"),
        })
    }

    /// Walks through all keys of the server that holds the queue.
    pub(super) fn scan(&self, pattern: String) -> Scan<'_> {
        let broker = &self.broker;
        broker
            .redis
            .scan_beside(&broker.keys.stats, pattern, PATIENCE)
    }
}

/// A pattern that fits the keys which begin with `prefix`, and no others.
pub(super) fn pattern_of(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for c in prefix.chars() {
        if "*?[]\\^".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('*');
    pattern
}

pub(super) fn of(key: &Key) -> Value {
    Value::from(key.as_str())
}

pub(super) fn list(value: Value) -> Vec<Value> {
    if let Value::Array(items) = value {
        items
    } else {
        Vec::new()
    }
}

pub(super) fn read_record(value: &Value) -> Result<Option<Record>> {
    let Some(text) = text_of(value) else {
        return Ok(None);
    };
    let unreadable = |error: serde_json::Error| Error::Protocol {
        operation: "HGET jobs",
        reason: format!("a record is no record of ours: {error}"),
    };
    serde_json::from_str(text).map(Some).map_err(unreadable)
}

fn parked_state(state: &str) -> Option<State> {
    match state {
        "scheduled" => Some(State::Scheduled),
        "dead" => Some(State::Dead),
        "held" => Some(State::Held),
        _ => None,
    }
}

pub(super) fn parked_view(id: JobId, state: State, record: &Record, at_ms: u64) -> JobView {
    let meta = record.meta();
    JobView {
        id,
        name: record.name.clone(),
        group: meta.group,
        priority: meta.priority,
        state,
        attempt: record.attempt,
        max_attempts: meta.max_attempts,
        stalls: meta.stalls,
        payload_bytes: record.payload_bytes,
        due_ms: (state == State::Scheduled).then_some(at_ms),
        died_ms: (state == State::Dead).then_some(at_ms),
        expires_at_ms: meta.expires_at_ms,
        deadline_at_ms: meta.deadline_at_ms,
        reason: record.reason.clone(),
        worker: None,
        idle_ms: None,
        codec: meta.codec.name().to_owned(),
        sealed_with: meta.sealed,
        headers: meta.headers,
        errors: record.errors.clone(),
        payload: None,
        progress: None,
        cursor: None,
    }
}

pub(super) fn stream_view(delivery: &Delivery, pending: Option<Pending>) -> JobView {
    JobView {
        id: delivery.id.clone(),
        name: delivery.name.clone(),
        group: delivery.meta.group.clone(),
        priority: delivery.meta.priority,
        state: if pending.is_some() {
            State::Running
        } else {
            State::Ready
        },
        attempt: delivery.attempt,
        max_attempts: delivery.meta.max_attempts,
        stalls: delivery.meta.stalls,
        payload_bytes: delivery.payload.len() as u64,
        due_ms: None,
        died_ms: None,
        expires_at_ms: delivery.meta.expires_at_ms,
        deadline_at_ms: delivery.meta.deadline_at_ms,
        reason: None,
        idle_ms: pending.as_ref().map(|pending| pending.idle_ms),
        worker: pending.map(|pending| pending.worker),
        headers: delivery.meta.headers.clone(),
        errors: Vec::new(),
        payload: None,
        progress: None,
        cursor: None,
        codec: delivery.meta.codec.name().to_owned(),
        sealed_with: delivery.meta.sealed.clone(),
    }
}

fn completed_view(entry: Value) -> Option<CompletedView> {
    let raw = raw_entry(0, entry)?;
    let field = |name: &str| raw.text(name).map(str::to_owned);
    Some(CompletedView {
        id: field("job")?.into(),
        name: field("name")?,
        attempt: field("attempt")?.parse().ok()?,
        took_ms: field("took_ms")?.parse().ok()?,
        group: field("group"),
        entry: raw.id.to_string(),
    })
}
