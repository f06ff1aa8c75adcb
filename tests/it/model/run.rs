//! Does to Redis what an operation says, does the same to the reference, and compares all that there is.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::broker::{Caller, Delivery, Done, EntryId, Lane, Promotion, Sweep};
use millstream::job::state::State;
use millstream::{Error, JobId, NewJob, Result};

use super::calls::Call;
use super::operation::{Age, CALLERS, Operation, Order, Pick, Wait, Which};
use super::picture::Picture;
use super::reference::{Given, Model, Moment, Reply, lane_name};
use super::translate::{self, LATER};
use crate::support::scan::Scan;
use crate::support::{Fixture, PATIENCE, upkeeper};

/// No walk is as slow as half of this: leases run out only where an operation says so.
const LEASE: Duration = Duration::from_secs(3600);
/// Longer than any lease.
const SILENT_MS: &str = "7200000";

/// What went wrong, in words.
pub(super) type Verdict = std::result::Result<(), String>;

/// A queue and its reference.
pub(super) struct World<'a> {
    t: &'a Fixture,
    pub(super) model: Model,
    /// What the workers remember, in the order of the model's deliveries.
    deliveries: Vec<Delivery>,
    /// Every numbered call: who, number, what.
    calls: Vec<(String, i64, Call)>,
    numbers: [i64; CALLERS as usize],
    /// Unique keys that a dead worker's sweep did not get to release.
    owed: Vec<(String, JobId)>,
    due: i64,
    last: Scan,
}

impl<'a> World<'a> {
    /// An empty queue.
    pub(super) async fn new(t: &'a Fixture) -> Self {
        t.wipe().await;
        let last = t.scan();
        let model = Model {
            now_ms: last.now_ms,
            ..Model::default()
        };
        Self {
            t,
            model,
            deliveries: Vec::new(),
            calls: Vec::new(),
            numbers: Default::default(),
            owed: Vec::new(),
            due: 0,
            last,
        }
    }

