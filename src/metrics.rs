//! Every metric that Millstream writes: name, kind, unit, labels, help. One list, which docs/metrics.md repeats and tests hold it to.
//!
//! Counters, histograms and the gauges of a worker go through the [`metrics`](https://docs.rs/metrics) facade: install any recorder
//! **before** connecting, for the handles are made once and kept. Without one they do nothing. What a queue holds is asked of Redis when it
//! is wanted: [`QueueGauges`].
//!
//! Labels have few values, all of them from the settings or from here: `queue`, `source`, `outcome`, `state`,
//! `lane`.

mod gauges;
pub(crate) mod handles;

pub use gauges::QueueGauges;

/// What is counted: ever more, up and down, or a distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Counts up from the start of the process.
    Counter,
    /// Stands at a value.
    Gauge,
    /// Counts how many were at most so large.
    Histogram,
}

impl Kind {
    /// Prometheus's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Metric {
    /// Its name, with `millstream_` in front and the unit behind.
    pub name: &'static str,
    /// What is counted.
    pub kind: Kind,
    /// `jobs`, `seconds`, `calls` …
    pub unit: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// The values of the label `outcome`, `state` or `lane`, where it has one.
    pub values: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// Buckets of every histogram, seconds: from below a round trip to above the longest wait that a webhook bears.
pub const BUCKETS_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 1800.0, 7200.0,
];

/// The constants, and [`ALL`] of them.
macro_rules! list {
    ($($id:ident: $kind:ident $name:literal, $unit:literal, [$($label:literal),*], [$($value:literal),*], $help:literal;)+) => {
        $(pub(crate) const $id: Metric = Metric {
            name: concat!("millstream_", $name),
            kind: Kind::$kind,
            unit: $unit,
            labels: &[$($label),*],
            values: &[$($value),*],
            help: $help,
        };)+

        /// All of them, in the order of the documentation.
        pub const ALL: &[Metric] = &[$($id),+];
    };
}

list! {
    ENQUEUED: Counter "enqueued_jobs_total", "jobs", ["queue"], [],
        "Jobs that this process stored.";
    DUPLICATES: Counter "duplicate_jobs_total", "jobs", ["queue"], [],
        "Enqueues that found their unique key held and made no job.";
    NOT_ENQUEUED: Counter "enqueue_errors_total", "calls", ["queue", "outcome"], ["refused", "unreachable", "ambiguous", "failed"],
        "Calls to Redis that should have stored jobs and did not, or may not have.";

    STARTED: Counter "started_attempts_total", "attempts", ["queue"], [],
        "Attempts whose handler was called.";
    SETTLED: Counter "settled_attempts_total", "attempts", ["queue", "outcome"],
        ["completed", "retried", "snoozed", "dead", "released", "lost"],
        "Deliveries that this process settled, by what became of the job; lost: it was no longer this worker's to settle.";
    DEAD: Counter "dead_jobs_total", "jobs", ["queue", "outcome"], ["attempts", "refused", "expired", "crash_loop"],
        "Jobs that this process sent to the dead letter, by reason.";
    STALLED: Counter "stalled_jobs_total", "jobs", ["queue"], [],
        "Jobs that this process took from workers that had gone silent.";
    LEASES_LOST: Counter "leases_lost_total", "leases", ["queue"], [],
        "Leases that this process lost: the job was reclaimed or cancelled while it was in hand.";
    PROMOTED: Counter "promoted_jobs_total", "jobs", ["queue"], [],
        "Scheduled jobs that this process made ready when they were due.";
    HANDLER_TIME: Histogram "handler_seconds", "seconds", ["queue"], [],
        "Time that handlers took, however they ended.";
    QUEUE_TIME: Histogram "queue_wait_seconds", "seconds", ["queue"], [],
        "Time that jobs were ready before their handler was called, by Redis's clock.";
    LATENESS: Histogram "promotion_lateness_seconds", "seconds", ["queue"], [],
        "How long the most overdue job of a promotion had been due.";
    RUNNING: Gauge "worker_running_jobs", "jobs", ["queue"], [],
        "Handlers that run in this process.";
    SLOTS: Gauge "worker_slots", "jobs", ["queue"], [],
        "Handlers that may run at once in this process.";
    CIRCUIT: Gauge "circuit_open", "1", ["queue"], [],
        "1 while the circuit of a worker of this process is open or half-open, else 0.";
    CIRCUIT_OPENINGS: Counter "circuit_openings_total", "openings", ["queue"], [],
        "Times that the circuit opened after it had been closed.";

    FORWARDED: Counter "forwarded_requests_total", "requests", ["queue", "outcome"],
        ["completed", "refused", "rate_limited", "redirected", "rejected", "server_error", "unanswered", "unconnected", "given_up"],
        "Requests to the target of a queue, by how they ended.";
    FORWARD_TIME: Histogram "forward_seconds", "seconds", ["queue"], [],
        "Time from sending a request to a target until its answer was read.";

    GATEWAY_REQUESTS: Counter "gateway_requests_total", "requests", ["source", "outcome"],
        ["stored", "duplicate", "ok", "bad_request", "unauthorized", "too_large", "body_timeout", "too_many", "unavailable", "gone", "other"],
        "Requests to /webhooks/{source}, by how they were answered; source is empty for names that are not configured.";
    GATEWAY_TIME: Histogram "gateway_request_seconds", "seconds", ["source"], [],
        "Time from a webhook's head to its answer.";

    REDIS_CALLS: Counter "redis_calls_total", "calls", [], [],
        "Calls sent to Redis, repetitions included.";
    REDIS_ERRORS: Counter "redis_errors_total", "calls", ["outcome"],
        ["away", "busy", "full", "no_group", "no_script", "unknown", "broken"],
        "Calls that failed, by what it means: away (no connection), busy (again soon), full (no memory, disk, replica or right), no_group and no_script (made anew), unknown (perhaps carried out), broken.";
    REDIS_TIME: Histogram "redis_call_seconds", "seconds", [], [],
        "Time that answered calls took; blocked reads are not among them.";
    RECONNECTS: Counter "redis_reconnects_total", "connections", [], [],
        "Connections to Redis that were made anew.";
    SPANS_LOST: Counter "spans_lost_total", "spans", ["outcome"], ["full", "undelivered"],
        "Spans for a collector that were lost: full (more waited than may), undelivered (the collector did not take them). Of processes that export traces.";

    JOBS: Gauge "queue_jobs", "jobs", ["queue", "state"], ["ready", "running", "scheduled", "held", "dead"],
        "Jobs that the queue holds. Asked of Redis at the scrape; absent when Redis did not answer.";
    READY: Gauge "queue_ready_jobs", "jobs", ["queue", "lane"], ["next", "normal", "suspect", "high", "low"],
        "Ready jobs lane by lane: handed-back ones, which run first, those of each priority, and suspects, which run one at a time. Absent when Redis did not answer.";
    OLDEST_READY: Gauge "queue_oldest_ready_seconds", "seconds", ["queue"], [],
        "Age of the ready job that waits longest; 0 when none waits. Absent when Redis did not answer.";
    OVERDUE: Gauge "queue_overdue_seconds", "seconds", ["queue"], [],
        "How long the most overdue scheduled job has been due; 0 when none is. Absent when Redis did not answer.";
    UPKEEP_LAG: Gauge "queue_upkeep_lag_seconds", "seconds", ["queue"], [],
        "Time since any worker last looked for silent ones; absent before the first, and when Redis did not answer.";
    PAUSED: Gauge "queue_paused", "1", ["queue"], [],
        "1 while the queue is paused. Absent when Redis did not answer.";
    OPEN_CIRCUITS: Gauge "queue_open_circuits", "workers", ["queue"], [],
        "Workers of any process that claim nothing because their target is down. Absent when Redis did not answer.";
    REDIS_UP: Gauge "redis_up", "1", [], [],
        "1 if Redis answered this scrape for every queue, else 0.";
}

