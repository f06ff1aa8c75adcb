//! A queue's part of an audit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::groups::is_own_limits;
use super::super::page::PAGE;
use super::super::read::{list, of, pattern_of};
use super::super::{Inspector, PATIENCE};
use super::Diagnosis;
use crate::broker::doctor::Part;
use crate::broker::{Promotion, Upkeeper};
use crate::config::OPERATOR_BATCH;
use crate::error::{Error, Result};
use crate::job::millis;
use crate::keys::PURPOSES;
use crate::rate::Rate;
use crate::redis::reply::{Value, number_of, text_of};

/// Things that are looked at in one step before their size is known, and by how much more the next step may be.
pub(super) const FIRST_STEP: usize = 1;
const GROWTH: usize = 4;
/// Most things of one step: 10 to 15 µs of Redis each.
const STEP: usize = 50;
/// Bytes that a step may touch, about: Redis reads them to judge.
const STEP_BYTES: u64 = 1 << 20;
/// Due jobs wait no longer where somebody does the upkeep.
const OVERDUE: Duration = Duration::from_secs(60);
/// No lock of a living worker lasts longer.
const LOCK_MAX: Duration = Duration::from_secs(3600);
/// A worker that has asked since is at work.
const ASKING: Duration = Duration::from_secs(60);
/// Due jobs that one step of a repair makes ready.
const PROMOTED: usize = 100;

/// How many things fit into a step: what those of the last one took, others will take too.
fn fit(looked: u64, bytes: u64) -> usize {
    let each = (bytes / looked.max(1)).max(1);
    usize::try_from(STEP_BYTES / each).map_or(STEP, |fit| fit.clamp(1, STEP))
}

/// How many things the step after one of `limit` looks at.
pub(super) fn next_limit(limit: usize, looked: u64, bytes: u64) -> usize {
    fit(looked, bytes).min(limit * GROWTH)
}

/// One queue under audit.
pub(super) struct QueueAudit<'a> {
    pub(super) inspector: &'a Inspector,
    pub(super) queue: &'a str,
    pub(super) repair: bool,
    pub(super) silent: Duration,
    pub(super) found: &'a mut Diagnosis,
    /// What was found already, with the lane for entries: a scan may show a thing twice, and a job ails in several parts at once.
    pub(super) seen: BTreeSet<(String, i64, String)>,
    /// Group -> how many jobs were seen that have a slot of it.
    pub(super) slots: BTreeMap<String, u64>,
}

