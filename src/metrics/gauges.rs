//! What queues hold, asked of Redis when somebody wants to know, in Prometheus's text format.
//!
//! Not by way of the recorder: a recorder repeats the last value for ever, and a queue that cannot be looked at must not look healthy.
//! So there is a line for what Redis has answered just now, and none for the rest.

use std::fmt::Write as _;
use std::time::Duration;

use futures_util::future::join_all;

use super::{
    JOBS, Metric, OLDEST_READY, OPEN_CIRCUITS, OVERDUE, PAUSED, READY, REDIS_UP, UPKEEP_LAG,
};
use crate::broker::{Broker, Counts};
use crate::client::Millstream;
use crate::error::Result;
use crate::redis::Patience;

/// How long a scrape waits for Redis. Prometheus waits 10 s by default, and a healthy Redis answers in milliseconds.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// The gauges of some queues: jobs by state, ages, upkeep. A scrape costs Redis one short script per queue, whatever it holds.
#[derive(Clone, Debug)]
pub struct QueueGauges {
    queues: Vec<Broker>,
}

impl QueueGauges {
    /// For `queues`, over the connection of `client`.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] when a name is not allowed.
    pub fn new<'a>(client: &Millstream, queues: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut names: Vec<&str> = queues.into_iter().collect();
        names.sort_unstable();
        names.dedup();
        let queues = names.into_iter().map(|name| client.broker(name));
        Ok(Self {
            queues: queues.collect::<Result<_>>()?,
        })
    }

    /// Asks Redis, for a second at most. What it did not answer is not in the text, and `millstream_redis_up` is 0 then.
    pub async fn render(&self) -> String {
        let ask = async |broker: &Broker| {
            let asked = broker.stats(Patience::brief(Duration::ZERO));
            let counts = tokio::time::timeout(ANSWERED_WITHIN, asked).await;
            counts.ok().and_then(Result::ok)
        };
        let answers = join_all(self.queues.iter().map(ask)).await;
        let known: Vec<(&str, &Counts)> = self
            .queues
            .iter()
            .zip(&answers)
            .filter_map(|(broker, counts)| Some((broker.queue.as_str(), counts.as_ref()?)))
            .collect();
        let mut text = String::new();
        states(&mut text, &known);
        lanes(&mut text, &known);
        let seconds = |age: Option<Duration>| age.map(|age| age.as_secs_f64());
        let one = |yes: bool| Some(f64::from(u8::from(yes)));
        type Read<'a> = &'a dyn Fn(&Counts) -> Option<f64>;
        let gauges: [(&Metric, Read<'_>); 5] = [
            (&OLDEST_READY, &|counts| {
                seconds(Some(counts.oldest_ready.unwrap_or_default()))
            }),
            (&OVERDUE, &|counts| seconds(Some(counts.overdue))),
            (&UPKEEP_LAG, &|counts| seconds(counts.swept_ago)),
            (&PAUSED, &|counts| one(counts.paused)),
            (&OPEN_CIRCUITS, &|counts| {
                Some(counts.open_circuits.len() as f64)
            }),
        ];
        for (metric, read) in gauges {
            let lines: Vec<(&str, f64)> = known
                .iter()
                .filter_map(|(queue, counts)| Some((*queue, read(counts)?)))
                .collect();
            if !lines.is_empty() {
                head(&mut text, metric);
            }
            for (queue, value) in lines {
                line(&mut text, metric, &[("queue", queue)], value);
            }
        }
        head(&mut text, &REDIS_UP);
        let up = known.len() == self.queues.len();
        line(&mut text, &REDIS_UP, &[], f64::from(u8::from(up)));
        text
    }
}

fn states(text: &mut String, known: &[(&str, &Counts)]) {
    if !known.is_empty() {
        head(text, &JOBS);
    }
    for (queue, counts) in known {
        for (state, jobs) in [
            ("ready", counts.ready),
            ("running", counts.running),
            ("scheduled", counts.scheduled),
            ("held", counts.held),
            ("dead", counts.dead),
        ] {
            line(
                text,
                &JOBS,
                &[("queue", queue), ("state", state)],
                jobs as f64,
            );
        }
    }
}

fn lanes(text: &mut String, known: &[(&str, &Counts)]) {
    if !known.is_empty() {
        head(text, &READY);
    }
    for (queue, counts) in known {
        for (lane, jobs) in &counts.ready_by_lane {
            let labels = [("queue", *queue), ("lane", lane.name())];
            line(text, &READY, &labels, *jobs as f64);
        }
    }
}

fn head(text: &mut String, metric: &Metric) {
    let Metric { name, help, .. } = metric;
    let kind = metric.kind.name();
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, metric: &Metric, labels: &[(&str, &str)], value: f64) {
    debug_assert!(labels.iter().map(|(name, _)| name).eq(metric.labels));
    text.push_str(metric.name);
    for (number, (name, value)) in labels.iter().enumerate() {
        let before = if number == 0 { '{' } else { ',' };
        // A queue's name has neither quotes nor backslashes nor line ends.
        let _ = write!(text, "{before}{name}=\"{value}\"");
    }
    let after = if labels.is_empty() { "" } else { "}" };
    let _ = writeln!(text, "{after} {value}");
}
