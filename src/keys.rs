//! Every key of a queue, its type, and what it holds: the one place where keys are named.
//!
//! All keys of a queue carry its name in braces, so a queue lives in one cluster slot and every script is atomic.

use bytes::Bytes;

use crate::job::{JobId, QueueName};

/// The consumer group of every lane. Its pending entries are the running jobs.
pub(crate) const GROUP: &str = "workers";

/// One key, cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Key(pub(crate) Bytes);

impl Key {
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("keys are made from strings")
    }
}

impl From<String> for Key {
    fn from(key: String) -> Self {
        Self(key.into())
    }
}

/// A stream of ready jobs. Workers read [`Lane::Next`] first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lane {
    /// Handed-back and reclaimed jobs.
    Next,
    /// All others.
    Ready,
    /// Jobs that are one stall short of a crash loop. A worker holds one of them at a time.
    Suspect,
    /// Jobs of high priority.
    High,
    /// Jobs of low priority.
    Low,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Self; 5] = [
        Self::Next,
        Self::Ready,
        Self::Suspect,
        Self::High,
        Self::Low,
    ];
    /// Those that are read together and as fast as there is room, in the order in which they are read, while no job has a priority
    /// of its own.
    pub const READ: [Self; 2] = [Self::Next, Self::Ready];
    /// The same where jobs have priorities.
    pub const BY_PRIORITY: [Self; 4] = [Self::Next, Self::High, Self::Ready, Self::Low];

    /// The lane's place in [`Lane::ALL`].
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Next => 0,
            Self::Ready => 1,
            Self::Suspect => 2,
            Self::High => 3,
            Self::Low => 4,
        }
    }

    /// The word in statistics and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Ready => "normal",
            Self::Suspect => "suspect",
            Self::High => "high",
            Self::Low => "low",
        }
    }
}

/// A key's last part, its type and its meaning, for `millstream keys` and the documentation.
pub(crate) struct Purpose {
    /// What follows `millstream:{Q}:`.
    pub(crate) suffix: &'static str,
    /// Redis's name of the type.
    pub(crate) kind: &'static str,
    /// What it holds.
    pub(crate) holds: &'static str,
    /// The redis-cli command that looks inside; `KEY` stands for the key.
    pub(crate) look: &'static str,
}

const fn purpose(
    suffix: &'static str,
    kind: &'static str,
    holds: &'static str,
    look: &'static str,
) -> Purpose {
    Purpose {
        suffix,
        kind,
        holds,
        look,
    }
}