/// Tells the recorder what each metric means. Done by every connect; for a recorder that is installed later.
pub fn describe() {
    for metric in ALL {
        let unit = (metric.unit == "seconds").then_some(metrics::Unit::Seconds);
        let unit = unit.unwrap_or(metrics::Unit::Count);
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, unit, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, unit, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, unit, metric.help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_unit_and_labels_are_bounded() {
        for metric in ALL {
            let name = metric.name;
            let ending = match metric.kind {
                Kind::Counter => "_total",
                Kind::Histogram => "_seconds",
                Kind::Gauge if metric.unit == "seconds" => "_seconds",
                Kind::Gauge => "",
            };
            assert!(
                name.starts_with("millstream_") && name.ends_with(ending),
                "{name}"
            );
            for label in metric.labels {
                let listed = !metric.values.is_empty();
                let bounded = match *label {
                    "queue" | "source" => true,
                    "outcome" | "state" | "lane" => listed,
                    _ => false,
                };
                assert!(bounded, "{name}: {label}");
            }
            assert_eq!(ALL.iter().filter(|other| other.name == name).count(), 1);
        }
    }

    /// The table of docs/metrics.md, as it follows from the list.
    fn table() -> String {
        let mut table =
            String::from("| metric | kind | unit | labels | says |\n|---|---|---|---|---|\n");
        for metric in ALL {
            let label = |label: &&str| match (*label, metric.values) {
                ("outcome" | "state" | "lane", values) => {
                    format!("`{label}`: {}", values.join(", "))
                }
                _ => format!("`{label}`"),
            };
            let labels: Vec<String> = metric.labels.iter().map(label).collect();
            table.push_str(&format!(
                "| `{}` | {} | {} | {} | {} |\n",
                metric.name,
                metric.kind.name(),
                metric.unit,
                labels.join("; "),
                metric.help
            ));
        }
        table
    }

    #[test]
    fn the_page_on_metrics_lists_all_of_them() {
        let page = include_str!("../docs/metrics.md");
        assert!(
            page.contains(&table()),
            "put this into docs/metrics.md:\n{}",
            table()
        );
    }
}
