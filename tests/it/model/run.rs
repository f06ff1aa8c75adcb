//! Does to Redis what an operation says, does the same to the reference, and compares all that there is.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::broker::{Author, Delivery, EntryId, Lane, Note, Promotion, Sweep};
use millstream::schedule::Schedules;
use millstream::{Error, HowFar, JobId, Millstream};

use super::calls::Call;
use super::operation::{Age, CALLERS, Operation, Pick};
use super::reference::{Given, Model, Moment, Reply, lane_name};
use super::translate::{self, LATER, LEASE};
use crate::support::scan::Scan;
use crate::support::{Fixture, PATIENCE, upkeeper};

/// What went wrong, in words.
pub(super) type Verdict = std::result::Result<(), String>;

/// A queue and its reference.
pub(super) struct World<'a> {
    pub(super) t: &'a Fixture,
    pub(super) model: Model,
    /// What the workers remember, in the order of the model's deliveries.
    pub(super) deliveries: Vec<Delivery>,
    /// Every numbered call: who, number, what.
    pub(super) calls: Vec<(String, i64, Call)>,
    /// Of each caller's last call.
    pub(super) numbers: [i64; CALLERS as usize],
    /// Unique keys that a dead worker's sweep did not get to release.
    pub(super) owed: Vec<(String, JobId)>,
    /// Of the last note about progress.
    notes: u64,
    schedules: Schedules,
    /// What the last job that was made due was due at; jobs are due in that order.
    pub(super) due: i64,
    /// What was seen after the last step.
    pub(super) last: Scan,
}

impl<'a> World<'a> {
    /// An empty queue.
    pub(super) async fn new(t: &'a Fixture) -> Self {
        t.wipe().await;
        let client = Millstream::connect(&t.url).await.expect("a client");
        let schedules = client.schedules(&t.queue).expect("schedules");
        let last = t.scan();
        let model = Model {
            now_ms: last.now_ms,
            swept: last.counters.get("swept_ms").map(|at| Moment::at(*at)),
            ..Model::default()
        };
        Self {
            t,
            model,
            deliveries: Vec::new(),
            calls: Vec::new(),
            numbers: Default::default(),
            owed: Vec::new(),
            notes: 0,
            schedules,
            due: 0,
            last,
        }
    }

    /// Walks to the end, or to the first step after which Redis and the reference differ.
    pub(super) async fn walk(&mut self, operations: &[Operation]) -> Verdict {
        for (step, operation) in operations.iter().enumerate() {
            let verdict = self.step(operation).await;
            verdict.map_err(|fault| format!("step {}, {operation:?}:\n{fault}", step + 1))?;
            if self.model.is_about_due() {
                // What is due soon is due before the next step.
                self.pass_a_moment();
            }
        }
        Ok(())
    }

