//! Calls to scripts, whose keys and arguments are checked by name in debug builds.

use bytes::Bytes;
use fred::types::{Key as FredKey, Value};

use super::Script;
use crate::keys::Key;
use crate::redis::direct::encode;
use crate::redis::reply::text_of;

/// A call in the making: keys and arguments in the order of the script's header.
pub(crate) struct Call {
    pub(in crate::redis) script: &'static Script,
    pub(in crate::redis) keys: Vec<FredKey>,
    pub(in crate::redis) args: Vec<Value>,
}

impl Call {
    pub(crate) fn new(script: &'static Script) -> Self {
        Self {
            script,
            keys: Vec::with_capacity(8),
            args: Vec::with_capacity(8),
        }
    }

    /// Makes room for `more` further arguments.
    pub(crate) fn reserve(mut self, more: usize) -> Self {
        self.args.reserve(more);
        self
    }

    pub(crate) fn key(mut self, name: &str, key: &Key) -> Self {
        self.push_key(name, key);
        self
    }

    /// Several at once.
    pub(crate) fn keys<const N: usize>(mut self, keys: [(&str, &Key); N]) -> Self {
        for (name, key) in keys {
            self.push_key(name, key);
        }
        self
    }

    pub(crate) fn push_key(&mut self, name: &str, key: &Key) {
        debug_assert!(
            self.script.header().keys.is(self.keys.len(), name),
            "{}: key {name}",
            self.script.name
        );
        self.keys.push(FredKey::from(key.0.clone()));
    }

    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        self.bytes(name, Bytes::copy_from_slice(value.as_bytes()))
    }

    pub(crate) fn bytes(mut self, name: &str, value: Bytes) -> Self {
        self.push(name, value);
        self
    }

    pub(crate) fn number(mut self, name: &str, value: i64) -> Self {
        debug_assert!(
            self.script.header().args.is(self.args.len(), name),
            "{}: argument {name}",
            self.script.name
        );
        self.args.push(Value::Integer(value));
        self
    }

    /// The place that the next argument gets.
    pub(crate) fn place(&self) -> usize {
        self.args.len()
    }

    /// Puts a number where another argument was.
    pub(crate) fn set_number(&mut self, place: usize, value: i64) {
        self.args[place] = Value::Integer(value);
    }

    /// Puts something else where another argument was.
    pub(crate) fn set(&mut self, place: usize, value: Bytes) {
        self.args[place] = Value::Bytes(value);
    }

    /// Puts an argument in front of the one at `place`, which is one of those at the end that are as many as one likes.
    pub(crate) fn insert(&mut self, place: usize, value: Bytes) {
        self.args.insert(place, Value::Bytes(value));
    }

    pub(crate) fn push(&mut self, name: &str, value: Bytes) {
        debug_assert!(
            self.script.header().args.is(self.args.len(), name),
            "{}: argument {name}",
            self.script.name
        );
        self.args.push(Value::Bytes(value));
    }

    /// Writes the command that runs the script, by its digest or by its text.
    pub(in crate::redis) fn encode(&self, by_text: bool, out: &mut Vec<u8>) {
        let Self { script, keys, args } = self;
        let run = match by_text {
            true => ["EVAL", script.source],
            false => ["EVALSHA", script.sha()],
        };
        let count = keys.len().to_string();
        encode(out, &[run[0], run[1], &count], keys, args);
    }

    /// True when every key and argument that the header names has been given.
    pub(in crate::redis) fn is_whole(&self) -> bool {
        let header = self.script.header();
        self.keys.len() >= header.keys.fixed() && self.args.len() >= header.args.fixed()
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys: Vec<_> = self
            .keys
            .iter()
            .map(|key| text_of(&Value::from(key.clone())).unwrap_or("?").to_owned())
            .collect();
        write!(
            f,
            "{}({keys:?}, {} arguments)",
            self.script.name,
            self.args.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::script::EXTEND;

    #[test]
    fn a_call_knows_when_it_is_whole() {
        assert!(!Call::new(&EXTEND).is_whole());
    }
}
