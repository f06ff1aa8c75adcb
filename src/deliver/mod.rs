//! The handlers that the binary ships: [`forward`] sends a job over HTTP, [`command`] runs a program for it.
//!
//! Both take their settings checked, before anything is connected or started, and both say in the kept error what an
//! operator needs to see: the peer's or program's own words, cut to a bound and harmless on a terminal.

pub mod command;
pub mod forward;
mod private;
pub(crate) mod sender;

pub use command::{CommandHandler, CommandSettings};
pub use forward::{Forward, ForwardSettings};

/// `text` with its control characters escaped, except those in `kept`: a stored error is shown on terminals,
/// and what a stranger wrote must not move the cursor there.
fn escape_controls(text: &str, kept: &[char]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !kept.contains(&c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod testing {
    //! A job as a worker would hand it over.

    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use tokio_util::sync::CancellationToken;

    use crate::broker::Delivery;
    use crate::job::QueueName;
    use crate::job::codec::Codec;
    use crate::keys::Lane;
    use crate::worker::handler::{Attempt, Context};

    /// The third attempt at a raw job, with far more time than a test takes.
    pub(super) fn attempt(payload: impl Into<Bytes>) -> Attempt {
        let entry = "1700000000000-7".parse().unwrap();
        let mut delivery = Delivery::foreign(Lane::Ready, entry);
        delivery.foreign = false;
        delivery.name = "shop/orders/create".into();
        delivery.attempt = 3;
        delivery.meta.codec = Codec::Raw;
        Attempt {
            delivery: Arc::new(delivery),
            queue: QueueName::new("webhooks").unwrap(),
            payload: payload.into(),
            max_attempts: 10,
            deadline: Instant::now() + Duration::from_secs(3600),
            cancel: CancellationToken::new(),
            result: Default::default(),
            journal: Default::default(),
            scribe: crate::worker::journal::scribe().0,
            handed_out: Default::default(),
        }
    }

    pub(super) fn context(attempt: Attempt) -> Context {
        Context {
            inner: Arc::new(attempt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::escape_controls;

    #[test]
    fn control_characters_are_escaped_unless_kept() {
        assert_eq!(
            escape_controls("a\u{1b}[2J\nü\u{9b}\t", &['\n']),
            "a\\u{1b}[2J\nü\\u{9b}\\t"
        );
    }
}
