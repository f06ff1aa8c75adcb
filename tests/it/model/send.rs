//! Numbered calls: sent to Redis, told to the reference.

use std::time::Duration;

use millstream::broker::{Caller, Done};
use millstream::{Error, JobUpdate, NewJob, Result};

use super::calls::Call;
use super::operation::{Order, Pick, Wait};
use super::reference::{Reply, Stored};
use super::run::{Verdict, World, failed};
use super::translate::{self, LATER};
use crate::support::PATIENCE;

impl World<'_> {
    /// A caller's next call.
    pub(super) async fn send_new(&mut self, by: u8, call: Call) -> Verdict {
        let number = &mut self.numbers[usize::from(by)];
        *number += 1;
        let (caller, number) = (format!("caller-{by}"), *number);
        self.calls.push((caller.clone(), number, call.clone()));
        self.send(&caller, number, &call).await
    }

    pub(super) async fn settle(
        &mut self,
        by: u8,
        pick: Pick,
        call: impl FnOnce(usize) -> Call,
    ) -> Verdict {
        match self.delivery(pick) {
            Some(delivery) => self.send_new(by, call(delivery)).await,
            None => Ok(()),
        }
    }

    pub(super) async fn send(&mut self, caller: &str, number: i64, call: &Call) -> Verdict {
        let broker = &self.t.broker;
        let mut by = Caller::after(caller, number - 1);
        let mut ids = Vec::new();
        let answered = match call {
            Call::Enqueue(orders) => {
                let jobs: Vec<NewJob> = orders.iter().map(translate::new_job).collect();
                let enqueued = broker.enqueue(&mut by, &jobs, PATIENCE).await;
                enqueued.map(|jobs| {
                    ids = jobs.iter().map(|job| job.id.clone()).collect();
                    let jobs = jobs.into_iter().map(|job| {
                        let kind = match (job.duplicate, job.replaced) {
                            (false, _) => Stored::New,
                            (true, false) => Stored::Duplicate,
                            (true, true) => Stored::Replaced,
                        };
                        (job.id, kind)
                    });
                    Reply::Jobs(jobs.collect())
                })
            }
            Call::Complete(lane, deliveries, keep) => {
                let took = Duration::from_millis(7);
                let done = deliveries.iter().map(|at| {
                    let mut done = Done::new(&self.deliveries[*at], took);
                    let mut told = self.model.progress.values();
                    done.told = told.any(|(by, _)| by == at);
                    done
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
            Call::Update(job, payload, later, priority) => {
                let mut update = JobUpdate::new();
                if let Some(payload) = payload {
                    update = update.payload(translate::payload(*payload));
                }
                if let Some(priority) = priority {
                    update = update.priority(*priority);
                }
                if let Some(later) = later {
                    update = update.delay(if *later { LATER } else { Duration::ZERO });
                }
                let name = job.map_or_else(String::new, |job| self.model.jobs[job].name.clone());
                let updated = broker
                    .update(&mut by, &self.id(*job), &name, &update, PATIENCE)
                    .await;
                updated.map(|state| Reply::Was(state.expect("the name is right")))
            }
            Call::Redrive(jobs) => {
                let redriven = broker.redrive(&mut by, &self.ids(jobs), PATIENCE).await;
                redriven.map(|count| Reply::Counts(vec![count]))
            }
            Call::Purge(jobs) => {
                let purged = broker.purge(&mut by, &self.ids(jobs), PATIENCE).await;
                purged.map(|count| Reply::Counts(vec![count]))
            }
            Call::GroupPurge(group, jobs) => {
                let ids = self.ids(jobs);
                let purged = broker.group_purge(&mut by, group, &ids, 0, PATIENCE).await;
                purged.map(|purged| Reply::Purged(purged.purged, purged.unlock))
            }
        };
        let told = told(answered)?;
        let expected = self.model.call(caller, number, call, &ids);
        if let Reply::Purged(_, unlock) = &told {
            self.owed.extend(unlock.iter().cloned());
        }
        self.compare(told, expected).await?;
        let is_short = |order: &Order| [order.expires, order.deadline].contains(&Some(Wait::Short));
        let expires = match call {
            Call::Enqueue(orders) => orders.iter().any(is_short),
            Call::Retry(at, _) => {
                let job = self.model.deliveries[*at].job;
                self.model.out_of_time(job).is_some()
            }
            Call::Update(job, ..) => job.is_some_and(|job| self.model.out_of_time(job).is_some()),
            _ => false,
        };
        if expires {
            // What expires after a millisecond has expired before the next step.
            self.pass_a_moment();
        }
        Ok(())
    }
}

/// The typed refusals are answers; everything else is a failure of the walk.
fn told(answered: Result<Reply>) -> std::result::Result<Reply, String> {
    match answered {
        Ok(reply) => Ok(reply),
        Err(Error::QueueFull { depth, .. }) => Ok(Reply::Full(depth)),
        Err(Error::GroupFull {
            group,
            held,
            fitting,
            ..
        }) => Ok(Reply::GroupFull(group, held, fitting)),
        Err(Error::LeaseLost { .. }) => Ok(Reply::LeaseLost),
        Err(Error::NotFound { .. }) => Ok(Reply::NotFound),
        Err(Error::WrongState { state, .. }) => Ok(Reply::WrongState(state)),
        Err(Error::Protocol { reason, .. }) if reason == "unexpected status Old" => Ok(Reply::Old),
        Err(error) => Err(failed(error)),
    }
}