    /// Walks to the end, or to the first step after which Redis and the reference differ.
    pub(super) async fn walk(&mut self, operations: &[Operation]) -> Verdict {
        for (step, operation) in operations.iter().enumerate() {
            let verdict = self.step(operation).await;
            verdict.map_err(|fault| format!("step {}, {operation:?}:\n{fault}", step + 1))?;
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
            Operation::Redrive(by, which) => {
                self.send_new(*by, Call::Redrive(self.jobs(which))).await
            }
            Operation::Purge(by, which) => self.send_new(*by, Call::Purge(self.jobs(which))).await,
            Operation::Lapse(pick) => {
                if let Some(delivery) = self.delivery(*pick) {
                    self.lapse(delivery);
                }
                self.compare(Reply::Done, Reply::Done).await
            }
            Operation::Crash(by) => {
                let worker = worker(*by);
                for delivery in self.live() {
                    if self.model.deliveries[delivery].worker == worker {
                        self.lapse(delivery);
                    }
                }
                self.compare(Reply::Done, Reply::Done).await
            }
            Operation::Sweep(by, unlock) => {
                self.sweep(&format!("upkeep-{by}")).await?;
                if *unlock { self.unlock().await } else { Ok(()) }
            }
            Operation::Unlock => self.unlock().await,
            Operation::MakeDue(nth) => {
                if let Some(job) = self.job(Which::In(State::Scheduled, *nth)) {
                    self.due += 1;
                    let (key, due) = (self.t.key("scheduled"), self.due.to_string());
                    self.t
                        .redis(&["ZADD", &key, "XX", &due, self.id(Some(job)).as_str()]);
                    self.model.jobs[job].since = Moment::at(self.due);
                }
                self.compare(Reply::Done, Reply::Done).await
            }
            Operation::Promote(by, limit) => {
                let (by, limit) = (upkeeper(&format!("upkeep-{by}")), usize::from(*limit));
                let promotion = broker.promote(&by, limit, PATIENCE).await.map_err(failed)?;
                let told = match promotion {
                    Promotion::Standby => Reply::Standby,
                    Promotion::Promoted { count, next_due } => Reply::Promoted(
                        count,
                        match next_due {
                            None => "never",
                            Some(Duration::ZERO) => "now",
                            Some(_) => "later",
                        },
                    ),
                };
                let expected = self.model.promote(&by.worker, limit);
                self.compare(told, expected).await
            }
            Operation::Resign(by) => {
                let worker = format!("upkeep-{by}");
                broker.resign(&worker, PATIENCE).await.map_err(failed)?;
                self.model.upkeeper.take_if(|leader| *leader == worker);
                self.compare(Reply::Done, Reply::Done).await
            }
            Operation::LoseLock => {
                self.t.redis(&["DEL", &self.t.key("upkeep")]);
                self.model.upkeeper = None;
                self.compare(Reply::Done, Reply::Done).await
            }
            Operation::Silence => {
                if self.model.swept {
                    self.t
                        .redis(&["HSET", &self.t.key("stats"), "swept_ms", "1"]);
                }
                self.model.silent = self.model.swept;
                self.compare(Reply::Done, Reply::Done).await
            }
            Operation::EndGrace => {
                self.t
                    .redis(&["HDEL", &self.t.key("stats"), "grace_until_ms"]);
                self.model.grace = false;
                self.compare(Reply::Done, Reply::Done).await
            }
            Operation::EndWindow(number) => {
                let key = translate::key(*number);
                self.t
                    .redis(&["DEL", &self.t.key(&format!("unique:{key}"))]);
                self.model.uniques.remove(&key);
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
            Operation::Retire(who, idle) => self.retire(who.map(worker).as_deref(), *idle).await,
        }
    }

    /// A caller's next call.
    async fn send_new(&mut self, by: u8, call: Call) -> Verdict {
        let number = &mut self.numbers[usize::from(by)];
        *number += 1;
        let (caller, number) = (format!("caller-{by}"), *number);
        self.calls.push((caller.clone(), number, call.clone()));
        self.send(&caller, number, &call).await
    }

    async fn settle(&mut self, by: u8, pick: Pick, call: impl FnOnce(usize) -> Call) -> Verdict {
        match self.delivery(pick) {
            Some(delivery) => self.send_new(by, call(delivery)).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, caller: &str, number: i64, call: &Call) -> Verdict {
        let broker = &self.t.broker;
        let mut by = Caller::after(caller, number - 1);
        let mut ids = Vec::new();
        let answered = match call {
            Call::Enqueue(orders) => {
                let jobs: Vec<NewJob> = orders.iter().map(translate::new_job).collect();
                let enqueued = broker.enqueue(&mut by, &jobs, PATIENCE).await;
                enqueued.map(|jobs| {
                    ids = jobs.iter().map(|job| job.id.clone()).collect();
                    let jobs = jobs.into_iter().map(|job| (job.id, job.duplicate));
                    Reply::Jobs(jobs.collect())
                })
            }
            Call::Complete(lane, deliveries, keep) => {
                let took = Duration::from_millis(7);
                let done = deliveries.iter().map(|at| Done {
                    delivery: &self.deliveries[*at],
                    took,
                });
                let (done, keep) = (done.collect::<Vec<_>>(), if *keep { 100 } else { 0 });
                let lost = broker.complete(&mut by, *lane, &done, keep, PATIENCE).await;
                lost.map(Reply::Lost)
            }
            Call::Retry(at, error) => {
                let (held, error) = (&self.deliveries[*at], error.as_deref());
                let retried = broker.retry(&mut by, held, LATER, error, PATIENCE).await;
                retried.map(|()| Reply::Done)
            }
            Call::DeadLetter(at, reason) => {
                let (held, reason) = (&self.deliveries[*at], translate::death(*reason));
                let died = broker
                    .dead_letter(&mut by, held, reason, translate::ERROR, PATIENCE)
                    .await;
                died.map(|died| if died { Reply::Done } else { Reply::NotYet })
            }
            Call::Release(lane, deliveries) => {
                let entries = deliveries.iter().map(|at| self.deliveries[*at].entry);
                let entries: Vec<_> = entries.collect();
                let lost = broker.release(&mut by, *lane, &entries, PATIENCE).await;
                lost.map(Reply::Lost)
            }
            Call::Cancel(job, unique) => {
                let was = broker
                    .cancel(&mut by, &self.id(*job), unique.as_deref(), PATIENCE)
                    .await;
                was.map(Reply::Was)
            }
            Call::RunNow(job) => {
                let moved = broker.run_now(&mut by, &self.id(*job), PATIENCE).await;
                moved.map(|()| Reply::Done)
            }
            Call::Redrive(jobs) => {
                let redriven = broker.redrive(&mut by, &self.ids(jobs), PATIENCE).await;
                redriven.map(|count| Reply::Counts(vec![count]))
            }
            Call::Purge(jobs) => {
                let purged = broker.purge(&mut by, &self.ids(jobs), PATIENCE).await;
                purged.map(|count| Reply::Counts(vec![count]))
            }
        };
        let told = told(answered)?;
        let expected = self.model.call(caller, number, call, &ids);
        self.compare(told, expected).await?;
        let is_short = |order: &Order| order.expires == Some(Wait::Short);
        if matches!(call, Call::Enqueue(orders) if orders.iter().any(is_short)) {
            // What expires after a millisecond has expired before the next step.
            self.pass_a_moment();
        }
        Ok(())
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
            let (id, lane) = (delivery.id.clone(), delivery.lane);
            let (payload, unique) = (
                delivery.payload.to_vec(),
                delivery.unique().map(str::to_owned),
            );
            told.push((
                id,
                lane,
                worker.to_owned(),
                payload,
                delivery.attempt,
                unique,
            ));
            let known = |old: &Delivery| (old.lane, old.entry) == (lane, delivery.entry);
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

    fn lapse(&mut self, delivery: usize) {
        let Some(place) = self.model.place_of(delivery) else {
            return;
        };
        place.lapsed = true;
        let held = &self.model.deliveries[delivery];
        let (lane, entry) = (self.t.key(lane_name(held.lane)), held.entry.to_string());
        self.t.redis(&[
            "XCLAIM",
            &lane,
            "workers",
            &held.worker,
            "0",
            &entry,
            "IDLE",
            SILENT_MS,
            "JUSTID",
        ]);
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
        let pruned = broker.prune(history, dead, callers, None, PATIENCE).await;
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

    /// Both sides have gone the step; nothing may tell them apart.
    async fn compare(&mut self, told: Reply, expected: Reply) -> Verdict {
        {
            let mut exceptions = self.t.exceptions();
            exceptions.unbooked = -self.model.pruned;
            exceptions.windows = self.model.unclaimed();
        }
        let scan = self.t.scan();
        let found = Picture::of(&scan);
        self.model.learn(&found, scan.now_ms);
        let mut faults = self.model.picture().compare(&found);
        if told != expected {
            faults += &format!("answer\n  expected {expected:?}\n  found    {told:?}\n");
        }
        faults += &scan.faults.join("\n");
        self.last = scan;
        if !faults.is_empty() {
            return Err(faults);
        }
        self.compare_counts().await
    }

    /// The counts that are published are those of the structures.
    async fn compare_counts(&self) -> Verdict {
        let told = self.t.broker.stats(PATIENCE).await.map_err(failed)?;
        let jobs = || self.model.jobs.iter();
        let count = |state| jobs().filter(|job| job.state == Some(state)).count() as u64;
        let states = [
            State::Ready,
            State::Running,
            State::Scheduled,
            State::Dead,
            State::Held,
        ];
        let expected = states.map(count);
        let found = [
            told.ready,
            told.running,
            told.scheduled,
            told.dead,
            told.held,
        ];
        if expected != found
            || told.paused != self.model.paused
            || told.oldest_ready.is_some() != (expected[0] > 0)
        {
            return Err(format!(
                "counts {states:?}: expected {expected:?}, told {told:?}"
            ));
        }
        Ok(())
    }

    /// Redis's next millisecond, and one more.
    fn pass_a_moment(&self) {
        while self.t.now_us() / 1000 <= self.last.now_ms + 1 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn live(&self) -> Vec<usize> {
        let all = 0..self.deliveries.len();
        all.filter(|at| self.model.is_live(*at)).collect()
    }

    fn delivery(&self, pick: Pick) -> Option<usize> {
        let (among, nth) = match pick {
            Pick::Live(nth) => (self.live(), nth),
            Pick::Ever(nth) => ((0..self.deliveries.len()).collect(), nth),
        };
        Some(*among.get(usize::from(nth).checked_rem(among.len())?)?)
    }

    /// The picked deliveries, each once.
    fn picked(&self, picks: &[Pick]) -> Vec<usize> {
        let mut picked = Vec::new();
        for delivery in picks.iter().filter_map(|pick| self.delivery(*pick)) {
            if !picked.contains(&delivery) {
                picked.push(delivery);
            }
        }
        picked
    }

    /// The same, lane by lane.
    fn by_lane(&self, picks: &[Pick]) -> Vec<(Lane, Vec<usize>)> {
        let picked = self.picked(picks);
        let of = |lane| {
            picked
                .iter()
                .copied()
                .filter(move |at| self.deliveries[*at].lane == lane)
        };
        let lanes = Lane::ALL.map(|lane| (lane, of(lane).collect::<Vec<_>>()));
        lanes
            .into_iter()
            .filter(|(_, of_lane)| !of_lane.is_empty())
            .collect()
    }

    fn job(&self, which: Which) -> Option<usize> {
        let (among, nth): (Vec<usize>, u8) = match which {
            Which::In(state, nth) => {
                let jobs = self.model.jobs.iter().enumerate();
                let jobs = jobs.filter(|(_, job)| job.state == Some(state));
                (jobs.map(|(number, _)| number).collect(), nth)
            }
            Which::Any(nth) => ((0..self.model.jobs.len()).collect(), nth),
        };
        Some(*among.get(usize::from(nth).checked_rem(among.len())?)?)
    }

    fn jobs(&self, which: &[Which]) -> Vec<usize> {
        which.iter().filter_map(|which| self.job(*which)).collect()
    }

    /// The jobs' ids, and one that no job has.
    fn ids(&self, jobs: &[usize]) -> Vec<JobId> {
        let ids = jobs.iter().map(|job| self.id(Some(*job)));
        ids.chain([self.id(None)]).collect()
    }

    /// The job's id, or one that no job has.
    fn id(&self, job: Option<usize>) -> JobId {
        job.map_or_else(|| "nobody".into(), |job| self.model.jobs[job].id.clone())
    }
}

fn worker(number: u8) -> String {
    format!("worker-{number}")
}

fn wait(age: Age) -> Option<Duration> {
    match age {
        Age::Untouched => None,
        Age::VeryOld => Some(LATER),
        Age::All => Some(Duration::ZERO),
    }
}

/// The typed refusals are answers; everything else is a failure of the walk.
fn told(answered: Result<Reply>) -> std::result::Result<Reply, String> {
    match answered {
        Ok(reply) => Ok(reply),
        Err(Error::LeaseLost { .. }) => Ok(Reply::LeaseLost),
        Err(Error::NotFound { .. }) => Ok(Reply::NotFound),
        Err(Error::WrongState { state, .. }) => Ok(Reply::WrongState(state)),
        Err(Error::Protocol { reason, .. }) if reason == "unexpected status Old" => Ok(Reply::Old),
        Err(error) => Err(failed(error)),
    }
}

fn failed(error: Error) -> String {
    format!("{error}")
}
