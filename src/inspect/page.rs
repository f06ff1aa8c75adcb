//! Listings, page by page: what a look finds, and how much of it at a time. Where it goes on is a [`Spot`].

use futures_util::{StreamExt as _, stream};

use super::Inspector;
use super::filter::JobFilter;
use super::read::{Record, list, of, parked_view, read_record, stream_view};
use super::score::Score;
use super::spot::{HELD_SEPARATOR, Spot};
use super::view::{JobPage, JobView};
use crate::broker::EntryId;
use crate::error::{Error, Result};
use crate::job::JobId;
use crate::job::state::State;
use crate::keys::{Key, Lane};
use crate::redis::reply::{Value, number_of, text_of};

/// Rows per look at Redis.
pub(super) const PAGE: usize = 500;
/// Records that are read at once: one may have ten errors of 4 KiB.
const RECORDS: usize = 50;
/// Jobs of the first look of a listing, before it is known how large they are, and by how much more the next look may be.
const FIRST_LOOK: usize = 1;
const GROWTH: usize = 4;
/// Jobs of any look. Entries of a stream carry their payloads, and those behind small ones may be large.
const LOOK_MAX: usize = 100;
/// Payload bytes that a look may bring, about.
const LOOK_BYTES: usize = 1 << 20;
/// Jobs that are looked at for one page of a listing, so that a call ends even if none of a million fits.
const LOOKED_MAX: usize = 5_000;
/// Running jobs that are read at once.
const READS_AT_ONCE: usize = 50;

/// A member of a zset: its score and the job.
pub(super) type Row = (Score, JobId);

/// What one look found: jobs, each with the spot behind it, and where to go on in the same place (`None`: at its end).
struct Look {
    jobs: Vec<JobView>,
    rest: Option<Spot>,
    looked: usize,
    bytes: usize,
}

