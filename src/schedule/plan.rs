//! What follows for a schedule that is due: which slots get a job, which are given up, and when it is due next. No I/O.

use super::Missed;
use super::timing::Timing;
use crate::config;

/// What to do about a due schedule. Slots are unix milliseconds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Slots that get a job each, in order.
    pub(crate) fire: Vec<i64>,
    /// The first slot that was missed and is given up, and the end of those: the first one that is not.
    pub(crate) missed: Option<(i64, i64)>,
    /// The next due time. It may have passed as well: then there is more to do than fits into one step.
    pub(crate) next: Option<i64>,
}

impl Plan {
    /// `due`: the slot that is due, `now`: Redis's clock, `room`: the most jobs that one step may make, at least 1.
    pub(crate) fn of(timing: &Timing, missed: Missed, due: i64, now: i64, room: usize) -> Self {
        let late = now - config::MISSED_AFTER.as_millis() as i64;
        if due >= late {
            return Self::from(timing, due, now, room, None);
        }
        let first = match missed {
            Missed::Skip => timing.next_after(late - 1),
            Missed::Once => timing.latest(1, due, now).front().copied(),
            Missed::All(count) => timing.latest(count as usize, due, now).front().copied(),
        };
        match first {
            Some(first) => {
                let given_up = (first > due).then_some((due, first));
                Self::from(timing, first, now, room, given_up)
            }
            None => Self {
                fire: Vec::new(),
                missed: Some((due, i64::MAX)),
                next: None,
            },
        }
    }

    /// Every slot from `first`, which is one, up to now.
    fn from(
        timing: &Timing,
        first: i64,
        now: i64,
        room: usize,
        missed: Option<(i64, i64)>,
    ) -> Self {
        let (mut fire, mut next) = (Vec::new(), Some(first));
        while let Some(slot) = next.filter(|slot| *slot <= now && fire.len() < room) {
            fire.push(slot);
            next = timing.next_after(slot);
        }
        Self { fire, missed, next }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DUE: i64 = 1_800_000_000_000;
    const HOUR: i64 = 3_600_000;

    fn plan(missed: Missed, late_ms: i64, room: usize) -> Plan {
        let timing = Timing::every(Duration::from_secs(10)).unwrap();
        Plan::of(&timing, missed, DUE, DUE + late_ms, room)
    }

    fn slots(from: i64, to: i64) -> Vec<i64> {
        (from..=to).map(|slot| DUE + slot * 10_000).collect()
    }

    #[test]
    fn a_slot_that_is_only_late_is_fired_whatever_the_policy() {
        for missed in [Missed::Skip, Missed::Once, Missed::All(5)] {
            for (late_ms, last) in [(0, 0), (9_999, 0), (10_000, 1), (30_000, 3)] {
                let plan = plan(missed, late_ms, 100);
                assert_eq!(
                    (plan.fire, plan.missed),
                    (slots(0, last), None),
                    "{missed:?} {late_ms}"
                );
                assert_eq!(plan.next, Some(DUE + (last + 1) * 10_000));
            }
        }
    }

    #[test]
    fn missed_slots_are_skipped_made_up_for_once_or_made_up_for_in_part() {
        // An hour late: 361 slots, of which the last four are not old enough to be missed.
        let next = Some(DUE + HOUR + 10_000);
        for (missed, first) in [
            (Missed::Skip, 357),
            (Missed::Once, 360),
            (Missed::All(5), 356),
            (Missed::All(100), 261),
        ] {
            let plan = plan(missed, HOUR, 100);
            assert_eq!(plan.fire, slots(first, 360), "{missed:?}");
            assert_eq!(plan.missed, Some((DUE, DUE + first * 10_000)));
            assert_eq!(plan.next, next);
        }
        let whole = plan(Missed::All(1000), HOUR, 1000);
        assert_eq!((whole.fire, whole.missed), (slots(0, 360), None));
    }

    #[test]
    fn what_does_not_fit_into_one_step_is_due_for_the_next() {
        let first = plan(Missed::All(100), HOUR, 40);
        assert_eq!(
            (first.fire, first.next),
            (slots(261, 300), Some(DUE + 3_010_000))
        );
        let timing = Timing::every(Duration::from_secs(10)).unwrap();
        let rest = Plan::of(&timing, Missed::All(100), DUE + 3_010_000, DUE + HOUR, 100);
        assert_eq!((rest.fire, rest.missed), (slots(301, 360), None));
    }

    #[test]
    fn a_nightly_job_that_was_missed_is_skipped_to_the_next_night() {
        let timing = Timing::cron("0 3 * * *", "Europe/Bucharest").unwrap();
        let due = timing.next_after(DUE).unwrap();
        let plan = Plan::of(&timing, Missed::Skip, due, due + HOUR, 100);
        let next = timing.next_after(due).unwrap();
        assert_eq!(
            plan,
            Plan {
                fire: vec![],
                missed: Some((due, next)),
                next: Some(next)
            }
        );
    }
}