impl QueueAudit<'_> {
    pub(super) async fn run(&mut self, watch: &mut impl FnMut(u64)) -> Result<()> {
        // Each on the heap: together they would take much of a thread's stack.
        if !Box::pin(self.keys()).await? {
            return Ok(());
        }
        Box::pin(self.lock()).await?;
        Box::pin(self.workers()).await?;
        let mut looked = 0;
        for part in Part::all() {
            let mut watch = |more| {
                looked += more;
                watch(looked);
            };
            if part == Part::Waiting {
                // Who has room is known once the slots are counted.
                Box::pin(self.recount(&mut watch)).await?;
            }
            Box::pin(self.part(part, &mut watch)).await?;
        }
        Box::pin(self.limits()).await?;
        Box::pin(self.overdue()).await?;
        Box::pin(self.schedules()).await?;
        Box::pin(self.uniques()).await?;
        Box::pin(self.counters()).await
    }

    pub(super) fn find(&mut self, code: &str, example: &str) -> &mut super::Finding {
        self.found
            .find(code, Some(self.queue))
            .with_example(example)
    }

    /// The keys' types and expiries. False when what is behind them cannot be looked at.
    async fn keys(&mut self) -> Result<bool> {
        let mut sound = true;
        for purpose in PURPOSES {
            let key = self.inspector.broker.keys.with_suffix(purpose.suffix);
            let kind = self.inspector.ask("TYPE", vec![of(&key)]).await?;
            let kind = text_of(&kind).unwrap_or("none");
            if kind != "none" && kind != purpose.kind {
                let what = format!("{} is a {kind}, not a {}", key.as_str(), purpose.kind);
                self.find("wrong-type", key.as_str()).what = what;
                sound = false;
            }
            if purpose.kind == "string" {
                continue;
            }
            let left = number_of(&self.inspector.ask("PTTL", vec![of(&key)]).await?);
            if left.is_some_and(|left| left >= 0) {
                if self.repair {
                    self.inspector.ask("PERSIST", vec![of(&key)]).await?;
                }
                let repaired = u64::from(self.repair);
                let finding = self.find("expiring-key", key.as_str());
                finding.what = "a key of the queue has an expiry".to_owned();
                finding.repaired += repaired;
            }
        }
        Ok(sound)
    }

    /// The upkeep's lock.
    async fn lock(&mut self) -> Result<()> {
        let key = of(&self.inspector.broker.keys.upkeep);
        let holder = self.inspector.ask("GET", vec![key.clone()]).await?;
        let Some(holder) = text_of(&holder).map(str::to_owned) else {
            return Ok(());
        };
        let left = number_of(&self.inspector.ask("PTTL", vec![key]).await?).unwrap_or_default();
        let lasts = left == -1 || left > millis(LOCK_MAX).cast_signed();
        if !lasts {
            return Ok(());
        }
        if self.repair {
            self.inspector.broker.resign(&holder, PATIENCE).await?;
        }
        let repaired = u64::from(self.repair);
        let finding = self.find("lock-of-the-dead", &holder);
        finding.what = match left {
            -1 => format!("the lock of {holder} never lapses"),
            left => format!("the lock of {holder} lasts for {left} ms more"),
        };
        finding.repaired += repaired;
        Ok(())
    }

    async fn workers(&mut self) -> Result<()> {
        let workers = self.inspector.workers().await?;
        let silent = millis(self.silent);
        let gone = |idle_ms: u64| idle_ms >= silent;
        let ghosts = workers
            .iter()
            .filter(|worker| worker.running == 0 && gone(worker.idle_ms));
        let ghosts: Vec<&str> = ghosts.map(|worker| worker.worker.as_str()).collect();
        if !ghosts.is_empty() {
            let repaired = match self.repair {
                true => {
                    let forgotten = self.inspector.broker.retire(None, self.silent, PATIENCE);
                    forgotten.await?;
                    ghosts.len() as u64
                }
                false => 0,
            };
            for ghost in &ghosts {
                self.find("ghost-consumers", ghost);
            }
            let finding = self.found.find("ghost-consumers", Some(self.queue));
            finding.count -= 1;
            finding.repaired += repaired;
            finding.what = format!("{} workers hold nothing and are long silent", ghosts.len());
        }
        let held = workers
            .iter()
            .filter(|worker| worker.running > 0 && gone(worker.idle_ms));
        for worker in held {
            let what = "silent for a long time, with jobs in hand";
            self.find("silent-worker", &worker.worker).what = what.to_owned();
        }
        let stats = self.inspector.stats().await?;
        let asking = workers.iter().any(|worker| worker.idle_ms < millis(ASKING));
        if stats.ready > 0 && !stats.paused && !asking {
            let what = format!("{} jobs are ready", stats.ready);
            self.found.find("no-worker", Some(self.queue)).what = what;
        }
        Ok(())
    }

    /// Looks through one part, and mends what it finds as it goes.
    async fn part(&mut self, part: Part, watch: &mut impl FnMut(u64)) -> Result<()> {
        let broker = &self.inspector.broker;
        let (mut cursor, mut limit) = (None::<String>, FIRST_STEP);
        loop {
            let step = broker
                .audit(part, cursor.as_deref(), limit, PATIENCE)
                .await?;
            watch(step.looked);
            for (group, _) in step.slots {
                *self.slots.entry(group).or_default() += 1;
            }
            let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (kind, id) in step.wrong {
                if super::kind_of(&kind).is_some()
                    && self.seen.insert((kind.clone(), part.lane(), id.clone()))
                {
                    wrong.entry(kind).or_default().push(id);
                }
            }
            for (kind, ids) in wrong {
                let mut repaired = 0;
                if self.repair && part == Part::Waiting {
                    for group in &ids {
                        // Whoever has room is let in, who is broken is buried, and a time is set for who has too few tokens.
                        broker.admit(Some(group), PROMOTED, PATIENCE).await?;
                        repaired += 1;
                    }
                } else if self.repair {
                    for ids in ids.chunks(fit(step.looked, step.bytes).min(OPERATOR_BATCH)) {
                        repaired += broker.mend(part, &kind, ids, PATIENCE).await?;
                    }
                }
                for id in &ids {
                    self.found.find(&kind, Some(self.queue)).with_example(id);
                }
                let finding = self.found.find(&kind, Some(self.queue));
                finding.count -= 1;
                finding.repaired += repaired;
                finding.what = format!("{} of them", finding.count);
            }
            limit = next_limit(limit, step.looked, step.bytes);
            cursor = step.cursor;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    async fn overdue(&mut self) -> Result<()> {
        let scheduled = &self.inspector.broker.keys.scheduled;
        let now = self.inspector.broker.now_ms(PATIENCE).await?;
        let late = now.saturating_sub(millis(OVERDUE));
        let args = vec![of(scheduled), "-inf".into(), late.to_string().into()];
        let count = number_of(&self.inspector.ask("ZCOUNT", args).await?);
        let count = count.unwrap_or_default().unsigned_abs();
        if count == 0 {
            return Ok(());
        }
        let mut repaired = 0;
        if self.repair {
            let by = Upkeeper {
                worker: format!("doctor-{}", uuid::Uuid::now_v7().simple()),
                lock: Duration::from_secs(2),
            };
            loop {
                match self
                    .inspector
                    .broker
                    .promote(&by, PROMOTED, PATIENCE)
                    .await?
                {
                    // Somebody does the upkeep after all.
                    Promotion::Standby => break,
                    Promotion::Promoted { count, .. } => {
                        repaired += count;
                        if count < PROMOTED as u64 {
                            self.inspector.broker.resign(&by.worker, PATIENCE).await?;
                            break;
                        }
                    }
                }
            }
        }
        let finding = self.found.find("overdue", Some(self.queue));
        finding.count = count;
        finding.repaired = repaired.min(count);
        finding.what = format!("{count} jobs have been due for more than a minute");
        Ok(())
    }

    /// Schedules that nobody fires.
    async fn schedules(&mut self) -> Result<()> {
        let due = &self.inspector.broker.keys.cron_due;
        let now = self.inspector.broker.now_ms(PATIENCE).await?;
        let late = now.saturating_sub(millis(OVERDUE)).to_string();
        let args = vec![
            of(due),
            "-inf".into(),
            late.into(),
            "LIMIT".into(),
            "0".into(),
            PAGE.to_string().into(),
        ];
        let overdue = list(self.inspector.ask("ZRANGEBYSCORE", args).await?);
        for schedule in overdue.iter().filter_map(text_of) {
            let finding = self.find("schedule-overdue", schedule);
            finding.what = format!(
                "{} of them should have fired a minute ago or longer",
                finding.count
            );
        }
        Ok(())
    }

    /// The keys `unique:*`: found by a scan of all keys, in short steps.
    async fn uniques(&mut self) -> Result<()> {
        let prefix = self.inspector.broker.keys.with_suffix("unique:");
        let mut scan = self.inspector.scan(pattern_of(prefix.as_str()));
        while let Some(keys) = scan.next().await? {
            for keys in keys.chunks(PAGE) {
                let looks = keys.iter().map(|key| self.unique(key));
                let looked = futures_util::future::join_all(looks).await;
                for (key, code) in keys.iter().zip(looked) {
                    if let Some((code, holder)) = code? {
                        self.unique_found(key, code, &holder).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// What is wrong with a unique key, and who holds it.
    async fn unique(&self, key: &str) -> Result<Option<(&'static str, String)>> {
        let ask = |command| self.inspector.ask(command, vec![Value::from(key)]);
        let holder = ask("GET").await?;
        let Some(holder) = text_of(&holder).map(str::to_owned) else {
            return Ok(None);
        };
        if number_of(&ask("PTTL").await?) == Some(-1) {
            return Ok(Some(("unique-forever", holder)));
        }
        let job = match self.inspector.find(&holder.as_str().into()).await {
            Ok(Some(job)) => job,
            Ok(None) => return Ok(Some(("unique-without-job", holder))),
            // A record that cannot be read has been found already.
            Err(Error::Protocol { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let dead_for = job.died_ms.map(|died| async move {
            let now = self.inspector.broker.now_ms(PATIENCE).await?;
            Ok::<_, Error>(now.saturating_sub(died))
        });
        // Right after its death the key is released in a second step.
        let released = match dead_for {
            Some(dead_for) => dead_for.await? > millis(OVERDUE),
            None => false,
        };
        let claimed = self.inspector.unique_of(&job.id).await?;
        let is_its_own = claimed.is_some_and(|name| key.ends_with(&format!(":unique:{name}")));
        Ok((released && is_its_own).then_some(("unique-held-by-dead", holder)))
    }

    async fn unique_found(&mut self, key: &str, code: &'static str, holder: &str) -> Result<()> {
        let mut repaired = 0;
        if self.repair && code != "unique-without-job" {
            let prefix = self.inspector.broker.keys.with_suffix("unique:");
            let name = key.strip_prefix(prefix.as_str()).unwrap_or(key).to_owned();
            let gone = matches!(self.inspector.find(&holder.into()).await, Ok(None));
            if code == "unique-held-by-dead" || gone {
                // Released only if it is still that job's.
                let held = [(name, holder.into())];
                self.inspector.broker.unlock(&held, PATIENCE).await?;
            } else {
                let week = millis(crate::config::UNIQUE_BACKSTOP).to_string();
                let args = vec![key.into(), week.into(), "NX".into()];
                self.inspector.ask("PEXPIRE", args).await?;
            }
            repaired = 1;
        }
        let finding = self.find(code, key);
        finding.repaired += repaired;
        finding.what = format!("{} of them", finding.count);
        Ok(())
    }

    /// Limits that cannot be read, and so limit nothing.
    async fn limits(&mut self) -> Result<()> {
        let key = self.inspector.broker.keys.limits.clone();
        let mut cursor = "0".to_owned();
        loop {
            let args = [of(&key), cursor.as_str().into(), "COUNT".into()];
            let page = [args.to_vec(), vec![PAGE.to_string().into()]].concat();
            let page = list(self.inspector.ask("HSCAN", page).await?);
            let fields = page.get(1).cloned().map(list).unwrap_or_default();
            for pair in fields.chunks_exact(2) {
                let (name, value) = (text_of(&pair[0]), text_of(&pair[1]));
                let name = name.unwrap_or_default();
                if value.is_some_and(|value| is_limit(name, value)) {
                    continue;
                }
                let value = value.unwrap_or("no text").to_owned();
                let finding = self.find("broken-limit", name);
                finding.what = format!("{name} is {value:?}");
            }
            match page.first().and_then(text_of) {
                Some(next) if next != "0" => cursor = next.to_owned(),
                _ => return Ok(()),
            }
        }
    }

    async fn counters(&mut self) -> Result<()> {
        let key = self.inspector.broker.keys.stats.clone();
        let pairs = list(self.inspector.ask("HGETALL", vec![of(&key)]).await?);
        for pair in pairs.chunks_exact(2) {
            let (Some(name), value) = (text_of(&pair[0]), text_of(&pair[1])) else {
                continue;
            };
            if value
                .and_then(|value| value.parse::<i64>().ok())
                .is_some_and(|value| value >= 0)
            {
                continue;
            }
            if self.repair {
                let args = vec![of(&key), name.into()];
                self.inspector.ask("HDEL", args).await?;
            }
            let repaired = u64::from(self.repair);
            let what = format!("{name} is {:?}", value.unwrap_or("no text"));
            let finding = self.find("broken-counter", name);
            finding.what = what;
            finding.repaired += repaired;
        }
        let (there, booked) = self.books().await?;
        if there <= booked {
            return Ok(());
        }
        let more = there - booked;
        if self.repair {
            let args = vec![of(&key), "enqueued".into(), more.to_string().into()];
            // Sent twice it makes the sum too large, which is no fault: what was pruned is missing from the other side as well.
            self.inspector.ask("HINCRBY", args).await?;
        }
        let repaired = u64::from(self.repair);
        let finding = self.found.find("counters-disagree", Some(self.queue));
        finding.what =
            format!("{there} jobs are there, and at most {booked} can be by the counters");
        finding.repaired = repaired;
        Ok(())
    }

    /// Jobs that are there, and how many there can be by the counters; of the same moment.
    async fn books(&self) -> Result<(i64, i64)> {
        let counts = self.inspector.broker.stats(PATIENCE).await?;
        let there = counts.ready + counts.running + counts.scheduled + counts.held + counts.dead;
        let total = |name: &str| {
            let count = counts.counters.get(name).copied().unwrap_or_default();
            count.cast_signed()
        };
        let gone = total("completed") + total("cancelled") + total("purged");
        Ok((there.cast_signed(), total("enqueued") - gone))
    }
}

/// Whether a field of `limits` says something that the scripts can read. Names that are not known are another version's.
fn is_limit(name: &str, value: &str) -> bool {
    match name {
        "group_concurrency" | "group_max_backlog" | "group_burst" | "max_depth" | "concurrency"
        | "burst" => value.parse::<u64>().is_ok_and(|number| number > 0),
        "group_rate" | "rate" => value.parse::<Rate>().is_ok(),
        "group_order" => ["free", "block"].contains(&value),
        _ => is_own_limits(name, value).unwrap_or(true),
    }
}
