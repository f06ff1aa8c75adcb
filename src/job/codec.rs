//! Payload codecs: MessagePack by default, JSON, or raw bytes. Redis and the scripts never look inside.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How a payload is written. Stored with the job when it is not the default, so a handler reads what was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// MessagePack with field names.
    #[default]
    MsgPack,
    /// JSON.
    Json,
    /// Bytes that are passed through; [`Codec::decode`] reads them as JSON, the usual body of a webhook.
    Raw,
}

impl Codec {
    /// The codec's name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::MsgPack => "msgpack",
            Self::Json => "json",
            Self::Raw => "raw",
        }
    }

    /// Writes `value` for the job `name`.
    pub fn encode<T: Serialize + ?Sized>(self, name: &str, value: &T) -> Result<Bytes> {
        let refuse = |reason: String| Error::Encode {
            name: name.to_owned(),
            codec: self.name(),
            reason,
        };
        match self {
            Self::MsgPack => rmp_serde::to_vec_named(value)
                .map(Bytes::from)
                .map_err(|e| refuse(e.to_string())),
            Self::Json | Self::Raw => serde_json::to_vec(value)
                .map(Bytes::from)
                .map_err(|e| refuse(e.to_string())),
        }
    }

    /// Reads the payload of the job `name`.
    ///
    /// # Errors
    /// [`Error::Decode`] says where the bytes differ from the type, without quoting them.
    pub fn decode<T: DeserializeOwned>(self, name: &str, payload: &[u8]) -> Result<T> {
        let refuse = |reason: String| Error::Decode {
            name: name.to_owned(),
            codec: self.name(),
            reason,
        };
        match self {
            Self::MsgPack => rmp_serde::from_slice(payload).map_err(|e| refuse(shape_of(&e))),
            Self::Json | Self::Raw => serde_json::from_slice(payload).map_err(|e| {
                refuse(format!(
                    "{:?} error at line {} column {}",
                    e.classify(),
                    e.line(),
                    e.column()
                ))
            }),
        }
    }
}

/// What is wrong with the bytes, without the bytes: serde's own messages quote values.
fn shape_of(error: &rmp_serde::decode::Error) -> String {
    use rmp_serde::decode::Error as E;
    match error {
        E::InvalidMarkerRead(_) | E::InvalidDataRead(_) => "the bytes end too early".into(),
        E::TypeMismatch(marker) => format!("unexpected MessagePack type {marker:?}"),
        E::OutOfRange => "a number is out of range".into(),
        E::LengthMismatch(length) => format!("a list or map has an unexpected length of {length}"),
        E::Utf8Error(_) => "a string is not UTF-8".into(),
        E::DepthLimitExceeded => "nested too deeply".into(),
        E::Uncategorized(_) | E::Syntax(_) => "the fields do not fit the type".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        id: u64,
        note: Option<String>,
    }

    #[test]
    fn every_codec_reads_what_it_wrote() {
        let order = Order {
            id: u64::MAX,
            note: Some("ü".into()),
        };
        for codec in [Codec::MsgPack, Codec::Json, Codec::Raw] {
            let bytes = codec.encode("order", &order).unwrap();
            assert_eq!(codec.decode::<Order>("order", &bytes).unwrap(), order);
        }
    }

    #[test]
    fn a_decode_error_does_not_quote_the_payload() {
        for (codec, bytes) in [
            (Codec::Json, br#"{"id":"hunter2"}"#.to_vec()),
            (
                Codec::MsgPack,
                rmp_serde::to_vec_named(&("hunter2", "hunter2")).unwrap(),
            ),
        ] {
            let error = codec
                .decode::<Order>("order", &bytes)
                .unwrap_err()
                .to_string();
            assert!(!error.contains("hunter2"), "{error}");
            assert!(error.contains("order"), "{error}");
        }
    }
}
