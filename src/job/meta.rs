//! What is stored beside a payload.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::codec::Codec;
use super::id::JobId;
use super::priority::Priority;
use super::trace;

/// What is stored beside a payload: only what differs from the defaults, as small JSON; empty when nothing does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Meta {
    /// The job id, once it is no longer the entry id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<JobId>,
    /// The unique key that is released when the job finishes. Absent for keys held for a window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unique: Option<String>,
    /// The key counts only while the job waits: another may hold it once this one has run.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) unique_waiting: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    /// Chooses the lane.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) priority: Priority,
    /// The job counts among those of its group that are ready or running; written by the scripts.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) slot: bool,
    /// Points that the job takes from the bucket of its group, unless it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cost: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_ms: Option<u64>,
    /// Redis's clock, unix ms; written by the enqueue script.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at_ms: Option<u64>,
    /// The same, for the end of all attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deadline_at_ms: Option<u64>,
    /// How often the job was taken from a worker that stopped renewing; written by the reclaim script.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) stalls: u32,
    /// For how long what the handler gives back is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) result_ms: Option<u64>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) codec: Codec,
    /// The id of the key that sealed the payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sealed: Option<String>,
    /// The trace that the job belongs to (W3C Trace Context), well-formed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tracestate: Option<String>,
    /// Kept headers, lower-case names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) headers: BTreeMap<String, String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What most jobs store that say nothing but their codec, known without a parser.
const RAW: &str = r#"{"codec":"raw"}"#;
const JSON: &str = r#"{"codec":"json"}"#;

impl Meta {
    /// The id of the trace that the job belongs to.
    pub(crate) fn trace_id(&self) -> Option<&str> {
        trace::trace_id(self.traceparent.as_deref()?)
    }

    /// The stored form: `""` when nothing differs from the defaults.
    pub(crate) fn to_stored(&self) -> Cow<'static, str> {
        let plain = Self {
            codec: self.codec,
            ..Self::default()
        };
        if *self == plain {
            return match self.codec {
                Codec::MsgPack => "",
                Codec::Raw => RAW,
                Codec::Json => JSON,
            }
            .into();
        }
        let stored = serde_json::to_string(self);
        stored.expect("plain strings and numbers").into()
    }

    /// Reads the stored form. Unknown fields of newer versions are passed over.
    pub(crate) fn from_stored(stored: &[u8]) -> std::result::Result<Self, serde_json::Error> {
        let codec = match stored {
            b"" => Codec::MsgPack,
            plain if plain == RAW.as_bytes() => Codec::Raw,
            plain if plain == JSON.as_bytes() => Codec::Json,
            other => return serde_json::from_slice(other),
        };
        Ok(Self {
            codec,
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::job::NewJob;

    #[test]
    fn a_plain_job_stores_no_meta() {
        assert_eq!(NewJob::new("welcome", &1).unwrap().meta.to_stored(), "");
    }

    #[test]
    fn a_job_that_says_nothing_but_its_codec_stores_what_a_parser_would_read() {
        for codec in [Codec::MsgPack, Codec::Json, Codec::Raw] {
            let meta = Meta {
                codec,
                ..Meta::default()
            };
            let stored = meta.to_stored();
            assert_eq!(Meta::from_stored(stored.as_bytes()).unwrap(), meta);
            if !stored.is_empty() {
                assert_eq!(serde_json::to_string(&meta).unwrap(), stored);
            }
        }
    }

    #[test]
    fn meta_survives_its_stored_form() {
        let meta = NewJob::raw("a", "x")
            .group("shop-1.example")
            .max_attempts(3)
            .timeout(Duration::from_secs(1))
            .header("h", "ü\u{1}")
            .meta;
        assert_eq!(
            Meta::from_stored(meta.to_stored().as_bytes()).unwrap(),
            meta
        );
    }
}
