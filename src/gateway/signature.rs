//! Who sent these bytes: signing and verifying webhooks by HMAC, in the dialects of the senders.
//!
//! A dialect is a [`Scheme`], and a scheme is data: which headers carry what, and what is signed. No I/O and no clock here;
//! the caller passes the time. Whoever signs outgoing requests uses the same schemes ([`Scheme::sign`], [`sign_standard`]).

mod generic;
mod secret;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

use crate::error::{Error, Result};
pub use generic::{HmacSettings, TOLERANCE_MAX};
pub use secret::{Algorithm, Encoding, Secret};
use secret::{Keyed, Tag};

/// How far a signed timestamp may be from the clock of this machine: what Standard Webhooks and Stripe use.
pub const TOLERANCE_DEFAULT: Duration = Duration::from_secs(300);
/// Signatures that are looked at in a header that lists several. Senders list one per active key.
const SIGNATURES_MAX: usize = 16;

/// Secrets are pasted with and without their padding.
const BASE64_LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How a secret becomes the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SecretForm {
    /// The bytes of the text.
    Text,
    /// base64, with or without `whsec_` before it.
    Whsec,
}

/// One piece of what is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Id,
    Timestamp,
    Body,
    Literal(String),
}

/// How one kind of sender signs.
#[derive(Clone, Debug)]
pub struct Scheme {
    secret: SecretForm,
    algorithm: Algorithm,
    encoding: Encoding,
    /// Carries the signature.
    signature: HeaderName,
    /// Stands before the signature.
    prefix: String,
    /// The signature header lists several, separated by spaces; any match passes.
    list: bool,
    /// Carries the time of signing, unix seconds, and how far it may be off.
    timestamp: Option<(HeaderName, Duration)>,
    signed: Vec<Part>,
    pub(super) id: Option<HeaderName>,
    pub(super) topic: Option<HeaderName>,
    /// Says whose data it is: the shop, the installation.
    tenant: Option<HeaderName>,
    /// Further headers that are worth keeping with the job.
    further: &'static [&'static str],
}

impl Scheme {
    /// Shopify: base64 of HMAC-SHA256 over the body.
    pub fn shopify() -> Self {
        Self {
            signature: HeaderName::from_static("x-shopify-hmac-sha256"),
            encoding: Encoding::Base64,
            id: Some(HeaderName::from_static("x-shopify-webhook-id")),
            topic: Some(HeaderName::from_static("x-shopify-topic")),
            tenant: Some(HeaderName::from_static("x-shopify-shop-domain")),
            further: &[
                "x-shopify-api-version",
                "x-shopify-event-id",
                "x-shopify-triggered-at",
            ],
            ..Self::body_only()
        }
    }

    /// GitHub: `sha256=` and hex of HMAC-SHA256 over the body.
    pub fn github() -> Self {
        Self {
            signature: HeaderName::from_static("x-hub-signature-256"),
            prefix: "sha256=".to_owned(),
            id: Some(HeaderName::from_static("x-github-delivery")),
            topic: Some(HeaderName::from_static("x-github-event")),
            tenant: Some(HeaderName::from_static(
                "x-github-hook-installation-target-id",
            )),
            further: &["x-github-hook-id", "x-github-hook-installation-target-type"],
            ..Self::body_only()
        }
    }

    /// [Standard Webhooks](https://www.standardwebhooks.com) v1: base64 of HMAC-SHA256 over `id.timestamp.body`, ±5 min.
    pub fn standard() -> Self {
        let dot = || Part::Literal(".".to_owned());
        Self {
            secret: SecretForm::Whsec,
            signature: HeaderName::from_static("webhook-signature"),
            prefix: "v1,".to_owned(),
            encoding: Encoding::Base64,
            list: true,
            timestamp: Some((
                HeaderName::from_static("webhook-timestamp"),
                TOLERANCE_DEFAULT,
            )),
            signed: vec![Part::Id, dot(), Part::Timestamp, dot(), Part::Body],
            id: Some(HeaderName::from_static("webhook-id")),
            further: &["webhook-timestamp"],
            ..Self::body_only()
        }
    }

    /// What the schemes have in common: the signature covers the body alone.
    fn body_only() -> Self {
        Self {
            secret: SecretForm::Text,
            algorithm: Algorithm::Sha256,
            encoding: Encoding::Hex,
            signature: HeaderName::from_static("x-signature"),
            prefix: String::new(),
            list: false,
            timestamp: None,
            signed: vec![Part::Body],
            id: None,
            topic: None,
            tenant: None,
            further: &[],
        }
    }

