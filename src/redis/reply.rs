//! Replies read into types. What does not fit is an error that names the operation, never a guess.

use bytes::Bytes;
use fred::types::Resp3Frame;
pub(crate) use fred::types::Value;

use crate::error::{Error, Result};

/// The first item of every script's reply; `lua/lib/status.lua` says what each means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Status {
    Ok,
    Stale,
    Old,
    Missing,
    WrongState,
    Standby,
    /// The queue has as many jobs as it may have. Nothing was changed.
    Full,
    /// A group has as many held jobs as it may have. Nothing was changed.
    GroupFull,
    /// The queue has a maximum depth, which this script does not look after. Nothing was changed.
    Bounded,
}

/// A script's reply: a status and further items.
#[derive(Debug)]
pub(crate) struct Reply {
    operation: &'static str,
    pub(crate) status: Status,
    items: Vec<Value>,
}

impl Reply {
    /// A text by itself stands for `ok` and the text.
    pub(super) fn read(operation: &'static str, value: Value) -> Result<Self> {
        let items = match value {
            Value::Array(items) => items,
            Value::String(_) | Value::Bytes(_) => {
                return Ok(Self {
                    operation,
                    status: Status::Ok,
                    items: vec![Value::Null, value],
                });
            }
            _ => {
                return Err(Error::Protocol {
                    operation,
                    reason: format!("a {:?} instead of a list", value.kind()),
                });
            }
        };
        let status = match items.first().and_then(text_of) {
            Some("ok") => Status::Ok,
            Some("stale") => Status::Stale,
            Some("old") => Status::Old,
            Some("missing") => Status::Missing,
            Some("wrong_state") => Status::WrongState,
            Some("standby") => Status::Standby,
            Some("full") => Status::Full,
            Some("group_full") => Status::GroupFull,
            Some("bounded") => Status::Bounded,
            other => {
                return Err(Error::Protocol {
                    operation,
                    reason: format!("unknown status {other:?}"),
                });
            }
        };
        Ok(Self {
            operation,
            status,
            items,
        })
    }

    fn unexpected(&self, index: usize, wanted: &str) -> Error {
        Error::Protocol {
            operation: self.operation,
            reason: format!("item {index} of the reply is no {wanted}"),
        }
    }

    /// An answer that this call cannot have: the script and the program do not fit.
    pub(crate) fn unexpected_status(&self) -> Error {
        Error::Protocol {
            operation: self.operation,
            reason: format!("unexpected status {:?}", self.status),
        }
    }

    /// The reply, provided that it says `ok`.
    pub(crate) fn done(&self) -> Result<&Self> {
        if self.status == Status::Ok {
            Ok(self)
        } else {
            Err(self.unexpected_status())
        }
    }

    pub(crate) fn text(&self, index: usize) -> Result<&str> {
        self.items
            .get(index)
            .and_then(text_of)
            .ok_or_else(|| self.unexpected(index, "text"))
    }

    pub(crate) fn number(&self, index: usize) -> Result<i64> {
        self.items
            .get(index)
            .and_then(number_of)
            .ok_or_else(|| self.unexpected(index, "number"))
    }

    pub(crate) fn count(&self, index: usize) -> Result<u64> {
        Ok(self.number(index)?.max(0).unsigned_abs())
    }

    pub(crate) fn list(&self, index: usize) -> Result<&[Value]> {
        match self.items.get(index) {
            Some(Value::Array(items)) => Ok(items),
            _ => Err(self.unexpected(index, "list")),
        }
    }

    /// Takes a list out of the reply.
    pub(crate) fn take_list(&mut self, index: usize) -> Result<Vec<Value>> {
        match self.items.get_mut(index) {
            Some(Value::Array(items)) => Ok(std::mem::take(items)),
            _ => Err(self.unexpected(index, "list")),
        }
    }
}

/// Text, if the value is text.
pub(crate) fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// A whole number, if the value is one or its text.
pub(crate) fn number_of(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(number) => Some(*number),
        other => text_of(other)?.parse().ok(),
    }
}

/// The bytes of a string, without copying.
pub(crate) fn bytes_of(value: Value) -> Option<Bytes> {
    match value {
        Value::String(text) => Some(text.into_inner()),
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

/// A part of a reply: one of the client's values, or a frame as it came, where the making of values would take too long.
pub(crate) trait Part: Sized {
    /// The items, if it is a list.
    fn into_list(self) -> Option<Vec<Self>>;

    /// The bytes, if it is a string. Nothing is copied.
    fn into_bytes(self) -> Option<Bytes>;
}

impl Part for Value {
    fn into_list(self) -> Option<Vec<Self>> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    fn into_bytes(self) -> Option<Bytes> {
        bytes_of(self)
    }
}

impl Part for Resp3Frame {
    fn into_list(self) -> Option<Vec<Self>> {
        match self {
            Self::Array { data, .. } => Some(data),
            _ => None,
        }
    }

    fn into_bytes(self) -> Option<Bytes> {
        match self {
            Self::BlobString { data, .. } | Self::SimpleString { data, .. } => Some(data),
            _ => None,
        }
    }
}
