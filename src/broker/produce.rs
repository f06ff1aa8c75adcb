//! What producers do: put jobs in.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;

use super::{Broker, Caller};
use crate::config;
use crate::error::{Error, Result};
use crate::job::durability::Durability;
use crate::job::{Enqueued, Hold, NewJob, OnConflict, Priority, millis};
use crate::keys::GROUP;
use crate::redis::Patience;
use crate::redis::reply::{Reply, Status};
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
        let mut patience = patience;
        if jobs.iter().all(is_plain) && self.short_way.is_open() {
            let began = Instant::now();
            let call = self.plain_call(caller, jobs)?;
            let (reply, durability) = self.redis.call_durably(call, durability, patience).await?;
            if reply.status != Status::Bounded {
                return enqueued(&reply, jobs.len(), durability);
            }
            self.short_way.close();
            // Nothing was done under this number. And should a late copy of that call be carried out yet, when the maximum has
            // gone, this one is answered as it was.
            caller.take_back();
            patience.total = patience.total.saturating_sub(began.elapsed());
        }
        let call = self.full_call(caller, jobs)?;
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
        enqueued(&reply, jobs.len(), durability)
    }

    /// The short way, for jobs that are all plain; see `lua/enqueue_plain.lua`.
    fn plain_call(&self, caller: &mut Caller, jobs: &[NewJob]) -> Result<Call> {
        let keys = &self.keys;
        let call = Call::new(&script::ENQUEUE_PLAIN)
            .reserve(4 + 2 * jobs.len())
            .key("lane", &keys.ready)
            .key("stats", &keys.stats)
            .key("producers", &keys.producers)
            .key("limits", &keys.limits);
        let mut call = caller.sign(call);
        if let [job] = jobs
            && job.unique.is_none()
        {
            let sealed = self.seal.close(&self.queue, job)?;
            if sealed.meta.to_stored().is_empty() {
                call = call.text("jobs", &job.name);
                call.push("jobs", sealed.payload.clone());
                return Ok(call);
            }
        }
        self.push_runs(&mut call, jobs)?;
        Ok(call)
    }

    /// For whatever jobs; see `lua/enqueue.lua`.
    fn full_call(&self, caller: &mut Caller, jobs: &[NewJob]) -> Result<Call> {
        let keys = &self.keys;
        let mut call = Call::new(&script::ENQUEUE)
            .reserve(11 + 2 * jobs.len())
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
        let mut call = caller
            .sign(call)
            .bytes("wake", keys.wake.clone())
            .number("grouped", grouped.into());
        self.push_runs(&mut call, jobs)?;
        Ok(call)
    }

    /// The jobs, and their unique keys.
    fn push_runs(&self, call: &mut Call, jobs: &[NewJob]) -> Result<()> {
        let mut run: Option<Run<'_>> = None;
        for job in jobs {
            let sealed = self.seal.close(&self.queue, job)?;
            let mut meta = Cow::Borrowed(&sealed.meta);
            let options = Options::of(job);
            if let Some(unique) = &job.unique {
                call.push_key("more", &self.keys.unique(&unique.key));
                if unique.window().is_none() {
                    let meta = meta.to_mut();
                    meta.unique = Some(unique.key.clone());
                    meta.unique_waiting = options.waiting;
                }
            }
            let payload = sealed.payload.clone();
            run = Some(match run {
                Some(run) if run.is_of(&job.name, &options) => {
                    run.add(call, meta.to_stored(), options, payload)
                }
                _ => Run::begin(call, &job.name, meta.to_stored(), options, payload),
            });
        }
        Ok(())
    }
}

/// What became of each job.
fn enqueued(reply: &Reply, jobs: usize, durability: Durability) -> Result<Vec<Enqueued>> {
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
    if enqueued.len() != jobs {
        let reason = format!("{} ids for {jobs} jobs", enqueued.len());
        return Err(Error::Protocol {
            operation: "enqueue",
            reason,
        });
    }
    Ok(enqueued)
}

/// Whether a job goes to the lane at once, and leaves nothing behind but a unique key that is held for a time.
fn is_plain(job: &NewJob) -> bool {
    job.meta.group.is_none()
        && job.meta.priority == Priority::Normal
        && job.on_conflict == OnConflict::Refuse
        && job.delay.is_none_or(|delay| delay.is_zero())
        && job.expires.is_none()
        && job.deadline.is_none()
        && job
            .unique
            .as_ref()
            .is_none_or(|unique| unique.window().is_some())
}

/// Whether plain jobs go the short way. On a queue with a maximum depth it is tried in vain, so for a while it is not; whether there is
/// such a maximum is never taken from here.
#[derive(Debug)]
pub(super) struct ShortWay {
    began: Instant,
    /// Until when it is closed, ms from `began`.
    closed_until_ms: AtomicU64,
}

/// How long a queue is taken to have a maximum depth before that is seen again.
const SHORT_WAY_CLOSED: Duration = Duration::from_secs(1);

impl ShortWay {
    pub(super) fn open() -> Self {
        Self {
            began: Instant::now(),
            closed_until_ms: AtomicU64::new(0),
        }
    }

    fn is_open(&self) -> bool {
        let until_ms = self.closed_until_ms.load(Ordering::Relaxed);
        // Most queues have no maximum, and ask for no time.
        until_ms == 0 || millis(self.began.elapsed()) >= until_ms
    }

    fn close(&self) {
        let until_ms = millis(self.began.elapsed() + SHORT_WAY_CLOSED);
        self.closed_until_ms.store(until_ms, Ordering::Relaxed);
    }
}

