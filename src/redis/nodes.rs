//! What is asked of a server, or of each node of a cluster: about the server itself, and which keys there are.

use bytes::Bytes;
use fred::interfaces::ClusterInterface;
use fred::types::{ClusterHash, Key as FredKey, Value};

use super::reply::text_of;
use super::{Patience, Redis};
use crate::error::{Error, Result};
use crate::keys::Key;

/// Keys that a step of a scan looks at.
const STEP: &str = "1000";

/// A server: the only one, or one of a cluster's that hold keys.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// A slot of its own. While slots move, another node may answer in its place.
    hash: ClusterHash,
    /// `host:port`; `None` where there is but one.
    pub(crate) name: Option<String>,
}

impl Node {
    /// Whoever holds `key`.
    pub(crate) fn of(key: &Key) -> Self {
        Self {
            hash: slot_of(key.0.clone()),
            name: None,
        }
    }
}

/// To the node that holds `key`. The client library, asked to find the key among a custom command's arguments by itself, takes the
/// first one, whichever it is.
pub(super) fn slot_of(key: Bytes) -> ClusterHash {
    ClusterHash::Custom(FredKey::from(key).cluster_hash())
}

impl Redis {
    /// The server, or the nodes of the cluster that hold keys, as far as they are known now.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        let mut nodes: Vec<Node> = Vec::new();
        if let Some(cluster) = self.inner.link.client().cached_cluster_state() {
            for range in cluster.slots() {
                let name = Some(range.primary.to_string());
                if !nodes.iter().any(|known| known.name == name) {
                    let hash = ClusterHash::Custom(range.start);
                    nodes.push(Node { hash, name });
                }
            }
        }
        if nodes.is_empty() {
            let hash = ClusterHash::Random;
            nodes.push(Node { hash, name: None });
        }
        nodes
    }

    /// [`Redis::command`], of one node.
    pub(crate) async fn command_at(
        &self,
        node: &Node,
        name: &'static str,
        args: Vec<Value>,
        patience: Patience,
    ) -> Result<Value> {
        self.command_to(node.hash.clone(), name, args, patience)
            .await
    }

    /// Walks through the keys that fit `pattern`, on every node.
    pub(crate) fn scan_all(&self, pattern: String, patience: Patience) -> Scan<'_> {
        Scan::new(self, self.nodes(), pattern, patience)
    }

    /// Walks through the keys that fit `pattern` where `key` is: those with the same hash tag.
    pub(crate) fn scan_beside(&self, key: &Key, pattern: String, patience: Patience) -> Scan<'_> {
        Scan::new(self, vec![Node::of(key)], pattern, patience)
    }
}

/// A walk through keys in short steps, which disturbs nobody. It may show a key twice.
pub(crate) struct Scan<'a> {
    redis: &'a Redis,
    patience: Patience,
    pattern: String,
    /// Those to be looked at; the present one is the last.
    nodes: Vec<Node>,
    cursor: String,
}

impl<'a> Scan<'a> {
    fn new(redis: &'a Redis, nodes: Vec<Node>, pattern: String, patience: Patience) -> Self {
        Self {
            redis,
            patience,
            pattern,
            nodes,
            cursor: "0".to_owned(),
        }
    }

    /// The keys of the next step, perhaps none; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<String>>> {
        let operation = "SCAN";
        let Some(node) = self.nodes.last() else {
            return Ok(None);
        };
        let args = [&self.cursor, "MATCH", &self.pattern, "COUNT", STEP];
        let args = args.into_iter().map(Value::from).collect();
        let page = self
            .redis
            .command_at(node, operation, args, self.patience)
            .await?;
        let text = |value: &Value| text_of(value).map(str::to_owned);
        let Value::Array(parts) = &page else {
            let reason = "a list was expected".into();
            return Err(Error::Protocol { operation, reason });
        };
        let [next, Value::Array(keys)] = parts.as_slice() else {
            let reason = "a cursor and keys were expected".into();
            return Err(Error::Protocol { operation, reason });
        };
        self.cursor = text(next).unwrap_or_default();
        if self.cursor == "0" {
            self.nodes.pop();
        }
        Ok(Some(keys.iter().filter_map(text).collect()))
    }
}