    /// Reads a secret as this scheme writes it. `setting` is where it stands, for messages: `sources.shop.secrets[0]`.
    ///
    /// # Errors
    /// [`Error::Setting`] says what is wrong with the secret without showing it.
    pub fn secret(&self, setting: &str, text: &str) -> Result<Secret> {
        let refuse = |reason: &str| Err(Error::setting(setting, "(hidden)", reason));
        if text.is_empty() {
            return refuse("the secret is empty");
        }
        if text.trim() != text {
            return refuse(
                "the secret begins or ends with white space, often a newline of the file it was read from",
            );
        }
        if !self.prefix.is_empty() && text.starts_with(&self.prefix) {
            let prefix = &self.prefix;
            return refuse(&format!(
                "this is a signature ({prefix}…), not a secret; the sender shows the secret where the endpoint is set up"
            ));
        }
        match self.secret {
            SecretForm::Text => Ok(Secret::new(self.algorithm, text.as_bytes())),
            SecretForm::Whsec => {
                if text.starts_with("whpk_")
                    || text.starts_with("whsk_")
                    || text.starts_with("v1a,")
                {
                    return refuse("asymmetric keys are not supported; use a whsec_… secret");
                }
                let encoded = text.strip_prefix("whsec_").unwrap_or(text);
                match BASE64_LENIENT.decode(encoded) {
                    Ok(key) if key.is_empty() => refuse("the secret is empty"),
                    Ok(key) => Ok(Secret::new(self.algorithm, &key)),
                    Err(_) => refuse(
                        "the secret is not base64; it looks like whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                    ),
                }
            }
        }
    }

    /// The header that carries the signature, lower case.
    pub fn signature_header(&self) -> &str {
        self.signature.as_str()
    }

    /// The value of the signature header for `body`. Schemes that sign no id or no timestamp (unix seconds) pass over them.
    pub fn sign(&self, secret: &Secret, id: &str, timestamp: i64, body: &[u8]) -> String {
        let timestamp = timestamp.to_string();
        let mac = self.mac(secret, id.as_bytes(), timestamp.as_bytes(), body);
        let mut value = self.prefix.clone();
        match self.encoding {
            Encoding::Hex => value.push_str(&mac.with_tag(|tag| hex::encode(tag))),
            Encoding::Base64 => mac.with_tag(|tag| BASE64.encode_string(tag, &mut value)),
        }
        value
    }

    /// True when one of `secrets` signed exactly these bytes, and recently enough. `now` is in unix seconds.
    ///
    /// The work done depends on the sizes of what came in and on the number of secrets, not on what is wrong with it.
    pub(super) fn verify(
        &self,
        secrets: &[Secret],
        headers: &HeaderMap,
        body: &[u8],
        now: i64,
    ) -> bool {
        let of = |name: &HeaderName| only(headers, name).unwrap_or_default();
        let id = self.id.as_ref().map(of).unwrap_or_default();
        let timestamp = self.timestamp.as_ref().map(|(name, _)| of(name));
        let signatures = of(&self.signature);

        let identified = !self.signed.contains(&Part::Id) || !id.is_empty();
        let recent = match &self.timestamp {
            None => true,
            Some((_, tolerance)) => seconds(timestamp.unwrap_or_default())
                .is_some_and(|signed_at| signed_at.abs_diff(now) <= tolerance.as_secs()),
        };
        let mut genuine = false;
        for secret in secrets {
            let mac = self.mac(secret, id, timestamp.unwrap_or_default(), body);
            let mut compared = false;
            for tag in self.tags(signatures) {
                genuine |= mac.clone().equals(&tag);
                compared = true;
            }
            if !compared {
                // A request without any signature costs what a wrong one costs.
                std::hint::black_box(mac.equals(&Tag::WRONG));
            }
        }
        genuine & identified & recent
    }

    /// The HMAC over the signed text.
    fn mac(&self, secret: &Secret, id: &[u8], timestamp: &[u8], body: &[u8]) -> Keyed {
        let mut mac = secret.0.clone();
        for part in &self.signed {
            mac.update(match part {
                Part::Id => id,
                Part::Timestamp => timestamp,
                Part::Body => body,
                Part::Literal(text) => text.as_bytes(),
            });
        }
        mac
    }

    /// The signatures in a header's value, those of other versions passed over.
    fn tags<'a>(&'a self, value: &'a [u8]) -> impl Iterator<Item = Tag> + 'a {
        let (separator, most) = if self.list {
            (b' ', SIGNATURES_MAX)
        } else {
            (b'\n', 1) // cannot be in a header's value, so the value is one signature
        };
        value
            .split(move |byte| *byte == separator)
            .filter_map(|entry| entry.strip_prefix(self.prefix.as_bytes()))
            .take(most)
            .map(|encoded| self.encoding.read(encoded))
    }

    /// The headers that are worth keeping with a job, unless the user says otherwise.
    pub(super) fn kept(&self) -> impl Iterator<Item = HeaderName> + '_ {
        let named = [&self.id, &self.topic, &self.tenant];
        let further = self.further.iter().copied().map(HeaderName::from_static);
        named.into_iter().flatten().cloned().chain(further)
    }

    /// True when the delivery id is part of what is signed.
    pub(super) fn signs_id(&self) -> bool {
        self.signed.contains(&Part::Id)
    }

    /// How far the signed time may be off; `None` when the scheme signs none.
    pub(super) fn tolerance(&self) -> Option<Duration> {
        self.timestamp.as_ref().map(|(_, tolerance)| *tolerance)
    }

    /// True when this header carries the signature.
    pub(super) fn is_signature(&self, name: &HeaderName) -> bool {
        self.signature == *name
    }
}

/// The Standard Webhooks signature header of an outgoing request. `timestamp` is in unix seconds and is sent as
/// `webhook-timestamp`, `id` as `webhook-id`. The secret comes from [`Secret::standard`].
pub fn sign_standard(secret: &Secret, id: &str, timestamp: i64, body: &[u8]) -> String {
    Scheme::standard().sign(secret, id, timestamp, body)
}

/// The one value of a header. Two would leave open which of them was signed.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(HeaderValue::as_bytes(value)),
        _ => None,
    }
}

/// Unix seconds as senders write them; `None` for anything else, numbers beyond 64 bits included.
fn seconds(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Reads a header's name as a user writes it.
pub(super) fn header_name(setting: &str, name: &str) -> Result<HeaderName> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
        Error::setting(
            setting,
            name.escape_debug(),
            "not a header name; write it as in x-shopify-topic",
        )
    })
}

#[cfg(test)]
mod tests;
