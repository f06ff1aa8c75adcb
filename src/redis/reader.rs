//! A connection of its own for blocking reads: other commands on it would wait for the whole block.
//!
//! The future of a read is never dropped before it ends: what Redis delivers after that would be pending, unseen.

use std::time::Duration;

use bytes::Bytes;
use fred::bytes_utils::Str;
use fred::error::Error as FredError;
use fred::interfaces::{ClientInterface, ClientLike};
use fred::types::config::Options;
use fred::types::{CustomCommand, Resp3Frame, Value};
use futures_util::future::join_all;

use super::direct::{Answer, Direct, Frame, Lying, Pipe, encode};
use super::link::Link;
use super::reply::Part;
use super::{Fault, Redis, away, fault_of, slot_of};
use crate::error::Result;
use crate::keys::{GROUP, Key};
use crate::metrics::handles::Calls;

/// One entry as it was delivered.
pub(crate) struct RawEntry {
    /// Place of its stream among the keys that were read.
    pub(crate) stream: usize,
    pub(crate) id: Str,
    pub(crate) fields: Fields,
}

impl RawEntry {
    /// The value behind `name`, if it is there and text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        let fields = self.fields.all();
        let mut pairs = fields.chunks_exact(2);
        let pair = pairs.find(|pair| pair[0] == name.as_bytes())?;
        std::str::from_utf8(pair[1]).ok()
    }
}

/// Names and values of an entry in turn, in stream order; none when it was deleted while pending.
pub(crate) enum Fields {
    /// As they lie in the reply.
    Lying(Lying),
    /// As the client library took them apart.
    Apart(Vec<Bytes>),
}

impl Fields {
    /// All of them.
    pub(crate) fn all(&self) -> Vec<&[u8]> {
        match self {
            Self::Lying(lying) => lying.iter().collect(),
            Self::Apart(fields) => fields.iter().map(|field| &field[..]).collect(),
        }
    }

    /// All of them, if they are so many.
    pub(crate) fn exactly<const N: usize>(&self) -> Option<[&[u8]; N]> {
        let mut found = [&[][..]; N];
        let count = match self {
            Self::Lying(lying) => lying.count(),
            Self::Apart(fields) => fields.len(),
        };
        if count != N {
            return None;
        }
        match self {
            Self::Lying(lying) => found
                .iter_mut()
                .zip(lying.iter())
                .for_each(|(to, of)| *to = of),
            Self::Apart(fields) => found.iter_mut().zip(fields).for_each(|(to, of)| *to = of),
        }
        Some(found)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.exactly::<0>().is_some()
    }

    /// `field`, which is one of them, without a copy.
    pub(crate) fn keep(&self, field: &[u8]) -> Bytes {
        match self {
            Self::Lying(lying) => lying.keep(field),
            Self::Apart(fields) => {
                let kept = fields.iter().find(|of| of.as_ptr() == field.as_ptr());
                kept.cloned().unwrap_or_default()
            }
        }
    }

    /// About how many bytes they are together.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Lying(lying) => lying.weight(),
            Self::Apart(fields) => fields.iter().map(Bytes::len).sum(),
        }
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
    way: Way,
    counted: Calls,
}

/// How reads get there.
enum Way {
    /// By a connection of our own, to wherever that of the commands leads.
    Direct(Direct, Redis),
    /// By one of the client library's.
    Library(Link),
}

/// One command that reads streams.
struct Ask<'a> {
    /// Whom entries are delivered to; nobody, if they are only looked at.
    consumer: Option<&'a str>,
    count: usize,
    /// How long it waits for the first entry; `None`: not at all.
    block: Option<Duration>,
    streams: &'a [&'a Key],
    /// Behind which entry of each stream; the last one holds for those that follow.
    after: &'a [&'a str],
}

impl<'a> Ask<'a> {
    /// For new entries, without waiting for any.
    fn of(consumer: &'a str, streams: &'a [&'a Key], count: usize) -> Self {
        Self {
            consumer: Some(consumer),
            count,
            block: None,
            streams,
            after: &[">"],
        }
    }

    fn block_ms(&self) -> Option<i64> {
        // Zero would mean for ever, and a fraction is an error.
        let ms = |block: Duration| i64::try_from(block.as_millis()).unwrap_or(5_000);
        self.block.map(|block| ms(block).clamp(1, 5_000))
    }

    /// How long the answer is waited for.
    fn patience(&self) -> Duration {
        self.block.unwrap_or_default() + Duration::from_secs(2)
    }

    fn name(&self) -> &'static str {
        match self.consumer {
            Some(_) => "XREADGROUP",
            None => "XREAD",
        }
    }

    fn after(&self, stream: usize) -> &str {
        let last = self.after.len().saturating_sub(1);
        self.after.get(stream.min(last)).unwrap_or(&"$")
    }

