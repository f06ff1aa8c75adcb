//! The deadlines of a connection, of which there is one at a time: for the next request, for storing a job, for writing an answer.
//!
//! To set a timer for each and to take it back would cost more than to read the request. So one timer runs on, whatever happens
//! meanwhile, and is set to what the deadline is by then when it goes off.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Not set before its first deadline.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    timer: Option<Timer>,
}

#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// When it counts.
    deadline: Instant,
}

impl Alarm {
    /// From now on it goes off at `deadline`, and for nothing else.
    pub(super) fn set(&mut self, deadline: Instant) {
        match &mut self.timer {
            Some(timer) => {
                timer.deadline = deadline;
                if deadline < timer.sleep.deadline() {
                    timer.sleep.as_mut().reset(deadline);
                }
            }
            None => {
                let sleep = Box::pin(sleep_until(deadline));
                self.timer = Some(Timer { sleep, deadline });
            }
        }
    }

    /// Ready once the deadline has passed.
    pub(super) fn poll_past(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(timer) = &mut self.timer else {
            return Poll::Pending;
        };
        loop {
            ready!(timer.sleep.as_mut().poll(cx));
            if timer.deadline <= timer.sleep.deadline() {
                return Poll::Ready(());
            }
            timer.sleep.as_mut().reset(timer.deadline);
        }
    }

    /// What comes of `work` within `limit`; `None` if that is nothing.
    pub(super) async fn within<T>(
        &mut self,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        self.set(Instant::now() + limit);
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => self.poll_past(cx).map(|()| None),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn it_goes_off_at_the_last_deadline_that_was_set_be_it_sooner_or_later() {
        let mut alarm = Alarm::default();
        // Sooner than the one before, or much later: who waited for the first of them would wait for ever, or hardly at all.
        for millis in [1_000_000, 40, 2, 80, 1_000_000, 1] {
            let limit = Duration::from_millis(millis);
            assert_eq!(alarm.within(limit, async { 7 }).await, Some(7));
            if limit < Duration::from_secs(1) {
                let began = Instant::now();
                assert_eq!(alarm.within(limit, pending::<()>()).await, None);
                assert!(began.elapsed() >= limit, "{limit:?}");
            }
        }
    }
}
