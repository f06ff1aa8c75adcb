//! The senders that are known by name. Each is one row of data, in the words of the generic scheme's settings: another one is a
//! row here and a variant of [`SchemeSettings`].

use hyper::header::HeaderName;

use super::generic::{HmacSettings, parts};
use super::{Algorithm, Encoding, Field, Scheme, SecretForm, Stamp, TOLERANCE_DEFAULT};

/// How a source's requests are signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemeSettings {
    /// [`Scheme::shopify`].
    Shopify,
    /// [`Scheme::github`].
    Github,
    /// [`Scheme::stripe`].
    Stripe,
    /// [`Scheme::slack`].
    Slack,
    /// [`Scheme::standard`].
    Standard,
    /// [`Scheme::hmac`].
    Hmac(HmacSettings),
}

impl SchemeSettings {
    /// The scheme with this name; the generic one has settings and is not among them.
    pub fn named(name: &str) -> Option<Self> {
        let mut presets = PRESETS.iter();
        let preset = presets.find(|preset| preset.name == name)?;
        Some(preset.settings.clone())
    }

    /// The names that [`SchemeSettings::named`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|preset| preset.name)
    }
}

/// What a sender sends once to see whether somebody is there, and wants back. It is signed as everything else, and is no delivery.
#[derive(Debug)]
pub(in crate::gateway) struct Challenge {
    /// The member of the body and its text that make a request a challenge.
    pub(in crate::gateway) when: (&'static str, &'static str),
    /// The member of the body that is wanted back, under the same name.
    pub(in crate::gateway) member: &'static str,
}

/// One sender. HMAC-SHA256 all of them; `""` where there is none.
pub(super) struct Preset {
    name: &'static str,
    settings: SchemeSettings,
    secret: SecretForm,
    mistaken: &'static [(&'static str, &'static str)],
    encoding: Encoding,
    header: &'static str,
    prefix: &'static str,
    separator: Option<u8>,
    timestamp_header: &'static str,
    timestamp_prefix: &'static str,
    signed: &'static str,
    id: &'static str,
    topic: &'static str,
    further: &'static [&'static str],
    challenge: Option<&'static Challenge>,
}

/// What most have in common: the signature covers the body alone.
const BODY_ONLY: Preset = Preset {
    name: "",
    settings: SchemeSettings::Standard,
    secret: SecretForm::Text,
    mistaken: &[],
    encoding: Encoding::Hex,
    header: "",
    prefix: "",
    separator: None,
    timestamp_header: "",
    timestamp_prefix: "",
    signed: "{body}",
    id: "none",
    topic: "none",
    further: &[],
    challenge: None,
};

/// <https://shopify.dev/docs/apps/build/webhooks/subscribe/https>
pub(super) const SHOPIFY: Preset = Preset {
    name: "shopify",
    settings: SchemeSettings::Shopify,
    mistaken: &[
        ("shpat_", "an access token"),
        ("shpca_", "an access token"),
        ("shppa_", "an access token"),
    ],
    encoding: Encoding::Base64,
    header: "x-shopify-hmac-sha256",
    id: "header:x-shopify-webhook-id",
    topic: "header:x-shopify-topic",
    further: &[
        "x-shopify-shop-domain",
        "x-shopify-api-version",
        "x-shopify-event-id",
        "x-shopify-triggered-at",
    ],
    ..BODY_ONLY
};

/// <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>
pub(super) const GITHUB: Preset = Preset {
    name: "github",
    settings: SchemeSettings::Github,
    mistaken: &[
        ("ghp_", "an access token"),
        ("gho_", "an access token"),
        ("ghs_", "an access token"),
        ("github_pat_", "an access token"),
    ],
    header: "x-hub-signature-256",
    prefix: "sha256=",
    id: "header:x-github-delivery",
    topic: "header:x-github-event",
    further: &[
        "x-github-hook-id",
        "x-github-hook-installation-target-id",
        "x-github-hook-installation-target-type",
    ],
    ..BODY_ONLY
};

/// <https://docs.stripe.com/webhooks#verify-manually>. The key is the text of the secret, `whsec_` included.
pub(super) const STRIPE: Preset = Preset {
    name: "stripe",
    settings: SchemeSettings::Stripe,
    mistaken: &[
        ("sk_", "an API key"),
        ("rk_", "an API key"),
        ("pk_", "an API key"),
        ("we_", "the id of an endpoint"),
    ],
    header: "stripe-signature",
    prefix: "v1=",
    separator: Some(b','),
    timestamp_prefix: "t=",
    signed: "{timestamp}.{body}",
    id: "json:/id",
    topic: "json:/type",
    ..BODY_ONLY
};

/// <https://docs.slack.dev/authentication/verifying-requests-from-slack>
pub(super) const SLACK: Preset = Preset {
    name: "slack",
    settings: SchemeSettings::Slack,
    mistaken: &[("xox", "a token"), ("xapp-", "a token")],
    header: "x-slack-signature",
    prefix: "v0=",
    timestamp_header: "x-slack-request-timestamp",
    signed: "v0:{timestamp}:{body}",
    id: "json:/event_id",
    topic: "json:/event/type",
    further: &[
        "x-slack-request-timestamp",
        "x-slack-retry-num",
        "x-slack-retry-reason",
    ],
    challenge: Some(&Challenge {
        when: ("type", "url_verification"),
        member: "challenge",
    }),
    ..BODY_ONLY
};

/// <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
pub(super) const STANDARD: Preset = Preset {
    name: "standard",
    settings: SchemeSettings::Standard,
    secret: SecretForm::Whsec,
    encoding: Encoding::Base64,
    header: "webhook-signature",
    prefix: "v1,",
    separator: Some(b' '),
    timestamp_header: "webhook-timestamp",
    signed: "{id}.{timestamp}.{body}",
    id: "header:webhook-id",
    further: &["webhook-timestamp"],
    ..BODY_ONLY
};

/// Everything that can be named.
pub(super) const PRESETS: &[Preset] = &[SHOPIFY, GITHUB, STRIPE, SLACK, STANDARD];

impl Scheme {
    pub(super) fn preset(preset: &Preset) -> Self {
        let field = |text: &str| -> Field {
            text.parse()
                .expect("the unit test of presets reads every row")
        };
        let stamp = match (preset.timestamp_header, preset.timestamp_prefix) {
            ("", "") => None,
            ("", prefix) => Some(Stamp::Entry(prefix.to_owned())),
            (header, _) => Some(Stamp::Header(HeaderName::from_static(header))),
        };
        Self {
            secret: preset.secret,
            mistaken: preset.mistaken,
            algorithm: Algorithm::Sha256,
            encoding: preset.encoding,
            signature: HeaderName::from_static(preset.header),
            prefix: preset.prefix.to_owned(),
            separator: preset.separator,
            timestamp: stamp.map(|stamp| (stamp, TOLERANCE_DEFAULT)),
            signed: parts(preset.signed),
            id: field(preset.id),
            topic: field(preset.topic),
            further: preset.further,
            challenge: preset.challenge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_sound_and_found_by_its_name() {
        for preset in PRESETS {
            let scheme = Scheme::preset(preset);
            assert!(scheme.kept().count() < 8, "{}", preset.name);
            let settings = SchemeSettings::named(preset.name).unwrap();
            assert_eq!(settings, preset.settings);
            let again = Scheme::new("sources.x", &settings).unwrap();
            assert_eq!(again.signature_header(), preset.header);
        }
        assert!(SchemeSettings::named("hmac").is_none());
    }
}