impl Inspector {
    /// Up to `limit` jobs that fit `filter`, behind `after`: the cursor of an earlier page or job, `None` for the beginning.
    /// Running jobs come first, then ready, held, scheduled and dead ones, each oldest first; held ones group by group.
    ///
    /// A page may be short, or even empty, because few of the jobs that were looked at fit; the listing ends where `next` is
    /// `None`. A job that moves while the pages are read may be on two of them, or on none.
    ///
    /// # Errors
    /// [`Error::Setting`]: `after` is no cursor. Else as [`Inspector::stats`].
    pub async fn page(
        &self,
        filter: &JobFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<JobPage> {
        let mut spot = match after {
            None => Spot::first(filter.state),
            Some(text) => Some(text.parse().map_err(|()| {
                let reason = "give the cursor of a job as a listing shows it, or none";
                Error::setting("after", text.escape_debug(), reason)
            })?),
        };
        let (mut jobs, mut looked, mut step) = (Vec::new(), 0, FIRST_LOOK);
        while let Some(from) = &spot {
            if jobs.len() >= limit || looked >= LOOKED_MAX {
                break;
            }
            let mut count = step;
            if !filter.reads_jobs() {
                count = count.min(limit - jobs.len());
            }
            let look = self.look(from, filter, count).await?;
            looked += look.looked;
            // An empty place tells nothing of the next one.
            if look.looked > 0 {
                let fit = LOOK_BYTES * look.looked / look.bytes.max(1);
                step = fit.min(step * GROWTH).clamp(1, LOOK_MAX);
            }
            let mut rest = look.rest;
            for job in look.jobs.into_iter().filter(|job| filter.takes(job)) {
                if jobs.len() == limit {
                    // What is left of the look belongs to the next page.
                    let last: Option<&JobView> = jobs.last();
                    let cursor = last.and_then(|job| job.cursor.as_deref());
                    rest = cursor.and_then(|cursor| cursor.parse().ok());
                    break;
                }
                jobs.push(job);
            }
            spot = rest.or_else(|| from.next(filter.state));
        }
        let next = spot.map(|spot| spot.to_string());
        Ok(JobPage { jobs, next })
    }

    async fn look(&self, spot: &Spot, filter: &JobFilter, count: usize) -> Result<Look> {
        match spot {
            Spot::Lane { state, lane, after } if *state == State::Running => {
                self.look_at_running(*lane, *after, count).await
            }
            Spot::Lane { lane, after, .. } => self.look_at_ready(*lane, *after, count).await,
            Spot::Parked { state, after } => {
                self.look_at_parked(*state, after.as_ref(), count).await
            }
            Spot::Held { after } => {
                let group = filter.group.as_deref();
                self.look_at_held(group, after.as_deref(), count).await
            }
        }
    }

    async fn look_at_ready(
        &self,
        index: usize,
        after: Option<EntryId>,
        count: usize,
    ) -> Result<Look> {
        let lane = Lane::ALL[index];
        let delivered = self.last_delivered(lane).await?;
        let delivered = delivered.and_then(|last| last.parse().ok());
        let from = after.max(delivered);
        let from = from.map_or("-".to_owned(), |entry| format!("({entry}"));
        let entries = self.entries(lane, &from, "+", count).await?;
        let spot = |after| Spot::Lane {
            state: State::Ready,
            lane: index,
            after: Some(after),
        };
        let last = entries.last().map(|last| spot(last.entry));
        Ok(Look {
            looked: entries.len(),
            bytes: entries.iter().map(|entry| entry.payload.len()).sum(),
            rest: last.filter(|_| entries.len() == count),
            jobs: entries
                .iter()
                .map(|entry| at(spot(entry.entry), stream_view(entry, None)))
                .collect(),
        })
    }

    async fn look_at_running(
        &self,
        index: usize,
        after: Option<EntryId>,
        count: usize,
    ) -> Result<Look> {
        let lane = Lane::ALL[index];
        let from = after.map_or("-".to_owned(), |entry| format!("({entry}"));
        let pending = self.pending(lane, &from, "+", count).await?;
        let spot = |entry: &str| {
            Some(Spot::Lane {
                state: State::Running,
                lane: index,
                after: Some(entry.parse().ok()?),
            })
        };
        let last = pending.last().and_then(|(entry, _)| spot(entry));
        let looked = pending.len();
        let rest = last.filter(|_| looked == count);
        let read = stream::iter(pending).map(|(entry, pending)| async move {
            let found = self.entries(lane, &entry, &entry, 1).await?.pop();
            Ok(found.map(|delivery| (entry, delivery, pending)))
        });
        let read: Vec<Result<_>> = read.buffered(READS_AT_ONCE).collect().await;
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        for found in read {
            if let Some((entry, delivery, pending)) = found? {
                bytes += delivery.payload.len();
                let view = stream_view(&delivery, Some(pending));
                jobs.extend(spot(&entry).map(|spot| at(spot, view)));
            }
        }
        Ok(Look {
            jobs,
            rest,
            looked,
            bytes,
        })
    }

    /// Held jobs of one group or all, in the order of their turns.
    async fn look_at_held(
        &self,
        group: Option<&str>,
        after: Option<&str>,
        count: usize,
    ) -> Result<Look> {
        let first = group.map_or("-".to_owned(), |group| format!("[{group}{HELD_SEPARATOR}"));
        let from = after.map_or(first, |member| format!("({member}"));
        // What follows the separator in the order of the bytes.
        let until = group.map_or("+".to_owned(), |group| format!("({group} "));
        let range = [from, until, "BYLEX".into(), "LIMIT".into(), "0".into()];
        let mut args = vec![of(&self.broker.keys.held)];
        args.extend(range.into_iter().map(Value::from));
        args.push(count.to_string().into());
        let members = list(self.ask("ZRANGE", args).await?);
        let members: Vec<&str> = members.iter().filter_map(text_of).collect();
        let id = |member: &&str| member.rsplit(HELD_SEPARATOR).next().map(JobId::from);
        let rows: Vec<Row> = members
            .iter()
            .filter_map(|member| Some((Score::FIRST, id(member)?)))
            .collect();
        let spot = |member: &str| Spot::Held {
            after: Some(member.to_owned()),
        };
        let views = self.parked_views(State::Held, &rows).await?;
        let jobs = views.into_iter().filter_map(|((_, id), view)| {
            let is_it = |member: &&&str| member.rsplit(HELD_SEPARATOR).next() == Some(id.as_str());
            let member = members.iter().find(is_it)?;
            Some(at(spot(member), view))
        });
        Ok(Look {
            jobs: jobs.collect(),
            rest: members
                .last()
                .filter(|_| members.len() == count)
                .map(|last| spot(last)),
            looked: members.len(),
            bytes: 0,
        })
    }

    async fn look_at_parked(
        &self,
        state: State,
        after: Option<&Row>,
        count: usize,
    ) -> Result<Look> {
        let zset = self.parked_key(state);
        let rows = self
            .rows_after(zset, (Score::FIRST, Score::LAST), after, count)
            .await?;
        let spot = |row: &Row| Spot::Parked {
            state,
            after: Some(row.clone()),
        };
        let rest = rows.last().map(spot);
        let jobs = self.parked_views(state, &rows).await?;
        Ok(Look {
            looked: rows.len(),
            // Records have no payload.
            bytes: 0,
            rest,
            jobs: jobs
                .into_iter()
                .map(|(row, view)| at(spot(&row), view))
                .collect(),
        })
    }

    pub(super) fn parked_key(&self, state: State) -> &Key {
        match state {
            State::Dead => &self.broker.keys.dead,
            _ => &self.broker.keys.scheduled,
        }
    }

    /// Members of a zset behind `after`, with scores from `min` to `max`. Empty at the end, and only there.
    pub(super) async fn rows_after(
        &self,
        zset: &Key,
        (min, max): (Score, Score),
        after: Option<&Row>,
        limit: usize,
    ) -> Result<Vec<Row>> {
        let limit = limit.min(PAGE);
        let by_score = async |from: Score, offset: usize| {
            let args = [
                from.to_string(),
                max.to_string(),
                "BYSCORE".into(),
                "LIMIT".into(),
                offset.to_string(),
                limit.to_string(),
            ];
            self.rows(zset, args).await
        };
        let Some(last) = after else {
            return by_score(min, 0).await;
        };
        // By its rank while it is still there: any number of others may have the same score.
        let rank = vec![of(zset), last.1.as_str().into()];
        let rank = number_of(&self.ask("ZRANK", rank).await?);
        if let Some(rank) = rank {
            let end = rank + limit as i64;
            let mut rows = self.rows(zset, [rank.to_string(), end.to_string()]).await?;
            // Between the two looks others may have gone, and it may have come again.
            if rows.first() == Some(last) {
                rows.remove(0);
                rows.retain(|(score, _)| *score <= max);
                return Ok(rows);
            }
        }
        let mut offset = 0;
        loop {
            let mut rows = by_score(last.0, offset).await?;
            offset += rows.len();
            let is_last = rows.len() < limit;
            rows.retain(|row| row > last);
            if is_last || !rows.is_empty() {
                return Ok(rows);
            }
        }
    }

    async fn rows<const N: usize>(&self, zset: &Key, range: [String; N]) -> Result<Vec<Row>> {
        let mut args = vec![of(zset)];
        args.extend(range.into_iter().map(Value::from));
        args.push("WITHSCORES".into());
        let pairs = list(self.ask("ZRANGE", args).await?);
        let row = |pair: &[Value]| {
            let id = text_of(&pair[0])?.into();
            Some((Score::of(&pair[1])?, id))
        };
        Ok(pairs.chunks_exact(2).filter_map(row).collect())
    }

    /// The jobs of these rows, as far as they are still there.
    pub(super) async fn parked_views(
        &self,
        state: State,
        rows: &[Row],
    ) -> Result<Vec<(Row, JobView)>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut records = Vec::with_capacity(rows.len());
        for rows in rows.chunks(RECORDS) {
            let mut args = vec![of(&self.broker.keys.jobs)];
            args.extend(rows.iter().map(|(_, id)| Value::from(id.as_str())));
            records.append(&mut list(self.ask("HMGET", args).await?));
        }
        let mut views = Vec::with_capacity(rows.len());
        for ((score, id), record) in rows.iter().zip(&records) {
            if let Some(record) = read_record(record).unwrap_or_else(|_| Some(Record::unreadable()))
            {
                let view = parked_view(id.clone(), state, &record, score.ms());
                views.push(((*score, id.clone()), view));
            }
        }
        Ok(views)
    }
}

fn at(spot: Spot, mut job: JobView) -> JobView {
    job.cursor = Some(spot.to_string());
    job
}
