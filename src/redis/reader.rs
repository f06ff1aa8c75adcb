//! A connection of its own for blocking reads: other commands on it would wait for the whole block.
//!
//! The future of a read is never dropped before it ends: what Redis delivers after that would be pending, unseen.

use std::time::Duration;

use bytes::Bytes;
use fred::bytes_utils::Str;
use fred::error::Error as FredError;
use fred::interfaces::{ClientInterface, ClientLike, StreamsInterface};
use fred::types::config::Options;
use fred::types::{CustomCommand, Resp3Frame, Value};
use futures_util::future::join_all;

use super::link::Link;
use super::reply::Part;
use super::{Address, Fault, Redis, away, fault_of, slot_of};
use crate::error::Result;
use crate::keys::{GROUP, Key};
use crate::metrics::handles::Calls;

/// One entry as it was delivered, fields in stream order.
pub(crate) struct RawEntry {
    /// Place of its stream among the keys that were read.
    pub(crate) stream: usize,
    pub(crate) id: Str,
    /// Names and values in turn; empty when the entry was deleted while pending.
    pub(crate) fields: Vec<Bytes>,
}

impl RawEntry {
    /// The value behind `name`, if it is there and text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let mut pairs = self.fields.chunks_exact(2);
        let pair = pairs.find(|pair| pair[0] == name.as_bytes())?;
        std::str::from_utf8(&pair[1]).ok()
    }
}

/// Why a read brought nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadFailure {
    /// Make them anew.
    #[error("the stream or its consumer group is gone")]
    NoGroup,
    /// Anything else, in Redis's or the system's words. What was delivered meanwhile is pending.
    #[error("{0}")]
    Lost(String),
}

pub(crate) struct Reader {
    link: Link,
    counted: Calls,
}

impl Reader {
    pub(crate) async fn connect(address: &Address, timeout: Duration) -> Result<Self> {
        let counted = Calls::new();
        let link = Link::connect(address, Duration::ZERO, timeout, &counted).await?;
        Ok(Self { link, counted })
    }

    /// Reads up to `count` new entries from each of `streams`, waiting up to `block` for the first.
    pub(crate) async fn read(
        &self,
        streams: &[&Key],
        consumer: &str,
        count: usize,
        block: Duration,
    ) -> std::result::Result<Vec<RawEntry>, ReadFailure> {
        self.group_read(streams, consumer, count, Some(block), ">")
            .await
    }

    /// Reads up to so many new entries from each of `lanes`, with a command each, one written behind the other, and does not
    /// wait for any. When one of them fails, what the others brought is pending, unseen, as after a lost connection.
    pub(crate) async fn read_now(
        &self,
        lanes: &[(&Key, usize)],
        consumer: &str,
    ) -> std::result::Result<Vec<RawEntry>, ReadFailure> {
        let reads = lanes
            .iter()
            .enumerate()
            .map(|(place, (key, count))| async move {
                let streams = std::slice::from_ref(key);
                let mut entries = self
                    .group_read(streams, consumer, *count, None, ">")
                    .await?;
                entries.iter_mut().for_each(|entry| entry.stream = place);
                Ok(entries)
            });
        let mut all = Vec::new();
        for entries in join_all(reads).await {
            // The usual case, without a copy: only one lane has any.
            match entries? {
                entries if all.is_empty() => all = entries,
                entries => all.extend(entries),
            }
        }
        Ok(all)
    }

    /// What was delivered to `consumer` and not settled: after a lost connection, some of it was never seen.
    /// One page, of the entries behind `after`.
    pub(crate) async fn read_own(
        &self,
        stream: &Key,
        consumer: &str,
        count: usize,
        after: &str,
    ) -> std::result::Result<Vec<RawEntry>, ReadFailure> {
        self.group_read(&[stream], consumer, count, None, after)
            .await
    }

