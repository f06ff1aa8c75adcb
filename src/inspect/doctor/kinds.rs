//! Everything that the doctor can find: how bad it is, what it means, and what to do. `docs/operating.md` has a section for each.

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Level {
    /// Worth knowing. A queue that has nothing else is healthy.
    Note,
    /// Nothing is broken yet.
    Risk,
    /// Something is broken.
    Fault,
}

/// One kind of finding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) code: &'static str,
    pub(super) level: Level,
    /// What it means.
    pub(super) means: &'static str,
    /// What to do.
    pub(super) todo: &'static str,
    /// Whether `--repair` mends it.
    pub(super) mends: bool,
}

const fn kind(
    code: &'static str,
    level: Level,
    mends: bool,
    means: &'static str,
    todo: &'static str,
) -> Kind {
    Kind {
        code,
        level,
        means,
        todo,
        mends,
    }
}

const REPAIR: &str = "run `millstream doctor --repair`";
const REPAIR_TO_DEAD: &str = "run `millstream doctor --repair`: what is left goes to the dead letter, where you can look at it";

/// Of the server first, then of a queue.
pub(super) const KINDS: &[Kind] = &[
    kind(
        "redis-cve",
        Level::Risk,
        false,
        "this release has a hole that somebody who may send commands can use to crash Redis or to run code in it",
        "upgrade Redis to the newest release of its line",
    ),
    kind(
        "redis-bug",
        Level::Note,
        false,
        "this release has a bug that Millstream works around",
        "upgrade Redis to the newest release of its line",
    ),
    kind(
        "eviction-policy",
        Level::Risk,
        false,
        "when memory is short Redis drops keys to make room, and with them jobs",
        "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
    ),
    kind(
        "keys-evicted",
        Level::Fault,
        false,
        "Redis has dropped keys for want of memory; jobs may have been among them",
        "set maxmemory-policy to noeviction, give Redis more memory, then look at the other findings",
    ),
    kind(
        "memory-headroom",
        Level::Risk,
        false,
        "Redis will soon refuse to store jobs (or the system will kill it)",
        "find what grows with `millstream keys QUEUE`; prune, add workers, or raise maxmemory",
    ),
    kind(
        "memory-limit",
        Level::Note,
        false,
        "without maxmemory Redis grows until the system kills it, and everything since the last save is lost",
        "set maxmemory to about 70 % of the machine's memory: an enqueue that finds no room is refused and nothing is lost",
    ),
    kind(
        "persistence-off",
        Level::Note,
        false,
        "a restart of Redis loses every job",
        "CONFIG SET appendonly yes, and the same in redis.conf, unless jobs may be lost",
    ),
    kind(
        "persistence-snapshots",
        Level::Note,
        false,
        "a crash of Redis loses every job since the last snapshot",
        "CONFIG SET appendonly yes, and the same in redis.conf",
    ),
    kind(
        "persistence-failing",
        Level::Fault,
        false,
        "the last write to disk failed: a restart loses jobs, and Redis may refuse to store new ones",
        "look at the disk's free space and at Redis's log",
    ),
    kind(
        "no-replica",
        Level::Note,
        false,
        "when this machine dies, its jobs go with it",
        "add a replica, and Sentinel or a managed failover",
    ),
    kind(
        "replica-behind",
        Level::Risk,
        false,
        "a failover now would lose what the replica has not got yet",
        "look at the replica's log and its network",
    ),
    kind(
        "is-replica",
        Level::Fault,
        false,
        "a replica takes no writes: nothing can be enqueued or settled here",
        "point redis-url at the primary, or at Sentinel (redis-sentinel://)",
    ),
    kind(
        "connections",
        Level::Risk,
        false,
        "Redis is near the number of clients that it accepts, or has turned some away",
        "raise maxclients, or find out who holds so many connections with CLIENT LIST",
    ),
    kind(
        "latency",
        Level::Note,
        false,
        "each call waits this long before Redis even looks at it; throughput of callers that go one by one suffers",
        "run workers near Redis; look for slow commands with SLOWLOG GET",
    ),
    kind(
        "clock-difference",
        Level::Note,
        false,
        "Redis's clock decides when jobs are due; times that this machine names (`--at`) are off by this much",
        "let both machines keep time with NTP",
    ),
    kind(
        "hidden",
        Level::Note,
        false,
        "the server does not tell everything, so not everything could be checked",
        "nothing, if the provider manages these settings",
    ),
    kind(
        "wrong-type",
        Level::Fault,
        false,
        "something else stands where Millstream keeps its own, and every call that needs the key fails",
        "find out who wrote it, then RENAME it away; Millstream makes the key anew",
    ),
    kind(
        "expiring-key",
        Level::Fault,
        true,
        "Redis will delete the key with all its jobs when its time is over",
        REPAIR,
    ),
    kind(
        "unreadable-record",
        Level::Fault,
        true,
        "somebody broke what is known of the job; it can be neither run nor redriven",
        REPAIR_TO_DEAD,
    ),
    kind(
        "missing-record",
        Level::Fault,
        true,
        "the job is scheduled or dead, and nothing is known of it any more",
        REPAIR_TO_DEAD,
    ),
    kind(
        "missing-payload",
        Level::Fault,
        true,
        "the job is scheduled or dead, and its payload is gone: it cannot be run",
        REPAIR_TO_DEAD,
    ),
    kind(
        "orphan-payload",
        Level::Fault,
        true,
        "a payload without a job: it takes memory, and perhaps a job is lost",
        REPAIR_TO_DEAD,
    ),
    kind(
        "stray-payload",
        Level::Fault,
        true,
        "the payload is stored twice: in the job's entry, and where it was before",
        REPAIR,
    ),
    kind(
        "orphan-progress",
        Level::Fault,
        true,
        "something is stored that a handler told of a job which is nowhere",
        REPAIR,
    ),
    kind(
        "lost-place",
        Level::Fault,
        true,
        "the job is known and has its payload, but stands in no queue: nobody would ever run it",
        "run `millstream doctor --repair`: it is scheduled for now, or put into the dead letter again",
    ),
    kind(
        "record-without-entry",
        Level::Fault,
        true,
        "the job should be on a stream and is not: somebody deleted its entry",
        "run `millstream doctor --repair`: it runs next if its payload is kept, else it goes to the dead letter",
    ),
    kind(
        "wrong-state",
        Level::Fault,
        true,
        "the job's record says another state than the place where it is",
        REPAIR,
    ),
    kind(
        "two-homes",
        Level::Fault,
        true,
        "the job is in two places and would run twice",
        "run `millstream doctor --repair`: the place that its record names is kept",
    ),
    kind(
        "foreign-entry",
        Level::Risk,
        true,
        "somebody else wrote to the stream; a worker that reads it puts it into the dead letter",
        "find out who writes there; `millstream doctor --repair` moves what no worker holds to the dead letter",
    ),
    kind(
        "lost-delivery",
        Level::Fault,
        true,
        "the job was given to a worker that Redis has forgotten (XGROUP DELCONSUMER by hand): nobody would ever run it",
        "run `millstream doctor --repair`: it runs next",
    ),
    kind(
        "entry-without-record",
        Level::Fault,
        true,
        "the job can run, but can be neither found by its id nor cancelled",
        REPAIR,
    ),
    kind(
        "second-entry",
        Level::Fault,
        true,
        "the job is on a stream more than once and would run more than once",
        "run `millstream doctor --repair`: the entry that its record names is kept; what a worker holds is left alone",
    ),
    kind(
        "dangling-pending",
        Level::Fault,
        true,
        "an entry was deleted while a worker held it (XDEL by hand); it counts as running for ever",
        REPAIR,
    ),
    kind(
        "silent-worker",
        Level::Risk,
        false,
        "the worker holds jobs and has not been heard of; no other worker takes them back",
        "start a worker for the queue: it takes them back when their lease has run out",
    ),
    kind(
        "ghost-consumers",
        Level::Risk,
        true,
        "workers that are long gone are still listed; each costs a little of every sweep",
        REPAIR,
    ),
    kind(
        "no-worker",
        Level::Note,
        false,
        "jobs wait and no worker asks for them",
        "start a worker for the queue",
    ),
    kind(
        "overdue",
        Level::Risk,
        true,
        "jobs are due and nobody makes them ready: no worker does the upkeep",
        "start a worker for the queue; `millstream doctor --repair` makes the due ones ready once",
    ),
    kind(
        "group-slots",
        Level::Fault,
        true,
        "the count of a group's running jobs is wrong: the group gets more than its share, or too little and in the end nothing",
        "run `millstream doctor --repair`: it is counted anew",
    ),
    kind(
        "group-slots-unknown",
        Level::Note,
        false,
        "jobs of the group are retried or snoozed all the time with their slots, or it has more than 1,000 of them; it could not be counted",
        "look again at a quieter moment",
    ),
    kind(
        "broken-rate",
        Level::Fault,
        true,
        "an entry of `rates` is none that the engine makes, or is for a time too far away: the group, or the queue, starts nothing until then",
        "run `millstream doctor --repair`: the entry goes, its bucket is full, and who waits for it gets another time",
    ),
    kind(
        "stuck-group",
        Level::Fault,
        true,
        "jobs of the group are held though there is room for them, and nothing is there that would let them in",
        "run `millstream doctor --repair`: they are let in as far as there is room",
    ),
    kind(
        "broken-limit",
        Level::Risk,
        false,
        "a limit cannot be read, so it limits nothing",
        "set it again: `millstream groups set`, `millstream queue set`",
    ),
    kind(
        "schedule-overdue",
        Level::Risk,
        false,
        "a schedule should have fired and did not: no worker does the upkeep",
        "start a worker for the queue",
    ),
    kind(
        "lock-of-the-dead",
        Level::Fault,
        true,
        "the upkeep belongs to a worker that is gone, and its lock does not lapse: nobody promotes and nobody takes jobs back",
        REPAIR,
    ),
    kind(
        "unique-forever",
        Level::Fault,
        true,
        "the unique key never lapses: if its job is gone, no other job with this key is ever stored",
        "run `millstream doctor --repair`: it is released if its job is gone, else it lapses in a week",
    ),
    kind(
        "unique-held-by-dead",
        Level::Fault,
        true,
        "a dead job still holds its unique key: other jobs with this key are refused as duplicates",
        REPAIR,
    ),
    kind(
        "unique-without-job",
        Level::Note,
        false,
        "the key's job has finished; that is as it should be for keys that are held for a time (unique_for, webhooks)",
        "nothing: the key lapses by itself",
    ),
    kind(
        "broken-counter",
        Level::Fault,
        true,
        "a lifetime counter is no number, or negative",
        "run `millstream doctor --repair`: the counter begins anew",
    ),
    kind(
        "counters-disagree",
        Level::Risk,
        true,
        "there are more jobs than were ever enqueued: somebody put jobs in by hand, or deleted the counters",
        "run `millstream doctor --repair`: `enqueued` is raised to what is there",
    ),
];

pub(super) fn kind_of(code: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.code == code)
}
