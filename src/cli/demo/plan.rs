//! What is sent in the demo, and what the user's program will make of each: the same for the same number of jobs.

use hyper::http::request::Builder;
use millstream::gateway::signature::{Scheme, Secret};

/// Attempts that a job of the demo has.
pub(super) const MAX_ATTEMPTS: u32 = 4;
/// The queue of the demo.
pub(super) const QUEUE: &str = "webhooks";

/// Of so many deliveries one is sent twice, as senders do when an answer was late.
const TWICE_EVERY: usize = 20;
/// Of so many deliveries one fails twice before it succeeds.
const FAILS_TWICE_EVERY: usize = 20;
/// Of so many deliveries one fails at every attempt.
const FAILS_ALWAYS_EVERY: usize = 100;
/// So many genuine deliveries come with one that is forged.
const FORGED_EVERY: usize = 50;

/// Whose webhooks these are. Each is a source of the gateway, by this name and scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sender {
    Shopify,
    Github,
    Standard,
}

impl Sender {
    pub(super) const ALL: [Self; 3] = [Self::Shopify, Self::Github, Self::Standard];

    /// The name of its source, and of its scheme in the config file.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Shopify => "shopify",
            Self::Github => "github",
            Self::Standard => "standard",
        }
    }

    pub(super) fn scheme(self) -> Scheme {
        match self {
            Self::Shopify => Scheme::shopify(),
            Self::Github => Scheme::github(),
            Self::Standard => Scheme::standard(),
        }
    }

    /// The header that carries the delivery id. The gateway keeps it, and so it reaches the user's program.
    pub(super) fn id_header(self) -> &'static str {
        match self {
            Self::Shopify => "x-shopify-webhook-id",
            Self::Github => "x-github-delivery",
            Self::Standard => "webhook-id",
        }
    }
}

/// A body as its sender writes it.
pub(super) struct Fixture {
    pub(super) sender: Sender,
    pub(super) topic: &'static str,
    pub(super) body: &'static [u8],
}

macro_rules! fixture {
    ($sender:ident, $topic:literal, $file:literal) => {
        Fixture {
            sender: Sender::$sender,
            topic: $topic,
            body: include_bytes!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/fixtures/webhooks/",
                $file
            )),
        }
    };
}

const FIXTURES: &[Fixture] = &[
    fixture!(Shopify, "orders/create", "shopify/orders_create.json"),
    fixture!(Github, "push", "github/push.json"),
    fixture!(Standard, "invoice.paid", "standard/invoice_paid.json"),
    fixture!(Shopify, "products/update", "shopify/products_update.json"),
    fixture!(Github, "pull_request", "github/pull_request.json"),
    fixture!(Standard, "user.created", "standard/user_created.json"),
    fixture!(Shopify, "app/uninstalled", "shopify/app_uninstalled.json"),
    fixture!(Github, "issues", "github/issues.json"),
    fixture!(
        Standard,
        "message.attachment",
        "standard/message_attachment.json"
    ),
    fixture!(Shopify, "customers/update", "shopify/customers_update.json"),
    fixture!(Github, "workflow_run", "github/workflow_run.json"),
    fixture!(Shopify, "refunds/create", "shopify/refunds_create.json"),
];

/// What the user's program does with a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    Succeeds,
    FailsTwice,
    FailsAlways,
}

impl Behaviour {
    /// The answer to this attempt.
    pub(super) fn status(self, attempt: u32) -> u16 {
        match self {
            Self::Succeeds => 200,
            Self::FailsTwice if attempt > 2 => 200,
            Self::FailsTwice | Self::FailsAlways => 500,
        }
    }
}

/// One webhook. Sent once or twice, always with the same id.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) id: String,
    pub(super) sender: Sender,
    pub(super) topic: &'static str,
    pub(super) body: &'static [u8],
    pub(super) behaviour: Behaviour,
    /// False: signed with a secret that the gateway does not know.
    pub(super) genuine: bool,
}

