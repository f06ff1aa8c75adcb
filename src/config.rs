//! Every default and bound, with its unit and the reason for the number.

use std::time::Duration;

use crate::backoff::Backoff;

/// The first part of every key.
pub const NAMESPACE_DEFAULT: &str = "millstream";
/// Where Redis is looked for when nobody says.
pub const REDIS_URL_DEFAULT: &str = "redis://127.0.0.1:6379";

/// Longest queue name, bytes. Long enough for `tenant:region:purpose`; every key carries it.
pub const QUEUE_NAME_BYTES_MAX: usize = 200;
/// Longest job name and unique key, bytes.
pub const JOB_NAME_BYTES_MAX: usize = 512;
/// Longest name of a group, bytes. Shop domains, account ids and UUIDs are far shorter.
pub const GROUP_BYTES_MAX: usize = 256;
/// Most jobs of one group that are ready or running at once. Beyond that a limit limits nothing.
pub const GROUP_CONCURRENCY_MAX: usize = 100_000;
/// Most jobs or points that a rate gives in its time. Beyond a million a second a limit limits nothing.
pub const RATE_MAX: u32 = 1_000_000;
/// Most jobs or points that a bucket holds. With a rate of so many an hour its ticks still fit a whole number of Redis's Lua.
pub const BURST_MAX: u32 = 100_000;
/// Most points that a job costs.
pub const COST_MAX: u32 = 100_000;
/// Largest payload, bytes. Redis holds it in memory and a read fetches many.
pub const PAYLOAD_BYTES_MAX_DEFAULT: usize = 1 << 20;
/// The limit of the limit: a larger bulk stalls Redis for everybody.
pub const PAYLOAD_BYTES_MAX_MAX: usize = 64 << 20;
/// Furthest due time, expiry or dedupe window: ten years. Beyond that a unit was mistaken.
pub const HORIZON_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Largest limit for the jobs of a queue. Beyond it, leave the limit away.
pub const DEPTH_MAX: u64 = 1_000_000_000_000;

/// Jobs per script call. Lua's `unpack` fails near 8,000 values, and a call should stay near a millisecond.
pub const BATCH_JOBS_MAX: usize = 1_000;
/// Payload bytes per script call or read.
pub const BATCH_BYTES_MAX: usize = 1 << 20;
/// Enqueue calls of one queue that are under way at once. Two keep Redis busy while answers travel; more make the batches
/// smaller. `cargo bench --bench throughput` shows what it is worth: 64 callers beside a bare client.
pub const ENQUEUES_IN_FLIGHT: usize = 2;
/// Settlement calls of one worker that are under way at once.
pub const SETTLEMENTS_IN_FLIGHT: usize = 2;

/// Longest wait for one answer of Redis before it is asked again. In the same connection a slow answer delays all.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for an enqueue, all tries together. Below the 5 s in which webhook senders want their answer.
pub const ENQUEUE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(4);
/// Jobs of one queue that wait for an answer while Redis is silent; more are refused at once. At 5,000 a second an outage
/// reaches it in two seconds.
pub const BACKLOG_JOBS_MAX: usize = 10_000;
/// Their payloads together, bytes.
pub const BACKLOG_BYTES_MAX: usize = 32 << 20;
/// Longest wait for the first connection.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// A unique key that is held until its job finishes is given up after this even if nobody released it.
pub const UNIQUE_BACKSTOP: Duration = Duration::from_secs(7 * 24 * 3600);

