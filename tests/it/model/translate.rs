//! What the small numbers of an operation stand for.

use std::time::Duration;

use millstream::broker::DeathReason;
use millstream::schedule::{Overlap, Schedule};
use millstream::{NewJob, OnConflict, Priority};
use serde_json::{Value as Json, json};

use super::operation::{Conflict, Order, Reason, Until, Wait};

/// Every wait that no walk sees the end of: delays, backoffs, windows, ages.
pub(super) const LATER: Duration = Duration::from_secs(24 * 3600);
pub(super) const LATER_MS: i64 = LATER.as_millis() as i64;
/// A unique key without an end is given up after a week.
const UNIQUE_BACKSTOP: Duration = Duration::from_secs(7 * 24 * 3600);
/// No walk is as slow as half of this: leases run out only where an operation says so.
pub(super) const LEASE: Duration = Duration::from_secs(3600);
/// What the living get to renew in after a silence.
pub(super) const GRACE_MS: i64 = LEASE.as_millis() as i64 / 2;
/// What every failed attempt says.
pub(super) const ERROR: &str = "boom: ü \"quoted\" \u{1}";

const NAMES: &[&str] = &["mail", "größe \"1\"", "a b"];

pub(super) fn name(number: u8) -> String {
    NAMES[usize::from(number) % NAMES.len()].to_owned()
}

/// Bytes that break a step which takes them for text, for present, or for fields of its own.
pub(super) fn payload(number: u8) -> Vec<u8> {
    match number % 5 {
        0 => format!("payload {number}").into_bytes(),
        1 => Vec::new(),
        2 => b"\xff\xfe\0 \xc3\x28".to_vec(),
        3 => b"\r\n$-1\r\n".to_vec(),
        _ => (0..=255).collect(),
    }
}

/// Names of which one is the beginning of another, so that neither may be taken for the other.
pub(super) fn group(number: u8) -> String {
    ["shop", "shop 1", "größe"][usize::from(number)].to_owned()
}

pub(super) fn key(number: u8) -> String {
    format!("key {number}")
}

/// How long a unique key is held, at most.
pub(super) fn hold(until: Until, delayed: bool) -> Duration {
    match until {
        Until::Window => LATER,
        // Against a key that nobody releases; it must outlast the job's own wait.
        Until::Finished | Until::Waiting => {
            UNIQUE_BACKSTOP + if delayed { LATER } else { Duration::ZERO }
        }
    }
}

pub(super) fn expiry(wait: Wait) -> Duration {
    match wait {
        Wait::Short => Duration::from_millis(1),
        Wait::Long => LATER,
    }
}

/// Beyond every other wait, so that no walk can tell by how much a retry was cut.
pub(super) fn deadline(wait: Wait) -> Duration {
    match wait {
        Wait::Short => Duration::from_millis(1),
        Wait::Long => 2 * LATER,
    }
}

pub(super) fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Attempts => "attempts",
        Reason::Refused => "refused",
        Reason::Expired => "expired",
    }
}

pub(super) fn death(reason: Reason) -> DeathReason {
    match reason {
        Reason::Attempts => DeathReason::Attempts,
        Reason::Refused => DeathReason::Refused,
        Reason::Expired => DeathReason::Expired,
    }
}

/// Points, 1 to 3.
pub(super) fn cost(order: &Order) -> u32 {
    1 + u32::from(order.payload) % 3
}

/// What is stored beside the payload and never changes.
pub(super) fn meta(order: &Order) -> Json {
    let mut meta = json!({ "codec": "raw" });
    if let Some(attempts) = order.max_attempts {
        meta["max_attempts"] = json!(attempts);
    }
    if matches!(order.unique, Some((_, Until::Waiting))) {
        meta["unique_waiting"] = json!(true);
    }
    if let Some(number) = order.group {
        meta["group"] = json!(group(number));
        if cost(order) > 1 {
            meta["cost"] = json!(cost(order));
        }
    }
    if order.header {
        meta["headers"] = json!({ "x-header": "ü\u{1}" });
    }
    meta
}

/// What the order asks for when its key is held, as far as it can be asked for.
pub(super) fn conflict(order: &Order) -> Conflict {
    match (order.conflict, order.unique) {
        (Conflict::Throttle, Some((_, Until::Window))) => Conflict::Throttle,
        (Conflict::Throttle, _) | (_, None) => Conflict::Refuse,
        (conflict, Some(_)) => conflict,
    }
}

/// The job as a producer hands it in.
pub(super) fn new_job(order: &Order) -> NewJob {
    let mut job = NewJob::raw(name(order.name), payload(order.payload));
    if order.delayed {
        job = job.delay(LATER);
    }
    job = match order.unique {
        Some((number, Until::Waiting)) => job.unique_while_waiting(key(number)),
        Some((number, Until::Finished)) => job.unique(key(number)),
        Some((number, Until::Window)) => job.unique_for(key(number), LATER),
        None => job,
    };
    job = job.on_conflict(match conflict(order) {
        Conflict::Refuse => OnConflict::Refuse,
        Conflict::Replace => OnConflict::Replace,
        Conflict::Throttle => OnConflict::Throttle,
    });
    if let Some(wait) = order.expires {
        job = job.expires(expiry(wait));
    }
    if let Some(wait) = order.deadline {
        job = job.deadline(deadline(wait));
    }
    if let Some(attempts) = order.max_attempts {
        job = job.max_attempts(attempts);
    }
    if let Some(number) = order.group {
        job = job.group(group(number)).cost(cost(order));
    }
    job = job.priority(order.priority);
    if order.header {
        job = job.header("x-header", "ü\u{1}");
    }
    job
}

pub(super) fn schedule_id(number: u8) -> String {
    format!("s{number}")
}

/// Whether the jobs of a schedule may overlap, their group, and their priority.
pub(super) fn schedule_kind(number: u8) -> (bool, Option<u8>, Priority) {
    match number {
        0 => (true, Some(0), Priority::Normal),
        1 => (false, None, Priority::Normal),
        _ => (false, Some(1), Priority::High),
    }
}

/// Due again after the end of any walk.
pub(super) fn schedule(number: u8) -> Schedule {
    let (overlaps, of, priority) = schedule_kind(number);
    let mut job = NewJob::raw("tick", payload(number)).priority(priority);
    if let Some(of) = of {
        job = job.group(group(of));
    }
    let overlap = if overlaps {
        Overlap::Allow
    } else {
        Overlap::Skip
    };
    Schedule::every(LATER, job).overlap(overlap)
}
