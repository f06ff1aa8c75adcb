//! The engine's transitions in short, each call by a caller of its own.

use std::sync::atomic::Ordering;
use std::time::Duration;

use millstream::broker::{
    Caller, DeathReason, Delivery, Done, EntryId, Lane, Promotion, Sweep, SweepCursor, Upkeeper,
};
use millstream::{Enqueued, JobId, NewJob, Result};

use super::resp::Value;
use super::{Fixture, LATER, LEASE, PATIENCE, upkeeper};

/// The worker that claims when a test does not say otherwise.
pub(crate) const WORKER: &str = "worker-a";

/// A job with nothing but defaults.
pub(crate) fn plain() -> NewJob {
    NewJob::raw("job", "payload")
}

/// Payloads that break a step which takes them for text, for present, or for small.
pub(crate) fn awkward_payloads() -> Vec<Vec<u8>> {
    let every_byte = (0..=255).collect::<Vec<u8>>();
    vec![
        Vec::new(),
        vec![0],
        b"\xff\xfe not utf-8 \xc3\x28".to_vec(),
        b"\r\n$-1\r\n".to_vec(),
        every_byte.repeat(4096),
    ]
}

impl Fixture {
    /// A caller that has not called yet.
    pub(crate) fn caller(&self) -> Caller {
        Caller::new(format!(
            "caller-{}",
            self.callers.fetch_add(1, Ordering::Relaxed)
        ))
    }

    pub(crate) async fn try_enqueue(&self, jobs: &[NewJob]) -> Result<Vec<Enqueued>> {
        self.broker
            .enqueue(&mut self.caller(), jobs, PATIENCE)
            .await
    }

    pub(crate) async fn enqueue(&self, job: NewJob) -> JobId {
        let enqueued = self.try_enqueue(&[job]).await.expect("an enqueue");
        assert!(!enqueued[0].duplicate, "{:?} is a duplicate", enqueued[0]);
        enqueued[0].id.clone()
    }

    pub(crate) async fn enqueue_many(&self, count: usize) -> Vec<JobId> {
        let mut ids = Vec::new();
        let jobs = vec![plain(); count];
        for jobs in jobs.chunks(1000) {
            let enqueued = self.try_enqueue(jobs).await.expect("an enqueue");
            ids.extend(enqueued.into_iter().map(|enqueued| enqueued.id));
        }
        ids
    }

    pub(crate) async fn claim(&self, limit: usize) -> Vec<Delivery> {
        self.claim_as(WORKER, limit).await
    }

    /// Claims jobs of which nothing but their ids matters.
    pub(crate) async fn claim_ids(&self, limit: usize) -> Vec<JobId> {
        let claimed = self.claim(limit).await.into_iter();
        claimed.map(|delivery| delivery.id).collect()
    }

    pub(crate) async fn claim_as(&self, consumer: &str, limit: usize) -> Vec<Delivery> {
        let claimed = self.broker.claim(consumer, limit, PATIENCE).await;
        claimed.expect("a claim")
    }

    /// The next job; there must be one.
    pub(crate) async fn claim_one(&self) -> Delivery {
        self.claim(1).await.pop().expect("a ready job")
    }

    /// Enqueues `job` and claims it.
    pub(crate) async fn running(&self, job: NewJob) -> Delivery {
        let id = self.enqueue(job).await;
        let delivery = self.claim_one().await;
        assert_eq!(delivery.id, id, "another job was ready");
        delivery
    }

    /// A job that has failed and waits in the dead letter.
    pub(crate) async fn dead(&self, job: NewJob) -> JobId {
        let delivery = self.running(job).await;
        self.dead_letter(&delivery, "refused").await.expect("dead");
        delivery.id
    }

    /// Settles as completed; returns the deliveries that were no longer live.
    pub(crate) async fn complete(&self, deliveries: &[&Delivery]) -> Vec<EntryId> {
        self.complete_keeping(deliveries, 0).await
    }

    pub(crate) async fn complete_keeping(
        &self,
        deliveries: &[&Delivery],
        history: usize,
    ) -> Vec<EntryId> {
        let took = Duration::from_millis(7);
        let done: Vec<Done<'_>> = deliveries
            .iter()
            .map(|delivery| Done::new(delivery, took))
            .collect();
        let lane = deliveries[0].lane;
        self.broker
            .complete(&mut self.caller(), lane, &done, history, PATIENCE)
            .await
            .expect("a settlement")
    }

    /// So many jobs of each group at once, from now on.
    pub(crate) async fn limit_groups(&self, concurrency: usize) {
        self.limit(None, "group_concurrency", &concurrency.to_string())
            .await;
    }

