//! The protocol of Redis (RESP2): commands as they are written, replies as they came.
//!
//! A reply is searched for its end once and kept as one piece; what is wanted of it is read where it lies.
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>

use std::io;
use std::ops::Range;

use bytes::Bytes;
use fred::bytes_utils::Str;
use fred::error::{Error as FredError, ErrorKind};
use fred::types::{Key, Value};

use crate::redis::reader::{Fields, RawEntry};

/// Writes a command: its words, then keys and values, of which texts, bytes and whole numbers are known.
pub(in crate::redis) fn encode(out: &mut Vec<u8>, words: &[&str], keys: &[Key], values: &[Value]) {
    head(out, b'*', words.len() + keys.len() + values.len());
    words.iter().for_each(|word| bulk(out, word.as_bytes()));
    keys.iter().for_each(|key| bulk(out, key.as_bytes()));
    for value in values {
        match value {
            Value::Bytes(bytes) => bulk(out, bytes),
            Value::String(text) => bulk(out, text.as_bytes()),
            Value::Integer(number) => integer(out, *number),
            other => {
                debug_assert!(false, "a {:?} is no argument", other.kind());
                bulk(out, b"");
            }
        }
    }
}

/// Writes the first line of a list or a string: how long it is.
fn head(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    digits(out, length);
    out.extend_from_slice(b"\r\n");
}

/// Writes a string.
fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    head(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Writes a number, as a string of digits.
fn integer(out: &mut Vec<u8>, number: i64) {
    let mut text = [0; 20];
    let start = decimal(&mut text, number.unsigned_abs());
    let sign = usize::from(number < 0);
    head(out, b'$', text.len() - start + sign);
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&text[start..]);
    out.extend_from_slice(b"\r\n");
}

fn digits(out: &mut Vec<u8>, number: usize) {
    let mut text = [0; 20];
    let start = decimal(&mut text, number as u64);
    out.extend_from_slice(&text[start..]);
}

/// Writes the digits of `number` to the end of `text`, and says where they begin. Twenty are enough for any.
fn decimal(text: &mut [u8; 20], mut number: u64) -> usize {
    let mut start = text.len();
    loop {
        start -= 1;
        text[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return start;
        }
    }
}

/// Lists within lists of a reply that are read. What a script answers has five at most; a reply with thousands is none of Redis's, and
/// reading it is no reason to run out of stack.
const LEVELS_MAX: usize = 32;

/// Looks for the end of a reply, and goes on where it stood when more has come.
pub(super) struct Scan {
    /// Everything before it has been looked at. May lie behind the end of what has come.
    at: usize,
    /// Replies and parts of replies that have yet to come.
    open: usize,
}

impl Default for Scan {
    fn default() -> Self {
        Self { at: 0, open: 1 }
    }
}

impl Scan {
    /// The length of the reply that `bytes` begins with, if all of it is there. The next call is about the bytes behind it.
    pub(super) fn complete(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        while self.open > 0 {
            let Some((line, next)) = line(bytes, self.at) else {
                return Ok(None);
            };
            let (kind, text) = (bytes[self.at], &bytes[line]);
            self.open -= 1;
            self.at = next;
            match kind {
                b'+' | b'-' | b':' => {}
                b'$' => {
                    if let Some(length) = length(text)? {
                        self.at += length + 2;
                    }
                }
                b'*' => self.open += length(text)?.unwrap_or(0),
                _ => return Err(no_reply()),
            }
        }
        if bytes.len() < self.at {
            return Ok(None);
        }
        let Self { at, .. } = std::mem::take(self);
        Ok(Some(at))
    }

    /// Bytes behind the first `have` that are known to be missing.
    pub(super) fn missing(&self, have: usize) -> usize {
        self.at.saturating_sub(have)
    }
}

/// The line that begins with the byte after `at`, without its end, and where the next one begins.
fn line(bytes: &[u8], at: usize) -> Option<(Range<usize>, usize)> {
    let rest = bytes.get(at + 1..)?;
    let end = at + 1 + rest.iter().position(|byte| *byte == b'\r')?;
    // The line feed is there as well.
    (end + 1 < bytes.len()).then_some((at + 1..end, end + 2))
}