/// Jobs that a worker runs at once.
pub const CONCURRENCY_DEFAULT: usize = 10;
/// Most jobs that a worker runs at once.
pub const CONCURRENCY_MAX: usize = 100_000;
/// Jobs that a worker fetches ahead by default, at most: more would wait here while another worker is idle.
pub const PREFETCH_DEFAULT_MAX: usize = 100;
/// Attempts of a failing job, the first included.
pub const MAX_ATTEMPTS_DEFAULT: u32 = 10;
/// Most attempts.
pub const MAX_ATTEMPTS_MAX: u32 = 1_000_000;
/// One attempt's time limit.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Longest time limit of an attempt.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Jobs that an operator removes or looks at in one step: 4 to 7 µs of Redis each.
pub const OPERATOR_BATCH: usize = 100;
/// Jobs that one step of a redrive makes ready: some 15 µs of Redis each, which makes it less than 1 ms. Jobs with long histories are
/// fewer in a step, as the script finds them.
pub const REDRIVE_BATCH: usize = 40;
/// How long a worker may be silent before its jobs are taken away.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(30);
/// Shortest lease. Below it, one pause of Redis or of the machine would look like a crash.
pub const LEASE_MIN: Duration = Duration::from_secs(1);
/// Longest lease.
pub const LEASE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How often silent workers are looked for. With [`LEASE_DEFAULT`] a crashed worker's jobs run again within 35 s.
pub const SWEEP_DEFAULT: Duration = Duration::from_secs(5);
/// How often a job may stall before it counts as one that kills its worker.
pub const STALLS_MAX: u32 = 3;
/// Attempts in a row that find their target down before a worker's circuit opens. Enough that a few jobs which crash the
/// target do not stop the others, few enough that an outage costs little.
pub const CIRCUIT_FAILURES_DEFAULT: u32 = 10;
/// Most such attempts.
pub const CIRCUIT_FAILURES_MAX: u32 = 1_000_000;
/// How long an open circuit waits before one job tries again: soon after a restart, and seldom during an outage.
pub const CIRCUIT_PAUSE_DEFAULT: Backoff = Backoff::Exponential {
    base: Duration::from_secs(1),
    max: Duration::from_secs(30),
};
/// How long a stopping worker lets its jobs run on.
pub const SHUTDOWN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);
/// How long dead jobs are kept.
pub const RETAIN_DEAD_DEFAULT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Bytes of a failed attempt's error that are kept.
pub const ERROR_BYTES_MAX: usize = 4 << 10;
/// Entries that the `events` stream keeps, about.
pub const EVENTS_MAX: usize = 10_000;
/// Entries that the `completed` stream keeps, about, whatever their age.
pub const COMPLETED_MAX: usize = 100_000;
/// A producer that has not called for this long is forgotten. Far longer than any client goes on sending a call again.
pub const PRODUCER_IDLE: Duration = Duration::from_secs(24 * 3600);

/// Lines that are kept of what a job's handlers log; `lua/progress.lua` keeps as many.
pub const LOG_LINES_MAX: usize = 100;
/// Longest such line, and longest note on the progress of a job, bytes.
pub const LOG_LINE_BYTES_MAX: usize = 1024;

/// Largest result of a handler, bytes. It is for an answer, not for a file.
pub const RESULT_BYTES_MAX: usize = 1 << 20;
/// Longest cron expression, bytes. The longest that lists every minute and hour is shorter.
pub const CRON_BYTES_MAX: usize = 512;
/// Longest id of a schedule, bytes.
pub const SCHEDULE_ID_BYTES_MAX: usize = 200;
/// Shortest interval of a schedule, and the resolution of cron.
pub const EVERY_MIN: Duration = Duration::from_secs(1);
/// Longest interval of a schedule: a year.
pub const EVERY_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// A slot that is looked at later than this was missed, and the schedule's policy says what becomes of it. Until then it is
/// only late, and owed: a failover of Redis or of the workers is over by then.
pub const MISSED_AFTER: Duration = Duration::from_secs(30);
/// Most missed slots that are made up for, and most jobs that a schedule makes in one step.
pub const MISSED_RUNS_MAX: u32 = 100;

/// Longest request body that the gateway takes, bytes.
pub const BODY_BYTES_MAX_DEFAULT: usize = 1 << 20;
/// How long a webhook's delivery id is remembered. Senders retry for up to 48 to 75 hours.
pub const DEDUPE_DEFAULT: Duration = Duration::from_secs(72 * 3600);
