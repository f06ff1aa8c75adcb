//! The doctor: audits the server and every queue, says what is wrong and what it means, and mends what can be mended without
//! guessing.
//!
//! A look is a step that Redis answers within a few milliseconds, and judges each thing by everything that is stored of it at
//! that moment; so a queue at work gives no false finding. A repair judges anew before it changes anything, in the same step.

mod kinds;
mod queue;
mod server;
mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

pub use kinds::Level;
use kinds::{Kind, kind_of};
use queue::QueueAudit;
use server::Vitals;

use crate::client::Millstream;
use crate::error::Result;

/// Ids that a finding names; there may be a million of them.
const EXAMPLES: usize = 5;
/// A living worker asks every few seconds.
const SILENT_DEFAULT: Duration = Duration::from_secs(600);

/// Something that is not as it should be, and how often it was found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// A word for it that stays: `lost-delivery`, `eviction-policy`. Each has a section in `docs/operating.md`.
    pub code: &'static str,
    /// How bad it is.
    pub level: Level,
    /// The queue; `None` for the server.
    pub queue: Option<String>,
    /// How many jobs, keys or workers.
    pub count: u64,
    /// How many of them were mended.
    pub repaired: u64,
    /// What was found, with values.
    pub what: String,
    /// What it means.
    pub means: &'static str,
    /// What to do about it.
    pub todo: &'static str,
    /// Whether a repair mends it.
    pub repairable: bool,
    /// Some of the ids or keys.
    pub examples: Vec<String>,
}

/// What an audit found.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The queues that were looked at.
    pub queues: Vec<String>,
    /// The findings, in the order in which they were made.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// Nothing is left that is more than a note.
    pub fn is_clean(&self) -> bool {
        !self.findings.iter().any(Finding::is_open)
    }

    fn say(&mut self, code: &str, what: String) {
        self.find(code, None).what = what;
    }

    /// The finding of this kind about this queue (`None`: the server), with one more counted.
    fn find(&mut self, code: &str, queue: Option<&str>) -> &mut Finding {
        let kind: &Kind = kind_of(code).expect("every code is in the table");
        let known = self.findings.iter().position(|found| {
            // What is said of a server differs each time.
            queue.is_some() && found.code == kind.code && found.queue.as_deref() == queue
        });
        let index = known.unwrap_or_else(|| {
            self.findings.push(Finding {
                code: kind.code,
                level: kind.level,
                queue: queue.map(str::to_owned),
                count: 0,
                repaired: 0,
                what: String::new(),
                means: kind.means,
                todo: kind.todo,
                repairable: kind.mends,
                examples: Vec::new(),
            });
            self.findings.len() - 1
        });
        let finding = &mut self.findings[index];
        finding.count += 1;
        finding
    }
}

impl Finding {
    /// It is more than a note, and not all of it was mended.
    pub fn is_open(&self) -> bool {
        self.level > Level::Note && self.repaired < self.count
    }

    fn with_example(&mut self, example: &str) -> &mut Self {
        if self.examples.len() < EXAMPLES && !self.examples.iter().any(|known| known == example) {
            self.examples.push(example.to_owned());
        }
        self
    }
}

/// An audit in the making. Made by [`Millstream::doctor`].
#[derive(Clone, Debug)]
pub struct Doctor {
    client: Millstream,
    queues: Option<Vec<String>>,
    repair: bool,
    silent: Duration,
}

impl Doctor {
    pub(crate) fn new(client: Millstream) -> Self {
        Self {
            client,
            queues: None,
            repair: false,
            silent: SILENT_DEFAULT,
        }
    }

    /// Looks at these queues only. Default: every queue there is.
    #[must_use]
    pub fn queues(mut self, queues: impl IntoIterator<Item = String>) -> Self {
        self.queues = Some(queues.into_iter().collect());
        self
    }

    /// Mends what is safe to mend. Default: only looks.
    #[must_use]
    pub fn repair(mut self, repair: bool) -> Self {
        self.repair = repair;
        self
    }

    /// A worker counts as gone after this silence. Default 10 min; more than the longest lease of the queue.
    #[must_use]
    pub fn silent_after(mut self, silence: Duration) -> Self {
        self.silent = silence;
        self
    }

    /// Audits. `watch` hears how many things of which queue have been looked at, now and then.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] for a queue's name that is not allowed. Else as [`super::Inspector::stats`]; what was repaired
    /// until then stays repaired.
    pub async fn run(self, mut watch: impl FnMut(&str, u64)) -> Result<Diagnosis> {
        let mut found = Diagnosis::default();
        let redis = self.client.redis();
        for node in redis.nodes() {
            let vitals = Box::pin(Vitals::ask(redis, &node)).await?;
            let before = found.findings.len();
            vitals.diagnose(&mut found);
            if let Some(name) = &node.name {
                for finding in &mut found.findings[before..] {
                    finding.what = format!("{name}: {}", finding.what);
                }
            }
        }
        let queues = match self.queues {
            Some(queues) => queues,
            None => self.client.queues().await?,
        };
        for queue in &queues {
            let inspector = self.client.inspect(queue)?;
            let mut audit = QueueAudit {
                inspector: &inspector,
                queue,
                repair: self.repair,
                silent: self.silent,
                found: &mut found,
                seen: BTreeSet::new(),
                slots: BTreeMap::new(),
            };
            audit.run(&mut |looked| watch(queue, looked)).await?;
        }
        found.queues = queues;
        Ok(found)
    }

    /// The words for everything that can be found, worst last within the server's and the queues'.
    pub fn codes() -> Vec<&'static str> {
        kinds::KINDS.iter().map(|kind| kind.code).collect()
    }
}