/// The table of what lives where. `unique:<key>` comes on top, one string per held unique key, and
/// `result:<id>`, one per result that is kept, with `progress:<id>` if its job told anything.
pub(crate) const PURPOSES: &[Purpose] = &[
    purpose(
        "ready",
        "stream",
        "jobs that may run or are running: name, payload, attempt, meta; group `workers`, its pending entries are the running ones",
        "XRANGE KEY - + COUNT 10",
    ),
    purpose(
        "ready:next",
        "stream",
        "the same, read first: handed-back and reclaimed jobs",
        "XRANGE KEY - + COUNT 10",
    ),
    purpose(
        "ready:suspect",
        "stream",
        "the same, one at a time per worker: jobs whose workers went silent twice",
        "XRANGE KEY - + COUNT 10",
    ),
    purpose(
        "ready:high",
        "stream",
        "the same, read before `ready`: jobs of high priority",
        "XRANGE KEY - + COUNT 10",
    ),
    purpose(
        "ready:low",
        "stream",
        "the same, read after `ready`: jobs of low priority",
        "XRANGE KEY - + COUNT 10",
    ),
    purpose(
        "scheduled",
        "zset",
        "job id -> due (unix ms): delayed, waiting for a retry, snoozed",
        "ZRANGE KEY 0 9 WITHSCORES",
    ),
    purpose(
        "dead",
        "zset",
        "job id -> died at (unix ms)",
        "ZRANGE KEY 0 9 WITHSCORES",
    ),
    purpose(
        "held",
        "zset",
        "jobs that wait for their group's turn, by name: `<group> US <turn> US <job id>`, US being the byte 1F",
        "ZRANGE KEY 0 9",
    ),
    purpose(
        "groups",
        "hash",
        "group -> how many of its jobs are ready or running, for groups with a limit",
        "HSCAN KEY 0 COUNT 10",
    ),
    purpose(
        "jobs",
        "hash",
        "job id -> record (JSON) of jobs that are, or once were, off the streams",
        "HSCAN KEY 0 COUNT 10",
    ),
    purpose(
        "payloads",
        "hash",
        "job id -> payload of jobs that are off the streams",
        "HSCAN KEY 0 COUNT 10",
    ),
    purpose(
        "limits",
        "hash",
        "what limits the queue and its groups: paused, max_depth, concurrency, rate, burst, group_concurrency, group_max_backlog, group_rate, group_burst, group_order, group:<group>",
        "HGETALL KEY",
    ),
    purpose(
        "rates",
        "zset",
        "buckets of what has a rate, by `full US <group>`: minus when it is full (unix µs), gone then; and `next US <group>`: when its next held job may start",
        "ZRANGE KEY 0 9 WITHSCORES",
    ),
    purpose("stats", "hash", "lifetime counters", "HGETALL KEY"),
    purpose(
        "producers",
        "hash",
        "caller -> its last call's number, time and answer: how a call that is sent twice is carried out once",
        "HSCAN KEY 0 COUNT 10",
    ),
    purpose(
        "events",
        "stream",
        "retried, stalled, dead, cancelled, updated, redriven, purged, orphaned, mended, paused, circuits, fired, skipped, limited; about the last 10,000",
        "XREVRANGE KEY + - COUNT 10",
    ),
    purpose(
        "completed",
        "stream",
        "history, when retention is asked for",
        "XREVRANGE KEY + - COUNT 10",
    ),
    purpose(
        "circuits",
        "zset",
        "worker and target -> until (unix ms): workers that claim nothing because their target is down; gone when none does",
        "ZRANGE KEY 0 9 WITHSCORES",
    ),
    purpose(
        "results",
        "stream",
        "jobs whose results were kept, for those who wait; about the last 10,000",
        "XREVRANGE KEY + - COUNT 10",
    ),
    purpose(
        "progress",
        "hash",
        "job id -> how far its handlers say it is, and the last lines of their log (JSON)",
        "HSCAN KEY 0 COUNT 10",
    ),
    purpose(
        "cron",
        "hash",
        "schedules: definition (JSON), state (JSON) and payload of each",
        "HSCAN KEY 0 COUNT 10",
    ),
    purpose(
        "cron:due",
        "zset",
        "schedule -> when its next slot is due (unix ms); inf while it is paused",
        "ZRANGE KEY 0 9 WITHSCORES",
    ),
    purpose(
        "upkeep",
        "string",
        "the worker that promotes and reclaims at the moment",
        "GET KEY",
    ),
];

/// The keys of one queue.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
    pub(crate) ready: Key,
    pub(crate) next: Key,
    pub(crate) suspects: Key,
    pub(crate) high: Key,
    pub(crate) low: Key,
    pub(crate) scheduled: Key,
    pub(crate) dead: Key,
    pub(crate) held: Key,
    pub(crate) groups: Key,
    pub(crate) jobs: Key,
    pub(crate) payloads: Key,
    pub(crate) limits: Key,
    pub(crate) rates: Key,
    pub(crate) stats: Key,
    pub(crate) producers: Key,
    pub(crate) events: Key,
    pub(crate) completed: Key,
    pub(crate) circuits: Key,
    pub(crate) results: Key,
    pub(crate) progress: Key,
    pub(crate) cron: Key,
    pub(crate) cron_due: Key,
    pub(crate) upkeep: Key,
    /// Not a key but a channel: hints for workers, never relied upon.
    pub(crate) wake: Bytes,
}