    /// Entries of `streams` behind those of `after`, waiting up to `block` for the first. No group, no delivery: any number
    /// may follow the same streams.
    pub(crate) async fn follow(
        &self,
        streams: &[&Key],
        after: &[String],
        block: Duration,
    ) -> std::result::Result<Vec<RawEntry>, ReadFailure> {
        self.entries_behind(streams, after, block, 1_000).await
    }

    async fn entries_behind(
        &self,
        streams: &[&Key],
        after: &[String],
        block: Duration,
        count: u64,
    ) -> std::result::Result<Vec<RawEntry>, ReadFailure> {
        let options = Options {
            timeout: Some(block + Duration::from_secs(2)),
            max_attempts: Some(1),
            ..Options::default()
        };
        let block_ms = u64::try_from(block.as_millis()).unwrap_or(5_000).max(1);
        let keys: Vec<Bytes> = streams.iter().map(|key| key.0.clone()).collect();
        let ids: Vec<&str> = after.iter().map(String::as_str).collect();
        let client = self.link.client();
        if !client.is_connected() {
            return Err(ReadFailure::Lost(away().details().to_owned()));
        }
        let reply: std::result::Result<Value, _> = client
            .with_options(&options)
            .xread(Some(count), Some(block_ms), keys, ids)
            .await;
        reply
            .map(|value| entries_of(value, streams))
            .map_err(|error| ReadFailure::Lost(error.details().to_owned()))
    }

    /// Waits up to `block` for an entry of `streams` behind those of `after`, and takes none.
    pub(crate) async fn wait_for_entry(
        &self,
        streams: &[&Key],
        after: &[String],
        block: Duration,
    ) -> std::result::Result<(), ReadFailure> {
        self.entries_behind(streams, after, block, 1)
            .await
            .map(drop)
    }

    async fn group_read(
        &self,
        streams: &[&Key],
        consumer: &str,
        count: usize,
        block: Option<Duration>,
        from: &str,
    ) -> std::result::Result<Vec<RawEntry>, ReadFailure> {
        // Zero would mean for ever, and a fraction is an error.
        let block_ms = block.map(|block| {
            i64::try_from(block.as_millis())
                .unwrap_or(5_000)
                .clamp(1, 5_000)
        });
        let options = Options {
            timeout: Some(block.unwrap_or_default() + Duration::from_secs(2)),
            max_attempts: Some(1),
            ..Options::default()
        };
        let first = streams.first().map(|key| key.0.clone());
        let node = slot_of(first.unwrap_or_default());
        let command = CustomCommand::new_static("XREADGROUP", node, block.is_some());
        let mut args: Vec<Value> = Vec::with_capacity(8 + 2 * streams.len());
        let word = Value::from_static_str;
        args.extend([word("GROUP"), word(GROUP), consumer.into()]);
        args.extend([word("COUNT"), Value::Integer(count as i64)]);
        if let Some(block_ms) = block_ms {
            args.extend([word("BLOCK"), Value::Integer(block_ms)]);
        }
        args.push(word("STREAMS"));
        args.extend(streams.iter().map(|key| Value::Bytes(key.0.clone())));
        args.extend(streams.iter().map(|_| Value::from(from)));
        let client = self.link.client();
        if !client.is_connected() {
            return Err(ReadFailure::Lost(away().details().to_owned()));
        }
        self.counted.sent();
        // As it came: to make values of it takes the client a sixth of the time of a worker's thread.
        let reply = client
            .with_options(&options)
            .custom_raw(command, args)
            .await
            .and_then(unless_refused);
        match reply {
            Ok(frame) => Ok(entries_of(frame, streams)),
            Err(error) => {
                let fault = fault_of(&error);
                self.counted.failed(fault.name());
                match fault {
                    Fault::NoGroup => Err(ReadFailure::NoGroup),
                    _ => Err(ReadFailure::Lost(error.details().to_owned())),
                }
            }
        }
    }

