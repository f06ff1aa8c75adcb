//! What a worker was told: defaults, ranges, and what of it is kept in Redis.

use std::time::Duration;

use super::circuit::{Circuit, SharedLimit};
use crate::backoff::Backoff;
use crate::broker::GroupOrder;
use crate::config;
use crate::error::{Error, Result};
use crate::rate::Rate;

/// What a worker was told, checked by [`WorkerBuilder::check`].
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) concurrency: usize,
    pub(crate) prefetch: usize,
    /// `None` leaves what another worker or an operator has set, 0 means without limit.
    pub(crate) group_concurrency: Option<usize>,
    /// `None` leaves what another worker has set.
    pub(crate) group_order: Option<GroupOrder>,
    /// As `group_concurrency`: 0 means without limit.
    pub(crate) queue_concurrency: Option<usize>,
    /// As `group_rate`.
    pub(crate) queue_rate: Option<Option<Rate>>,
    /// As `group_burst`.
    pub(crate) queue_burst: Option<u32>,
    /// As `group_concurrency`: 0 means without limit.
    pub(crate) group_max_backlog: Option<u64>,
    /// As `group_concurrency`: `Some(None)` means without limit.
    pub(crate) group_rate: Option<Option<Rate>>,
    /// As `group_concurrency`: 0 means what comes in a second.
    pub(crate) group_burst: Option<u32>,
    pub(crate) max_attempts: u32,
    pub(crate) backoff: Backoff,
    pub(crate) timeout: Duration,
    pub(crate) lease: Duration,
    pub(crate) strict_lease: bool,
    pub(crate) sweep: Duration,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) retain_completed: Duration,
    pub(crate) retain_dead: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) circuit: Option<Circuit>,
    pub(crate) shared_limit: Option<SharedLimit>,
}

impl Settings {
    /// The defaults.
    pub(super) fn new(connect_timeout: Duration) -> Self {
        Self {
            concurrency: config::CONCURRENCY_DEFAULT,
            prefetch: 0,
            group_concurrency: None,
            group_order: None,
            queue_concurrency: None,
            queue_rate: None,
            queue_burst: None,
            group_max_backlog: None,
            group_rate: None,
            group_burst: None,
            max_attempts: config::MAX_ATTEMPTS_DEFAULT,
            backoff: Backoff::default(),
            timeout: config::TIMEOUT_DEFAULT,
            lease: config::LEASE_DEFAULT,
            strict_lease: false,
            sweep: config::SWEEP_DEFAULT,
            shutdown_timeout: config::SHUTDOWN_TIMEOUT_DEFAULT,
            retain_completed: Duration::ZERO,
            retain_dead: config::RETAIN_DEAD_DEFAULT,
            connect_timeout,
            circuit: None,
            shared_limit: None,
        }
    }

    /// Whether each is within its range.
    pub(super) fn check(&self) -> Result<()> {
        let count =
            |name: &str, value: usize, min: usize, max: usize| match (min..=max).contains(&value) {
                true => Ok(()),
                false => Err(Error::setting(name, value, format!("{min} to {max}"))),
            };
        count("concurrency", self.concurrency, 1, config::CONCURRENCY_MAX)?;
        count("prefetch", self.prefetch, 0, config::CONCURRENCY_MAX)?;
        count(
            "group_concurrency",
            self.group_concurrency.unwrap_or_default(),
            0,
            config::GROUP_CONCURRENCY_MAX,
        )?;
        count(
            "queue_concurrency",
            self.queue_concurrency.unwrap_or_default(),
            0,
            config::CONCURRENCY_MAX,
        )?;
        if let Some(Some(rate)) = self.queue_rate {
            rate.check("queue_rate")?;
        }
        count(
            "queue_burst",
            self.queue_burst.unwrap_or_default() as usize,
            0,
            config::BURST_MAX as usize,
        )?;
        if self.group_max_backlog.unwrap_or_default() > config::DEPTH_MAX {
            let jobs = self.group_max_backlog.unwrap_or_default();
            let range = format!("0 to {}", config::DEPTH_MAX);
            return Err(Error::setting("group_max_backlog", jobs, range));
        }
        if let Some(Some(rate)) = self.group_rate {
            rate.check("group_rate")?;
        }
        count(
            "group_burst",
            self.group_burst.unwrap_or_default() as usize,
            0,
            config::BURST_MAX as usize,
        )?;
        count(
            "max_attempts",
            self.max_attempts as usize,
            1,
            config::MAX_ATTEMPTS_MAX as usize,
        )?;
        if let Some(circuit) = &self.circuit {
            circuit.check()?;
        }
        if let Some(limit) = &self.shared_limit {
            limit.check()?;
        }
        let ms = Duration::from_millis;
        for (name, value, min, max) in [
            ("timeout", self.timeout, ms(1), config::TIMEOUT_MAX),
            ("lease", self.lease, config::LEASE_MIN, config::LEASE_MAX),
            ("sweep", self.sweep, ms(100), self.lease / 3),
            (
                "shutdown_timeout",
                self.shutdown_timeout,
                Duration::ZERO,
                config::TIMEOUT_MAX,
            ),
            (
                "retain_completed",
                self.retain_completed,
                Duration::ZERO,
                config::HORIZON_MAX,
            ),
            ("retain_dead", self.retain_dead, ms(1), config::HORIZON_MAX),
        ] {
            if !(min..=max).contains(&value) {
                let show = humantime::format_duration;
                return Err(Error::setting(
                    name,
                    show(value),
                    format!("{} to {}", show(min), show(max)),
                ));
            }
        }
        Ok(())
    }

    /// What of it limits the queue, as it is kept in Redis.
    pub(crate) fn limits(&self) -> Vec<(&'static str, String)> {
        let unless_0 = |jobs: u64| match jobs {
            0 => String::new(),
            jobs => jobs.to_string(),
        };
        let order = self.group_order.map(|order| match order {
            GroupOrder::Free => String::new(),
            GroupOrder::Block => order.name().to_owned(),
        });
        let text = |rate: Option<Rate>| rate.map_or_else(String::new, |rate| rate.to_string());
        let rate = self.group_rate.map(text);
        let limits = [
            (
                "group_concurrency",
                self.group_concurrency.map(|jobs| unless_0(jobs as u64)),
            ),
            (
                "concurrency",
                self.queue_concurrency.map(|jobs| unless_0(jobs as u64)),
            ),
            ("rate", self.queue_rate.map(text)),
            ("burst", self.queue_burst.map(|jobs| unless_0(jobs.into()))),
            ("group_order", order),
            ("group_max_backlog", self.group_max_backlog.map(unless_0)),
            ("group_rate", rate),
            (
                "group_burst",
                self.group_burst.map(|jobs| unless_0(jobs.into())),
            ),
        ];
        let given = limits.into_iter();
        given
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}