    async fn step(&mut self, operation: &Operation) -> Verdict {
        let broker = &self.t.broker;
        match operation {
            Operation::Enqueue(by, orders) => {
                self.send_new(*by, Call::Enqueue(orders.clone())).await
            }
            Operation::Claim(by, limit) => {
                let (worker, limit) = (worker(*by), usize::from(*limit));
                let claimed = broker.claim(&worker, limit, PATIENCE).await;
                let claimed = claimed.map_err(failed)?;
                let told = self.take_note(&worker, claimed);
                let expected = self.model.claim(&worker, limit, told.1);
                self.compare(Reply::Given(told.0), expected).await
            }
            Operation::ClaimByPriority(by, turn, limit) => {
                let (worker, turn, limit) = (worker(*by), usize::from(*turn), usize::from(*limit));
                let claimed = broker
                    .claim_by_priority(&worker, turn, limit, PATIENCE)
                    .await;
                let claimed = claimed.map_err(failed)?;
                let told = self.take_note(&worker, claimed);
                let expected = self.model.claim_by_priority(&worker, turn, limit, told.1);
                self.compare(Reply::Given(told.0), expected).await
            }
            Operation::ClaimSuspect(by) => {
                let worker = worker(*by);
                let claimed = broker.claim_suspect(&worker, PATIENCE).await;
                let claimed = claimed.map_err(failed)?.into_iter().collect();
                let told = self.take_note(&worker, claimed);
                let expected = self.model.claim_suspect(&worker, told.1);
                self.compare(Reply::Given(told.0), expected).await
            }
            Operation::Read(by, limit) => self.read(&worker(*by), usize::from(*limit)).await,
            Operation::Own(by) => {
                let worker = worker(*by);
                let held = broker.own(&worker, PATIENCE).await.map_err(failed)?;
                let told = self.take_note(&worker, held);
                let expected = self.model.own(&worker);
                self.compare(Reply::Given(told.0), expected).await
            }
            Operation::Extend(picks) => self.extend(picks).await,
            Operation::Complete(by, picks, keep) => {
                for (lane, deliveries) in self.by_lane(picks) {
                    self.send_new(*by, Call::Complete(lane, deliveries, *keep))
                        .await?;
                }
                Ok(())
            }
            Operation::Retry(by, pick) => {
                let error = Some(translate::ERROR.to_owned());
                self.settle(*by, *pick, |at| Call::Retry(at, error)).await
            }
            Operation::Snooze(by, pick) => {
                self.settle(*by, *pick, |at| Call::Retry(at, None)).await
            }
            Operation::DeadLetter(by, pick, reason) => {
                self.settle(*by, *pick, |at| Call::DeadLetter(at, *reason))
                    .await
            }
            Operation::Again(ago) => {
                let Some(last) = self.calls.len().checked_sub(1) else {
                    return Ok(());
                };
                let (caller, number, call) =
                    self.calls[last - usize::from(*ago) % (last + 1)].clone();
                self.send(&caller, number, &call).await
            }
            Operation::Release(by, picks) => {
                for (lane, deliveries) in self.by_lane(picks) {
                    self.send_new(*by, Call::Release(lane, deliveries)).await?;
                }
                Ok(())
            }
            Operation::Cancel(by, which) => {
                let job = self.job(*which);
                let unique = job.and_then(|job| self.model.jobs[job].unique.clone());
                self.send_new(*by, Call::Cancel(job, unique)).await
            }
            Operation::RunNow(by, which) => {
                self.send_new(*by, Call::RunNow(self.job(*which))).await
            }
            Operation::Update(by, which, payload, later, priority) => {
                if payload.is_none() && later.is_none() && priority.is_none() {
                    return Ok(());
                }
                let call = Call::Update(self.job(*which), *payload, *later, *priority);
                self.send_new(*by, call).await
            }
            Operation::Redrive(by, which) => {
                self.send_new(*by, Call::Redrive(self.jobs(which))).await
            }
            Operation::Purge(by, which) => self.send_new(*by, Call::Purge(self.jobs(which))).await,
            Operation::GroupPurge(by, group, which) => {
                let call = Call::GroupPurge(translate::group(*group), self.jobs(which));
                self.send_new(*by, call).await?;
                self.unlock().await
            }
            Operation::Progress(pick, quarters) => self.progress(*pick, *quarters).await,
            Operation::Sweep(by, unlock) => {
                self.sweep(&format!("upkeep-{by}")).await?;
                if *unlock { self.unlock().await } else { Ok(()) }
            }
            Operation::Unlock => self.unlock().await,
            Operation::Fire(schedule) => self.fire(*schedule).await,
            Operation::Promote(by, limit) => {
                let (by, limit) = (upkeeper(&format!("upkeep-{by}")), usize::from(*limit));
                let promotion = broker.promote(&by, limit, PATIENCE).await.map_err(failed)?;
                let told = match promotion {
                    Promotion::Standby => Reply::Standby,
                    Promotion::Promoted {
                        count,
                        next_due,
                        unlock,
                        ..
                    } => {
                        self.owed.extend(unlock.iter().cloned());
                        let next = match next_due {
                            None => "never",
                            Some(Duration::ZERO) => "now",
                            Some(_) => "later",
                        };
                        Reply::Promoted(count, next, unlock)
                    }
                };
                let expected = self.model.promote(&by.worker, limit);
                self.compare(told, expected).await?;
                self.unlock().await
            }
            Operation::Resign(by) => {
                let worker = format!("upkeep-{by}");
                broker.resign(&worker, PATIENCE).await.map_err(failed)?;
                self.model.upkeeper.take_if(|leader| *leader == worker);
                self.compare(Reply::Done, Reply::Done).await
            }
            Operation::Prune(ages) => self.prune(*ages).await,
            Operation::Pause(paused) => {
                broker.pause(*paused, PATIENCE).await.map_err(failed)?;
                self.model.paused = *paused;
                let kind = if *paused { "paused" } else { "resumed" };
                self.model.tell(kind, "", String::new());
                self.compare(Reply::Done, Reply::Done).await
            }
            Operation::Limit(group, most) => self.limit(group.map(translate::group), *most).await,
            Operation::Admit => self.admit(Vec::new()).await,
            Operation::Block(blocks) => {
                let order = if *blocks { "block" } else { "" };
                let was = std::mem::replace(&mut self.model.blocks, *blocks);
                let told = self.set_limit(None, "group_order", order).await?;
                self.compare(told, Reply::Counts(vec![u64::from(was != *blocks)]))
                    .await
            }
            Operation::Depth(jobs) => {
                let limit = jobs.map(u64::from);
                let was = std::mem::replace(&mut self.model.max_depth, limit);
                let value = limit.map(|jobs| jobs.to_string()).unwrap_or_default();
                let told = self.set_limit(None, "max_depth", &value).await?;
                self.compare(told, Reply::Counts(vec![u64::from(was != limit)]))
                    .await
            }
            Operation::Concurrency(jobs) => {
                let limit = jobs.map(usize::from);
                let was = std::mem::replace(&mut self.model.concurrency, limit);
                let value = limit.map(|jobs| jobs.to_string()).unwrap_or_default();
                let told = self.set_limit(None, "concurrency", &value).await?;
                self.compare(told, Reply::Counts(vec![u64::from(was != limit)]))
                    .await
            }
            Operation::Backlog(group, most) => {
                let group = group.map(translate::group);
                let most = Some(u64::from(*most)).filter(|most| *most > 0);
                let name = group
                    .as_ref()
                    .map_or("group_max_backlog", |_| "max_backlog");
                let value = most.map(|most| most.to_string()).unwrap_or_default();
                let told = self.set_limit(group.as_deref(), name, &value).await?;
                let limits = &mut self.model.backlogs;
                let was = match most {
                    Some(most) => limits.insert(group, most),
                    None => limits.remove(&group),
                };
                let expected = Reply::Counts(vec![u64::from(was != most)]);
                self.compare(told, expected).await
            }
            Operation::Rate(group, burst) => self.rate(group.map(translate::group), *burst).await,
            Operation::QueueRate(burst) => self.queue_rate(*burst).await,
            Operation::Refill => {
                let rates = self.t.key("rates");
                let ends = i64::MIN.to_string();
                self.t.redis(&["ZREMRANGEBYSCORE", &rates, &ends, "(0"]);
                self.model.missing.clear();
                self.model.queue_missing = 0;
                self.admit(Vec::new()).await
            }
            Operation::PauseGroup(group, paused) => {
                let group = translate::group(*group);
                let value = if *paused { "1" } else { "" };
                let told = self.set_limit(Some(&group), "paused", value).await?;
                let groups = &mut self.model.paused_groups;
                let changed = match paused {
                    true => groups.insert(group),
                    false => groups.remove(&group),
                };
                assert_eq!(told, Reply::Counts(vec![u64::from(changed)]));
                self.admit(Vec::new()).await
            }
            Operation::Retire(who, idle) => self.retire(who.map(worker).as_deref(), *idle).await,
            other => {
                self.happen(other);
                self.compare(Reply::Done, Reply::Done).await
            }
        }
    }