/// A length; `None` for that of nothing.
fn length(text: &[u8]) -> io::Result<Option<usize>> {
    if text == b"-1" {
        return Ok(None);
    }
    let length = parse(text).ok_or_else(no_reply)?;
    // Twice what Redis allows in a string by default; whatever is more is no reply.
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length < 1 << 30);
    length.map(Some).ok_or_else(no_reply)
}

fn parse(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn no_reply() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what came is no reply of redis")
}

/// One reply, whole, as it came.
#[derive(Debug)]
pub(in crate::redis) struct Frame(Bytes);

impl Frame {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The client library's error of an error that Redis answered.
    pub(super) fn unless_refused(self) -> Result<Self, FredError> {
        match self.0.first() {
            Some(b'-') => {
                let text = String::from_utf8_lossy(self.0[1..].trim_ascii_end()).into_owned();
                Err(FredError::new(ErrorKind::Unknown, text))
            }
            _ => Ok(self),
        }
    }

    pub(super) fn number(&self) -> Option<i64> {
        match self.value() {
            Value::Integer(number) => Some(number),
            _ => None,
        }
    }

    /// The reply as one of the client library's values.
    pub(in crate::redis) fn value(&self) -> Value {
        Cursor::of(self).value(LEVELS_MAX)
    }

    /// How many entries of its first stream such a reply has, without a look at them.
    pub(in crate::redis) fn count_entries(&self) -> usize {
        let mut cursor = Cursor::of(self);
        match cursor.list() {
            0 => 0,
            _ => {
                cursor.list();
                cursor.range();
                cursor.list()
            }
        }
    }

    /// `[[stream, [[id, [field, value …]] …]] …]`, or nothing when a read ended without an entry. `stream_of` says which of the
    /// streams that were read has that name.
    pub(in crate::redis) fn entries(
        &self,
        stream_of: impl Fn(&[u8]) -> Option<usize>,
    ) -> Vec<RawEntry> {
        let mut cursor = Cursor::of(self);
        let mut all = Vec::new();
        for _ in 0..cursor.list() {
            cursor.list();
            let stream = stream_of(cursor.string());
            let entries = cursor.list();
            all.reserve(entries);
            for _ in 0..entries {
                cursor.list();
                let id = cursor.bytes();
                let fields = cursor.lying();
                if let (Some(stream), Ok(id)) = (stream, Str::from_inner(id)) {
                    let fields = Fields::Lying(fields);
                    all.push(RawEntry { stream, id, fields });
                }
            }
        }
        all
    }
}

/// A list of strings, or nothing, as it lies in a reply.
pub(crate) struct Lying(Bytes);

impl Lying {
    pub(in crate::redis) fn count(&self) -> usize {
        Cursor::within(&self.0).list()
    }

    pub(in crate::redis) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut cursor = Cursor::within(&self.0);
        (0..cursor.list()).map(move |_| cursor.string())
    }

    /// `string`, which is one of them, without a copy.
    pub(in crate::redis) fn keep(&self, string: &[u8]) -> Bytes {
        self.0.slice_ref(string)
    }

    /// What they take in the reply, bytes.
    pub(in crate::redis) fn weight(&self) -> usize {
        self.0.len()
    }
}