/// Jobs of a call, one behind the other, that differ in nothing but their payloads, or in these and in their metas: the rest is
/// told once. Most calls are one run, and cost Redis and this program one or two arguments a job; three where many tenants' jobs travel
/// together.
struct Run<'a> {
    /// Where among the arguments it says how many they are.
    place: usize,
    jobs: i64,
    name: &'a str,
    /// What all of them have; `None` once each has its own.
    meta: Option<Cow<'static, str>>,
    options: Options<'a>,
    /// Each comes with its group.
    groups: bool,
}

/// In place of a meta: each payload has its own in front of it.
const OWN_META: &str = "*";
/// In place of options: each payload has its group and its meta in front of it.
const OWN_GROUP: &str = "#";

impl<'a> Run<'a> {
    fn begin(
        call: &mut Call,
        name: &'a str,
        meta: Cow<'static, str>,
        options: Options<'a>,
        payload: Bytes,
    ) -> Self {
        let place = call.place();
        let said = [name, &*meta].map(|text| Bytes::copy_from_slice(text.as_bytes()));
        call.push("jobs", Bytes::from_static(b"1"));
        said.into_iter().for_each(|text| call.push("jobs", text));
        call.push("jobs", options.to_stored().into());
        call.push("jobs", payload);
        Self {
            place,
            jobs: 1,
            name,
            meta: Some(meta),
            options,
            groups: false,
        }
    }

    /// Whether a job may be one of them, whatever its meta.
    fn is_of(&self, name: &str, options: &Options<'_>) -> bool {
        self.name == name
            && (self.options == *options
                || self.options.only_group().is_some() && options.only_group().is_some())
    }

    /// The run with a job more; another run, when its jobs have a meta or a group in common that this one has not.
    fn add(
        mut self,
        call: &mut Call,
        meta: Cow<'static, str>,
        options: Options<'a>,
        payload: Bytes,
    ) -> Self {
        if self.groups || self.options != options {
            return self.add_of_group(call, meta, options, payload);
        }
        match self.meta.take() {
            Some(common) if common == meta => self.meta = Some(common),
            Some(common) if self.jobs > 1 => {
                self.meta = Some(common);
                return Self::begin(call, self.name, meta, self.options, payload);
            }
            Some(common) => {
                call.set(self.place + 2, Bytes::from_static(OWN_META.as_bytes()));
                call.insert(self.place + 4, text(common));
                call.push("jobs", text(meta));
            }
            None => call.push("jobs", text(meta)),
        }
        call.push("jobs", payload);
        self.count(call)
    }

    fn add_of_group(
        mut self,
        call: &mut Call,
        meta: Cow<'static, str>,
        options: Options<'a>,
        payload: Bytes,
    ) -> Self {
        let group = |options: &Options<'_>| {
            let group = options.only_group().unwrap_or_default();
            Bytes::copy_from_slice(group.as_bytes())
        };
        if !self.groups {
            let Some(common) = self.meta.take().filter(|_| self.jobs == 1) else {
                return Self::begin(call, self.name, meta, options, payload);
            };
            call.set(self.place + 2, Bytes::from_static(OWN_META.as_bytes()));
            call.set(self.place + 3, Bytes::from_static(OWN_GROUP.as_bytes()));
            call.insert(self.place + 4, text(common));
            call.insert(self.place + 4, group(&self.options));
            self.groups = true;
        }
        call.push("jobs", group(&options));
        call.push("jobs", text(meta));
        call.push("jobs", payload);
        self.count(call)
    }

    fn count(mut self, call: &mut Call) -> Self {
        self.jobs += 1;
        call.set_number(self.place, self.jobs);
        self
    }
}

fn text(text: Cow<'static, str>) -> Bytes {
    match text {
        Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
        Cow::Owned(text) => text.into(),
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
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unique: bool,
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
    fn of(job: &'a NewJob) -> Self {
        let mut options = Self {
            group: job.meta.group.as_deref(),
            priority: Some(job.meta.priority.name())
                .filter(|_| job.meta.priority != Priority::Normal),
            delay_ms: job.delay.filter(|delay| !delay.is_zero()).map(millis),
            expires_ms: job.expires.map(millis),
            deadline_ms: job.deadline.map(millis),
            ..Self::default()
        };
        if let Some(unique) = &job.unique {
            options.unique = true;
            let hold = unique
                .window()
                .unwrap_or(config::UNIQUE_BACKSTOP + job.delay.unwrap_or_default());
            options.unique_ms = Some(millis(hold));
            options.window = unique.window().is_some();
            options.waiting = unique.hold == Hold::Waiting;
            options.conflict =
                Some(job.on_conflict.name()).filter(|_| job.on_conflict != OnConflict::Refuse);
        }
        // Entry ids name jobs of one lane only.
        if options.delay_ms.is_some()
            || options.priority.is_some()
            || job.on_conflict == OnConflict::Throttle
        {
            options.id = Some(uuid::Uuid::now_v7().simple().to_string());
        }
        options
    }

    /// The group, when there is nothing else to say.
    fn only_group(&self) -> Option<&'a str> {
        let usual = Self {
            group: self.group,
            ..Self::default()
        };
        self.group.filter(|_| *self == usual)
    }

    /// In as few words as there are: the script has no need of a parser for those of most jobs.
    fn to_stored(&self) -> String {
        let window = self.unique_ms.filter(|_| self.window);
        let usual = Self {
            group: self.group,
            unique: window.is_some(),
            unique_ms: window,
            window: window.is_some(),
            ..Self::default()
        };
        if *self != usual {
            return serde_json::to_string(self).expect("plain strings and numbers");
        }
        match (window, self.group) {
            (None, None) => String::new(),
            (None, Some(group)) => format!("@{group}"),
            (Some(window), None) => format!("!{window}"),
            (Some(window), Some(group)) => format!("!{window}@{group}"),
        }
    }
}
