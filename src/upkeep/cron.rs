//! Fires schedules. Sleeps until the next one is due; whoever sets a schedule wakes it, and without any schedule it sleeps.
//!
//! Every worker looks by itself and no lock says who may fire: the script lets one through. So a slot waits for nobody's lock
//! to lapse. The worker that does the upkeep comes first, and the others look a moment later, for thrift.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use super::{Leading, STEP};
use crate::broker::{Broker, CronDue, Fired, Firing};
use crate::config;
use crate::error::Result;
use crate::redis::jittered;
use crate::schedule::Definition;
use crate::schedule::plan::Plan;
use crate::schedule::timing::Timing;

/// Longest sleep while there are schedules: how late a slot can be when Redis's clock was put forward.
const POLL: Duration = Duration::from_secs(5);
/// Longest sleep without any: how late the first slot can be of a schedule of which nobody heard.
const IDLE: Duration = Duration::from_secs(60);
/// How much later those look who do not do the upkeep.
const STANDBY: Duration = Duration::from_millis(500);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// Due schedules per look.
const LIMIT: usize = 100;
/// Schedules that fire more often leave no event for each job: they would push everything else out of the stream.
const TELLS_FROM_MS: i64 = 60_000;

pub(crate) async fn run(broker: Broker, wake: Arc<Notify>, leading: Leading) {
    let mut told = HashSet::new();
    loop {
        let sleep = match fire_due(&broker, &mut told).await {
            Ok(None) => IDLE / 2 + jittered(IDLE / 2),
            Ok(Some(wait)) if leading.get() => wait.min(POLL),
            Ok(Some(wait)) => wait.min(POLL) + STANDBY / 2 + jittered(STANDBY / 2),
            Err(error) => {
                tracing::warn!(queue = %broker.queue, %error, "cannot fire schedules; trying again");
                jittered(PAUSE)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = wake.notified() => {}
        }
    }
}

/// Fires whatever is due. Returns the time until the next look is worth while, `None` when there is nothing to look for.
/// `told`: schedules that cannot be fired here, and of which the log knows.
pub(crate) async fn fire_due(
    broker: &Broker,
    told: &mut HashSet<(String, String)>,
) -> Result<Option<Duration>> {
    // Those that cannot be fired here stay due, and must not hide the ones behind them.
    let mut passed_over = 0;
    loop {
        let page = broker.cron_due(passed_over, LIMIT, STEP).await?;
        if page.due.is_empty() {
            let wait = page.wait_ms.map(Duration::from_millis);
            return Ok(match passed_over {
                0 => wait,
                _ => Some(wait.unwrap_or(POLL).min(POLL)),
            });
        }
        for due in &page.due {
            match read(due) {
                Ok((definition, timing)) => {
                    fire(broker, due, &definition, &timing, page.now).await?
                }
                Err(error) => {
                    passed_over += 1;
                    if told.insert((due.schedule.clone(), due.version.clone())) {
                        tracing::warn!(queue = %broker.queue, schedule = due.schedule, %error, "this worker cannot fire the schedule");
                    }
                }
            }
        }
    }
}

/// What is stored of a due schedule. It may come from a newer version, or name a zone that this machine does not know.
fn read(due: &CronDue) -> Result<(Definition, Timing)> {
    let definition = Definition::from_stored(&due.schedule, &due.definition)?;
    let timing = definition.when.timing()?;
    Ok((definition, timing))
}

async fn fire(
    broker: &Broker,
    due: &CronDue,
    definition: &Definition,
    timing: &Timing,
    now: i64,
) -> Result<()> {
    // No more payload in one call than any other call carries.
    let room = config::BATCH_BYTES_MAX / definition.payload_bytes.max(1);
    let room = room.clamp(1, config::MISSED_RUNS_MAX as usize);
    let plan = Plan::of(timing, definition.missed(), due.due, now, room);
    let tells = match (plan.fire.last(), plan.next) {
        (Some(slot), Some(next)) => next - slot >= TELLS_FROM_MS,
        _ => true,
    };
    let firing = Firing {
        due,
        definition,
        next: plan.next,
        slots: &plan.fire,
        tells,
        missed: plan
            .missed
            .map_or_else(String::new, |(from, to)| missed_text(from, to)),
    };
    match broker.cron_fire(&firing, STEP).await? {
        Fired::Stale => {}
        Fired::Fired { jobs, holder } => {
            tracing::debug!(queue = %broker.queue, schedule = due.schedule, jobs = jobs.len(), holder = ?holder, "fired");
            if !firing.missed.is_empty() {
                tracing::info!(queue = %broker.queue, schedule = due.schedule, "{}", firing.missed);
            }
        }
    }
    Ok(())
}

fn missed_text(from: i64, to: i64) -> String {
    let shown = |ms: i64| {
        Timestamp::from_millisecond(ms).map_or_else(|_| "the end".to_owned(), |at| at.to_string())
    };
    format!(
        "missed the slots from {} on, before {}",
        shown(from),
        shown(to)
    )
}