impl Keys {
    pub(crate) fn new(namespace: &str, queue: &QueueName) -> Self {
        let prefix = format!("{namespace}:{{{queue}}}:");
        let key = |suffix: &str| Key::from(format!("{prefix}{suffix}"));
        Self {
            ready: key("ready"),
            next: key("ready:next"),
            suspects: key("ready:suspect"),
            high: key("ready:high"),
            low: key("ready:low"),
            scheduled: key("scheduled"),
            dead: key("dead"),
            held: key("held"),
            groups: key("groups"),
            jobs: key("jobs"),
            payloads: key("payloads"),
            limits: key("limits"),
            rates: key("rates"),
            stats: key("stats"),
            producers: key("producers"),
            events: key("events"),
            completed: key("completed"),
            circuits: key("circuits"),
            results: key("results"),
            progress: key("progress"),
            cron: key("cron"),
            cron_due: key("cron:due"),
            upkeep: key("upkeep"),
            wake: format!("{prefix}wake").into(),
            prefix,
        }
    }

    /// What stands before and after a queue's name in the key with this last part.
    pub(crate) fn around_queue(namespace: &str, suffix: &str) -> (String, String) {
        (format!("{namespace}:{{"), format!("}}:{suffix}"))
    }

    pub(crate) fn lane(&self, lane: Lane) -> &Key {
        match lane {
            Lane::Next => &self.next,
            Lane::Ready => &self.ready,
            Lane::Suspect => &self.suspects,
            Lane::High => &self.high,
            Lane::Low => &self.low,
        }
    }

    /// What a script needs to know whose turn it is, under the names of its header.
    pub(crate) fn of_groups(&self) -> [(&'static str, &Key); 4] {
        [
            ("held", &self.held),
            ("groups", &self.groups),
            ("limits", &self.limits),
            ("rates", &self.rates),
        ]
    }

    /// The lanes of jobs with a priority of their own, under the names of the headers.
    pub(crate) fn of_priorities(&self) -> [(&'static str, &Key); 2] {
        [("high", &self.high), ("low", &self.low)]
    }

    pub(crate) fn unique(&self, key: &str) -> Key {
        Key::from(format!("{}unique:{key}", self.prefix))
    }

    pub(crate) fn result(&self, id: &JobId) -> Key {
        Key::from(format!("{}result:{id}", self.prefix))
    }

    /// What the job `id` has told, for as long as its result is kept.
    pub(crate) fn told(&self, id: &JobId) -> Key {
        Key::from(format!("{}progress:{id}", self.prefix))
    }

    /// The key with this last part, for [`PURPOSES`].
    pub(crate) fn with_suffix(&self, suffix: &str) -> Key {
        Key::from(format!("{}{suffix}", self.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_explains_itself_and_shares_the_hash_tag() {
        let keys = Keys::new("millstream", &QueueName::new("webhooks").unwrap());
        let named = [
            &keys.ready,
            &keys.next,
            &keys.suspects,
            &keys.high,
            &keys.low,
            &keys.scheduled,
            &keys.dead,
            &keys.held,
            &keys.groups,
            &keys.jobs,
            &keys.payloads,
            &keys.limits,
            &keys.rates,
            &keys.stats,
            &keys.producers,
            &keys.events,
            &keys.completed,
            &keys.circuits,
            &keys.results,
            &keys.progress,
            &keys.cron,
            &keys.cron_due,
            &keys.upkeep,
        ];
        assert_eq!(named.len(), PURPOSES.len());
        for (key, purpose) in named.iter().zip(PURPOSES) {
            assert_eq!(
                key.as_str(),
                format!("millstream:{{webhooks}}:{}", purpose.suffix)
            );
        }
        assert_eq!(
            keys.unique("a b").as_str(),
            "millstream:{webhooks}:unique:a b"
        );
    }
}