    /// Ends a read that is blocked, so that it returns what it has; `by` sends the order. Returns quickly in every case.
    pub(crate) async fn unblock(&self, by: &Redis, read: &Key) {
        let ids = self.link.client().connection_ids();
        let orders = async {
            for id in ids.into_values() {
                by.unblock(id, read).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(500), orders).await;
    }

    /// Makes a new connection, for one that no longer answers.
    pub(crate) async fn reconnect(&self) {
        self.link.revive().await;
    }

    pub(crate) async fn close(&self) {
        let _ = tokio::time::timeout(Duration::from_millis(500), self.link.client().quit()).await;
    }
}

/// The client's error of an error that Redis answered.
fn unless_refused(frame: Resp3Frame) -> std::result::Result<Resp3Frame, FredError> {
    match frame {
        // No value can be made of it, and why not is the error.
        Resp3Frame::SimpleError { .. } | Resp3Frame::BlobError { .. } => {
            Value::try_from(frame).and(Err(away()))
        }
        frame => Ok(frame),
    }
}

/// `[[stream, [[id, [field, value …]] …]] …]`, or nil when the block ended without an entry.
pub(super) fn entries_of<P: Part>(reply: P, streams: &[&Key]) -> Vec<RawEntry> {
    let mut entries = Vec::new();
    for reply in reply.into_list().into_iter().flatten() {
        let Some(mut parts) = reply.into_list() else {
            continue;
        };
        let (Some(list), Some(name)) = (parts.pop(), parts.pop()) else {
            continue;
        };
        let (Some(list), Some(name)) = (list.into_list(), name.into_bytes()) else {
            continue;
        };
        let Some(stream) = streams.iter().position(|key| key.0 == name) else {
            continue;
        };
        entries.reserve(list.len());
        entries.extend(
            list.into_iter()
                .filter_map(|entry| raw_entry(stream, entry)),
        );
    }
    entries
}

/// `[id, [field, value …]]`; the fields are nil when the entry was deleted while pending.
pub(crate) fn raw_entry(stream: usize, entry: impl Part) -> Option<RawEntry> {
    let mut parts = entry.into_list()?;
    let (fields, id) = (parts.pop()?, parts.pop()?);
    let fields = fields.into_list().into_iter().flatten();
    Some(RawEntry {
        stream,
        id: Str::from_inner(id.into_bytes()?).ok()?,
        fields: fields.filter_map(Part::into_bytes).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: impl IntoIterator<Item = Value>) -> Value {
        Value::Array(items.into_iter().collect())
    }

    /// The frame that such a value is made of.
    fn frame(value: Value) -> Resp3Frame {
        let attributes = None;
        match value {
            Value::Array(items) => Resp3Frame::Array {
                data: items.into_iter().map(frame).collect(),
                attributes,
            },
            Value::Null => Resp3Frame::Null,
            text => Resp3Frame::BlobString {
                data: text.into_bytes().expect("text"),
                attributes,
            },
        }
    }

    #[test]
    fn replies_of_all_shapes_are_read() {
        let (a, b) = (Key::from("a".to_owned()), Key::from("b".to_owned()));
        let deleted = list(["2-0".into(), Value::Null]);
        let whole = list(["1-0".into(), list(["name".into(), "x".into()])]);
        let reply = list([list(["b".into(), list([whole, deleted])])]);

        for entries in [
            entries_of(reply.clone(), &[&a, &b]),
            entries_of(frame(reply), &[&a, &b]),
        ] {
            let seen: Vec<_> = entries
                .iter()
                .map(|e| (e.stream, &*e.id, e.fields.len()))
                .collect();
            assert_eq!(seen, [(1, "1-0", 2), (1, "2-0", 0)]);
        }
        assert!(entries_of(Value::Null, &[&a]).is_empty());
        assert!(entries_of(Resp3Frame::Null, &[&a]).is_empty());
    }

    #[test]
    fn an_error_is_no_reply() {
        let refused = Resp3Frame::SimpleError {
            data: "NOGROUP No such key".into(),
            attributes: None,
        };
        let error = unless_refused(refused).expect_err("an error");
        assert_eq!(fault_of(&error), Fault::NoGroup);
        assert!(unless_refused(Resp3Frame::Null).is_ok());
    }
}
