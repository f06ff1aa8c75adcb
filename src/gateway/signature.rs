//! Who sent these bytes: signing and verifying webhooks by HMAC, in the dialects of the senders.
//!
//! A dialect is a [`Scheme`], and a scheme is data: which headers carry what, and what is signed. No I/O and no clock here;
//! the caller passes the time. Whoever signs outgoing requests uses the same schemes ([`Scheme::sign`], [`sign_standard`]).

mod generic;
mod presets;
mod secret;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hyper::HeaderMap;
use hyper::header::HeaderName;

use super::field::{self, Field};
use crate::error::{Error, Result};
pub use generic::{HmacSettings, TOLERANCE_MAX};
use presets::Challenge;
pub use presets::SchemeSettings;
use secret::Keyed;
pub use secret::{Algorithm, Encoding, Secret};
pub(super) use secret::{Choice, Compare, Tag};

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

/// Where the time of signing stands, in unix seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stamp {
    /// In a header of its own.
    Header(HeaderName),
    /// In the signature's header, as the entry that begins with this.
    Entry(String),
}

/// How one kind of sender signs.
#[derive(Clone, Debug)]
pub struct Scheme {
    secret: SecretForm,
    /// How things begin that are taken for the secret, and what they are.
    mistaken: &'static [(&'static str, &'static str)],
    algorithm: Algorithm,
    encoding: Encoding,
    /// Carries the signature.
    signature: HeaderName,
    /// Stands before the signature.
    prefix: String,
    /// Between the entries of the signature header, where it may have several; any match passes.
    separator: Option<u8>,
    /// The time of signing, and how far it may be off.
    timestamp: Option<(Stamp, Duration)>,
    signed: Vec<Part>,
    /// The delivery id. Where it is part of what is signed, it is a header.
    pub(super) id: Field,
    pub(super) topic: Field,
    /// Further headers that are worth keeping with the job.
    further: &'static [&'static str],
    pub(super) challenge: Option<&'static Challenge>,
}

impl Scheme {
    /// Shopify: base64 of HMAC-SHA256 over the body.
    pub fn shopify() -> Self {
        Self::preset(&presets::SHOPIFY)
    }

    /// GitHub: `sha256=` and hex of HMAC-SHA256 over the body.
    pub fn github() -> Self {
        Self::preset(&presets::GITHUB)
    }

    /// Stripe: `t=TIME,v1=HEX`, HMAC-SHA256 over `time.body`, ±5 min.
    pub fn stripe() -> Self {
        Self::preset(&presets::STRIPE)
    }

    /// Slack: `v0=` and hex of HMAC-SHA256 over `v0:time:body`, ±5 min.
    pub fn slack() -> Self {
        Self::preset(&presets::SLACK)
    }

    /// [Standard Webhooks](https://www.standardwebhooks.com) v1: base64 of HMAC-SHA256 over `id.timestamp.body`, ±5 min.
    pub fn standard() -> Self {
        Self::preset(&presets::STANDARD)
    }

    /// The scheme that `settings` describe. `setting` is where they stand, for messages: `sources.billing`.
    ///
    /// # Errors
    /// As [`Scheme::hmac`]; the others cannot be wrong.
    pub fn new(setting: &str, settings: &SchemeSettings) -> Result<Self> {
        match settings {
            SchemeSettings::Hmac(hmac) => Self::hmac(setting, hmac),
            SchemeSettings::Shopify => Ok(Self::shopify()),
            SchemeSettings::Github => Ok(Self::github()),
            SchemeSettings::Stripe => Ok(Self::stripe()),
            SchemeSettings::Slack => Ok(Self::slack()),
            SchemeSettings::Standard => Ok(Self::standard()),
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
        if text.contains(char::is_control) {
            return refuse("the secret has control characters; it is one line of text");
        }
        if self.secret == SecretForm::Whsec && text.starts_with("v1,whsec_") {
            return refuse("leave out the \"v1,\" in front: the secret begins with whsec_");
        }
        let mut mistaken = self.mistaken.iter();
        if let Some((prefix, what)) = mistaken.find(|(prefix, _)| text.starts_with(prefix)) {
            return refuse(&format!(
                "{prefix}… is {what}, not the secret that webhooks are signed with"
            ));
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
        let mut value = String::new();
        if let (Some((Stamp::Entry(name), _)), Some(separator)) = (&self.timestamp, self.separator)
        {
            value = format!("{name}{timestamp}{}", char::from(separator));
        }
        value.push_str(&self.prefix);
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
        let of = |name: &HeaderName| field::only(headers, name).unwrap_or_default();
        let id = self.id.header().map(of).unwrap_or_default();
        let signatures = of(&self.signature);
        let timestamp = self.timestamp.as_ref().map(|(stamp, _)| match stamp {
            Stamp::Header(name) => of(name),
            Stamp::Entry(name) => self.entry(signatures, name).unwrap_or_default(),
        });

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
        let most = self.separator.map_or(1, |_| SIGNATURES_MAX);
        self.entries(value)
            .filter_map(|entry| entry.strip_prefix(self.prefix.as_bytes()))
            .take(most)
            .map(|encoded| self.encoding.read(encoded))
    }

    /// The one entry of a header's value that begins with `name`, without it. Two would leave open which of them was signed.
    fn entry<'a>(&'a self, value: &'a [u8], name: &str) -> Option<&'a [u8]> {
        let entries = self.entries(value);
        let mut named = entries.filter_map(|entry| entry.strip_prefix(name.as_bytes()));
        named.next().filter(|_| named.next().is_none())
    }

    /// The parts of the signature header's value.
    fn entries<'a>(&self, value: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // A line's end cannot be in a header's value, so the value is one entry.
        let separator = self.separator.unwrap_or(b'\n');
        value
            .split(move |byte| *byte == separator)
            .map(<[u8]>::trim_ascii)
    }

    /// The headers that are worth keeping with a job, unless the user says otherwise.
    pub(super) fn kept(&self) -> impl Iterator<Item = HeaderName> + '_ {
        let named = [self.id.header(), self.topic.header()];
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