    /// What follows the name, in order.
    fn words(&self) -> Vec<Value> {
        let mut words: Vec<Value> = Vec::with_capacity(8 + 2 * self.streams.len());
        let word = Value::from_static_str;
        if let Some(consumer) = self.consumer {
            words.extend([word("GROUP"), word(GROUP), consumer.into()]);
        }
        words.extend([word("COUNT"), Value::Integer(self.count as i64)]);
        if let Some(block_ms) = self.block_ms() {
            words.extend([word("BLOCK"), Value::Integer(block_ms)]);
        }
        words.push(word("STREAMS"));
        let keys = self.streams.iter().map(|key| Value::Bytes(key.0.clone()));
        words.extend(keys);
        words.extend((0..self.streams.len()).map(|stream| Value::from(self.after(stream))));
        words
    }

    fn stream_of(&self, name: &[u8]) -> Option<usize> {
        self.streams.iter().position(|key| key.0 == name)
    }
}

impl Reader {
    /// A connection to where `redis` is connected.
    pub(crate) async fn connect(redis: &Redis, timeout: Duration) -> Result<Self> {
        let counted = Calls::new();
        let way = match Direct::to(redis.address(), &counted) {
            Some(direct) => Way::Direct(direct, redis.clone()),
            None => {
                let link = Link::connect(redis.address(), Duration::ZERO, timeout, &counted);
                Way::Library(link.await?)
            }
        };
        Ok(Self { way, counted })
    }

    /// Reads up to `count` new entries from each of `streams`, waiting up to `block` for the first.
    pub(crate) async fn read(
        &self,
        streams: &[&Key],
        consumer: &str,
        count: usize,
        block: Duration,
    ) -> std::result::Result<Vec<RawEntry>, ReadFailure> {
        let ask = Ask {
            block: Some(block),
            ..Ask::of(consumer, streams, count)
        };
        self.ask_one(&ask).await
    }

    /// Reads up to so many new entries from each of `lanes`, with a command each, one written behind the other, and does not
    /// wait for any. When one of them fails, what the others brought is pending, unseen, as after a lost connection.
    pub(crate) async fn read_now(
        &self,
        lanes: &[(&Key, usize)],
        consumer: &str,
    ) -> std::result::Result<Vec<RawEntry>, ReadFailure> {
        let asks = asks_of(lanes, consumer);
        let asked = self.ask(&asks).await?;
        let mut all = Vec::new();
        for (place, mut entries) in asked.into_iter().enumerate() {
            entries.iter_mut().for_each(|entry| entry.stream = place);
            // The usual case, without a copy: only one lane has any.
            match all.is_empty() {
                true => all = entries,
                false => all.extend(entries),
            }
        }
        Ok(all)
    }

    /// [`Reader::read_now`] in two steps: the commands go out now, and [`Reader::sent`] takes the answers. Whoever begins has to go on, for
    /// what the answers bring is delivered. `None`: there is no connection for that at the moment.
    pub(crate) fn send_now(&self, lanes: &[(&Key, usize)], consumer: &str) -> Option<Sent> {
        let Way::Direct(direct, redis) = &self.way else {
            return None;
        };
        let pipe = direct.live(&redis.inner.link)?;
        let asks = asks_of(lanes, consumer);
        // What went out before one failed is answered with an error, as the connection is closed.
        let answers = self.write(&pipe, &asks).ok()?;
        let patience = asks.first().map(Ask::patience).unwrap_or_default();
        Some(Sent { answers, patience })
    }