    /// Sets a limit of the queue or of one group.
    pub(crate) async fn limit(&self, group: Option<&str>, setting: &str, value: &str) {
        let settings = [(setting, value.to_owned())];
        let limited = self.broker.limit(group, &settings, PATIENCE).await;
        limited.expect("a limit");
    }

    /// Admits what has room, in all groups; returns how many jobs.
    pub(crate) async fn admit(&self) -> u64 {
        let (admitted, next) = self
            .broker
            .admit(None, 1000, PATIENCE)
            .await
            .expect("admit");
        assert_eq!(next, None, "more groups than in any test");
        admitted
    }

    /// How many jobs of the group count as ready or running.
    pub(crate) fn slots_of(&self, group: &str) -> i64 {
        match self.redis(&["HGET", &self.key("groups"), group]) {
            Value::Nil => 0,
            count => count.int(),
        }
    }

    pub(crate) async fn retry(
        &self,
        delivery: &Delivery,
        after: Duration,
        error: &str,
    ) -> Result<()> {
        self.broker
            .retry(&mut self.caller(), delivery, after, Some(error), PATIENCE)
            .await
    }

    pub(crate) async fn snooze(&self, delivery: &Delivery, after: Duration) -> Result<()> {
        self.broker
            .retry(&mut self.caller(), delivery, after, None, PATIENCE)
            .await
    }

    pub(crate) async fn dead_letter(&self, delivery: &Delivery, error: &str) -> Result<bool> {
        let reason = DeathReason::Refused;
        self.broker
            .dead_letter(&mut self.caller(), delivery, reason, error, PATIENCE)
            .await
    }

    pub(crate) async fn release(&self, delivery: &Delivery) -> Vec<EntryId> {
        self.broker
            .release(
                &mut self.caller(),
                delivery.lane,
                &[delivery.entry],
                PATIENCE,
            )
            .await
            .expect("a release")
    }

    pub(crate) async fn extend(&self, delivery: &Delivery) -> Vec<EntryId> {
        self.broker
            .extend(delivery.lane, WORKER, &[delivery.entry], PATIENCE)
            .await
            .expect("an extension")
    }

    /// Makes the delivery look as if its worker had been silent for an hour.
    pub(crate) fn let_lease_lapse(&self, delivery: &Delivery) {
        let lane = self.lane_key(delivery.lane);
        let entry = delivery.entry.to_string();
        let pending = self.redis(&["XPENDING", &lane, "workers", &entry, &entry, "1"]);
        let holder = pending.list()[0].list()[1].text().to_owned();
        let aged = self.redis(&[
            "XCLAIM", &lane, "workers", &holder, "0", &entry, "IDLE", "3600000", "JUSTID",
        ]);
        assert_eq!(aged.list().len(), 1, "{entry} was not pending");
    }

    /// How long the worker of this delivery has been silent.
    pub(crate) fn silence_of(&self, delivery: &Delivery) -> Duration {
        let entry = delivery.entry.to_string();
        let lane = self.lane_key(delivery.lane);
        let pending = self.redis(&["XPENDING", &lane, "workers", &entry, &entry, "1"]);
        let idle_ms = pending.list()[0].list()[2].int();
        Duration::from_millis(idle_ms.unsigned_abs())
    }

    pub(crate) fn lane_key(&self, lane: Lane) -> String {
        self.key(match lane {
            Lane::Next => "ready:next",
            Lane::Ready => "ready",
            Lane::Suspect => "ready:suspect",
            Lane::High => "ready:high",
            Lane::Low => "ready:low",
        })
    }

    pub(crate) async fn claim_suspect(&self, worker: &str) -> Option<Delivery> {
        self.broker
            .claim_suspect(worker, PATIENCE)
            .await
            .expect("a claim")
    }

    /// One sweep over every lane, to its end; returns how many jobs were made ready and how many died.
    pub(crate) async fn sweep(&self) -> (u64, u64) {
        let by = upkeeper("upkeep");
        let mut total = (0, 0);
        let mut from = None;
        loop {
            match self.sweep_step(&by, from.as_ref()).await {
                Sweep::Standby => panic!("somebody else does the upkeep"),
                Sweep::Swept {
                    next,
                    reclaimed,
                    dead,
                    unlock,
                } => {
                    total = (total.0 + reclaimed, total.1 + dead);
                    self.broker.unlock(&unlock, PATIENCE).await.expect("unlock");
                    from = next;
                }
            }
            if from.is_none() {
                return total;
            }
        }
    }

    /// A job whose workers went silent twice, ready again; as its second worker had it.
    pub(crate) async fn suspect(&self, job: NewJob) -> Delivery {
        let first = self.running(job).await;
        let second = self.take_over(&first).await;
        self.let_lease_lapse(&second);
        assert_eq!(self.sweep().await, (1, 0));
        second
    }