    /// Reads as a worker's plain path does, loses the reply, and asks again for what it holds.
    async fn read(&mut self, worker: &str, limit: usize) -> Verdict {
        let lanes = Lane::READ.map(|lane| self.t.key(lane_name(lane)));
        let limit_text = limit.to_string();
        let mut command = vec![
            "XREADGROUP",
            "GROUP",
            "workers",
            worker,
            "COUNT",
            &limit_text,
            "STREAMS",
        ];
        command.extend(lanes.iter().map(String::as_str));
        command.extend(lanes.iter().map(|_| ">"));
        self.t.redis(&command);
        let held = self.t.broker.own(worker, PATIENCE).await.map_err(failed)?;
        let told = self.take_note(worker, held);
        let expected = self.model.read(worker, limit, told.1);
        self.compare(Reply::Given(told.0), expected).await
    }

    /// Remembers the deliveries that are new, and says what was given.
    fn take_note(&mut self, worker: &str, given: Vec<Delivery>) -> (Vec<Given>, Vec<EntryId>) {
        let mut entries = Vec::new();
        let mut told = Vec::new();
        for delivery in given {
            told.push(Given {
                job: delivery.id.clone(),
                lane: delivery.lane,
                worker: worker.to_owned(),
                name: delivery.name.clone(),
                payload: delivery.payload.to_vec(),
                attempt: delivery.attempt,
                unique: delivery.unique().map(str::to_owned),
            });
            let at = (delivery.lane, delivery.entry);
            let known = |old: &Delivery| (old.lane, old.entry) == at;
            if !self.deliveries.iter().any(known) {
                entries.push(delivery.entry);
                self.deliveries.push(delivery);
            }
        }
        (told, entries)
    }

