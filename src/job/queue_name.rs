//! The name of a queue.

use std::fmt;
use std::sync::Arc;

use crate::config;
use crate::error::{Error, Result};

/// A queue's name, checked: 1 to 200 bytes, no braces, slash, white space, control or glob characters.
///
/// Braces would break the cluster hash tag, a slash is kept for partitions, and the rest keeps `redis-cli --scan` usable.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct QueueName(Arc<str>);

impl QueueName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`Error::Setting`] names the character that is not allowed.
    pub fn new(name: &str) -> Result<Self> {
        let refuse = |reason: String| Err(Error::setting("queue", name.escape_debug(), reason));
        if name.is_empty() || name.len() > config::QUEUE_NAME_BYTES_MAX {
            return refuse(format!(
                "a queue name has 1 to {} bytes",
                config::QUEUE_NAME_BYTES_MAX
            ));
        }
        if let Some(bad) = name
            .chars()
            .find(|c| c.is_control() || c.is_whitespace() || "{}/*?[]\\^\"'".contains(*c))
        {
            return refuse(format!(
                "{bad:?} is not allowed in a queue name; use letters, digits, '-', '_', '.' and ':'"
            ));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_name_with_braces_slash_or_control_characters_is_refused() {
        for bad in [
            "",
            "a{b",
            "a}b",
            "a/b",
            "a b",
            "a\nb",
            "a*",
            &"x".repeat(201),
        ] {
            assert!(
                matches!(QueueName::new(bad), Err(Error::Setting { .. })),
                "{bad:?} was accepted"
            );
        }
        assert!(QueueName::new("shop-42:orders.v2_ü").is_ok());
    }
}
