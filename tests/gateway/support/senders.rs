//! Webhooks as their senders make them. They are signed here by hand, so that a mistake in the gateway's own code shows.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use millstream::gateway::signature::{Algorithm, Encoding, HmacSettings};
use millstream::gateway::source::{SchemeSettings, SourceSettings};
use sha2::{Sha256, Sha512};

use super::QUEUE;
use super::http;

/// The secret of the sources whose secrets are text.
pub(crate) const SECRET: &str = "shpss_5ecret";
/// The key of the Standard Webhooks source.
pub(crate) const STANDARD_KEY: &[u8] = b"24 bytes of a standard ke";
/// JSON in front, and behind it what no text has: a body is bytes.
pub(crate) const BODY: &[u8] =
    b"{\"id\":820982911946154508,\"note\":\"Zo\xc3\xab\"}\r\n\x00\xff\xfe\xc3\x28";

pub(crate) fn standard_secret() -> String {
    format!("whsec_{}", BASE64.encode(STANDARD_KEY))
}

/// A source per scheme.
pub(crate) fn sources() -> Vec<(String, SourceSettings)> {
    let billing = HmacSettings {
        prefix: "v2=".to_owned(),
        encoding: Encoding::Hex,
        algorithm: Algorithm::Sha512,
        id_header: Some("X-Billing-Id".to_owned()),
        topic_header: Some("X-Billing-Event".to_owned()),
        timestamp_header: Some("X-Billing-Time".to_owned()),
        signed: Some("{timestamp}:{id}:{body}".to_owned()),
        ..HmacSettings::new("X-Billing-Signature")
    };
    let secret = SECRET.to_owned();
    [
        ("shop", SchemeSettings::Shopify, secret.clone()),
        ("code", SchemeSettings::Github, secret.clone()),
        ("pay", SchemeSettings::Stripe, secret.clone()),
        ("chat", SchemeSettings::Slack, secret.clone()),
        ("standard", SchemeSettings::Standard, standard_secret()),
        ("billing", SchemeSettings::Hmac(billing), secret),
    ]
    .map(|(name, scheme, secret)| {
        (
            name.to_owned(),
            SourceSettings::new(scheme, [secret], QUEUE),
        )
    })
    .into()
}

/// One webhook on its way.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) source: &'static str,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Delivery {
    fn new(source: &'static str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        let headers = headers.iter();
        Self {
            source,
            headers: headers
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            body: body.to_owned(),
        }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        let before = self.headers.len();
        self.headers
            .retain(|(found, _)| !found.eq_ignore_ascii_case(name));
        assert!(self.headers.len() < before, "there is no {name}");
        self
    }

    pub(crate) fn path(&self) -> String {
        format!("/webhooks/{}", self.source)
    }

    pub(crate) fn request(&self) -> Vec<u8> {
        http::request("POST", &self.path(), &self.headers, &self.body)
    }
}

pub(crate) fn shopify(id: &str, body: &[u8]) -> Delivery {
    shopify_by(SECRET, id, body)
}

pub(crate) fn shopify_by(secret: &str, id: &str, body: &[u8]) -> Delivery {
    let signature = BASE64.encode(sha256(secret.as_bytes(), &[body]));
    Delivery::new(
        "shop",
        &[
            ("Content-Type", "application/json"),
            ("X-Shopify-Topic", "orders/create"),
            ("X-Shopify-Hmac-Sha256", &signature),
            ("X-Shopify-Shop-Domain", "mill.myshopify.com"),
            ("X-Shopify-API-Version", "2026-07"),
            ("X-Shopify-Webhook-Id", id),
        ],
        body,
    )
}

pub(crate) fn github(id: &str, body: &[u8]) -> Delivery {
    let signature = hex::encode(sha256(SECRET.as_bytes(), &[body]));
    Delivery::new(
        "code",
        &[
            ("Content-Type", "application/json"),
            ("X-GitHub-Event", "push"),
            ("X-GitHub-Delivery", id),
            ("X-GitHub-Hook-ID", "292430182"),
            ("X-GitHub-Hook-Installation-Target-ID", "79929171"),
            ("X-GitHub-Hook-Installation-Target-Type", "repository"),
            ("X-Hub-Signature-256", &format!("sha256={signature}")),
        ],
        body,
    )
}

/// Stripe names its event in the body, so the id is one of JSON.
pub(crate) fn stripe(body: &[u8]) -> Delivery {
    let timestamp = unix_seconds().to_string();
    let signature = hex::encode(sha256(
        SECRET.as_bytes(),
        &[timestamp.as_bytes(), b".", body],
    ));
    Delivery::new(
        "pay",
        &[
            ("Content-Type", "application/json; charset=utf-8"),
            (
                "Stripe-Signature",
                &format!("t={timestamp},v1={signature},v0={}", "0".repeat(64)),
            ),
        ],
        body,
    )
}

pub(crate) fn slack(body: &[u8]) -> Delivery {
    let timestamp = unix_seconds().to_string();
    let signature = sha256(
        SECRET.as_bytes(),
        &[b"v0:", timestamp.as_bytes(), b":", body],
    );
    Delivery::new(
        "chat",
        &[
            ("Content-Type", "application/json"),
            ("X-Slack-Request-Timestamp", &timestamp),
            (
                "X-Slack-Signature",
                &format!("v0={}", hex::encode(signature)),
            ),
        ],
        body,
    )
}

pub(crate) fn standard(id: &str, body: &[u8]) -> Delivery {
    standard_at(unix_seconds(), id, body)
}

/// Signed at `timestamp`, unix seconds.
pub(crate) fn standard_at(timestamp: u64, id: &str, body: &[u8]) -> Delivery {
    let timestamp = timestamp.to_string();
    let signature = standard_signature(id, &timestamp, body);
    // A key that is being rotated out signs too, and stands first.
    let signatures = format!("v1,{} {signature}", BASE64.encode([7; 32]));
    Delivery::new(
        "standard",
        &[
            ("Content-Type", "application/json; charset=utf-8"),
            ("Webhook-Id", id),
            ("Webhook-Timestamp", &timestamp),
            ("Webhook-Signature", &signatures),
        ],
        body,
    )
}

/// What the specification says: `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`.
pub(crate) fn standard_signature(id: &str, timestamp: &str, body: &[u8]) -> String {
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
    format!("v1,{}", BASE64.encode(sha256(STANDARD_KEY, &signed)))
}

pub(crate) fn billing(id: &str, body: &[u8]) -> Delivery {
    let timestamp = unix_seconds().to_string();
    let mut mac = Hmac::<Sha512>::new_from_slice(SECRET.as_bytes()).unwrap();
    for part in [timestamp.as_bytes(), b":", id.as_bytes(), b":", body] {
        mac.update(part);
    }
    let signature = hex::encode(mac.finalize().into_bytes());
    Delivery::new(
        "billing",
        &[
            ("Content-Type", "application/octet-stream"),
            ("X-Billing-Event", "invoice.paid"),
            ("X-Billing-Id", id),
            ("X-Billing-Time", &timestamp),
            ("X-Billing-Signature", &format!("v2={signature}")),
        ],
        body,
    )
}

pub(crate) fn unix_seconds() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or(Duration::ZERO).as_secs()
}

fn sha256(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}