    /// Each worker renews what it believes to hold.
    async fn extend(&mut self, picks: &[Pick]) -> Verdict {
        let mut renewals: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for delivery in self.picked(picks) {
            let held = &self.model.deliveries[delivery];
            let by = (lane_name(held.lane), held.worker.clone());
            renewals.entry(by).or_default().push(delivery);
        }
        for ((_, worker), deliveries) in renewals {
            let lane = self.deliveries[deliveries[0]].lane;
            let entries = deliveries.iter().map(|at| self.deliveries[*at].entry);
            let entries: Vec<_> = entries.collect();
            let broker = &self.t.broker;
            let lost = broker.extend(lane, &worker, &entries, PATIENCE).await;
            let lost = lost.map_err(failed)?;
            let expected = self.model.extend(&deliveries);
            self.compare(Reply::Lost(lost), expected).await?;
        }
        Ok(())
    }

    async fn sweep(&mut self, worker: &str) -> Verdict {
        let by = upkeeper(worker);
        let broker = &self.t.broker;
        let sweep = broker.reclaim(&by, LEASE, None, PATIENCE).await;
        let told = match sweep.map_err(failed)? {
            Sweep::Standby => Reply::Standby,
            Sweep::Swept {
                next,
                reclaimed,
                dead,
                unlock,
            } => {
                assert_eq!(next, None, "no walk has that many jobs");
                self.owed.extend(unlock.iter().cloned());
                Reply::Swept(reclaimed, dead, unlock)
            }
        };
        let expected = self.model.sweep(worker);
        self.compare(told, expected).await
    }

    async fn set_limit(
        &mut self,
        group: Option<&str>,
        setting: &str,
        value: &str,
    ) -> std::result::Result<Reply, String> {
        let settings = [(setting, value.to_owned())];
        let changed = self.t.broker.limit(group, &settings, PATIENCE).await;
        let changed = changed.map_err(failed)?;
        if changed > 0 {
            let value = if value.is_empty() { "none" } else { value };
            let of = group.map_or("queue".to_owned(), |group| format!("group {group}"));
            self.model
                .tell("limited", "", format!("{of}: {setting} {value}"));
        }
        Ok(Reply::Counts(vec![changed]))
    }

