//! What producers do: put jobs in.

use bytes::Bytes;
use serde::Serialize;

use super::{Broker, Caller};
use crate::config;
use crate::error::{Error, Result};
use crate::job::durability::Durability;
use crate::job::{Enqueued, Hold, NewJob, OnConflict, Priority, millis};
use crate::keys::GROUP;
use crate::redis::Patience;
use crate::redis::reply::Status;
use crate::redis::script::{self, Call};

impl Broker {
    /// New -> ready, scheduled or held. Up to 1,000 jobs, checked before; all or nothing.
    pub async fn enqueue(
        &self,
        caller: &mut Caller,
        jobs: &[NewJob],
        patience: Patience,
    ) -> Result<Vec<Enqueued>> {
        self.enqueue_durably(caller, jobs, Durability::Memory, patience)
            .await
    }

    /// [`Broker::enqueue`], and waits until the jobs are as safe as `durability` says, or for a second.
    pub async fn enqueue_durably(
        &self,
        caller: &mut Caller,
        jobs: &[NewJob],
        durability: Durability,
        patience: Patience,
    ) -> Result<Vec<Enqueued>> {
        let keys = &self.keys;
        let mut call = Call::new(&script::ENQUEUE)
            .reserve(11 + jobs.len())
            .key("lane", &keys.ready)
            .key("scheduled", &keys.scheduled)
            .key("jobs", &keys.jobs)
            .key("payloads", &keys.payloads)
            .key("stats", &keys.stats)
            .key("producers", &keys.producers)
            .key("next", &keys.next)
            .key("suspects", &keys.suspects)
            .key("limits", &keys.limits)
            .key("held", &keys.held)
            .keys(keys.of_priorities())
            .text("group", GROUP);
        let grouped = |job: &NewJob| {
            job.meta.group.is_some()
                || job.meta.priority != Priority::Normal
                || job.on_conflict != OnConflict::Refuse
        };
        let grouped = jobs.iter().any(grouped);
        if grouped {
            call.push_key("more", &keys.groups);
            call.push_key("more", &keys.rates);
        }
        call = caller
            .sign(call)
            .bytes("wake", keys.wake.clone())
            .number("grouped", grouped.into());
        let mut uniques = 0;
        let mut run: Option<Run> = None;
        for job in jobs {
            let job = &*self.seal.close(&self.queue, job)?;
            let mut options = Options::default();
            let mut meta = std::borrow::Cow::Borrowed(&job.meta);
            if let Some(unique) = &job.unique {
                uniques += 1;
                call.push_key("more", &keys.unique(&unique.key));
                options.unique = Some(uniques);
                let hold = unique
                    .window()
                    .unwrap_or(config::UNIQUE_BACKSTOP + job.delay.unwrap_or_default());
                options.unique_ms = Some(millis(hold));
                options.window = unique.window().is_some();
                options.waiting = unique.hold == Hold::Waiting;
                options.conflict =
                    Some(job.on_conflict.name()).filter(|_| job.on_conflict != OnConflict::Refuse);
                if unique.window().is_none() {
                    let meta = meta.to_mut();
                    meta.unique = Some(unique.key.clone());
                    meta.unique_waiting = options.waiting;
                }
            }
            options.delay_ms = job.delay.filter(|delay| !delay.is_zero()).map(millis);
            options.priority =
                Some(job.meta.priority.name()).filter(|_| job.meta.priority != Priority::Normal);
            // Entry ids name jobs of one lane only.
            if options.delay_ms.is_some()
                || options.priority.is_some()
                || job.on_conflict == OnConflict::Throttle
            {
                options.id = Some(uuid::Uuid::now_v7().simple().to_string());
            }
            options.expires_ms = job.expires.map(millis);
            options.deadline_ms = job.deadline.map(millis);
            let meta = meta.to_stored();
            let options = options.into_stored(job.meta.group.as_deref());
            let alike = [&*job.name, &*meta, &*options];
            let run = match &mut run {
                Some(run) if run.is_of(alike) => run,
                other => other.insert(Run::begin(&mut call, alike)),
            };
            run.jobs += 1;
            call.set_number(run.place, run.jobs);
            call.push("jobs", job.payload.clone());
        }
        let (reply, durability) = self.redis.call_durably(call, durability, patience).await?;
        if reply.status == Status::Full {
            return Err(Error::QueueFull {
                queue: self.queue.to_string(),
                depth: reply.count(1)?,
                max_depth: reply.count(2)?,
            });
        }
        if reply.status == Status::GroupFull {
            return Err(Error::GroupFull {
                queue: self.queue.to_string(),
                group: reply.text(1)?.to_owned(),
                held: reply.count(2)?,
                max_backlog: reply.count(3)?,
                fitting: reply.count(4)?,
            });
        }
        let ids = reply.done()?.text(1)?;
        let enqueued: Vec<Enqueued> = ids
            .split(' ')
            .map(|id| {
                let holder = id.strip_prefix(['=', '~']);
                Enqueued {
                    id: holder.unwrap_or(id).into(),
                    duplicate: holder.is_some(),
                    replaced: id.starts_with('~'),
                    durability,
                }
            })
            .collect();
        if enqueued.len() != jobs.len() {
            let reason = format!("{} ids for {} jobs", enqueued.len(), jobs.len());
            return Err(Error::Protocol {
                operation: "enqueue",
                reason,
            });
        }
        Ok(enqueued)
    }
}

/// Jobs of a call, one behind the other, that differ in nothing but their payloads: they are told the rest once. Most calls
/// are one run, and cost Redis and this program one argument a job.
struct Run {
    /// Where among the arguments it says how many they are.
    place: usize,
    jobs: i64,
    /// Name, meta, options.
    alike: [Bytes; 3],
}

impl Run {
    fn begin(call: &mut Call, alike: [&str; 3]) -> Self {
        let place = call.place();
        let alike = alike.map(|text| Bytes::copy_from_slice(text.as_bytes()));
        call.push("jobs", Bytes::new());
        alike
            .iter()
            .for_each(|text| call.push("jobs", text.clone()));
        Self {
            place,
            jobs: 0,
            alike,
        }
    }

    fn is_of(&self, alike: [&str; 3]) -> bool {
        let [name, meta, options] = &self.alike;
        [name, meta, options].map(|text| &text[..]) == alike.map(str::as_bytes)
    }
}

/// What the enqueue script is told of a job that is more than plain; see `lua/enqueue.lua`.
#[derive(Default, PartialEq, Serialize)]
struct Options<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique_ms: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    window: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    waiting: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    conflict: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_ms: Option<u64>,
}

impl<'a> Options<'a> {
    fn into_stored(mut self, group: Option<&'a str>) -> String {
        if self == Self::default() {
            return group.map_or_else(String::new, |group| format!("@{group}"));
        }
        self.group = group;
        serde_json::to_string(&self).expect("plain strings and numbers")
    }
}