    /// What the commands of [`Reader::send_now`] were answered.
    pub(crate) async fn sent(&self, sent: Sent) -> std::result::Result<Came, ReadFailure> {
        let Sent { answers, patience } = sent;
        let mut frames = Vec::with_capacity(answers.len());
        for answer in answers {
            let frame = answer.within(patience).await;
            frames.push(frame.map_err(|error| self.failed(&error))?);
        }
        Ok(Came(frames))
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
        let streams = [stream];
        let ask = Ask {
            after: &[after],
            ..Ask::of(consumer, &streams, count)
        };
        self.ask_one(&ask).await
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

    async fn entries_behind(
        &self,
        streams: &[&Key],
        after: &[String],
        block: Duration,
        count: usize,
    ) -> std::result::Result<Vec<RawEntry>, ReadFailure> {
        let after: Vec<&str> = after.iter().map(String::as_str).collect();
        let ask = Ask {
            consumer: None,
            count,
            block: Some(block),
            streams,
            after: &after,
        };
        self.ask_one(&ask).await
    }

    async fn ask_one(&self, ask: &Ask<'_>) -> std::result::Result<Vec<RawEntry>, ReadFailure> {
        let asked = self.ask(std::slice::from_ref(ask)).await?;
        Ok(asked.into_iter().flatten().collect())
    }

    /// Sends the commands one behind the other; the entries that each of them brought.
    async fn ask(&self, asks: &[Ask<'_>]) -> std::result::Result<Vec<Vec<RawEntry>>, ReadFailure> {
        let asked = match &self.way {
            Way::Direct(direct, redis) => self.ask_directly(direct, redis, asks).await,
            Way::Library(link) => {
                let asked = asks.iter().map(|ask| self.ask_through(link, ask));
                join_all(asked).await.into_iter().collect()
            }
        };
        asked.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &FredError) -> ReadFailure {
        if let Way::Direct(_, redis) = &self.way {
            redis.heed(error);
        }
        let fault = fault_of(error);
        self.counted.failed(fault.name());
        match fault {
            Fault::NoGroup => ReadFailure::NoGroup,
            _ => ReadFailure::Lost(error.details().to_owned()),
        }
    }

    /// Writes the commands, one behind the other.
    fn write(&self, pipe: &Pipe, asks: &[Ask<'_>]) -> std::result::Result<Vec<Answer>, FredError> {
        let mut writing = pipe.write();
        let write = |ask: &Ask<'_>| {
            self.counted.sent();
            writing.command(|out| encode(out, &[ask.name()], &[], &ask.words()))
        };
        asks.iter().map(write).collect()
    }

    async fn ask_directly(
        &self,
        direct: &Direct,
        redis: &Redis,
        asks: &[Ask<'_>],
    ) -> std::result::Result<Vec<Vec<RawEntry>>, FredError> {
        let pipe = redis.pipe_of(direct).await?;
        let answers = self.write(&pipe, asks)?;
        let mut asked = Vec::with_capacity(asks.len());
        for (ask, answer) in asks.iter().zip(answers) {
            let frame = answer.within(ask.patience()).await?;
            asked.push(frame.entries(|name| ask.stream_of(name)));
        }
        Ok(asked)
    }

    async fn ask_through(
        &self,
        link: &Link,
        ask: &Ask<'_>,
    ) -> std::result::Result<Vec<RawEntry>, FredError> {
        let options = Options {
            timeout: Some(ask.patience()),
            max_attempts: Some(1),
            ..Options::default()
        };
        let first = ask.streams.first().map(|key| key.0.clone());
        let node = slot_of(first.unwrap_or_default());
        let command = CustomCommand::new_static(ask.name(), node, ask.block.is_some());
        if !link.is_connected() {
            return Err(away());
        }
        let client = link.client();
        self.counted.sent();
        // As it came: to make values of it takes the client a sixth of the time of a worker's thread.
        let frame = client
            .with_options(&options)
            .custom_raw(command, ask.words())
            .await
            .and_then(unless_refused)?;
        Ok(entries_of(frame, ask.streams))
    }

    /// Ends a read that is blocked, so that it returns what it has; `by` sends the order. Returns quickly in every case.
    pub(crate) async fn unblock(&self, by: &Redis, read: &Key) {
        let ids: Vec<i64> = match &self.way {
            Way::Direct(direct, _) => direct.open().and_then(|pipe| pipe.id).into_iter().collect(),
            Way::Library(link) => link.client().connection_ids().into_values().collect(),
        };
        let orders = async {
            for id in ids {
                by.unblock(id, read).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(500), orders).await;
    }

    /// Makes a new connection, for one that no longer answers.
    pub(crate) async fn reconnect(&self) {
        match &self.way {
            Way::Direct(direct, _) => direct.cut(),
            Way::Library(link) => link.revive().await,
        }
    }

    pub(crate) async fn close(&self) {
        match &self.way {
            Way::Direct(direct, _) => direct.cut(),
            Way::Library(link) => {
                let _ =
                    tokio::time::timeout(Duration::from_millis(500), link.client().quit()).await;
            }
        }
    }
}

/// Reads that are on their way.
pub(crate) struct Sent {
    answers: Vec<Answer>,
    patience: Duration,
}

/// Their answers: of each lane what it had.
pub(crate) struct Came(Vec<Frame>);

impl Came {
    /// How many entries each lane had, without a look at them.
    pub(crate) fn counts<const LANES: usize>(&self) -> [usize; LANES] {
        let mut counts = [0; LANES];
        let frames = counts.iter_mut().zip(&self.0);
        frames.for_each(|(count, frame)| *count = frame.count_entries());
        counts
    }

    pub(crate) fn entries(&self) -> Vec<RawEntry> {
        let frames = self.0.iter().enumerate();
        frames
            .flat_map(|(place, frame)| frame.entries(|_| Some(place)))
            .collect()
    }
}

fn asks_of<'a>(lanes: &'a [(&'a Key, usize)], consumer: &'a str) -> Vec<Ask<'a>> {
    lanes
        .iter()
        .map(|(key, count)| Ask::of(consumer, std::slice::from_ref(key), *count))
        .collect()
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
        fields: Fields::Apart(fields.filter_map(Part::into_bytes).collect()),
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
                .map(|e| (e.stream, &*e.id, e.fields.all().len()))
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