    /// Admits what has room. `told` and what was expected of it come before the count.
    async fn admit(&mut self, before: Vec<[u64; 2]>) -> Verdict {
        let admitted = self.t.broker.admit(None, 1000, PATIENCE).await;
        let (admitted, next) = admitted.map_err(failed)?;
        assert_eq!(next, None, "no walk has that many jobs");
        let counts = before.into_iter().chain([[admitted, self.model.admit()]]);
        let (told, expected) = counts.map(|[told, expected]| (told, expected)).unzip();
        self.compare(Reply::Counts(told), Reply::Counts(expected))
            .await
    }

    /// A rate and its burst are set together.
    async fn rate(&mut self, group: Option<String>, burst: u8) -> Verdict {
        let names = match group {
            Some(_) => ["rate", "burst"],
            None => ["group_rate", "group_burst"],
        };
        let burst = Some(u32::from(burst)).filter(|burst| *burst > 0);
        let texts = |burst: Option<u32>| {
            let burst = burst.map(|burst| burst.to_string());
            [burst.as_ref().map(|_| "1/h".to_owned()), burst]
        };
        let bursts = &mut self.model.bursts;
        let was = match burst {
            Some(burst) => bursts.insert(group.clone(), burst),
            None => bursts.remove(&group),
        };
        let values = texts(burst).map(Option::unwrap_or_default);
        let settings = [(names[0], values[0].clone()), (names[1], values[1].clone())];
        let changed = self.t.broker.limit(group.as_deref(), &settings, PATIENCE);
        let changed = changed.await.map_err(failed)?;
        let was = texts(was).map(Option::unwrap_or_default);
        let differ = (0..2).filter(|nth| was[*nth] != values[*nth]);
        let differ: Vec<String> = differ
            .map(|nth| match &*values[nth] {
                "" => format!("{} none", names[nth]),
                value => format!("{} {value}", names[nth]),
            })
            .collect();
        if !differ.is_empty() {
            let of = group.map_or("queue".to_owned(), |group| format!("group {group}"));
            let detail = format!("{of}: {}", differ.join(", "));
            self.model.tell("limited", "", detail);
        }
        self.admit(vec![[changed, differ.len() as u64]]).await
    }

    async fn queue_rate(&mut self, burst: u8) -> Verdict {
        let burst = Some(u32::from(burst)).filter(|burst| *burst > 0);
        let texts = |burst: Option<u32>| {
            let burst = burst.map(|burst| burst.to_string());
            [burst.as_ref().map(|_| "1/h".to_owned()), burst].map(Option::unwrap_or_default)
        };
        let was = texts(std::mem::replace(&mut self.model.queue_burst, burst));
        let values = texts(burst);
        let settings = [("rate", values[0].clone()), ("burst", values[1].clone())];
        let changed = self.t.broker.limit(None, &settings, PATIENCE).await;
        let changed = changed.map_err(failed)?;
        let differ = (0..2).filter(|nth| was[*nth] != values[*nth]);
        let differ: Vec<String> = differ
            .map(|nth| match &*values[nth] {
                "" => format!("{} none", settings[nth].0),
                value => format!("{} {value}", settings[nth].0),
            })
            .collect();
        if !differ.is_empty() {
            self.model
                .tell("limited", "", format!("queue: {}", differ.join(", ")));
        }
        let expected = Reply::Counts(vec![differ.len() as u64]);
        self.compare(Reply::Counts(vec![changed]), expected).await
    }

    /// Some milliseconds late, as every firing is.
    async fn fire(&mut self, schedule: u8) -> Verdict {
        let id = translate::schedule_id(schedule);
        if !self.last.cron.contains_key(&id) {
            let set = self.schedules.set(&id, translate::schedule(schedule));
            set.await.map_err(failed)?;
        }
        let due = (self.t.now_us() / 1000 - 5).to_string();
        self.t
            .redis(&["ZADD", &self.t.key("cron:due"), "XX", &due, &id]);
        self.schedules.fire_due().await.map_err(failed)?;
        let scan = self.t.scan();
        let new = scan
            .homes
            .keys()
            .filter(|id| !self.last.homes.contains_key(*id));
        let new: Vec<String> = new.cloned().collect();
        let meta = new.first().map(|id| scan.meta_of(id));
        let told = Reply::Counts(vec![new.len() as u64]);
        let expected = self.model.fire(schedule, new.first().cloned(), meta);
        self.compare(told, expected).await
    }