/// A place in a reply. The reply is whole, so there is nothing to run into; what is asked for and is not there is empty.
struct Cursor<'a> {
    frame: &'a Bytes,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn of(Frame(frame): &'a Frame) -> Self {
        Self::within(frame)
    }

    fn within(frame: &'a Bytes) -> Self {
        Self { frame, at: 0 }
    }

    /// The next line: its kind, and the rest of it.
    fn line(&mut self) -> (u8, Range<usize>) {
        let kind = self.frame.get(self.at).copied().unwrap_or_default();
        let (text, next) = line(self.frame, self.at).unwrap_or((0..0, self.frame.len()));
        self.at = next;
        (kind, text)
    }

    fn length(&self, text: Range<usize>) -> Option<usize> {
        length(&self.frame[text]).ok().flatten()
    }

    /// How many parts the list has that comes next.
    fn list(&mut self) -> usize {
        match self.line() {
            (b'*', text) => self.length(text).unwrap_or(0),
            _ => 0,
        }
    }

    /// Where the string is that comes next.
    fn range(&mut self) -> Range<usize> {
        match self.line() {
            (b'$', text) => self.string_of(text).unwrap_or(0..0),
            (_, text) => text,
        }
    }

    fn string_of(&mut self, length: Range<usize>) -> Option<Range<usize>> {
        let end = self.at + self.length(length)?;
        let range = self.at..end.min(self.frame.len());
        self.at = end + 2;
        Some(range)
    }

    fn string(&mut self) -> &'a [u8] {
        let range = self.range();
        &self.frame[range]
    }

    /// The same, without a copy.
    fn bytes(&mut self) -> Bytes {
        let range = self.range();
        self.frame.slice(range)
    }

    /// The list of strings that comes next, to be read later.
    fn lying(&mut self) -> Lying {
        let begin = self.at;
        for _ in 0..self.list() {
            self.range();
        }
        Lying(self.frame.slice(begin..self.at))
    }

    /// The value that comes next, of so many levels; nothing below them.
    fn value(&mut self, levels: usize) -> Value {
        if levels == 0 {
            return Value::Null;
        }
        let (kind, text) = self.line();
        match kind {
            b':' => parse(&self.frame[text]).map_or(Value::Null, Value::Integer),
            b'$' => self
                .string_of(text)
                .map_or(Value::Null, |range| Value::Bytes(self.frame.slice(range))),
            b'*' => match self.length(text) {
                Some(length) => Value::Array((0..length).map(|_| self.value(levels - 1)).collect()),
                None => Value::Null,
            },
            _ => Value::Bytes(self.frame.slice(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Add as _;

    use proptest::prelude::*;

    use super::*;
    use crate::keys::Key as StreamKey;
    use crate::redis::reader::entries_of;

    fn whole(bytes: &[u8]) -> Frame {
        let end = Scan::default().complete(bytes).expect("a reply");
        assert_eq!(end, Some(bytes.len()));
        Frame::new(Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn a_command_is_a_list_of_strings() {
        let mut out = Vec::new();
        let values = [
            Value::Bytes(Bytes::from_static(b"a\r\nb")),
            Value::from_static_str("c"),
            Value::Integer(-40),
        ];
        encode(&mut out, &["EVAL", "return 1"], &["k".into()], &values);
        let expected = "*6\r\n$4\r\nEVAL\r\n$8\r\nreturn 1\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n$1\r\nc\r\n$3\r\n-40\r\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn replies_of_all_kinds_are_read() {
        for (reply, value) in [
            ("+OK\r\n", Value::Bytes("OK".into())),
            (":-7\r\n", Value::Integer(-7)),
            ("$-1\r\n", Value::Null),
            ("*-1\r\n", Value::Null),
            ("$0\r\n\r\n", Value::Bytes(Bytes::new())),
            ("*0\r\n", Value::Array(Vec::new())),
            (
                "*3\r\n*1\r\n:1\r\n$2\r\n\r\n\r\n-no\r\n",
                Value::Array(vec![
                    Value::Array(vec![Value::Integer(1)]),
                    Value::Bytes("\r\n".into()),
                    Value::Bytes("no".into()),
                ]),
            ),
        ] {
            assert_eq!(whole(reply.as_bytes()).value(), value, "{reply:?}");
        }
    }

    #[test]
    fn an_error_is_no_reply() {
        let error = whole(b"-NOGROUP No such key\r\n").unless_refused();
        let error = error.expect_err("refused");
        assert_eq!(error.details(), "NOGROUP No such key");
        assert!(whole(b"*1\r\n-inside\r\n").unless_refused().is_ok());
    }

    #[test]
    fn what_is_no_reply_is_told_and_not_waited_for() {
        for bytes in ["HTTP/1.1 400\r\n", "$x\r\n", "$-2\r\n", "*99999999999\r\n"] {
            let told = Scan::default().complete(bytes.as_bytes());
            assert!(told.is_err(), "{bytes:?}: {told:?}");
        }
    }

    #[test]
    fn lists_without_end_within_lists_are_no_way_to_end_the_process() {
        let mut value = whole("*1\r\n".repeat(100_000).add(":1\r\n").as_bytes()).value();
        let mut levels = 0;
        while let Value::Array(mut inner) = value {
            value = inner.pop().expect("one");
            levels += 1;
        }
        assert_eq!((levels, value), (LEVELS_MAX, Value::Null));
    }

    #[test]
    fn it_is_known_how_much_of_a_long_string_is_missing() {
        let mut scan = Scan::default();
        let begun = b"$1000\r\nabc";
        assert_eq!(scan.complete(begun).expect("a reply"), None);
        assert_eq!(scan.missing(begun.len()), 1_000 - 3 + 2);
    }

    /// The fields of an entry; none of a deleted one.
    type Entry = Option<Vec<Vec<u8>>>;

    /// What a read may answer: entries with any fields, deleted ones among them.
    fn streams() -> impl Strategy<Value = Vec<(usize, Vec<Entry>)>> {
        let fields = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..9);
        let entries = prop::collection::vec(prop::option::weighted(0.9, fields), 0..5);
        prop::collection::vec((0..3_usize, entries), 0..3)
    }

    fn reply(streams: &[(usize, Vec<Entry>)]) -> Vec<u8> {
        let mut out = Vec::new();
        head(&mut out, b'*', streams.len());
        for (stream, entries) in streams {
            head(&mut out, b'*', 2);
            bulk(&mut out, format!("stream-{stream}").as_bytes());
            head(&mut out, b'*', entries.len());
            for (number, fields) in entries.iter().enumerate() {
                head(&mut out, b'*', 2);
                bulk(&mut out, format!("{number}-0").as_bytes());
                match fields {
                    Some(fields) => {
                        head(&mut out, b'*', fields.len());
                        fields.iter().for_each(|field| bulk(&mut out, field));
                    }
                    None => out.extend_from_slice(b"*-1\r\n"),
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn numbers_are_written_as_rust_writes_them(number: i64) {
            let mut out = Vec::new();
            integer(&mut out, number);
            let text = number.to_string();
            prop_assert_eq!(out, format!("${}\r\n{text}\r\n", text.len()).into_bytes());
        }

        /// However a reply is cut into pieces, and whatever comes behind it, it ends where it ends.
        #[test]
        fn a_reply_ends_at_the_same_place_however_it_comes(streams in streams(), pieces in prop::collection::vec(1..60_usize, 1..40)) {
            let mut bytes = reply(&streams);
            let length = bytes.len();
            bytes.extend_from_slice(b":1\r\n");
            let mut scan = Scan::default();
            let mut have = 0;
            let mut pieces = pieces.iter().cycle();
            let end = loop {
                if let Some(end) = scan.complete(&bytes[..have]).expect("a reply") {
                    break end;
                }
                prop_assert!(have < bytes.len(), "all of it is there");
                have = bytes.len().min(have + pieces.next().expect("a cycle"));
            };
            prop_assert_eq!(end, length);
            prop_assert_eq!(scan.complete(&bytes[end..]).expect("a reply"), Some(4));
        }

        /// Read where they lie, entries are what they are when values are made of the reply first.
        #[test]
        fn entries_are_the_same_by_either_way(streams in streams()) {
            // One of the three is none of those that were read.
            let keys = ["stream-0", "stream-2"].map(|key| StreamKey::from(key.to_owned()));
            let frame = whole(&reply(&streams));
            let stream_of = |name: &[u8]| keys.iter().position(|key| key.0 == name);
            let seen = |entries: Vec<RawEntry>| -> Vec<_> {
                let all = |fields: &Fields| fields.all().into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>();
                entries.into_iter().map(|e| (e.stream, e.id.clone(), all(&e.fields))).collect()
            };
            let direct = seen(frame.entries(stream_of));
            prop_assert_eq!(direct, seen(entries_of(frame.value(), &[&keys[0], &keys[1]])));
        }

        /// Whatever comes, nothing panics, and a reply is never longer than what there is.
        #[test]
        fn anything_may_come(bytes in prop::collection::vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..60)) {
            if let Ok(Some(end)) = Scan::default().complete(&bytes) {
                prop_assert!(end <= bytes.len());
                let frame = Frame::new(Bytes::copy_from_slice(&bytes[..end]));
                frame.value();
                frame.entries(|_| Some(0));
            }
        }
    }
}