impl Delivery {
    /// Adds the headers of this delivery, signed with `secret` at `now` (unix seconds).
    pub(super) fn sign(&self, request: Builder, secret: &Secret, now: i64) -> Builder {
        let scheme = self.sender.scheme();
        let signature = scheme.sign(secret, &self.id, now, self.body);
        let request = request
            .header("content-type", "application/json")
            .header(self.sender.id_header(), &self.id)
            .header(scheme.signature_header(), signature);
        match self.sender {
            Sender::Shopify => request
                .header("x-shopify-topic", self.topic)
                .header("x-shopify-shop-domain", "mill-supplies.example"),
            Sender::Github => request.header("x-github-event", self.topic),
            Sender::Standard => request.header("webhook-timestamp", now),
        }
    }
}

/// Everything that will be sent.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) deliveries: Vec<Delivery>,
    /// Requests in their order: the delivery that each carries.
    pub(super) requests: Vec<usize>,
}

impl Plan {
    /// `jobs` genuine deliveries, some of them twice, and some forged ones.
    pub(super) fn new(jobs: usize) -> Self {
        let forged = jobs.div_ceil(FORGED_EVERY);
        let deliveries: Vec<Delivery> = (0..jobs + forged)
            .map(|number| {
                let fixture = &FIXTURES[number % FIXTURES.len()];
                Delivery {
                    id: format!("demo-{number}"),
                    sender: fixture.sender,
                    topic: fixture.topic,
                    body: fixture.body,
                    behaviour: match number {
                        n if n % FAILS_ALWAYS_EVERY == 3 => Behaviour::FailsAlways,
                        n if n % FAILS_TWICE_EVERY == 7 => Behaviour::FailsTwice,
                        _ => Behaviour::Succeeds,
                    },
                    genuine: number < jobs,
                }
            })
            .collect();
        let twice = (0..jobs).filter(|number| number % TWICE_EVERY == 11);
        let mut requests: Vec<usize> = (0..deliveries.len()).chain(twice).collect();
        shuffle(&mut requests);
        Self {
            deliveries,
            requests,
        }
    }
}

/// The same disorder at every run: a demo that fails must fail again.
fn shuffle(requests: &mut [usize]) {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for last in (1..requests.len()).rev() {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        requests.swap(last, (state % (last as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_plan_has_every_kind_in_its_share() {
        let plan = Plan::new(1_000);
        let of = |behaviour| {
            plan.deliveries
                .iter()
                .filter(|d| d.genuine && d.behaviour == behaviour)
                .count()
        };
        assert_eq!(of(Behaviour::FailsTwice), 50);
        assert_eq!(of(Behaviour::FailsAlways), 10);
        assert_eq!(plan.deliveries.iter().filter(|d| !d.genuine).count(), 20);
        assert_eq!(plan.requests.len(), 1_000 + 50 + 20);
        assert_eq!(plan.requests.iter().collect::<HashSet<_>>().len(), 1_020);
        for sender in Sender::ALL {
            assert!(plan.deliveries.iter().any(|d| d.sender == sender));
        }
    }

    #[test]
    fn the_smallest_demo_has_every_kind_too() {
        let plan = Plan::new(20);
        for behaviour in [
            Behaviour::Succeeds,
            Behaviour::FailsTwice,
            Behaviour::FailsAlways,
        ] {
            assert!(
                plan.deliveries
                    .iter()
                    .any(|d| d.genuine && d.behaviour == behaviour)
            );
        }
        assert_eq!(plan.requests.len(), 20 + 1 + 1);
    }

    #[test]
    fn every_fixture_is_sent_as_the_index_says() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/webhooks/index.json"
        );
        let index: Vec<serde_json::Value> =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let listed: HashSet<(String, String)> = index
            .iter()
            .map(|entry| {
                (
                    entry["scheme"].as_str().unwrap().into(),
                    entry["topic"].as_str().unwrap().into(),
                )
            })
            .collect();
        let sent = FIXTURES
            .iter()
            .map(|f| (f.sender.name().into(), f.topic.into()))
            .collect();
        assert_eq!(listed, sent);
        for fixture in FIXTURES {
            assert!(
                (200..=20_000).contains(&fixture.body.len()),
                "{}",
                fixture.topic
            );
        }
    }
}