    async fn progress(&mut self, pick: Pick, quarters: u8) -> Verdict {
        let Some(at) = self.delivery(pick) else {
            return Ok(());
        };
        self.notes += 1;
        let note = Note {
            number: self.notes,
            told: Some((HowFar::of(u64::from(quarters), 4), String::new())),
            lines: Vec::new(),
        };
        let author = Author::of(&self.deliveries[at]);
        let told = match self.t.broker.note_progress(&author, &note, PATIENCE).await {
            Err(Error::LeaseLost { .. }) => Reply::LeaseLost,
            told => told.map(|()| Reply::Done).map_err(failed)?,
        };
        let expected = self.model.note(at, quarters);
        self.compare(told, expected).await
    }

    async fn limit(&mut self, group: Option<String>, most: u8) -> Verdict {
        self.model.unfilled |= !self.model.bursts.is_empty();
        let name = match group {
            Some(_) => "concurrency",
            None => "group_concurrency",
        };
        let most = Some(usize::from(most)).filter(|most| *most > 0);
        let value = most.map(|most| most.to_string()).unwrap_or_default();
        let told = self.set_limit(group.as_deref(), name, &value).await?;
        let limits = &mut self.model.limits;
        let was = match most {
            Some(most) => limits.insert(group, most),
            None => limits.remove(&group),
        };
        let expected = Reply::Counts(vec![u64::from(was != most)]);
        self.compare(told, expected).await
    }

    async fn unlock(&mut self) -> Verdict {
        let owed = std::mem::take(&mut self.owed);
        if owed.is_empty() {
            return Ok(());
        }
        let unlocked = self.t.broker.unlock(&owed, PATIENCE).await;
        unlocked.map_err(failed)?;
        self.model.release_keys(&owed);
        self.compare(Reply::Done, Reply::Done).await
    }

    async fn prune(&mut self, ages: [Age; 3]) -> Verdict {
        // What is older than no time at all is what there was a millisecond ago.
        self.pass_a_moment();
        let [history, dead, callers] = ages.map(wait);
        let broker = &self.t.broker;
        let pruned = broker
            .prune(history, dead, callers, None, 500, PATIENCE)
            .await;
        let pruned = pruned.map_err(failed)?;
        let told = Reply::Counts(vec![pruned.completed, pruned.dead, pruned.producers]);
        let expected = self.model.prune(ages);
        self.compare(told, expected).await
    }

    async fn retire(&mut self, who: Option<&str>, idle: Age) -> Verdict {
        let age = wait(idle).unwrap_or(LATER);
        let broker = &self.t.broker;
        let retired = broker.retire(who, age, PATIENCE).await.map_err(failed)?;
        let gone = |name: &str| who.map_or(idle == Age::All, |leaving| leaving == name);
        let consumers = self.last.consumers.values().flatten();
        let expected = consumers.filter(|(name, holds)| **holds == 0 && gone(name));
        let expected = Reply::Counts(vec![expected.count() as u64]);
        self.compare(Reply::Counts(vec![retired]), expected).await?;
        let mut left = self.last.consumers.values().flatten();
        match left.find(|(name, holds)| **holds == 0 && gone(name)) {
            Some((name, _)) => Err(format!("{name} is still a consumer")),
            None => Ok(()),
        }
    }

    /// Redis's next millisecond, and one more.
    pub(super) fn pass_a_moment(&self) {
        while self.t.now_us() / 1000 <= self.last.now_ms + 1 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

pub(super) fn worker(number: u8) -> String {
    format!("worker-{number}")
}

fn wait(age: Age) -> Option<Duration> {
    match age {
        Age::Untouched => None,
        Age::VeryOld => Some(LATER),
        Age::All => Some(Duration::ZERO),
    }
}

pub(super) fn failed(error: Error) -> String {
    format!("{error}")
}
