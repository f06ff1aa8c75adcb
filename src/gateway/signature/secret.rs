//! Keys and tags: the arithmetic under a [`Scheme`], which knows no headers.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha1::Sha1;
use sha2::{Sha256, Sha512};

use super::Scheme;
use crate::error::Result;

/// The longest tag, bytes: HMAC-SHA512.
const TAG_BYTES_MAX: usize = 64;

/// The hash under the HMAC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// HMAC-SHA256.
    #[default]
    Sha256,
    /// HMAC-SHA512.
    Sha512,
    /// HMAC-SHA1, for senders that have nothing better. Not known to be broken in an HMAC, and nothing to choose freely.
    Sha1,
}

/// How a signature is written in its header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Hexadecimal; either case is read, lower case is written.
    #[default]
    Hex,
    /// Standard base64 with padding.
    Base64,
}

/// A key, ready to sign and verify. Shows nothing of itself.
#[derive(Clone)]
pub struct Secret(pub(super) Keyed);

impl Secret {
    /// Reads a Standard Webhooks secret, base64 with or without `whsec_`. `setting` is where it stands, for messages.
    ///
    /// # Errors
    /// As [`Scheme::secret`].
    pub fn standard(setting: &str, text: &str) -> Result<Self> {
        Scheme::standard().secret(setting, text)
    }

    pub(super) fn new(algorithm: Algorithm, key: &[u8]) -> Self {
        let any_length = "HMAC takes keys of any length";
        Self(match algorithm {
            Algorithm::Sha256 => Keyed::Sha256(Hmac::new_from_slice(key).expect(any_length)),
            Algorithm::Sha512 => Keyed::Sha512(Hmac::new_from_slice(key).expect(any_length)),
            Algorithm::Sha1 => Keyed::Sha1(Hmac::new_from_slice(key).expect(any_length)),
        })
    }

    /// A key that nobody has, of the same kind: work done with it takes as long as with this one.
    pub(in crate::gateway) fn stranger(&self) -> Self {
        Self::random(match self.0 {
            Keyed::Sha256(_) => Algorithm::Sha256,
            Keyed::Sha512(_) => Algorithm::Sha512,
            Keyed::Sha1(_) => Algorithm::Sha1,
        })
    }

    fn random(algorithm: Algorithm) -> Self {
        let (a, b) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        Self::new(algorithm, &[*a.as_bytes(), *b.as_bytes()].concat())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// Compares what came in with what is known, and takes as long whatever of it is right: not the texts are compared, but what a key
/// of this process makes of them.
#[derive(Clone, Debug)]
pub(in crate::gateway) struct Compare(Secret);

impl Compare {
    pub(in crate::gateway) fn new() -> Self {
        Self(Secret::random(Algorithm::Sha256))
    }

    /// What is kept of a text in order to compare others with it.
    pub(in crate::gateway) fn tag(&self, text: &[u8]) -> Tag {
        let mut mac = self.0.0.clone();
        mac.update(text);
        let mut tag = Tag::WRONG;
        tag.length = mac.with_tag(|bytes| {
            tag.bytes[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        });
        tag.readable = true;
        tag
    }

    pub(in crate::gateway) fn equal(&self, text: &[u8], tag: &Tag) -> bool {
        let mut mac = self.0.0.clone();
        mac.update(text);
        mac.equals(tag)
    }
}

/// Chooses by name: the same name is always given the same choice, in every process that has the same secrets, and nobody without
/// them can tell which. All that can be seen of it from outside is how long an answer takes, so a plain hash is enough.
#[derive(Clone, Debug)]
pub(in crate::gateway) struct Choice {
    /// Made of the secrets, and as good as random.
    seed: u64,
}

impl Choice {
    /// What is signed with the secrets for the seed: no sender signs anything like it.
    const LABEL: &[u8] = b"millstream: which decoy an unknown source gets";

    pub(in crate::gateway) fn by<'a>(secrets: impl Iterator<Item = &'a Secret>) -> Self {
        let mut key = Vec::new();
        for secret in secrets {
            let mut mac = secret.0.clone();
            mac.update(Self::LABEL);
            mac.with_tag(|tag| key.extend_from_slice(tag));
        }
        let mut mac = Secret::new(Algorithm::Sha256, &key).0;
        mac.update(Self::LABEL);
        let first = |tag: &[u8]| {
            tag.iter()
                .take(8)
                .fold(0, |seed, byte| seed << 8 | u64::from(*byte))
        };
        Self {
            seed: mac.with_tag(first),
        }
    }

    /// One of the numbers below `count`; zero where there is none.
    pub(in crate::gateway) fn among(&self, count: usize, name: &str) -> usize {
        // FNV-1a, from the seed on. The standard library's hash may be another one in its next version.
        let hash = name.bytes().fold(self.seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        // Below `count`, so it fits.
        (hash ^ hash >> 32)
            .checked_rem(count as u64)
            .unwrap_or_default() as usize
    }
}

/// An HMAC that has taken in its key: cloning it spares two rounds per request.
#[derive(Clone)]
pub(super) enum Keyed {
    Sha256(Hmac<Sha256>),
    Sha512(Hmac<Sha512>),
    Sha1(Hmac<Sha1>),
}

impl Keyed {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(mac) => mac.update(bytes),
            Self::Sha512(mac) => mac.update(bytes),
            Self::Sha1(mac) => mac.update(bytes),
        }
    }

    /// In constant time for a tag of the right length.
    pub(super) fn equals(self, tag: &Tag) -> bool {
        let bytes = &tag.bytes[..tag.length];
        let equal = match self {
            Self::Sha256(mac) => mac.verify_slice(bytes).is_ok(),
            Self::Sha512(mac) => mac.verify_slice(bytes).is_ok(),
            Self::Sha1(mac) => mac.verify_slice(bytes).is_ok(),
        };
        equal & tag.readable
    }

    pub(super) fn with_tag<T>(self, read: impl FnOnce(&[u8]) -> T) -> T {
        match self {
            Self::Sha256(mac) => read(&mac.finalize().into_bytes()),
            Self::Sha512(mac) => read(&mac.finalize().into_bytes()),
            Self::Sha1(mac) => read(&mac.finalize().into_bytes()),
        }
    }
}

/// A signature as it came in.
pub(in crate::gateway) struct Tag {
    bytes: [u8; TAG_BYTES_MAX],
    length: usize,
    /// False when the text was no hex or base64: such a tag equals nothing, and is compared all the same.
    readable: bool,
}

impl Tag {
    pub(super) const WRONG: Self = Self {
        bytes: [0; TAG_BYTES_MAX],
        length: 32,
        readable: false,
    };
}

impl Encoding {
    pub(super) fn read(self, text: &[u8]) -> Tag {
        let mut tag = Tag::WRONG;
        let length = match self {
            Self::Hex => {
                let length = text.len() / 2;
                let into = tag.bytes.get_mut(..length);
                into.and_then(|into| hex::decode_to_slice(text, into).ok().map(|()| length))
            }
            Self::Base64 => BASE64.decode_slice(text, &mut tag.bytes).ok(),
        };
        match length {
            Some(length) => Tag {
                length,
                readable: true,
                ..tag
            },
            None => Tag::WRONG,
        }
    }
}