    pub(crate) async fn sweep_step(&self, by: &Upkeeper, from: Option<&SweepCursor>) -> Sweep {
        let sweep = self.broker.reclaim(by, LEASE, from, PATIENCE).await;
        sweep.expect("a sweep")
    }

    /// Lets the lease lapse, sweeps, and claims the job anew: from here on `delivery` is stale.
    pub(crate) async fn take_over(&self, delivery: &Delivery) -> Delivery {
        self.let_lease_lapse(delivery);
        assert_eq!(self.sweep().await, (1, 0));
        let second = match self.claim_as("worker-b", 1).await.pop() {
            Some(second) => second,
            None => self.claim_suspect("worker-b").await.expect("the job"),
        };
        assert_eq!(second.id, delivery.id);
        second
    }

    pub(crate) async fn promote(&self) -> Promotion {
        let by = upkeeper("upkeep");
        let promotion = self.broker.promote(&by, 1000, PATIENCE).await;
        promotion.expect("a promotion")
    }

    /// Ends the wait of a scheduled job, as if its time had come.
    pub(crate) fn make_due(&self, id: &JobId) {
        let changed = self.redis(&["ZADD", &self.key("scheduled"), "XX", "CH", "1", id.as_str()]);
        assert_eq!(changed, Value::Int(1), "{id} is not scheduled");
    }

    /// Retries, waits no longer, and claims the job again.
    pub(crate) async fn fail_once(&self, delivery: &Delivery, error: &str) -> Delivery {
        self.retry(delivery, LATER, error).await.expect("a retry");
        self.make_due(&delivery.id);
        assert!(matches!(
            self.promote().await,
            Promotion::Promoted { count: 1, .. }
        ));
        let again = self.claim_one().await;
        assert_eq!(again.id, delivery.id);
        again
    }

    pub(crate) fn unique_holder(&self, key: &str) -> Option<String> {
        match self.redis(&["GET", &self.key(&format!("unique:{key}"))]) {
            Value::Nil => None,
            holder => Some(holder.text().to_owned()),
        }
    }

    /// An entry that the engine did not write.
    pub(crate) fn add_by_hand<A: AsRef<[u8]>>(&self, fields: &[A]) -> JobId {
        self.expect_unbooked(1);
        let key = self.key("ready");
        let mut command = vec![b"XADD".as_slice(), key.as_bytes(), b"*"];
        command.extend(fields.iter().map(AsRef::as_ref));
        self.redis(&command).text().into()
    }
}

/// Entries that an engine never writes, each of which has broken one that trusted its stream.
pub(crate) const FOREIGN: &[&[&str]] = &[
    &["hello", "world"],
    &[
        "name", "a", "payload", "b", "attempt", "1", "meta", "", "more", "",
    ],
    &["name", "a", "payload", "b"],
    &["payload", "a", "name", "b", "attempt", "1", "meta", ""],
    &["name", "a", "payload", "b", "attempt", "one", "meta", ""],
    &["name", "a", "payload", "b", "attempt", "-1", "meta", ""],
    &["name", "a", "payload", "b", "attempt", "1.5", "meta", ""],
    &["name", "a", "payload", "b", "attempt", "1e999", "meta", ""],
    &[
        "name", "a", "payload", "b", "attempt", "1", "meta", "no json",
    ],
    &["name", "a", "payload", "b", "attempt", "1", "meta", "5"],
    &[
        "name", "a", "payload", "b", "attempt", "1", "meta", "\"text\"",
    ],
    &["name", "a", "payload", "b", "attempt", "1", "meta", "null"],
    &[
        "name",
        "a",
        "payload",
        "b",
        "attempt",
        "1",
        "meta",
        r#"{"stalls":1e999}"#,
    ],
    &[
        "name",
        "a",
        "payload",
        "b",
        "attempt",
        "1",
        "meta",
        "{\"id\":5}",
    ],
    &[
        "name",
        "a",
        "payload",
        "b",
        "attempt",
        "1",
        "meta",
        "{\"id\":{}}",
    ],
    &[
        "name",
        "a",
        "payload",
        "b",
        "attempt",
        "1",
        "meta",
        "{\"stalls\":\"x\"}",
    ],
    &[
        "name",
        "a",
        "payload",
        "b",
        "attempt",
        "1",
        "meta",
        "{\"unique\":[1]}",
    ],
    &[
        "name",
        "a",
        "payload",
        "b",
        "attempt",
        "1",
        "meta",
        "{\"expires_at_ms\":\"soon\"}",
    ],
    &[
        "name",
        "a",
        "payload",
        "b",
        "attempt",
        "1",
        "meta",
        "{\"deadline_at_ms\":{}}",
    ],
];
